//! Resources, the demands on them, and the slots in use.
//!
//! Jobs that demand the same of a level share one *class* there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bistro_common::config::{Filter, Job, LevelIx, Settings};
use bistro_common::protocol::api::SlotUse;
use bistro_common::protocol::task::Slots;

use crate::bits::Bits;
use crate::forest::{Forest, NodeIx};
use crate::matrix::ColumnBits;
use crate::prefetch::prefetch;

/// Slots by the numbers of their resources.
pub type Amounts = Arc<[(usize, i64)]>;

/// Whether slots are taken or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Take,
    Give,
}

impl Sign {
    pub fn of(self, amount: i64) -> i64 {
        match self {
            Self::Take => amount,
            Self::Give => -amount,
        }
    }
}

/// Number of a class at its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassIx(pub u32);

impl ClassIx {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A resource of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub name: String,
    pub limit: i64,
    pub default: i64,
    pub weight: i64,
}

/// The limits of every level, `worker` last, and what tasks hold of them on nodes.
#[derive(Debug, Default)]
pub struct Resources {
    limits: Vec<Vec<Limit>>,
    /// Per level with nodes.
    used: Vec<Used>,
}

/// Slots in use on the nodes of a level, one number per node and resource.
#[derive(Debug)]
struct Used {
    first: usize,
    resources: usize,
    slots: Vec<i64>,
}

impl Used {
    fn range(&self, node: NodeIx) -> Range<usize> {
        let start = (node.index() - self.first) * self.resources;
        start..start + self.resources
    }
}

/// True if `demand` fits beside what is used. Where too much is used already nothing fits, not
/// even a demand of zero.
pub fn fits(limits: &[Limit], used: &[i64], demand: &[i64]) -> bool {
    let room = limits.iter().zip(used).map(|(limit, used)| limit.limit - used);
    room.zip(demand).all(|(room, demand)| *demand <= room)
}

impl Resources {
    pub fn new(settings: &Settings, forest: &Forest) -> Self {
        let mut limits = vec![Vec::new(); settings.levels.len()];
        for resource in &settings.resources {
            limits[resource.level].push(Limit {
                name: resource.name.clone(),
                limit: resource.limit,
                default: resource.default,
                weight: resource.weight,
            });
        }
        let used = (0..settings.node_levels()).map(|level| {
            let (nodes, resources) = (forest.level(level), limits[level].len());
            Used { first: nodes.start, resources, slots: vec![0; nodes.len() * resources] }
        });
        Self { used: used.collect(), limits }
    }

    pub fn limits(&self, level: LevelIx) -> &[Limit] {
        self.limits.get(level).map_or(&[], Vec::as_slice)
    }

    /// The worker level's.
    pub fn worker_limits(&self) -> &[Limit] {
        self.limits.last().map_or(&[], Vec::as_slice)
    }

    /// What the job takes of each resource of the level.
    pub fn demand(&self, job: &Job, level: LevelIx) -> Vec<i64> {
        let of = |limit: &Limit| job.resources.get(&limit.name).copied().unwrap_or(limit.default);
        self.limits(level).iter().map(of).collect()
    }

    pub fn used(&self, level: LevelIx, node: NodeIx) -> &[i64] {
        let of_level = &self.used[level];
        &of_level.slots[of_level.range(node)]
    }

    /// Asks for what is kept of a node.
    pub fn prefetch(&self, level: LevelIx, node: NodeIx) {
        let of_level = &self.used[level];
        if let Some(used) = of_level.slots.get(of_level.range(node).start) {
            prefetch(used);
        }
    }

    /// Does a demand fit at a node beside what is used there?
    pub fn has_room(&self, level: LevelIx, node: NodeIx, demand: &[i64]) -> bool {
        fits(&self.limits[level], self.used(level, node), demand)
    }

    /// Takes or gives back slots at a node.
    pub fn change(&mut self, level: LevelIx, node: NodeIx, amounts: &[(usize, i64)], sign: Sign) {
        let of_level = &mut self.used[level];
        let range = of_level.range(node);
        let used = &mut of_level.slots[range];
        for &(resource, amount) in amounts {
            used[resource] += sign.of(amount);
        }
    }

    /// Nodes that hold more than their limits now allow: node, resource, and by how much.
    pub fn overused(&self) -> impl Iterator<Item = (NodeIx, usize, i64)> + '_ {
        self.used.iter().zip(&self.limits).flat_map(|(of_level, limits)| {
            let number = move |at: usize| (at / limits.len(), at % limits.len());
            of_level.slots.iter().enumerate().filter_map(move |(at, used)| {
                let (position, resource) = number(at);
                let excess = used - limits[resource].limit;
                let node = NodeIx((of_level.first + position) as u32);
                (excess > 0).then_some((node, resource, excess))
            })
        })
    }

    pub fn node_slots(
        &self,
        level: LevelIx,
        node: NodeIx,
    ) -> impl Iterator<Item = (&str, SlotUse)> {
        slot_uses(self.limits(level), self.used(level, node))
    }
}

/// Names, use and limits, for people.
pub fn slot_uses<'a>(
    limits: &'a [Limit],
    used: &'a [i64],
) -> impl Iterator<Item = (&'a str, SlotUse)> {
    let both = limits.iter().zip(used);
    both.map(|(limit, &used)| (limit.name.as_str(), SlotUse { used, limit: limit.limit }))
}

/// The same for a worker, whose slots are its own.
pub fn fits_in(slots: &[i64], used: &[i64], demand: &[i64]) -> bool {
    slots.iter().zip(used).zip(demand).all(|((slots, used), demand)| *demand <= slots - used)
}

/// The classes of one level.
#[derive(Debug, Default)]
pub struct Classes {
    pub classes: Vec<Class>,
}

/// On which workers a demand may be met, whatever their room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub host: Option<String>,
    /// A filter on host names, and the job that it is of.
    pub filter: Option<(Arc<Filter>, Arc<str>)>,
}

impl Wanted {
    pub fn is_on(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|wanted| wanted == host)
            && self
                .filter
                .as_ref()
                .is_none_or(|(filter, job)| filter.passes(host, &BTreeSet::new(), job))
    }
}

#[derive(Debug)]
pub struct Class {
    pub demand: Vec<i64>,
    /// The same by the names of the resources, as tasks and messages carry it.
    pub slots: Arc<Slots>,
    /// And by their numbers, as attempts hold it.
    pub amounts: Amounts,
    /// For workers; for nodes it wants nothing.
    pub wanted: Wanted,
    /// For nodes: the columns of its jobs, by chunk.
    pub columns: Vec<ColumnBits>,
    /// On which workers the demand fits; for nodes that is asked when it matters.
    pub room: Bits,
}

impl Classes {
    /// The class of a demand, and whether it is new: then the caller sets its bits.
    pub fn join(&mut self, limits: &[Limit], demand: Vec<i64>, wanted: Wanted) -> (ClassIx, bool) {
        let same = |class: &Class| class.demand == demand && class.wanted == wanted;
        let known = self.classes.len();
        let at = match self.classes.iter().position(same) {
            Some(at) => at,
            None => {
                let names = limits.iter().map(|limit| limit.name.clone());
                let slots = Arc::new(names.zip(demand.iter().copied()).collect());
                let (columns, room) = (Vec::new(), Bits::default());
                let amounts = demand.iter().copied().enumerate().collect();
                self.classes.push(Class { demand, slots, amounts, wanted, columns, room });
                self.classes.len() - 1
            }
        };
        (ClassIx(at as u32), at == known)
    }
}
