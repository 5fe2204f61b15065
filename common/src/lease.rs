//! Lease arithmetic, used by both sides so that they cannot disagree.
//!
//! The worker counts its lease from the moment it *sent* the heartbeat that was answered, the
//! scheduler from the moment it answered. The worker's clock therefore always runs out first, and
//! the scheduler adds an allowance for clocks that tick at different rates.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// The terms of every lease in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// How long a worker may run without hearing from its scheduler.
    pub lease_ms: u64,
    /// How often a worker sends a heartbeat.
    pub heartbeat_ms: u64,
    /// How long a task has between TERM and KILL when its worker gives up.
    pub kill_grace_ms: u64,
    /// What the scheduler waits on top, for scheduling delays on either side.
    pub margin_ms: u64,
}

/// Clock rates may differ by one part in this many.
const DRIFT_DIVISOR: u64 = 1_000;

impl LeaseTerms {
    /// The defaults of a production cell.
    pub const PRODUCTION: Self =
        Self { lease_ms: 300_000, heartbeat_ms: 5_000, kill_grace_ms: 10_000, margin_ms: 5_000 };

    /// The defaults of `bistro up` and of tests: a lost worker is noticed in seconds.
    pub const DEVELOPMENT: Self =
        Self { lease_ms: 15_000, heartbeat_ms: 1_000, kill_grace_ms: 3_000, margin_ms: 1_000 };

    /// Terms for a lease of `lease_ms`: several heartbeats fit in it, whatever it is.
    pub fn for_lease(lease_ms: u64) -> Self {
        let lease_ms = lease_ms.max(1_000);
        Self {
            lease_ms,
            heartbeat_ms: (lease_ms / 15).clamp(100, 5_000),
            kill_grace_ms: (lease_ms / 5).min(10_000),
            margin_ms: (lease_ms / 15).clamp(100, 5_000),
        }
    }

    /// When a worker must have killed everything, if the heartbeat it sent at `sent` is the last
    /// that is answered.
    pub fn worker_hard_end(&self, sent: Millis) -> Millis {
        sent + self.lease_ms
    }

    /// When a worker sends TERM, so that tasks have their grace before the hard end.
    pub fn worker_soft_end(&self, sent: Millis) -> Millis {
        sent + self.lease_ms.saturating_sub(self.kill_grace_ms + self.margin_ms)
    }

    /// When a worker stops accepting new work: it must have two heartbeats left.
    pub fn worker_last_start(&self, sent: Millis) -> Millis {
        sent + self.lease_ms.saturating_sub(2 * self.heartbeat_ms)
    }

    /// When the scheduler may start the tasks of a worker elsewhere, if the heartbeat that it
    /// answered at `answered` was the last.
    pub fn scheduler_end(&self, answered: Millis) -> Millis {
        answered + self.lease_ms + self.lease_ms / DRIFT_DIVISOR + self.margin_ms
    }

    /// When the scheduler stops giving new work to a worker that it last answered at `answered`.
    pub fn scheduler_suspect(&self, answered: Millis) -> Millis {
        answered + 5 * self.heartbeat_ms / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_always_gives_up_first() {
        for terms in [LeaseTerms::PRODUCTION, LeaseTerms::DEVELOPMENT, LeaseTerms::for_lease(1)] {
            let (sent, answered) = (1_000_000, 1_000_000);
            assert!(terms.worker_last_start(sent) < terms.worker_hard_end(sent));
            assert!(terms.worker_soft_end(sent) < terms.worker_hard_end(sent));
            // Even if the worker's clock is slow by the allowed drift.
            let slow = terms.worker_hard_end(sent) + terms.lease_ms / DRIFT_DIVISOR;
            assert!(slow < terms.scheduler_end(answered));
            assert!(terms.scheduler_suspect(answered) < terms.scheduler_end(answered));
        }
    }
}
