//! Results: on disk first, then to the stream, and forgotten only when the scheduler says so.

use bistro_common::ids::AttemptId;
use bistro_common::protocol::done::BATCH_MAX;
use bistro_common::protocol::heartbeat::UNSETTLED_MAX;
use bistro_common::protocol::{MESSAGE_BYTES_MAX, encoded_len};

use crate::{Effect, LedgerRecord, LedgerState, WorkerCore};

/// What is around the results in a message is small, and is left room for.
const RESULTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (16 << 10);

/// After the stream could not take results.
const RETRY_MS: u64 = 500;

/// A result that the stream took and that is still not settled after so long was lost there.
const RESEND_MS: u64 = 10_000;

/// As many of the first items as fit into a message; always one, which fits by itself (a status
/// line has a limit).
pub(crate) fn fitting<T, R: serde::Serialize>(
    items: impl Iterator<Item = T>,
    part: impl Fn(&T) -> &R,
) -> impl Iterator<Item = T> {
    let mut bytes = 0;
    items.enumerate().map_while(move |(number, item)| {
        bytes += encoded_len(part(&item)) + 1;
        (number == 0 || bytes <= RESULTS_BYTES_MAX).then_some(item)
    })
}

impl WorkerCore {
    pub(crate) fn publish(&mut self, out: &mut Vec<Effect>) {
        // Without a cell there is no stream to publish to.
        if self.publishing || self.cell.is_none() || self.now < self.publish_after {
            return;
        }
        let finished =
            self.unpublished.iter().filter_map(|id| match &self.entries.get(id)?.state {
                LedgerState::Finished { result, .. } => Some(result),
                LedgerState::Open { .. } => None,
            });
        let batch = fitting(finished.take(BATCH_MAX), |result| result).cloned().collect::<Vec<_>>();
        if !batch.is_empty() {
            self.publishing = true;
            out.push(Effect::Publish(batch));
        }
    }

    pub(crate) fn on_published(
        &mut self,
        attempts: Vec<AttemptId>,
        stored: bool,
        out: &mut Vec<Effect>,
    ) {
        self.publishing = false;
        if !stored {
            self.publish_after = self.now + RETRY_MS;
            return;
        }
        for id in attempts {
            self.unpublished.remove(&id);
            if let Some(LedgerState::Finished { published_ms, .. }) =
                self.entries.get_mut(&id).map(|entry| &mut entry.state)
            {
                self.published += usize::from(published_ms.is_none());
                *published_ms = Some(self.now);
            }
        }
        self.settle_soon(out);
    }

    /// With as many results as a heartbeat takes, the next one does not wait for its time: the
    /// ledger must not grow with the rate of tasks.
    fn settle_soon(&mut self, out: &mut Vec<Effect>) {
        if self.published >= self.settle_at {
            // Once; the answer says what is next.
            self.settle_at = usize::MAX;
            out.push(Effect::HeartbeatNow);
        }
    }

    pub(crate) fn settle(&mut self, settled: Vec<AttemptId>, out: &mut Vec<Effect>) {
        // A scheduler that is behind is not asked again and again for what it has not seen.
        let behind = settled.len() < UNSETTLED_MAX / 2;
        for attempt in settled {
            let state = self.entries.get(&attempt).map(|entry| &entry.state);
            let Some(LedgerState::Finished { published_ms, .. }) = state else {
                continue;
            };
            self.published -= usize::from(published_ms.is_some());
            self.entries.remove(&attempt);
            self.unpublished.remove(&attempt);
            out.push(Effect::Persist(LedgerRecord::Settled { attempt }));
        }
        self.settle_at = UNSETTLED_MAX + if behind { self.published } else { 0 };
        self.settle_soon(out);
        for (id, entry) in &self.entries {
            if let LedgerState::Finished { published_ms: Some(at), .. } = entry.state
                && self.now >= at + RESEND_MS
            {
                self.unpublished.insert(*id);
            }
        }
    }

    /// Results that the scheduler has not settled, oldest first, as many as a heartbeat takes.
    pub(crate) fn unsettled(&self) -> Vec<AttemptId> {
        let finished = self.entries.iter().filter_map(|(id, entry)| {
            matches!(entry.state, LedgerState::Finished { published_ms: Some(_), .. })
                .then_some(*id)
        });
        finished.take(UNSETTLED_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::protocol::encode;

    #[test]
    fn results_go_in_messages_that_fit_and_one_goes_whatever_its_size() {
        let large = vec!["\0".repeat(60_000); 20];
        let batch: Vec<_> = fitting(large.iter(), |text| *text).collect();
        assert!(batch.len() > 1 && batch.len() < large.len());
        assert!(encode(&batch).len() <= MESSAGE_BYTES_MAX);
        assert_eq!(encoded_len(&batch), encode(&batch).len());
        let huge = ["x".repeat(2 * MESSAGE_BYTES_MAX)];
        assert_eq!(fitting(huge.iter(), |text| *text).count(), 1);
    }
}
