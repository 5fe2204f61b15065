//! The loop: one input at a time into the core, effects out in order.

mod heard;

use async_nats::service;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use bistro_common::barrier::Barrier;
use bistro_common::ids::{CellId, SchedulerId};
use bistro_common::lease::LeaseTerms;
use bistro_common::nats::Bus;
use bistro_common::protocol::api::ProblemReport;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::{VERSION, encode};
use bistro_common::subject::{Cell, is_asked_by_somebody};
use bistro_core::{AuditId, Core, Effect, Identity, Input, Plan, Record, Rival, UNTOLD_MAX};

use crate::api::{self, Facts};
use crate::audit_trail;
use crate::bus::{self, Delivery};
use crate::committer::{CommitError, Committer, News};
use crate::config_files::Location;
use crate::event_log::EventLog;
use crate::grid_watch::GridWatch;
use crate::http::{self, Asked, HttpError, Question};
use crate::no_room;
use crate::original::{self, Context};
use crate::plan_watch::{self, Loaded};
use crate::store::{Store, StoreError};
use bistro_common::clock::{Clock, sleep_until};

/// Answers on their way to the loop; whoever has more waits.
const INPUTS_MAX: usize = 1_024;

#[derive(Clone, Debug)]
pub struct Options {
    pub cell: Cell,
    pub config: Location,
    /// Exists, and is this scheduler's alone.
    pub data_dir: PathBuf,
    /// The name of the instance node.
    pub instance: String,
    pub terms: LeaseTerms,
    /// Where to offer the API over HTTP, if anywhere: a loopback address.
    pub http: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the scheduler cannot listen on NATS: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    #[error("the scheduler cannot offer its service on NATS: {0}")]
    Service(async_nats::Error),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("a plan cannot be compiled")]
    Compile(#[from] JoinError),
    #[error("the store's thread has ended")]
    CommitterGone,
    #[error("{0}")]
    Deposed(Rival),
}

/// Who waits for an answer.
enum Asker {
    Nats(Box<service::Request>),
    Http(oneshot::Sender<Vec<u8>>),
}

struct Driver {
    options: Options,
    bus: Bus,
    clock: Clock,
    identity: Identity,
    started: u64,
    core: Core,
    barrier: Barrier<Effect>,
    committer: Committer,
    inputs: mpsc::Sender<Input>,
    audits: mpsc::Sender<(AuditId, Event)>,
    events: EventLog,
    compiled: mpsc::Sender<Result<Box<Plan>, JoinError>>,
    /// Of the config and the node sources.
    problems: Vec<ProblemReport>,
    /// The disk has no room for what happens.
    no_room: Option<ProblemReport>,
    /// What leaves although it has none.
    leaving: Vec<Effect>,
    grid_watch: GridWatch,
    next_token: u64,
    /// Where to answer heartbeats.
    replies: HashMap<u64, String>,
    /// Requests that are answered once what they changed is on disk.
    requests: HashMap<u64, Asker>,
    deliveries: HashMap<u64, async_nats::jetstream::Message>,
    /// The last other cell of our name that was heard of.
    stranger: Option<CellId>,
}

