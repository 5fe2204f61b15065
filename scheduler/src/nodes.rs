//! Node sources: from what the config says to a forest.
//!
//! Sources run in the order of the config, each seeing what earlier ones made. Scripts run off the
//! caller's loop, with a time-out and a bound on their output. The caller keeps its last good
//! forest when this fails.

mod manual;
mod script;

use std::collections::BTreeMap;

use bistro_common::config::{NodeSource, Settings, expand_format};
use bistro_core::{Forest, ForestBuilder, ForestError};

pub use manual::ManualError;
pub use script::ScriptError;

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
    #[error("{0}")]
    Format(String),
}

/// Runs all sources of the settings.
pub async fn fetch(settings: &Settings, instance: &str) -> Result<Forest, NodesError> {
    let levels = settings.levels[..settings.node_levels()].to_vec();
    let mut builder = ForestBuilder::new(levels, instance);
    for (at, source) in settings.node_sources.iter().enumerate() {
        run(source, &mut builder).await.map_err(|cause| NodesError::Source {
            source_name: source.name(),
            number: at + 1,
            cause,
        })?;
    }
    Ok(builder.build(settings.node_order)?)
}

async fn run(source: &NodeSource, builder: &mut ForestBuilder) -> Result<(), SourceError> {
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
        NodeSource::Script { parent_level, script, timeout_ms, .. } => {
            for parent in names(builder, *parent_level) {
                for child in script::children(script, &parent, *timeout_ms).await? {
                    builder.add(parent_level + 1, &child, &parent, true)?;
                }
            }
            Ok(())
        }
    }
}

fn names(builder: &ForestBuilder, level: usize) -> Vec<String> {
    builder.nodes(level).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests;
