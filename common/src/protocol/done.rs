//! `task.done.<w>`: results, published to the DONE stream and acknowledged by it.

use serde::{Deserialize, Serialize};

use super::task::TaskResult;
use crate::ids::{CellId, Incarnation, WorkerName};

/// At most so many results go into one message; one goes at once when nothing else waits.
pub const BATCH_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub v: u32,
    pub cell: CellId,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    pub results: Vec<TaskResult>,
}
