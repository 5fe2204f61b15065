//! Lists of jobs, nodes, tasks and workers. All are filtered, sorted and paged on the server.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::api::{Counts, TaskState};
use super::heartbeat::{Capacity, ClosedReason};
use super::job::{Origin, Overrides};
use super::task::Usage;
use crate::Millis;
use crate::filter::Key;
use crate::ids::AttemptId;
use crate::status::TaskStatus;

/// The longest page of a list.
pub const PAGE_MAX: u32 = 5_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    #[serde(default)]
    pub offset: u32,
    /// 0 or absent: [`PAGE_MAX`].
    #[serde(default)]
    pub limit: u32,
}

impl Page {
    pub fn range(&self, total: usize) -> std::ops::Range<usize> {
        let start = (self.offset as usize).min(total);
        let limit = match self.limit {
            0 => PAGE_MAX,
            limit => limit.min(PAGE_MAX),
        };
        start..(start + limit as usize).min(total)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing<T> {
    pub total: u64,
    pub items: Vec<T>,
}

/// `jobs`, `nodes`, `workers`, and what `tasks` takes, too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListRequest {
    /// See [`crate::filter`]; the keys are those of the row's type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// One of the row's sort keys, `-` in front turns it around. Empty: the order of the config.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sort: String,
    #[serde(flatten)]
    pub page: Page,
}

/// The filter keys that count a job's tasks, one per state.
const COUNTS: [Key; 9] = [
    Key::number("running"),
    Key::number("unsure"),
    Key::number("can_run"),
    Key::number("blocked"),
    Key::number("backoff"),
    Key::number("failed"),
    Key::number("disabled"),
    Key::number("done"),
    Key::number("avoided"),
];

impl JobRow {
    pub const KEYS: [Key; 14] = {
        let [a, b, c, d, e, f, g, h, i] = COUNTS;
        let (job, level, owner) = (Key::text("job"), Key::text("level"), Key::text("owner"));
        let (enabled, priority) = (Key::text("enabled"), Key::number("priority"));
        [job, level, owner, enabled, priority, a, b, c, d, e, f, g, h, i]
    };
    /// `waiting`: can run, blocked or in backoff. `progress`: the share that is done.
    pub const SORTS: [&str; 8] =
        ["job", "priority", "progress", "total", "done", "running", "waiting", "failed"];
}

impl NodeRow {
    /// `free`: slots of the resource that has the fewest; below 0 more is taken than there is.
    pub const KEYS: [Key; 5] = [
        Key::text("node"),
        Key::text("level"),
        Key::text("parent"),
        Key::text("enabled"),
        Key::number("free"),
    ];
    /// `used`: slots of all resources.
    pub const SORTS: [&str; 2] = ["node", "used"];
}

impl TaskRow {
    /// `under`: the node, or one above it. `age`: how long it has been running.
    pub const KEYS: [Key; 6] = [
        Key::text("job"),
        Key::text("node"),
        Key::text("under"),
        Key::text("state"),
        Key::text("worker"),
        Key::duration("age"),
    ];
    /// `node`: in the order of the levels, all jobs of a node together. `state`: what runs first,
    /// what is over last. `age`: what was started last first, what does not run after it.
    pub const SORTS: [&str; 3] = ["node", "state", "age"];
}

impl WorkerRow {
    /// `health`: as a row shows it, or `draining`, or `closed` for another reason.
    pub const KEYS: [Key; 5] = [
        Key::text("worker"),
        Key::text("host"),
        Key::text("health"),
        Key::text("build"),
        Key::number("running"),
    ];
    pub const SORTS: [&str; 3] = ["worker", "host", "running"];
}

/// `jobs`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    pub job: String,
    pub enabled: bool,
    pub owner: String,
    pub level: String,
    pub priority: f64,
    pub depends_on: Vec<String>,
    pub counts: Counts,
    #[serde(default)]
    pub origin: Origin,
    /// What holds instead of what its file says.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
    /// Why the job cannot run as it is configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    pub node: String,
    pub level: String,
    pub parent: Option<String>,
    /// Beside that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_parents: Vec<String>,
    pub enabled: bool,
    /// Resource name to slots taken and limit.
    pub slots: BTreeMap<String, SlotUse>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotUse {
    pub used: i64,
    pub limit: i64,
}

/// `tasks`: everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TasksRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<TaskState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    #[serde(flatten)]
    pub list: ListRequest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    pub job: String,
    pub node: String,
    pub state: TaskState,
    /// Starts so far.
    pub attempt_no: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningRow>,
    /// How the last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<TaskStatus>,
    /// When, how long it took, and what it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_until_ms: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningRow {
    pub attempt: AttemptId,
    pub worker: String,
    pub started_ms: Millis,
}

/// `workers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    pub worker: String,
    pub host: String,
    pub health: WorkerHealth,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ClosedReason>,
    pub running: u64,
    pub last_heartbeat_ms: Option<Millis>,
    pub build: String,
    pub capacity: Capacity,
    pub slots: BTreeMap<String, SlotUse>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerHealth {
    Healthy,
    /// It has missed heartbeats: no new work for it.
    Suspect,
    /// Known from before the scheduler's restart, not heard of since.
    Unheard,
    /// Its lease is over, or it said goodbye.
    Gone,
}
