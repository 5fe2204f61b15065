//! Deltas of the grid: published only while somebody watches, and not more often than people see.

use std::time::Duration;
use tokio::time::Instant;

use bistro_common::protocol::view::{GridDelta, WATCH_MS};
use bistro_core::Core;

/// Changes of so long travel together.
const GATHER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct GridWatch {
    /// When the last watcher will have lost interest.
    until: Option<Instant>,
    flush_at: Option<Instant>,
    /// Of the last delta.
    seq: u64,
}

impl GridWatch {
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Somebody watches from now on, for a while. False if nobody did until now: changes before
    /// this have not been published.
    pub fn renew(&mut self, core: &mut Core) -> bool {
        let watched = self.until.is_some();
        if !watched {
            core.watch(true);
        }
        self.until = Some(Instant::now() + Duration::from_millis(WATCH_MS));
        watched
    }

    /// Looks for changes after a step; returns when to call [`GridWatch::flush`].
    pub fn look(&mut self, core: &Core) -> Option<Instant> {
        if self.until.is_some() && self.flush_at.is_none() && core.has_changes() {
            self.flush_at = Some(Instant::now() + GATHER);
        }
        self.flush_at
    }

    /// The delta to publish, if there is one.
    pub fn flush(&mut self, core: &mut Core) -> Option<GridDelta> {
        self.flush_at = None;
        let delta = core.take_changes(self.seq + 1);
        if let Some(delta) = &delta {
            self.seq = delta.seq;
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.until = None;
            core.watch(false);
        }
        delta
    }
}
