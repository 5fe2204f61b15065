//! Who changed what: on disk with the change itself, and in the event stream exactly as often.
//!
//! An audit event is kept until the stream has it. A scheduler that dies in between tells it in
//! its next reign; the stream knows by its id if it had come through after all.

use serde::{Deserialize, Serialize};
use std::fmt;

use bistro_common::ids::Epoch;
use bistro_common::protocol::api::{ApiError, ErrorCode};
use bistro_common::protocol::event::Event;

use crate::Core;
use crate::io::Effect;
use crate::record::Record;

/// While so many wait for the stream, nothing more is changed.
pub const UNTOLD_MAX: usize = 10_000;

/// Of who did something, and of why.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Of all audit events of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuditId {
    pub epoch: Epoch,
    /// Within the reign.
    pub number: u64,
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.0, self.number)
    }
}

/// How many there were, and how many the stream does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Audits {
    pub made: u64,
    pub untold: usize,
}

impl Core {
    /// Keeps an event of kind `audit.*` until it is told.
    pub(crate) fn audit(&mut self, mut event: Event, out: &mut Vec<Effect>) {
        // One that the stream could never take would keep all later ones waiting.
        for text in event.actor.iter_mut().chain([&mut event.text]) {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        self.audits.made += 1;
        self.audits.untold += 1;
        let id = AuditId { epoch: self.identity.epoch, number: self.audits.made };
        out.push(Effect::Persist(Record::Audit { id, event: Some(event.clone()) }));
        out.push(Effect::Audit { id, event });
    }

    pub(crate) fn on_audits_told(&mut self, ids: &[AuditId], out: &mut Vec<Effect>) {
        self.audits.untold = self.audits.untold.saturating_sub(ids.len());
        let forgotten = ids.iter().map(|&id| Record::Audit { id, event: None });
        out.extend(forgotten.map(Effect::Persist));
    }

    /// Nothing may be changed that could not be told.
    pub(crate) fn check_audits(&self) -> Result<(), ApiError> {
        if self.audits.untold < UNTOLD_MAX {
            return Ok(());
        }
        let message =
            format!("nothing was changed: {UNTOLD_MAX} audit events wait for the event stream");
        Err(ApiError::new(ErrorCode::Unavailable, message)
            .hint("make sure that the NATS server runs with JetStream and has disk space"))
    }
}
