//! What several conversations say about tasks and attempts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Millis;
use crate::ids::{AttemptId, TaskName};
use crate::status::TaskStatus;

/// Resource name to slots.
pub type Slots = BTreeMap<String, i64>;

/// How a running task is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillMethod {
    /// TERM, once.
    Term,
    /// KILL, at once.
    Kill,
    /// TERM, then KILL if it has not ended within the wait.
    TermWaitKill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    pub method: KillMethod,
    pub wait_ms: u64,
}

/// How an attempt ended, as far as its worker can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The task ran to its end; its status is what it reported, or what its silence means.
    Reported { status: TaskStatus },
    /// The worker stopped and took the task down with it, before the task reported anything.
    /// It may run again at once.
    Interrupted { reason: String },
    /// The attempt may have run, but nobody saw its end.
    Lost { reason: String },
    /// The attempt was never started, and never will be.
    NeverStarted { reason: String },
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub attempt: AttemptId,
    pub task: TaskName,
    pub attempt_no: u32,
    pub outcome: Outcome,
    pub started_ms: Millis,
    pub ended_ms: Millis,
    /// `exited with status 3`, `killed by signal 9`; informational, never part of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What an attempt's processes have used, as far as that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of its first process and of all that were waited for.
    pub cpu_ms: u64,
    /// The most that all had in memory at one of the looks; none of an attempt that was too short
    /// for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_kb: Option<u64>,
}

/// An attempt that a worker holds: enough to adopt it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAttempt {
    pub attempt: AttemptId,
    pub task: TaskName,
    pub attempt_no: u32,
    #[serde(default)]
    pub started_ms: Millis,
    /// From the instance node down to the task's node, with the slots taken at each.
    pub path: Arc<[PathNode]>,
    pub worker_slots: Arc<Slots>,
}

/// One node on a task's path, and what the attempt holds there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathNode {
    pub node: Arc<str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub slots: Arc<Slots>,
}

fn is_empty(slots: &Arc<Slots>) -> bool {
    slots.is_empty()
}
