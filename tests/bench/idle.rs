//! CPU of a scheduler and a worker that have nothing to do.

use serde_json::{Value, json};
use std::time::Duration;

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, children_of};

use crate::{cpu_seconds, round};

pub async fn run(seconds: u64) -> anyhow::Result<Value> {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&super::e2e::config(1_000));
    let scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", "/bin/true");
    cell.wait_for_count(TaskState::Failed, 1_000).await;
    let guard = children_of(worker.pid(), "guard");
    let pids = [vec![scheduler.pid()], vec![worker.pid()], guard].concat();
    let used = |pids: &[i32]| pids.iter().map(|&pid| cpu_seconds(pid)).collect::<Vec<_>>();
    let before = used(&pids);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent: Vec<f64> = used(&pids)
        .iter()
        .zip(before)
        .map(|(after, before)| round((after - before) / seconds as f64 * 100.0))
        .collect();
    Ok(json!({
        "seconds": seconds,
        "scheduler_cpu_pct": percent.first(),
        "worker_cpu_pct": percent.get(1),
        "guard_cpu_pct": percent.get(2),
    }))
}
