//! A scheduler's core without a shell, for what drives it by hand: one worker, one moment.

use bistro_common::ids::{CellId, Epoch, Incarnation, LedgerId, SchedulerId, Seq, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::VERSION;
use bistro_common::protocol::heartbeat::{Capacity, Heartbeat, OpenDigest};
use bistro_core::{Core, Identity, Snapshot};

/// The moment of every step.
pub const NOW: u64 = 1_700_000_000_000;

pub fn core(seed: u64, snapshot: Snapshot) -> Core {
    let scheduler = SchedulerId::from_parts(1, [2; 10]);
    let identity = Identity { cell: cell_id(), scheduler, epoch: Epoch(1) };
    Core::new(identity, LeaseTerms::PRODUCTION, seed, NOW, snapshot)
}

pub fn cell_id() -> CellId {
    CellId::from_parts(1, [1; 10])
}

pub fn worker() -> WorkerName {
    WorkerName::new("w1").expect("a valid name")
}

pub fn incarnation() -> Incarnation {
    Incarnation::from_parts(1, [1; 10])
}

/// The worker's heartbeat; `open` is what it runs already.
pub fn heartbeat(open: OpenDigest) -> Heartbeat {
    Heartbeat {
        v: VERSION,
        worker: worker(),
        incarnation: incarnation(),
        ledger: LedgerId::from_parts(1, [1; 10]),
        cell: None,
        epoch_seen: Epoch(0),
        scheduler_seen: None,
        host: "host".to_owned(),
        boot: "boot".to_owned(),
        pid: 1,
        build: "test".to_owned(),
        started_ms: NOW,
        capacity: Capacity::default(),
        floor: Seq(0),
        open,
        open_attempts: None,
        unsettled: Vec::new(),
        closed: None,
    }
}
