//! What workers have, and what that is in slots: `physical_resources` and
//! `worker_resources_override`.

use serde::Serialize;
use std::collections::BTreeMap;

use super::model::{LevelIx, Resource, Settings};
use super::reader::Reader;
use super::settings::{not_negative, unknown_identifier};
use crate::protocol::assign::Limits;
use crate::protocol::heartbeat::Capacity;

/// In the kernel's units, in which a group that says nothing has 100.
const WEIGHT_OF_CORE: f64 = 100.0;
const WEIGHT_MAX: f64 = 10_000.0;

/// What a worker measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhysicalKind {
    RamMb,
    CpuCore,
    GpuCard,
    DiskMb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    None,
    Soft,
    Hard,
}

/// Which slots of a worker come from what it measures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Physical {
    #[serde(skip)]
    pub kind: PhysicalKind,
    pub logical_resource: String,
    /// Physical units per slot.
    pub multiply_logical_by: f64,
    /// Physical units that no task gets.
    pub physical_reserve_amount: f64,
    pub enforcement: Enforcement,
}

impl Physical {
    /// How many slots so much is; `None` where the amount is unknown (0).
    pub fn slots(&self, physical: f64) -> Option<i64> {
        if physical == 0.0 {
            return None;
        }
        let left = physical - self.physical_reserve_amount;
        // A cast to an integer stops at its limits.
        Some(((left / self.multiply_logical_by) as i64).clamp(0, i64::from(u32::MAX)))
    }

    /// What a task that takes so many slots is held to.
    fn limit(&self, slots: i64, limits: &mut Limits) {
        let amount = self.amount(slots);
        match (self.enforcement, self.kind) {
            _ if amount <= 0.0 => {}
            (Enforcement::Hard, PhysicalKind::RamMb) => {
                limits.memory_mb = Some((amount.ceil() as u64).max(1));
            }
            (Enforcement::Soft, PhysicalKind::CpuCore) => {
                limits.cpu_weight = Some((amount * WEIGHT_OF_CORE).clamp(1.0, WEIGHT_MAX) as u32);
            }
            _ => {}
        }
    }

    /// How much of the physical resource so many slots are.
    pub fn amount(&self, slots: i64) -> f64 {
        self.multiply_logical_by * slots as f64
    }
}

impl PhysicalKind {
    pub(super) const NAMES: [&str; 4] = ["ram_mb", "cpu_core", "gpu_card", "disk_mb"];

    fn named(name: &str) -> Option<Self> {
        match name {
            "ram_mb" => Some(Self::RamMb),
            "cpu_core" => Some(Self::CpuCore),
            "gpu_card" => Some(Self::GpuCard),
            "disk_mb" => Some(Self::DiskMb),
            _ => None,
        }
    }

    fn enforcements(self) -> &'static [(&'static str, Enforcement)] {
        match self {
            Self::RamMb => &[("none", Enforcement::None), ("hard", Enforcement::Hard)],
            Self::CpuCore => &[("none", Enforcement::None), ("soft", Enforcement::Soft)],
            Self::GpuCard | Self::DiskMb => &[("none", Enforcement::None)],
        }
    }
}

pub fn read_physical(
    reader: &Reader<'_>,
    worker: LevelIx,
    resources: &[Resource],
) -> Vec<Physical> {
    let Some(object) = reader.object() else {
        return Vec::new();
    };
    let mut all: Vec<Physical> = Vec::new();
    for (name, entry) in object.entries() {
        let Some(kind) = PhysicalKind::named(name) else {
            let known = PhysicalKind::NAMES;
            entry.error_key(
                format!("unknown physical resource {name:?}; known are {}", known.join(", ")),
                super::reader::did_you_mean(name, &known),
            );
            continue;
        };
        let Some(physical) = read_one(&entry, kind) else {
            continue;
        };
        let logical = &physical.logical_resource;
        if !resources.iter().any(|r| r.level == worker && r.name == *logical) {
            entry.error(
                format!("{logical:?} is not a resource of the level \"worker\""),
                Some("declare it in \"resources\" under \"worker\"".to_owned()),
            );
        } else if all.iter().any(|other| other.logical_resource == *logical) {
            entry.error(format!("{logical:?} comes from another physical resource already"), None);
        } else {
            all.push(physical);
        }
    }
    all
}

