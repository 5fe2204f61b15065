//! `node_sources`: where nodes come from.

use std::collections::BTreeMap;

use super::model::{DocumentPlace, LevelIx, ManualNode, NodeSource, expand_format};
use super::problem::{Problem, Problems};
use super::reader::{ObjectReader, Reader};
use super::settings::{Levels, SECONDS_MAX};
use super::tree::Tree;
use crate::cron::{CronItem, ScheduleItem};

/// How long a node script may run, and how often it runs, unless the config says otherwise.
const SCRIPT_TIMEOUT_SEC: f64 = 60.0;
const SCRIPT_PERIOD_SEC: f64 = 300.0;

/// How often a file or a bucket of nodes is looked at, and a URL.
const FILE_PERIOD_SEC: f64 = 1.0;
const HTTP_PERIOD_SEC: f64 = 60.0;
const HTTP_TIMEOUT_SEC: f64 = 10.0;

pub fn read_source(reader: &Reader<'_>, levels: &Levels) -> Option<NodeSource> {
    let object = reader.object()?;
    let kind = object.required("source")?;
    let prefs = object.get("prefs");
    object.finish();
    let name = kind.string()?;
    kind.word(&[
        ("manual", ()),
        ("range_label", ()),
        ("script", ()),
        ("add_time", ()),
        ("file", ()),
        ("http", ()),
        ("nats_kv", ()),
        ("empty", ()),
    ])?;
    if name == "empty" {
        return Some(NodeSource::Empty);
    }
    let Some(prefs) = prefs else {
        reader.error(format!("the node source {name:?} needs \"prefs\""), None);
        return None;
    };
    match name.as_str() {
        "manual" => read_manual(&prefs),
        "range_label" => read_range_label(&prefs, levels),
        "add_time" => read_add_time(&prefs, levels),
        document @ ("file" | "http" | "nats_kv") => read_document(document, &prefs, levels),
        _ => read_script(&prefs, levels),
    }
}

fn read_manual(prefs: &Reader<'_>) -> Option<NodeSource> {
    let mut nodes = Vec::new();
    for (name, entry) in prefs.object()?.entries() {
        let mut node = ManualNode { name: name.to_owned(), children: Vec::new(), enabled: true };
        let mut children = Some(entry.clone());
        if entry.is_object() {
            let object = entry.object()?;
            children = object.get("children");
            node.enabled = !object.get("disabled").map_or(Some(false), |r| r.bool())?;
            object.finish();
        }
        node.children = match children {
            Some(list) if matches!(list.json(), serde_json::Value::String(_)) => {
                vec![list.string()?]
            }
            Some(list) => list.strings()?,
            None => Vec::new(),
        };
        nodes.push(node);
    }
    Some(NodeSource::Manual { nodes })
}

/// The parent level of a source; the level below it must exist.
fn read_parent_level(reader: Option<Reader<'_>>, levels: &Levels) -> Option<LevelIx> {
    let reader = reader?;
    let level = levels.find(&reader)?;
    if level >= levels.lowest() {
        reader.error(
            format!("there is no level below {:?} for the nodes", levels.0[level]),
            Some(format!("\"levels\" must name at least {} levels", level + 1)),
        );
        return None;
    }
    Some(level)
}

fn read_range_label(prefs: &Reader<'_>, levels: &Levels) -> Option<NodeSource> {
    let object = prefs.object()?;
    let parent_level = read_parent_level(object.required("parent_level"), levels);
    let start = object.required("start").and_then(|r| r.int());
    let end = object.required("end").and_then(|r| r.int());
    let format_reader = object.get("format");
    let format = match &format_reader {
        Some(reader) => reader.string()?,
        None => "{parent}__{i}".to_owned(),
    };
    let enabled = object.get("enabled").map_or(Some(true), |r| r.bool())?;
    object.finish();
    let (parent_level, start, end) = (parent_level?, start?, end?);
    let sample = BTreeMap::from([("parent", "p"), ("i", "0"), ("start", "0"), ("end", "0")]);
    if let Err(error) = expand_format(&format, &sample) {
        format_reader.unwrap_or(prefs.clone()).error(error, None);
        return None;
    }
    const NODES_MAX: i64 = 10_000_000;
    if end.saturating_sub(start) >= NODES_MAX {
        prefs.error_key(format!("more than {NODES_MAX} nodes for each parent"), None);
        return None;
    }
    Some(NodeSource::RangeLabel { parent_level, start, end, format, enabled })
}

fn read_script(prefs: &Reader<'_>, levels: &Levels) -> Option<NodeSource> {
    let object = prefs.object()?;
    let parent_level = read_parent_level(object.required("parent_level"), levels);
    let script = object.required("script").and_then(|r| r.string());
    let timeout_ms = read_ms(&object, "timeout_sec", SCRIPT_TIMEOUT_SEC);
    let period_ms = read_ms(&object, "period_sec", SCRIPT_PERIOD_SEC);
    object.finish();
    Some(NodeSource::Script {
        parent_level: parent_level?,
        script: script?,
        timeout_ms: timeout_ms?,
        period_ms: period_ms?,
    })
}

