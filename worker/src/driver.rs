//! The loop: inputs into the core, the ledger's commit, then effects in order.

mod perform;

use futures_util::StreamExt;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use bistro_common::Millis;
use bistro_common::clock::Clock;
use bistro_common::ids::{AttemptId, Incarnation, WorkerName};
use bistro_common::nats::Bus;
use bistro_common::protocol::assign::{Assign, AssignReply};
use bistro_common::protocol::control::{ControlAnswer, ControlReply};
use bistro_common::protocol::heartbeat::HeartbeatAnswer;
use bistro_common::protocol::{VERSION, decode, encode};
use bistro_common::subject::Cell;
use bistro_worker_core::{Effect, Input, LedgerRecord, WorkerCore, lost, records};

use crate::capacity::Machine;
use crate::exec::{self, Surroundings};
use crate::guard::{Guard, GuardCommand, GuardError};
use crate::ledger::{Ledger, LedgerError};
use crate::logs::{self, Budget, Logs, LogsError};
use crate::processes;
use crate::responder::Voice;
use crate::usage::Usages;

/// Results and answers on their way to the loop.
const NEWS_MAX: usize = 1_024;
/// So many inputs may share one commit.
const GROUP_MAX: usize = 512;
/// So many assignments may wait for a heartbeat's answer; more are refused, and come again.
const HELD_MAX: usize = 64;
/// Between two looks whether a full disk has room again.
const ROOM_PERIOD: Duration = Duration::from_secs(1);
/// How long a worker that stops tries to hand its results over.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Options {
    pub cell: Cell,
    pub name: WorkerName,
    /// Exists, and is this worker's alone.
    pub data_dir: PathBuf,
    /// argv for jobs without a command of their own.
    pub command: Vec<String>,
    pub host: String,
    pub guard: GuardCommand,
    /// What task logs may take on the disk.
    pub log_budget: Budget,
    /// How long tasks may go on when the worker is to end, before they are ended.
    pub finish: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("the worker cannot listen on NATS: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    #[error("the cell does not accept this worker: {0}")]
    Unwanted(String),
    #[error("processes of an earlier run cannot be ended: {0:?}; reboot the host")]
    Leftovers(Vec<i32>),
}

/// What comes from tasks of the runtime.
enum News {
    Input(Input),
    /// The heartbeat that was sent then has been answered, or will not be.
    Heard {
        sent: Millis,
        answers: Vec<HeartbeatAnswer>,
    },
}

struct Driver {
    options: Options,
    bus: Bus,
    context: async_nats::jetstream::Context,
    clock: Clock,
    core: WorkerCore,
    ledger: Ledger,
    here: Arc<Surroundings>,
    boot: String,
    machine: Machine,
    started: u64,
    news: mpsc::Sender<News>,
    /// Heartbeats that have not been answered yet.
    asking: u32,
    /// Assignments of a reign that a heartbeat's answer may be about to announce.
    held: Vec<Input>,
    next_token: u64,
    replies: HashMap<u64, String>,
    running: HashMap<AttemptId, exec::Killing>,
    stopping: Arc<AtomicBool>,
    heartbeat_at: Instant,
    /// What waits for room in the ledger.
    held_back: Vec<Effect>,
    /// When to see whether there is some.
    look_for_room: Option<Instant>,
}