/// Runs a scheduler until its store fails. Drop the future to stop it: what is on disk is enough.
pub async fn run(options: Options, bus: Bus) -> Result<(), SchedulerError> {
    let clock = Clock::start();
    let opened = Store::open(&options.data_dir)?;
    // The nodes are found while the store is read.
    let mut tasks = tokio::task::JoinSet::new();
    let (plans_out, mut plans) = mpsc::channel(1);
    let (location, instance) = (options.config.clone(), options.instance.clone());
    tasks.spawn(plan_watch::watch(location, instance, bus.clone(), plans_out));
    let snapshot = opened.store.snapshot()?;
    let scheduler = SchedulerId::generate();
    let identity = Identity { cell: opened.cell, scheduler, epoch: opened.epoch };
    let started = clock.now();
    let seed = scheduler.0.as_u128() as u64;
    let untold = snapshot.audits.clone();
    let core = Core::new(identity, options.terms, seed, started, snapshot);
    let mut heartbeats = bus.client().subscribe(options.cell.heartbeats()).await?;
    let mut beacons = bus.client().subscribe(options.cell.scheduler_beacon()).await?;
    let service = bus::api_service(&bus, &options.cell, scheduler).await;
    let (_service, mut requests) = service.map_err(SchedulerError::Service)?;
    let (inputs, mut incoming) = mpsc::channel(INPUTS_MAX);
    let (compiled_out, mut compiled) = mpsc::channel(1);
    let (done_out, mut dones) = mpsc::channel(INPUTS_MAX);
    let (questions_out, mut questions) = mpsc::channel(INPUTS_MAX);
    if let Some(address) = options.http {
        let listener = http::listen(address).await?;
        tasks.spawn(http::serve(
            listener,
            bus.clone(),
            options.cell.clone(),
            questions_out.clone(),
        ));
    }
    let (audits, trail) = mpsc::channel(UNTOLD_MAX + untold.len());
    for audit in untold {
        audits.try_send(audit).expect("the channel has room for them");
    }
    let (told_out, mut told) = mpsc::channel(INPUTS_MAX);
    tasks.spawn(audit_trail::tell(bus.clone(), options.cell.clone(), trail, told_out));
    let (events, telling) = EventLog::new(bus.clone(), options.cell.clone());
    tasks.spawn(telling);
    tasks.spawn(bus::consume(bus.clone(), options.cell.clone(), done_out));
    let mut connections = bus.connections();
    let mut driver = Driver {
        committer: Committer::start(opened.store, options.data_dir.clone(), identity),
        options,
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
    };
    driver.announce().await;
    loop {
        // While a new plan is being entered there is half of it to see; and what became of tasks
        // is judged by the config, once there is one.
        let whole = !driver.core.is_entering();
        let judge = whole && driver.core.is_planned();
        // What could not be written down is better not begun.
        let room = driver.no_room.is_none();
        let wake = driver.core.next_wake().map(|at| driver.clock.instant(at).into());
        let flush = driver.grid_watch.look(&driver.core);
        tokio::select! {
            Some(message) = heartbeats.next() => driver.on_heartbeat(message).await?,
            Some(message) = beacons.next() => driver.on_beacon(message).await?,
            Some(result) = driver.committer.result() => {
                match result? {
                    News::Committed => driver.on_committed().await,
                    News::NoRoom(error) => driver.on_no_room(&error),
                }
            }
            Some(request) = requests.next(), if whole => driver.on_request(request).await,
            Some(asked) = questions.recv(), if whole => driver.on_question(asked).await,
            Some(delivery) = dones.recv(), if judge && room => driver.on_delivery(delivery),
            Some(input) = incoming.recv(), if judge => driver.step(input),
            Some(ids) = told.recv() => driver.step(Input::AuditsTold(ids)),
            Some(plan) = compiled.recv() => driver.step(Input::Compiled(plan?)),
            Some(loaded) = plans.recv(), if whole && room => driver.on_loaded(loaded).await,
            Ok(()) = connections.changed() => driver.announce().await,
            () = sleep_until(wake) => driver.step(Input::Tick),
            () = sleep_until(flush) => driver.publish_grid().await,
            else => return Err(SchedulerError::CommitterGone),
        }
        driver.begin_commit().await;
    }
}

impl Driver {
    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.step(self.clock.now(), input, &mut out);
        if self.no_room.is_some() {
            self.leaving.append(&mut no_room::take_replies(&mut out));
        }
        self.barrier.push(&mut out);
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Publishes what may be lost.
    async fn publish(&self, subject: String, payload: Vec<u8>) {
        if let Err(error) = self.bus.publish(subject, payload).await {
            tracing::debug!(%error, "not published");
        }
    }

    fn event(&self, kind: &'static str, text: String) -> Event {
        Event {
            v: VERSION,
            time_ms: self.clock.now(),
            epoch: self.identity.epoch,
            kind: kind.into(),
            text,
            ..Event::default()
        }
    }

    async fn on_request(&mut self, request: service::Request) {
        let message = &request.message;
        // What a stream was told to deliver here is no request, whoever told it.
        if !message.reply.as_ref().is_some_and(|reply| is_asked_by_somebody(reply)) {
            return;
        }
        let Some(verb) = self.options.cell.parse_api(&message.subject) else {
            return;
        };
        let verb = verb.to_owned();
        let mut out = Vec::new();
        let answer = self.answer(&verb, &message.payload, &mut out);
        let answer = match answer.len() {
            bytes if bytes > self.bus.client().max_payload() => api::too_large(bytes),
            _ => answer,
        };
        self.settle(Asker::Nats(Box::new(request)), answer, out).await;
    }

    fn answer(&mut self, verb: &str, payload: &[u8], out: &mut Vec<Effect>) -> Vec<u8> {
        let problems = self.all_problems();
        let facts = Facts {
            cell: self.options.cell.name(),
            identity: self.identity,
            started: self.started,
            now: self.clock.now(),
            problems: &problems,
            no_room: self.no_room.is_some(),
        };
        api::answer(&mut self.core, &mut self.grid_watch, &facts, verb, payload, out)
    }

    async fn on_question(&mut self, asked: Asked) {
        // Whoever has given up has been told that nothing was done.
        if asked.reply.is_closed() {
            return;
        }
        let mut out = Vec::new();
        let now = self.clock.now();
        let answer = match asked.question {
            Question::Verb { verb, payload } => self.answer(&verb, &payload, &mut out),
            Question::Queries { queries, actor } => {
                let problems = self.all_problems();
                let context = Context::new(now, &problems, &actor, self.no_room.is_some());
                let answers = original::answer(&mut self.core, &context, queries, &mut out);
                encode(&answers)
            }
        };
        self.settle(Asker::Http(asked.reply), answer, out).await;
    }

