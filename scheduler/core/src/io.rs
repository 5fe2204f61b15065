//! What goes into the core, and what comes out.

use std::sync::Arc;

use bistro_common::config::Config;
use bistro_common::ids::{AttemptId, CellId, Epoch, Incarnation, SchedulerId, WorkerName};
use bistro_common::protocol::assign::{Assign, AssignReply};
use bistro_common::protocol::control::{Control, Probed};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::heartbeat::{Heartbeat, HeartbeatReply, Reign};
use bistro_common::protocol::{Fence, VERSION};

use crate::audit::AuditId;
use crate::forest::Forest;
use crate::plan::{Draft, Plan};
use crate::record::Record;

/// Who this scheduler is. The epoch is on disk before the core exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cell: CellId,
    pub scheduler: SchedulerId,
    pub epoch: Epoch,
}

impl Identity {
    pub fn reign(&self) -> Reign {
        Reign { cell: self.cell, scheduler: self.scheduler, epoch: self.epoch }
    }

    pub fn fence(&self, incarnation: Incarnation) -> Fence {
        Fence {
            v: VERSION,
            cell: self.cell,
            epoch: self.epoch,
            scheduler: self.scheduler,
            incarnation,
        }
    }
}

/// Why a message has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// It certainly did not arrive.
    NotDelivered,
    /// It is too large to be sent at all.
    TooLarge,
    /// It may have arrived, and may yet.
    Unknown,
}

#[derive(Debug)]
pub enum Input {
    /// A config and the nodes made for it.
    Plan { config: Arc<Config>, forest: Arc<Forest> },
    /// What [`Effect::Compile`] asked for.
    Compiled(Box<Plan>),
    /// `token` comes back in [`Effect::Reply`].
    Heartbeat { token: u64, heartbeat: Box<Heartbeat> },
    AssignReply {
        worker: WorkerName,
        incarnation: Incarnation,
        /// All attempts of the request.
        attempts: Vec<AttemptId>,
        reply: Result<AssignReply, SendFailure>,
    },
    ProbeReply {
        worker: WorkerName,
        incarnation: Incarnation,
        /// `None`: no usable answer.
        reply: Option<Vec<Probed>>,
    },
    /// `token` comes back in [`Effect::AckDone`].
    Done { token: u64, done: Done },
    /// The event stream has these.
    AuditsTold(Vec<AuditId>),
    /// The time of [`crate::Core::next_wake`] has come.
    Tick,
}

#[derive(Debug)]
pub enum Effect {
    /// A barrier: nothing after it may happen before it is on disk.
    Persist(Record),
    Reply {
        token: u64,
        reply: HeartbeatReply,
    },
    Assign {
        worker: WorkerName,
        assign: Assign,
    },
    /// Probes are answered with [`Input::ProbeReply`]; other orders are not waited for.
    Control {
        worker: WorkerName,
        control: Control,
    },
    /// To be answered with [`Input::Compiled`]; it takes time, and may happen on another thread.
    Compile(Draft),
    AckDone {
        token: u64,
    },
    /// The shell's: the answer to a request that changed something.
    Answer {
        token: u64,
        answer: Vec<u8>,
    },
    /// To be put into the event stream, however long it takes; answered with
    /// [`Input::AuditsTold`].
    Audit {
        id: AuditId,
        event: Event,
    },
    /// What may be lost.
    Publish(Event),
}