/// Runs a worker until `stop` says something; then its tasks may finish or are ended, and it says
/// goodbye. If `stop` says something again, they are ended at once.
pub async fn run(
    options: Options,
    bus: Bus,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let clock = Clock::start();
    let mut opened = Ledger::open(&options.data_dir)?;
    let left = processes::end_leftovers(opened.id);
    if !left.is_empty() {
        return Err(WorkerError::Leftovers(left));
    }
    let lost: Vec<_> = opened.open.into_iter().map(|open| lost(open, clock.now())).collect();
    let records: Vec<_> =
        lost.iter().map(|r| LedgerRecord::Finished { result: r.clone() }).collect();
    opened.ledger.append(&records)?;
    let unsettled = opened.finished.into_iter().chain(lost).collect();
    let core = WorkerCore::new(
        options.name.clone(),
        Incarnation::generate(),
        opened.id,
        opened.cell,
        unsettled,
    );
    let data_dir = options.data_dir.clone();
    let looked_at = tokio::task::spawn_blocking(move || Machine::look(&data_dir)).await;
    let machine = looked_at.unwrap_or_default();
    let guard = Guard::start(options.guard.clone(), opened.id)?;
    raise_descriptor_limit();
    let logs = Logs::open(options.data_dir.join("logs"), options.log_budget)?;
    let client = bus.client().clone();
    let log_requests = client.subscribe(options.cell.log_read(&options.name)).await?;
    // Ends with this function.
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(logs::serve(bus.clone(), log_requests, logs.clone(), clock));
    let mut assigns = client.subscribe(options.cell.assign(&options.name)).await?;
    let mut controls = client.subscribe(options.cell.control(&options.name)).await?;
    let mut beacons = client.subscribe(options.cell.scheduler_beacon()).await?;
    let mut connections = bus.connections();
    let (news, mut incoming) = mpsc::channel(NEWS_MAX);
    let mut driver = Driver {
        here: Arc::new(Surroundings {
            data_dir: options.data_dir.clone(),
            worker: options.name.to_string(),
            host: options.host.clone(),
            cell: options.cell.name().to_owned(),
            command: options.command.clone(),
            clock,
            guard,
            usages: Usages::start(),
            logs,
            voice: Voice { bus: bus.clone(), cell: options.cell.clone() },
        }),
        context: async_nats::jetstream::new(client),
        options,
        bus,
        clock,
        core,
        ledger: opened.ledger,
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        machine,
        started: clock.now(),
        news,
        asking: 0,
        held: Vec::new(),
        next_token: 0,
        replies: HashMap::new(),
        running: HashMap::new(),
        stopping: Arc::new(AtomicBool::new(false)),
        heartbeat_at: Instant::now(),
        held_back: Vec::new(),
        look_for_room: None,
    };
    // When tasks may not finish any more, and when it ends in any case.
    let (mut finish_by, mut stop_by): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let wake = driver.core.next_wake().map(|at| driver.clock.instant(at).into());
        let timers = [wake, Some(driver.heartbeat_at), driver.look_for_room, finish_by, stop_by];
        let next = timers.into_iter().flatten().min();
        let tick = tokio::time::sleep_until(next.unwrap_or(driver.heartbeat_at));
        let (mut group, mut heard) = (Vec::new(), Vec::new());
        tokio::select! {
            Some(message) = assigns.next() => group.extend(driver.on_assign(message).await),
            Some(message) = controls.next() => group.extend(driver.on_control(message).await),
            count = incoming.recv_many(&mut heard, GROUP_MAX) => debug_assert!(count > 0),
            Some(_) = beacons.next() => driver.heartbeat_at = Instant::now(),
            Ok(()) = connections.changed() => driver.heartbeat_at = Instant::now(),
            Ok(()) = stop.changed(), if stop_by.is_none() => {
                match finish_by {
                    None if !driver.options.finish.is_zero() => {
                        finish_by = Some(Instant::now() + driver.options.finish);
                        group.push(Input::Retire);
                    }
                    // Asked once more: at once.
                    _ => finish_by = Some(Instant::now()),
                }
            }
            () = tick => group.push(Input::Tick),
        }
        heard.into_iter().for_each(|news| driver.on_news(news, &mut group));
        let over = |by: Instant| driver.core.running() == 0 || Instant::now() >= by;
        if finish_by.take_if(|by| over(*by)).is_some() {
            driver.stopping.store(true, Ordering::Relaxed);
            stop_by = Some(Instant::now() + STOP_TIMEOUT);
            group.push(Input::Stop);
        }
        driver.step(group).await?;
        // Without NATS, results that are on the disk can only be handed over by a successor.
        let alone =
            driver.core.is_stopping() && driver.core.running() == 0 && !driver.bus.is_connected();
        if driver.core.is_stopped() || alone || stop_by.is_some_and(|by| Instant::now() >= by) {
            driver.say_goodbye().await;
            return Ok(());
        }
        if Instant::now() >= driver.heartbeat_at {
            driver.send_heartbeat();
        }
    }
}

