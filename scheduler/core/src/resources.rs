//! Resources, the demands on them, and the slots in use.
//!
//! Jobs that demand the same of a level share one *class* there, and so one bit per node that says
//! whether the demand fits. Slots in use are stored only for nodes where something runs.

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bistro_common::config::{Filter, Job, LevelIx, Settings};
use bistro_common::protocol::api::SlotUse;
use bistro_common::protocol::task::Slots;

use crate::bits::Bits;
use crate::forest::{Forest, NodeIx};
use crate::tasks::JobIx;

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

/// Slots in use at a node, one per resource of its level; most levels have one or two.
type Used = SmallVec<[i64; 2]>;

/// The limits of every level, `worker` last, and what tasks hold of them on nodes.
#[derive(Debug, Default)]
pub struct Resources {
    limits: Vec<Vec<Limit>>,
    /// Slots in use, one per resource of the node's level; absent where nothing is held.
    used: FxHashMap<NodeIx, Used>,
}

/// True if `demand` fits beside what is used. Where too much is used already nothing fits, not
/// even a demand of zero.
pub fn fits(limits: &[Limit], used: Option<&[i64]>, demand: &[i64]) -> bool {
    limits.iter().enumerate().all(|(r, limit)| {
        let used = used.map_or(0, |used| used[r]);
        demand[r] <= limit.limit - used
    })
}

impl Resources {
    pub fn new(settings: &Settings) -> Self {
        let mut limits = vec![Vec::new(); settings.levels.len()];
        for resource in &settings.resources {
            limits[resource.level].push(Limit {
                name: resource.name.clone(),
                limit: resource.limit,
                default: resource.default,
                weight: resource.weight,
            });
        }
        Self { limits, used: FxHashMap::default() }
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

    pub fn used(&self, node: NodeIx) -> Option<&[i64]> {
        self.used.get(&node).map(SmallVec::as_slice)
    }

    /// Takes or gives back slots at a node.
    pub fn change(&mut self, level: LevelIx, node: NodeIx, amounts: &[(usize, i64)], sign: Sign) {
        let count = self.limits(level).len();
        let mut entry = match self.used.entry(node) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(smallvec![0; count]),
        };
        let used = entry.get_mut();
        for &(resource, amount) in amounts {
            used[resource] += sign.of(amount);
        }
        if used.iter().all(|&used| used == 0) {
            entry.remove();
        }
    }

    /// Nodes that hold more than their limits now allow: node, resource, and by how much.
    pub fn overused<'a>(
        &'a self,
        level_of: impl Fn(NodeIx) -> LevelIx + 'a,
    ) -> impl Iterator<Item = (NodeIx, usize, i64)> + 'a {
        self.used.iter().flat_map(move |(&node, used)| {
            let limits = self.limits(level_of(node)).iter().zip(used).enumerate();
            limits
                .filter(|(_, (limit, used))| **used > limit.limit)
                .map(move |(resource, (limit, used))| (node, resource, used - limit.limit))
        })
    }

    pub fn node_slots(
        &self,
        level: LevelIx,
        node: NodeIx,
    ) -> impl Iterator<Item = (&str, SlotUse)> {
        slot_uses(self.limits(level), self.used(node))
    }
}

/// Names, use and limits, for people.
pub fn slot_uses<'a>(
    limits: &'a [Limit],
    used: Option<&'a [i64]>,
) -> impl Iterator<Item = (&'a str, SlotUse)> {
    limits.iter().enumerate().map(move |(r, limit)| {
        (limit.name.as_str(), SlotUse { used: used.map_or(0, |u| u[r]), limit: limit.limit })
    })
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
    pub filter: Option<(Filter, Arc<str>)>,
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
    pub jobs: Vec<JobIx>,
    /// For node levels: on which nodes of the level (numbered from its first) the demand fits.
    pub room: Bits,
}

impl Classes {
    /// The class of a demand, with the job in it, and whether it is new: then the caller sets its
    /// bits.
    pub fn join(
        &mut self,
        job: JobIx,
        limits: &[Limit],
        demand: Vec<i64>,
        wanted: Wanted,
    ) -> (ClassIx, bool) {
        let same = |class: &Class| class.demand == demand && class.wanted == wanted;
        let known = self.classes.len();
        let at = match self.classes.iter().position(same) {
            Some(at) => at,
            None => {
                let names = limits.iter().map(|limit| limit.name.clone());
                let slots = Arc::new(names.zip(demand.iter().copied()).collect());
                let (jobs, room) = (Vec::new(), Bits::default());
                let amounts = demand.iter().copied().enumerate().collect();
                self.classes.push(Class { demand, slots, amounts, wanted, jobs, room });
                self.classes.len() - 1
            }
        };
        self.classes[at].jobs.push(job);
        (ClassIx(at as u32), at == known)
    }

    /// Sets all bits from scratch.
    pub fn fill(&mut self, level: LevelIx, forest: &Forest, resources: &Resources) {
        for class in &mut self.classes {
            class.fill(level, forest, resources);
        }
    }
}

impl Class {
    pub fn fill(&mut self, level: LevelIx, forest: &Forest, resources: &Resources) {
        let (nodes, class) = (forest.level(level), self);
        {
            class.room = Bits::new(nodes.len());
            let empty = fits(resources.limits(level), None, &class.demand);
            for node in nodes.clone() {
                let fits = match resources.used(NodeIx(node as u32)) {
                    None => empty,
                    used => fits(resources.limits(level), used, &class.demand),
                };
                class.room.set(node - nodes.start, fits);
            }
        }
    }
}
