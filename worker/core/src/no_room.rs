//! While the ledger's disk has no room: nothing is started, what runs goes on, and its results wait.

use bistro_common::protocol::assign::{AssignAnswer, RejectedReason};
use bistro_common::protocol::control::{ControlAnswer, Fate};

use crate::{Effect, LedgerRecord, WorkerCore};

impl WorkerCore {
    /// The records of these effects could not be written. Leaves those that wait until they are,
    /// and returns those that need no disk: leases and the end of tasks must not wait for it.
    pub fn without_ledger(&mut self, effects: &mut Vec<Effect>) -> Vec<Effect> {
        self.no_room = true;
        let spawned = |effect: &Effect| match effect {
            Effect::Spawn(assignment) => Some(assignment.open.attempt),
            _ => None,
        };
        let unstarted: Vec<_> = effects.iter().filter_map(spawned).collect();
        unstarted.iter().for_each(|&attempt| self.unopen(attempt));
        let (mut now, mut held) = (Vec::new(), Vec::new());
        for effect in effects.drain(..) {
            match effect {
                Effect::Spawn(_) => {}
                // It may have been written after all, and must not come back.
                Effect::Persist(LedgerRecord::Starting { attempt })
                    if unstarted.contains(&attempt.attempt) =>
                {
                    let attempt = attempt.attempt;
                    held.push(Effect::Persist(LedgerRecord::Settled { attempt }));
                }
                Effect::AssignReply { token, mut reply } => {
                    for result in &mut reply.results {
                        if unstarted.contains(&result.attempt) {
                            let reason = RejectedReason::Closed;
                            result.answer = AssignAnswer::Rejected { reason };
                        }
                    }
                    now.push(Effect::AssignReply { token, reply });
                }
                // A result that is not on the disk is not told; who asks will ask again.
                Effect::ControlReply { token, mut reply } => {
                    if let ControlAnswer::Probed { attempts } = &mut reply.answer {
                        attempts.retain(|probed| !matches!(probed.fate, Fate::Finished { .. }));
                    }
                    now.push(Effect::ControlReply { token, reply });
                }
                Effect::Persist(_) | Effect::Publish(_) => held.push(effect),
                Effect::Kill { .. }
                | Effect::HeartbeatNow
                | Effect::Deadline(_)
                | Effect::Reborn
                | Effect::Ignored { .. }
                | Effect::Unwanted { .. } => now.push(effect),
            }
        }
        *effects = held;
        now
    }

    /// All that waited for the ledger is in it.
    pub fn ledger_has_room(&mut self) {
        self.no_room = false;
    }

    pub fn has_no_room(&self) -> bool {
        self.no_room
    }
}
