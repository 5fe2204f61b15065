//! `task.control.<w>`: questions and orders about attempts and about the worker itself.

use serde::{Deserialize, Serialize};

use super::Fence;
use super::task::{Kill, TaskResult};
use crate::ids::{AttemptId, Seq};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    pub fence: Fence,
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// What became of these attempts? The worker first raises its floor, so that what it answers
    /// stays true however late an assignment arrives.
    Probe {
        attempts: Vec<AttemptId>,
        floor: Seq,
    },
    Kill {
        attempt: AttemptId,
        kill: Kill,
    },
    /// Take no new work (true), or take it again (false).
    Drain {
        on: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlReply {
    pub v: u32,
    pub answer: ControlAnswer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ControlAnswer {
    Probed {
        attempts: Vec<Probed>,
    },
    /// The signal is on its way to the task.
    Killing,
    /// No such attempt is running here.
    NotRunning,
    Drained {
        on: bool,
    },
    Refused {
        detail: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    pub attempt: AttemptId,
    pub fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fate {
    Running,
    Finished {
        result: TaskResult,
    },
    /// Not in the ledger, and with the floor raised it never will be.
    NeverStarted,
}
