//! Identities, each its own type, so that one cannot be passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

use crate::Millis;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A time-ordered id (UUIDv7) from a time and 80 random bits that the caller supplies,
            /// so that a pure core can make ids too.
            pub fn from_parts(now: Millis, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid())
            }

            /// A fresh time-ordered id from the operating system's clock and randomness.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// One deployment. Minted by the first scheduler, pinned by workers on first contact.
    CellId
);
uuid_id!(
    /// One scheduler process.
    SchedulerId
);
uuid_id!(
    /// One process of a worker. A restarted worker is a new incarnation.
    Incarnation
);
uuid_id!(
    /// One worker ledger on one disk. Survives restarts; a new disk means a new ledger.
    LedgerId
);
uuid_id!(
    /// One start of one task.
    AttemptId
);

impl AttemptId {
    /// Ids that grow with the time and, within it, with a number, of which the last 42 bits count.
    /// The rest is for its maker to tell them apart by.
    pub fn growing(now: Millis, number: u64, rest: u32) -> Self {
        // A version 7 UUID: 48 bits of time, 4 that say so, 12, 2 that are the variant, and 62. In
        // registers, since a value that is read back from the bytes that it was written as waits
        // for every write before it.
        let (high, low) = (number >> 30 & 0x0fff, number & 0x3fff_ffff);
        let upper = now << 16 | 7 << 12 | high;
        let lower = 2 << 62 | low << 32 | u64::from(rest);
        Self(Uuid::from_u64_pair(upper, lower))
    }

    /// When it was made, and the last 42 bits of its number.
    pub fn origin(self) -> (Millis, u64) {
        let bits = self.0.as_u128();
        let (high, low) = (bits >> 64 & 0x0fff, bits >> 32 & 0x3fff_ffff);
        ((bits >> 80) as Millis, (high << 30 | low) as u64)
    }

    /// The last 32 bits.
    pub fn rest(self) -> u32 {
        self.0.as_u128() as u32
    }
}

/// One reign of one scheduler process; strictly growing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Dispatch order of assignments to one incarnation, from 1. The worker's floor is of this type
/// too: it refuses every assignment at or below it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// The stable name of a worker (the original's "shard").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerName(Arc<str>);

/// Why a text cannot name a worker or a cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {NAME_LEN_MAX} bytes")]
    TooLong,
    #[error("the name contains the control character {0:?}")]
    Control(char),
}

/// The longest name: an escaped subject token stays well below what NATS accepts.
pub const NAME_LEN_MAX: usize = 255;

fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong);
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(NameError::Control(c)),
        None => Ok(()),
    }
}

impl WorkerName {
    /// Checks that the name is not empty, not long and without control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_name(&name)?;
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl TryFrom<String> for WorkerName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<WorkerName> for String {
    fn from(name: WorkerName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl FromStr for WorkerName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A task: one job on one node, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskName {
    pub job: Arc<str>,
    pub node: Arc<str>,
}

impl TaskName {
    pub fn new(job: impl Into<Arc<str>>, node: impl Into<Arc<str>>) -> Self {
        Self { job: job.into(), node: node.into() }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.job, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_ids_grow_with_their_numbers() {
        let ids = [1, 2, 1 << 30, (1 << 30) + 1, 1 << 41];
        let ids = ids.map(|number| AttemptId::growing(7, number, u32::MAX - number as u32));
        assert!(ids.is_sorted() && AttemptId::growing(8, 1, 0) > ids[4]);
        assert_eq!((ids[0].0.get_version_num(), ids[0].rest()), (7, u32::MAX - 1));
    }

    #[test]
    fn worker_names_are_checked_on_the_wire_too() {
        assert_eq!(WorkerName::new(""), Err(NameError::Empty));
        assert_eq!(WorkerName::new("a\nb"), Err(NameError::Control('\n')));
        assert_eq!(WorkerName::new("x".repeat(256)), Err(NameError::TooLong));
        assert!(serde_json::from_str::<WorkerName>("\"\"").is_err());
        let name: WorkerName = serde_json::from_str("\"db1.example.com\"").expect("valid name");
        assert_eq!(name.as_str(), "db1.example.com");
    }

    #[test]
    fn a_growing_id_tells_its_origin() {
        let number = 0xfff << 30 | 0x3fff_fffe;
        let id = AttemptId::growing(1_700_000_000_123, number, 0xffff_ffff);
        assert_eq!(id.origin(), (1_700_000_000_123, number));
        assert_eq!(AttemptId::growing(5, 7, 0).origin(), (5, 7));
    }

    #[test]
    fn ids_from_parts_are_ordered_by_time() {
        let early = AttemptId::from_parts(1_000, [255; 10]);
        let late = AttemptId::from_parts(1_001, [0; 10]);
        assert!(early < late);
    }
}
