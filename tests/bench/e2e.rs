//! Real `/bin/true` processes through a scheduler, NATS and one worker, every durability rule on.

use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, children_of};

use crate::{cpu_seconds, round};

/// How long the bare loop runs.
const BARE: Duration = Duration::from_secs(3);
/// As many as there are cores on the machine that the budgets are for.
const THREADS: usize = 2;
/// So many tasks may run at once; more of them would only compete.
const AT_ONCE: u32 = 64;

/// One job on so many nodes. `/bin/true` reports nothing, so every task ends as failed.
pub fn config(tasks: u32) -> String {
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
  "bistro_job->job": {{"owner": "bench"}}
}}"#
    )
}

pub async fn run(tasks: u32) -> anyhow::Result<Value> {
    let bare_before = bare_spawns_per_s()?;
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&config(tasks));
    let scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", "/bin/true");
    let (first, first_at) = finished(&cell, 1).await;
    let (last, last_at) = finished(&cell, u64::from(tasks)).await;
    let took = (last_at - first_at).as_secs_f64();
    let guard = children_of(worker.pid(), "guard");
    let per_task = |pid: i32| round(cpu_seconds(pid) * 1e6 / f64::from(tasks));
    let results = json!({
        "tasks": tasks,
        "tasks_per_s": ((last - first) as f64 / took).round(),
        "cpu_us_per_task_scheduler": per_task(scheduler.pid()),
        "cpu_us_per_task_worker": per_task(worker.pid()),
        "cpu_us_per_task_guard": guard.first().map(|&pid| per_task(pid)),
    });
    drop((scheduler, worker, cell));
    let bare_after = bare_spawns_per_s()?;
    let mut results = results;
    // Before and after, since machines change their minds.
    let bare = f64::midpoint(bare_before, bare_after);
    results["bare_spawn_per_s"] = json!(bare.round());
    let rate = results["tasks_per_s"].as_f64().unwrap_or(0.0);
    results["of_bare"] = json!(round(rate / bare));
    Ok(results)
}

/// When at least so many tasks have ended, and how many.
async fn finished(cell: &Cell, count: u64) -> (u64, Instant) {
    loop {
        let status = cell.status().await;
        let ended = status.counts.get(&TaskState::Failed).copied().unwrap_or(0);
        if ended >= count {
            return (ended, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
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
