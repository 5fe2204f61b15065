//! The attempts at a task, as the workers that made them have written them down in its logs.

use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::log::{LogLine, Stream};
use bistro_common::status::TaskStatus;

use super::Client;
use super::logs::{Line, Query};

/// Lines that are read at most; an attempt has about three.
const LINES: u32 = 200;
/// The lines that workers write themselves, rather than tasks. That a task failed to start is said by
/// its status, too.
const OURS: &str = r#""event":"(running|process_exited|got_status)""#;

/// A task, and how far it was when its attempts were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Of {
    pub job: String,
    pub node: String,
    pub attempt_no: u32,
    pub state: TaskState,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    pub attempt_no: u32,
    pub attempt: Option<AttemptId>,
    pub worker: String,
    /// Absent if that is too long ago to be in the logs still.
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
    /// Its status, its exit, or both; empty while it runs.
    pub end: String,
}

/// Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempts {
    pub attempts: Vec<Attempt>,
    /// Why some may be missing.
    pub problems: Vec<String>,
}

impl Client {
    pub async fn attempts(&self, job: &str, node: &str) -> anyhow::Result<Attempts> {
        let query = Query {
            streams: vec![Stream::Statuses],
            job: Some(job.to_owned()),
            node: Some(node.to_owned()),
            regex: Some(OURS.to_owned()),
            ..Query::default()
        };
        let tail = self.tail_logs(&query, LINES).await?;
        Ok(Attempts { attempts: of_lines(&tail.lines), problems: tail.problems })
    }
}

fn of_lines(lines: &[Line]) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut places: HashMap<(&str, u32, String), usize> = HashMap::new();
    for Line { worker, line } in lines {
        let Ok(event) = serde_json::from_str::<Value>(&line.text) else { continue };
        if !event["event"].is_string() {
            continue;
        }
        let id = event["attempt"].as_str().unwrap_or_default().to_owned();
        let place = *places.entry((worker, line.attempt_no, id.clone())).or_insert_with(|| {
            attempts.push(Attempt {
                attempt_no: line.attempt_no,
                attempt: id.parse().ok(),
                worker: worker.clone(),
                started_ms: None,
                ended_ms: None,
                end: String::new(),
            });
            attempts.len() - 1
        });
        note(&mut attempts[place], line, &event);
    }
    attempts.reverse();
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.attempt_no));
    attempts
}

fn note(attempt: &mut Attempt, line: &LogLine, event: &Value) {
    let end = match event["event"].as_str() {
        Some("running") => {
            attempt.started_ms = Some(line.time_ms);
            return;
        }
        Some("process_exited") => event["message"].as_str().unwrap_or_default().to_owned(),
        _ => match serde_json::from_value::<TaskStatus>(event["status"].clone()) {
            Ok(status) => match status.exception() {
                Some(why) => format!("{}: {why}", status.label()),
                None => status.label().to_owned(),
            },
            Err(_) => return,
        },
    };
    attempt.ended_ms = Some(line.time_ms);
    if !attempt.end.is_empty() {
        attempt.end.push_str(", ");
    }
    attempt.end.push_str(&end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(worker: &str, no: u32, time_ms: u64, event: Value) -> Line {
        let line = json!({
            "id": "1", "time_ms": time_ms, "stream": "statuses", "job": "j", "node": "n",
            "attempt_no": no, "text": event.to_string(),
        });
        Line { worker: worker.to_owned(), line: serde_json::from_value(line).unwrap() }
    }

    #[test]
    fn attempts_are_put_together_from_what_their_workers_wrote() {
        let id = AttemptId::generate().to_string();
        let running = |no, at| line("w1", no, at, json!({"event": "running", "attempt": no}));
        let status = json!({"result_bits": 96, "data": {"exception": "timed out"}});
        let lines = [
            line(
                "w1",
                1,
                5,
                json!({"event": "process_exited", "message": "exited", "attempt": id}),
            ),
            line("w1", 1, 6, json!({"event": "got_status", "status": status, "attempt": id})),
            running(2, 10),
            line("w2", 3, 12, json!({"event": "running", "attempt": "x"})),
            line("w2", 3, 13, json!("no event")),
        ];
        let attempts = of_lines(&lines);
        assert_eq!(attempts.iter().map(|a| a.attempt_no).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(attempts[2].attempt.unwrap().to_string(), id);
        assert!(attempts[2].end.starts_with("exited, "), "{}", attempts[2].end);
        assert!(attempts[2].end.ends_with("timed out"), "{}", attempts[2].end);
        assert_eq!((attempts[2].started_ms, attempts[2].ended_ms), (None, Some(6)));
        assert_eq!((attempts[1].started_ms, attempts[1].ended_ms), (Some(10), None));
    }
}
