//! Node sources.

use serde_json::{Value, json};

use bistro_common::config::{NodeSource, Settings, parse};
use bistro_common::cron;
use bistro_core::{Forest, NodeIx};
use bistro_scheduler::nodes::{Scripts, fetch as fetch_nodes};

use super::cron::zone;
use super::{Answer, field};

pub fn settings(levels: &Value, sources: &Value) -> Result<Settings, String> {
    let text = json!({"bistro_settings": {
        "enabled": true, "resources": {}, "nodes": {"levels": levels, "node_sources": sources},
    }});
    let parsed = parse(&text.to_string());
    let problems = || parsed.problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>();
    parsed.config.as_ref().map(|c| c.settings.clone()).ok_or_else(|| problems().join("; "))
}

pub fn add_time(given: &Value) -> Answer {
    let parents: Vec<String> = field(given, "parents")?;
    let mut prefs = given["prefs"].clone();
    // The zone of the case need not be one that the host knows by name.
    let zone = zone(given)?;
    prefs["time_zone"] = Value::Null;
    if let Value::Object(prefs) = &mut prefs {
        prefs.shift_remove("time_zone");
    }
    let sources = json!([{"source": "add_time", "prefs": prefs}]);
    let settings = settings(&given["levels"], &sources)?;
    let [NodeSource::AddTime { format, schedule, .. }] = &settings.node_sources[..] else {
        return Err("not an add_time source".to_owned());
    };
    let events = cron::events(schedule, field(given, "now")?, &zone);
    let events = events.map_err(|error| error.to_string())?;
    let mut nodes = Vec::new();
    for parent in &parents {
        for (time, event) in &events {
            let name = bistro_scheduler::nodes::add_time_name(format, parent, *time)?;
            nodes.push(json!({"name": name, "enabled": event.enabled, "tags": event.tags}));
        }
    }
    Ok(json!({"nodes": nodes}))
}

pub fn fetch(given: &Value) -> Answer {
    let mut sources = given["node_sources"].clone();
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    if let Some(body) = given["script_body"].as_str() {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.path().join("script");
        let write = || {
            std::fs::write(&path, body)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        };
        write().map_err(|error| error.to_string())?;
        let text = sources.to_string().replace("$SCRIPT", &path.display().to_string());
        sources = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    }
    let settings = settings(&given["levels"], &sources)?;
    let instance = given["instance"].as_str().unwrap_or("instance");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut scripts = Scripts::default();
    let forest = runtime.block_on(fetch_nodes(&settings, instance, 0, &mut scripts));
    Ok(describe(&forest.map_err(|error| error.to_string())?))
}

fn describe(forest: &Forest) -> Value {
    let all = || (0..forest.node_count() as u32).map(NodeIx);
    // The original has a node for each parent.
    let node = |node: NodeIx| {
        forest.parents(node).map(move |parent| {
            json!({
                "name": forest.name(node),
                "level": forest.level_of(node),
                "parent": forest.name(parent),
                "enabled": forest.is_enabled(node),
            })
        })
    };
    let mut counts = serde_json::Map::new();
    for (level, name) in forest.level_names().iter().enumerate() {
        let more = forest.level(level).map(|n| forest.more_parents(NodeIx(n as u32)).len());
        counts.insert(name.clone(), json!(forest.level(level).len() + more.sum::<usize>()));
    }
    let disabled = all().filter(|&node| !forest.is_enabled(node));
    json!({
        "nodes": all().skip(1).flat_map(node).collect::<Vec<_>>(),
        "count_by_level": counts,
        "disabled": disabled.map(|node| forest.name(node)).collect::<Vec<_>>(),
    })
}
