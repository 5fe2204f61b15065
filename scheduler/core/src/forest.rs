//! The forest of nodes: names, parents, and which of them are enabled.
//!
//! Immutable once built. Nodes are numbered level by level and, within a level, grouped by parent,
//! so the children of a node are a contiguous range of numbers. A node may be below more nodes
//! than that one: those edges are kept apart, and cost nothing where there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rustc_hash::FxHashMap;

use bistro_common::config::{LevelIx, NodeOrder};

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

#[derive(Debug, PartialEq, Eq)]
pub struct Forest {
    /// Names of the levels that have nodes, `instance` first.
    level_names: Vec<String>,
    /// Where each level starts; one more entry at the end.
    level_starts: Vec<u32>,
    /// All names, one after the other.
    names: String,
    /// Where each name ends.
    name_ends: Vec<u32>,
    parents: Vec<u32>,
    /// Parents beside that one, and children that are in another node's range.
    more_parents: FxHashMap<NodeIx, Vec<NodeIx>>,
    more_children: FxHashMap<NodeIx, Vec<NodeIx>>,
    /// Where each node's children start; one more entry at the end. Children of consecutive nodes
    /// are consecutive.
    child_starts: Vec<u32>,
    enabled: Vec<bool>,
    /// Of the nodes that have any.
    tags: BTreeMap<NodeIx, BTreeSet<String>>,
    /// Per level, its nodes in the order of their names.
    by_name: Vec<Vec<u32>>,
}

impl Forest {
    /// A forest of the instance node alone.
    pub fn empty(level_names: Vec<String>, instance: &str) -> Self {
        ForestBuilder::new(level_names, instance)
            .build(NodeOrder::Original)
            .expect("a forest of one node with a checked name is valid")
    }

    pub fn node_count(&self) -> usize {
        self.parents.len()
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
        let start = match node.index() {
            0 => 0,
            index => self.name_ends[index - 1] as usize,
        };
        &self.names[start..self.name_ends[node.index()] as usize]
    }

    pub fn parent(&self, node: NodeIx) -> Option<NodeIx> {
        (node != NodeIx::INSTANCE).then(|| NodeIx(self.parents[node.index()]))
    }

    pub fn children(&self, node: NodeIx) -> Range<usize> {
        let index = node.index();
        self.child_starts[index] as usize..self.child_starts[index + 1] as usize
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
        self.enabled[node.index()]
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
        let order = self.by_name.get(level)?;
        let at = order.binary_search_by(|&node| self.name(NodeIx(node)).cmp(name)).ok()?;
        Some(NodeIx(order[at]))
    }
}

struct RawNode {
    name: String,
    /// Position in the level above, and those of more parents.
    parent: u32,
    more_parents: Vec<u32>,
    enabled: bool,
    tags: BTreeSet<String>,
}

/// Collects nodes level by level, parents first.
pub struct ForestBuilder {
    level_names: Vec<String>,
    levels: Vec<Vec<RawNode>>,
    by_name: Vec<FxHashMap<String, u32>>,
    count: usize,
}

impl ForestBuilder {
    /// `level_names` are the levels that have nodes, `instance` first; `instance` is the name of
    /// the node there.
    pub fn new(level_names: Vec<String>, instance: &str) -> Self {
        let mut levels: Vec<Vec<RawNode>> = level_names.iter().map(|_| Vec::new()).collect();
        let mut by_name: Vec<_> = level_names.iter().map(|_| Default::default()).collect();
        let root = RawNode {
            name: instance.to_owned(),
            parent: 0,
            more_parents: Vec::new(),
            enabled: true,
            tags: BTreeSet::new(),
        };
        levels[0].push(root);
        by_name[0] = FxHashMap::from_iter([(instance.to_owned(), 0)]);
        Self { level_names, levels, by_name, count: 1 }
    }

    pub fn level_names(&self) -> &[String] {
        &self.level_names
    }

    pub fn instance(&self) -> &str {
        &self.levels[0][0].name
    }

    /// Names and flags of a level's nodes, in the order they came.
    pub fn nodes(&self, level: LevelIx) -> impl Iterator<Item = (&str, bool)> {
        self.levels[level].iter().map(|node| (node.name.as_str(), node.enabled))
    }

