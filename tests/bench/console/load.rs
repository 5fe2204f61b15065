//! The fixture: 1,000 jobs on 1,000 nodes, and changes at a pace that is set from outside.
//!
//! All of it is real: a scheduler and a worker as processes, and this process as the responder that
//! says when a task is done. Every task that it ends is two changes: one that is done, one that runs.

use futures_util::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, Process};

pub const JOBS: usize = 1_000;
pub const NODES: usize = 1_000;
/// So many run at once.
const AT_ONCE: usize = 512;
/// How often the pace is kept.
const STEP: Duration = Duration::from_millis(10);

pub struct Load {
    pub cell: Cell,
    _parts: Vec<Process>,
    changes_per_s: Arc<AtomicU64>,
}

impl Load {
    /// Starts it, at rest.
    pub async fn start() -> anyhow::Result<Self> {
        let mut cell = Cell::new().await;
        cell.terms = LeaseTerms::PRODUCTION;
        cell.write_config(&config(JOBS, NODES));
        let changes_per_s = Arc::new(AtomicU64::new(0));
        let bus = cell.connect("bench").await;
        let asked = bus.client().subscribe("bench.load").await?;
        tokio::spawn(answer(bus.client().clone(), asked, changes_per_s.clone()));
        let parts = vec![cell.spawn_scheduler(), cell.spawn_worker("w1", "/bin/true")];
        cell.wait_for_count(TaskState::Running, AT_ONCE as u64).await;
        Ok(Self { cell, _parts: parts, changes_per_s })
    }

    pub fn set(&self, changes_per_s: u64) {
        self.changes_per_s.store(changes_per_s, Ordering::Relaxed);
    }
}

/// Answers so many requests per second as makes the changes that are wanted.
async fn answer(
    client: async_nats::Client,
    mut asked: async_nats::Subscriber,
    changes_per_s: Arc<AtomicU64>,
) {
    let mut waiting = VecDeque::new();
    let mut ticks = tokio::time::interval(STEP);
    let mut due = 0.0;
    loop {
        tokio::select! {
            Some(message) = asked.next() => waiting.extend(message.reply),
            _ = ticks.tick() => {
                let tasks_per_s = changes_per_s.load(Ordering::Relaxed) as f64 / 2.0;
                // What could not be done in time is not made up for.
                due = f64::min(due + tasks_per_s * STEP.as_secs_f64(), tasks_per_s / 10.0);
                while due >= 1.0
                    && let Some(reply) = waiting.pop_front()
                {
                    due -= 1.0;
                    // A connection that is gone ends the subscription, too.
                    let _ = client.publish(reply, "done".into()).await;
                }
            }
            else => return,
        }
    }
}

pub fn config(jobs: usize, nodes: usize) -> String {
    let job = |n: usize| {
        format!(
            r#""bistro_job->job-{n:05}": {{"owner": "bench", "runner": "nats", "subject": "bench.load",
            "responder_timeout_sec": 3600}}"#
        )
    };
    let jobs: Vec<String> = (0..jobs).map(job).collect();
    format!(
        r#"{{
  "bistro_settings": {{
    "enabled": true,
    "nodes": {{
      "levels": ["node"],
      "node_sources": [{{
        "source": "range_label",
        "prefs": {{"parent_level": "instance", "format": "n{{i}}", "start": 1, "end": {nodes}}}
      }}]
    }},
    "resources": {{"instance": {{"at_once": {{"limit": {AT_ONCE}, "default": 1}}}}}}
  }},
  {}
}}"#,
        jobs.join(",\n  ")
    )
}
