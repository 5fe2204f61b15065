//! What would happen: the real core and a real config, with virtual workers in virtual time.
//!
//! No message is lost and no worker dies in here: this is about plans and capacity. What faults do
//! is for the tests.

mod model;
mod usage;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use serde::Serialize;

use bistro_common::Millis;
use bistro_common::config::Config;
use bistro_common::ids::{CellId, Epoch, Incarnation, LedgerId, SchedulerId, Seq, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::VERSION;
use bistro_common::protocol::assign::{
    Assign, AssignAnswer, AssignReply, AssignResult, Assignment,
};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Heartbeat, OpenDigest};
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::TaskStatus;
use bistro_core::rng::Rng;
use bistro_core::{Core, Effect, Forest, Identity, Input, Snapshot};

pub use model::{Drawn, Duration, OfTasks, TaskModel, WorkerGroup};
pub use usage::Usage;

/// Virtual time begins here, so that no time is 0.
const BEGIN: Millis = 1_000;

/// Longer than any simulation: virtual workers send one heartbeat each.
const TERMS: LeaseTerms =
    LeaseTerms { lease_ms: 1 << 50, heartbeat_ms: 1 << 48, kill_grace_ms: 1_000, margin_ms: 1_000 };

const WORKERS_MAX: u64 = 100_000;

/// A simulation that starts more than this is stopped: tasks that always fail never end.
const ATTEMPTS_MAX: usize = 20_000_000;

/// Why there is nothing to simulate.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error("the settings say \"enabled\": false, so nothing would ever start")]
    Disabled,
    #[error("{0} workers are more than the {WORKERS_MAX} that can be simulated")]
    Workers(u64),
    #[error("the model makes no sense: {0}")]
    Model(String),
    #[error("a worker's name is not valid: {0}")]
    Name(String),
}

pub struct Setup {
    pub config: Arc<Config>,
    pub forest: Arc<Forest>,
    pub workers: Vec<WorkerGroup>,
    pub model: TaskModel,
    pub seed: u64,
    /// Stop there, whatever is left.
    pub until_ms: Option<Millis>,
}

/// A start or a finish.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    pub time_ms: Millis,
    pub event: &'static str,
    pub job: Arc<str>,
    pub node: Arc<str>,
    pub attempt_no: u32,
    pub worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// When the last task ended, or the simulation was stopped.
    pub makespan_ms: Millis,
    /// False: it was stopped before.
    pub finished: bool,
    pub attempts: u64,
    pub errors: u64,
    pub tasks_per_sec: f64,
    pub jobs: BTreeMap<Arc<str>, JobReport>,
    pub resources: Vec<Usage>,
    /// The resource that is used most of the time: more of it would help first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bottleneck: Option<String>,
    /// Why tasks are left that are not done.
    pub stuck: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobReport {
    pub done: u64,
    pub attempts: u64,
    /// When the last of its tasks ended.
    pub eta_ms: Millis,
}

/// An attempt's end, by its number.
type End = Reverse<(Millis, usize)>;

struct Simulation<'t> {
    core: Core,
    now: Millis,
    out: Vec<Effect>,
    model: TaskModel,
    rng: Rng,
    ends: BinaryHeap<End>,
    running: BTreeMap<usize, (WorkerName, Assignment, Millis)>,
    next: usize,
    jobs: BTreeMap<Arc<str>, JobReport>,
    errors: u64,
    workers: u64,
    usage: usage::Meter,
    trace: &'t mut dyn FnMut(Trace),
}

