//! The loop: one input at a time into the core, effects out in order.

mod heard;
mod reign;

use async_nats::Subscriber;
use async_nats::service::{self, endpoint::Endpoint};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::Interval;

use bistro_common::Millis;
use bistro_common::barrier::Barrier;
use bistro_common::clock::{Clock, sleep_until};
use bistro_common::ids::CellId;
use bistro_common::lease::LeaseTerms;
use bistro_common::nats::Bus;
use bistro_common::protocol::api::ProblemReport;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::{VERSION, encode};
use bistro_common::subject::{Cell, is_asked_by_somebody};
use bistro_core::{AuditId, Core, Effect, Identity, Input, Plan, Record, Rival};

use crate::api::{self, Facts};
use crate::bus::{self, Delivery};
use crate::committer::{CommitError, Committer, News, Work};
use crate::config_files::Location;
use crate::event_log::EventLog;
use crate::grid_watch::GridWatch;
use crate::http::{Asked, HttpError, Question};
use crate::no_room;
use crate::original::{self, Context};
use crate::plan_watch::Loaded;
use crate::standby::{StandbyError, Standbys};
use crate::store::StoreError;

pub use reign::run;

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
    /// How schedulers of this cell follow each other; `None`: there is one.
    pub standbys: Option<Standbys>,
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
    #[error(transparent)]
    Standby(#[from] StandbyError),
    #[error("the stream of records has not answered for so long that another may reign by now")]
    Silent,
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
    /// `None`: nobody is to stand by.
    succession: Option<Succession>,
}

/// Where others stand by.
struct Succession {
    /// Until when this scheduler reigns, if nothing more is said to them.
    lasts: watch::Receiver<Millis>,
    /// How many they are.
    standbys: watch::Receiver<u64>,
}

/// What the loop listens to.
struct Sources {
    heartbeats: Subscriber,
    beacons: Subscriber,
    requests: Endpoint,
    connections: watch::Receiver<u64>,
    questions: mpsc::Receiver<Asked>,
    dones: mpsc::Receiver<Delivery>,
    inputs: mpsc::Receiver<Input>,
    told: mpsc::Receiver<Vec<AuditId>>,
    compiled: mpsc::Receiver<Result<Box<Plan>, JoinError>>,
    plans: mpsc::Receiver<Loaded>,
    renewals: Interval,
}

impl Driver {
    /// Until something fails, or another reigns.
    async fn serve(&mut self, sources: &mut Sources) -> SchedulerError {
        self.announce().await;
        loop {
            if let Err(error) = self.serve_one(sources).await {
                return error;
            }
            self.begin_commit().await;
        }
    }

    async fn serve_one(&mut self, sources: &mut Sources) -> Result<(), SchedulerError> {
        // While a new plan is being entered there is half of it to see; and what became of tasks
        // is judged by the config, once there is one.
        let whole = !self.core.is_entering();
        let judge = whole && self.core.is_planned();
        // What could not be written down is better not begun.
        let room = self.no_room.is_none();
        let instant = |at| self.clock.instant(at).into();
        let wake = self.core.next_wake().map(instant);
        let flush = self.grid_watch.look(&self.core);
        let over = self.succession.as_ref().map(|others| instant(*others.lasts.borrow()));
        tokio::select! {
            Some(message) = sources.heartbeats.next() => self.on_heartbeat(message).await?,
            Some(message) = sources.beacons.next() => self.on_beacon(message).await?,
            Some(result) = self.committer.result() => {
                match result? {
                    News::Committed => self.on_committed().await,
                    News::NoRoom(error) => self.on_no_room(&error),
                }
            }
            Some(request) = sources.requests.next(), if whole => self.on_request(request).await,
            Some(asked) = sources.questions.recv(), if whole => self.on_question(asked).await,
            Some(delivery) = sources.dones.recv(), if judge && room => self.on_delivery(delivery),
            Some(input) = sources.inputs.recv(), if judge => self.step(input),
            Some(ids) = sources.told.recv() => self.step(Input::AuditsTold(ids)),
            Some(plan) = sources.compiled.recv() => self.step(Input::Compiled(plan?)),
            Some(loaded) = sources.plans.recv(), if whole && room => self.on_loaded(loaded).await,
            Ok(()) = sources.connections.changed() => self.announce().await,
            _ = sources.renewals.tick(), if over.is_some() => self.renew(),
            () = sleep_until(over) => self.check_reign()?,
            () = sleep_until(wake) => self.step(Input::Tick),
            () = sleep_until(flush) => self.publish_grid().await,
            else => return Err(SchedulerError::CommitterGone),
        }
        Ok(())
    }

    /// Commits say so, too: while one is under way, there is no room for this.
    fn renew(&self) {
        let _ = self.committer.work().try_send(Work::Renew);
    }

    /// Another may reign, for all that is known here.
    fn check_reign(&self) -> Result<(), SchedulerError> {
        let lasts = |others: &Succession| self.clock.now() < *others.lasts.borrow();
        match self.succession.as_ref().is_none_or(lasts) {
            true => Ok(()),
            false => Err(SchedulerError::Silent),
        }
    }

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
            standbys: self.succession.as_ref().map(|others| *others.standbys.borrow()),
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
                // A lease that is given after the end of a reign is on nobody's books.
                let subject = self.replies.remove(&token).filter(|_| self.check_reign().is_ok());
                if let Some(subject) = subject {
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
