//! The config file, jobs and filters.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use bistro_common::config::{
    Config, NodeOrder, Parsed, Policy, WorkerSelector, parse as parse_text,
};

use super::{Answer, field};

fn usable(parsed: &Parsed) -> Result<&Config, String> {
    let problems = || parsed.problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>();
    parsed.config.as_ref().ok_or_else(|| problems().join("; "))
}

fn describe(config: &Config) -> Value {
    let settings = &config.settings;
    let policy = match settings.policy {
        Policy::RoundRobin => "roundrobin",
        Policy::RankedPriority => "ranked_priority",
        Policy::RandomizedPriority => "randomized_priority",
        Policy::LongTail => "long_tail",
    };
    let order = match settings.node_order {
        NodeOrder::Random => "random",
        NodeOrder::Original => "original",
        NodeOrder::Lexicographic => "lexicographic",
    };
    let selector = match settings.worker_selector {
        WorkerSelector::RoundRobin => "roundrobin",
        WorkerSelector::Busiest => "busiest",
        WorkerSelector::TwoChoice => "two_choice",
    };
    json!({
        "ok": true,
        "enabled": settings.enabled,
        "scheduler": policy,
        "node_order": order,
        "remote_worker_selector": selector,
        "levels": settings.levels,
        "level_for_tasks": settings.levels[settings.level_for_tasks],
        "jobs": config.jobs.iter().map(|job| &job.name).collect::<Vec<_>>(),
        "node_sources": settings.node_sources.iter().map(|s| s.name()).collect::<Vec<_>>(),
    })
}

pub fn parse(given: &Value) -> Answer {
    let parsed = parse_text(&json!({"bistro_settings": given["bistro_settings"]}).to_string());
    Ok(describe(usable(&parsed)?))
}

pub fn file(given: &Value) -> Answer {
    let text: String = field(given, "text")?;
    Ok(describe(usable(&parse_text(&text))?))
}

pub fn job(given: &Value) -> Answer {
    let name: String = field(given, "name")?;
    let mut text = json!({"bistro_settings": given["bistro_settings"]});
    text[format!("bistro_job->{name}")] = given["job"].clone();
    let parsed = parse_text(&text.to_string());
    let job = usable(&parsed)?.job(&name).ok_or("the job is not there")?;
    let (valid, can_run) = (job.errors.is_empty(), job.can_run());
    Ok(json!({"valid": valid, "can_run": can_run, "depends_on": job.depends_on}))
}

pub fn filter(given: &Value) -> Answer {
    let text = json!({
        "bistro_settings": {"enabled": true, "resources": {}, "nodes": {"levels": ["level"]}},
        "bistro_job->job": {"owner": "o", "filters": {"level": given["filter"]}},
    });
    let parsed = parse_text(&text.to_string());
    let job = usable(&parsed)?.job("job").ok_or("the job is not there")?;
    if let Some(error) = job.errors.first() {
        return Err(error.message.clone());
    }
    let name = given["job"].as_str().unwrap_or_default();
    let nodes: Vec<Value> = field(given, "nodes")?;
    let pass = nodes.iter().map(|node| {
        let tags: BTreeSet<String> = field(node, "tags").unwrap_or_default();
        let node = node["name"].as_str().unwrap_or_default();
        job.filters.values().all(|filter| filter.passes(node, &tags, name))
    });
    Ok(json!({"pass": pass.collect::<Vec<_>>()}))
}

/// How far the number of 10,000 nodes that pass is from the expected one.
pub fn fraction_stat(given: &Value) -> Answer {
    let fraction: f64 = field(given, "fraction")?;
    let nodes: Vec<_> = (0..10_000).map(|n| json!({"name": n.to_string(), "tags": []})).collect();
    let case =
        json!({"filter": {"fraction_of_nodes": fraction}, "job": given["job"], "nodes": nodes});
    let passed: Vec<bool> = field(&filter(&case)?, "pass")?;
    let passed = passed.into_iter().filter(|&pass| pass).count() as f64;
    Ok(json!({"abs_diff_from_expected": (passed - fraction * 10_000.0).abs()}))
}
