//! What there is to do: the jobs, the nodes, and where what could start. Replaced as a whole.
//!
//! A plan is compiled from a [`Draft`], which takes time and may happen anywhere. All that is known by then
//! of what has been done is what was finished when the process began. Then the core takes it and enters
//! the rest.

use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

use bistro_common::config::{Config, Job, Placement};
use bistro_common::protocol::api::{Counts, TaskState};

use crate::bits::Bits;
use crate::forest::{Forest, NameTable, NodeIx};
use crate::gates;
use crate::jobs::{JobState, Placed, Routes};
use crate::matrix;
use crate::policy::Policy;
use crate::ready::Untold;
use crate::resources::{Classes, Resources, Wanted};
use crate::rows::{Places, Rows};
use crate::table::TaskTable;
use crate::tasks::{Gate, JobIx, Phase, TaskCell, TaskIx};
use crate::workers::Rooms;

/// On so large a level a job is only added at once if it says by name on which nodes it runs.
const ADD_NODES_MAX: usize = 20_000;

/// What a plan is to be made of.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(crate) config: Arc<Config>,
    pub(crate) forest: Arc<Forest>,
    /// All of them: the config's as they hold, and those from outside.
    pub(crate) jobs: Vec<Arc<Job>>,
    /// What is finished of some of them.
    pub(crate) finished: Vec<(JobIx, Arc<Rows>)>,
}

#[derive(Debug)]
pub struct Plan {
    pub(crate) config: Arc<Config>,
    pub(crate) forest: Arc<Forest>,
    /// The name of the instance node, which is on every path.
    pub(crate) instance: Arc<str>,
    pub(crate) jobs: Vec<JobState>,
    names: NameTable,
    /// Names that jobs depend on and that are no jobs.
    unresolved: FxHashSet<String>,
    pub(crate) resources: Resources,
    /// Per level with nodes.
    pub(crate) classes: Vec<Classes>,
    pub(crate) rooms: Rooms,
    pub(crate) policy: Policy,
    pub(crate) untold: Untold,
    pub(crate) tasks: TaskTable,
    /// Where to find what was finished when the process began.
    pub(crate) places: FxHashMap<JobIx, Places>,
    /// Jobs whose tasks must run on hosts that nodes are named after.
    pub(crate) placed_jobs: Vec<JobIx>,
}

/// What a job wants of workers besides room.
fn wanted(job: &Job) -> Wanted {
    Wanted {
        host: match &job.placement {
            Placement::Host(host) => Some(host.clone()),
            Placement::Anywhere | Placement::HostAtLevel(_) => None,
        },
        filter: job.worker_filter.clone().map(|filter| {
            // Jobs with the same filter are alike, unless it asks for their names.
            let job = if filter.depends_on_job() { job.name.clone() } else { Arc::default() };
            (filter, job)
        }),
    }
}

impl Draft {
    /// Takes about 20 ns per task, more with filters.
    pub fn compile(self) -> Box<Plan> {
        let Self { config, forest, jobs, finished } = self;
        let few: Vec<_> = jobs.iter().map(|job| gates::few(job, &forest)).collect();
        let mut columns = vec![0; config.settings.node_levels()];
        let with_column = jobs.iter().zip(&few).filter(|(_, few)| few.is_none());
        with_column.for_each(|(job, _)| columns[job.level] += 1);
        let mut plan = Box::new(Plan {
            names: NameTable::of(0..jobs.len() as u32, |n| &jobs[n as usize].name),
            jobs: Vec::with_capacity(jobs.len()),
            unresolved: FxHashSet::default(),
            resources: Resources::new(&config.settings, &forest),
            classes: columns.iter().map(|_| Classes::default()).collect(),
            rooms: Rooms::default(),
            policy: Policy::new(config.settings.policy),
            untold: Untold::default(),
            tasks: TaskTable::new(&forest, &columns),
            places: FxHashMap::default(),
            placed_jobs: Vec::new(),
            instance: forest.name(NodeIx::INSTANCE).into(),
            config,
            forest,
        });
        // All jobs first: links go both ways.
        plan.jobs.extend(jobs.into_iter().map(JobState::new));
        for (job, few) in few.into_iter().enumerate() {
            plan.compile_job(JobIx(job as u32), few);
        }
        plan.lay(finished);
        plan.fill_columns();
        for job in (0..plan.jobs.len()).map(|job| JobIx(job as u32)) {
            match plan.tasks.has_column(job) {
                true => plan.refresh_ready(job),
                false => plan.fill_open(job),
            }
        }
        plan
    }
}

