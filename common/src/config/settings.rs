//! `bistro_settings`: an error anywhere in here refuses the whole file.

use std::sync::Arc;

use super::model::{LevelIx, NodeOrder, Policy, Resource, Settings, WorkerSelector};
use super::physical::{read_overrides, read_physical};
use super::reader::Reader;
use super::sources::read_source;
use super::subprocess::{DEFAULT_KILL, Subprocess, read_kill, read_orphan_delay, read_subprocess};
use crate::status::Backoff;

/// The longest wait that a config may ask for: 10 years, so that sums of times cannot overflow.
pub(super) const SECONDS_MAX: f64 = 315_360_000.0;

pub fn read(reader: &Reader<'_>) -> Option<Settings> {
    let errors = reader.problems().error_count();
    let object = reader.object()?;
    let enabled = object.get("enabled").and_then(|r| r.bool()).unwrap_or(false);
    let policy = object.get("scheduler").and_then(|r| read_policy(&r));
    let backoff = object.get("backoff").and_then(|r| read_backoff(&r)).unwrap_or_default();
    let nodes = object.required("nodes").and_then(|r| r.object());
    let mut levels = Levels::default();
    let mut node_order = NodeOrder::Random;
    let mut node_sources = Vec::new();
    if let Some(nodes) = nodes {
        if let Some(names) = nodes.required("levels") {
            levels = Levels::read(&names)?;
        }
        node_order = nodes.get("node_order").and_then(|r| read_order(&r)).unwrap_or(node_order);
        if let Some(list) = nodes.get("node_sources") {
            let sources = list.items().unwrap_or_default();
            node_sources = sources.iter().filter_map(|r| read_source(r, &levels)).collect();
        }
        nodes.finish();
        if node_sources.is_empty() {
            reader
                .child("nodes")
                .unwrap_or(reader.clone())
                .warn_key("there are no node sources: only the instance node exists", None);
        }
    }
    let level_for_tasks =
        object.get("level_for_tasks").and_then(|r| levels.find(&r)).unwrap_or(levels.lowest());
    let resources = object.required("resources").map(|r| read_resources(&r, &levels));
    let kill = object.get("kill_subprocess").map_or(DEFAULT_KILL, |r| read_kill(&r, DEFAULT_KILL));
    let subprocess = match object.get("task_subprocess") {
        Some(reader) => read_subprocess(&reader, &Subprocess::default()),
        None => Subprocess::default(),
    };
    let worker_selector = object.get("remote_worker_selector").and_then(|r| {
        r.word(&[
            ("roundrobin", WorkerSelector::RoundRobin),
            ("busiest", WorkerSelector::Busiest),
            ("two_choice", WorkerSelector::TwoChoice),
        ])
    });
    let wait_ms = |key, default_ms| {
        object.obsolete(key, "the scheduler follows changes at once");
        let seconds = object.get(key).and_then(|r| r.float());
        seconds.map_or(default_ms, |seconds| (seconds * 1_000.0) as i64)
    };
    let (working_wait_ms, idle_wait_ms) =
        (wait_ms("working_wait", 500), wait_ms("idle_wait", 5_000));
    object.obsolete(
        "CAUTION_exit_initial_wait_before_timestamp",
        "there is no initial wait to leave",
    );
    if let Some(reader) = object.get("CAUTION_exit_initial_wait_before_timestamp") {
        reader.int();
    }
    let resources = resources.unwrap_or_default();
    let worker = levels.0.len() - 1;
    let worker_overrides = object
        .get("worker_resources_override")
        .map(|r| read_overrides(&r, worker, &resources))
        .unwrap_or_default();
    let physical = object
        .get("physical_resources")
        .map(|r| read_physical(&r, worker, &resources))
        .unwrap_or_default();
    let kill_orphans_after_ms =
        object.get("kill_orphan_tasks_after_sec").and_then(|r| read_orphan_delay(&r)).flatten();
    let preempt = object.get("preempt").and_then(|r| r.bool()).unwrap_or(false);
    object.finish();
    if !enabled && object.get("enabled").is_none() {
        reader.warn_key(
            "\"enabled\" is not set, so nothing will be started",
            Some("add \"enabled\": true".to_owned()),
        );
    }
    (reader.problems().error_count() == errors).then(|| Settings {
        enabled,
        policy: policy.unwrap_or(Policy::RoundRobin),
        backoff,
        levels: levels.0,
        node_order,
        node_sources,
        level_for_tasks,
        resources,
        worker_overrides,
        physical,
        preempt,
        kill,
        subprocess: Arc::new(subprocess),
        kill_orphans_after_ms,
        working_wait_ms,
        idle_wait_ms,
        worker_selector: worker_selector.unwrap_or_default(),
    })
}

