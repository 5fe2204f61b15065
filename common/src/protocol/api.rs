//! `api.<verb>`: what people and pipelines ask a scheduler. One set of verbs for every face.
//!
//! A request is the JSON of the verb's request type (an empty payload means all defaults), a reply
//! is an [`ApiReply`]. Lists page on the server: `limit` and `offset` in, `total` out.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::VERSION;
use super::job::Audit;
use super::task::{Kill, PathNode, Slots};
use crate::Millis;
use crate::ids::{AttemptId, CellId, Epoch, SchedulerId};

pub use super::list::{
    JobRow, ListRequest, Listing, NodeRow, PAGE_MAX, Page, RunningRow, SlotUse, TaskRow,
    TasksRequest, WorkerHealth, WorkerRow,
};
pub use super::view::{Grid, GridJob, GridRequest};

/// The verbs that a scheduler serves.
pub mod verb {
    pub const STATUS: &str = "status";
    pub const JOBS: &str = "jobs";
    pub const NODES: &str = "nodes";
    pub const TASKS: &str = "tasks";
    pub const WORKERS: &str = "workers";
    pub const GRID: &str = "grid";
    pub const EXPLAIN: &str = "explain";
    pub const KILL: &str = "kill";
    pub const FORGIVE: &str = "forgive";
    pub const PLAN: &str = "plan";
    pub const APPLY: &str = "apply";
    pub const JOB_GET: &str = "job_get";
    pub const JOB_STATS: &str = "job_stats";
    pub const JOB_PUT: &str = "job_put";
    pub const JOB_PATCH: &str = "job_patch";
    pub const JOB_DELETE: &str = "job_delete";
    pub const JOB_OVERRIDE: &str = "job_override";
    pub const WORKER_DRAIN: &str = "worker_drain";
    pub const WORKER_FORGET: &str = "worker_forget";

    /// Those that change nothing, whoever asks.
    pub const READS: [&str; 9] =
        [STATUS, JOBS, NODES, TASKS, WORKERS, GRID, EXPLAIN, JOB_GET, JOB_STATS];
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiReply<T> {
    pub v: u32,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub ok: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> ApiReply<T> {
    pub fn new(result: Result<T, ApiError>) -> Self {
        match result {
            Ok(ok) => Self { v: VERSION, ok: Some(ok), error: None },
            Err(error) => Self { v: VERSION, ok: None, error: Some(error) },
        }
    }
}

/// Why a request was refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    BadRequest,
    NotFound,
    /// The attempt that the action names is not the current one any more.
    Gone,
    /// It exists already, or is at another version than the request says.
    Conflict,
    /// Its owner is the config file: it can be overridden, not overwritten.
    OfTheFile,
    UnknownVerb,
    /// Whoever asks may only look. Said by the client, since the scheduler never hears of it.
    Denied,
    /// The scheduler could not do it now; it may work later.
    Unavailable,
}

/// The state of a task, as people see it: exactly one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Running,
    /// It may be running: its worker has not said yet. Its slots stay taken.
    Unsure,
    /// Nothing but room and order keeps it from starting.
    CanRun,
    /// It waits for a job that it depends on.
    Blocked,
    Backoff,
    Failed,
    /// Its job, its node or a node above is disabled.
    Disabled,
    Done,
    /// A filter of its job excludes its node.
    Avoided,
}

impl TaskState {
    /// In the order of the bars: what moves first, what is over last.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Unsure,
        Self::CanRun,
        Self::Blocked,
        Self::Backoff,
        Self::Failed,
        Self::Disabled,
        Self::Done,
        Self::Avoided,
    ];

    /// From what needs no attention to what needs it most: what stands for many is the last of
    /// theirs.
    pub const BY_ATTENTION: [Self; 9] = [
        Self::Avoided,
        Self::Done,
        Self::Disabled,
        Self::Blocked,
        Self::CanRun,
        Self::Running,
        Self::Backoff,
        Self::Unsure,
        Self::Failed,
    ];

    /// Its place among those.
    pub fn attention(self) -> u8 {
        let place = Self::BY_ATTENTION.iter().position(|&other| other == self);
        place.expect("every state has a place") as u8
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unsure => "unsure",
            Self::CanRun => "can_run",
            Self::Blocked => "blocked",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Done => "done",
            Self::Avoided => "avoided",
        }
    }

    /// One ASCII character per state: cells of a grid snapshot, and the console's glyphs.
    pub fn glyph(self) -> char {
        match self {
            Self::Running => '>',
            Self::Unsure => '?',
            Self::CanRun => '.',
            Self::Blocked => ':',
            Self::Backoff => '~',
            Self::Failed => 'x',
            Self::Disabled => '#',
            Self::Done => '+',
            Self::Avoided => '-',
        }
    }

    pub fn from_glyph(glyph: char) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.glyph() == glyph)
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
            format!("unknown state {text:?}; the states are {}", names.join(", "))
        })
    }
}

/// Tasks per state; states without tasks are absent.
pub type Counts = BTreeMap<TaskState, u64>;

