//! The scheduler's process: the real core behind the real barrier, on a disk that keeps what was
//! committed and nothing else.

use bistro_common::barrier::Barrier;
use bistro_common::ids::{AttemptId, CellId, Epoch, SchedulerId, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::{KillRequest, WorkerDrainRequest};
use bistro_common::protocol::assign::Assign;
use bistro_common::protocol::control::{Control, ControlAnswer, Order};
use bistro_common::protocol::job::Audit;
use bistro_core::{Core, Effect, Identity, Input, Kept, Phase, Record, SendFailure};
use rustc_hash::FxHashMap;

use crate::faults::{Node, SCHEDULER};
use crate::net::{Body, Envelope, NATS, Reply, Request};
use crate::queue::{MS, SEC, Us};
use crate::rules::Rule;
use crate::world::{Doom, Event, World};
use crate::{worker, workload};

/// What a reply answers.
#[derive(Debug)]
enum Asked {
    Assign { worker: Node, assign: Assign },
    Probe { worker: Node, control: Control },
    Order,
}

#[derive(Default)]
pub struct Scheduler {
    core: Option<Core>,
    barrier: Barrier<Effect>,
    asked: FxHashMap<u64, Asked>,
    epoch: u64,
    identity: Option<Identity>,
    disk: Kept,
    pub doom: Option<Doom>,
    /// Its machine is isolated since its disk was as this.
    pub isolated: Option<Box<Isolated>>,
}

pub struct Isolated {
    disk: Kept,
    epoch: u64,
    /// What it has sent since then.
    pub sent: Vec<Envelope>,
}

pub fn cell_id() -> CellId {
    CellId::from_parts(1, [1; 10])
}

impl Scheduler {
    pub fn core(&self) -> Option<&Core> {
        self.core.as_ref()
    }
}

impl World {
    pub fn boot_scheduler(&mut self) {
        self.scheduler.epoch += 1;
        let epoch = self.scheduler.epoch;
        let identity = Identity {
            cell: cell_id(),
            // One of another machine may have the same epoch.
            scheduler: SchedulerId::from_parts(self.hosts[SCHEDULER].life, [3; 10]),
            epoch: Epoch(epoch),
        };
        self.scheduler.identity = Some(identity);
        let now = self.hosts[SCHEDULER].clock.read(self.now);
        let (terms, seed) = (LeaseTerms::DEVELOPMENT, self.rng.u64(..));
        self.scheduler.core =
            Some(Core::new(identity, terms, seed, now, self.scheduler.disk.snapshot()));
        self.scheduler.barrier = Barrier::default();
        let at = self.now + self.rng.u64(MS..50 * MS);
        self.queue.plan(at, Event::Configured(self.hosts[SCHEDULER].life));
        self.announce();
    }

    /// The beacon, for every worker.
    pub fn announce(&mut self) {
        for to in 1..self.hosts.len() {
            self.send(Envelope { from: SCHEDULER, to, body: Body::Beacon });
        }
        self.queue.plan(self.now, Event::Offer);
    }

    pub fn configure(&mut self) {
        let (config, forest) = workload::plan();
        self.scheduler_step(Input::Plan { config, forest });
        self.queue.plan(self.now, Event::Offer);
    }

    pub fn kill_scheduler(&mut self, abruptly: bool) {
        // A commit that was under way is on disk or not.
        let effects = self.scheduler.barrier.committed();
        if self.rng.bool() {
            self.commit_records(&effects);
        }
        self.scheduler.core = None;
        self.scheduler.barrier = Barrier::default();
        self.scheduler.asked.clear();
        self.scheduler.doom = None;
        self.kill_process(SCHEDULER, abruptly);
    }

    fn scheduler_step(&mut self, input: Input) {
        let Some(core) = &mut self.scheduler.core else { return };
        let now = self.hosts[SCHEDULER].clock.read(self.now);
        let mut out = Vec::new();
        core.step_through(now, input, &mut out);
        self.steps += 1;
        if self.steps.is_multiple_of(64) {
            core.check_invariants();
        }
        self.scheduler.barrier.push(&mut out);
        self.begin_commit();
        self.plan_scheduler_wake();
    }

    fn plan_scheduler_wake(&mut self) {
        let wake = self.scheduler.core.as_ref().and_then(Core::next_wake);
        if let Some(at) = wake.map(|at| self.hosts[SCHEDULER].clock.when(at)) {
            self.plan_wake(SCHEDULER, at);
        }
    }

    pub fn scheduler_wakes(&mut self) {
        self.scheduler_step(Input::Tick);
    }

    /// As the driver does: one commit at a time, effects behind it.
    fn begin_commit(&mut self) {
        let too_early = self.off(Rule::DurableBeforeSent);
        let Some(effects) = self.scheduler.barrier.begin() else { return };
        if !effects.iter().any(|effect| matches!(effect, Effect::Persist(_))) {
            return self.release();
        }
        let early: Vec<Effect> = match too_early {
            true => effects.iter().filter_map(assignment).collect(),
            false => Vec::new(),
        };
        let at = self.now + self.commit_time(SCHEDULER);
        self.queue.plan(at, Event::Commit(self.hosts[SCHEDULER].life));
        early.into_iter().for_each(|effect| self.perform(effect));
    }

    pub fn commit_time(&mut self, node: Node) -> Us {
        match self.now < self.hosts[node].slow_disk_until {
            true => self.rng.u64(10 * MS..SEC),
            false => self.rng.u64(150..4 * MS),
        }
    }

    /// The commit's answer has come.
    pub fn committed(&mut self) {
        match self.scheduler.doom.take() {
            Some(Doom { effects: None }) => self.crash_soon_back(SCHEDULER),
            Some(Doom { effects: Some(count) }) => {
                let mut effects = self.scheduler.barrier.committed();
                self.commit_records(&effects);
                effects.truncate(count.into());
                effects.into_iter().for_each(|effect| self.perform(effect));
                self.crash_soon_back(SCHEDULER);
            }
            None => self.release(),
        }
    }

    fn release(&mut self) {
        let effects = self.scheduler.barrier.committed();
        self.commit_records(&effects);
        for effect in effects {
            let is_out = self.off(Rule::DurableBeforeSent) && assignment(&effect).is_some();
            if !is_out {
                self.perform(effect);
            }
        }
        self.begin_commit();
        self.plan_scheduler_wake();
    }

    fn commit_records(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Persist(record) = effect else { continue };
            if let Record::Task { task, record } = record
                && record.phase == Phase::Done
                && self.scheduler.isolated.is_none()
            {
                self.checks.reported_done(task);
            }
            self.scheduler.disk.keep(record.clone());
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(_) | Effect::Answer { .. } | Effect::Compile(_) => {}
            Effect::Reply { token, reply } => {
                self.reply(SCHEDULER, token, Reply::Heartbeat(reply));
            }
            Effect::Assign { worker, assign } => {
                let to = worker::node(&worker);
                let request = Request::Assign(assign.clone());
                match self.request(SCHEDULER, to, request) {
                    Some(id) => {
                        let asked = Asked::Assign { worker: to, assign };
                        self.scheduler.asked.insert(id, asked);
                    }
                    None => self.assign_answered(to, &assign, Reply::NoResponders),
                }
            }
            Effect::Control { worker, control } => {
                let to = worker::node(&worker);
                let asked = match &control.order {
                    Order::Probe { .. } => Asked::Probe { worker: to, control: control.clone() },
                    _ => Asked::Order,
                };
                match self.request(SCHEDULER, to, Request::Control(control.clone())) {
                    Some(id) => drop(self.scheduler.asked.insert(id, asked)),
                    None => self.probe_answered(to, &control, Reply::NoResponders),
                }
            }
            Effect::AckDone { token } => {
                self.send(Envelope { from: SCHEDULER, to: NATS, body: Body::Ack { seq: token } });
            }
            Effect::Audit { id, .. } => {
                let told = Box::new(Input::AuditsTold(vec![id]));
                self.queue.plan(self.now, Event::SchedulerHears(self.hosts[SCHEDULER].life, told));
            }
            Effect::Publish(event) => {
                let (now, trace) = (self.now, &mut self.trace);
                trace.say(now, || {
                    format!("scheduler says {} {:?} {}", event.kind, event.attempt, event.text)
                });
                // Nobody hears what an isolated one says.
                if self.scheduler.isolated.is_none() {
                    self.checks.scheduler_says(&event);
                }
            }
        }
    }

    pub fn scheduler_hears(&mut self, input: Input) {
        self.scheduler_step(input);
    }

    pub fn scheduler_receives(&mut self, body: Body) {
        match body {
            Body::Request { id, request: Request::Heartbeat(heartbeat) } => {
                let identity = self.scheduler.identity.as_ref();
                match identity.and_then(|identity| identity.deposed_by(&heartbeat)) {
                    Some(_) => self.crash_soon_back(SCHEDULER),
                    None => self.scheduler_step(Input::Heartbeat { token: id, heartbeat }),
                }
            }
            Body::Delivery { seq, done } => {
                // Results wait for the first config, as they do in the driver.
                if self.scheduler.core().is_some_and(Core::is_planned) {
                    let done = self.undo_exactly_once(done);
                    self.scheduler_step(Input::Done { token: seq, done });
                }
            }
            Body::Reply { id, reply } => match self.scheduler.asked.remove(&id) {
                Some(Asked::Assign { worker, assign }) => {
                    self.assign_answered(worker, &assign, reply)
                }
                Some(Asked::Probe { worker, control }) => {
                    self.probe_answered(worker, &control, reply)
                }
                Some(Asked::Order) | None => {}
            },
            body => unreachable!("nobody sends {body:?} to a scheduler"),
        }
    }

    fn assign_answered(&mut self, worker: Node, assign: &Assign, reply: Reply) {
        let reply = match reply {
            Reply::Assign(reply) => Ok(reply),
            Reply::NoResponders => Err(SendFailure::NotDelivered),
            _ if self.off(Rule::ProbeInsteadOfResend) => Err(SendFailure::NotDelivered),
            _ => Err(SendFailure::Unknown),
        };
        let input = Input::AssignReply {
            worker: worker::name(worker),
            incarnation: assign.fence.incarnation,
            attempts: assign.attempts.iter().map(|a| a.open.attempt).collect(),
            reply,
        };
        self.scheduler_step(input);
    }

    fn probe_answered(&mut self, worker: Node, control: &Control, reply: Reply) {
        if !matches!(control.order, Order::Probe { .. }) {
            return;
        }
        let reply = match reply {
            Reply::Control(reply) => match reply.answer {
                ControlAnswer::Probed { attempts } => Some(attempts),
                _ => None,
            },
            _ => None,
        };
        let (worker, incarnation) = (worker::name(worker), control.fence.incarnation);
        self.scheduler_step(Input::ProbeReply { worker, incarnation, reply });
    }

    pub fn isolate(&mut self) {
        let Scheduler { disk, epoch, isolated, .. } = &mut self.scheduler;
        let before = Isolated { disk: disk.clone(), epoch: *epoch, sent: Vec::new() };
        isolated.get_or_insert_with(|| Box::new(before));
    }

    /// Another machine takes over, with the disk of before; what this one has sent comes late.
    pub fn replace_scheduler(&mut self) {
        self.kill(SCHEDULER, false);
        let Some(isolated) = self.scheduler.isolated.take() else { return };
        self.scheduler.disk = isolated.disk;
        self.scheduler.epoch = isolated.epoch;
        for envelope in isolated.sent {
            let at = self.now + self.rng.u64(5 * SEC..10 * SEC);
            self.queue.plan(at, Event::AtNats(Box::new(envelope)));
        }
    }

    /// An operator's word.
    pub fn operate(&mut self, request: Operation) {
        let Some(core) = &mut self.scheduler.core else { return };
        let now = self.hosts[SCHEDULER].clock.read(self.now);
        let (mut out, audit) = (Vec::new(), Audit::default());
        match request {
            Operation::Kill(attempt) => {
                let (actor, reason) = (String::new(), String::new());
                let request = KillRequest { attempt, kill: None, actor, reason };
                // It may be over already.
                let _ = core.kill(now, &request, &mut out);
            }
            Operation::Drain { worker, on } => {
                let request = WorkerDrainRequest { worker: worker.to_string(), on, audit };
                // It may not be known yet.
                let _ = core.worker_drain(now, &request, &mut out);
            }
        }
        self.scheduler.barrier.push(&mut out);
        self.begin_commit();
        self.scheduler_step(Input::Tick);
    }
}

pub enum Operation {
    Kill(AttemptId),
    Drain { worker: WorkerName, on: bool },
}

/// What is sent to workers, which must not happen before its record is on disk.
fn assignment(effect: &Effect) -> Option<Effect> {
    match effect {
        Effect::Assign { worker, assign } => {
            Some(Effect::Assign { worker: worker.clone(), assign: assign.clone() })
        }
        _ => None,
    }
}
