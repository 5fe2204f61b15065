//! A new plan: other jobs, other nodes, the same tasks as far as they are still there.

use std::sync::Arc;

use bistro_common::config::{Config, Job, Placement};
use bistro_common::protocol::api::WorkerHealth;

use crate::Core;
use crate::attempts::Stage;
use crate::bits::Bits;
use crate::forest::{Forest, NodeIx};
use crate::io::Effect;
use crate::jobs::{JobState, Placed};
use crate::policy::Policy;
use crate::record::{AttemptRecord, WorkerRecord};
use crate::resources::{Classes, Resources, Wanted};
use crate::tasks::{Gate, JobIx, Phase, TaskIx, TaskRecord};
use crate::workers::WorkerIx;

/// What a job wants of workers besides room.
fn wanted(job: &Job) -> Wanted {
    Wanted {
        host: match &job.placement {
            Placement::Host(host) => Some(host.clone()),
            Placement::Anywhere | Placement::HostAtLevel(_) => None,
        },
        filter: job.worker_filter.clone().map(|filter| (filter, job.name.clone())),
    }
}

impl Core {
    /// Puts back what was open when the last scheduler ended. How long its workers may still run
    /// is not known, so their leases are taken to have begun just now.
    pub(crate) fn restore(&mut self, workers: Vec<WorkerRecord>, attempts: Vec<AttemptRecord>) {
        let lease_end = self.terms.scheduler_end(self.now);
        for record in workers {
            let worker = self.add_worker(record, WorkerHealth::Unheard);
            self.workers[worker.index()].lease_end = lease_end;
            self.schedule_check(worker);
        }
        for attempt in attempts {
            let worker = match self.worker_names.get(&attempt.worker) {
                Some(&worker) => worker,
                // A worker is stored before its first attempt; a store without it lost a table.
                None => continue,
            };
            self.open_attempt(
                attempt.open,
                worker,
                attempt.incarnation,
                attempt.seq,
                Stage::Unsure,
                None,
            );
        }
    }

    pub(crate) fn on_plan(
        &mut self,
        config: Arc<Config>,
        forest: Arc<Forest>,
        out: &mut Vec<Effect>,
    ) {
        self.park_records();
        self.planned = true;
        self.relay();
        self.adopt_settings(&config);
        self.config = config;
        self.forest = forest;
        self.resources = Resources::new(&self.config.settings);
        self.compile_jobs();
        self.unpark_records();
        self.close_gates();
        self.attach_all();
        for level in 0..self.classes.len() {
            self.classes[level].fill(level, &self.forest, &self.resources);
        }
        self.policy = Policy::new(self.config.settings.policy, &self.jobs);
        self.fill_rooms();
        for job in 0..self.jobs.len() {
            self.fill_open(JobIx(job as u32));
        }
        self.condemn(out);
    }

    /// Numbers of jobs mean something else from now on.
    pub(crate) fn relay(&mut self) {
        self.layout += 1;
        self.changed.clear();
        self.relaid = self.watched;
    }

    fn park_records(&mut self) {
        for (task, record) in std::mem::take(&mut self.records) {
            let name = self.task_name(task);
            self.parked.insert(name, record);
        }
        self.backoffs.clear();
        self.open_by_task.clear();
    }

    /// Jobs, their dependencies and their classes, with all bits still zero.
    fn compile_jobs(&mut self) {
        let (jobs, forest) = (self.effective_jobs(), self.forest.clone());
        let numbered = jobs.iter().zip(0..);
        self.job_names = numbered.map(|(job, i)| (job.name.clone(), JobIx(i))).collect();
        self.jobs = jobs.into_iter().map(|job| JobState::new(job, &forest)).collect();
        self.classes =
            (0..self.config.settings.node_levels()).map(|_| Classes::default()).collect();
        self.rooms.classes = Classes::default();
        self.placed_jobs.clear();
        self.unresolved.clear();
        for job in 0..self.jobs.len() {
            self.compile_job(JobIx(job as u32));
        }
        for (level, classes) in self.classes.iter_mut().enumerate() {
            classes.fill(level, &forest, &self.resources);
        }
        // Tasks that attach below find bit sets of the right size; all is set anew at the end.
        self.policy = Policy::new(self.config.settings.policy, &self.jobs);
        self.fill_rooms();
    }