/// Seconds as milliseconds.
fn read_ms(object: &ObjectReader<'_>, key: &'static str, default_sec: f64) -> Option<u64> {
    let Some(reader) = object.get(key) else {
        return Some((default_sec * 1_000.0) as u64);
    };
    let seconds = reader.float()?;
    if !(0.001..=SECONDS_MAX).contains(&seconds) {
        reader.error("must be more than 0 seconds and at most ten years", None);
        return None;
    }
    Some((seconds * 1_000.0) as u64)
}

fn read_document(name: &str, prefs: &Reader<'_>, levels: &Levels) -> Option<NodeSource> {
    let object = prefs.object()?;
    let parent_level = match object.get("parent_level") {
        Some(reader) => read_parent_level(Some(reader), levels),
        None => Some(0),
    };
    let text = |key| object.required(key).and_then(|r| r.string());
    let (place, period_sec) = match name {
        "http" => (text("url").map(|url| DocumentPlace::Http { url }), HTTP_PERIOD_SEC),
        "nats_kv" => {
            let (bucket, key) = (text("bucket"), text("key"));
            let both = bucket.zip(key);
            (both.map(|(bucket, key)| DocumentPlace::NatsKv { bucket, key }), FILE_PERIOD_SEC)
        }
        _ => (text("path").map(|path| DocumentPlace::File { path }), FILE_PERIOD_SEC),
    };
    let period_ms = read_ms(&object, "period_sec", period_sec);
    let timeout_ms = match name {
        "http" => read_ms(&object, "timeout_sec", HTTP_TIMEOUT_SEC),
        _ => Some(0),
    };
    object.finish();
    Some(NodeSource::Document {
        parent_level: parent_level?,
        place: place?,
        period_ms: period_ms?,
        timeout_ms: timeout_ms?,
    })
}

/// A tree of nodes that stands in a file of its own, as the prefs of `manual`.
pub fn parse_tree(text: &str) -> Result<Vec<ManualNode>, Vec<Problem>> {
    let tree = Tree::parse(text).map_err(|problem| vec![problem])?;
    let problems = Problems::default();
    let nodes = match read_manual(&Reader::root(&tree, &problems)) {
        Some(NodeSource::Manual { nodes }) => Some(nodes),
        _ => None,
    };
    let problems = problems.into_sorted();
    nodes.ok_or(problems)
}

fn read_add_time(prefs: &Reader<'_>, levels: &Levels) -> Option<NodeSource> {
    let object = prefs.object()?;
    let parent_level = read_parent_level(object.required("parent_level"), levels);
    let format_reader = object.get("format");
    let format = match &format_reader {
        Some(reader) => reader.string()?,
        None => "{parent}:{time}".to_owned(),
    };
    let time_zone = match object.get("time_zone") {
        Some(reader) => Some(reader.string()?),
        None => None,
    };
    let schedule = match object.get("schedule") {
        Some(list) => list.items()?.iter().map(read_schedule_item).collect(),
        None => Some(Vec::new()),
    };
    object.finish();
    let sample = BTreeMap::from([("parent", "p"), ("time", "0")]);
    if let Err(error) = expand_format(&format, &sample) {
        format_reader.unwrap_or(prefs.clone()).error(error, None);
        return None;
    }
    Some(NodeSource::AddTime {
        parent_level: parent_level?,
        format,
        time_zone,
        schedule: schedule?,
    })
}

/// Unknown keys are ignored, as the original does.
fn read_schedule_item(reader: &Reader<'_>) -> Option<ScheduleItem> {
    let object = reader.object()?;
    let cron = object.required("cron").and_then(|cron| {
        let item = CronItem::parse(&cron.json());
        item.map_err(|error| cron.error(error.to_string(), None)).ok()
    });
    let lifetime = object.required("lifetime").and_then(|lifetime| match lifetime.int()? {
        0 => {
            lifetime.error("the lifetime must not be 0", None);
            None
        }
        seconds => Some(seconds),
    });
    let enabled_lifetime = match object.get("enabled_lifetime") {
        Some(reader) => Some(reader.int()?).filter(|&seconds| seconds != -1),
        None => None,
    };
    let tags = object.get("tags").map_or(Some(Vec::new()), |tags| tags.strings())?;
    let lifetime_sec = lifetime?;
    Some(ScheduleItem {
        cron: cron?,
        lifetime_sec,
        enabled_lifetime_sec: enabled_lifetime.unwrap_or(lifetime_sec),
        tags: tags.into_iter().collect(),
    })
}
