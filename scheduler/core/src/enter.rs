//! Taking a new plan: what was known under the old one is entered piece by piece, with heartbeats
//! answered in between. Nothing is started before all is entered, since what is done must not be
//! done again.

use std::collections::hash_map;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use bistro_common::Millis;
use bistro_common::config::{Config, Job};
use bistro_common::protocol::api::{ApiError, WorkerHealth};

use crate::Core;
use crate::attempts::{Attempt, Stage};
use crate::forest::Forest;
use crate::io::Effect;
use crate::parked::{self, OfJob};
use crate::plan::{Draft, Plan};
use crate::record::{AttemptRecord, WorkerRecord};
use crate::records;
use crate::rows::Rows;
use crate::task_row;
use crate::tasks::{JobIx, Known, Phase, TaskIx, TaskRecord};
use crate::workers::WorkerIx;

/// So many tasks and attempts are entered in one step: about 10 ms. In tests it takes several steps,
/// too.
const ENTERED_PER_STEP: usize = if cfg!(test) { 3 } else { 8_192 };

/// What is still to be entered.
#[derive(Debug)]
pub struct Entering {
    former: Box<Plan>,
    /// The jobs of the former plan in the present one.
    jobs: Vec<Option<JobIx>>,
    records: records::IntoIter,
    parked: hash_map::IntoIter<Arc<str>, OfJob>,
    of_job: Option<Parked>,
    /// By their numbers; none is opened meanwhile.
    attempts: std::ops::Range<usize>,
}

