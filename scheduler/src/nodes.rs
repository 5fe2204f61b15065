//! Node sources: from what the config says to a forest.
//!
//! Sources run in the order of the config, each seeing what earlier ones made. Scripts run off the
//! caller's loop, with a time-out and a bound on their output. The caller keeps its last good
//! forest when this fails.

mod document;
mod manual;
mod script;

use std::collections::BTreeMap;

use bistro_common::config::{LevelIx, NodeSource, Settings, expand_format};
use bistro_common::cron::{self, CronError, Event};
use bistro_core::{Forest, ForestBuilder, ForestError};
use jiff::tz::TimeZone;
use std::time::Duration;

pub use document::ContentError;
pub use manual::ManualError;
pub use script::{ScriptError, Scripts};

/// Why a source has no nodes to offer.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    #[error("the node source {source_name:?} (number {number}) failed: {cause}")]
    Source { source_name: &'static str, number: usize, cause: SourceError },
    #[error("the nodes do not make a forest")]
    Forest(#[from] ForestError),
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Forest(#[from] ForestError),
    #[error(transparent)]
    Manual(#[from] ManualError),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Cron(#[from] CronError),
    #[error("there is no time zone {name:?} on this host; expected a name such as Europe/Berlin")]
    TimeZone { name: String },
    #[error("{0}")]
    Format(String),
}

/// Runs all sources of the settings, at a time in seconds since the epoch. A script that fails is
/// taken to say what it said last, if it ever did; [`Scripts::take_problems`] tells.
pub async fn fetch(
    settings: &Settings,
    instance: &str,
    now: i64,
    scripts: &mut Scripts,
) -> Result<Forest, NodesError> {
    let levels = settings.levels[..settings.node_levels()].to_vec();
    let mut builder = ForestBuilder::new(levels, instance);
    for (at, source) in settings.node_sources.iter().enumerate() {
        run(source, now, &mut builder, scripts).await.map_err(|cause| NodesError::Source {
            source_name: source.name(),
            number: at + 1,
            cause,
        })?;
    }
    scripts.forget_unused();
    Ok(builder.build(settings.node_order)?)
}

async fn run(
    source: &NodeSource,
    now: i64,
    builder: &mut ForestBuilder,
    scripts: &mut Scripts,
) -> Result<(), SourceError> {
    match source {
        NodeSource::Empty => Ok(()),
        NodeSource::Manual { nodes } => Ok(manual::add(nodes, builder)?),
        NodeSource::RangeLabel { parent_level, start, end, format, enabled } => {
            for parent in names(builder, *parent_level) {
                for i in *start..=*end {
                    let (i, start, end) = (i.to_string(), start.to_string(), end.to_string());
                    let values = BTreeMap::from([
                        ("parent", parent.as_str()),
                        ("i", &i),
                        ("start", &start),
                        ("end", &end),
                    ]);
                    let name = expand_format(format, &values).map_err(SourceError::Format)?;
                    builder.add(parent_level + 1, &name, &parent, *enabled)?;
                }
            }
            Ok(())
        }
        NodeSource::AddTime { parent_level, format, time_zone: zone, schedule } => {
            let events = cron::events(schedule, now, &time_zone(zone.as_deref())?)?;
            add_time(*parent_level, format, &events, builder)
        }
        NodeSource::Document { parent_level, place, timeout_ms, .. } => {
            let timeout = Duration::from_millis(*timeout_ms);
            let content = scripts.document(place, timeout).await?;
            document::add(*parent_level, &content, builder)
        }
        NodeSource::Script { parent_level, script, timeout_ms, period_ms } => {
            let period = Duration::from_millis(*period_ms);
            for parent in names(builder, *parent_level) {
                for child in scripts.children(script, &parent, *timeout_ms, period).await? {
                    builder.add(parent_level + 1, &child, &parent, true)?;
                }
            }
            Ok(())
        }
    }
}

fn add_time(
    parent_level: LevelIx,
    format: &str,
    events: &BTreeMap<i64, Event>,
    builder: &mut ForestBuilder,
) -> Result<(), SourceError> {
    for parent in names(builder, parent_level) {
        for (time, event) in events {
            let name = add_time_name(format, &parent, *time).map_err(SourceError::Format)?;
            builder.add(parent_level + 1, &name, &parent, event.enabled)?;
            builder.set_tags(parent_level + 1, &name, event.tags.clone());
        }
    }
    Ok(())
}

/// The name of an event's node.
pub fn add_time_name(format: &str, parent: &str, time: i64) -> Result<String, String> {
    let time = time.to_string();
    expand_format(format, &BTreeMap::from([("parent", parent), ("time", &time)]))
}

/// An IANA name, or the host's own zone.
pub fn time_zone(name: Option<&str>) -> Result<TimeZone, SourceError> {
    match name {
        Some(name) => {
            TimeZone::get(name).map_err(|_| SourceError::TimeZone { name: name.to_owned() })
        }
        None => Ok(TimeZone::system()),
    }
}

fn names(builder: &ForestBuilder, level: usize) -> Vec<String> {
    builder.nodes(level).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests;
