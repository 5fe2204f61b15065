//! The forest of nodes: names, parents, and which of them are enabled.
//!
//! Immutable once built. Nodes are numbered level by level and, within a level, grouped by parent,
//! so the children of a node are a contiguous range of numbers. A node may be below more nodes
//! than that one: those edges are kept apart, and cost nothing where there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rustc_hash::FxHashMap;

use bistro_common::config::{LevelIx, NodeOrder};

use crate::prefetch::prefetch;

mod builder;
mod names;

pub use builder::ForestBuilder;
pub use names::NameTable;

/// Number of a node, over all levels; 0 is the instance node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u32);

impl NodeIx {
    pub const INSTANCE: Self = Self(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why nodes do not make a forest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForestError {
    #[error("a node of level {level:?} has no name")]
    NoName { level: String },
    #[error("the node name {name:?} has a control character, or more than {NODE_NAME_MAX} bytes")]
    BadName { name: String },
    #[error("the node {name:?} is listed twice below {parent:?}")]
    Twice { name: String, parent: String },
    #[error("the node {name:?} is below {parent:?}, which is not a node of level {level:?}")]
    NoParent { name: String, parent: String, level: String },
    #[error("there are more than {max} nodes")]
    TooMany { max: usize },
}

/// The longest node name: it becomes an argument of a command and a part of messages.
pub const NODE_NAME_MAX: usize = 4_096;

/// Numbers of nodes are 32 bits wide, and one value is kept free.
const NODES_MAX: usize = u32::MAX as usize - 1;

#[derive(Debug)]
pub struct Forest {
    /// Names of the levels that have nodes, `instance` first.
    level_names: Vec<String>,
    /// Where each level starts; one more entry at the end.
    level_starts: Vec<u32>,
    /// All names, one after the other.
    names: String,
    /// By number; one more entry at the end.
    nodes: Vec<Node>,
    /// Parents beside that one, and children that are in another node's range.
    more_parents: FxHashMap<NodeIx, Vec<NodeIx>>,
    more_children: FxHashMap<NodeIx, Vec<NodeIx>>,
    /// Of the nodes that have any.
    tags: BTreeMap<NodeIx, BTreeSet<String>>,
    /// Per level, its nodes by their names.
    by_name: Vec<NameTable>,
}

/// What is always kept of a node, side by side: it is mostly looked at together. Names and children of
/// consecutive nodes are consecutive, so those of one end where those of the next begin.
#[derive(Debug, PartialEq)]
struct Node {
    name_start: u32,
    parent: u32,
    child_start: u32,
    enabled: bool,
}

impl PartialEq for Forest {
    /// What is not compared follows from the rest.
    fn eq(&self, other: &Self) -> bool {
        self.level_names == other.level_names
            && self.level_starts == other.level_starts
            && self.names == other.names
            && self.nodes == other.nodes
            && self.more_parents == other.more_parents
            && self.tags == other.tags
    }
}

impl Forest {
    /// A forest of the instance node alone.
    pub fn empty(level_names: Vec<String>, instance: &str) -> Self {
        ForestBuilder::new(level_names, instance)
            .build(NodeOrder::Original)
            .expect("a forest of one node with a checked name is valid")
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    pub fn level_names(&self) -> &[String] {
        &self.level_names
    }

    /// The numbers of a level's nodes; empty for a level without any.
    pub fn level(&self, level: LevelIx) -> Range<usize> {
        match self.level_starts.get(level..level + 2) {
            Some(&[start, end]) => start as usize..end as usize,
            _ => 0..0,
        }
    }

    pub fn level_of(&self, node: NodeIx) -> LevelIx {
        self.level_starts.partition_point(|&start| start <= node.0) - 1
    }

    pub fn name(&self, node: NodeIx) -> &str {
        let (this, next) = (&self.nodes[node.index()], &self.nodes[node.index() + 1]);
        &self.names[this.name_start as usize..next.name_start as usize]
    }

    /// Asks for what is kept of a node.
    pub fn prefetch(&self, node: NodeIx) {
        prefetch(&self.nodes[node.index()]);
    }

    /// Asks for a node's name, which waits for where that is.
    pub fn prefetch_name(&self, node: NodeIx) {
        if let Some(byte) = self.names.as_bytes().get(self.nodes[node.index()].name_start as usize)
        {
            prefetch(byte);
        }
    }

    pub fn parent(&self, node: NodeIx) -> Option<NodeIx> {
        (node != NodeIx::INSTANCE).then(|| NodeIx(self.nodes[node.index()].parent))
    }

    pub fn children(&self, node: NodeIx) -> Range<usize> {
        self.children_of_all(node.index()..node.index() + 1)
    }

    /// The children of nodes that follow each other.
    pub fn children_of_all(&self, nodes: Range<usize>) -> Range<usize> {
        self.nodes[nodes.start].child_start as usize..self.nodes[nodes.end].child_start as usize
    }

    /// Some node has more than one parent.
    pub fn has_more_parents(&self) -> bool {
        !self.more_parents.is_empty()
    }

    /// The parents beside [`Forest::parent`].
    pub fn more_parents(&self, node: NodeIx) -> &[NodeIx] {
        self.more_parents.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The children beside [`Forest::children`].
    pub fn more_children(&self, node: NodeIx) -> &[NodeIx] {
        self.more_children.get(&node).map_or(&[], Vec::as_slice)
    }

    pub fn parents(&self, node: NodeIx) -> impl Iterator<Item = NodeIx> + '_ {
        self.parent(node).into_iter().chain(self.more_parents(node).iter().copied())
    }

    /// The node's own flag; a disabled ancestor is another matter.
    pub fn is_enabled(&self, node: NodeIx) -> bool {
        self.nodes[node.index()].enabled
    }

    pub fn tags(&self, node: NodeIx) -> &BTreeSet<String> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        self.tags.get(&node).unwrap_or(&NONE)
    }

    /// The node and its ancestors by way of first parents, the instance node last.
    pub fn path_up(&self, node: NodeIx) -> impl Iterator<Item = NodeIx> + '_ {
        std::iter::successors(Some(node), |&node| self.parent(node))
    }

    /// The node and everything above it, whatever the way, from the bottom up.
    pub fn upwards(&self, node: NodeIx) -> Vec<NodeIx> {
        let mut all = vec![node];
        let mut at = 0;
        while let Some(&node) = all.get(at) {
            for parent in self.parents(node) {
                if !all.contains(&parent) {
                    all.push(parent);
                }
            }
            at += 1;
        }
        all
    }

    pub fn find(&self, level: LevelIx, name: &str) -> Option<NodeIx> {
        self.by_name.get(level)?.find(name, |node| self.name(NodeIx(node))).map(NodeIx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Vec<String> {
        ["instance", "host", "db"].map(str::to_owned).to_vec()
    }

    fn names(forest: &Forest, nodes: Range<usize>) -> Vec<&str> {
        nodes.map(|node| forest.name(NodeIx(node as u32))).collect()
    }

    #[test]
    fn children_are_contiguous_whatever_the_order_of_arrival() {
        let mut builder = ForestBuilder::new(levels(), "root");
        builder.add(1, "h2", "root", true).unwrap();
        builder.add(1, "h1", "root", false).unwrap();
        builder.add(2, "d3", "h1", true).unwrap();
        builder.add(2, "d1", "h2", true).unwrap();
        builder.add(2, "d2", "h1", true).unwrap();
        let forest = builder.build(NodeOrder::Lexicographic).unwrap();
        assert_eq!(names(&forest, forest.level(1)), ["h1", "h2"]);
        assert_eq!(names(&forest, forest.level(2)), ["d2", "d3", "d1"]);
        let h1 = forest.find(1, "h1").unwrap();
        assert_eq!(names(&forest, forest.children(h1)), ["d2", "d3"]);
        assert!(!forest.is_enabled(h1));
        let d1 = forest.find(2, "d1").unwrap();
        let path: Vec<_> = forest.path_up(d1).map(|node| forest.name(node)).collect();
        assert_eq!(path, ["d1", "h2", "root"]);
        assert_eq!(forest.level_of(d1), 2);
        assert_eq!(forest.level(3), 0..0);
        assert_eq!(forest.find(2, "h1"), None);
    }

    #[test]
    fn a_node_may_have_several_parents() {
        let mut builder = ForestBuilder::new(levels(), "root");
        builder.add(1, "h1", "root", true).unwrap();
        builder.add(1, "h2", "root", true).unwrap();
        builder.add(2, "d1", "h2", true).unwrap();
        builder.add(2, "d1", "h1", true).unwrap();
        let forest = builder.build(NodeOrder::Original).unwrap();
        let [h1, h2] = ["h1", "h2"].map(|host| forest.find(1, host).unwrap());
        let d1 = forest.find(2, "d1").unwrap();
        assert_eq!(forest.parents(d1).collect::<Vec<_>>(), [h2, h1]);
        assert_eq!((forest.children(h1).len(), forest.more_children(h1)), (0, &[d1][..]));
        assert_eq!(forest.upwards(d1), [d1, h2, h1, NodeIx::INSTANCE]);
        assert_eq!(forest.node_count(), 4);
    }

    #[test]
    fn what_is_not_a_forest_is_refused() {
        let mut builder = ForestBuilder::new(levels(), "root");
        builder.add(1, "h1", "root", true).unwrap();
        builder.add(1, "h2", "root", true).unwrap();
        builder.add(2, "d1", "h1", true).unwrap();
        assert!(matches!(builder.add(2, "d1", "h1", true), Err(ForestError::Twice { .. })));
        assert!(matches!(builder.add(2, "d2", "h9", true), Err(ForestError::NoParent { .. })));
        assert!(matches!(builder.add(2, "", "h1", true), Err(ForestError::NoName { .. })));
        assert!(matches!(builder.add(2, "a\0", "h1", true), Err(ForestError::BadName { .. })));
    }
}
