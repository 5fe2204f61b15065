//! Bistro's cron items: given an item and a time, what is the first matching time at or after it?
//!
//! An item keeps no state, so nothing can be missed or fire twice after a pause. Local times are
//! those of the zone that the caller hands in. (Reference, section 3.)

mod item;
mod schedule;
mod search;
mod selector;

pub use item::{CronItem, Day, ForwardJump, Rewind, Standard};
pub use schedule::{Event, ScheduleItem, events, next_change};
pub use selector::{Selector, SelectorKind};

/// Why something is not a cron item, or has no match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

impl CronError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests;
