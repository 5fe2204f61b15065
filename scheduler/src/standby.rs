//! Several schedulers of one cell: this one stands by until no other reigns, and then takes over with
//! all that was recorded. What may be concluded from what is seen is the core's
//! ([`bistro_core::succession`]).

pub mod copy;
mod parts;
pub mod stream;

use async_nats::jetstream::consumer::pull::MessagesError;
use async_nats::jetstream::{self, Context, consumer};
use futures_util::{Stream, StreamExt};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

use bistro_common::Millis;
use bistro_common::clock::{Clock, sleep_until};
use bistro_common::ids::Epoch;
use bistro_common::nats::Bus;
use bistro_common::protocol::decode;
use bistro_common::protocol::heartbeat::{Heartbeat, SchedulerBeacon};
use bistro_common::protocol::succession::{RecordsHeader, RecordsKind};
use bistro_common::subject::Cell;
use bistro_core::succession::{Next, Position, StreamState, Way, next, silence_ms, way};

use crate::driver::Options;
use crate::store::{Opened, Store, StoreError};
use copy::CopyError;
use parts::{Joined, PartError, split_header};
use stream::{Deposed, StreamEnd, Writer, appended, look};

/// Between two tries of what failed.
const RETRY: Duration = Duration::from_millis(500);

/// A stream that does not even say that it has nothing is asked anew.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For so long the server keeps what it needs to go on with one that stands by.
const UNUSED: Duration = Duration::from_secs(30);

/// There is one to each start of a scheduler: what is above this is no epoch, and would leave no room
/// for those to come.
const EPOCH_MAX: Epoch = Epoch(1 << 22);

/// Messages that are put on the disk in one go.
const MESSAGES_MAX: usize = 64;

