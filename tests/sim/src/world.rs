//! One run: machines and their clocks, what goes wrong with them, and what happens next.

use bistro_common::protocol::api::TaskState;
use bistro_core::Core;
use fastrand::Rng;

use crate::checks::Checks;
use crate::clock::{Clock, PPM_MAX};
use crate::faults::{Fault, Node, SCHEDULER};
use crate::net::{Body, Envelope, Link, NATS, Net, Reply};
use crate::queue::{MS, Queue, SEC, Us};
use crate::rules::Rule;
use crate::scheduler::Scheduler;
use crate::stream::Stream;
use crate::tasks::Task;
use crate::trace::Trace;
use crate::worker::Worker;

pub const WORKERS: usize = 3;

/// After the last fault everything must have settled within this time: a lease, two rounds of the
/// longest task, and what the stream takes to deliver again.
const SETTLES_WITHIN: Us = 180 * SEC;

/// Unix time at the beginning of every run, in milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

#[derive(Debug)]
pub enum Event {
    Begins(usize),
    Ends(usize),
    Boots(Node),
    /// Events of a process are for the life that planned them.
    Wakes(Node, u64),
    Configured(u64),
    Commit(u64),
    SchedulerHears(u64, Box<bistro_core::Input>),
    WorkerHears(Node, u64, Box<bistro_worker_core::Input>),
    Exits(usize),
    Dies(usize),
    Deadline(Node, u64),
    AtNats(Box<Envelope>),
    Arrives(u64, Box<Envelope>),
    Timeout(u64),
    Offer,
    Connects(Node, u64),
    CutNoticed(Node, u64),
}

/// How a process will die at its next commit.
#[derive(Clone, Copy, Debug)]
pub struct Doom {
    /// `None`: before it; else after it and so many effects.
    pub effects: Option<u8>,
}

/// A machine with one process of ours.
pub struct Host {
    pub clock: Clock,
    pub life: u64,
    pub alive: bool,
    pub paused_until: Us,
    pub slow_until: Us,
    pub slow_disk_until: Us,
    pub link: Link,
    wake_at: Us,
}

pub struct World {
    pub now: Us,
    pub queue: Queue,
    pub rng: Rng,
    pub hosts: Vec<Host>,
    pub scheduler: Scheduler,
    pub workers: Vec<Worker>,
    pub tasks: Vec<Task>,
    pub net: Net,
    pub stream: Stream,
    pub checks: Checks,
    pub trace: Trace,
    /// Inputs that cores have taken.
    pub steps: u64,
    pub faults: Vec<Fault>,
    /// When the last fault is over.
    pub whole_at: Us,
    pub off: Option<Rule>,
}

/// How a run went.
pub struct Outcome {
    pub violation: Option<String>,
    pub steps: u64,
    pub trace: Trace,
}

pub fn run(seed: u64, faults: Vec<Fault>, off: Option<Rule>, in_words: bool) -> Outcome {
    let mut world = World::new(seed, faults, off);
    world.trace.lines = in_words.then(Vec::new);
    world.run();
    let World { checks, steps, trace, .. } = world;
    Outcome { violation: checks.violation, steps, trace }
}

impl World {
    fn new(seed: u64, faults: Vec<Fault>, off: Option<Rule>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let host = |_| Host {
            clock: Clock::new(EPOCH_MS + rng.u64(0..3 * SEC / MS), rng.u64(0..=PPM_MAX)),
            life: 0,
            alive: false,
            paused_until: 0,
            slow_until: 0,
            slow_disk_until: 0,
            link: Link::default(),
            wake_at: 0,
        };
        let hosts = (0..=WORKERS).map(host).collect();
        let mut queue = Queue::default();
        (0..=WORKERS).for_each(|node| queue.plan(rng.u64(0..SEC), Event::Boots(node)));
        faults.iter().enumerate().for_each(|(at, f)| queue.plan(f.at, Event::Begins(at)));
        Self {
            now: 0,
            queue,
            rng,
            hosts,
            scheduler: Scheduler::default(),
            workers: (0..WORKERS).map(|_| Worker::default()).collect(),
            tasks: Vec::new(),
            net: Net::default(),
            stream: Stream::default(),
            checks: Checks::default(),
            trace: Trace::default(),
            steps: 0,
            whole_at: faults.iter().map(|f| f.at + f.lasts).max().unwrap_or(0),
            faults,
            off,
        }
    }

    fn run(&mut self) {
        while let Some((at, event)) = self.queue.next() {
            self.now = at;
            self.handle(event);
            if self.checks.violation.is_some() || self.now > self.whole_at && self.has_settled() {
                return;
            }
            if self.now > self.whole_at + SETTLES_WITHIN {
                let why = self.scheduler.core().map(Core::counts);
                self.checks.violation = Some(format!("G4: it does not settle: {why:?}"));
                return;
            }
        }
    }

    fn has_settled(&self) -> bool {
        !self.any_task_alive()
            && self.scheduler.core().is_some_and(|core| {
                let counts = core.counts();
                core.is_planned()
                    && counts.iter().all(|(&state, &n)| state == TaskState::Done || n == 0)
            })
    }

