//! Collects nodes and numbers them.

use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

use bistro_common::config::{LevelIx, NodeOrder};

use super::names::NameTable;
use super::{Forest, ForestError, NODE_NAME_MAX, NODES_MAX, Node, NodeIx};

/// A node as it came. A forest has millions: names are in one text, and what few nodes have is
/// kept apart.
struct RawNode {
    /// Where its name ends in the level's names.
    name_end: u32,
    /// Position in the level above.
    parent: u32,
    enabled: bool,
}

#[derive(Default)]
struct RawLevel {
    nodes: Vec<RawNode>,
    names: String,
    by_name: NameTable,
    /// More positions in the level above.
    more_parents: FxHashMap<u32, Vec<u32>>,
    tags: FxHashMap<u32, BTreeSet<String>>,
}

fn name_in<'n>(nodes: &[RawNode], names: &'n str, at: u32) -> &'n str {
    let at = at as usize;
    let start = at.checked_sub(1).map_or(0, |before| nodes[before].name_end as usize);
    &names[start..nodes[at].name_end as usize]
}

impl RawLevel {
    fn name(&self, at: u32) -> &str {
        name_in(&self.nodes, &self.names, at)
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.by_name.find(name, |at| self.name(at))
    }

    /// Enters a node that is not there yet. `None`: there is too much text.
    fn push(&mut self, name: &str, parent: u32, enabled: bool) -> Option<()> {
        let name_end = u32::try_from(self.names.len() + name.len()).ok()?;
        let at = self.nodes.len() as u32;
        self.names.push_str(name);
        self.nodes.push(RawNode { name_end, parent, enabled });
        let (nodes, names) = (&self.nodes, &self.names);
        self.by_name.insert(at, |at| name_in(nodes, names, at));
        Some(())
    }
}

/// Collects nodes level by level, parents first.
pub struct ForestBuilder {
    level_names: Vec<String>,
    levels: Vec<RawLevel>,
    count: usize,
}

impl ForestBuilder {
    /// `level_names` are the levels that have nodes, `instance` first; `instance` is the name of
    /// the node there.
    pub fn new(level_names: Vec<String>, instance: &str) -> Self {
        let mut levels: Vec<RawLevel> = level_names.iter().map(|_| RawLevel::default()).collect();
        levels[0].push(instance, 0, true).expect("one name is not too much text");
        Self { level_names, levels, count: 1 }
    }

    pub fn level_names(&self) -> &[String] {
        &self.level_names
    }

    pub fn instance(&self) -> &str {
        self.levels[0].name(0)
    }

    /// Names and flags of a level's nodes, in the order they came.
    pub fn nodes(&self, level: LevelIx) -> impl Iterator<Item = (&str, bool)> {
        let level = &self.levels[level];
        level.nodes.iter().zip(0..).map(|(node, at)| (level.name(at), node.enabled))
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
        let Some(parent_at) = self.levels[level - 1].find(parent) else {
            return Err(ForestError::NoParent {
                name: name.to_owned(),
                parent: parent.to_owned(),
                level: self.level_names[level - 1].clone(),
            });
        };
        let of_level = &mut self.levels[level];
        if let Some(known) = of_level.find(name) {
            let node = &mut of_level.nodes[known as usize];
            let more = of_level.more_parents.entry(known).or_default();
            if node.parent == parent_at || more.contains(&parent_at) {
                let (name, parent) = (name.to_owned(), parent.to_owned());
                return Err(ForestError::Twice { name, parent });
            }
            more.push(parent_at);
            node.enabled |= enabled;
            return Ok(());
        }
        let too_many = ForestError::TooMany { max: NODES_MAX };
        if self.count >= NODES_MAX {
            return Err(too_many);
        }
        self.count += 1;
        of_level.push(name, parent_at, enabled).ok_or(too_many)
    }

    /// Gives a node its tags.
    pub fn set_tags(&mut self, level: LevelIx, name: &str, tags: BTreeSet<String>) {
        if let Some(at) = self.levels[level].find(name) {
            self.levels[level].tags.insert(at, tags);
        }
    }

