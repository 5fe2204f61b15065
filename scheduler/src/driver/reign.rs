//! From a store to a scheduler that runs, and back to one that stands by.

use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use bistro_common::barrier::Barrier;
use bistro_common::clock::Clock;
use bistro_common::ids::{Epoch, SchedulerId};
use bistro_common::nats::Bus;
use bistro_core::{Core, Identity, Rival, Snapshot, UNTOLD_MAX};

use super::{Driver, INPUTS_MAX, Options, SchedulerError, Sources, Succession};
use crate::committer::{CommitError, Committer};
use crate::event_log::EventLog;
use crate::grid_watch::GridWatch;
use crate::standby::stream::StreamEnd;
use crate::standby::{self, EPOCH_MAX, Reign, StandbyError, Standbys, copy};
use crate::store::{Opened, Store};
use crate::{audit_trail, bus, http, plan_watch};

/// For one that needs the stream once.
const TTL_MS: u64 = 10_000;
const HOUR_MS: u64 = 3_600_000;

/// Whoever ends a scheduler does not wait longer for NATS.
const RESIGNATION: Duration = Duration::from_secs(2);

/// Runs a scheduler until it is to stop or its store fails. What is on disk is enough to go on, so
/// the future may be dropped, too; where others stand by, they wait then.
pub async fn run(
    options: Options,
    bus: Bus,
    stop: impl Future<Output = ()>,
) -> Result<(), SchedulerError> {
    let clock = Clock::start();
    tokio::pin!(stop);
    let Some(standbys) = &options.standbys else {
        let opened = tokio::select! {
            opened = open_alone(&options, &bus, clock) => opened?,
            () = &mut stop => return Ok(()),
        };
        return reign(&options, &bus, clock, opened, None, stop).await;
    };
    let mut above = Epoch(0);
    loop {
        let waiting = standby::wait_for_reign(&options, standbys, &bus, clock, above);
        let Reign { opened, stream } = tokio::select! {
            begun = waiting => begun?,
            () = &mut stop => return Ok(()),
        };
        tracing::warn!(epoch = %opened.epoch, "this scheduler reigns now");
        match reign(&options, &bus, clock, opened, Some(stream), &mut stop).await {
            Err(error) if is_over(&error) => {
                if let SchedulerError::Deposed(Rival::Later { epoch }) = error {
                    above = epoch.min(EPOCH_MAX);
                }
                tracing::warn!("{error}; this one stands by now");
            }
            ended => return ended,
        }
    }
}

/// A store that others have followed, and follow no more: they must not go on from where they are.
async fn open_alone(options: &Options, bus: &Bus, clock: Clock) -> Result<Opened, SchedulerError> {
    if Store::open_to_follow(&options.data_dir)?.position().is_none() {
        return Ok(Store::open(&options.data_dir)?);
    }
    tracing::warn!("other schedulers have stood by: from now on none does");
    let last = Standbys { ttl_ms: TTL_MS, host: options.instance.clone(), replicas: 1 };
    let waiting = standby::wait_for_reign(options, &last, bus, clock, Epoch(0));
    let Reign { mut opened, mut stream } = waiting.await?;
    stream.depart().await.map_err(CommitError::from)?;
    opened.store.follow_nothing()?;
    Ok(opened)
}

/// Another reigns, or may; nothing is wrong with this one.
fn is_over(error: &SchedulerError) -> bool {
    matches!(
        error,
        SchedulerError::Silent
            | SchedulerError::Deposed(Rival::Later { .. })
            | SchedulerError::Commit(CommitError::Deposed(_))
    )
}

/// Between two looks whether others must be told that this scheduler still reigns.
fn renewal(options: &Options) -> Duration {
    // Without others there is nothing to say.
    let ttl_ms = options.standbys.as_ref().map_or(HOUR_MS, |standbys| standbys.ttl_ms);
    Duration::from_millis(ttl_ms / 8)
}

/// Reads the store. With millions of tasks that takes longer than another would wait.
async fn load(
    store: Store,
    mut stream: Option<StreamEnd>,
    renewal: Duration,
) -> Result<(Store, Snapshot, Option<StreamEnd>), SchedulerError> {
    let mut reading = tokio::task::spawn_blocking(move || {
        let snapshot = store.snapshot();
        (store, snapshot)
    });
    let mut renewed = Ok(());
    let (store, snapshot) = loop {
        tokio::select! {
            read = &mut reading => break read.map_err(StandbyError::from)?,
            () = tokio::time::sleep(renewal) => {
                if let (Some(stream), Ok(())) = (&mut stream, &renewed) {
                    renewed = stream.renew().await;
                }
            }
        }
    };
    // Not before the store is closed: it is opened again.
    renewed.map_err(CommitError::from)?;
    Ok((store, snapshot?, stream))
}

