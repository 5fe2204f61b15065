//! The list of waits between attempts: `[15, 30, 60, "repeat"]`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A checked backoff list: strictly increasing seconds, then repeat the last or fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Shared: most jobs inherit theirs.
    seconds: Arc<[u64]>,
    repeat: bool,
}

/// What follows the current wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextBackoff {
    Seconds(u64),
    /// The list is exhausted: an error now means that the task has failed.
    Exhausted,
}

impl NextBackoff {
    /// The wait in seconds; [`Backoff::EXHAUSTED_SECONDS`] where the list is exhausted.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Seconds(seconds) => seconds,
            Self::Exhausted => Backoff::EXHAUSTED_SECONDS,
        }
    }
}

/// Why a JSON value is not a backoff list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    #[error("expected an array such as [15, 60, \"repeat\"]")]
    NotAnArray,
    #[error("the backoff list is empty")]
    Empty,
    #[error("backoff times must be positive: {0}")]
    NotPositive(i64),
    #[error("duplicate backoff time: {0}")]
    Duplicate(u64),
    #[error("backoff times must be in increasing order: {0} comes after {1}")]
    Decreasing(u64, u64),
    #[error("no backoff interval given before \"repeat\"")]
    NothingToRepeat,
    #[error("unknown string in backoff settings: {0:?}; use \"repeat\" or \"fail\"")]
    UnknownWord(String),
    #[error("invalid backoff value: {0}")]
    Invalid(String),
}

impl Backoff {
    /// What a status that does not advance waits once the list is exhausted.
    pub const EXHAUSTED_SECONDS: u64 = 60;

    /// A first wait may be as short as a second, so a wait of 0 means "none yet".
    pub fn next(&self, current_seconds: u64) -> NextBackoff {
        match self.seconds.iter().find(|&&seconds| seconds > current_seconds) {
            Some(&seconds) => NextBackoff::Seconds(seconds),
            None => match self.seconds.last() {
                Some(&last) if self.repeat => NextBackoff::Seconds(last),
                _ => NextBackoff::Exhausted,
            },
        }
    }

    /// The waits in seconds, and whether the last one repeats.
    pub fn parts(&self) -> (&[u64], bool) {
        (&self.seconds, self.repeat)
    }

    pub fn from_json(value: &Value) -> Result<Self, BackoffError> {
        let Value::Array(items) = value else {
            return Err(BackoffError::NotAnArray);
        };
        if items.is_empty() {
            return Err(BackoffError::Empty);
        }
        let mut seconds: Vec<u64> = Vec::new();
        for item in items {
            match item {
                Value::Number(number) if number.is_i64() || number.is_u64() => {
                    push_seconds(&mut seconds, number)?;
                }
                Value::String(word) if word == "repeat" => {
                    if seconds.is_empty() {
                        return Err(BackoffError::NothingToRepeat);
                    }
                    return Ok(Self { seconds: seconds.into(), repeat: true });
                }
                Value::String(word) if word == "fail" => {
                    return Ok(Self { seconds: seconds.into(), repeat: false });
                }
                Value::String(word) => return Err(BackoffError::UnknownWord(word.clone())),
                other => return Err(BackoffError::Invalid(other.to_string())),
            }
        }
        Ok(Self { seconds: seconds.into(), repeat: false })
    }

    /// The list as configured, always ending with `"repeat"` or `"fail"`.
    pub fn to_json(&self) -> Value {
        let mut items: Vec<Value> = self.seconds.iter().map(|&s| Value::from(s)).collect();
        items.push(Value::from(if self.repeat { "repeat" } else { "fail" }));
        Value::Array(items)
    }
}

fn push_seconds(seconds: &mut Vec<u64>, number: &serde_json::Number) -> Result<(), BackoffError> {
    let value = match number.as_u64() {
        Some(value) if value > 0 => value,
        _ => return Err(BackoffError::NotPositive(number.as_i64().unwrap_or(0))),
    };
    // Ten years: sums of times cannot overflow.
    if value > 315_360_000 {
        return Err(BackoffError::Invalid(format!("{value} is more than ten years")));
    }
    match seconds.last() {
        Some(&last) if last == value => Err(BackoffError::Duplicate(value)),
        Some(&last) if last > value => Err(BackoffError::Decreasing(value, last)),
        _ => {
            seconds.push(value);
            Ok(())
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { seconds: [15, 30, 60, 300, 900, 3_600, 7_200, 21_600, 86_400].into(), repeat: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn next_compares_values() {
        let backoff = Backoff::from_json(&json!([1, 5, 9])).expect("valid");
        assert_eq!(backoff.next(0), NextBackoff::Seconds(1));
        assert_eq!(backoff.next(3), NextBackoff::Seconds(5));
        assert_eq!(backoff.next(9), NextBackoff::Exhausted);
        let backoff = Backoff::from_json(&json!([1, 5, "repeat", "ignored"])).expect("valid");
        assert_eq!(backoff.next(5), NextBackoff::Seconds(5));
        let backoff = Backoff::from_json(&json!(["fail"])).expect("valid");
        assert_eq!(backoff.next(0), NextBackoff::Exhausted);
        assert_eq!(Backoff::default().next(86_400), NextBackoff::Seconds(86_400));
    }

    #[test]
    fn bad_lists_are_refused() {
        for bad in [
            json!({}),
            json!([]),
            json!([0]),
            json!([-1]),
            json!([2, 2]),
            json!([2, 1]),
            json!(["repeat"]),
            json!([1, "often"]),
            json!([1.5]),
            json!([true]),
            json!([null]),
        ] {
            assert!(Backoff::from_json(&bad).is_err(), "{bad}");
        }
    }
}
