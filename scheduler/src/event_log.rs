//! Tells what happened: each event at once to whoever listens for its kind, and all of them into
//! the event stream, as many to a message as there are by the time that the stream has the last
//! one. So a burst costs the stream's disk little, and its order is kept.
//!
//! What does not find room, or is on its way when a connection is lost, is not told again: audit
//! events, which must not be lost, go another way. How many found no room is told.

use async_nats::jetstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

use bistro_common::nats::Bus;
use bistro_common::protocol::event::{Event, Events};
use bistro_common::protocol::{MESSAGE_BYTES_MAX, encode};
use bistro_common::subject::Cell;

/// Events that wait; some 250 bytes each.
const WAITING_MAX: usize = 65_536;
/// Events in a message at most.
const BATCH_MAX: usize = 512;

/// Where events go in.
pub struct EventLog {
    events: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl EventLog {
    /// With what carries them away, for as long as this is there.
    pub fn new(bus: Bus, cell: Cell) -> (Self, impl Future<Output = ()> + Send) {
        let (log, waiting) = Self::with_room(WAITING_MAX);
        let telling = tell(bus, cell, waiting, log.lost.clone());
        (log, telling)
    }

    fn with_room(room: usize) -> (Self, mpsc::Receiver<Event>) {
        let (events, waiting) = mpsc::channel(room);
        (Self { events, lost: Arc::default() }, waiting)
    }

    pub fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn tell(bus: Bus, cell: Cell, mut waiting: mpsc::Receiver<Event>, lost: Arc<AtomicU64>) {
    let context = jetstream::new(bus.client().clone());
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if let Some(gap) = gap(lost.swap(0, Ordering::Relaxed), &batch) {
            batch.push(gap);
        }
        let mut encoded = Vec::with_capacity(batch.len());
        for event in batch.drain(..) {
            let bytes = encode(&event);
            if let Err(error) = bus.publish(cell.event(&event.kind), bytes.clone()).await {
                tracing::debug!(%error, "an event was not published");
            }
            encoded.push(bytes);
        }
        for message in Events::join(encoded, MESSAGE_BYTES_MAX) {
            if !bus.is_connected() {
                break;
            }
            let sent = context.publish(cell.events(), message.into()).await;
            let kept = match sent {
                Ok(kept) => kept.await,
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                tracing::debug!(%error, "events are not in the stream");
            }
        }
    }
}

/// What is said of events that found no room.
fn gap(lost: u64, batch: &[Event]) -> Option<Event> {
    let last = batch.last().filter(|_| lost > 0)?;
    Some(Event {
        v: last.v,
        time_ms: last.time_ms,
        epoch: last.epoch,
        kind: "event.lost".into(),
        text: format!("{lost} events came faster than they could be told"),
        ..Event::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_told_with_the_next() {
        let (log, mut waiting) = EventLog::with_room(2);
        let event = |time_ms| Event { v: 1, time_ms, kind: "task.done".into(), ..Event::default() };
        (0..5).for_each(|time_ms| log.tell(event(time_ms)));
        let batch: Vec<Event> = std::iter::from_fn(|| waiting.try_recv().ok()).collect();
        assert_eq!(batch, [event(0), event(1)]);
        let lost = log.lost.swap(0, Ordering::Relaxed);
        let gap = gap(lost, &batch).expect("three are missing");
        assert_eq!((&*gap.kind, gap.time_ms), ("event.lost", 1));
        assert!(gap.text.starts_with("3 events"), "{}", gap.text);
        assert!(super::gap(0, &batch).is_none());
    }
}
