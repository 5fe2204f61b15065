//! Real `/bin/true` processes through a scheduler, NATS and one worker, every durability rule on;
//! tasks that a responder does at once; and one task at a time on an idle cell.

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::{TaskState, verb};
use bistro_common::protocol::job::JobDocument;
use bistro_tests::{Cell, children_of};

use crate::{cpu_seconds, percentile, round};

/// How long the bare loop runs.
const BARE: Duration = Duration::from_secs(3);
/// As many as there are cores on the machine that the budgets are for.
const THREADS: usize = 2;
/// So many tasks may run at once. With fewer, the machine waits for the disk now and then.
const AT_ONCE: u32 = 512;
/// What takes no time is done so many times more often, so that the beginning does not count.
const NOOPS_PER_TASK: u32 = 10;
/// So many tasks one at a time.
const LATENCIES: usize = 200;

/// One job on so many nodes. `/bin/true` reports nothing, so every task ends as failed.
pub fn config(tasks: u32) -> String {
    config_with(tasks, "")
}

/// `more`: of the job.
fn config_with(tasks: u32, more: &str) -> String {
    format!(
        r#"{{
  "bistro_settings": {{
    "enabled": true,
    "backoff": ["fail"],
    "nodes": {{
      "levels": ["node"],
      "node_sources": [{{
        "source": "range_label",
        "prefs": {{"parent_level": "instance", "format": "n{{i}}", "start": 1, "end": {tasks}}}
      }}]
    }},
    "resources": {{"instance": {{"at_once": {{"limit": {AT_ONCE}, "default": 1}}}}}}
  }},
  "bistro_job->job": {{"owner": "bench"{more}}}
}}"#
    )
}

pub async fn run(tasks: u32) -> anyhow::Result<Value> {
    // First what starts no processes: a kernel that takes many cgroups down is busy for seconds.
    let noop = noop_tasks_per_s(NOOPS_PER_TASK * tasks).await?;
    let responder = responder_tasks_per_s(tasks).await?;
    let bare_before = bare_spawns_per_s()?;
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&config(tasks));
    let scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", "/bin/true");
    let rate = rate(&cell, tasks, TaskState::Failed).await;
    let guard = children_of(worker.pid(), "guard");
    let per_task = |pid: i32| round(cpu_seconds(pid) * 1e6 / f64::from(tasks));
    let mut results = json!({
        "tasks": tasks,
        "tasks_per_s": rate.round(),
        "cpu_us_per_task_scheduler": per_task(scheduler.pid()),
        "cpu_us_per_task_worker": per_task(worker.pid()),
        "cpu_us_per_task_guard": guard.first().map(|&pid| per_task(pid)),
    });
    let mut latencies = latencies(&cell).await?;
    latencies.sort_by(f64::total_cmp);
    let bare_after = bare_spawns_per_s()?;
    drop((scheduler, worker, cell));
    // Before and after, since machines change their minds.
    let bare = f64::midpoint(bare_before, bare_after);
    results["bare_spawn_per_s"] = json!(bare.round());
    results["noop_tasks_per_s"] = json!(noop.round());
    results["responder_tasks_per_s"] = json!(responder.round());
    results["latency_ms_p50"] = json!(round(percentile(&latencies, 0.5)));
    results["latency_ms_p99"] = json!(round(percentile(&latencies, 0.99)));
    results["of_bare"] = json!(round(rate / bare));
    Ok(results)
}

/// Tasks per second from the first that has ended to the last.
async fn rate(cell: &Cell, tasks: u32, end: TaskState) -> f64 {
    let (first, first_at) = finished(cell, 1, end).await;
    let (last, last_at) = finished(cell, u64::from(tasks), end).await;
    (last - first) as f64 / (last_at - first_at).as_secs_f64()
}

/// Tasks of which the worker says at once that they are done.
async fn noop_tasks_per_s(tasks: u32) -> anyhow::Result<f64> {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&config_with(tasks, r#", "runner": "noop""#));
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", "/bin/true");
    Ok(rate(&cell, tasks, TaskState::Done).await)
}

/// Tasks that take no time of their own, answered by this process.
async fn responder_tasks_per_s(tasks: u32) -> anyhow::Result<f64> {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&config_with(tasks, r#", "runner": "nats", "subject": "bench.noop""#));
    let bus = cell.connect("bench").await;
    let mut asked = bus.client().subscribe("bench.noop").await?;
    let answering = bus.client().clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let Some(reply) = message.reply else { continue };
            // A connection that is gone ends the subscription, too.
            let _ = answering.publish(reply, "done".into()).await;
        }
    });
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", "/bin/true");
    Ok(rate(&cell, tasks, TaskState::Done).await)
}

/// Milliseconds from a request to do one task to the word that it is done, one after the other.
async fn latencies(cell: &Cell) -> anyhow::Result<Vec<f64>> {
    let bus = cell.connect("bench").await;
    let mut done = bus.client().subscribe(cell.name().event("task.done")).await?;
    bus.flush().await;
    let mut times = Vec::new();
    for number in 0..LATENCIES {
        let definition = json!({"owner": "bench", "level_for_tasks": "instance",
            "command": ["/bin/true"], "plain_command": true});
        let request = json!({"job": format!("one-{number}"), "definition": definition,
            "mode": "create", "audit": {"actor": "bench", "reason": ""}});
        let started = Instant::now();
        let _: JobDocument = cell
            .ask(verb::JOB_PUT, &request)
            .await
            .map_err(|error| anyhow::anyhow!("the job is refused: {}", error.message))?;
        done.next().await;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// When at least so many tasks have ended, and how many.
async fn finished(cell: &Cell, count: u64, end: TaskState) -> (u64, Instant) {
    loop {
        let status = cell.status().await;
        let ended = status.counts.get(&end).copied().unwrap_or(0);
        if ended >= count {
            return (ended, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn bare_spawns_per_s() -> anyhow::Result<f64> {
    let started = Instant::now();
    let count = std::thread::scope(|scope| {
        let spawn_loop = || {
            let mut count = 0u32;
            while started.elapsed() < BARE {
                Command::new("/bin/true").status()?;
                count += 1;
            }
            Ok::<u32, std::io::Error>(count)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(spawn_loop)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .sum::<Result<u32, _>>()
    })?;
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