/// The level names from `instance` to `worker`.
pub(super) struct Levels(pub(super) Vec<String>);

impl Default for Levels {
    fn default() -> Self {
        Self(vec!["instance".to_owned(), "worker".to_owned()])
    }
}

impl Levels {
    fn read(reader: &Reader<'_>) -> Option<Self> {
        let mut names = vec!["instance".to_owned()];
        for item in reader.items()? {
            let name = item.string()?;
            if name == "worker" {
                item.error("the level \"worker\" exists beside the nodes; leave it out", None);
                return None;
            }
            // Repeats collapse into the first, "instance" among them.
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.push("worker".to_owned());
        Some(Self(names))
    }

    pub(super) fn lowest(&self) -> LevelIx {
        self.0.len() - 2
    }

    /// A level that can have nodes.
    pub(super) fn find(&self, reader: &Reader<'_>) -> Option<LevelIx> {
        let found = find_level(&self.0, reader)?;
        if found == self.0.len() - 1 {
            reader.error("no nodes live at the level \"worker\"", None);
            return None;
        }
        Some(found)
    }
}

/// A level by name, the worker level included.
pub fn find_level(levels: &[String], reader: &Reader<'_>) -> Option<LevelIx> {
    let name = reader.string()?;
    let found = levels.iter().position(|level| *level == name);
    if found.is_none() {
        unknown_identifier(reader, &name, levels);
    }
    found
}

pub fn unknown_identifier(reader: &Reader<'_>, name: &str, known: &[String]) {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match super::reader::did_you_mean(name, &known) {
        Some(near) => format!("{name:?} is not known; {near}"),
        None if known.is_empty() => format!("{name:?} is not known, nor is any other"),
        None => format!("{name:?} is not known; known here: {}", known.join(", ")),
    };
    // The words are the original's: tools look for them.
    reader.error_key("Unknown identifier", Some(hint));
}

fn read_policy(reader: &Reader<'_>) -> Option<Policy> {
    reader.word(&[
        ("roundrobin", Policy::RoundRobin),
        ("ranked_priority", Policy::RankedPriority),
        ("randomized_priority", Policy::RandomizedPriority),
        ("long_tail", Policy::LongTail),
    ])
}

fn read_order(reader: &Reader<'_>) -> Option<NodeOrder> {
    reader.word(&[
        ("random", NodeOrder::Random),
        ("original", NodeOrder::Original),
        ("lexicographic", NodeOrder::Lexicographic),
    ])
}

pub fn read_backoff(reader: &Reader<'_>) -> Option<Backoff> {
    Backoff::from_json(&reader.json()).map_err(|error| reader.error(error.to_string(), None)).ok()
}

fn read_resources(reader: &Reader<'_>, levels: &Levels) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    let Some(object) = reader.object() else {
        return resources;
    };
    for (level_name, of_level) in object.entries() {
        let Some(level) = levels.0.iter().position(|level| level == level_name) else {
            unknown_identifier(&of_level, level_name, &levels.0);
            continue;
        };
        let Some(of_level) = of_level.object() else {
            continue;
        };
        for (name, entry) in of_level.entries() {
            if resources.iter().any(|resource| resource.name == name) {
                entry.error_key(format!("the resource {name:?} exists on another level"), None);
            }
            resources.extend(read_resource(name, level, &entry));
        }
    }
    resources
}

fn read_resource(name: &str, level: LevelIx, reader: &Reader<'_>) -> Option<Resource> {
    let object = reader.object()?;
    let limit = object.required("limit").and_then(|r| not_negative(&r));
    let default = object.required("default").and_then(|r| not_negative(&r));
    let weight = object.get("weight").map_or(Some(0), |r| not_negative(&r));
    object.finish();
    Some(Resource {
        name: name.to_owned(),
        level,
        limit: limit?,
        default: default?,
        weight: weight?,
    })
}

/// Slots are whole and not negative, and small enough that sums of them cannot overflow.
pub fn not_negative(reader: &Reader<'_>) -> Option<i64> {
    let value = reader.int()?;
    if (0..=i64::from(u32::MAX)).contains(&value) {
        return Some(value);
    }
    reader.error(format!("must be between 0 and {}, found {value}", u32::MAX), None);
    None
}