impl Plan {
    pub(crate) fn job(&self, name: &str) -> Option<JobIx> {
        self.names.find(name, |job| &self.jobs[job as usize].config.name).map(JobIx)
    }

    pub(crate) fn find_task(&self, job: &str, node: &str) -> Option<TaskIx> {
        let job = self.job(job)?;
        let node = self.forest.find(self.jobs[job.index()].level(), node)?;
        Some(TaskIx { job, node })
    }

    pub(crate) fn cell(&self, task: TaskIx) -> TaskCell {
        self.tasks.cell(&self.forest, task)
    }

    pub(crate) fn cells(&self, job: JobIx) -> impl Iterator<Item = (NodeIx, TaskCell)> + '_ {
        self.tasks.cells(&self.forest, job)
    }

    /// How many of a job's tasks are in a state, whatever the job's own.
    pub(crate) fn count(&self, job: JobIx, state: TaskState) -> u64 {
        self.tasks.counts(&self.forest, job)[state as usize].into()
    }

    /// As people see them, by state.
    pub(crate) fn shown_counts(&self, job: JobIx) -> [u64; TaskState::ALL.len()] {
        let mut shown = [0; TaskState::ALL.len()];
        for (state, count) in TaskState::ALL.into_iter().zip(self.tasks.counts(&self.forest, job)) {
            shown[self.jobs[job.index()].shown(state) as usize] += u64::from(count);
        }
        shown
    }

    pub(crate) fn counts(&self, job: JobIx) -> Counts {
        let all = TaskState::ALL.into_iter().zip(self.shown_counts(job));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Is every task done that a filter does not exclude? Never for a job that cannot run.
    pub(crate) fn is_complete(&self, job: JobIx) -> bool {
        let over = self.count(job, TaskState::Done) + self.count(job, TaskState::Avoided);
        self.jobs[job.index()].config.can_run() && over == self.tasks.tasks(job)
    }

    /// Enters a job in all tables; returns whether its class of workers is new, and their rooms not
    /// known.
    fn compile_job(&mut self, ix: JobIx, few: Option<Vec<NodeIx>>) -> bool {
        let job = self.jobs[ix.index()].config.clone();
        let new = self.join_classes(ix, &job);
        self.policy.add(&self.jobs[ix.index()]);
        self.link(ix, &job);
        self.restrict(ix, &job);
        match &few {
            Some(nodes) => self.tasks.add_list(&self.forest, job.level, nodes),
            None => {
                let JobState { classes, routes, .. } = &self.jobs[ix.index()];
                let column = self.tasks.add_column(job.level, routes.is_some());
                for (level, class) in classes.iter().enumerate() {
                    matrix::note(&mut self.classes[level].classes[class.index()].columns, column);
                }
            }
        }
        self.close_gates(ix, &job, few);
        self.count_left(ix);
        new
    }

    /// Notes where a job may not pass, apart from its own gates.
    fn restrict(&mut self, ix: JobIx, job: &Job) {
        let barred = gates::barred(job, &self.forest);
        if !barred.is_empty() {
            self.jobs[ix.index()].routes.get_or_insert_default().barred = barred;
        }
        if let Placement::HostAtLevel(level) = job.placement {
            let room = Bits::new(self.forest.level(level).len());
            let routes: &mut Box<Routes> = self.jobs[ix.index()].routes.get_or_insert_default();
            routes.placed = Some(Placed { level, room });
            self.placed_jobs.push(ix);
        }
    }

    fn join_classes(&mut self, ix: JobIx, job: &Job) -> bool {
        let mut of_job = Vec::new();
        for level in 0..=job.level {
            let demand = self.resources.demand(job, level);
            let limits = self.resources.limits(level);
            let (class, _) = self.classes[level].join(limits, demand, Wanted::default());
            of_job.push(class);
        }
        let demand = self.resources.demand(job, self.config.settings.worker_level());
        let limits = self.resources.worker_limits();
        let (class, is_new) = self.rooms.classes.join(limits, demand, wanted(job));
        let before = ix.index().checked_sub(1).map(|before| self.jobs[before].classes.clone());
        let state = &mut self.jobs[ix.index()];
        state.classes = before.filter(|b| **b == *of_job).unwrap_or_else(|| of_job.into());
        state.worker_class = class;
        is_new
    }

    fn link(&mut self, ix: JobIx, job: &Job) {
        for name in &job.after_all {
            let awaited = self.resolve(name);
            self.jobs[ix.index()].links_mut().after_all.push(awaited);
            if let Some(awaited) = awaited {
                self.jobs[awaited.index()].links_mut().awaited_by.push(ix);
            }
        }
        for name in &job.depends_on {
            let dependency = self.resolve(name);
            self.jobs[ix.index()].links_mut().depends_on.push(dependency);
            if let Some(dependency) = dependency {
                self.jobs[dependency.index()].links_mut().dependents.push(ix);
            }
        }
    }

    /// A job that another one names. Names that are not jobs are remembered: one that comes later
    /// changes more than itself.
    fn resolve(&mut self, name: &str) -> Option<JobIx> {
        let found = self.job(name);
        if found.is_none() {
            self.unresolved.insert(name.to_owned());
        }
        found
    }

    /// Filters, disabled nodes and, since nothing is known to be done yet, dependencies.
    fn close_gates(&mut self, ix: JobIx, job: &Job, few: Option<Vec<NodeIx>>) {
        let forest = self.forest.clone();
        let blocked = !job.depends_on.is_empty();
        let cell = |gate: Option<Gate>| {
            let cell = TaskCell::default().with_gate(Gate::Blocked, blocked);
            gate.map_or(cell, |gate| cell.with_gate(gate, true))
        };
        let mut close = |node, gate| {
            let cell = cell(gate);
            if cell != TaskCell::default() {
                self.tasks.set_cell(&forest, TaskIx { job: ix, node }, cell);
            }
        };
        match few {
            Some(nodes) => nodes
                .into_iter()
                .for_each(|node| close(node, gates::gate(job, &forest, job.level, node))),
            None => {
                let gates = gates::gates(job, &forest);
                forest.level(job.level).for_each(|node| close(NodeIx(node as u32), gates[node]));
            }
        }
    }

    /// Enters a job beside all others, at a cost that depends neither on them nor on a large level.
    /// `None`: it concerns others, or costs too much; then only a new plan will do.
    pub(crate) fn add_job(&mut self, job: Arc<Job>) -> Option<AddedJob> {
        let filter = job.filters.get(&job.level);
        let named = filter.is_some_and(|filter| filter.listed().is_some());
        let large = self.forest.level(job.level).len() > ADD_NODES_MAX;
        // One of this name that was deleted may still run something.
        let known = self.job(&job.name).is_some();
        if known || self.unresolved.contains(&*job.name) || large && !named {
            return None;
        }
        let few = gates::few(&job, &self.forest);
        if large && few.is_none() {
            return None;
        }
        let ix = JobIx(self.jobs.len() as u32);
        self.jobs.push(JobState::new(job));
        let jobs = &self.jobs;
        self.names.insert(ix.0, |job| &jobs[job as usize].config.name);
        let new_worker_class = self.compile_job(ix, few);
        self.fill_open(ix);
        Some(AddedJob { ix, new_worker_class })
    }

    /// The first job that the task depends on and that is not done on its node.
    pub(crate) fn missing_dependency(&self, task: TaskIx) -> Option<usize> {
        self.jobs[task.job.index()].depends_on().iter().position(|dependency| {
            let Some(dependency) = *dependency else {
                return true;
            };
            let same_node = self.same_node(task, dependency);
            same_node.is_none_or(|dependency| self.cell(dependency).phase() != Phase::Done)
        })
    }

    /// The task of another job on the node of the same name, whatever that job's level.
    pub(crate) fn same_node(&self, task: TaskIx, job: JobIx) -> Option<TaskIx> {
        let level = self.jobs[job.index()].level();
        let node = match level == self.jobs[task.job.index()].level() {
            true => task.node,
            false => self.forest.find(level, self.forest.name(task.node))?,
        };
        Some(TaskIx { job, node })
    }
}

/// A job that was entered alone.
pub struct AddedJob {
    pub ix: JobIx,
    /// The rooms of its class are not known yet.
    pub new_worker_class: bool,
}
