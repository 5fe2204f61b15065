//! A queue: many jobs of one task each, on a level with as many nodes, made one by one while the
//! cell runs.

use anyhow::Context;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

use bistro_common::config::{self, NodeOrder};
use bistro_common::protocol::api::ApiError;
use bistro_common::protocol::heartbeat::OpenDigest;
use bistro_common::protocol::job::{Audit, JobPutRequest, PutMode};
use bistro_core::{Draft, Effect, Forest, ForestBuilder, Input, Snapshot};
use bistro_tests::bare_core::{NOW, core, heartbeat};

use crate::core::{Cell, restarts};
use crate::{own_rss_kb, percentile, round};

/// So many run at once.
const LIMIT: usize = 64;

/// Plans that are held beside each other to see how large one is: memory that was used before is
/// used again for the first ones.
const PLANS: usize = 4;

pub fn run(jobs: usize, policy: &str) -> anyhow::Result<Value> {
    let config = config::parse(&text(policy, "")).config.context("the config is sound")?;
    let forest = forest(jobs)?;
    let mut cell = Cell::new(core(1, Snapshot::default()));
    cell.step(Input::Plan { config: Arc::new(config), forest: forest.clone() });
    cell.step(Input::Heartbeat { token: 1, heartbeat: Box::new(heartbeat(OpenDigest::default())) });
    let before_kb = own_rss_kb();
    let mut puts = Vec::with_capacity(jobs);
    for n in 0..jobs {
        let request = put(n);
        let started = Instant::now();
        let answer = cell.core.job_put(NOW, &request, &mut cell.out);
        cell.tell_audits();
        cell.step(Input::Tick);
        puts.push(started.elapsed().as_secs_f64() * 1e6);
        answer.map_err(|error: ApiError| anyhow::anyhow!(error.message))?;
        cell.take_assignments();
    }
    let per_job = |kb: u64, times: usize| kb as f64 * 1_024.0 / (times * jobs.max(1)) as f64;
    let with_definition = per_job(own_rss_kb().saturating_sub(before_kb), 1);
    puts.sort_by(f64::total_cmp);
    let mut ends = restarts(&mut cell, jobs / 2);
    ends.sort_by(f64::total_cmp);
    let plan_kb = plan_kb(jobs, policy, forest)?;
    Ok(json!({
        "jobs": jobs,
        "put_us_p50": round(percentile(&puts, 0.5)),
        "put_us_p99": round(percentile(&puts, 0.99)),
        "restart_us_p50": round(percentile(&ends, 0.5)),
        "restart_us_p99": round(percentile(&ends, 0.99)),
        "bytes_per_job": round(per_job(plan_kb, PLANS)),
        "bytes_per_job_with_definition": round(with_definition),
    }))
}

/// What [`PLANS`] plans of these jobs take beside their config.
fn plan_kb(jobs: usize, policy: &str, forest: Arc<Forest>) -> anyhow::Result<u64> {
    let job = |n| format!("\"bistro_job->job{n}\": {}", Value::Object(definition(n)));
    let texts: Vec<String> = (0..jobs).map(job).collect();
    let config = config::parse(&text(policy, &format!(", {}", texts.join(", "))));
    let config = Arc::new(config.config.context("the config is sound")?);
    let mut cell = Cell::new(core(1, Snapshot::default()));
    cell.core.step(NOW, Input::Plan { config, forest }, &mut cell.out);
    let draft: Option<Draft> = cell.out.drain(..).find_map(|effect| match effect {
        Effect::Compile(draft) => Some(draft),
        _ => None,
    });
    let draft = draft.context("a new config is compiled")?;
    let compile = || (0..PLANS).map(|_| draft.clone().compile()).collect::<Vec<_>>();
    let first = compile();
    let before_kb = own_rss_kb();
    let second = compile();
    let kb = own_rss_kb().saturating_sub(before_kb);
    drop((first, second));
    Ok(kb)
}

fn text(policy: &str, jobs: &str) -> String {
    format!(
        r#"{{"bistro_settings": {{"enabled": true, "scheduler": "{policy}",
        "nodes": {{"levels": ["host", "db"], "node_sources": [{{"source": "empty"}}]}},
        "resources": {{"db": {{"slot": {{"limit": 1, "default": 1}}}},
            "worker": {{"cpu": {{"limit": {LIMIT}, "default": 1}}}}}}}}{jobs}}}"#
    )
}

fn forest(nodes: usize) -> anyhow::Result<Arc<Forest>> {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    for node in 0..nodes {
        let host = format!("host{}", node / 25);
        if node % 25 == 0 {
            builder.add(1, &host, "root", true)?;
        }
        builder.add(2, &format!("db{node}"), &host, true)?;
    }
    Ok(Arc::new(builder.build(NodeOrder::Random)?))
}

fn definition(n: usize) -> Map<String, Value> {
    Map::from_iter([
        ("owner".to_owned(), json!("bench")),
        ("filters".to_owned(), json!({"db": {"whitelist": [format!("db{n}")]}})),
        ("command".to_owned(), json!(["true"])),
    ])
}

fn put(n: usize) -> JobPutRequest {
    let audit = Audit { actor: "bench".to_owned(), reason: String::new() };
    JobPutRequest {
        job: format!("job{n}"),
        definition: definition(n),
        mode: PutMode::Create,
        version_id: None,
        audit,
    }
}