/// Runs to the end. `trace` gets every start and every finish, in order.
pub fn run(setup: Setup, trace: &mut dyn FnMut(Trace)) -> Result<Report, SimulateError> {
    if !setup.config.settings.enabled {
        return Err(SimulateError::Disabled);
    }
    let workers: u64 = setup.workers.iter().map(|group| u64::from(group.count)).sum();
    setup.model.check().map_err(SimulateError::Model)?;
    if workers > WORKERS_MAX {
        return Err(SimulateError::Workers(workers));
    }
    let identity = Identity {
        cell: CellId::from_parts(1, [0; 10]),
        scheduler: SchedulerId::from_parts(1, [0; 10]),
        epoch: Epoch(1),
    };
    let usage = usage::Meter::new(&setup.config.settings, &setup.forest);
    let mut simulation = Simulation {
        core: Core::new(identity, TERMS, setup.seed, BEGIN, Snapshot::default()),
        now: BEGIN,
        out: Vec::new(),
        model: setup.model,
        rng: Rng::new(setup.seed ^ 0x5151),
        ends: BinaryHeap::new(),
        running: BTreeMap::new(),
        next: 0,
        jobs: setup
            .config
            .jobs
            .iter()
            .map(|job| (job.name.clone(), JobReport::default()))
            .collect(),
        errors: 0,
        workers,
        usage,
        trace,
    };
    let (config, forest) = (setup.config.clone(), setup.forest);
    simulation.step(Input::Plan { config, forest });
    // Numbers go on from group to group, so that no two workers share a name.
    let all = setup.workers.iter().flat_map(|group| (0..group.count).map(move |_| group));
    for (group, n) in all.zip(0..) {
        simulation.join(group, n)?;
    }
    let until = setup.until_ms.map_or(Millis::MAX, |until| BEGIN.saturating_add(until));
    simulation.go_on(until);
    Ok(simulation.report(&setup.config))
}