/// A running task takes four descriptors. (After the guard was started: tasks keep the limit that
/// they would have had.)
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Within the hard limit this cannot fail.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

impl Driver {
    fn token(&mut self, message: &async_nats::Message) -> Option<u64> {
        self.next_token += 1;
        self.replies.insert(self.next_token, message.reply.as_ref()?.to_string());
        Some(self.next_token)
    }

    async fn on_assign(&mut self, message: async_nats::Message) -> Option<Input> {
        match decode::<Assign>(&message.payload) {
            Ok(assign) => {
                let unknown = self.core.epoch_seen() < assign.fence.epoch;
                let input = Input::Assign { token: self.token(&message)?, assign };
                // It may have overtaken the answer to a heartbeat, which would make it known.
                if unknown && self.asking > 0 && self.held.len() < HELD_MAX {
                    self.held.push(input);
                    return None;
                }
                Some(input)
            }
            Err(error) => {
                tracing::warn!(%error, "an assignment cannot be read");
                let refusal = AssignReply::to_unreadable(&message.payload);
                self.say(message.reply?.to_string(), encode(&refusal)).await;
                None
            }
        }
    }

    async fn on_control(&mut self, message: async_nats::Message) -> Option<Input> {
        match decode(&message.payload) {
            Ok(control) => Some(Input::Control { token: self.token(&message)?, control }),
            Err(error) => {
                tracing::warn!(%error, "an order cannot be read");
                let answer = ControlAnswer::Refused { detail: error.to_string() };
                let refusal = ControlReply { v: VERSION, answer };
                self.say(message.reply?.to_string(), encode(&refusal)).await;
                None
            }
        }
    }

    fn on_news(&mut self, news: News, group: &mut Vec<Input>) {
        match news {
            News::Input(input) => group.push(input),
            News::Heard { sent, answers } => {
                self.asking -= 1;
                let heard = answers.into_iter();
                group.extend(heard.map(|answer| Input::Heartbeat { sent, answer }));
                group.append(&mut self.held);
            }
        }
    }

    /// Steps through a group of inputs, with one commit for all of them.
    async fn step(&mut self, group: Vec<Input>) -> Result<(), WorkerError> {
        let mut effects = Vec::new();
        for input in group {
            if let Input::Ended { result } = &input {
                self.running.remove(&result.attempt);
            }
            self.core.step(self.clock.now(), input, &mut effects);
        }
        for effect in self.record(effects)? {
            self.perform(effect).await?;
        }
        Ok(())
    }

    /// Brings the records among the effects to the disk. Returns what may happen now.
    fn record(&mut self, mut effects: Vec<Effect>) -> Result<Vec<Effect>, WorkerError> {
        if self.core.has_no_room() {
            let mut now = self.core.without_ledger(&mut effects);
            self.held_back.append(&mut effects);
            if self.look_for_room.is_none_or(|at| Instant::now() >= at) {
                now.append(&mut self.try_again()?);
            }
            return Ok(now);
        }
        let records = records(&effects);
        if records.is_empty() {
            return Ok(effects);
        }
        match self.ledger.append(&records) {
            Ok(()) => Ok(effects),
            Err(error) if error.is_full() => {
                let directory = self.options.data_dir.display();
                tracing::error!(%directory, "the disk is full: nothing is started until it has room");
                let now = self.core.without_ledger(&mut effects);
                self.held_back = effects;
                self.look_for_room = Some(Instant::now() + ROOM_PERIOD);
                self.heartbeat_at = Instant::now();
                Ok(now)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what was held back. Returns it if there was room.
    fn try_again(&mut self) -> Result<Vec<Effect>, WorkerError> {
        match self.ledger.append(&records(&self.held_back)) {
            Ok(()) => {
                tracing::info!("the disk has room again");
                self.core.ledger_has_room();
                self.look_for_room = None;
                self.heartbeat_at = Instant::now();
                Ok(std::mem::take(&mut self.held_back))
            }
            Err(error) if error.is_full() => {
                self.look_for_room = Some(Instant::now() + ROOM_PERIOD);
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}