fn read_one(reader: &Reader<'_>, kind: PhysicalKind) -> Option<Physical> {
    let object = reader.object()?;
    let logical_resource = object.required("logical_resource").and_then(|r| r.string());
    let float = |key, default| object.get(key).map_or(Some(default), |r| r.float());
    let multiply = float("multiply_logical_by", 1.0).filter(|&multiply| {
        let usable = multiply >= 1e-12;
        if !usable {
            reader.error("\"multiply_logical_by\" must be greater than 0", None);
        }
        usable
    });
    let reserve = float("physical_reserve_amount", 0.0);
    let enforcement =
        object.get("enforcement").map_or(Some(Enforcement::None), |r| r.word(kind.enforcements()));
    object.finish();
    Some(Physical {
        kind,
        logical_resource: logical_resource?,
        multiply_logical_by: multiply?,
        physical_reserve_amount: reserve?,
        enforcement: enforcement?,
    })
}

/// By worker (see [`Settings::worker_slots`]): slots in place of the limits.
pub type WorkerOverrides = BTreeMap<String, BTreeMap<String, i64>>;

pub fn read_overrides(
    reader: &Reader<'_>,
    worker: LevelIx,
    resources: &[Resource],
) -> WorkerOverrides {
    let mut overrides = WorkerOverrides::new();
    let Some(object) = reader.object() else {
        return overrides;
    };
    for (key, entry) in object.entries() {
        let Some(of_worker) = entry.object() else {
            continue;
        };
        let slots = overrides.entry(key.to_owned()).or_default();
        for (name, amount) in of_worker.entries() {
            match resources.iter().find(|resource| resource.name == name) {
                Some(resource) if resource.level == worker => {
                    slots.extend(not_negative(&amount).map(|amount| (name.to_owned(), amount)));
                }
                Some(_) => amount
                    .error_key(format!("{name:?} is not a resource of the level \"worker\""), None),
                None => {
                    let known: Vec<_> = resources.iter().map(|r| r.name.clone()).collect();
                    unknown_identifier(&amount, name, &known);
                }
            }
        }
    }
    overrides
}

impl Settings {
    /// What a job's tasks are held to, by the slots that they take of their worker.
    pub fn limits(&self, slots: &BTreeMap<String, i64>) -> Limits {
        let mut limits = Limits::default();
        for physical in &self.physical {
            let name = &physical.logical_resource;
            let resource = self.resources.iter().find(|resource| resource.name == *name);
            let slots = slots.get(name).copied().or(resource.map(|resource| resource.default));
            physical.limit(slots.unwrap_or(0), &mut limits);
        }
        limits
    }

    /// How many slots a worker has of each resource of the level `worker`, in their order. What it
    /// measures replaces a limit, and an override replaces both; the first of `keys` that has
    /// overrides counts.
    pub fn worker_slots(&self, capacity: &Capacity, keys: [&str; 3]) -> Vec<i64> {
        let overrides = keys.iter().find_map(|&key| self.worker_overrides.get(key));
        let of_level = self.resources.iter().filter(|r| r.level == self.worker_level());
        of_level
            .map(|resource| {
                let overridden = overrides.and_then(|of_worker| of_worker.get(&resource.name));
                overridden.copied().unwrap_or_else(|| {
                    self.measured(&resource.name, capacity).unwrap_or(resource.limit)
                        + self.cards(&resource.name, capacity)
                })
            })
            .collect()
    }

    fn measured(&self, resource: &str, capacity: &Capacity) -> Option<i64> {
        let physical = self.physical.iter().find(|p| p.logical_resource == resource)?;
        physical.slots(match physical.kind {
            PhysicalKind::RamMb => capacity.ram_mb as f64,
            PhysicalKind::CpuCore => f64::from(capacity.cpu_cores),
            PhysicalKind::GpuCard => capacity.gpus.len() as f64,
            PhysicalKind::DiskMb => capacity.disk_mb as f64,
        })
    }

    /// A resource that is named after a model of GPU has a slot per card of it.
    fn cards(&self, resource: &str, capacity: &Capacity) -> i64 {
        match resource.strip_prefix("GPU: ") {
            Some(model) if self.physical.iter().any(|p| p.kind == PhysicalKind::GpuCard) => {
                capacity.gpus.iter().filter(|gpu| *gpu == model).count() as i64
            }
            _ => 0,
        }
    }
}
