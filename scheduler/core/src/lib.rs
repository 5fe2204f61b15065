//! The scheduler's decisions, and nothing else.
//!
//! [`Core::step`] takes the time and one [`Input`], changes the state, and appends [`Effect`]s.
//! There is no clock, no I/O, no thread and no randomness in here but a seeded generator: the same
//! inputs give the same effects. The shell must carry effects out in order, and must not carry out
//! what follows an [`Effect::Persist`] before that record is safely on disk.

mod attempts;
mod audit;
pub mod bits;
mod bulk;
mod condemned;
mod definitions;
mod enter;
mod explain;
pub mod forest;
mod frontier;
mod gates;
mod heartbeat;
mod histogram;
mod invariants;
mod io;
mod jobs;
mod lay;
mod maintenance;
mod matrix;
mod operator;
mod parked;
mod plan;
mod policy;
mod prefetch;
mod ready;
mod record;
mod records;
mod resources;
mod results;
mod rivals;
pub mod rng;
mod rows;
mod start;
pub mod succession;
mod table;
pub mod task_row;
mod tasks;
mod timers;
mod view;
mod workers;

use rustc_hash::{FxHashMap, FxHashSet};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::config::{Config, Job, NodeOrder, Policy as PolicyKind, Settings};
use bistro_common::ids::{AttemptId, Incarnation, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::heartbeat::Heartbeat;
use bistro_common::protocol::task::{Kill, KillMethod};
use bistro_common::status::Backoff;

pub use audit::{AuditId, UNTOLD_MAX};
pub use forest::{Forest, ForestBuilder, ForestError, NodeIx};
pub use histogram::Histogram;
pub use io::{Effect, Identity, Input, SendFailure};
pub use plan::{Draft, Plan};
pub use record::{AttemptRecord, Definition, Kept, Record, Snapshot, WorkerRecord};
pub use rivals::Rival;
pub use rows::Rows;
pub use tasks::{Phase, TaskRecord};

use attempts::Attempts;
use condemned::Sentence;
use definitions::Defined;
use enter::Entering;
use parked::OfJob;
use records::{RecordIx, Records};
use rng::Rng;
use tasks::{Known, TaskCell, TaskIx};
use workers::{Worker, WorkerIx};

/// Layouts are numbered within a reign, and every reign begins above all earlier ones.
const LAYOUT_SHIFT: u32 = 24;

/// The state of a cell, as its scheduler knows it.
pub struct Core {
    identity: Identity,
    terms: LeaseTerms,
    rng: Rng,
    /// The time of the present step.
    now: Millis,

    /// What there is to do.
    plan: Box<Plan>,
    /// False until the first plan has come.
    planned: bool,
    /// Counts plans; numbers of jobs and nodes are valid within one.
    layout: u64,
    bulk: bulk::Bulk,
    /// The newest config that a plan was, or is being, made of.
    config: Arc<Config>,
    /// A config and nodes that the next plan is to be made of.
    wanted: Option<(Arc<Config>, Arc<Forest>)>,
    /// A plan is being compiled.
    compiling: bool,
    /// What of the last plan's is not entered in the new one yet.
    entering: Option<Box<Entering>>,
    /// So is true within the step that enters a part of it, too.
    half_entered: bool,

    /// Jobs that were defined or overridden from outside.
    definitions: BTreeMap<String, Defined>,
    /// The highest version of a job that was deleted.
    deleted_version: u64,
    /// Those that were made since the last step.
    newly_defined: Vec<Arc<Job>>,
    /// Definitions have changed in a way that concerns more than new jobs.
    redefined: bool,
    /// Jobs that were made, and names of those that were changed, since the plan that is being
    /// compiled was begun.
    defined_since_draft: Vec<Arc<Job>>,
    changed_since_draft: BTreeSet<String>,

    // What is known about tasks beyond their cells.
    records: Records,
    /// Of tasks whose job or node is not in the plan. They count again if it comes back.
    parked: FxHashMap<Arc<str>, OfJob>,
    /// Of tasks that were finished when this process began, in the plan or not, by job. A record, be it parked
    /// or not, hides what is here of its task.
    finished: FxHashMap<Arc<str>, Arc<Rows>>,
    /// Waits that will be over: when, and whose.
    backoffs: BTreeSet<(Millis, TaskIx)>,

    attempts: Attempts,
    /// How many of a job's attempts have no task in the plan.
    homeless: FxHashMap<Arc<str>, u32>,
    /// When this reign began, and which attempts of former ones have ended since then.
    reigns_since: Millis,
    ended_of_before: FxHashSet<AttemptId>,
    /// How many this reign has made.
    attempts_made: u64,

    /// Attempts that are to end, and why.
    condemned: BTreeMap<AttemptId, Sentence>,
    /// When to ask their workers (again).
    executions: BTreeSet<(Millis, AttemptId)>,

    workers: Vec<Worker>,
    worker_names: FxHashMap<WorkerName, WorkerIx>,
    /// By host name.
    hosts: FxHashMap<String, Vec<WorkerIx>>,
    worker_checks: BTreeSet<(Millis, WorkerIx)>,
    /// Heartbeats that wait until the new plan is entered.
    held_heartbeats: Vec<(u64, Box<Heartbeat>)>,
    fenced: BTreeSet<Incarnation>,

    audits: audit::Audits,
    /// Assignments of the present step, to be sent in batches.
    outbox: Vec<(WorkerIx, Assignment)>,
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
        let forest = Arc::new(Forest::empty(vec!["instance".to_owned()], "instance"));
        let nothing =
            Draft { config: config.clone(), forest, jobs: Vec::new(), finished: Vec::new() };
        let mut parked: FxHashMap<Arc<str>, OfJob> = FxHashMap::default();
        for (task, record) in snapshot.tasks {
            parked.entry(task.job).or_default().insert(task.node, record);
        }
        let packed = snapshot.finished.into_iter();
        let finished = packed.map(|(job, rows)| (job, Arc::new(rows))).collect();
        let mut core = Self {
            identity,
            terms,
            rng: Rng::new(seed),
            now,
            plan: nothing.compile(),
            planned: false,
            // No scheduler uses a number that another has used.
            layout: identity.epoch.0 << LAYOUT_SHIFT,
            bulk: bulk::Bulk::default(),
            config,
            wanted: None,
            compiling: false,
            entering: None,
            half_entered: false,
            definitions: BTreeMap::new(),
            deleted_version: snapshot.deleted_version,
            newly_defined: Vec::new(),
            redefined: false,
            defined_since_draft: Vec::new(),
            changed_since_draft: BTreeSet::new(),
            records: Records::default(),
            parked,
            finished,
            backoffs: BTreeSet::new(),
            attempts: Attempts::new(Rng::new(seed).next_u64() as u32),
            homeless: FxHashMap::default(),
            reigns_since: now,
            ended_of_before: FxHashSet::default(),
            attempts_made: 0,
            condemned: BTreeMap::new(),
            executions: BTreeSet::new(),
            workers: Vec::new(),
            worker_names: FxHashMap::default(),
            hosts: FxHashMap::default(),
            worker_checks: BTreeSet::new(),
            held_heartbeats: Vec::new(),
            fenced: snapshot.fenced.into_iter().collect(),
            audits: audit::Audits { made: 0, untold: snapshot.audits.len() },
            outbox: Vec::new(),
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
        self.enter_for(&input, out);
        self.apply_definitions(out);
        match input {
            Input::Plan { config, forest } => self.on_plan(config, forest, out),
            Input::Compiled(plan) => self.on_compiled(plan),
            Input::Heartbeat { token, heartbeat } => self.on_heartbeat(token, heartbeat, out),
            Input::AssignReply { worker, incarnation, attempts, reply } => {
                self.on_assign_reply(&worker, incarnation, &attempts, reply, out);
            }
            Input::ProbeReply { worker, incarnation, reply } => {
                self.on_probe_reply(&worker, incarnation, reply, out);
            }
            Input::AuditsTold(ids) => self.on_audits_told(&ids, out),
            Input::Done { token, done } => {
                for result in done.results {
                    self.apply_reported(result, out);
                }
                out.push(Effect::AckDone { token });
            }
            Input::Tick => {}
        }
        if self.is_entering() {
            return;
        }
        for (token, heartbeat) in std::mem::take(&mut self.held_heartbeats) {
            self.on_heartbeat(token, heartbeat, out);
        }
        self.on_time(out);
        self.start_tasks(out);
        self.flush_outbox(out);
    }

    /// The same for those who may wait: plans are compiled and entered before it returns.
    pub fn step_through(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let before = out.len();
            self.step(now, input, out);
            let draft = out[before..].iter().position(|e| matches!(e, Effect::Compile(_)));
            if let Some(Effect::Compile(draft)) = draft.map(|at| out.remove(before + at)) {
                next = Some(Input::Compiled(draft.compile()));
            } else if self.is_entering() {
                next = Some(Input::Tick);
            }
        }
    }

    /// Goes on with a new plan. What cannot wait for all of it has all of it done now: the shell
    /// keeps such inputs back.
    fn enter_for(&mut self, input: &Input, out: &mut Vec<Effect>) {
        match input {
            Input::Tick | Input::Heartbeat { .. } | Input::AuditsTold(_) => self.enter_some(out),
            _ => self.enter_all(out),
        }
    }

    /// When to step next, even if nothing happens.
    pub fn next_wake(&self) -> Option<Millis> {
        let defined = self.redefined && !self.compiling || !self.newly_defined.is_empty();
        if self.more || self.is_entering() || self.planned && defined {
            return Some(self.now);
        }
        let backoff = self.backoffs.first().map(|&(at, _)| at);
        let check = self.worker_checks.first().map(|&(at, _)| at);
        let execution = self.executions.first().filter(|_| self.may_execute()).map(|&(at, _)| at);
        [backoff, check, execution].into_iter().flatten().min()
    }

    /// Changes a task's cell, and what follows from it; whoever watches the grid is told.
    pub(crate) fn set_cell(&mut self, task: TaskIx, cell: TaskCell) {
        if self.plan.set_cell(task, cell) && self.watched {
            self.changed.push(task);
        }
    }

    /// What is known of a task, to be changed: from then on it is not looked for elsewhere.
    pub(crate) fn known(&mut self, task: TaskIx) -> RecordIx {
        let finished = || self.plan.finished(task).unwrap_or_default();
        self.records.find_or_add(task, || Known { record: finished(), open: None })
    }

    pub(crate) fn record(&self, task: TaskIx) -> Option<Cow<'_, TaskRecord>> {
        match self.records.get(task) {
            Some(known) => Some(Cow::Borrowed(&known.record)),
            None => self.plan.finished(task).map(Cow::Owned),
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
