//! From the start of a scheduler process with an empty store to the first process of a task.

use serde_json::{Value, json};
use std::time::{Instant, SystemTime};

use bistro_tests::{Cell, wait_until};

use crate::{percentile, round};

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {"levels": ["node"], "node_sources": [{"source": "manual", "prefs": {"n1": []}}]},
    "resources": {}
  },
  "bistro_job->job": {"owner": "bench"}
}"#;

pub async fn run(runs: u32) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(once().await?);
    }
    times.sort_by(f64::total_cmp);
    Ok(json!({
        "runs": runs,
        "start_to_first_task_ms_p50": round(percentile(&times, 0.5)),
        "start_to_first_task_ms_max": round(percentile(&times, 1.0)),
    }))
}

/// A worker waits already; the task's own file says when it ran.
async fn once() -> anyhow::Result<f64> {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let script = cell.script("task", "echo done > \"$2\"; : > \"$0.ran\"");
    let _worker = cell.spawn_worker("w1", &script);
    let ran = format!("{script}.ran");
    // The worker must be listening, or its own start is measured.
    let subject = "bistro.test.log.read.w1";
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while !cell.is_heard(subject).await {
        anyhow::ensure!(Instant::now() < deadline, "the worker does not listen");
    }
    let started = SystemTime::now();
    let _scheduler = cell.spawn_scheduler();
    wait_until("the first task", || std::fs::exists(&ran).unwrap_or(false)).await;
    let ran = std::fs::metadata(&ran)?.modified()?;
    Ok(ran.duration_since(started)?.as_secs_f64() * 1_000.0)
}
