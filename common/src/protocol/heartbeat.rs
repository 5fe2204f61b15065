//! `worker.hb.<w>`: the worker asks to live on, the scheduler answers with a lease.

use serde::{Deserialize, Serialize};

use super::task::OpenAttempt;
use crate::Millis;
use crate::ids::{AttemptId, CellId, Epoch, Incarnation, LedgerId, SchedulerId, Seq, WorkerName};
use crate::lease::LeaseTerms;

/// How many unsettled results one heartbeat lists; the rest wait for the next.
pub const UNSETTLED_MAX: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub v: u32,
    pub worker: WorkerName,
    pub incarnation: Incarnation,
    /// Which ledger the worker has: a new incarnation with the same ledger is a restart, with
    /// another it is a stranger who claims the name.
    pub ledger: LedgerId,
    /// The cell that the worker has joined, once it has.
    pub cell: Option<CellId>,
    pub epoch_seen: Epoch,
    /// Whose reign that is: two schedulers that both believe to be it are told apart by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_seen: Option<SchedulerId>,
    pub host: String,
    pub boot: String,
    pub pid: u32,
    pub build: String,
    pub started_ms: Millis,
    pub capacity: Capacity,
    /// All assignments at or below are refused.
    pub floor: Seq,
    pub open: OpenDigest,
    /// The attempts behind the digest, when the scheduler asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_attempts: Option<Vec<OpenAttempt>>,
    /// Results that are not settled yet, at most [`UNSETTLED_MAX`].
    pub unsettled: Vec<AttemptId>,
    /// The worker takes no new work: it drains, it has no room on its disk, or it stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ClosedReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedReason {
    Draining,
    DiskFull,
    /// The last heartbeat of this incarnation: everything it ran has ended and is on its way.
    Stopped,
}

/// How a worker can take down all that a task has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Each task is in a cgroup of its own.
    Cgroup,
    /// By process group, descent, and a mark in the environment. A process that has lost all three
    /// ends with the lease or the worker.
    ProcessGroup,
}

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::ProcessGroup => "process_group",
        }
    }
}

/// What a worker can hold its tasks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    Memory,
    Cpu,
}

impl Limited {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// What the worker's machine has, cgroup limits included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// 0: unknown, as is `ram_mb` of 0.
    pub cpu_cores: u32,
    pub ram_mb: u64,
    /// The models of its GPUs, one entry per card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Free on the disk of its data directory when it started. 0: unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk_mb: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Nothing: `enforcement` of physical resources has no effect there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limited>,
}

fn is_zero(amount: &u64) -> bool {
    *amount == 0
}

/// The attempts a worker holds, in a few bytes: equal sets have equal digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDigest {
    pub count: u32,
    pub sum: u64,
}

impl OpenDigest {
    fn mix(attempt: AttemptId) -> u64 {
        let (high, low) = attempt.0.as_u64_pair();
        let mut x = high.rotate_left(32) ^ low;
        // The finaliser of SplitMix64: every input bit changes about half of the output bits.
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn add(&mut self, attempt: AttemptId) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(Self::mix(attempt));
    }

    pub fn remove(&mut self, attempt: AttemptId) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(Self::mix(attempt));
    }
}

impl FromIterator<AttemptId> for OpenDigest {
    fn from_iter<I: IntoIterator<Item = AttemptId>>(attempts: I) -> Self {
        let mut digest = Self::default();
        attempts.into_iter().for_each(|attempt| digest.add(attempt));
        digest
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    pub v: u32,
    pub answer: HeartbeatAnswer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HeartbeatAnswer {
    Lease {
        cell: CellId,
        scheduler: SchedulerId,
        epoch: Epoch,
        terms: LeaseTerms,
        /// Results that are safely applied: the ledger may forget them.
        settled: Vec<AttemptId>,
        /// Send the open attempts with the next heartbeat, at once.
        full_sync: bool,
    },
    Refused {
        reason: RefusedReason,
        detail: String,
        /// Who refuses: a stranger's word does not count. Schedulers of before do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Reign>,
    },
}

/// The time of one scheduler process in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    pub cell: CellId,
    pub scheduler: SchedulerId,
    pub epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The scheduler has given this incarnation up; its tasks may run elsewhere already.
    Fenced,
    /// The worker belongs to another cell.
    ForeignCell,
    /// Another live worker has this name.
    NameTaken,
    /// The message was not understood.
    BadRequest,
}

/// `sched.epoch`: a scheduler has started, or a rival must be told. Workers heartbeat at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerBeacon {
    pub v: u32,
    pub cell: CellId,
    pub scheduler: SchedulerId,
    pub epoch: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_the_order() {
        let ids: Vec<_> = (0..50u8).map(|i| AttemptId::from_parts(i.into(), [i; 10])).collect();
        let forwards: OpenDigest = ids.iter().copied().collect();
        let mut backwards: OpenDigest = ids.iter().rev().copied().collect();
        assert_eq!(forwards, backwards);
        ids.iter().for_each(|&id| backwards.remove(id));
        assert_eq!(backwards, OpenDigest::default());
    }
}
