//! The config file, jobs and filters.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

use bistro_common::config::{
    Config, Enforcement, NodeOrder, Parsed, Physical, PhysicalKind, Placement, Policy, Resource,
    WorkerSelector, parse as parse_text,
};

use bistro_common::protocol::heartbeat::Capacity;

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
    let by_level = |of: &dyn Fn(&Resource) -> i64| {
        let mut levels = Map::new();
        for resource in &settings.resources {
            let level = settings.levels[resource.level].clone();
            levels.entry(level).or_insert_with(|| json!({}))[&resource.name] = json!(of(resource));
        }
        levels
    };
    let by_name = |of: &dyn Fn(&Resource) -> i64| -> Map<String, Value> {
        settings.resources.iter().map(|r| (r.name.clone(), json!(of(r)))).collect()
    };
    let physical: Map<String, Value> = settings
        .physical
        .iter()
        .map(|p| (json!(p.kind).as_str().unwrap_or_default().to_owned(), json!(p)))
        .collect();
    json!({
        "ok": true,
        "working_wait_ms": settings.working_wait_ms,
        "idle_wait_ms": settings.idle_wait_ms,
        "kill_orphan_tasks_after_ms": settings.kill_orphans_after_ms,
        "task_subprocess": *settings.subprocess,
        "kill_subprocess": {
            "method": settings.kill.method,
            "kill_wait_ms": settings.kill.wait_ms,
        },
        "worker_resources_override": settings.worker_overrides,
        "physical_resources": physical,
        "limits": by_level(&|r| r.limit),
        "defaults": by_name(&|r| r.default),
        "weights": by_name(&|r| r.weight),
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
    let config = usable(&parsed)?;
    let job = config.job(&name).ok_or("the job is not there")?;
    let (valid, can_run) = (job.errors.is_empty(), job.can_run());
    let mut exported = Value::Object(job.export(&config.settings));
    with_dotted_keys(&mut exported);
    Ok(json!({
        "valid": valid,
        "can_run": can_run,
        "depends_on": job.depends_on,
        "errors": job.errors_object,
        "exported": exported,
        "exported_subset": exported,
    }))
}

/// Expectations may name `a.b.c` for what is nested.
fn with_dotted_keys(value: &mut Value) {
    fn collect(prefix: &str, value: &Value, out: &mut Map<String, Value>) {
        for (key, child) in value.as_object().into_iter().flatten() {
            let path = format!("{prefix}{key}");
            collect(&format!("{path}."), child, out);
            if !prefix.is_empty() {
                out.insert(path, child.clone());
            }
        }
    }
    let mut dotted = Map::new();
    collect("", value, &mut dotted);
    value.as_object_mut().into_iter().for_each(|object| object.extend(dotted.clone()));
}

/// A config with one job, and what it says of it.
fn with_job(job: &Value, levels: &[&str]) -> Result<Config, String> {
    let text = json!({
        "bistro_settings": {"enabled": true, "resources": {}, "nodes": {"levels": levels}},
        "bistro_job->job": job,
    });
    let parsed = parse_text(&text.to_string());
    usable(&parsed).cloned()
}

pub fn filter_export(given: &Value) -> Answer {
    let job = json!({"owner": "o", "filters": {"level": given["filter"]}});
    let config = with_job(&job, &["level"])?;
    let exported = config.jobs[0].export(&config.settings);
    let filter = exported.get("filters").and_then(|filters| filters.get("level"));
    Ok(json!({"exported": filter.cloned().unwrap_or_else(|| json!({}))}))
}

pub fn required_host(given: &Value) -> Answer {
    let config = with_job(&given["job"], &["level1", "level2"])?;
    let path: Vec<BTreeMap<String, String>> = field(given, "path")?;
    let at_level = |level: usize| {
        let named = path.iter().find(|on| on["level"] == config.settings.levels[level]);
        named.map_or("", |on| on["name"].as_str())
    };
    Ok(json!({"host": match &config.jobs[0].placement {
        Placement::Anywhere => "",
        Placement::Host(host) => host,
        Placement::HostAtLevel(level) => at_level(*level),
    }}))
}

pub fn worker_filter(given: &Value) -> Answer {
    let job = json!({"owner": "o", "filters": given["filters"]});
    let config = with_job(&job, &["level"])?;
    let filter = config.jobs[0].worker_filter.as_ref().ok_or("there is no filter on workers")?;
    let workers: Vec<BTreeMap<String, String>> = field(given, "workers")?;
    let allowed = |worker: &&BTreeMap<String, String>| {
        filter.passes(&worker["hostname"], &BTreeSet::new(), "job")
    };
    let allowed: Vec<_> = workers.iter().filter(allowed).map(|w| &w["shard"]).collect();
    Ok(json!({"allowed": allowed}))
}

pub fn physical_to_logical(given: &Value) -> Answer {
    let physical = Physical {
        kind: PhysicalKind::CpuCore,
        logical_resource: String::new(),
        multiply_logical_by: given["multiply_logical_by"].as_f64().unwrap_or(1.0),
        physical_reserve_amount: given["physical_reserve_amount"].as_f64().unwrap_or(0.0),
        enforcement: Enforcement::None,
    };
    let slots = physical.slots(field(given, "physical")?);
    Ok(json!({"logical": slots}))
}

pub fn worker_capacity(given: &Value) -> Answer {
    let limits: BTreeMap<String, i64> = field(given, "limits")?;
    let limits =
        limits.iter().map(|(name, limit)| (name.clone(), json!({"limit": limit, "default": 0})));
    let mut settings = json!({
        "enabled": true,
        "nodes": {"levels": []},
        "resources": {"worker": limits.collect::<Map<_, _>>()},
    });
    for (from, to) in
        [("physical_resources", "physical_resources"), ("overrides", "worker_resources_override")]
    {
        if !given[from].is_null() {
            settings[to] = given[from].clone();
        }
    }
    let parsed = parse_text(&json!({"bistro_settings": settings}).to_string());
    let settings = &usable(&parsed)?.settings;
    let worker = &given["worker"];
    let capacity = Capacity {
        cpu_cores: worker["cpu_cores"].as_u64().unwrap_or(0) as u32,
        ram_mb: worker["memory_mb"].as_u64().unwrap_or(0),
        gpus: field(worker, "gpus").unwrap_or_default(),
        ..Capacity::default()
    };
    let text = |key: &str| worker[key].as_str().unwrap_or_default().to_owned();
    let (host, shard) = (text("hostname"), text("shard"));
    let slots =
        settings.worker_slots(&capacity, [&format!("{host}:{}", worker["port"]), &host, &shard]);
    let names = settings.resources.iter().map(|r| r.name.clone());
    Ok(json!({"capacity": names.zip(slots).collect::<BTreeMap<_, _>>()}))
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
