//! The scheduler's decisions, and nothing else.
//!
//! [`Core::step`] takes the time and one [`Input`], changes the state, and appends [`Effect`]s.
//! There is no clock, no I/O, no thread and no randomness in here but a seeded generator: the same
//! inputs give the same effects. The shell must carry effects out in order, and must not carry out
//! what follows an [`Effect::Persist`] before that record is safely on disk.

mod attempts;
pub mod bits;
mod condemned;
mod definitions;
mod explain;
pub mod forest;
mod frontier;
mod heartbeat;
mod invariants;
mod io;
mod jobs;
mod operator;
mod plan;
mod policy;
mod record;
mod resources;
mod results;
pub mod rng;
mod start;
mod tasks;
mod timers;
mod view;
mod workers;

use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::config::{Config, Job, NodeOrder, Policy as PolicyKind, Settings};
use bistro_common::ids::{AttemptId, Incarnation, TaskName, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::task::{Kill, KillMethod};
use bistro_common::status::Backoff;

pub use forest::{Forest, ForestBuilder, ForestError, NodeIx};
pub use io::{Effect, Identity, Input, SendFailure};
pub use record::{AttemptRecord, Definition, Record, Snapshot, WorkerRecord};
pub use tasks::{Phase, TaskRecord};

use attempts::Attempt;
use condemned::Sentence;
use definitions::Defined;
use jobs::JobState;
use policy::Policy;
use resources::{Classes, Resources};
use rng::Rng;
use tasks::{JobIx, TaskIx};
use workers::{Rooms, Worker, WorkerIx};

/// Layouts are numbered within a reign, and every reign begins above all earlier ones.
const LAYOUT_SHIFT: u32 = 24;

/// The state of a cell, as its scheduler knows it.
pub struct Core {
    identity: Identity,
    terms: LeaseTerms,
    rng: Rng,
    /// The time of the present step.
    now: Millis,

    // The plan: what there is to do. Replaced as a whole.
    config: Arc<Config>,
    forest: Arc<Forest>,
    /// False until the first plan has come.
    planned: bool,
    /// Counts plans; numbers of jobs and nodes are valid within one.
    layout: u64,
    jobs: Vec<JobState>,
    /// Names that jobs depend on and that are no jobs.
    unresolved: FxHashSet<String>,
    /// Jobs that were defined or overridden from outside.
    definitions: BTreeMap<String, Defined>,
    /// Those that were made since the last step.
    newly_defined: Vec<Arc<Job>>,
    /// Definitions have changed in a way that concerns more than new jobs.
    redefined: bool,
    job_names: FxHashMap<Arc<str>, JobIx>,
    resources: Resources,
    /// Per level with nodes.
    classes: Vec<Classes>,
    policy: Policy,

    // What is known about tasks beyond their cells.
    records: FxHashMap<TaskIx, TaskRecord>,
    /// Tasks whose job or node is not in the plan. They count again if it comes back.
    parked: FxHashMap<TaskName, TaskRecord>,
    /// Waits that will be over: when, and whose.
    backoffs: BTreeSet<(Millis, TaskIx)>,

    attempts: FxHashMap<AttemptId, Attempt>,
    /// How many this reign has made.
    attempts_made: u64,
    open_by_task: FxHashMap<TaskIx, AttemptId>,

    /// Attempts that are to end, and why.
    condemned: BTreeMap<AttemptId, Sentence>,
    /// When to ask their workers (again).
    executions: BTreeSet<(Millis, AttemptId)>,

    workers: Vec<Worker>,
    worker_names: FxHashMap<WorkerName, WorkerIx>,
    /// By host name.
    hosts: FxHashMap<String, Vec<WorkerIx>>,
    /// Jobs whose tasks must run on hosts that nodes are named after.
    placed_jobs: Vec<JobIx>,
    worker_checks: BTreeSet<(Millis, WorkerIx)>,
    rooms: Rooms,
    fenced: BTreeSet<Incarnation>,

    /// Assignments of the present step, to be sent in batches.
    outbox: BTreeMap<WorkerIx, Vec<Assignment>>,
    /// A way down that was just picked; kept for its memory.
    path: Vec<NodeIx>,
    /// More could be started than one step may take.
    more: bool,
    /// Somebody watches the grid: note what changes.
    watched: bool,
    /// There is a layout that watchers have not been told of.
    relaid: bool,
    changed: Vec<TaskIx>,
}

impl Core {
    /// A core that knows what the store knew. Every attempt that was open is unsure now: its
    /// worker will be asked, and its slots stay taken until then.
    pub fn new(
        identity: Identity,
        terms: LeaseTerms,
        seed: u64,
        now: Millis,
        snapshot: Snapshot,
    ) -> Self {
        let config = Arc::new(nothing_configured());
        let mut core = Self {
            identity,
            terms,
            rng: Rng::new(seed),
            now,
            forest: Arc::new(Forest::empty(vec!["instance".to_owned()], "instance")),
            planned: false,
            // No scheduler uses a number that another has used.
            layout: identity.epoch.0 << LAYOUT_SHIFT,
            jobs: Vec::new(),
            unresolved: FxHashSet::default(),
            definitions: BTreeMap::new(),
            newly_defined: Vec::new(),
            redefined: false,
            job_names: FxHashMap::default(),
            resources: Resources::new(&config.settings),
            classes: vec![Classes::default()],
            policy: Policy::new(PolicyKind::RoundRobin, &[]),
            config,
            records: FxHashMap::default(),
            parked: snapshot.tasks.into_iter().collect(),
            backoffs: BTreeSet::new(),
            attempts: FxHashMap::default(),
            attempts_made: 0,
            open_by_task: FxHashMap::default(),
            condemned: BTreeMap::new(),
            executions: BTreeSet::new(),
            workers: Vec::new(),
            worker_names: FxHashMap::default(),
            hosts: FxHashMap::default(),
            placed_jobs: Vec::new(),
            worker_checks: BTreeSet::new(),
            rooms: Rooms::default(),
            fenced: snapshot.fenced.into_iter().collect(),
            outbox: BTreeMap::new(),
            path: Vec::new(),
            more: false,
            watched: false,
            relaid: false,
            changed: Vec::new(),
        };
        core.restore_definitions(snapshot.definitions);
        core.restore(snapshot.workers, snapshot.attempts);
        core
    }

    /// Takes one input. Effects are appended to `out`, to be carried out in order.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.apply_definitions(out);
        match input {
            Input::Plan { config, forest } => self.on_plan(config, forest, out),
            Input::Heartbeat { token, heartbeat } => self.on_heartbeat(token, heartbeat, out),
            Input::AssignReply { worker, incarnation, attempts, reply } => {
                self.on_assign_reply(&worker, incarnation, &attempts, reply, out);
            }
            Input::ProbeReply { worker, incarnation, reply } => {
                self.on_probe_reply(&worker, incarnation, reply, out);
            }
            Input::Done { token, done } => {
                for result in done.results {
                    self.apply_result(result, out);
                }
                out.push(Effect::AckDone { token });
            }
            Input::Tick => {}
        }
        self.on_time(out);
        self.start_tasks(out);
        self.flush_outbox(out);
    }

    /// When to step next, even if nothing happens.
    pub fn next_wake(&self) -> Option<Millis> {
        if self.more || self.redefined || !self.newly_defined.is_empty() {
            return Some(self.now);
        }
        let backoff = self.backoffs.first().map(|&(at, _)| at);
        let check = self.worker_checks.first().map(|&(at, _)| at);
        let execution = self.executions.first().map(|&(at, _)| at);
        [backoff, check, execution].into_iter().flatten().min()
    }

    pub(crate) fn find_task(&self, job: &str, node: &str) -> Option<TaskIx> {
        let job = *self.job_names.get(job)?;
        let node = self.forest.find(self.jobs[job.index()].level(), node)?;
        Some(TaskIx { job, node })
    }

    pub(crate) fn task_name(&self, task: TaskIx) -> TaskName {
        TaskName {
            job: self.jobs[task.job.index()].config.name.clone(),
            node: self.forest.name(task.node).into(),
        }
    }
}

/// What holds before the first config has been read: nothing is enabled.
fn nothing_configured() -> Config {
    Config {
        settings: Settings {
            enabled: false,
            policy: PolicyKind::RoundRobin,
            backoff: Backoff::default(),
            levels: vec!["instance".to_owned(), "worker".to_owned()],
            node_order: NodeOrder::Random,
            node_sources: Vec::new(),
            level_for_tasks: 0,
            resources: Vec::new(),
            kill: Kill { method: KillMethod::Term, wait_ms: 0 },
            subprocess: Default::default(),
            kill_orphans_after_ms: None,
            worker_overrides: Default::default(),
            physical: Vec::new(),
            preempt: false,
            working_wait_ms: 500,
            idle_wait_ms: 5_000,
            worker_selector: Default::default(),
        },
        jobs: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