/// The parked records of a job that is in the plan.
#[derive(Debug)]
struct Parked {
    name: Arc<str>,
    job: JobIx,
    records: parked::IntoIter,
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
        for record in attempts {
            let AttemptRecord { open, worker, incarnation, seq, disowned } = record;
            // A worker is stored before its first attempt; a store without it lost a table.
            if let Some(&worker) = self.worker_names.get(&worker) {
                let attempt = self.noted_attempt(open, worker, incarnation, seq, Stage::Unsure);
                self.open_attempt(Attempt { disowned, ..attempt });
            }
        }
    }

    /// A config and nodes to make the next plan of.
    pub(crate) fn on_plan(
        &mut self,
        config: Arc<Config>,
        forest: Arc<Forest>,
        out: &mut Vec<Effect>,
    ) {
        self.wanted = Some((config, forest));
        self.draft(out);
    }

    /// Has the next plan compiled, if none is being compiled already: then that one comes first.
    pub(crate) fn draft(&mut self, out: &mut Vec<Effect>) {
        if self.compiling {
            self.redefined = true;
            return;
        }
        let (config, forest) = self
            .wanted
            .take()
            .unwrap_or_else(|| (self.plan.config.clone(), self.plan.forest.clone()));
        self.adopt(config.clone());
        self.compiling = true;
        let jobs = self.effective_jobs();
        self.withdraw_all_but(&jobs);
        let finished = self.finished_of(&jobs);
        out.push(Effect::Compile(Draft { config, forest, jobs, finished }));
    }

    fn finished_of(&self, jobs: &[Arc<Job>]) -> Vec<(JobIx, Arc<Rows>)> {
        let of_job =
            |(ix, job): (u32, &Arc<Job>)| Some((JobIx(ix), self.finished.get(&job.name)?.clone()));
        (0..).zip(jobs).filter_map(of_job).collect()
    }

    /// The plan that was asked for.
    pub(crate) fn on_compiled(&mut self, plan: Box<Plan>) {
        self.compiling = false;
        self.planned = true;
        self.relay();
        let former = std::mem::replace(&mut self.plan, plan);
        for worker in 0..self.workers.len() {
            self.workers[worker].used = vec![0; self.plan.resources.worker_limits().len()];
            self.refresh_worker_slots(WorkerIx(worker as u32));
        }
        self.backoffs.clear();
        self.homeless.clear();
        self.half_entered = true;
        let in_plan = self.parked.iter().filter(|(job, _)| self.plan.job(job).is_some());
        // A table that grows while millions come in is copied again and again.
        let to_come = self.records.len() + in_plan.map(|(_, of_job)| of_job.len()).sum::<usize>();
        let records = std::mem::take(&mut self.records).into_iter();
        self.records.reserve(to_come);
        self.entering = Some(Box::new(Entering {
            jobs: former.jobs.iter().map(|job| self.plan.job(&job.config.name)).collect(),
            records,
            parked: std::mem::take(&mut self.parked).into_iter(),
            of_job: None,
            attempts: self.attempts.slots(),
            former,
        }));
        // What was changed while this plan was compiled starts nothing under it.
        for name in std::mem::take(&mut self.changed_since_draft) {
            self.withdraw(&name);
        }
        self.newly_defined.append(&mut self.defined_since_draft);
    }

    /// Numbers of jobs mean something else from now on.
    pub(crate) fn relay(&mut self) {
        self.layout += 1;
        self.changed.clear();
        self.relaid = self.watched;
    }

    /// Jobs of the present plan that are not the same in the next one start nothing more.
    fn withdraw_all_but(&mut self, jobs: &[Arc<Job>]) {
        let next: FxHashMap<&str, &Arc<Job>> = jobs.iter().map(|job| (&*job.name, job)).collect();
        for ix in 0..self.plan.jobs.len() {
            let job = &self.plan.jobs[ix].config;
            let same = |next: &Arc<Job>| Arc::ptr_eq(next, job) || *next == *job;
            if !next.get(&*job.name).is_some_and(|next| same(next)) {
                self.plan.jobs[ix].withdrawn = true;
                self.plan.refresh_ready(JobIx(ix as u32));
            }
        }
    }

    /// Nothing more of a job is started under the present plan.
    pub(crate) fn withdraw(&mut self, job: &str) {
        if let Some(job) = self.plan.job(job) {
            self.plan.jobs[job.index()].withdrawn = true;
            self.plan.refresh_ready(job);
        }
    }

    /// A new plan is not entered as a whole yet. Requests had better wait: they would see half of
    /// it.
    pub fn is_entering(&self) -> bool {
        self.half_entered
    }

    /// Enters the next part.
    pub(crate) fn enter_some(&mut self, out: &mut Vec<Effect>) {
        let Some(mut entering) = self.entering.take() else {
            return;
        };
        for _ in 0..ENTERED_PER_STEP {
            if !self.enter_next(&mut entering) {
                self.half_entered = false;
                self.fill_rooms();
                self.condemn(out);
                return;
            }
        }
        self.entering = Some(entering);
    }

    pub(crate) fn enter_all(&mut self, out: &mut Vec<Effect>) {
        while self.is_entering() {
            self.enter_some(out);
        }
    }

    /// False: there is nothing more.
    fn enter_next(&mut self, entering: &mut Entering) -> bool {
        if let Some((task, known)) = entering.records.next() {
            self.enter_former(entering, task, known.record);
            return true;
        }
        if let Some(Parked { name, job, records }) = &mut entering.of_job {
            match records.next() {
                Some((node, record)) => self.unpark(name, *job, node, record),
                None => entering.of_job = None,
            }
            return true;
        }
        if let Some((name, of_job)) = entering.parked.next() {
            match self.plan.job(&name) {
                Some(job) => {
                    entering.of_job = Some(Parked { name, job, records: of_job.into_iter() });
                }
                None => match self.parked.entry(name) {
                    hash_map::Entry::Vacant(vacant) => drop(vacant.insert(of_job)),
                    hash_map::Entry::Occupied(mut known) => {
                        of_job.into_iter().for_each(|(node, r)| known.get_mut().insert(node, r));
                    }
                },
            }
            return true;
        }
        if let Some(slot) = entering.attempts.next() {
            if let Some(attempt) = self.attempts.in_slot(slot) {
                self.carry_over(attempt, &entering.former);
            }
            return true;
        }
        false
    }

    /// The record of a task of the former plan.
    fn enter_former(&mut self, entering: &Entering, task: TaskIx, record: TaskRecord) {
        let former = &entering.former;
        let old = former.jobs[task.job.index()].level();
        let found = entering.jobs[task.job.index()].and_then(|job| {
            let level = self.plan.jobs[job.index()].level();
            let node = match Arc::ptr_eq(&former.forest, &self.plan.forest) && level == old {
                true => task.node,
                false => self.plan.forest.find(level, former.forest.name(task.node))?,
            };
            Some(TaskIx { job, node })
        });
        match found {
            Some(task) => self.enter(task, record),
            None => {
                let name = former.task_name(task);
                self.park(name.job, name.node, record);
            }
        }
    }

    /// Enters a record that was parked, or parks it again.
    fn unpark(&mut self, name: &Arc<str>, job: JobIx, node: Arc<str>, record: TaskRecord) {
        let level = self.plan.jobs[job.index()].level();
        match self.plan.forest.find(level, &node) {
            Some(node) => self.enter(TaskIx { job, node }, record),
            None => self.park(name.clone(), node, record),
        }
    }

    fn park(&mut self, job: Arc<str>, node: Arc<str>, record: TaskRecord) {
        self.parked.entry(job).or_default().insert(node, record);
    }

    fn enter(&mut self, task: TaskIx, record: TaskRecord) {
        if record.phase == Phase::Backoff {
            self.backoffs.insert((record.backoff_until_ms(), task));
        }
        let phase = record.phase;
        let known = self.records.find_or_add(task, Known::default);
        *self.records.at_mut(known) = Known { record, open: None };
        let cell = self.plan.cell(task);
        self.plan.set_cell(task, cell.with_phase(phase));
        // It is done already where that has been laid, perhaps by a row that is hidden now.
        if (cell.phase() == Phase::Done) != (phase == Phase::Done) {
            self.refresh_dependents(task);
        }
    }

    /// Makes records of what was finished of a job, unless there are some already.
    pub(crate) fn unpack(&mut self, job: &str) {
        let Some((name, rows)) = self.finished.remove_entry(job) else {
            return;
        };
        if let Some(ix) = self.plan.job(job) {
            self.plan.places.remove(&ix);
        }
        for (node, row) in rows.iter() {
            let Some(record) = task_row::decode(row) else { continue };
            if let Some(task) = self.plan.find_task(job, node) {
                self.records.find_or_add(task, || Known { record, open: None });
            } else {
                let parked = self.parked.entry(name.clone()).or_default();
                if parked.get(node).is_none() {
                    parked.insert(node.into(), record);
                }
            }
        }
    }

    /// Puts a new job beside the others. False: only a new plan will do.
    pub(crate) fn add_job(&mut self, job: Arc<Job>) -> bool {
        if self.homeless.contains_key(&job.name) {
            return false;
        }
        let name = job.name.clone();
        // Places are found when a plan is compiled.
        self.unpack(&name);
        let Some(added) = self.plan.add_job(job) else {
            return false;
        };
        let state = &self.plan.jobs[added.ix.index()];
        let (class, placed) = (state.worker_class, state.placed().map(|placed| placed.level));
        if added.new_worker_class {
            self.plan.rooms.clear(class, self.workers.len());
            (0..self.workers.len()).for_each(|worker| self.refresh_room(WorkerIx(worker as u32)));
        }
        self.plan.refresh_lanes();
        if placed.is_some() {
            self.refresh_hosts(added.ix);
        }
        for (node, record) in self.parked.remove(&name).unwrap_or_default() {
            self.unpark(&name, added.ix, node, record);
        }
        if !self.plan.jobs[added.ix.index()].depends_on().is_empty() {
            self.refresh_all_blocked(added.ix);
        }
        true
    }

    /// What a new job depends on may be done already.
    fn refresh_all_blocked(&mut self, job: JobIx) {
        for node in self.plan.tasks.nodes(job, self.plan.jobs[job.index()].level()) {
            self.refresh_blocked(TaskIx { job, node });
        }
    }

    /// Opens or closes the gates of tasks that depend on this one.
    pub(crate) fn refresh_dependents(&mut self, task: TaskIx) {
        for at in 0..self.plan.jobs[task.job.index()].dependents().len() {
            let dependent = self.plan.jobs[task.job.index()].dependents()[at];
            if let Some(task) = self.plan.same_node(task, dependent) {
                self.refresh_blocked(task);
            }
        }
    }

    /// Opens or closes the gate of a task that depends on others.
    fn refresh_blocked(&mut self, task: TaskIx) {
        self.set_cell(task, self.plan.gated(task));
    }

    /// Before something is changed from outside: what was known is entered as a whole.
    pub(crate) fn begin(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        self.now = self.now.max(now);
        self.check_audits()?;
        self.enter_all(out);
        Ok(())
    }
}