async fn reign(
    options: &Options,
    bus: &Bus,
    clock: Clock,
    opened: Opened,
    stream: Option<StreamEnd>,
    stop: impl Future<Output = ()>,
) -> Result<(), SchedulerError> {
    // The nodes are found while the store is read.
    let mut tasks = JoinSet::new();
    let (plans_out, plans) = mpsc::channel(1);
    let (location, instance) = (options.config.clone(), options.instance.clone());
    tasks.spawn(plan_watch::watch(location, instance, bus.clone(), plans_out));
    let Opened { store, cell, epoch } = opened;
    let (store, snapshot, stream) = load(store, stream, renewal(options)).await?;
    let scheduler = SchedulerId::generate();
    let identity = Identity { cell, scheduler, epoch };
    let started = clock.now();
    let seed = scheduler.0.as_u128() as u64;
    let untold = snapshot.audits.clone();
    let core = Core::new(identity, options.terms, seed, started, snapshot);
    let subscribe = async |subject| bus.client().subscribe(subject).await;
    let heartbeats = subscribe(options.cell.heartbeats()).await?;
    let beacons = subscribe(options.cell.scheduler_beacon()).await?;
    let service = bus::api_service(bus, &options.cell, scheduler).await;
    let (service, requests) = service.map_err(SchedulerError::Service)?;
    let (inputs, incoming) = mpsc::channel(INPUTS_MAX);
    let (compiled_out, compiled) = mpsc::channel(1);
    let (done_out, dones) = mpsc::channel(INPUTS_MAX);
    // One sender stays here: without HTTP nobody asks, and that is no end.
    let (questions_out, questions) = mpsc::channel(INPUTS_MAX);
    if let Some(address) = options.http {
        let listener = http::listen(address).await?;
        let (cell, questions) = (options.cell.clone(), questions_out.clone());
        tasks.spawn(http::serve(listener, bus.clone(), cell, questions));
    }
    let (audits, trail) = mpsc::channel(UNTOLD_MAX + untold.len());
    for audit in untold {
        audits.try_send(audit).expect("the channel has room for them");
    }
    let (told_out, told) = mpsc::channel(INPUTS_MAX);
    let replicas = options.standbys.as_ref().map_or(1, |standbys| standbys.replicas);
    let (bus, cell) = (bus.clone(), options.cell.clone());
    tasks.spawn(audit_trail::tell(bus.clone(), cell.clone(), replicas, trail, told_out));
    let (events, telling) = EventLog::new(bus.clone(), cell.clone(), replicas);
    tasks.spawn(telling);
    tasks.spawn(bus::consume(bus.clone(), cell.clone(), replicas, done_out));
    let lasts = stream.as_ref().map(StreamEnd::lasts);
    let committer = Committer::start(store, options.data_dir.clone(), identity, stream);
    let succession = match lasts {
        None => None,
        Some(lasts) => {
            let copies = subscribe(cell.copies()).await?;
            tasks.spawn(copy::serve(copies, bus.clone(), committer.work()));
            let (count, standbys) = watch::channel(0);
            tasks.spawn(standby::count(bus.clone(), cell.clone(), count));
            Some(Succession { lasts, standbys })
        }
    };
    let mut sources = Sources {
        heartbeats,
        beacons,
        requests,
        connections: bus.connections(),
        questions,
        dones,
        inputs: incoming,
        told,
        compiled,
        plans,
        renewals: tokio::time::interval(renewal(options)),
    };
    let mut driver = Driver {
        committer,
        options: options.clone(),
        bus,
        clock,
        identity,
        started,
        core,
        barrier: Barrier::default(),
        inputs,
        audits,
        events,
        compiled: compiled_out,
        problems: Vec::new(),
        no_room: None,
        leaving: Vec::new(),
        grid_watch: GridWatch::default(),
        next_token: 0,
        replies: HashMap::new(),
        requests: HashMap::new(),
        deliveries: HashMap::new(),
        stranger: None,
        succession,
    };
    if let Some(Standbys { host, .. }) = &options.standbys {
        let event = driver.event("scheduler.reigns", format!("it is the one on {host}"));
        driver.events.tell(event);
    }
    let ended = tokio::select! {
        error = driver.serve(&mut sources) => Err(error),
        () = stop => Ok(()),
    };
    tasks.shutdown().await;
    drop(sources);
    // What was asked for and is not on the disk is not answered.
    let _ = service.stop().await;
    if let Some(mut stream) = driver.committer.end().await
        && !ended.as_ref().is_err_and(is_over)
    {
        // If it is not heard, the others wait until the reign is over.
        let _ = tokio::time::timeout(RESIGNATION, stream.resign()).await;
    }
    ended
}