/// How schedulers of one cell follow each other.
#[derive(Clone, Debug)]
pub struct Standbys {
    /// For how long one reigns that cannot say so, before another takes over.
    pub ttl_ms: Millis,
    /// Where this one is, for people.
    pub host: String,
    /// On how many servers of a NATS cluster the streams are.
    pub replicas: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store's place on the disk is not known")]
    Place(#[source] std::io::Error),
    #[error("a thread of the store has ended")]
    Thread(#[from] tokio::task::JoinError),
    #[error(
        "this data directory was used without --with-standbys, and the cell has other records since: \
         start with an empty data directory to have theirs, or delete the stream {stream} while no \
         scheduler runs to go on with these"
    )]
    Alone { stream: String },
    #[error("the stream of records cannot be read")]
    Stream(#[source] async_nats::Error),
    #[error("the stream of records has what no scheduler wrote")]
    Message(#[from] PartError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("the records of the cell do not follow from those of this one")]
    Gap,
    #[error(transparent)]
    Deposed(#[from] Deposed),
}

impl StandbyError {
    /// It may be otherwise the next time.
    fn passes(&self) -> bool {
        !matches!(self, Self::Store(_) | Self::Place(_) | Self::Thread(_) | Self::Alone { .. })
    }
}

/// A store whose work is done on other threads.
pub struct OnDisk(Option<Store>);

impl OnDisk {
    fn store(&self) -> &Store {
        self.0.as_ref().expect("no change is under way")
    }

    fn into_store(self) -> Store {
        self.0.expect("no change is under way")
    }

    async fn change<T: Send + 'static>(
        &mut self,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StandbyError> {
        let mut store = self.0.take().expect("no change is under way");
        let changed = tokio::task::spawn_blocking(move || {
            let result = change(&mut store);
            (store, result)
        });
        let (store, result) = changed.await?;
        self.0 = Some(store);
        Ok(result?)
    }
}

/// A reign that has begun.
pub struct Reign {
    pub opened: Opened,
    pub stream: StreamEnd,
}

/// Stands by until this scheduler reigns.
/// `above`: an epoch that is known to have been.
pub async fn wait_for_reign(
    options: &Options,
    standbys: &Standbys,
    bus: &Bus,
    clock: Clock,
    above: Epoch,
) -> Result<Reign, StandbyError> {
    let data_dir = options.data_dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open_to_follow(&data_dir)).await??;
    let (heard_out, heard) = watch::channel(above);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(bus.clone(), options.cell.clone(), heard_out));
    let mut standby = Standby {
        bus,
        cell: &options.cell,
        standbys,
        clock,
        context: jetstream::new(bus.client().clone()),
        place: store.place().map_err(StandbyError::Place)?,
        disk: OnDisk(Some(store)),
        heard,
        must_copy: false,
    };
    let mut said = String::new();
    loop {
        match standby.follow().await {
            Ok(Some(stream)) => return standby.reign(stream).await,
            Ok(None) => {}
            Err(error) if error.passes() => {
                standby.must_copy |= matches!(error, StandbyError::Gap);
                // The same again says nothing new.
                let text = error.to_string();
                if text != said && bus.is_connected() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "it stands by, and cannot take over yet");
                }
                said = text;
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How many others follow the stream, now and then.
pub async fn count(bus: Bus, cell: Cell, out: watch::Sender<u64>) {
    let context = jetstream::new(bus.client().clone());
    while !out.is_closed() {
        if let Ok(stream) = context.get_stream(cell.records_stream()).await {
            out.send_replace(stream.cached_info().state.consumer_count as u64);
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// The highest epoch that workers and schedulers speak of: whoever reigns next is above it.
async fn listen(bus: Bus, cell: Cell, heard: watch::Sender<Epoch>) {
    let subscribe = async |subject| bus.client().subscribe(subject).await;
    let (Ok(mut heartbeats), Ok(mut beacons)) =
        (subscribe(cell.heartbeats()).await, subscribe(cell.scheduler_beacon()).await)
    else {
        return;
    };
    loop {
        let epoch = tokio::select! {
            Some(message) = heartbeats.next() => {
                decode::<Heartbeat>(&message.payload).map(|heartbeat| heartbeat.epoch_seen)
            }
            Some(message) = beacons.next() => {
                decode::<SchedulerBeacon>(&message.payload).map(|beacon| beacon.epoch)
            }
            else => return,
        };
        if let Ok(epoch) = epoch
            && epoch <= EPOCH_MAX
        {
            heard.send_if_modified(|heard| {
                let higher = epoch > *heard;
                *heard = epoch.max(*heard);
                higher
            });
        }
    }
}

struct Standby<'a> {
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

impl Standby<'_> {
    /// Follows the stream until it is silent for so long that this scheduler begins to reign; `None`:
    /// to be begun again.
    async fn follow(&mut self) -> Result<Option<StreamEnd>, StandbyError> {
        let looked = look(&self.context, self.cell, self.standbys.replicas).await;
        let (state, last) = looked.map_err(StandbyError::Stream)?;
        let store = self.disk.store();
        let after = match way(store.position(), store.is_new(), &state) {
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
            None if store.is_new() && state.last == 0 => 0,
            // Somebody may reign who is about to make it again.
            None => silence_ms(self.standbys.ttl_ms),
        };
        let free_at = self.clock.now() + silence_ms;
        let (consumer, mut messages) = self.messages(after).await.map_err(StandbyError::Stream)?;
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
                () = sleep_until(free) => {
                    let begun = self.begin(&following).await;
                    self.stop_following(&consumer).await;
                    return begun;
                }
            }
        }
    }

    /// Whoever wrote this reigns no more: it says so, or it had the store that this process has.
    fn is_over(&self, last: &RecordsHeader) -> bool {
        last.kind == RecordsKind::Resignation || last.place == self.place
    }

    /// Those after a message, as many at a time as there are; and who delivers them.
    async fn messages(
        &self,
        after: u64,
    ) -> Result<
        (String, impl Stream<Item = Vec<Result<jetstream::Message, MessagesError>>> + use<>),
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
        let messages = consumer.stream().max_messages_per_batch(4 * MESSAGES_MAX);
        let messages = messages.heartbeat(HEARTBEAT).messages().await?;
        Ok((consumer.cached_info().name.clone(), messages.ready_chunks(MESSAGES_MAX)))
    }

    /// Whoever looks at the stream's consumers sees who stands by.
    async fn stop_following(&self, consumer: &str) {
        // One that is not used is forgotten by the server, too, after a while.
        if let Ok(stream) = self.context.get_stream_no_info(self.cell.records_stream()).await {
            let _ = stream.delete_consumer(consumer).await;
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
            let (header, bytes) = split_header::<RecordsHeader>(&message.payload)?;
            // What the stream has thrown away meanwhile is missing.
            if seq != following.seen + 1 || Some(header.cell) != store.cell() || store.is_new() {
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

    async fn reign(self, stream: StreamEnd) -> Result<Reign, StandbyError> {
        let position = stream.position();
        let store = self.disk.into_store();
        let begin = move || store.begin_reign(Epoch(position.epoch.0 - 1), Some(position));
        let opened = tokio::task::spawn_blocking(begin).await??;
        Ok(Reign { opened, stream })
    }
}
