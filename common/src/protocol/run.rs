//! A task that a responder on NATS does instead of a process: the worker asks on the subject that
//! the job names, and the answer is a status line. The responder may be in any language.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{AttemptId, TaskName};

/// What a responder is asked. It answers with what a task writes as its status, such as `done`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    pub v: u32,
    pub cell: String,
    pub attempt: AttemptId,
    pub attempt_no: u32,
    #[serde(flatten)]
    pub task: TaskName,
    /// The JSON argument of a process.
    pub argument: Value,
    /// Where it may publish text for the task's log. That also says that it is still at it.
    pub progress: String,
    /// Where it is told to stop.
    pub cancel: String,
    /// Without an answer and without progress for so long, it is given up.
    pub silence_ms: u64,
}

/// Why a subject cannot be asked.
pub fn check_subject(subject: &str) -> Result<(), &'static str> {
    let token = |token: &str| {
        !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '*' | '>'))
    };
    if !subject.split('.').all(token) {
        return Err("tokens of letters and digits between dots, no wildcards");
    }
    match subject.starts_with('$') || subject.starts_with("_INBOX.") {
        true => Err("one that is not the server's own"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_that_can_be_asked() {
        for good in ["scrape", "tasks.scrape.eu-1"] {
            assert_eq!(check_subject(good), Ok(()), "{good}");
        }
        for bad in ["", "a..b", "a.*", "a.>", "a b", "a.", "$JS.API.X", "_INBOX.x", "ü"] {
            assert!(check_subject(bad).is_err(), "{bad}");
        }
    }
}
