//! What a worker says of itself when it asks for its lease.

use bistro_common::Millis;
use bistro_common::protocol::VERSION;
use bistro_common::protocol::heartbeat::{Capacity, ClosedReason, Heartbeat};

use crate::WorkerCore;

/// What the shell knows of the process and its host.
#[derive(Clone, Debug)]
pub struct Facts {
    pub host: String,
    pub boot: String,
    pub pid: u32,
    pub build: String,
    pub started_ms: Millis,
    pub capacity: Capacity,
}

impl WorkerCore {
    /// The next heartbeat. `Stopped` is said in the `last` one only, when the results are with the
    /// stream.
    pub fn heartbeat(&mut self, facts: Facts, last: bool) -> Heartbeat {
        let closed = match self.closed() {
            Some(ClosedReason::Stopped) if !last => Some(ClosedReason::Draining),
            closed => closed,
        };
        Heartbeat {
            v: VERSION,
            worker: self.name.clone(),
            incarnation: self.incarnation,
            ledger: self.ledger,
            cell: self.cell,
            epoch_seen: self.epoch_seen(),
            scheduler_seen: self.master.map(|master| master.scheduler),
            host: facts.host,
            boot: facts.boot,
            pid: facts.pid,
            build: facts.build,
            started_ms: facts.started_ms,
            capacity: facts.capacity,
            floor: self.floor,
            open: self.digest,
            open_attempts: self.take_full_sync(),
            unsettled: self.unsettled(),
            closed,
        }
    }
}
