//! The rules of the protocol that can be switched off, one at a time.
//!
//! The cores are never changed: a rule is off in a world that keeps it from them, or that undoes
//! what they do. A rule whose loss nobody notices is not tested.

use clap::ValueEnum;

use bistro_common::ids::{AttemptId, Seq};
use bistro_common::protocol::Fence;
use bistro_common::protocol::control::{Control, Order};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::HeartbeatAnswer;
use bistro_worker_core::Input;

use crate::faults::Node;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// The scheduler's records are on disk before anything is sent.
    DurableBeforeSent,
    /// The worker's ledger entry is on disk before the process exists.
    LedgerBeforeSpawn,
    /// A probe raises the floor: assignments that were sent before it are refused.
    Floor,
    /// A worker takes orders of its scheduler's reign only.
    EpochFence,
    /// An assignment is for one process of a worker only.
    IncarnationFence,
    /// The worker's lease ends before the scheduler's.
    LeaseOrder,
    /// At the end of its lease a worker's tasks are killed, whatever has become of the worker.
    GuardDeadline,
    /// A worker that restarts ends what its last process has left.
    EndLeftovers,
    /// The ledger keeps a result until the scheduler has applied it.
    SettleBeforeForget,
    /// An assignment of unknown fate is asked about, and counts as running until then.
    ProbeInsteadOfResend,
    /// A result is of one attempt, and is applied once.
    ExactlyOnceApply,
}

impl World {
    pub fn off(&self, rule: Rule) -> bool {
        self.off == Some(rule)
    }

    /// Without the rule a result counts for whatever attempt of its task is open.
    pub fn undo_exactly_once(&self, mut done: Done) -> Done {
        if self.off(Rule::ExactlyOnceApply) {
            for result in &mut done.results {
                if let Some(open) = self.checks.running(&result.task) {
                    result.attempt = open;
                }
            }
        }
        done
    }

    /// With a fence down every message seems to be meant for whoever gets it.
    pub fn undo_fences(&mut self, node: Node, fence: &mut Fence) {
        let worker = &self.workers[node - 1];
        if self.off(Rule::IncarnationFence)
            && let Some(core) = &worker.core
        {
            fence.incarnation = core.incarnation;
        }
        if self.off(Rule::EpochFence)
            && let Some((_, HeartbeatAnswer::Lease { scheduler, epoch, .. })) = &worker.lease
        {
            (fence.scheduler, fence.epoch) = (*scheduler, *epoch);
        }
    }

    pub fn undo_floor(&self, control: &mut Control) {
        if self.off(Rule::Floor)
            && let Order::Probe { floor, .. } = &mut control.order
        {
            *floor = Seq(0);
        }
    }

    /// As if the scheduler had settled what the stream has only stored.
    pub fn forget_at_once(&self, node: Node, attempts: Vec<AttemptId>) -> Option<Input> {
        let (sent, mut answer) = self.workers[node - 1].lease.clone()?;
        if let HeartbeatAnswer::Lease { settled, full_sync, .. } = &mut answer {
            *settled = attempts;
            *full_sync = false;
        }
        Some(Input::Heartbeat { sent, answer })
    }
}