impl Simulation<'_> {
    /// One step, and the steps in which workers take what it has assigned.
    fn step(&mut self, input: Input) {
        self.core.step_through(self.now, input, &mut self.out);
        while !self.out.is_empty() {
            for effect in std::mem::take(&mut self.out) {
                if let Effect::Assign { worker, assign } = effect {
                    self.accept(worker, assign);
                }
            }
        }
    }

    fn accept(&mut self, worker: WorkerName, assign: Assign) {
        let attempts: Vec<_> = assign.attempts.iter().map(|attempt| attempt.open.attempt).collect();
        for assignment in assign.attempts {
            self.start(worker.clone(), assignment);
        }
        let accepted = |&attempt| AssignResult { attempt, answer: AssignAnswer::Accepted };
        let results = attempts.iter().map(accepted).collect();
        let reply = Ok(AssignReply { v: VERSION, results });
        let incarnation = assign.fence.incarnation;
        let input = Input::AssignReply { worker, incarnation, attempts, reply };
        self.core.step_through(self.now, input, &mut self.out);
    }

    fn start(&mut self, worker: WorkerName, assignment: Assignment) {
        let job = self.jobs.entry(assignment.open.task.job.clone()).or_default();
        let of_tasks = self.model.of(&assignment.open.task.job);
        let duration = of_tasks.duration_sec.draw_ms(job.attempts as usize, &mut self.rng);
        job.attempts += 1;
        self.tell(&worker, &assignment, None);
        self.usage.take(&assignment, &worker);
        self.ends.push(Reverse((self.now + duration, self.next)));
        self.running.insert(self.next, (worker, assignment, self.now));
        self.next += 1;
    }

    fn tell(&mut self, worker: &WorkerName, assignment: &Assignment, status: Option<&'static str>) {
        (self.trace)(Trace {
            time_ms: self.now - BEGIN,
            event: if status.is_some() { "finish" } else { "start" },
            job: assignment.open.task.job.clone(),
            node: assignment.open.task.node.clone(),
            attempt_no: assignment.open.attempt_no,
            worker: worker.to_string(),
            status,
        });
    }

    fn join(&mut self, group: &WorkerGroup, n: u32) -> Result<(), SimulateError> {
        let name = match self.workers {
            1 => group.name.clone(),
            _ => format!("{}{n}", group.name),
        };
        let worker = WorkerName::new(&name).map_err(|e| SimulateError::Name(e.to_string()))?;
        let heartbeat = Heartbeat {
            v: VERSION,
            incarnation: Incarnation::from_parts(self.now, self.rng.bytes()),
            ledger: LedgerId::from_parts(self.now, self.rng.bytes()),
            cell: None,
            epoch_seen: Epoch(0),
            scheduler_seen: None,
            host: group.host.clone().unwrap_or(name),
            boot: String::new(),
            pid: 0,
            build: String::new(),
            started_ms: self.now,
            capacity: group.capacity(),
            floor: Seq(0),
            open: OpenDigest::default(),
            open_attempts: None,
            unsettled: Vec::new(),
            closed: None,
            worker,
        };
        self.step(Input::Heartbeat { token: 0, heartbeat: Box::new(heartbeat) });
        Ok(())
    }

    /// From event to event, until nothing is left or the time has come.
    fn go_on(&mut self, until: Millis) {
        loop {
            let end = self.ends.peek().map(|Reverse((at, _))| *at);
            let wake = self.core.next_wake().filter(|_| !self.core.is_finished());
            // The workers' leases are the last thing that could ever happen.
            let next =
                [end, wake].into_iter().flatten().min().filter(|&at| at < TERMS.heartbeat_ms);
            let Some(at) = next.filter(|&at| at <= until && self.next < ATTEMPTS_MAX) else {
                // What goes on at the end of the simulation counts up to there.
                if next.is_some() && until < Millis::MAX {
                    self.usage.pass(until - self.now);
                    self.now = until;
                }
                return;
            };
            if at > self.now {
                self.usage.pass(at - self.now);
                self.now = at;
            }
            match end {
                Some(end) if end <= at => self.finish(),
                _ => self.step(Input::Tick),
            }
        }
    }

    /// Everything that ends at this moment.
    fn finish(&mut self) {
        while let Some(&Reverse((at, number))) = self.ends.peek()
            && at <= self.now
        {
            self.ends.pop();
            let (worker, assignment, started) =
                self.running.remove(&number).expect("what ends has been started");
            let fails = self.rng.unit() < self.model.of(&assignment.open.task.job).failure_rate;
            let word = if fails { "error_backoff" } else { "done" };
            self.usage.give_back(&assignment, &worker);
            self.tell(&worker, &assignment, Some(word));
            let job = self.jobs.entry(assignment.open.task.job.clone()).or_default();
            job.eta_ms = self.now - BEGIN;
            job.done += u64::from(!fails);
            self.errors += u64::from(fails);
            let result = TaskResult {
                attempt: assignment.open.attempt,
                task: assignment.open.task.clone(),
                attempt_no: assignment.open.attempt_no,
                outcome: Outcome::Reported { status: TaskStatus::parse(word) },
                started_ms: started,
                ended_ms: self.now,
                exit: None,
                usage: None,
            };
            let cell = CellId::from_parts(1, [0; 10]);
            let incarnation = Incarnation::from_parts(0, [0; 10]);
            let done = Done { v: VERSION, cell, worker, incarnation, results: vec![result] };
            self.step(Input::Done { token: 0, done });
        }
    }

    fn report(self, config: &Config) -> Report {
        let makespan_ms = self.now - BEGIN;
        let attempts = self.jobs.values().map(|job| job.attempts).sum();
        let done: u64 = self.jobs.values().map(|job| job.done).sum();
        let all = self.core.worker_rows(&Default::default());
        let workers = all.expect("a list without a filter").items;
        let resources = self.usage.report(&config.settings, &workers, makespan_ms);
        let most = resources.iter().max_by(|a, b| a.busy.total_cmp(&b.busy));
        let finished = self.ends.is_empty() && self.core.is_finished();
        Report {
            makespan_ms,
            finished,
            attempts,
            errors: self.errors,
            tasks_per_sec: done as f64 * 1_000.0 / makespan_ms.max(1) as f64,
            bottleneck: most
                .filter(|most| most.busy > 0.0)
                .map(|most| format!("{} of level {}", most.resource, most.level)),
            jobs: self.jobs,
            resources,
            stuck: if finished { self.core.stuck() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests;
