//! The ledger: what was promised and what came of it, and who is admitted to it.

use serde::{Deserialize, Serialize};

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, CellId};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::assign::{
    Assign, AssignAnswer, AssignReply, AssignResult, Assignment, RejectedReason,
};
use bistro_common::protocol::task::{Kill, OpenAttempt, Outcome, TaskResult};

use crate::{Effect, OPEN_MAX, WorkerCore};

/// One change of the ledger, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LedgerRecord {
    /// The worker has joined this cell, for good.
    Joined {
        cell: CellId,
    },
    Starting {
        attempt: OpenAttempt,
    },
    Finished {
        result: TaskResult,
    },
    /// The scheduler has applied the result.
    Settled {
        attempt: AttemptId,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum LedgerState {
    /// On disk as starting; a process may exist.
    /// `kill`: how its job wants it to be ended.
    Open { attempt: OpenAttempt, kill: Kill, killed: bool },
    /// Over. `published_ms`: when the stream took the result.
    Finished { result: TaskResult, published_ms: Option<Millis> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub state: LedgerState,
}

impl Entry {
    pub(crate) fn finished(result: TaskResult) -> Self {
        Self { state: LedgerState::Finished { result, published_ms: None } }
    }
}

/// The result of an attempt that the last process may have run, and whose end nobody saw.
pub fn lost(open: OpenAttempt, now: Millis) -> TaskResult {
    TaskResult {
        attempt: open.attempt,
        task: open.task,
        attempt_no: open.attempt_no,
        outcome: Outcome::Lost { reason: "the worker was restarted".to_owned() },
        started_ms: open.started_ms,
        ended_ms: now,
        exit: None,
        usage: None,
    }
}

/// What is to be committed before these effects are carried out.
pub fn records(effects: &[Effect]) -> Vec<LedgerRecord> {
    let record = |effect: &Effect| match effect {
        Effect::Persist(record) => Some(record.clone()),
        _ => None,
    };
    effects.iter().filter_map(record).collect()
}

impl WorkerCore {
    pub(crate) fn on_assign(&mut self, token: u64, assign: Assign, out: &mut Vec<Effect>) {
        let fence = assign.fence;
        let foreign = self.check_fence(&fence).err();
        let mut results = Vec::with_capacity(assign.attempts.len());
        let mut spawns = Vec::new();
        for assignment in assign.attempts {
            let refusal = foreign.or_else(|| self.refusal(&assignment));
            let attempt = assignment.open.attempt;
            let answer = match refusal {
                Some(reason) => AssignAnswer::Rejected { reason },
                None => {
                    let open = open_attempt(&assignment, self.now);
                    self.open(open.clone(), assignment.spec.kill);
                    out.push(Effect::Persist(LedgerRecord::Starting { attempt: open }));
                    spawns.push(Effect::Spawn(assignment));
                    AssignAnswer::Accepted
                }
            };
            results.push(AssignResult { attempt, answer });
        }
        out.push(Effect::AssignReply { token, reply: AssignReply { v: VERSION, results } });
        out.append(&mut spawns);
    }

    fn refusal(&self, assignment: &Assignment) -> Option<RejectedReason> {
        let lease_left = self
            .master
            .is_some_and(|master| self.now < master.terms.worker_last_start(master.sent));
        if self.entries.contains_key(&assignment.open.attempt) {
            Some(RejectedReason::Known)
        } else if assignment.seq <= self.floor {
            Some(RejectedReason::BelowFloor)
        } else if self.live.contains_key(&assignment.open.task) {
            Some(RejectedReason::TaskLive)
        } else if self.draining || self.retiring || self.stopping || self.fenced || self.no_room {
            Some(RejectedReason::Closed)
        } else if !lease_left {
            Some(RejectedReason::LeaseShort)
        } else if self.live.len() >= OPEN_MAX {
            Some(RejectedReason::Full)
        } else {
            None
        }
    }

    fn open(&mut self, attempt: OpenAttempt, kill: Kill) {
        self.digest.add(attempt.attempt);
        self.live.insert(attempt.task.clone(), attempt.attempt);
        let state = LedgerState::Open { attempt: attempt.clone(), kill, killed: false };
        self.entries.insert(attempt.attempt, Entry { state });
    }

    /// It was not started after all.
    pub(crate) fn unopen(&mut self, id: AttemptId) {
        let Some(Entry { state: LedgerState::Open { attempt, .. } }) = self.entries.remove(&id)
        else {
            return;
        };
        self.digest.remove(id);
        self.live.remove(&attempt.task);
    }

    pub(crate) fn on_ended(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        let id = result.attempt;
        let open =
            self.entries.get(&id).is_some_and(|e| matches!(e.state, LedgerState::Open { .. }));
        if !open {
            return;
        }
        self.digest.remove(id);
        self.live.remove(&result.task);
        self.unpublished.insert(id);
        self.entries.insert(id, Entry::finished(result.clone()));
        out.push(Effect::Persist(LedgerRecord::Finished { result }));
    }

    /// The attempts that are open, if the scheduler asked for them; for the next heartbeat.
    pub(crate) fn take_full_sync(&mut self) -> Option<Vec<OpenAttempt>> {
        if !std::mem::take(&mut self.full_sync) {
            return None;
        }
        let open = self.entries.values().filter_map(|entry| match &entry.state {
            LedgerState::Open { attempt, .. } => Some(attempt.clone()),
            LedgerState::Finished { .. } => None,
        });
        Some(open.collect())
    }
}

fn open_attempt(assignment: &Assignment, now: Millis) -> OpenAttempt {
    OpenAttempt { started_ms: now, ..(*assignment.open).clone() }
}
