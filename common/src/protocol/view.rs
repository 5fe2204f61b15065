//! `view.grid`: coalesced changes of the jobs x nodes grid, only while someone watches.

use serde::{Deserialize, Serialize};

use super::api::TaskState;

/// How long a watcher counts as watching after its last `grid` request with `watch`.
pub const WATCH_MS: u64 = 15_000;

/// Changes since the snapshot or delta before. A gap in `seq`, or another `layout`, means that the
/// watcher must take a new snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridDelta {
    pub v: u32,
    /// Changes with every new config or node list: columns and rows are numbered anew.
    pub layout: u64,
    pub seq: u64,
    pub changes: Vec<CellChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellChange {
    /// Index into the snapshot's jobs, and into the nodes of that job's level.
    pub job: u32,
    pub node: u32,
    pub state: TaskState,
}
