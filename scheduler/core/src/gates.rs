//! Where a job must not run, whatever the time and the room: filters, and nodes that are disabled.

use bistro_common::config::{Job, LevelIx};

use crate::bits::Bits;
use crate::forest::{Forest, NodeIx};
use crate::tasks::Gate;

/// A job that runs on few nodes of a level costs what those cost: so many times fewer than the
/// level has.
const FEW: usize = 16;

/// On so small a level all nodes are few.
const SMALL_LEVEL: usize = 8;

/// What keeps a job from passing the node, by the node's own flag and the filter on its level.
fn own_gate(job: &Job, forest: &Forest, level: LevelIx, node: NodeIx) -> Option<Gate> {
    if !forest.is_enabled(node) {
        return Some(Gate::Disabled);
    }
    let filter = job.filters.get(&level)?;
    let passes = filter.passes(forest.name(node), forest.tags(node), &job.name);
    (!passes).then_some(Gate::Avoided)
}

/// Why the job must not run at or below a node. The first obstacle on the way up counts, and at one
/// node its own flag comes first; where there are several ways up, each must have one.
pub fn gate(job: &Job, forest: &Forest, level: LevelIx, node: NodeIx) -> Option<Gate> {
    own_gate(job, forest, level, node).or_else(|| {
        let inherited = gate(job, forest, level.checked_sub(1)?, forest.parent(node)?)?;
        let mut others = forest.more_parents(node).iter();
        others.all(|&parent| gate(job, forest, level - 1, parent).is_some()).then_some(inherited)
    })
}

/// The same for all nodes down to the job's level at once.
pub fn gates(job: &Job, forest: &Forest) -> Vec<Option<Gate>> {
    let mut gates: Vec<Option<Gate>> = Vec::with_capacity(forest.level(job.level).end);
    for level in 0..=job.level {
        for node in forest.level(level).map(|node| NodeIx(node as u32)) {
            let of = |parent: NodeIx| gates[parent.index()];
            let inherited = forest
                .parent(node)
                .and_then(of)
                .filter(|_| forest.more_parents(node).iter().all(|&parent| of(parent).is_some()));
            gates.push(own_gate(job, forest, level, node).or(inherited));
        }
    }
    gates
}

/// The nodes above its level that the job must not pass. Empty where every node has one parent:
/// the gates of the tasks say it all then.
pub fn barred(job: &Job, forest: &Forest) -> Bits {
    if !forest.has_more_parents() {
        return Bits::default();
    }
    let mut barred = Bits::new(forest.level(job.level).start);
    for level in 0..job.level {
        for node in forest.level(level) {
            let gate = own_gate(job, forest, level, NodeIx(node as u32));
            barred.set(node, gate.is_some());
        }
    }
    barred
}

/// The nodes of the job's level that its filter there lets pass, if they are few; every other node
/// is shut by that filter or by its own flag.
pub fn few(job: &Job, forest: &Forest) -> Option<Vec<NodeIx>> {
    let level = forest.level(job.level);
    let all = level.clone().map(|node| NodeIx(node as u32));
    if level.len() <= SMALL_LEVEL {
        return Some(all.collect());
    }
    let filter = job.filters.get(&job.level)?;
    let passes = |node: &NodeIx| filter.passes(forest.name(*node), forest.tags(*node), &job.name);
    let most = level.len() / FEW;
    let mut passing: Vec<NodeIx> = match filter.listed() {
        Some(names) => {
            let named = names.filter_map(|name| forest.find(job.level, name));
            named.filter(passes).take(most + 1).collect()
        }
        None => all.filter(passes).take(most + 1).collect(),
    };
    passing.sort_unstable();
    (passing.len() <= most).then_some(passing)
}
