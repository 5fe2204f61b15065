//! Several schedulers of one cell: this one stands by until no other reigns, and then takes over with
//! all that was recorded. What may be concluded from what is seen is the core's
//! ([`bistro_core::succession`]).

pub mod copy;
mod follow;
mod parts;
pub mod stream;

use async_nats::jetstream;
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

use bistro_common::Millis;
use bistro_common::clock::Clock;
use bistro_common::ids::Epoch;
use bistro_common::nats::Bus;
use bistro_common::protocol::decode;
use bistro_common::protocol::heartbeat::{Heartbeat, SchedulerBeacon};
use bistro_common::subject::Cell;

use crate::driver::Options;
use crate::store::{Opened, Store, StoreError};
use copy::CopyError;
use follow::Standby;
pub use parts::EPOCH_MAX;
use parts::PartError;
use stream::{Deposed, StreamEnd};

/// Between two tries of what failed.
const RETRY: Duration = Duration::from_millis(500);

/// Between two counts of those that stand by.
const COUNT: Duration = Duration::from_secs(2);

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
    #[error("a message of the stream did not come")]
    Missed,
    #[error(
        "this data directory has {more} records that the scheduler which reigns has never heard of: \
         the stream was lost with them; to do without them start with an empty data directory"
    )]
    Ahead { more: u64 },
    #[error(transparent)]
    Deposed(#[from] Deposed),
}

impl StandbyError {
    /// It may be otherwise the next time.
    fn passes(&self) -> bool {
        !matches!(
            self,
            Self::Store(_)
                | Self::Place(_)
                | Self::Thread(_)
                | Self::Alone { .. }
                | Self::Ahead { .. }
        )
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

/// Stands by until this scheduler reigns. `above`: an epoch that is known to have been.
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
    let place = store.place().map_err(StandbyError::Place)?;
    let disk = OnDisk(Some(store));
    let mut standby = Standby::new(bus, &options.cell, standbys, clock, (place, disk), heard);
    let mut said = String::new();
    loop {
        match standby.follow().await {
            Ok(Some(stream)) => return reign(standby.into_disk(), stream).await,
            Ok(None) => {}
            Err(error) if error.passes() => {
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

async fn reign(disk: OnDisk, stream: StreamEnd) -> Result<Reign, StandbyError> {
    let position = stream.position();
    let store = disk.into_store();
    let begin = move || store.begin_reign(Epoch(position.epoch.0 - 1), Some(position));
    let opened = tokio::task::spawn_blocking(begin).await??;
    Ok(Reign { opened, stream })
}

/// How many others follow the stream, now and then.
pub async fn count(bus: Bus, cell: Cell, out: watch::Sender<u64>) {
    let context = jetstream::new(bus.client().clone());
    while !out.is_closed() {
        if let Ok(stream) = context.get_stream(cell.records_stream()).await {
            out.send_replace(stream.cached_info().state.consumer_count as u64);
        }
        tokio::time::sleep(COUNT).await;
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
