//! Orders and questions, and the fences that every message must pass.

use bistro_common::ids::AttemptId;
use bistro_common::protocol::assign::RejectedReason;
use bistro_common::protocol::control::{Control, ControlAnswer, ControlReply, Fate, Order, Probed};
use bistro_common::protocol::task::Kill;
use bistro_common::protocol::{Fence, VERSION};

use crate::outbox::fitting;
use crate::{Effect, LedgerState, WorkerCore};

impl WorkerCore {
    /// Is the message from the scheduler that we follow, and meant for this process?
    pub(crate) fn check_fence(&self, fence: &Fence) -> Result<(), RejectedReason> {
        let Some(master) = self.master else {
            return Err(RejectedReason::UnknownEpoch);
        };
        if self.cell != Some(fence.cell) {
            return Err(RejectedReason::Foreign);
        }
        if fence.epoch < master.epoch {
            return Err(RejectedReason::StaleEpoch);
        }
        if fence.epoch > master.epoch {
            return Err(RejectedReason::UnknownEpoch);
        }
        if fence.scheduler != master.scheduler {
            return Err(RejectedReason::Foreign);
        }
        if fence.incarnation != self.incarnation {
            return Err(RejectedReason::WrongIncarnation);
        }
        Ok(())
    }

    pub(crate) fn on_control(&mut self, token: u64, control: Control, out: &mut Vec<Effect>) {
        let answer = match self.check_fence(&control.fence) {
            Err(reason) => ControlAnswer::Refused { detail: format!("{reason:?}") },
            Ok(()) => match control.order {
                Order::Probe { attempts, floor } => {
                    self.floor = self.floor.max(floor);
                    // What does not fit is asked about again, when these are settled.
                    let attempts = attempts.into_iter().map(|attempt| self.fate(attempt));
                    let attempts = fitting(attempts, |probed| probed).collect();
                    ControlAnswer::Probed { attempts }
                }
                Order::Kill { attempt, kill } => self.kill(attempt, kill, out),
                Order::Drain { on } => {
                    self.draining = on;
                    out.push(Effect::HeartbeatNow);
                    ControlAnswer::Drained { on }
                }
            },
        };
        out.push(Effect::ControlReply { token, reply: ControlReply { v: VERSION, answer } });
    }

    fn fate(&self, attempt: AttemptId) -> Probed {
        let fate = match self.entries.get(&attempt).map(|entry| &entry.state) {
            None => Fate::NeverStarted,
            Some(LedgerState::Open { .. }) => Fate::Running,
            Some(LedgerState::Finished { result, .. }) => Fate::Finished { result: result.clone() },
        };
        Probed { attempt, fate }
    }

    fn kill(&mut self, attempt: AttemptId, kill: Kill, out: &mut Vec<Effect>) -> ControlAnswer {
        match self.entries.get_mut(&attempt).map(|entry| &mut entry.state) {
            Some(LedgerState::Open { killed, .. }) => {
                *killed = true;
                out.push(Effect::Kill { attempt, kill });
                ControlAnswer::Killing
            }
            _ => ControlAnswer::NotRunning,
        }
    }

    /// Ends everything that runs.
    pub(crate) fn kill_all(&mut self, kill: Kill, out: &mut Vec<Effect>) {
        for &attempt in self.live.values() {
            out.push(Effect::Kill { attempt, kill });
        }
    }
}
