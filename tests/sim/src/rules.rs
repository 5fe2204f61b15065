//! The rules of the protocol that can be switched off, one at a time.
//!
//! The cores are never changed: a rule is off in a world that keeps it from them, or that undoes
//! what they do. A rule whose loss nobody notices is not tested.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// The scheduler's records are on disk before anything is sent.
    DurableBeforeSent,
    /// The worker's ledger entry is on disk before the process exists.
    LedgerBeforeSpawn,
    /// A probe raises the floor: assignments that were sent before it are refused.
    Floor,
    /// A worker takes orders of its scheduler's reign only.
    EpochFence,
    /// An assignment is for one process of a worker only.
    IncarnationFence,
    /// The worker's lease ends before the scheduler's.
    LeaseOrder,
    /// At the end of its lease a worker's tasks are killed, whatever has become of the worker.
    GuardDeadline,
    /// A worker that restarts ends what its last process has left.
    EndLeftovers,
    /// The ledger keeps a result until the scheduler has applied it.
    SettleBeforeForget,
    /// An assignment of unknown fate is asked about, and counts as running until then.
    ProbeInsteadOfResend,
    /// A result is of one attempt, and is applied once.
    ExactlyOnceApply,
}
