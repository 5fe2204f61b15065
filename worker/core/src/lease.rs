//! The lease: how long the worker may go on without its scheduler, and what happens at its end.

use bistro_common::Millis;
use bistro_common::ids::{CellId, Epoch, SchedulerId};
use bistro_common::protocol::heartbeat::{HeartbeatAnswer, RefusedReason, Reign};
use bistro_common::protocol::task::{Kill, KillMethod};

use crate::{Effect, LedgerRecord, LedgerState, Master, WorkerCore};

/// How far the end of the lease has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lapse {
    None,
    /// TERM was sent.
    Soft,
    /// KILL was sent.
    Hard,
}

/// Whom a worker listens to: its own cell, and there no reign but the one that it follows, or a
/// later one. The data directory of a scheduler may have been copied, so one epoch may be claimed
/// by two; who was first has the worker's tasks on its books.
#[derive(Clone, Copy, Debug)]
pub struct Loyalty {
    cell: Option<CellId>,
    followed: Option<(Epoch, SchedulerId)>,
}

impl Loyalty {
    pub fn is_due(&self, answer: &HeartbeatAnswer) -> bool {
        // Who does not say who it is may be a scheduler of before.
        reign_of(answer).is_none_or(|reign| {
            self.cell.is_none_or(|cell| cell == reign.cell)
                && self.followed.is_none_or(|(epoch, scheduler)| {
                    reign.epoch > epoch || reign.epoch == epoch && reign.scheduler == scheduler
                })
        })
    }

    /// It is of the cell, and of a reign that is over: late, and not strange.
    fn is_over(&self, reign: &Reign) -> bool {
        self.cell == Some(reign.cell) && self.followed.is_some_and(|(epoch, _)| reign.epoch < epoch)
    }
}

fn reign_of(answer: &HeartbeatAnswer) -> Option<Reign> {
    match *answer {
        HeartbeatAnswer::Lease { cell, scheduler, epoch, .. } => {
            Some(Reign { cell, scheduler, epoch })
        }
        HeartbeatAnswer::Refused { by, .. } => by,
    }
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
        // It is for the process that this one was before: that has been ended already.
        if sent < self.born {
            return;
        }
        if !self.loyalty().is_due(&answer) {
            return self.on_stranger(answer, out);
        }
        match answer {
            HeartbeatAnswer::Lease { cell, scheduler, epoch, terms, settled, full_sync } => {
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
            HeartbeatAnswer::Refused { reason, detail, .. } => {
                let waits = reason == RefusedReason::BadRequest && self.master.is_some();
                match waits || self.has_lease() {
                    true => self.ignore(format!("refused: {detail}"), out),
                    false => out.push(Effect::Unwanted { detail }),
                }
            }
        }
    }

    /// An answer of a scheduler that the worker does not follow. While it has a lease, nobody else
    /// has a say in what becomes of its tasks.
    fn on_stranger(&mut self, answer: HeartbeatAnswer, out: &mut Vec<Effect>) {
        let Some(reign) = reign_of(&answer).filter(|reign| !self.loyalty().is_over(reign)) else {
            return;
        };
        let Reign { cell, scheduler, epoch } = reign;
        let who = format!("scheduler {scheduler} of cell {cell}, epoch {epoch}");
        match answer {
            HeartbeatAnswer::Refused {
                reason: RefusedReason::ForeignCell | RefusedReason::NameTaken,
                detail,
                ..
            } if !self.has_lease() => {
                out.push(Effect::Unwanted { detail: format!("{detail} (says {who})") });
            }
            _ => self.ignore(format!("{who}, is not the one that this worker follows"), out),
        }
    }

    fn ignore(&mut self, detail: String, out: &mut Vec<Effect>) {
        if self.ignored != detail {
            self.ignored.clone_from(&detail);
            out.push(Effect::Ignored { detail });
        }
    }

    pub fn loyalty(&self) -> Loyalty {
        let followed = self.master.map(|master| (master.epoch, master.scheduler));
        Loyalty { cell: self.cell, followed }
    }

    fn has_lease(&self) -> bool {
        self.master.is_some_and(|master| self.now < master.terms.worker_hard_end(master.sent))
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

    /// Tasks are ended as their jobs want it, and in the end in any case.
    pub(crate) fn on_stop(&mut self, out: &mut Vec<Effect>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        let grace_ms = self.master.map_or(3_000, |master| master.terms.kill_grace_ms);
        let kill_of = |kill: Kill| match kill.method {
            KillMethod::Term => Kill { method: KillMethod::TermWaitKill, wait_ms: grace_ms },
            KillMethod::Kill | KillMethod::TermWaitKill => kill,
        };
        let open = self.entries.iter().filter_map(|(&attempt, entry)| match entry.state {
            LedgerState::Open { kill, .. } => Some(Effect::Kill { attempt, kill: kill_of(kill) }),
            LedgerState::Finished { .. } => None,
        });
        out.extend(open);
        out.push(Effect::HeartbeatNow);
    }
}
