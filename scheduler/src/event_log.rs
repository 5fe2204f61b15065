//! Tells what happened: each event at once to whoever listens for its kind, and all of them into
//! the event stream, as many to a message as there are by the time that the stream has the last
//! one. So a burst costs the stream's disk little, and its order is kept; and a stream that is slow
//! keeps nobody waiting who listens.
//!
//! What finds no room, or is on its way when a connection is lost, is not told again: audit events,
//! which must not be lost, go another way. How many are missing is told where they are missing.

use async_nats::jetstream;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::ids::Epoch;
use bistro_common::nats::Bus;
use bistro_common::protocol::event::{Event, Events};
use bistro_common::protocol::{MESSAGE_BYTES_MAX, VERSION, encode};
use bistro_common::subject::Cell;

use crate::bus::make_streams;

/// Events that wait for NATS, and again for the stream; some 250 bytes each.
const WAITING_MAX: usize = 65_536;
/// Events in a message at most.
const BATCH_MAX: usize = 512;

/// Where events go in.
pub struct EventLog {
    waiting: Lossy<Event>,
}

impl EventLog {
    /// With what carries them away, for as long as this is there.
    pub fn new(bus: Bus, cell: Cell, replicas: usize) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, events) = Lossy::with_room(WAITING_MAX);
        let (kept, batches) = Lossy::with_room(WAITING_MAX);
        let telling = async move {
            tokio::join!(publish(&bus, &cell, events, kept), keep(&bus, &cell, replicas, batches));
        };
        (Self { waiting }, telling)
    }

    pub fn tell(&mut self, event: Event) {
        self.waiting.send(event);
    }
}

/// A thing that says when it was made, and what stands where some of its kind are missing.
trait Told: Sized {
    fn gap_before(&self, missing: u64) -> Self;
}

/// A queue that drops what finds no room, and says so before the next that does.
struct Lossy<T> {
    sender: mpsc::Sender<T>,
    missing: u64,
}

impl<T: Told> Lossy<T> {
    fn with_room(room: usize) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(room);
        (Self { sender, missing: 0 }, receiver)
    }

    fn send(&mut self, thing: T) {
        if self.missing > 0 && self.sender.try_send(thing.gap_before(self.missing)).is_ok() {
            self.missing = 0;
        }
        if self.missing > 0 || self.sender.try_send(thing).is_err() {
            self.missing += 1;
        }
    }
}

impl Told for Event {
    fn gap_before(&self, missing: u64) -> Self {
        Self {
            v: VERSION,
            time_ms: self.time_ms,
            epoch: self.epoch,
            kind: "event.lost".into(),
            text: format!("{missing} events before this were lost on their way here"),
            ..Self::default()
        }
    }
}

/// An event for the stream.
struct Encoded {
    time_ms: Millis,
    epoch: Epoch,
    bytes: Vec<u8>,
}

impl From<&Event> for Encoded {
    fn from(event: &Event) -> Self {
        Self { time_ms: event.time_ms, epoch: event.epoch, bytes: encode(event) }
    }
}

impl Told for Encoded {
    fn gap_before(&self, missing: u64) -> Self {
        let event = Event { time_ms: self.time_ms, epoch: self.epoch, ..Event::default() };
        (&event.gap_before(missing)).into()
    }
}

async fn publish(
    bus: &Bus,
    cell: &Cell,
    mut events: mpsc::Receiver<Event>,
    mut kept: Lossy<Encoded>,
) {
    while let Some(event) = events.recv().await {
        let encoded = Encoded::from(&event);
        if let Err(error) = bus.publish(cell.event(&event.kind), encoded.bytes.clone()).await {
            tracing::debug!(%error, "an event was not published");
        }
        kept.send(encoded);
    }
}

async fn keep(bus: &Bus, cell: &Cell, replicas: usize, mut waiting: mpsc::Receiver<Encoded>) {
    let context = jetstream::new(bus.client().clone());
    let (mut batch, mut missing) = (Vec::with_capacity(BATCH_MAX), 0);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let count = batch.len() as u64;
        let gap = batch.first().filter(|_| missing > 0).map(|first| first.gap_before(missing));
        let encoded = gap.into_iter().chain(batch.drain(..)).map(|encoded| encoded.bytes).collect();
        // Where a part of them was taken and another not, more are said to be missing than are.
        match keep_batch(bus, cell, &context, encoded).await {
            Ok(()) => missing = 0,
            Err(error) => {
                missing += count;
                tracing::debug!(%error, "events are not in the stream");
                // It may have been deleted; what comes next must find it.
                if bus.is_connected()
                    && let Err(error) = make_streams(&context, cell, replicas).await
                {
                    tracing::debug!(%error, "the streams cannot be made");
                }
            }
        }
    }
}

async fn keep_batch(
    bus: &Bus,
    cell: &Cell,
    context: &jetstream::Context,
    encoded: Vec<Vec<u8>>,
) -> Result<(), async_nats::Error> {
    for message in Events::join(encoded, MESSAGE_BYTES_MAX) {
        if !bus.is_connected() {
            return Err("there is no connection".into());
        }
        context.publish(cell.events(), message.into()).await?.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_where_it_is_missing() {
        let (mut log, mut waiting) = Lossy::with_room(3);
        let event = |time_ms| Event { v: 1, time_ms, kind: "task.done".into(), ..Event::default() };
        (0..5).for_each(|time_ms| log.send(event(time_ms)));
        let mut take = || waiting.try_recv().expect("it waits");
        assert_eq!([take(), take()], [event(0), event(1)]);
        (5..8).for_each(|time_ms| log.send(event(time_ms)));
        assert_eq!(take(), event(2));
        let gap = take();
        assert_eq!((&*gap.kind, gap.time_ms), ("event.lost", 5));
        assert!(gap.text.starts_with("2 events"), "{}", gap.text);
        assert_eq!(take(), event(5));
        log.send(event(8));
        let gap = take();
        assert!(gap.text.starts_with("2 events") && gap.time_ms == 8, "{}", gap.text);
        assert_eq!(take(), event(8));
        assert!(waiting.try_recv().is_err());
    }
}
