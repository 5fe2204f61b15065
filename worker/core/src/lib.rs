//! The worker's decisions, and nothing else: what it starts, what it must end, what it owes.
//!
//! A pure state machine like the scheduler's. The shell carries effects out in order, and nothing
//! after an [`Effect::Persist`] before that record is on disk: so an attempt is in the ledger
//! before its process exists, and a result before anyone hears of it.

mod control;
mod heartbeat;
mod lease;
mod ledger;
mod no_room;
mod outbox;

use std::collections::{BTreeMap, BTreeSet};

use bistro_common::Millis;
use bistro_common::ids::{
    AttemptId, CellId, Epoch, Incarnation, LedgerId, SchedulerId, Seq, TaskName, WorkerName,
};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::assign::{Assign, AssignReply, Assignment};
use bistro_common::protocol::control::{Control, ControlReply};
use bistro_common::protocol::heartbeat::{
    ClosedReason, HeartbeatAnswer, OpenDigest, UNSETTLED_MAX,
};
use bistro_common::protocol::task::{Kill, TaskResult};

pub use heartbeat::Facts;
pub use lease::Loyalty;
pub use ledger::{Entry, LedgerRecord, LedgerState, lost, records};

/// At most so many attempts may be open at once.
pub const OPEN_MAX: usize = 10_000;

#[derive(Debug)]
pub enum Input {
    Assign {
        token: u64,
        assign: Assign,
    },
    Control {
        token: u64,
        control: Control,
    },
    /// The answer to the heartbeat that was sent at `sent`.
    Heartbeat {
        sent: Millis,
        answer: HeartbeatAnswer,
    },
    /// A task and everything it started is gone.
    Ended {
        result: TaskResult,
    },
    /// The DONE stream has these results, or (false) could not take them.
    Published {
        attempts: Vec<AttemptId>,
        stored: bool,
    },
    /// Take no more work; what runs may finish.
    Retire,
    /// End everything and say goodbye.
    Stop,
    Tick,
}

#[derive(Debug)]
pub enum Effect {
    /// A barrier: nothing after it may happen before it is on disk.
    Persist(LedgerRecord),
    AssignReply {
        token: u64,
        reply: AssignReply,
    },
    ControlReply {
        token: u64,
        reply: ControlReply,
    },
    Spawn(Assignment),
    Kill {
        attempt: AttemptId,
        kill: Kill,
    },
    Publish(Vec<TaskResult>),
    /// Send a heartbeat now rather than at its time.
    HeartbeatNow,
    /// When the guard must have killed everything, whatever has become of this process.
    Deadline(Millis),
    /// This process has been given up and has ended its tasks: go on as a new incarnation.
    Reborn,
    /// The cell does not want this worker, and waiting will not change that.
    Unwanted {
        detail: String,
    },
    /// An answer that is not followed, and why. Told once.
    Ignored {
        detail: String,
    },
}

/// Whose heartbeats the worker follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Master {
    scheduler: SchedulerId,
    epoch: Epoch,
    terms: LeaseTerms,
    /// When the last heartbeat that was answered was sent: the lease counts from then.
    sent: Millis,
}

pub struct WorkerCore {
    pub name: WorkerName,
    pub incarnation: Incarnation,
    pub ledger: LedgerId,
    cell: Option<CellId>,
    master: Option<Master>,
    floor: Seq,
    entries: BTreeMap<AttemptId, Entry>,
    /// Attempts that are starting or running.
    live: BTreeMap<TaskName, AttemptId>,
    digest: OpenDigest,
    unpublished: BTreeSet<AttemptId>,
    /// Results on their way to the stream.
    publishing: bool,
    publish_after: Millis,
    /// Results that the stream has taken, and nobody has settled.
    published: usize,
    /// With so many of them a heartbeat is sent at once.
    settle_at: usize,
    draining: bool,
    retiring: bool,
    stopping: bool,
    /// The ledger cannot be written.
    no_room: bool,
    fenced: bool,
    /// When this incarnation began.
    born: Millis,
    /// How far the lapse of the lease has gone.
    lapse: lease::Lapse,
    /// The last answer that was not followed.
    ignored: String,
    /// The scheduler asked for the list of open attempts.
    full_sync: bool,
    now: Millis,
}

impl WorkerCore {
    /// A core that owes what its ledger says. Entries must be settled: nothing runs any more.
    pub fn new(
        name: WorkerName,
        incarnation: Incarnation,
        ledger: LedgerId,
        cell: Option<CellId>,
        unsettled: Vec<TaskResult>,
    ) -> Self {
        let entries: BTreeMap<_, _> =
            unsettled.into_iter().map(|r| (r.attempt, Entry::finished(r))).collect();
        Self {
            name,
            incarnation,
            ledger,
            cell,
            master: None,
            floor: Seq(0),
            unpublished: entries.keys().copied().collect(),
            entries,
            live: BTreeMap::new(),
            digest: OpenDigest::default(),
            publishing: false,
            publish_after: 0,
            published: 0,
            settle_at: UNSETTLED_MAX,
            draining: false,
            retiring: false,
            stopping: false,
            no_room: false,
            fenced: false,
            born: 0,
            lapse: lease::Lapse::None,
            ignored: String::new(),
            full_sync: false,
            now: 0,
        }
    }

    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match input {
            Input::Assign { token, assign } => self.on_assign(token, assign, out),
            Input::Control { token, control } => self.on_control(token, control, out),
            Input::Heartbeat { sent, answer } => self.on_heartbeat(sent, answer, out),
            Input::Ended { result } => self.on_ended(result, out),
            Input::Published { attempts, stored } => self.on_published(attempts, stored, out),
            Input::Retire => {
                self.retiring = true;
                out.push(Effect::HeartbeatNow);
            }
            Input::Stop => self.on_stop(out),
            Input::Tick => {}
        }
        self.watch_lease(out);
        self.publish(out);
        if self.fenced && self.live.is_empty() {
            out.push(Effect::Reborn);
        }
    }

    /// The next process identity, after [`Effect::Reborn`].
    pub fn reborn(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.fenced = false;
        self.born = self.now;
        self.master = None;
        self.floor = Seq(0);
        self.lapse = lease::Lapse::None;
    }

    pub fn cell(&self) -> Option<CellId> {
        self.cell
    }

    pub fn epoch_seen(&self) -> Epoch {
        self.master.map_or(Epoch(0), |master| master.epoch)
    }

    pub fn heartbeat_ms(&self) -> u64 {
        self.master.map_or(1_000, |master| master.terms.heartbeat_ms)
    }

    pub fn running(&self) -> usize {
        self.live.len()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Everything has ended, and its results are with the stream.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.live.is_empty() && self.unpublished.is_empty() && !self.publishing
    }

    pub(crate) fn closed(&self) -> Option<ClosedReason> {
        if self.stopping && self.live.is_empty() {
            return Some(ClosedReason::Stopped);
        }
        if self.no_room && !self.stopping {
            return Some(ClosedReason::DiskFull);
        }
        let draining = self.draining || self.retiring || self.stopping;
        draining.then_some(ClosedReason::Draining)
    }
}

#[cfg(test)]
mod tests;
