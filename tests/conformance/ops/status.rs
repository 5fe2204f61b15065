//! Statuses and backoff.

use serde_json::{Value, json};

use bistro_common::status::{Backoff, NextBackoff, TaskStatus};

use super::{Answer, field};

fn backoff(given: &Value) -> Result<Backoff, String> {
    Backoff::from_json(&given["spec"]).map_err(|error| error.to_string())
}

pub fn backoff_parse(given: &Value) -> Answer {
    let backoff = backoff(given)?;
    let (values, repeat) = backoff.parts();
    Ok(json!({"ok": true, "values": values, "repeat": repeat, "exported": backoff.to_json()}))
}

pub fn backoff_next(given: &Value) -> Answer {
    let backoff = backoff(given)?;
    let current: Vec<u64> = field(given, "current_seconds")?;
    let next = |&seconds: &u64| {
        let next = backoff.next(seconds);
        json!({"no_more": next == NextBackoff::Exhausted, "seconds": next.seconds()})
    };
    Ok(json!({"results": current.iter().map(next).collect::<Vec<_>>()}))
}

pub fn backoff_default() -> Answer {
    Ok(json!({"exported": Backoff::default().to_json()}))
}

pub fn parse(given: &Value) -> Answer {
    let line: String = field(given, "line")?;
    let status = TaskStatus::parse(&line);
    Ok(json!({"result_bits": status.result_bits, "data": status.data}))
}
