//! Messages, one file per conversation. JSON on the wire, so that people can read it.
//!
//! Rules for every message: a `v` field; unknown fields are ignored, so that a newer peer may say
//! more; an unknown variant of an enum is a decode error, which the receiver answers with a
//! refusal. Golden examples are in `common/vectors/` and are checked both ways.

pub mod api;
pub mod assign;
pub mod control;
pub mod done;
pub mod event;
pub mod heartbeat;
pub mod job;
pub mod list;
pub mod log;
pub mod run;
pub mod succession;
pub mod task;
pub mod view;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{CellId, Epoch, Incarnation, SchedulerId};

/// The protocol version that this build speaks. A peer of another version is refused with a clear
/// error rather than misunderstood.
pub const VERSION: u32 = 1;

/// The largest message that we send: NATS refuses more than 1 MiB by default.
pub const MESSAGE_BYTES_MAX: usize = 900 * 1024;

/// What a scheduler proves with every message to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub v: u32,
    pub cell: CellId,
    pub epoch: Epoch,
    pub scheduler: SchedulerId,
    /// The incarnation that the message is meant for.
    pub incarnation: Incarnation,
}

/// Why bytes from the wire are not the message that was expected.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the message has version {found}, this build speaks {VERSION}")]
    Version { found: u32 },
}

/// Messages to bytes. Our own types always serialize: maps have string keys, numbers are finite.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have string keys and finite numbers")
}

/// How many bytes [`encode`] would make of it.
pub fn encoded_len<T: Serialize>(message: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, message).expect("as above, and a number takes every write");
    count.0
}

/// Bytes to a message, refusing any but our own version.
pub fn decode<T: DeserializeOwned + Versioned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let message: T = serde_json::from_slice(bytes)?;
    match message.version() {
        VERSION => Ok(message),
        found => Err(DecodeError::Version { found }),
    }
}

/// A message with a `v`.
pub trait Versioned {
    fn version(&self) -> u32;
}

macro_rules! versioned {
    ($($name:ty: $($field:ident).+;)*) => {
        $(impl Versioned for $name {
            fn version(&self) -> u32 { self.$($field).+ }
        })*
    };
}

versioned! {
    heartbeat::Heartbeat: v;
    heartbeat::HeartbeatReply: v;
    heartbeat::SchedulerBeacon: v;
    assign::Assign: fence.v;
    assign::AssignReply: v;
    control::Control: fence.v;
    control::ControlReply: v;
    done::Done: v;
    run::RunRequest: v;
    event::Event: v;
    event::Events: v;
    succession::RecordsHeader: v;
    succession::CopyRequest: v;
    succession::CopyHeader: v;
    log::LogRead: v;
    log::LogReadReply: v;
    view::GridDelta: v;
}
