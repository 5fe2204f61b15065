//! What is known about each task: one byte for all, more only where there is more.

use serde::{Deserialize, Serialize};

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::task::Usage;
use bistro_common::status::TaskStatus;

use crate::attempts::AttemptIx;
use crate::forest::NodeIx;

/// Number of a job in the present plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobIx(pub u32);

impl JobIx {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A task of the present plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIx {
    pub job: JobIx,
    pub node: NodeIx,
}

/// How far a task has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    #[default]
    Ready,
    Running,
    /// An attempt is open, and nobody knows whether it runs.
    Unsure,
    Backoff,
    Done,
    Failed,
}

impl Phase {
    /// Nothing more happens by itself.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A task's phase, and what keeps it from starting, in one byte. Zero: it can start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCell(u8);

/// A reason, apart from its phase, why a task must not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// A job that it depends on is not done on this node.
    Blocked = 0x10,
    /// A filter excludes the node, or one above.
    Avoided = 0x20,
    /// The node, or one above, is disabled.
    Disabled = 0x40,
}

impl TaskCell {
    pub fn phase(self) -> Phase {
        match self.0 & 0x0f {
            0 => Phase::Ready,
            1 => Phase::Running,
            2 => Phase::Unsure,
            3 => Phase::Backoff,
            4 => Phase::Done,
            _ => Phase::Failed,
        }
    }

    pub fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & 0xf0 | phase as u8)
    }

    pub fn has(self, gate: Gate) -> bool {
        self.0 & gate as u8 != 0
    }

    pub fn with_gate(self, gate: Gate, closed: bool) -> Self {
        if closed { Self(self.0 | gate as u8) } else { Self(self.0 & !(gate as u8)) }
    }

    /// It has an open attempt.
    pub fn is_open(self) -> bool {
        matches!(self.phase(), Phase::Running | Phase::Unsure)
    }

    /// Nothing but room and order keeps it from starting.
    pub fn can_run(self) -> bool {
        self.0 == 0
    }

    pub fn state(self) -> TaskState {
        match self.phase() {
            Phase::Running => TaskState::Running,
            Phase::Unsure => TaskState::Unsure,
            _ if self.has(Gate::Avoided) => TaskState::Avoided,
            Phase::Done => TaskState::Done,
            _ if self.has(Gate::Disabled) => TaskState::Disabled,
            Phase::Failed => TaskState::Failed,
            Phase::Backoff => TaskState::Backoff,
            Phase::Ready if self.has(Gate::Blocked) => TaskState::Blocked,
            Phase::Ready => TaskState::CanRun,
        }
    }
}

/// What is kept of a task that has been started at least once. Also its form in the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Starts so far.
    pub attempt_no: u32,
    /// Never `Running` or `Unsure` in the store: open attempts say that.
    pub phase: Phase,
    /// How the last attempt ended, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    #[serde(default)]
    pub status_ms: Millis,
    /// How long it ran, and what it used.
    #[serde(default)]
    pub ran_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The configured wait that is in force, remembered across attempts that do not advance it.
    #[serde(default)]
    pub backoff_seconds: u64,
    /// The last attempt, if its worker was lost: its real result still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Box<AttemptId>>,
}

impl TaskRecord {
    /// When the wait of a task in backoff is over.
    pub fn backoff_until_ms(&self) -> Millis {
        self.status_ms.saturating_add(self.backoff_seconds.saturating_mul(1_000))
    }
}

/// What the core keeps of such a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub record: TaskRecord,
    pub open: Option<AttemptIx>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cell_keeps_phase_and_gates_apart() {
        let cell = TaskCell::default().with_gate(Gate::Blocked, true);
        assert_eq!(cell.state(), TaskState::Blocked);
        let cell = cell.with_phase(Phase::Failed);
        assert_eq!((cell.phase(), cell.state()), (Phase::Failed, TaskState::Failed));
        let cell = cell.with_gate(Gate::Avoided, true);
        assert_eq!(cell.state(), TaskState::Avoided);
        let cell = cell.with_gate(Gate::Avoided, false).with_gate(Gate::Blocked, false);
        assert!(cell.with_phase(Phase::Ready).can_run());
    }
}
