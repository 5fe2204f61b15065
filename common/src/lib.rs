//! The contract: what both ends of a wire or a file must agree on.
//!
//! Ids and leases, NATS subjects, messages, task statuses and the config file live here, so that
//! the scheduler, the workers and the console cannot disagree about them.
//! Nothing here decides anything about scheduling, and nothing does I/O except [`nats`], which is
//! behind a feature that the cores do not enable.

pub mod barrier;
#[cfg(feature = "nats")]
pub mod clock;
pub mod config;
pub mod cron;
pub mod filter;
pub mod ids;
pub mod lease;
#[cfg(feature = "nats")]
pub mod nats;
pub mod protocol;
pub mod status;
pub mod subject;
pub mod varint;

/// Milliseconds since the Unix epoch, on a clock that never goes back within one process.
///
/// Shells take the wall clock once, at start, and add the time that CLOCK_BOOTTIME says has
/// passed since: durations are right even if the wall clock is set, and deadlines that were
/// stored still mean something after a restart.
pub type Millis = u64;