    /// One job's classes and dependencies. The bits of classes that are new are not set; returns
    /// at which levels there are new ones, the worker level last.
    pub(crate) fn compile_job(&mut self, ix: JobIx) -> Vec<bool> {
        let job = self.jobs[ix.index()].config.clone();
        let state = &mut self.jobs[ix.index()];
        let mut new = Vec::new();
        for level in 0..=job.level {
            let demand = self.resources.demand(&job, level);
            let limits = self.resources.limits(level);
            let (class, is_new) = self.classes[level].join(ix, limits, demand, Wanted::default());
            state.classes.push(class);
            new.push(is_new);
        }
        let demand = self.resources.demand(&job, self.config.settings.worker_level());
        let limits = self.resources.worker_limits();
        let (class, is_new) = self.rooms.classes.join(ix, limits, demand, wanted(&job));
        state.worker_class = class;
        new.push(is_new);
        if let Placement::HostAtLevel(level) = job.placement {
            state.placed = Some(Placed { level, room: Bits::new(self.forest.level(level).len()) });
            self.placed_jobs.push(ix);
        }
        for name in &job.after_all {
            let awaited = self.resolve(name);
            self.jobs[ix.index()].after_all.push(awaited);
            if let Some(awaited) = awaited {
                self.jobs[awaited.index()].awaited_by.push(ix);
            }
        }
        for name in &job.depends_on {
            let dependency = self.resolve(name);
            self.jobs[ix.index()].depends_on.push(dependency);
            if let Some(dependency) = dependency {
                self.jobs[dependency.index()].dependents.push(ix);
            }
        }
        new
    }

    /// A job that another one names. Names that are not jobs are remembered: one that comes later
    /// changes more than itself.
    fn resolve(&mut self, name: &str) -> Option<JobIx> {
        let found = self.job_names.get(name).copied();
        if found.is_none() {
            self.unresolved.insert(name.to_owned());
        }
        found
    }

    /// Enters a job beside all others, at a cost that does not depend on them. False: it concerns
    /// others, or something of it is there already; then only a new plan will do.
    pub(crate) fn add_job(&mut self, job: Arc<Job>) -> bool {
        if self.unresolved.contains(&*job.name)
            || self.attempts.values().any(|a| a.task.is_none() && a.open.task.job == job.name)
        {
            return false;
        }
        let ix = JobIx(self.jobs.len() as u32);
        self.job_names.insert(job.name.clone(), ix);
        self.jobs.push(JobState::new(job, &self.forest));
        let new = self.compile_job(ix);
        let level = self.jobs[ix.index()].level();
        for level in (0..=level).filter(|&level| new[level]) {
            let class = self.jobs[ix.index()].classes[level].index();
            self.classes[level].classes[class].fill(level, &self.forest, &self.resources);
        }
        self.policy.add(&self.jobs[ix.index()]);
        if new.last() == Some(&true) {
            let class = self.jobs[ix.index()].worker_class.index();
            self.rooms.classes.classes[class].room = Bits::new(self.workers.len());
            (0..self.workers.len()).for_each(|worker| self.refresh_room(WorkerIx(worker as u32)));
        }
        self.refresh_lanes();
        if let Some(placed) = self.jobs[ix.index()].placed.as_ref().map(|placed| placed.level) {
            for node in self.forest.level(placed) {
                let host = self.forest.name(NodeIx(node as u32)).to_owned();
                self.refresh_host(&host);
            }
        }
        self.unpark_job(ix);
        self.close_gates_of(ix.index());
        self.fill_open(ix);
        true
    }

    fn unpark_job(&mut self, job: JobIx) {
        if self.parked.is_empty() {
            return;
        }
        let state = &self.jobs[job.index()];
        for node in self.forest.level(state.level()) {
            let task = TaskIx { job, node: NodeIx(node as u32) };
            if let Some(record) = self.parked.remove(&self.task_name(task)) {
                self.unpark(task, record);
            }
        }
    }

    fn unpark_records(&mut self) {
        let parked = std::mem::take(&mut self.parked);
        for (name, record) in parked {
            let Some(task) = self.find_task(&name.job, &name.node) else {
                self.parked.insert(name, record);
                continue;
            };
            self.unpark(task, record);
        }
    }

