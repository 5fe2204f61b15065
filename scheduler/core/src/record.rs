//! What must survive, as the store keeps it.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, Incarnation, LedgerId, Seq, TaskName, WorkerName};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::job::Overrides;
use bistro_common::protocol::task::{OpenAttempt, Outcome};

use crate::audit::AuditId;
use crate::rows::Rows;
use crate::task_row;
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
    /// A job that was defined or overridden from outside; `None`: not any more.
    Job {
        job: String,
        definition: Option<Definition>,
    },
    /// The highest version that a deleted job had; later ones go on from there.
    DeletedVersion {
        version_id: u64,
    },
    /// An audit event; `None`: the event stream has it.
    Audit {
        id: AuditId,
        event: Option<Event>,
    },
    /// This incarnation was given up: it gets neither lease nor work again.
    Fenced {
        incarnation: Incarnation,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub open: Arc<OpenAttempt>,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub seq: Seq,
    /// Its job was deleted while it was open.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disowned: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub name: WorkerName,
    pub incarnation: Incarnation,
    pub ledger: LedgerId,
    pub host: String,
    /// An operator wants it to take no new work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

/// What was said about a job from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// As it was given; `None`: the job is of the file, and only overridden.
    pub given: Option<Map<String, Value>>,
    #[serde(default)]
    pub overrides: Overrides,
    pub version_id: u64,
    /// When it was made first: older jobs have their turn first.
    pub created_ms: Millis,
    pub modified_ms: Millis,
    pub modified_by: String,
}

/// Everything that a scheduler knew, folded from its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub tasks: Vec<(TaskName, TaskRecord)>,
    /// Other tasks, all of them finished, each job once.
    pub finished: FxHashMap<Arc<str>, Rows>,
    pub attempts: Vec<AttemptRecord>,
    pub workers: Vec<WorkerRecord>,
    pub fenced: Vec<Incarnation>,
    pub definitions: Vec<(String, Definition)>,
    /// The highest version of a job that was deleted.
    pub deleted_version: u64,
    /// Those that the event stream may not have.
    pub audits: Vec<(AuditId, Event)>,
}

impl Snapshot {
    pub fn add_task(&mut self, task: TaskName, record: TaskRecord) {
        let mut row = Vec::new();
        if record.phase.is_over() {
            task_row::encode(&record, &mut row);
            if self.finished.entry(task.job.clone()).or_default().push(&task.node, &row) {
                return;
            }
        }
        self.tasks.push((task, record));
    }

    /// Adds what was read of other jobs, and of other things.
    pub fn append(&mut self, other: Self) {
        let Self {
            tasks,
            finished,
            attempts,
            workers,
            fenced,
            definitions,
            deleted_version,
            audits,
        } = other;
        self.tasks.extend(tasks);
        self.finished.extend(finished);
        self.attempts.extend(attempts);
        self.workers.extend(workers);
        self.fenced.extend(fenced);
        self.definitions.extend(definitions);
        self.deleted_version = self.deleted_version.max(deleted_version);
        self.audits.extend(audits);
    }
}

/// Records as a store keeps them: each replaces what was kept under its key.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    tasks: BTreeMap<TaskName, TaskRecord>,
    attempts: BTreeMap<AttemptId, AttemptRecord>,
    workers: BTreeMap<WorkerName, WorkerRecord>,
    fenced: BTreeSet<Incarnation>,
    definitions: BTreeMap<String, Definition>,
    deleted_version: u64,
    audits: BTreeMap<AuditId, Event>,
}

impl Kept {
    pub fn keep(&mut self, record: Record) {
        match record {
            Record::Task { task, record } => drop(self.tasks.insert(task, record)),
            Record::AttemptOpened { attempt } => {
                self.attempts.insert(attempt.open.attempt, attempt);
            }
            Record::AttemptClosed { attempt } => drop(self.attempts.remove(&attempt)),
            Record::Worker { worker } => drop(self.workers.insert(worker.name.clone(), worker)),
            Record::Fenced { incarnation } => drop(self.fenced.insert(incarnation)),
            Record::Job { job, definition: Some(definition) } => {
                self.definitions.insert(job, definition);
            }
            Record::Job { job, definition: None } => drop(self.definitions.remove(&job)),
            Record::DeletedVersion { version_id } => self.deleted_version = version_id,
            Record::Audit { id, event: Some(event) } => drop(self.audits.insert(id, event)),
            Record::Audit { id, event: None } => drop(self.audits.remove(&id)),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            attempts: self.attempts.values().cloned().collect(),
            workers: self.workers.values().cloned().collect(),
            fenced: self.fenced.iter().copied().collect(),
            definitions: self.definitions.clone().into_iter().collect(),
            deleted_version: self.deleted_version,
            audits: self.audits.clone().into_iter().collect(),
            ..Snapshot::default()
        };
        for (task, record) in &self.tasks {
            snapshot.add_task(task.clone(), record.clone());
        }
        snapshot
    }
}

/// Why a task is to be requeued without a wait, as an outcome.
pub(crate) fn never_started(reason: &str) -> Outcome {
    Outcome::NeverStarted { reason: reason.to_owned() }
}
