//! The original's HTTP API.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use bistro_common::ids::TaskName;
use bistro_common::protocol::log::{Direction, LineId, LogLine, LogReadReply, Stream, merge};
use bistro_common::status::{TaskStatus, bits, code};
use bistro_core::{Effect, Phase, Snapshot, TaskRecord};
use bistro_scheduler::original::{self, Context};
use bistro_tests::bare_core::NOW;

use super::core::{Cell, jobs, read, settings};
use super::{Answer, field};

pub fn encode_bits(given: &Value) -> Answer {
    Ok(json!({"code": code(field(given, "bits")?)}))
}

/// The answer to one request, as it would go into the body.
fn ask(cell: &mut Cell, request: &Value) -> Result<Map<String, Value>, String> {
    let queries = original::parse(request.to_string().as_bytes())?;
    let context = Context::new(NOW, &[], "conformance", false);
    let mut out: Vec<Effect> = Vec::new();
    Ok(original::answer(&mut cell.core, &context, queries, &mut out))
}

pub fn nodes(given: &Value) -> Answer {
    let config = &given["config"];
    let settings =
        settings(config["levels"].clone(), &config["manual"], config["resources"].clone());
    let mut cell = Cell::new(read(&settings, &Map::new())?)?;
    let mut query = given["request"].clone();
    query["handler"] = json!("nodes");
    let answer = ask(&mut cell, &json!({"q": query}))?.remove("q").unwrap_or_default();
    match &answer["error"] {
        Value::Null => Ok(answer["data"].clone()),
        error => Err(error.to_string()),
    }
}

pub fn dispatch(given: &Value) -> Answer {
    let settings = settings(json!(["host"]), &json!({"h": []}), json!({}));
    let mut cell = Cell::new(read(&settings, &jobs(json!({"job": {}})))?)?;
    let answers = match ask(&mut cell, &given["request"]) {
        Ok(answers) => answers,
        // The whole answer is one text then.
        Err(error) => return Ok(json!({"text": error})),
    };
    let mut result = json!({"keys": answers.keys().collect::<Vec<_>>()});
    for (name, answer) in &answers {
        let has = answer.as_object().and_then(|object| object.keys().next());
        result[format!("{name}_has")] = json!(has);
    }
    Ok(result)
}

pub fn histogram(given: &Value) -> Answer {
    let tree: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>> = field(given, "tree")?;
    let (mut manual, mut avoided, mut disabled) = (Map::new(), Vec::new(), Vec::new());
    let mut snapshot = Snapshot::default();
    for (host, databases) in tree.values().flatten() {
        manual.insert(host.clone(), json!(databases.keys().collect::<Vec<_>>()));
        for (database, conditions) in databases {
            for condition in conditions.split('+') {
                match condition {
                    "avoided" => avoided.push(database.clone()),
                    "disabled" => disabled.push(database.clone()),
                    _ => {
                        let task = TaskName::new("job", database.as_str());
                        snapshot.tasks.extend(record(condition)?.map(|record| (task, record)));
                    }
                }
            }
        }
    }
    for database in disabled {
        manual.insert(database, json!({"disabled": true}));
    }
    let settings = settings(json!(["host", "db"]), &Value::Object(manual), json!({}));
    let job = json!({"filters": {"db": {"blacklist": avoided}}});
    let cell = Cell::with(read(&settings, &jobs(json!({"job": job})))?, snapshot)?;
    let histogram = cell.core.histogram("job", 0).ok_or("there is no such job")?;
    let mut levels = Map::new();
    for (level, by_bits) in histogram {
        let counts = by_bits.into_iter().map(|(bits, (count, _))| (bits.to_string(), json!(count)));
        levels.insert(level.to_owned(), counts.collect());
    }
    Ok(json!({"levels": levels}))
}

/// What is known of a task in such a condition.
fn record(condition: &str) -> Result<Option<TaskRecord>, String> {
    let ended = |phase, result_bits| TaskRecord {
        attempt_no: 1,
        phase,
        status: Some(TaskStatus::new(result_bits)),
        status_ms: NOW,
        ..TaskRecord::default()
    };
    Ok(Some(match condition {
        "unstarted" => return Ok(None),
        "done" => ended(Phase::Done, bits::DONE),
        "failed" => ended(Phase::Failed, bits::FAILED),
        "incomplete" => ended(Phase::Ready, bits::INCOMPLETE),
        "error_backoff_active" => {
            TaskRecord { backoff_seconds: 60, ..ended(Phase::Backoff, bits::ERROR_BACKOFF) }
        }
        "error_backoff_expired" => TaskRecord {
            backoff_seconds: 60,
            status_ms: NOW - 3_600_000,
            ..ended(Phase::Backoff, bits::ERROR_BACKOFF)
        },
        unknown => return Err(format!("unknown condition {unknown:?}")),
    }))
}

/// Every worker's page holds as many lines as it may; its ids are those of the case.
pub fn page_multi(given: &Value) -> Answer {
    let workers: BTreeMap<String, Vec<u64>> = field(given, "workers")?;
    let limit: usize = field(given, "limit_per_worker")?;
    let direction = match field(given, "ascending")? {
        true => Direction::Ascending,
        false => Direction::Descending,
    };
    let page = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        if direction == Direction::Descending {
            ids.reverse();
        }
        let next = ids.get(limit).copied().map(LineId);
        let lines = ids.into_iter().take(limit).map(line).collect();
        LogReadReply {
            v: 1,
            lines,
            next,
            at_end: next.is_none(),
            removed_before: None,
            error: None,
        }
    };
    let (lines, next) = merge(workers.into_values().map(page).collect(), direction);
    let ids: Vec<_> = lines.iter().map(|line| line.id.0).collect();
    Ok(json!({"ids": ids, "next_line_id": next.map_or(-1, |next| next.0 as i64)}))
}

fn line(id: u64) -> LogLine {
    LogLine {
        id: LineId(id),
        time_ms: 0,
        stream: Stream::Stdout,
        job: String::new(),
        node: String::new(),
        attempt_no: 1,
        text: String::new(),
        partial: false,
        dropped: 0,
    }
}
