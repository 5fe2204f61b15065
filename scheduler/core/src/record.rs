//! What must survive, as the store keeps it.

use serde::{Deserialize, Serialize};

use bistro_common::ids::{AttemptId, Incarnation, LedgerId, Seq, TaskName, WorkerName};
use bistro_common::protocol::task::{OpenAttempt, Outcome};

use crate::tasks::TaskRecord;

/// One change of the durable state. Records are applied in order; each replaces what was kept
/// under the same key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    Task {
        task: TaskName,
        record: TaskRecord,
    },
    /// An attempt that may be running from now on.
    AttemptOpened {
        attempt: AttemptRecord,
    },
    AttemptClosed {
        attempt: AttemptId,
    },
    Worker {
        worker: WorkerRecord,
    },
    /// This incarnation was given up: it gets neither lease nor work again.
    Fenced {
        incarnation: Incarnation,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub open: OpenAttempt,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub seq: Seq,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub name: WorkerName,
    pub incarnation: Incarnation,
    pub ledger: LedgerId,
    pub host: String,
}

/// Everything that a scheduler knew, folded from its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub tasks: Vec<(TaskName, TaskRecord)>,
    pub attempts: Vec<AttemptRecord>,
    pub workers: Vec<WorkerRecord>,
    pub fenced: Vec<Incarnation>,
}

/// Why a task is to be requeued without a wait, as an outcome.
pub(crate) fn never_started(reason: &str) -> Outcome {
    Outcome::NeverStarted { reason: reason.to_owned() }
}