    fn unpark(&mut self, task: TaskIx, record: TaskRecord) {
        if record.phase == Phase::Backoff {
            self.backoffs.insert((record.backoff_until_ms, task));
        }
        let cell = self.cell(task).with_phase(record.phase);
        self.jobs[task.job.index()].set_cell(task.node, cell);
        self.records.insert(task, record);
    }

    /// Filters, disabled nodes and dependencies.
    fn close_gates(&mut self) {
        (0..self.jobs.len()).for_each(|job| self.close_gates_of(job));
    }

    fn close_gates_of(&mut self, job: usize) {
        let (excluded, barred) = self.excluded_nodes(job);
        self.jobs[job].barred = barred;
        for position in self.forest.level(self.jobs[job].level()) {
            let node = NodeIx(position as u32);
            let task = TaskIx { job: JobIx(job as u32), node };
            let mut cell = self.cell(task);
            if let Some(gate) = excluded[position] {
                cell = cell.with_gate(gate, true);
            }
            cell = cell.with_gate(Gate::Blocked, self.missing_dependency(task).is_some());
            self.jobs[job].set_cell(node, cell);
        }
    }

    /// For each node down to the job's level, why the job must not run there, and through which
    /// nodes above it must not go. The first obstacle on the way up counts, and at one node its own
    /// flag comes first; where there are several ways, each must have one.
    fn excluded_nodes(&self, job: usize) -> (Vec<Option<Gate>>, Bits) {
        let job = &self.jobs[job].config;
        let mut barred = match self.forest.has_more_parents() {
            true => Bits::new(self.forest.level(job.level).start),
            false => Bits::default(),
        };
        let mut excluded: Vec<Option<Gate>> = Vec::new();
        for level in 0..=job.level {
            let filter = job.filters.get(&level);
            for node in self.forest.level(level).map(|node| NodeIx(node as u32)) {
                let first = self.forest.parent(node);
                let mut others = self.forest.more_parents(node).iter();
                let inherited = first
                    .and_then(|parent| excluded[parent.index()])
                    .filter(|_| others.all(|parent| excluded[parent.index()].is_some()));
                let own = if !self.forest.is_enabled(node) {
                    Some(Gate::Disabled)
                } else if filter.is_some_and(|f| {
                    !f.passes(self.forest.name(node), self.forest.tags(node), &job.name)
                }) {
                    Some(Gate::Avoided)
                } else {
                    None
                };
                if own.is_some() && level < job.level && self.forest.has_more_parents() {
                    barred.set(node.index(), true);
                }
                excluded.push(own.or(inherited));
            }
        }
        (excluded, barred)
    }

    fn attach_all(&mut self) {
        for worker in 0..self.workers.len() {
            self.workers[worker].used = vec![0; self.resources.worker_limits().len()];
            self.refresh_worker_slots(WorkerIx(worker as u32));
        }
        let mut ids: Vec<_> = self.attempts.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| self.attach(id));
    }

    /// The first job that the task depends on and that is not done on its node.
    pub(crate) fn missing_dependency(&self, task: TaskIx) -> Option<usize> {
        let job = &self.jobs[task.job.index()];
        job.depends_on.iter().position(|dependency| {
            let Some(dependency) = *dependency else {
                return true;
            };
            let same_node = self.same_node(task, dependency);
            same_node.is_none_or(|dependency| self.cell(dependency).phase() != Phase::Done)
        })
    }

    /// The task of another job on the node of the same name, whatever that job's level.
    fn same_node(&self, task: TaskIx, job: JobIx) -> Option<TaskIx> {
        let level = self.jobs[job.index()].level();
        let node = match level == self.jobs[task.job.index()].level() {
            true => task.node,
            false => self.forest.find(level, self.forest.name(task.node))?,
        };
        Some(TaskIx { job, node })
    }

    /// Opens or closes the gates of tasks that depend on this one.
    pub(crate) fn refresh_dependents(&mut self, task: TaskIx) {
        for at in 0..self.jobs[task.job.index()].dependents.len() {
            let dependent = self.jobs[task.job.index()].dependents[at];
            if let Some(task) = self.same_node(task, dependent) {
                let blocked = self.missing_dependency(task).is_some();
                self.set_cell(task, self.cell(task).with_gate(Gate::Blocked, blocked));
            }
        }
    }
}
