//! While the disk has no room for records, nothing may happen that follows from them. Leases are
//! renewed all the same, or everything that runs would end with them.

use std::path::Path;

use bistro_common::protocol::api::{ApiError, ErrorCode, ProblemKind, ProblemReport, Severity};
use bistro_common::protocol::heartbeat::{HeartbeatAnswer, HeartbeatReply};
use bistro_core::Effect;

/// What people see.
pub fn problem(data_dir: &Path, error: &dyn std::error::Error) -> ProblemReport {
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    ProblemReport {
        kind: ProblemKind::DiskFull,
        severity: Severity::Error,
        file: data_dir.display().to_string(),
        line: 0,
        column: 0,
        key_path: String::new(),
        message: format!("the disk is full ({cause}): nothing is started, what runs goes on"),
        hint: Some("make room for this directory; the scheduler goes on by itself".to_owned()),
    }
}

/// In place of doing what would have to be written down.
pub fn refusal() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the scheduler's disk is full; nothing was done")
        .hint("make room for its data directory, and try again")
}

/// Takes out the answers to heartbeats, which need not wait. That a result is settled is left out of
/// them: the worker would forget it, and it may not be on this disk.
pub fn take_replies(out: &mut Vec<Effect>) -> Vec<Effect> {
    let (mut replies, rest) =
        std::mem::take(out).into_iter().partition(|effect| matches!(effect, Effect::Reply { .. }));
    *out = rest;
    replies.iter_mut().for_each(unsettle);
    replies
}

fn unsettle(effect: &mut Effect) {
    if let Effect::Reply { reply: HeartbeatReply { answer, .. }, .. } = effect
        && let HeartbeatAnswer::Lease { settled, .. } = answer
    {
        settled.clear();
    }
}
