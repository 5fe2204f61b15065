//! `task_logs`: what all workers have of some tasks, as one page (reference, sections 8 and 10.3).

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::time::Duration;

use bistro_common::Millis;
use bistro_common::ids::WorkerName;
use bistro_common::nats::Bus;
use bistro_common::protocol::api::{WorkerHealth, WorkerRow};
use bistro_common::protocol::log::{
    Direction, LineId, LogLine, LogRead, LogReadReply, Stream, merge,
};
use bistro_common::protocol::{decode, encode};
use bistro_common::subject::Cell;

use super::texts;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of a page, over all workers, and at least of each.
const LINES: u32 = 5_000;
const LINES_OF_ONE: u32 = 100;
/// Every worker is asked for every job on every node: at most so many times, and so many at once.
const REQUESTS_MAX: usize = 2_048;
const AT_ONCE: usize = 32;

/// What to ask every worker: one request per job and node.
pub fn requests(query: &Value, workers: usize) -> Result<Vec<LogRead>, String> {
    if !query["columns"].is_null() {
        return Err("Custom columns are currently not supported.".to_owned());
    }
    let stream: Stream = serde_json::from_value(query["log_type"].clone())
        .map_err(|_| format!("Unknown table for logs: {}", query["log_type"]))?;
    let sort = query["sort"].as_str().unwrap_or("desc");
    let direction = match sort.to_ascii_lowercase().as_str() {
        "asc" => Direction::Ascending,
        "desc" => Direction::Descending,
        _ => return Err(format!("Unknown sort order: {sort}")),
    };
    let limit = (LINES / workers.max(1) as u32).max(LINES_OF_ONE);
    let mut page = LogRead::page(begin(query, direction)?, direction, limit);
    page.streams = vec![stream];
    page.regex = query["regex_filter"].as_str().filter(|r| !r.is_empty()).map(str::to_owned);
    // As in the original: what the expression filters out counts.
    page.tried_max = page.regex.as_ref().map(|_| limit);
    let any = |key| {
        let names = texts(query, key)?;
        Ok::<_, String>(if names.is_empty() {
            vec![None]
        } else {
            names.into_iter().map(Some).collect()
        })
    };
    let (jobs, nodes): (Vec<Option<String>>, Vec<Option<String>>) = (any("jobs")?, any("nodes")?);
    let requests = jobs.len().saturating_mul(nodes.len()).saturating_mul(workers);
    if requests > REQUESTS_MAX {
        return Err(format!(
            "{requests} times asking a worker for a job on a node is more than {REQUESTS_MAX}: ask for fewer at a time"
        ));
    }
    let pair = |job: &Option<String>, node: &Option<String>| LogRead {
        job: job.clone(),
        node: node.clone(),
        ..page.clone()
    };
    Ok(jobs.iter().flat_map(|job| nodes.iter().map(move |node| pair(job, node))).collect())
}

fn begin(query: &Value, direction: Direction) -> Result<LineId, String> {
    let from_end = match direction {
        Direction::Ascending => LineId::MIN,
        Direction::Descending => LineId::MAX,
    };
    // -1 is the end; ids of later years are larger than an i64.
    let number = |value: &Value| match value {
        Value::String(text) => text.parse::<i128>().ok(),
        value => value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)),
    };
    match (&query["time"], &query["line_id"]) {
        (Value::Null, Value::Null) => Ok(from_end),
        (Value::Null, id) => {
            let id = number(id).ok_or_else(|| format!("line_id is not a number: {id}"))?;
            Ok(u64::try_from(id).map_or(from_end, LineId))
        }
        (time, Value::Null) => {
            let seconds = number(time).and_then(|time| u64::try_from(time).ok());
            let seconds = seconds.ok_or_else(|| format!("time is not a number: {time}"))?;
            let first = LineId::at(seconds.saturating_mul(1_000));
            Ok(match direction {
                Direction::Ascending => first,
                Direction::Descending => LineId(first.0 | u64::from(u32::MAX)),
            })
        }
        _ => Err("Cannot specify both time and line_id".to_owned()),
    }
}

pub async fn read(
    bus: &Bus,
    cell: &Cell,
    workers: Vec<WorkerRow>,
    now: Millis,
    query: &Value,
) -> Result<Value, String> {
    let (asked, others): (Vec<_>, Vec<_>) =
        workers.into_iter().partition(|row| row.health == WorkerHealth::Healthy);
    let not_asked: Vec<_> = others
        .into_iter()
        .filter(|row| row.health != WorkerHealth::Gone)
        .map(|row| row.worker)
        .collect();
    if asked.is_empty() {
        return Err(match not_asked.is_empty() {
            true => "No workers connected; cannot query logs.".to_owned(),
            false => format!(
                "All workers are unhealthy; cannot query logs. Known workers: {}",
                not_asked.join(", ")
            ),
        });
    }
    let requests = requests(query, asked.len())?;
    let direction = requests.first().map_or(Direction::Descending, |request| request.direction);
    let each = asked
        .iter()
        .flat_map(|worker| requests.iter().map(|request| (worker.worker.clone(), request.clone())));
    let reads = each.map(|(worker, request)| read_one(bus.clone(), cell.clone(), worker, request));
    let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let (mut pages, mut warnings) = (Vec::new(), Vec::new());
    while let Some(page) = reads.next().await {
        match page {
            Ok(page) => {
                warnings.extend(page.error.clone());
                pages.push(page);
            }
            Err(warning) => warnings.push(warning),
        }
    }
    if !not_asked.is_empty() {
        let names = not_asked.join(", ");
        warnings.push(format!("some workers are unhealthy, their logs are not shown: {names}"));
    }
    let (lines, next) = merge(pages, direction);
    let warn = |text: String| json!(["", "", now / 1_000, format!("Warning: {text}"), "-1"]);
    let lines = warnings.into_iter().map(warn).chain(lines.into_iter().map(line));
    let next = next.map_or("-1".to_owned(), |next| next.0.to_string());
    Ok(json!({"next_line_id": next, "lines": lines.collect::<Vec<_>>()}))
}

fn line(line: LogLine) -> Value {
    let newline = if line.partial { "" } else { "\n" };
    let text = format!("{}{newline}", line.text);
    json!([line.job, line.node, line.time_ms / 1_000, text, line.id.0.to_string()])
}

async fn read_one(
    bus: Bus,
    cell: Cell,
    worker: String,
    request: LogRead,
) -> Result<LogReadReply, String> {
    let failed = |error: String| format!("Failed to fetch logs from worker {worker}: {error}");
    let name = WorkerName::new(worker.as_str()).map_err(|error| failed(error.to_string()))?;
    let reply = bus.request(cell.log_read(&name), encode(&request), TIMEOUT).await;
    let reply = reply.map_err(|error| failed(error.to_string()))?;
    decode(&reply).map_err(|error| failed(error.to_string()))
}
