//! A scheduler that finds much in the store of one that was killed: from the start of its process to
//! the first process of a task, on a worker that has nothing to do with what was open.

use serde_json::{Value, json};
use std::time::{Instant, SystemTime};

use bistro_common::ids::{AttemptId, Incarnation, LedgerId, Seq, TaskName, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::task::OpenAttempt;
use bistro_common::status::{TaskStatus, bits};
use bistro_core::{AttemptRecord, Phase, Record, TaskRecord, WorkerRecord};
use bistro_scheduler::store::Store;
use bistro_tests::{Cell, Process, standbys, wait_until};

use crate::{round, rss_kb};

const JOBS: usize = 10;
/// Rows of one commit while the store is filled.
const ROWS: usize = 50_000;

pub async fn run(finished: usize, open: usize) -> anyhow::Result<Value> {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    let nodes = finished / JOBS;
    cell.write_config(&config(nodes, open));
    let started = Instant::now();
    fill(&cell.scheduler_directory(), nodes, open)?;
    let fill_s = started.elapsed().as_secs_f64();
    // One that is killed leaves its store as it is; without a worker it starts nothing.
    let before = cell.spawn_scheduler();
    cell.wait_for("the nodes", |status| status.nodes > 1).await;
    before.kill();
    let script = cell.script("task", "echo done > \"$2\"; : > \"$0.ran\"");
    let _worker = cell.spawn_worker("w1", &script);
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while !cell.is_heard("bistro.test.log.read.w1").await {
        anyhow::ensure!(Instant::now() < deadline, "the worker does not listen");
    }
    let ran = format!("{script}.ran");
    let started = SystemTime::now();
    let scheduler = cell.spawn_scheduler();
    wait_until("the first task", || std::fs::exists(&ran).unwrap_or(false)).await;
    let ran = std::fs::metadata(&ran)?.modified()?;
    let rss_mb = rss_kb(scheduler.pid()) >> 10;
    scheduler.kill();
    let (copy_s, takeover_s) = take_over(&cell).await;
    Ok(json!({
        "finished": nodes * JOBS,
        "open": open,
        "fill_s": round(fill_s),
        "restart_to_first_task_s": round(ran.duration_since(started)?.as_secs_f64()),
        "rss_mb": rss_mb,
        "copy_to_standby_s": round(copy_s),
        "takeover_s": round(takeover_s),
    }))
}

/// How long another scheduler takes to have all of it, and to reign when the first is killed. (One
/// second of that is the time for which it waits.)
async fn take_over(cell: &Cell) -> (f64, f64) {
    let first = Process::spawn(standbys::command(cell, "scheduler"));
    let epoch = cell.status().await.epoch;
    let started = Instant::now();
    let _second = Process::spawn(standbys::command(cell, "second"));
    standbys::wait_for_followers(cell, 1).await;
    let copied = started.elapsed().as_secs_f64();
    let started = Instant::now();
    first.kill();
    cell.wait_for("the other to reign", |status| status.epoch > epoch).await;
    (copied, started.elapsed().as_secs_f64())
}

/// Jobs that are done on all nodes, one that runs on many, and one task that is still to be done.
fn config(nodes: usize, open: usize) -> String {
    let range = |level: &str, format: &str, end: usize| {
        json!({"source": "range_label", "prefs":
            {"parent_level": level, "format": format, "start": 1, "end": end}})
    };
    let mut config = json!({
        "bistro_settings": {
            "enabled": true,
            "nodes": {"levels": ["node"], "node_sources": [range("instance", "n{i}", nodes.max(open))]},
            "resources": {}
        },
        "bistro_job->open": {"owner": "bench", "depends_on": ["no-more"]},
        "bistro_job->no-more": {"owner": "bench", "enabled": false},
        "bistro_job->new": {"owner": "bench", "level_for_tasks": "instance"},
    });
    for job in 0..JOBS {
        config[format!("bistro_job->done-{job}")] = json!({"owner": "bench"});
    }
    config.to_string()
}

fn fill(directory: &std::path::Path, nodes: usize, open: usize) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut store = Store::open(directory)?.store;
    let (worker, incarnation) = (WorkerName::new("gone")?, Incarnation::generate());
    let gone = WorkerRecord {
        name: worker.clone(),
        incarnation,
        ledger: LedgerId::generate(),
        host: "gone".to_owned(),
        drained: false,
    };
    store.append(&[Record::Worker { worker: gone }])?;
    let done = (0..JOBS * nodes).map(|number| Record::Task {
        task: TaskName::new(format!("done-{}", number / nodes), format!("n{}", number % nodes + 1)),
        record: TaskRecord {
            attempt_no: 1,
            phase: Phase::Done,
            status: Some(TaskStatus::new(bits::DONE)),
            status_ms: 1_700_000_000_000,
            ran_ms: 1_000,
            ..TaskRecord::default()
        },
    });
    let opened = (0..open).map(|number| Record::AttemptOpened {
        attempt: AttemptRecord {
            open: std::sync::Arc::new(OpenAttempt {
                attempt: AttemptId::generate(),
                task: TaskName::new("open", format!("n{}", number + 1)),
                attempt_no: 1,
                started_ms: 1_700_000_000_000,
                path: [].into(),
                worker_slots: Default::default(),
            }),
            worker: worker.clone(),
            incarnation,
            seq: Seq(number as u64 + 1),
            disowned: false,
        },
    });
    let mut all = done.chain(opened).peekable();
    while all.peek().is_some() {
        let rows: Vec<Record> = all.by_ref().take(ROWS).collect();
        store.append(&rows)?;
        store.fold(ROWS)?;
    }
    Ok(())
}