    /// Answers at once where nothing was changed. Who changes something is told when it is on disk.
    async fn settle(&mut self, asker: Asker, answer: Vec<u8>, mut out: Vec<Effect>) {
        if out.is_empty() {
            self.respond(asker, answer).await;
            return;
        }
        let token = self.token();
        self.requests.insert(token, asker);
        out.push(Effect::Answer { token, answer });
        self.barrier.push(&mut out);
        self.step(Input::Tick);
    }

    async fn respond(&self, asker: Asker, answer: Vec<u8>) {
        let request = match asker {
            Asker::Nats(request) => request,
            Asker::Http(reply) => {
                // Who has given up waiting gets no answer.
                let _ = reply.send(answer);
                return;
            }
        };
        // Queued while there is no connection, it would come too late for whoever asked.
        if self.bus.is_connected()
            && let Err(error) = request.respond(Ok(answer.into())).await
        {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    async fn publish_grid(&mut self) {
        if let Some(delta) = self.grid_watch.flush(&mut self.core) {
            self.publish(self.options.cell.view_grid(), encode(&delta)).await;
        }
    }

    fn on_delivery(&mut self, delivery: Delivery) {
        let token = self.token();
        self.deliveries.insert(token, delivery.message);
        self.step(Input::Done { token, done: delivery.done });
    }

    async fn on_loaded(&mut self, loaded: Loaded) {
        for problem in loaded.problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::warn!("{problem}");
            let event = self.event("config.problem", problem.to_string());
            self.events.tell(event);
        }
        self.problems = loaded.problems;
        if let Some((config, forest)) = loaded.plan {
            self.step(Input::Plan { config, forest });
        }
    }

    fn all_problems(&self) -> Vec<ProblemReport> {
        self.no_room.iter().chain(&self.problems).cloned().collect()
    }

    fn on_no_room(&mut self, error: &CommitError) {
        let problem = no_room::problem(&self.options.data_dir, error);
        tracing::error!("{problem}");
        self.events.tell(self.event("store.full", problem.to_string()));
        self.no_room = Some(problem);
    }

    async fn on_committed(&mut self) {
        if self.no_room.take().is_some() {
            tracing::info!("the disk has room again");
            let text = "the disk has room again, and everything goes on".to_owned();
            self.events.tell(self.event("store.writable", text));
        }
        self.release().await;
    }

    /// Starts the next commit, or releases at once what needs none.
    async fn begin_commit(&mut self) {
        for effect in std::mem::take(&mut self.leaving) {
            self.perform(effect).await;
        }
        let Some(effects) = self.barrier.begin() else {
            return;
        };
        let records: Vec<Record> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Persist(record) => Some(record.clone()),
                _ => None,
            })
            .collect();
        if records.is_empty() {
            self.release().await;
        } else {
            self.committer.commit(records).await;
        }
    }

    /// The records are on disk: everything else may happen.
    async fn release(&mut self) {
        for effect in self.barrier.committed() {
            self.perform(effect).await;
        }
    }

    /// What it takes to ask a worker.
    fn line(&self) -> (Bus, Cell, mpsc::Sender<Input>) {
        (self.bus.clone(), self.options.cell.clone(), self.inputs.clone())
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(_) => {}
            Effect::Reply { token, reply } => {
                if let Some(subject) = self.replies.remove(&token) {
                    self.publish(subject, encode(&reply)).await;
                }
            }
            Effect::Assign { worker, assign } => {
                let (bus, cell, inputs) = self.line();
                tokio::spawn(bus::assign(bus, cell, worker, assign, inputs));
            }
            Effect::Control { worker, control } => {
                let (bus, cell, inputs) = self.line();
                tokio::spawn(bus::control(bus, cell, worker, control, inputs));
            }
            Effect::Answer { token, answer } => {
                if let Some(request) = self.requests.remove(&token) {
                    self.respond(request, answer).await;
                }
            }
            Effect::Compile(draft) => {
                let compiled = self.compiled.clone();
                tokio::spawn(async move {
                    let plan = tokio::task::spawn_blocking(|| draft.compile()).await;
                    // One that is not taken any more was for a scheduler that has ended.
                    let _ = compiled.send(plan).await;
                });
            }
            Effect::AckDone { token } => {
                if let Some(message) = self.deliveries.remove(&token) {
                    // One that gets lost means a second delivery, which changes nothing.
                    tokio::spawn(async move { message.ack().await });
                }
            }
            Effect::Audit { id, event } => {
                let queued = self.audits.try_send((id, event));
                queued.expect("there is room for all that the core lets wait");
            }
            Effect::Publish(event) => self.events.tell(event),
        }
    }
}
