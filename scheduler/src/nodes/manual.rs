//! The source `manual`: the config spells the tree out.

use rustc_hash::{FxHashMap, FxHashSet};

use bistro_common::config::ManualNode;
use bistro_core::{ForestBuilder, ForestError};

#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    #[error("no top level nodes are defined: every node is a child of another")]
    NoTopLevel,
    #[error(
        "node {name:?} would be at level {level} but the maximum is {max}; add a level, or look for a circle"
    )]
    TooDeep { name: String, level: usize, max: usize },
    #[error(transparent)]
    Forest(#[from] ForestError),
}

/// Names that are nobody's child hang below the instance node; the order of the config is kept.
pub fn add(nodes: &[ManualNode], builder: &mut ForestBuilder) -> Result<(), ManualError> {
    let by_name: FxHashMap<&str, &ManualNode> =
        nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let children: FxHashSet<&str> =
        nodes.iter().flat_map(|node| node.children.iter().map(String::as_str)).collect();
    let top: Vec<&str> = nodes
        .iter()
        .map(|node| node.name.as_str())
        .filter(|name| !children.contains(name))
        .collect();
    if top.is_empty() {
        return Err(ManualError::NoTopLevel);
    }
    let max = builder.level_names().len() - 1;
    // Depth first with a stack: a deep tree must not need a deep call stack. Reversed, so that
    // siblings come off the stack in the order of the config.
    let instance = builder.instance().to_owned();
    let mut todo: Vec<(&str, String, usize)> =
        top.into_iter().rev().map(|name| (name, instance.clone(), 1)).collect();
    // What is below a node is entered with its first parent.
    let mut entered = FxHashSet::default();
    while let Some((name, parent, level)) = todo.pop() {
        if level > max {
            return Err(ManualError::TooDeep { name: name.to_owned(), level, max });
        }
        let node = by_name.get(name);
        builder.add(level, name, &parent, node.is_none_or(|node| node.enabled))?;
        if !entered.insert((level, name)) {
            continue;
        }
        for child in node.map_or(&[][..], |node| &node.children).iter().rev() {
            todo.push((child, name.to_owned(), level + 1));
        }
    }
    Ok(())
}