    /// Adds a node at `level`, which must not be the instance's, below a node of the level above.
    /// One that is there already gets one more parent; it is enabled if it is so anywhere.
    pub fn add(
        &mut self,
        level: LevelIx,
        name: &str,
        parent: &str,
        enabled: bool,
    ) -> Result<(), ForestError> {
        if name.is_empty() {
            return Err(ForestError::NoName { level: self.level_names[level].clone() });
        }
        if name.len() > NODE_NAME_MAX || name.chars().any(char::is_control) {
            return Err(ForestError::BadName { name: name.chars().take(80).collect() });
        }
        let Some(&parent_at) = self.by_name[level - 1].get(parent) else {
            return Err(ForestError::NoParent {
                name: name.to_owned(),
                parent: parent.to_owned(),
                level: self.level_names[level - 1].clone(),
            });
        };
        if self.count >= NODES_MAX {
            return Err(ForestError::TooMany { max: NODES_MAX });
        }
        let at = self.levels[level].len() as u32;
        if let Some(&known) = self.by_name[level].get(name) {
            let node = &mut self.levels[level][known as usize];
            if node.parent == parent_at || node.more_parents.contains(&parent_at) {
                let (name, parent) = (name.to_owned(), parent.to_owned());
                return Err(ForestError::Twice { name, parent });
            }
            node.more_parents.push(parent_at);
            node.enabled |= enabled;
            return Ok(());
        }
        self.by_name[level].insert(name.to_owned(), at);
        self.levels[level].push(RawNode {
            name: name.to_owned(),
            parent: parent_at,
            more_parents: Vec::new(),
            enabled,
            tags: BTreeSet::new(),
        });
        self.count += 1;
        Ok(())
    }

    /// Gives a node its tags.
    pub fn set_tags(&mut self, level: LevelIx, name: &str, tags: BTreeSet<String>) {
        if let Some(&at) = self.by_name[level].get(name) {
            self.levels[level][at as usize].tags = tags;
        }
    }

    /// Numbers the nodes. Siblings keep the order in which they came, or are sorted by name.
    pub fn build(mut self, order: NodeOrder) -> Result<Forest, ForestError> {
        let mut forest = Forest {
            level_names: self.level_names,
            level_starts: vec![0],
            names: String::new(),
            name_ends: Vec::with_capacity(self.count),
            parents: Vec::with_capacity(self.count),
            more_parents: FxHashMap::default(),
            more_children: FxHashMap::default(),
            child_starts: Vec::with_capacity(self.count + 1),
            enabled: Vec::with_capacity(self.count),
            tags: BTreeMap::new(),
            by_name: Vec::new(),
        };
        // New position in its level of each node of the level above, by old position.
        let mut renumbered: Vec<u32> = vec![0];
        for level in &mut self.levels {
            let start = *forest.level_starts.last().expect("starts with one entry");
            let above = forest.level_starts.len().checked_sub(2).map(|l| forest.level_starts[l]);
            let mut places: Vec<u32> = (0..level.len() as u32).collect();
            places.sort_by(|&a, &b| {
                let (left, right) = (&level[a as usize], &level[b as usize]);
                let parents =
                    renumbered[left.parent as usize].cmp(&renumbered[right.parent as usize]);
                parents.then_with(|| match order {
                    NodeOrder::Lexicographic => left.name.cmp(&right.name),
                    NodeOrder::Original | NodeOrder::Random => a.cmp(&b),
                })
            });
            let mut here = vec![0; level.len()];
            for (position, &place) in places.iter().enumerate() {
                let node = &mut level[place as usize];
                here[place as usize] = position as u32;
                forest.names.push_str(&node.name);
                let end = u32::try_from(forest.names.len())
                    .map_err(|_| ForestError::TooMany { max: NODES_MAX })?;
                forest.name_ends.push(end);
                forest.parents.push(above.unwrap_or(0) + renumbered[node.parent as usize]);
                let ix = NodeIx(forest.enabled.len() as u32);
                for &parent in &node.more_parents {
                    let parent = NodeIx(above.unwrap_or(0) + renumbered[parent as usize]);
                    forest.more_parents.entry(ix).or_default().push(parent);
                    forest.more_children.entry(parent).or_default().push(ix);
                }
                if !node.tags.is_empty() {
                    forest.tags.insert(ix, std::mem::take(&mut node.tags));
                }
                forest.enabled.push(node.enabled);
            }
            forest.level_starts.push(start + level.len() as u32);
            renumbered = here;
        }
        forest.index();
        Ok(forest)
    }
}

impl Forest {
    /// Fills in what follows from names and parents.
    fn index(&mut self) {
        // Parents never decrease from one node to the next, the instance node apart.
        let count = self.node_count() as u32;
        let mut child = 1;
        for node in 0..count {
            self.child_starts.push(child);
            while child < count && self.parents[child as usize] == node {
                child += 1;
            }
        }
        self.child_starts.push(child);
        for level in 0..self.level_names.len() {
            let mut order: Vec<u32> = self.level(level).map(|node| node as u32).collect();
            order.sort_by(|&a, &b| self.name(NodeIx(a)).cmp(self.name(NodeIx(b))));
            self.by_name.push(order);
        }
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