    fn handle(&mut self, event: Event) {
        self.trace.mix(self.now);
        let Some(event) = self.hold_if_paused(event) else { return };
        match event {
            Event::Begins(fault) => self.fault_begins(fault),
            Event::Ends(fault) => self.fault_ends(fault),
            Event::Boots(node) => self.boot(node),
            Event::Wakes(node, life)
                if self.lives(node, life) && self.hosts[node].wake_at == self.now =>
            {
                self.wake(node);
            }
            Event::Configured(life) if self.lives(SCHEDULER, life) => self.configure(),
            Event::Commit(life) if self.lives(SCHEDULER, life) => self.committed(),
            Event::SchedulerHears(life, input) if self.lives(SCHEDULER, life) => {
                self.scheduler_hears(*input);
            }
            Event::WorkerHears(node, life, input) if self.lives(node, life) => {
                self.worker_hears(node, *input);
            }
            Event::Exits(task) => self.task_exits(task),
            Event::Dies(task) => self.task_dies(task),
            Event::Deadline(node, deadline) if self.worker(node).deadline == deadline => {
                self.kill_tasks_of(node);
            }
            Event::AtNats(envelope) => self.forward(*envelope),
            Event::Arrives(life, envelope) if self.lives(envelope.to, life) => {
                self.arrives(*envelope);
            }
            Event::Timeout(id) => self.times_out(id),
            Event::Offer => self.offer(),
            Event::Connects(node, life) if self.lives(node, life) => self.connects(node),
            Event::CutNoticed(node, cuts) => self.cut_noticed(node, cuts),
            // It was for a process that is gone.
            _ => {}
        }
    }

    fn lives(&self, node: Node, life: u64) -> bool {
        self.hosts[node].alive && self.hosts[node].life == life
    }

    /// A process that is stopped, or waits for its disk, gets everything later.
    fn hold_if_paused(&mut self, event: Event) -> Option<Event> {
        let node = match &event {
            Event::Wakes(node, _) | Event::WorkerHears(node, _, _) => *node,
            Event::Configured(_) | Event::Commit(_) | Event::SchedulerHears(..) => SCHEDULER,
            Event::Arrives(_, envelope) => envelope.to,
            Event::Timeout(id) => self.net.waiting.get(id)?.node,
            _ => return Some(event),
        };
        let host = &self.hosts[node];
        let busy = if node == SCHEDULER { 0 } else { self.workers[node - 1].busy_until };
        let until = host.paused_until.max(busy);
        if self.now >= until {
            return Some(event);
        }
        if let Event::Wakes(..) = event {
            self.hosts[node].wake_at = until;
        }
        self.queue.plan(until, event);
        None
    }

    fn arrives(&mut self, envelope: Envelope) {
        let Envelope { to, body, .. } = envelope;
        if to == SCHEDULER && self.scheduler.isolated.is_some() {
            return;
        }
        if let Body::Reply { id, .. } = &body
            && self.net.waiting.remove(id).is_none()
        {
            // It comes after its time.
            return;
        }
        self.receive(to, body);
    }

    fn receive(&mut self, node: Node, body: Body) {
        match node {
            SCHEDULER => self.scheduler_receives(body),
            worker => self.worker_receives(worker, body),
        }
    }

    fn times_out(&mut self, id: u64) {
        if let Some(waiting) = self.net.waiting.remove(&id)
            && self.lives(waiting.node, waiting.life)
        {
            self.receive(waiting.node, Body::Reply { id, reply: Reply::Timeout });
        }
    }

    /// At most one wake is planned that counts: the first.
    pub fn plan_wake(&mut self, node: Node, at: Us) {
        let (now, host) = (self.now, &mut self.hosts[node]);
        let at = at.max(now);
        if host.wake_at <= now || at < host.wake_at {
            host.wake_at = at;
            self.queue.plan(at, Event::Wakes(node, host.life));
        }
    }

    fn wake(&mut self, node: Node) {
        self.hosts[node].wake_at = 0;
        match node {
            SCHEDULER => self.scheduler_wakes(),
            worker => self.worker_wakes(worker),
        }
    }

    fn boot(&mut self, node: Node) {
        let host = &mut self.hosts[node];
        if host.alive {
            return;
        }
        host.alive = true;
        host.life += 1;
        host.paused_until = 0;
        host.wake_at = 0;
        host.link.renew();
        let (now, life, trace) = (self.now, host.life, &mut self.trace);
        trace.say(now, || format!("{} boots, life {life}", called(node)));
        match node {
            SCHEDULER => self.boot_scheduler(),
            worker => self.boot_worker(worker),
        }
    }

    fn connects(&mut self, node: Node) {
        self.hosts[node].link.connected = true;
        match node {
            SCHEDULER => self.announce(),
            worker => self.heartbeat_soon(worker),
        }
    }

    /// What both kinds of processes leave behind.
    pub fn kill_process(&mut self, node: Node, abruptly: bool) {
        let (now, trace) = (self.now, &mut self.trace);
        trace.say(now, || format!("{} is gone", called(node)));
        self.hosts[node].alive = false;
        self.disconnect(node, abruptly);
        if node == SCHEDULER {
            return;
        }
        match abruptly {
            true => self.end_all(node),
            // The guard sees that its worker is gone.
            false if !self.off(Rule::EndLeftovers) => self.kill_tasks_of(node),
            false => {}
        }
    }

    pub fn kill(&mut self, node: Node, abruptly: bool) {
        if !self.hosts[node].alive {
            return;
        }
        match node {
            SCHEDULER => self.kill_scheduler(abruptly),
            worker => self.kill_worker(worker, abruptly),
        }
    }

    /// A process that dies by itself is started again by whoever watches over it.
    pub fn crash_soon_back(&mut self, node: Node) {
        self.kill(node, false);
        let at = self.now + self.rng.u64(10 * MS..3 * SEC);
        self.queue.plan(at, Event::Boots(node));
    }
}

pub fn called(node: Node) -> String {
    match node {
        SCHEDULER => "the scheduler".to_owned(),
        NATS => "NATS".to_owned(),
        worker => format!("worker {worker}"),
    }
}
