//! The lease: how long the worker may go on without its scheduler, and what happens at its end.

use bistro_common::Millis;
use bistro_common::protocol::heartbeat::{HeartbeatAnswer, RefusedReason};
use bistro_common::protocol::task::{Kill, KillMethod};

use crate::{Effect, LedgerRecord, Master, WorkerCore};

/// How far the end of the lease has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lapse {
    None,
    /// TERM was sent.
    Soft,
    /// KILL was sent.
    Hard,
}

const TERM: Kill = Kill { method: KillMethod::Term, wait_ms: 0 };
const KILL: Kill = Kill { method: KillMethod::Kill, wait_ms: 0 };

impl WorkerCore {
    pub(crate) fn on_heartbeat(
        &mut self,
        sent: Millis,
        answer: HeartbeatAnswer,
        out: &mut Vec<Effect>,
    ) {
        match answer {
            HeartbeatAnswer::Lease { cell, scheduler, epoch, terms, settled, full_sync } => {
                if self.cell.is_some_and(|ours| ours != cell)
                    || self.master.is_some_and(|master| epoch < master.epoch)
                {
                    return;
                }
                if self.cell.is_none() {
                    self.cell = Some(cell);
                    out.push(Effect::Persist(LedgerRecord::Joined { cell }));
                }
                // An answer that comes late grants no more than the one to a later heartbeat.
                let sent = match self.master {
                    Some(master) if master.epoch == epoch => sent.max(master.sent),
                    _ => sent,
                };
                self.master = Some(Master { scheduler, epoch, terms, sent });
                self.lapse = Lapse::None;
                out.push(Effect::Deadline(terms.worker_hard_end(sent)));
                self.settle(settled, out);
                if full_sync {
                    self.full_sync = true;
                    out.push(Effect::HeartbeatNow);
                }
            }
            HeartbeatAnswer::Refused { reason: RefusedReason::Fenced, .. } => {
                if !self.fenced {
                    self.fenced = true;
                    self.kill_all(KILL, out);
                }
            }
            HeartbeatAnswer::Refused { reason, detail } => {
                if reason != RefusedReason::BadRequest || self.master.is_none() {
                    out.push(Effect::Unwanted { detail });
                }
            }
        }
    }

    pub(crate) fn watch_lease(&mut self, out: &mut Vec<Effect>) {
        let Some(master) = self.master else {
            return;
        };
        if self.lapse < Lapse::Hard && self.now >= master.terms.worker_hard_end(master.sent) {
            self.lapse = Lapse::Hard;
            self.kill_all(KILL, out);
        } else if self.lapse < Lapse::Soft && self.now >= master.terms.worker_soft_end(master.sent)
        {
            self.lapse = Lapse::Soft;
            self.kill_all(TERM, out);
        }
    }

    /// When to step next, even if nothing happens.
    pub fn next_wake(&self) -> Option<Millis> {
        let lease =
            self.master.filter(|_| !self.live.is_empty()).and_then(|master| match self.lapse {
                Lapse::None => Some(master.terms.worker_soft_end(master.sent)),
                Lapse::Soft => Some(master.terms.worker_hard_end(master.sent)),
                Lapse::Hard => None,
            });
        let publish =
            (!self.publishing && !self.unpublished.is_empty()).then_some(self.publish_after);
        [lease, publish].into_iter().flatten().min()
    }

    pub(crate) fn on_stop(&mut self, out: &mut Vec<Effect>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        let wait_ms = self.master.map_or(3_000, |master| master.terms.kill_grace_ms);
        self.kill_all(Kill { method: KillMethod::TermWaitKill, wait_ms }, out);
        out.push(Effect::HeartbeatNow);
    }
}
