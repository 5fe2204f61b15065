//! Putting the records of the scheduler that reigns into one's own store, until nobody reigns.

use async_nats::jetstream::consumer::pull::MessagesError;
use async_nats::jetstream::{self, Context, consumer};
use futures_util::{Stream, StreamExt};
use std::time::Duration;
use tokio::sync::watch;

use bistro_common::Millis;
use bistro_common::clock::{Clock, sleep_until};
use bistro_common::ids::Epoch;
use bistro_common::nats::Bus;
use bistro_common::protocol::succession::{RecordsHeader, RecordsKind};
use bistro_common::subject::Cell;
use bistro_core::succession::{Next, Position, StreamState, Way, next, silence_ms, way};

use super::parts::{Joined, read_records};
use super::stream::{Deposed, StreamEnd, Writer, appended, look};
use super::{OnDisk, StandbyError, Standbys, copy};
use crate::store::Store;

/// A stream that does not even say that it has nothing is asked anew.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For so long the server keeps what it needs to go on with one that stands by.
const UNUSED: Duration = Duration::from_secs(30);

/// Messages that are put on the disk in one go.
const MESSAGES_MAX: usize = 64;

/// A scheduler that does not reign.
pub struct Standby<'a> {
    bus: &'a Bus,
    cell: &'a Cell,
    standbys: &'a Standbys,
    clock: Clock,
    context: Context,
    place: String,
    disk: OnDisk,
    heard: watch::Receiver<Epoch>,
    /// What is in the store does not fit what is in the stream.
    must_copy: bool,
    /// Who delivers messages to it.
    consumer: Option<String>,
}

/// How far one has come with a stream.
struct Following {
    /// As it was at first.
    state: StreamState,
    /// The last message that was read, in the store or not.
    seen: u64,
    joined: Joined,
    /// When another may reign, if nothing comes before.
    free_at: Millis,
}

impl<'a> Standby<'a> {
    /// `place`: that of the store on the disk; `heard`: the highest epoch that anybody speaks of.
    pub fn new(
        bus: &'a Bus,
        cell: &'a Cell,
        standbys: &'a Standbys,
        clock: Clock,
        (place, disk): (String, OnDisk),
        heard: watch::Receiver<Epoch>,
    ) -> Self {
        let context = jetstream::new(bus.client().clone());
        Self {
            bus,
            cell,
            standbys,
            clock,
            context,
            place,
            disk,
            heard,
            must_copy: false,
            consumer: None,
        }
    }

    pub fn into_disk(self) -> OnDisk {
        self.disk
    }

    /// Follows the stream until it is silent for so long that this scheduler begins to reign; `None`:
    /// to be begun again, as after an error that passes.
    pub async fn follow(&mut self) -> Result<Option<StreamEnd>, StandbyError> {
        // What is asked for without a connection is answered late, or never.
        let mut connections = self.bus.connections();
        let _ = connections.wait_for(|_| self.bus.is_connected()).await;
        self.stop_following().await;
        let followed = self.follow_once(connections).await;
        self.must_copy |= matches!(followed, Err(StandbyError::Gap));
        if matches!(followed, Ok(Some(_))) {
            self.stop_following().await;
        }
        followed
    }

    /// `connections`: it is over with this one.
    async fn follow_once(
        &mut self,
        mut connections: watch::Receiver<u64>,
    ) -> Result<Option<StreamEnd>, StandbyError> {
        let looked = look(&self.context, self.cell, self.standbys.replicas).await;
        let (state, last) = looked.map_err(StandbyError::Stream)?;
        let store = self.disk.store();
        // Its very first message may be all that it came to.
        let begun = last.as_ref().filter(|last| store.is_new() && self.is_own_beginning(last));
        let after = match way(store.position(), store.is_new(), &state) {
            _ if begun.is_some() => state.last,
            Way::Alone => {
                return Err(StandbyError::Alone { stream: self.cell.records_stream() });
            }
            // What fits nothing in a stream may be all that there is when that is lost.
            Way::Follow { after } if !self.must_copy || state.last == 0 => after,
            Way::Follow { .. } | Way::Copy => {
                copy::fetch(self.bus, self.cell, &mut self.disk).await?;
                self.must_copy = false;
                return Ok(None);
            }
        };
        let silence_ms = match &last {
            Some(last) if self.is_over(last) => 0,
            Some(last) => silence_ms(last.ttl_ms),
            // Somebody may reign who is about to make it again. Who has records goes before who has
            // none, and would found another cell.
            None if store.is_new() => silence_ms(self.standbys.ttl_ms) * 3 / 2,
            None => silence_ms(self.standbys.ttl_ms),
        };
        let free_at = self.clock.now() + silence_ms;
        if store.is_new() && begun.is_none() {
            let sec = silence_ms.div_ceil(1_000);
            tracing::warn!("a new cell begins in {sec} s, unless another scheduler has records");
        }
        let mut messages = self.messages(after).await.map_err(StandbyError::Stream)?;
        let mut following = Following { state, seen: after, joined: Joined::default(), free_at };
        loop {
            // All that was there when this began must be in the store first.
            let caught_up = following.seen >= following.state.last;
            let free = caught_up.then(|| self.clock.instant(following.free_at).into());
            tokio::select! {
                chunk = messages.next() => {
                    let Some(chunk) = chunk else { return Ok(None) };
                    let chunk: Result<Vec<_>, _> = chunk.into_iter().collect();
                    let chunk = chunk.map_err(|error| StandbyError::Stream(error.into()))?;
                    self.take(&mut following, chunk).await?;
                }
                () = sleep_until(free) => return self.begin(&following).await,
                // A server that was started again knows of nobody who follows, and says nothing.
                Ok(()) = connections.changed() => return Ok(None),
            }
        }
    }

