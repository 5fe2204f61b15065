//! How much of each resource is in use, over time.

use rustc_hash::FxHashMap;
use serde::Serialize;
use std::collections::BTreeMap;

use bistro_common::Millis;
use bistro_common::config::Settings;
use bistro_common::ids::WorkerName;
use bistro_common::protocol::api::WorkerRow;
use bistro_common::protocol::assign::Assignment;
use bistro_core::Forest;

/// One resource, over all nodes of its level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    pub level: String,
    pub resource: String,
    /// The part of all slots that was in use on average, from 0 to 1. Slots of nodes without
    /// tasks count, too.
    pub used: f64,
    /// The part of the time, averaged over nodes that had tasks, in which a node was full.
    pub busy: f64,
}

#[derive(Debug, Default)]
struct OfPlace {
    used: i64,
    limit: i64,
    full_since: Option<Millis>,
    full_ms: u64,
}

/// What is taken at one resource's places.
#[derive(Debug, Default)]
struct OfResource {
    used: i64,
    slot_ms: u128,
    places: FxHashMap<String, OfPlace>,
}

#[derive(Debug)]
pub struct Meter {
    now: Millis,
    limits: BTreeMap<String, i64>,
    /// By name; names are unique over all levels.
    resources: BTreeMap<String, OfResource>,
    nodes_per_level: Vec<usize>,
}

impl Meter {
    pub fn new(settings: &Settings, forest: &Forest) -> Self {
        let levels = 0..settings.node_levels();
        Self {
            now: 0,
            limits: settings.resources.iter().map(|r| (r.name.clone(), r.limit)).collect(),
            resources: settings
                .resources
                .iter()
                .map(|r| (r.name.clone(), Default::default()))
                .collect(),
            nodes_per_level: levels.map(|level| forest.level(level).len()).collect(),
        }
    }

    pub fn take(&mut self, assignment: &Assignment, worker: &WorkerName) {
        self.change(assignment, worker, 1);
    }

    pub fn give_back(&mut self, assignment: &Assignment, worker: &WorkerName) {
        self.change(assignment, worker, -1);
    }

    fn change(&mut self, assignment: &Assignment, worker: &WorkerName, sign: i64) {
        let on_path = assignment.open.path.iter().map(|on| (&*on.node, &on.slots));
        let all = on_path.chain([(worker.as_str(), &assignment.open.worker_slots)]);
        for (place, slots) in all {
            for (name, amount) in slots.iter().filter(|(_, amount)| **amount != 0) {
                let limit = self.limits.get(name).copied().unwrap_or(0);
                let Some(resource) = self.resources.get_mut(name) else { continue };
                resource.used += sign * amount;
                let of_place = match resource.places.get_mut(place) {
                    Some(of_place) => of_place,
                    None => resource
                        .places
                        .entry(place.to_owned())
                        .or_insert(OfPlace { limit, ..OfPlace::default() }),
                };
                of_place.used += sign * amount;
                // A place is full if one more task of this kind would not fit.
                let full = of_place.used + amount > of_place.limit;
                match (full, of_place.full_since) {
                    (true, None) => of_place.full_since = Some(self.now),
                    (false, Some(since)) => {
                        of_place.full_ms += self.now - since;
                        of_place.full_since = None;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Time goes by.
    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        for resource in self.resources.values_mut() {
            resource.slot_ms += u128::from(ms) * u128::from(resource.used.unsigned_abs());
        }
    }

    pub fn report(
        &self,
        settings: &Settings,
        workers: &[WorkerRow],
        makespan_ms: u64,
    ) -> Vec<Usage> {
        let of_workers = |name: &str| -> i64 {
            workers
                .iter()
                .filter_map(|worker| worker.slots.get(name))
                .map(|slots| slots.limit)
                .sum()
        };
        let usage = |resource: &bistro_common::config::Resource| {
            let meter = self.resources.get(&resource.name)?;
            let slots = match self.nodes_per_level.get(resource.level) {
                Some(&nodes) => resource.limit * nodes as i64,
                None => of_workers(&resource.name),
            };
            let all = slots as f64 * makespan_ms as f64;
            let full_ms = |place: &OfPlace| {
                place.full_ms + place.full_since.map_or(0, |since| self.now - since)
            };
            let full: u64 = meter.places.values().map(full_ms).sum();
            let places = meter.places.len() as f64 * makespan_ms as f64;
            let part = |of: f64, all: f64| if all > 0.0 { of / all } else { 0.0 };
            Some(Usage {
                level: settings.levels[resource.level].clone(),
                resource: resource.name.clone(),
                used: part(meter.slot_ms as f64, all),
                busy: part(full as f64, places),
            })
        };
        settings.resources.iter().filter_map(usage).collect()
    }
}
