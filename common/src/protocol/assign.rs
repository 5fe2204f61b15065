//! `task.assign.<w>`: a batch of attempts to start, each accepted or rejected.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::task::{Kill, OpenAttempt, PathNode, Slots};
use super::{Fence, VERSION};
use crate::Millis;
use crate::ids::{AttemptId, Seq, TaskName};

/// At most so many attempts go into one message.
pub const BATCH_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    pub fence: Fence,
    pub attempts: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Flat")]
pub struct Assignment {
    pub seq: Seq,
    /// What the worker holds once it has accepted.
    #[serde(flatten)]
    pub open: Arc<OpenAttempt>,
    #[serde(flatten)]
    pub spec: Arc<TaskSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_status: Option<Value>,
}

/// An assignment as it is on the wire. (Reading it as its parts would read it into a tree first, for
/// each part to look for what is its own.)
#[derive(Deserialize)]
struct Flat {
    seq: Seq,
    attempt: AttemptId,
    task: TaskName,
    attempt_no: u32,
    #[serde(default)]
    started_ms: Millis,
    path: Arc<[PathNode]>,
    worker_slots: Arc<Slots>,
    command: Vec<String>,
    #[serde(default)]
    plain_command: bool,
    #[serde(default)]
    responder: Option<Responder>,
    #[serde(default)]
    noop: bool,
    #[serde(default)]
    confinement: Confinement,
    #[serde(default)]
    limits: Limits,
    config: Map<String, Value>,
    kill: Kill,
    #[serde(default)]
    log_lines_per_10_ms: Option<u32>,
    #[serde(default)]
    prev_status: Option<Value>,
}

impl From<Flat> for Assignment {
    fn from(flat: Flat) -> Self {
        Self {
            seq: flat.seq,
            open: Arc::new(OpenAttempt {
                attempt: flat.attempt,
                task: flat.task,
                attempt_no: flat.attempt_no,
                started_ms: flat.started_ms,
                path: flat.path,
                worker_slots: flat.worker_slots,
            }),
            spec: Arc::new(TaskSpec {
                command: flat.command,
                plain_command: flat.plain_command,
                responder: flat.responder,
                noop: flat.noop,
                confinement: flat.confinement,
                limits: flat.limits,
                config: flat.config,
                kill: flat.kill,
                log_lines_per_10_ms: flat.log_lines_per_10_ms,
            }),
            prev_status: flat.prev_status,
        }
    }
}

/// What all tasks of a job have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// argv before the node, the status path and the JSON. Empty: the worker's own command.
    pub command: Vec<String>,
    /// The command gets no more arguments, and its exit says how it went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_command: bool,
    /// Who does it instead of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responder: Option<Responder>,
    /// Nothing is run: it is done at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noop: bool,
    /// Under what the command is put before it runs.
    #[serde(default, skip_serializing_if = "Confinement::is_empty")]
    pub confinement: Confinement,
    /// What its slots are in memory and CPU, where the config wants that enforced.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The job's `config`, verbatim.
    pub config: Map<String, Value>,
    /// What to do when the worker has to end the task on its own.
    pub kill: Kill,
    /// Lines per 10 ms that the task may print before it has to wait; none: as fast as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_lines_per_10_ms: Option<u32>,
}

/// What a process gets before it becomes the task's; what is empty it has from its worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The name of a user of the worker's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Octal, such as `027`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<String>,
    /// By the names of [`Self::RLIMITS`], in the kernel's units.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rlimits: BTreeMap<String, u64>,
}

impl Confinement {
    pub const RLIMITS: [&str; 9] =
        ["as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack"];

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a task may take of its worker's host, where that can hold it to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Over this it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Its share of the CPU when there is not enough for all: 100 for a core, from 1 to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Somebody on NATS who does tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responder {
    pub subject: String,
    /// How long it may say nothing.
    pub silence_ms: u64,
}

impl Responder {
    /// Where the job does not say.
    pub const SILENCE_MS: u64 = 300_000;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssignReply {
    pub v: u32,
    pub results: Vec<AssignResult>,
}

impl AssignReply {
    /// The refusal of an assignment that is not understood, for all attempts that can be made out.
    pub fn to_unreadable(bytes: &[u8]) -> Self {
        let message: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let attempts = message["attempts"].as_array().into_iter().flatten();
        let ids = attempts.filter_map(|attempt| attempt["attempt"].as_str()?.parse().ok());
        let answer = AssignAnswer::Rejected { reason: RejectedReason::BadRequest };
        let results = ids.map(|attempt| AssignResult { attempt, answer: answer.clone() });
        Self { v: VERSION, results: results.collect() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssignResult {
    pub attempt: AttemptId,
    pub answer: AssignAnswer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AssignAnswer {
    /// On the worker's disk; it starts now.
    Accepted,
    /// Not started, and never will be.
    Rejected { reason: RejectedReason },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectedReason {
    /// Another cell, scheduler or protocol version.
    Foreign,
    StaleEpoch,
    /// The epoch is newer than any the worker has shaken hands with.
    UnknownEpoch,
    /// Meant for another incarnation of this worker.
    WrongIncarnation,
    BelowFloor,
    /// The attempt is in the ledger already: this message is a duplicate.
    Known,
    /// Another attempt of the task is still alive here.
    TaskLive,
    LeaseShort,
    Closed,
    /// The worker has as many attempts as it can hold.
    Full,
    BadRequest,
}
