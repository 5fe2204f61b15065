//! What a worker does with a task, and the pages of its logs.

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use bistro_common::ids::{AttemptId, Seq, TaskName};
use bistro_common::protocol::assign::{Assignment, TaskSpec};
use bistro_common::protocol::log::{Direction, LineId, LogRead, Stream};
use bistro_common::protocol::task::{Kill, KillMethod, OpenAttempt};
use bistro_worker::exec;
use bistro_worker::logs::{Budget, Lines, Logs, Source};

use super::{Answer, field};

fn task(node: &str) -> TaskName {
    TaskName::new("job", node)
}

fn assignment(node: &str, command: Vec<String>, prev_status: Option<Value>) -> Assignment {
    Assignment {
        seq: Seq(1),
        open: Arc::new(OpenAttempt {
            attempt: AttemptId::generate(),
            task: task(node),
            attempt_no: 1,
            started_ms: 0,
            path: Vec::new().into(),
            worker_slots: Default::default(),
        }),
        spec: Arc::new(TaskSpec {
            command,
            plain_command: false,
            responder: None,
            noop: false,
            limits: Default::default(),
            confinement: Default::default(),
            config: Default::default(),
            kill: Kill { method: KillMethod::Term, wait_ms: 0 },
            log_lines_per_10_ms: None,
        }),
        prev_status,
    }
}

pub fn argv(given: &Value) -> Answer {
    let node: String = field(given, "node")?;
    let assignment = assignment(&node, field(given, "command")?, None);
    let of_worker: Vec<String> =
        given["worker_command"].as_str().map(str::to_owned).into_iter().collect();
    let mut argv = exec::command(&of_worker, &assignment).ok_or("there is no command")?;
    argv.extend(["<status path>", "<json>"].map(str::to_owned));
    Ok(json!({"argv": argv}))
}

/// There is one way to run tasks: that of the original's remote workers.
pub fn task_json_keys(given: &Value) -> Answer {
    let prev_status = (given["has_prev_status"] == true).then(|| json!({"result_bits": 4}));
    let assignment = assignment("n", Vec::new(), prev_status);
    let argument = json!(exec::Argument::new("w", "h", &assignment));
    let mut keys: Vec<_> = argument.as_object().into_iter().flatten().map(|(key, _)| key).collect();
    keys.sort_unstable();
    Ok(json!({"keys": keys}))
}

pub fn unknown_log_type(given: &Value) -> Answer {
    let stream: Stream = field(given, "log_type")?;
    Ok(json!({"stream": stream.as_str()}))
}

pub fn page(given: &Value) -> Answer {
    let ids: Vec<u64> = field(given, "stored_ids")?;
    read_page(given, ids.into_iter().map(|id| (id, id.to_string())).collect())
}

pub fn page_regex(given: &Value) -> Answer {
    read_page(given, field(given, "stored")?)
}

/// Lines are stored at one a second, so that their ids are those of the case in other units.
fn read_page(given: &Value, stored: Vec<(u64, String)>) -> Answer {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let budget = Budget { bytes: 1 << 30, age: Duration::MAX };
    let logs = Logs::open(directory.path().to_owned(), budget).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let source = Source { attempt: AttemptId::generate(), attempt_no: 1, task: task("n") };
        let printer = logs.printer(source);
        for (id, text) in &stored {
            let mut lines = Lines::default();
            lines.push(Stream::Stdout, text.as_bytes(), false);
            printer.print(id * 1_000, lines).await;
        }
        printer.end(0, Lines::default()).await;
    });
    let ascending: bool = field(given, "ascending")?;
    let from: i64 = field(given, "line_id")?;
    let (direction, from) = match (ascending, u64::try_from(from)) {
        (true, Ok(from)) => (Direction::Ascending, LineId::at(from * 1_000)),
        (true, Err(_)) => (Direction::Ascending, LineId::MIN),
        (false, Ok(from)) => (Direction::Descending, LineId(LineId::at((from + 1) * 1_000).0 - 1)),
        (false, Err(_)) => (Direction::Descending, LineId::MAX),
    };
    let limit = field(given, "limit")?;
    let regex = given["regex_filter"].as_str().map(str::to_owned);
    let page = logs.read(&LogRead {
        tried_max: regex.as_ref().map(|_| limit),
        regex,
        ..LogRead::page(from, direction, limit)
    });
    let seconds = |id: LineId| id.seconds();
    let next = page.next.filter(|_| !page.at_end).map(seconds);
    let ids: Vec<_> = page.lines.iter().map(|line| seconds(line.id)).collect();
    Ok(json!({"ids": ids, "next_line_id": next.map_or(-1, |next| next as i64)}))
}

pub fn parse_cpu_set(given: &Value) -> Answer {
    let text: String = field(given, "text")?;
    let count = bistro_worker::capacity::cpu_set(&text).ok_or("it is no set of CPUs")?;
    Ok(json!({"count": count}))
}
