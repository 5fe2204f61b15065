//! A queue: many jobs of one task each, made one by one while the cell runs.

use anyhow::Context;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

use bistro_common::config::{self, NodeOrder};
use bistro_common::protocol::api::ApiError;
use bistro_common::protocol::heartbeat::OpenDigest;
use bistro_common::protocol::job::{Audit, JobPutRequest, PutMode};
use bistro_core::{ForestBuilder, Input, Snapshot};
use bistro_tests::bare_core::{NOW, core, heartbeat};

use crate::core::{Cell, restarts, rss_kb};
use crate::{percentile, round};

/// So many run at once.
const LIMIT: usize = 64;

pub fn run(jobs: usize, policy: &str) -> anyhow::Result<Value> {
    let text = format!(
        r#"{{"bistro_settings": {{"enabled": true, "scheduler": "{policy}",
        "nodes": {{"levels": ["host"], "node_sources": [{{"source": "empty"}}]}},
        "resources": {{"worker": {{"cpu": {{"limit": {LIMIT}, "default": 1}}}}}}}}}}"#
    );
    let config = config::parse(&text).config.context("the config is sound")?;
    let builder = ForestBuilder::new(vec!["instance".to_owned(), "host".to_owned()], "root");
    let forest = builder.build(NodeOrder::Random)?;
    let mut cell = Cell::new(core(1, Snapshot::default()));
    cell.step(Input::Plan { config: Arc::new(config), forest: Arc::new(forest) });
    cell.step(Input::Heartbeat { token: 1, heartbeat: Box::new(heartbeat(OpenDigest::default())) });
    let before_kb = rss_kb();
    let mut puts = Vec::with_capacity(jobs);
    for n in 0..jobs {
        let request = put(n);
        let started = Instant::now();
        let answer = cell.core.job_put(NOW, &request, &mut cell.out);
        cell.step(Input::Tick);
        puts.push(started.elapsed().as_secs_f64() * 1e6);
        answer.map_err(|error: ApiError| anyhow::anyhow!(error.message))?;
        cell.take_assignments();
    }
    let bytes_per_job = (rss_kb() - before_kb) as f64 * 1_024.0 / jobs.max(1) as f64;
    puts.sort_by(f64::total_cmp);
    let mut ends = restarts(&mut cell, jobs / 2);
    ends.sort_by(f64::total_cmp);
    Ok(json!({
        "jobs": jobs,
        "put_us_p50": round(percentile(&puts, 0.5)),
        "put_us_p99": round(percentile(&puts, 0.99)),
        "restart_us_p50": round(percentile(&ends, 0.5)),
        "restart_us_p99": round(percentile(&ends, 0.99)),
        "bytes_per_job": round(bytes_per_job),
    }))
}

fn put(n: usize) -> JobPutRequest {
    let definition = Map::from_iter([
        ("owner".to_owned(), json!("bench")),
        ("level_for_tasks".to_owned(), json!("instance")),
        ("command".to_owned(), json!(["true"])),
    ]);
    let audit = Audit { actor: "bench".to_owned(), reason: String::new() };
    JobPutRequest {
        job: format!("job{n}"),
        definition,
        mode: PutMode::Create,
        version_id: None,
        audit,
    }
}