    /// Whoever wrote this reigns no more: it says so, or it had the store that this process has.
    fn is_over(&self, last: &RecordsHeader) -> bool {
        last.kind == RecordsKind::Resignation || last.place == self.place
    }

    fn is_own_beginning(&self, last: &RecordsHeader) -> bool {
        let begins = matches!(last.kind, RecordsKind::Reign { .. }) && last.from == 0;
        begins && last.place == self.place && Some(last.cell) == self.disk.store().cell()
    }

    /// Those after a message, as many at a time as there are.
    async fn messages(
        &mut self,
        after: u64,
    ) -> Result<
        impl Stream<Item = Vec<Result<jetstream::Message, MessagesError>>> + use<>,
        async_nats::Error,
    > {
        let stream = self.context.get_stream_no_info(self.cell.records_stream()).await?;
        let config = consumer::pull::Config {
            deliver_policy: consumer::DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: consumer::AckPolicy::None,
            inactive_threshold: UNUSED,
            memory_storage: true,
            num_replicas: 1,
            ..consumer::pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        self.consumer = Some(consumer.cached_info().name.clone());
        let messages = consumer.stream().max_messages_per_batch(4 * MESSAGES_MAX);
        let messages = messages.heartbeat(HEARTBEAT).messages().await?;
        Ok(messages.ready_chunks(MESSAGES_MAX))
    }

    /// Whoever looks at the stream's consumers sees who stands by.
    async fn stop_following(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        // One that is not used is forgotten by the server, too, after a while.
        if let Ok(stream) = self.context.get_stream_no_info(self.cell.records_stream()).await {
            let _ = stream.delete_consumer(&consumer).await;
        }
    }

    /// Puts what came into the store, all of it in one go.
    async fn take(
        &mut self,
        following: &mut Following,
        messages: Vec<jetstream::Message>,
    ) -> Result<(), StandbyError> {
        let store = self.disk.store();
        let stream = &following.state.stream;
        let (mut end, mut epoch, mut position) = (store.end(), self.followed(), None);
        let mut taken = Vec::new();
        for message in messages {
            let seq = message.info().map_err(StandbyError::Stream)?.stream_sequence;
            let (header, bytes) = read_records(&message.payload)?;
            // On a connection that was lost, or the stream has thrown it away meanwhile.
            if seq != following.seen + 1 {
                return Err(StandbyError::Missed);
            }
            if Some(header.cell) != store.cell() || store.is_new() {
                return Err(StandbyError::Gap);
            }
            following.seen = seq;
            if seq > following.state.last {
                let silence_ms = match header.kind {
                    RecordsKind::Resignation => 0,
                    _ => silence_ms(header.ttl_ms),
                };
                following.free_at = self.clock.now() + silence_ms;
            }
            let Some((header, mut records)) = following.joined.push(header, bytes)? else {
                continue;
            };
            let Next::Take { skip } = next(epoch, end, appended(&header)) else {
                return Err(StandbyError::Gap);
            };
            taken.extend(records.drain(skip as usize..));
            epoch = header.epoch;
            end = store.end() + taken.len() as u64;
            position = Some(Position { stream: stream.clone(), seq, epoch });
        }
        let change = move |store: &mut Store| {
            store.append_at(&taken, position)?;
            store.fold_some()
        };
        self.disk.change(change).await?;
        Ok(())
    }

    /// The reign that the store has followed.
    fn followed(&self) -> Epoch {
        let store = self.disk.store();
        store.position().map_or_else(|| store.epoch(), |position| position.epoch)
    }

    /// Tries to reign; `None`: somebody else does.
    async fn begin(&mut self, following: &Following) -> Result<Option<StreamEnd>, StandbyError> {
        let cell = match self.disk.store().cell() {
            Some(cell) => cell,
            None => self.disk.change(Store::found_cell).await?,
        };
        let store = self.disk.store();
        let writer = Writer {
            cell,
            epoch: Epoch(store.epoch().max(*self.heard.borrow()).0 + 1),
            place: self.place.clone(),
            host: self.standbys.host.clone(),
        };
        let begun = StreamEnd::begin(
            self.bus,
            self.cell,
            (self.clock, self.standbys.ttl_ms),
            writer,
            (following.state.stream.clone(), following.seen),
            (self.followed(), store.end()),
        );
        match begun.await {
            Ok(stream) => Ok(Some(stream)),
            Err(Deposed::Overtaken) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