/// `status`: the cell at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellStatus {
    pub cell: String,
    pub cell_id: CellId,
    pub scheduler: SchedulerId,
    pub epoch: Epoch,
    pub build: String,
    pub started_ms: Millis,
    pub now_ms: Millis,
    /// False while the settings say `"enabled": false`.
    pub enabled: bool,
    pub counts: Counts,
    pub jobs: u64,
    pub nodes: u64,
    pub workers: u64,
    pub workers_healthy: u64,
    /// Schedulers that would take over; absent where none is meant to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<u64>,
    /// Nothing runs, and nothing will unless something changes.
    pub finished: bool,
    /// Why a cell that still has tasks to do is finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<String>,
    /// What is wrong with the config and the node sources, of which the last good ones stay in
    /// force; and with the scheduler's disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ProblemReport>,
}

/// A problem of the config, a node source or the disk, placed for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemReport {
    #[serde(default, skip_serializing_if = "ProblemKind::is_of_config")]
    pub kind: ProblemKind,
    pub severity: Severity,
    /// Or a directory, where that has no room.
    pub file: String,
    /// From 1; 0 where the problem has no place in the file.
    pub line: u32,
    pub column: u32,
    /// `bistro_settings.nodes.levels[1]`; empty for the whole file.
    pub key_path: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Of the config or a node source.
    #[default]
    Config,
    /// Nothing can be written down, and so nothing is started.
    DiskFull,
}

impl ProblemKind {
    fn is_of_config(&self) -> bool {
        *self == Self::Config
    }
}

impl std::fmt::Display for ProblemReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}:{}: ", self.file, self.column)?,
        }
        write!(f, "{}: ", self.severity.as_str())?;
        if !self.key_path.is_empty() {
            write!(f, "{}: ", self.key_path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// `worker_drain`: no new work for a worker, until it is resumed. Outlives the worker's process and
/// the scheduler's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerDrainRequest {
    pub worker: String,
    /// False: it takes work again.
    pub on: bool,
    pub audit: Audit,
}

/// `worker_forget`: a worker that is silent is dead, by somebody's word; its tasks run elsewhere
/// without waiting for its lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerForgetRequest {
    pub worker: String,
    /// Whoever asks has made sure that nothing of it runs any more: its host is off, or cut off from
    /// everything that its tasks could touch.
    pub fenced: bool,
    pub audit: Audit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReply {
    pub worker: String,
    /// Tasks that it runs still (drained), or that were given up (forgotten).
    pub attempts: u64,
}

/// `explain`: why is this task not running?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainRequest {
    pub job: String,
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub task: TaskRow,
    /// The path from the instance down to the node.
    pub path: Vec<String>,
    /// What its open attempt holds: slots of nodes on its path, and of its worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<PathNode>,
    /// Everything that keeps the task from starting; empty if it could start now.
    pub reasons: Vec<Reason>,
}

/// `job_stats`: how far a job is, level by level, and how long its tasks take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatsRequest {
    pub job: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStats {
    pub job: String,
    /// From the top down to that of its tasks.
    pub levels: Vec<LevelCounts>,
    /// How long the last attempts took; absent before any has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<Runtimes>,
}

/// Nodes of a level, by the state among the job's tasks at and below each that needs most attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelCounts {
    pub level: String,
    pub counts: Counts,
}

/// Of so many tasks, evenly chosen among those that have ended at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtimes {
    pub sampled: u64,
    pub p50_ms: Millis,
    pub p90_ms: Millis,
    pub p99_ms: Millis,
    pub max_ms: Millis,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub kind: ReasonKind,
    pub text: String,
    /// Who holds what is missing, at most ten of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<Holder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    Running,
    Unsure,
    Done,
    Failed,
    Backoff,
    CellDisabled,
    JobDisabled,
    JobInvalid,
    NodeDisabled,
    Filtered,
    Dependency,
    NoRoomOnNode,
    NoWorker,
    NoRoomOnWorkers,
    /// Nothing keeps it: other tasks were chosen before it.
    ItsTurn,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    pub job: String,
    pub node: String,
    pub slots: Slots,
}

/// `kill`: asks a running attempt to end. Names the attempt, so that it can hit no other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillRequest {
    pub attempt: AttemptId,
    /// Absent: as the job's config says.
    #[serde(default)]
    pub kill: Option<Kill>,
    pub actor: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillReply {
    pub job: String,
    pub node: String,
    pub attempt_no: u32,
    pub worker: String,
}

/// `forgive`: failed tasks may run again, waiting ones at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForgiveRequest {
    pub job: String,
    /// Absent: all nodes.
    #[serde(default)]
    pub node: Option<String>,
    pub actor: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForgiveReply {
    pub forgiven: u64,
}

/// What can be done to many tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// Ends the running ones.
    Kill,
    /// Lets the failed ones run again, and the waiting ones at once.
    Forgive,
}

/// `plan`: what an action would touch, before anything is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRequest {
    pub action: BulkAction,
    /// Which tasks; its page and its order do not matter. Those to which the action does not apply
    /// are left out.
    pub tasks: TasksRequest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanReply {
    pub plan: String,
    /// How many tasks, in all and by state.
    pub total: u64,
    pub counts: Counts,
    /// The first few.
    pub sample: Vec<TaskRow>,
    /// The scheduler forgets it then.
    pub expires_ms: Millis,
}

/// `apply`: does what a plan says, to exactly the attempts that it was made for, some of them per
/// request: repeat it until nothing is left, or stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplyRequest {
    pub plan: String,
    /// Kills only. Absent: as each job's config says.
    #[serde(default)]
    pub kill: Option<Kill>,
    pub actor: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplyReply {
    /// By this request.
    pub applied: u64,
    /// Not as they were any more: over, or started again since.
    pub gone: u64,
    pub left: u64,
}
