//! What a config means.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::filter::Filter;
use super::physical::{Physical, WorkerOverrides};
use super::problem::Problem;
use super::subprocess::Subprocess;
use crate::cron::ScheduleItem;
use crate::protocol::assign::TaskSpec;
use crate::protocol::task::Kill;
use crate::status::Backoff;

/// Position of a level: 0 is `instance`, the last is `worker`, and users name those between.
pub type LevelIx = usize;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub settings: Settings,
    /// In the order of the file.
    pub jobs: Vec<Arc<Job>>,
}

impl Config {
    pub fn job(&self, name: &str) -> Option<&Arc<Job>> {
        self.jobs.iter().find(|job| &*job.name == name)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub enabled: bool,
    pub policy: Policy,
    pub backoff: Backoff,
    /// All levels, from `instance` to `worker`.
    pub levels: Vec<String>,
    pub node_order: NodeOrder,
    pub node_sources: Vec<NodeSource>,
    pub level_for_tasks: LevelIx,
    /// In the order of the file; names are unique over all levels.
    pub resources: Vec<Resource>,
    pub kill: Kill,
    /// What tasks inherit; shared with the jobs that change nothing of it.
    pub subprocess: Arc<Subprocess>,
    /// When tasks are ended whose job or node is gone; `None`: never.
    pub kill_orphans_after_ms: Option<u64>,
    pub worker_overrides: WorkerOverrides,
    pub physical: Vec<Physical>,
    /// Where a limit is lowered below what runs, the newest tasks are ended and requeued.
    pub preempt: bool,
    /// Of the original: read, exported, and of no effect.
    pub working_wait_ms: i64,
    pub idle_wait_ms: i64,
    pub worker_selector: WorkerSelector,
}

impl Settings {
    pub fn level(&self, name: &str) -> Option<LevelIx> {
        self.levels.iter().position(|level| level == name)
    }

    pub fn worker_level(&self) -> LevelIx {
        self.levels.len() - 1
    }

    /// How many levels have nodes: all but `worker`.
    pub fn node_levels(&self) -> usize {
        self.levels.len() - 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Jobs take turns.
    RoundRobin,
    /// The highest priority first, until it can start nothing more.
    RankedPriority,
    /// Jobs are drawn at random, weighted by priority.
    RandomizedPriority,
    /// The job with the fewest tasks left first.
    LongTail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOrder {
    Random,
    Original,
    Lexicographic,
}

/// How much of a resource each node of a level has, and how much a task takes by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    pub level: LevelIx,
    pub limit: i64,
    pub default: i64,
    pub weight: i64,
}

/// Where nodes come from. `parent_level` is always one above the level that is filled.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeSource {
    Empty,
    Manual {
        nodes: Vec<ManualNode>,
    },
    RangeLabel {
        parent_level: LevelIx,
        start: i64,
        end: i64,
        format: String,
        enabled: bool,
    },
    Script {
        parent_level: LevelIx,
        script: String,
        timeout_ms: u64,
        period_ms: u64,
    },
    /// Names below each node of the parent level, or a tree as of `manual`, in a text elsewhere.
    Document {
        parent_level: LevelIx,
        place: DocumentPlace,
        period_ms: u64,
        timeout_ms: u64,
    },
    /// `time_zone`: an IANA name; the host's own if absent.
    AddTime {
        parent_level: LevelIx,
        format: String,
        time_zone: Option<String>,
        schedule: Vec<ScheduleItem>,
    },
}

impl NodeSource {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Manual { .. } => "manual",
            Self::RangeLabel { .. } => "range_label",
            Self::Script { .. } => "script",
            Self::AddTime { .. } => "add_time",
            Self::Document { place: DocumentPlace::File { .. }, .. } => "file",
            Self::Document { place: DocumentPlace::Http { .. }, .. } => "http",
            Self::Document { place: DocumentPlace::NatsKv { .. }, .. } => "nats_kv",
        }
    }
}

/// Where a text with nodes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentPlace {
    File { path: String },
    Http { url: String },
    NatsKv { bucket: String, key: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualNode {
    pub name: String,
    pub children: Vec<String>,
    pub enabled: bool,
}

/// On which worker's host a job's tasks must run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    #[default]
    Anywhere,
    Host(String),
    /// The host that is named as the node at this level of the task's path. Never below the level
    /// of the job.
    HostAtLevel(LevelIx),
}

/// How a worker is chosen among those that have room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerSelector {
    /// Workers take turns.
    #[default]
    RoundRobin,
    /// The one with the least left, by the weights of its resources.
    Busiest,
    /// The one with fewer tasks of two drawn at random.
    TwoChoice,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: Arc<str>,
    pub owner: String,
    pub enabled: bool,
    pub level: LevelIx,
    pub priority: f64,
    /// Slots that differ from the resources' defaults.
    pub resources: BTreeMap<String, i64>,
    /// What its tasks run, and how.
    pub spec: Arc<TaskSpec>,
    pub filters: BTreeMap<LevelIx, Arc<Filter>>,
    /// On the host names of workers.
    pub worker_filter: Option<Arc<Filter>>,
    pub placement: Placement,
    pub depends_on: Vec<String>,
    /// All tasks of these must be done, on all their nodes, before any of this job's starts.
    pub after_all: Vec<String>,
    pub backoff: Backoff,
    pub subprocess: Arc<Subprocess>,
    /// `None`: never.
    pub kill_orphans_after_ms: Option<u64>,
    /// For whoever keeps jobs elsewhere; they change nothing here.
    pub create_time: Option<i64>,
    pub modify_time: Option<i64>,
    pub version_id: Option<i64>,
    /// Why it cannot run. What could be read is kept all the same.
    pub errors: Vec<Problem>,
    /// The same in the original's shape.
    pub errors_object: Option<Box<Value>>,
}

impl Job {
    pub fn can_run(&self) -> bool {
        self.enabled && self.errors.is_empty()
    }
}

/// Replaces `{name}` by its value; `{{` and `}}` are braces.
pub fn expand_format(format: &str, values: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..];
        if let Some(after) = brace.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = brace.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else if let Some((name, after)) =
            brace[1..].split_once('}').filter(|_| brace.starts_with('{'))
        {
            let value = values.get(name).ok_or_else(|| {
                let known: Vec<String> = values.keys().map(|key| format!("{{{key}}}")).collect();
                format!("unknown placeholder {{{name}}}; known are {}", known.join(", "))
            })?;
            text.push_str(value);
            rest = after;
        } else {
            return Err("a brace has no partner; write {{ or }} for a brace".to_owned());
        }
    }
    text.push_str(rest);
    Ok(text)
}
