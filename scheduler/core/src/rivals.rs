//! Other schedulers of the same cell name: copied data directories and strangers.

use std::fmt;

use bistro_common::ids::{CellId, Epoch, SchedulerId};
use bistro_common::protocol::heartbeat::{Heartbeat, SchedulerBeacon};

use crate::io::Identity;

/// What another scheduler is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// It has our cell and our epoch: one data directory is a copy of the other.
    Twin { scheduler: SchedulerId, epoch: Epoch },
    /// It reigns since after us.
    Later { epoch: Epoch },
    /// It reigned before us, and is still there.
    Former,
    /// Its cell has our name, and is another.
    Foreign { cell: CellId },
}

impl Identity {
    /// Whom a worker of our cell follows instead. Whatever it is, it is on that one's books what
    /// the worker runs; so we must not go on.
    pub fn deposed_by(&self, heartbeat: &Heartbeat) -> Option<Rival> {
        let rival =
            self.compare(heartbeat.cell?, heartbeat.epoch_seen, heartbeat.scheduler_seen)?;
        matches!(rival, Rival::Twin { .. } | Rival::Later { .. }).then_some(rival)
    }

    pub fn rival(&self, beacon: &SchedulerBeacon) -> Option<Rival> {
        self.compare(beacon.cell, beacon.epoch, Some(beacon.scheduler))
    }

    fn compare(&self, cell: CellId, epoch: Epoch, scheduler: Option<SchedulerId>) -> Option<Rival> {
        if cell != self.cell {
            return Some(Rival::Foreign { cell });
        }
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Greater => Some(Rival::Later { epoch }),
            std::cmp::Ordering::Less => Some(Rival::Former),
            // Workers of before do not say whom they follow.
            std::cmp::Ordering::Equal => scheduler
                .filter(|&scheduler| scheduler != self.scheduler)
                .map(|scheduler| Rival::Twin { scheduler, epoch }),
        }
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twin { scheduler, epoch } => write!(
                f,
                "scheduler {scheduler} reigns in this cell, too, with the same epoch {epoch}: one data \
                 directory is a copy of the other, or was put back; stop one scheduler for good, and \
                 start the other again"
            ),
            Self::Later { epoch } => write!(
                f,
                "a scheduler with epoch {epoch} reigns in this cell since after this one; if it is not \
                 there any more, this data directory is older than its: start this one again, and each \
                 start is a later reign"
            ),
            Self::Former => f.write_str("a scheduler that reigned before is still there"),
            Self::Foreign { cell } => {
                write!(f, "another cell, {cell}, has this cell's name on the same NATS")
            }
        }
    }
}