    /// Numbers the nodes. Siblings keep the order in which they came, or are sorted by name.
    pub fn build(self, order: NodeOrder) -> Result<Forest, ForestError> {
        let mut forest = Forest {
            level_names: self.level_names,
            level_starts: vec![0],
            names: String::with_capacity(self.levels.iter().map(|level| level.names.len()).sum()),
            nodes: Vec::with_capacity(self.count + 1),
            more_parents: FxHashMap::default(),
            more_children: FxHashMap::default(),
            tags: BTreeMap::new(),
            by_name: Vec::new(),
        };
        // New position in its level of each node of the level above, by old position.
        let mut renumbered: Vec<u32> = vec![0];
        for level in self.levels {
            renumbered = number_level(level, &renumbered, order, &mut forest)?;
        }
        let end = forest.next_node(0, true)?;
        forest.nodes.push(end);
        index(&mut forest);
        Ok(forest)
    }
}

/// Appends a level's nodes, grouped by parent; returns the new position of each.
fn number_level(
    mut level: RawLevel,
    renumbered: &[u32],
    order: NodeOrder,
    forest: &mut Forest,
) -> Result<Vec<u32>, ForestError> {
    let start = *forest.level_starts.last().expect("starts with one entry");
    let above = forest.level_starts.len().checked_sub(2).map_or(0, |l| forest.level_starts[l]);
    let mut places: Vec<u32> = (0..level.nodes.len() as u32).collect();
    let parent_of = |place: u32| renumbered[level.nodes[place as usize].parent as usize];
    match order {
        NodeOrder::Lexicographic => places.sort_unstable_by(|&a, &b| {
            parent_of(a).cmp(&parent_of(b)).then_with(|| level.name(a).cmp(level.name(b)))
        }),
        // Stable, and quick where nodes came parent by parent.
        NodeOrder::Original | NodeOrder::Random => places.sort_by_key(|&place| parent_of(place)),
    }
    let mut here = vec![0; level.nodes.len()];
    for (position, &place) in places.iter().enumerate() {
        here[place as usize] = position as u32;
        let ix = NodeIx(start + position as u32);
        let node = &level.nodes[place as usize];
        let node = forest.next_node(above + renumbered[node.parent as usize], node.enabled)?;
        forest.nodes.push(node);
        forest.names.push_str(level.name(place));
        for parent in level.more_parents.get(&place).into_iter().flatten() {
            let parent = NodeIx(above + renumbered[*parent as usize]);
            forest.more_parents.entry(ix).or_default().push(parent);
            forest.more_children.entry(parent).or_default().push(ix);
        }
        if let Some(tags) = level.tags.remove(&place).filter(|tags| !tags.is_empty()) {
            forest.tags.insert(ix, tags);
        }
    }
    forest.level_starts.push(start + here.len() as u32);
    Ok(here)
}

impl Forest {
    /// The next entry. Its name will be added to the names; its children are not known yet.
    fn next_node(&self, parent: u32, enabled: bool) -> Result<Node, ForestError> {
        let name_start = u32::try_from(self.names.len());
        let name_start = name_start.map_err(|_| ForestError::TooMany { max: NODES_MAX })?;
        Ok(Node { name_start, parent, child_start: 0, enabled })
    }
}

/// Fills in what follows from names and parents.
fn index(forest: &mut Forest) {
    // Parents never decrease from one node to the next, the instance node apart.
    let count = forest.node_count();
    let mut child = 1;
    for node in 0..=count {
        forest.nodes[node].child_start = child as u32;
        while child < count && forest.nodes[child].parent as usize == node {
            child += 1;
        }
    }
    for level in 0..forest.level_names.len() {
        let nodes = forest.level(level);
        let nodes = nodes.start as u32..nodes.end as u32;
        let table = NameTable::of(nodes, |node| forest.name(NodeIx(node)));
        forest.by_name.push(table);
    }
}
