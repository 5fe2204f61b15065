//! Open attempts: what may be running, where, and what it holds.

use smallvec::SmallVec;
use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::config::LevelIx;
use bistro_common::ids::{AttemptId, Incarnation, Seq, TaskName};
use bistro_common::protocol::task::{OpenAttempt, PathNode, Slots};

use crate::Core;
use crate::forest::NodeIx;
use crate::plan::Plan;
use crate::record::AttemptRecord;
use crate::records::RecordIx;
use crate::resources::{Amounts, ClassIx, Limit, Sign};
use crate::tasks::{Phase, TaskIx};
use crate::workers::WorkerIx;

mod of_worker;
mod slab;

pub use of_worker::OfWorker;
pub use slab::{AttemptIx, Attempts};

/// How sure we are that an attempt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The assignment is on its way.
    Assigned,
    /// The worker has it.
    Running,
    /// Nobody knows; the worker will be asked. It counts as running until it has answered.
    Unsure,
}

/// Nodes from the instance down.
pub type Path = SmallVec<[NodeIx; 4]>;

#[derive(Debug)]
pub struct Attempt {
    pub id: AttemptId,
    pub attempt_no: u32,
    pub started_ms: Millis,
    pub worker: WorkerIx,
    /// Where among its worker's it is.
    pub place: u32,
    /// What is known of its task, if that is in the present plan.
    pub record: Option<RecordIx>,
    pub incarnation: Incarnation,
    pub seq: Seq,
    pub stage: Stage,
    /// It was asked to end for room: what it reports is no failure, whatever has changed since.
    pub preempted: bool,
    /// The event of its start has been told, or was another scheduler's to tell.
    pub start_told: bool,
    /// Its job was deleted: what it reports says nothing of one that is made again.
    pub disowned: bool,
    pub held: Held,
}

/// What an attempt is of, and what it holds.
#[derive(Debug)]
pub enum Held {
    /// It was started under the present plan, and holds what its job demands.
    Planned { task: TaskIx, path: Path },
    /// It was started before, and holds what was noted then.
    Noted(Box<Noted>),
}

#[derive(Debug)]
pub struct Noted {
    pub open: Arc<OpenAttempt>,
    /// The task in the present plan, if its job and node are in it.
    pub task: Option<TaskIx>,
    /// What it holds on nodes of the present plan.
    pub charges: Vec<Charge>,
    pub worker_charges: Amounts,
}

/// Slots held at one node.
#[derive(Clone, Debug)]
pub struct Charge {
    pub level: LevelIx,
    pub node: NodeIx,
    pub amounts: Amounts,
}

impl Attempt {
    /// The task in the present plan, if its job and node are in it.
    pub fn task(&self) -> Option<TaskIx> {
        match &self.held {
            Held::Planned { task, .. } => Some(*task),
            Held::Noted(noted) => noted.task,
        }
    }

    pub fn name(&self, plan: &Plan) -> TaskName {
        match &self.held {
            Held::Planned { task, .. } => plan.task_name(*task),
            Held::Noted(noted) => noted.open.task.clone(),
        }
    }

    /// The same, and if it is as given, then not made anew.
    pub fn name_as(&self, given: &TaskName, plan: &Plan) -> TaskName {
        match &self.held {
            Held::Planned { task, .. } if plan.is_named(*task, given) => given.clone(),
            _ => self.name(plan),
        }
    }

    /// What its worker knows of it.
    pub fn open(&self, plan: &Plan) -> Arc<OpenAttempt> {
        match &self.held {
            Held::Noted(noted) => noted.open.clone(),
            Held::Planned { task, path } => {
                let job = &plan.jobs[task.job.index()];
                let path = plan.path_with_slots(*task, path);
                let node = &path.last().expect("a path has the instance node at least").node;
                Arc::new(OpenAttempt {
                    attempt: self.id,
                    task: TaskName { job: job.config.name.clone(), node: node.clone() },
                    attempt_no: self.attempt_no,
                    started_ms: self.started_ms,
                    path,
                    worker_slots: plan.rooms.slots(job.worker_class),
                })
            }
        }
    }

    pub fn charges<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = Charge> + 'a {
        let (noted, planned) = match &self.held {
            Held::Noted(noted) => (Some(noted.charges.iter().cloned()), None),
            Held::Planned { task, path } => (None, Some(plan.charges_on(*task, path))),
        };
        noted.into_iter().flatten().chain(planned.into_iter().flatten())
    }

    pub fn worker_charges<'a>(&'a self, plan: &'a Plan) -> &'a Amounts {
        match &self.held {
            Held::Noted(noted) => &noted.worker_charges,
            Held::Planned { task, .. } => {
                plan.rooms.amounts(plan.jobs[task.job.index()].worker_class)
            }
        }
    }
}

impl Plan {
    pub(crate) fn task_name(&self, task: TaskIx) -> TaskName {
        TaskName {
            job: self.jobs[task.job.index()].config.name.clone(),
            node: self.forest.name(task.node).into(),
        }
    }

    fn is_named(&self, task: TaskIx, name: &TaskName) -> bool {
        self.jobs[task.job.index()].config.name == name.job
            && self.forest.name(task.node) == &*name.node
    }

    /// What a task takes on a path to it.
    fn charges_on<'a>(
        &'a self,
        task: TaskIx,
        path: &'a [NodeIx],
    ) -> impl Iterator<Item = Charge> + 'a {
        let classes = &self.jobs[task.job.index()].classes;
        path.iter().zip(classes.iter()).enumerate().filter_map(|(level, (&node, class))| {
            let amounts = &self.classes[level].classes[class.index()].amounts;
            (!amounts.is_empty()).then(|| Charge { level, node, amounts: amounts.clone() })
        })
    }

    fn path_with_slots(&self, task: TaskIx, path: &[NodeIx]) -> Arc<[PathNode]> {
        let classes = &self.jobs[task.job.index()].classes;
        let down = path.iter().zip(classes.iter()).enumerate();
        let on = |(level, (&node, class)): (LevelIx, (&NodeIx, &ClassIx))| {
            let slots = self.classes[level].classes[class.index()].slots.clone();
            let name = match node {
                NodeIx::INSTANCE => self.instance.clone(),
                node => self.forest.name(node).into(),
            };
            PathNode { node: name, slots }
        };
        down.map(on).collect()
    }

    /// Finds what an attempt from before is of, and what it holds.
    fn note(&self, open: Arc<OpenAttempt>) -> Box<Noted> {
        let task = self.find_task(&open.task.job, &open.task.node);
        let on_path = open.path.iter().enumerate().take(self.config.settings.node_levels());
        let charges = on_path.filter_map(|(level, on_path)| {
            let amounts = numbered(self.resources.limits(level), &on_path.slots);
            let node = self.forest.find(level, &on_path.node)?;
            (!amounts.is_empty()).then_some(Charge { level, node, amounts })
        });
        Box::new(Noted {
            task,
            charges: charges.collect(),
            worker_charges: numbered(self.resources.worker_limits(), &open.worker_slots),
            open,
        })
    }
}

/// Slots by the numbers of their resources; resources that no longer exist hold nothing.
fn numbered(limits: &[Limit], slots: &Slots) -> Amounts {
    let number = |name: &str| limits.iter().position(|limit| limit.name == name);
    // What a worker says is not trusted to add up.
    let sane = |amount: i64| amount.clamp(0, u32::MAX.into());
    slots.iter().filter_map(|(name, &amount)| Some((number(name)?, sane(amount)))).collect()
}

/// Takes or gives back what an attempt holds on nodes.
fn charge(plan: &mut Plan, held: &Held, sign: Sign) {
    match held {
        Held::Planned { task, path } => plan.change_path(task.job, path, sign),
        Held::Noted(noted) => {
            for Charge { level, node, amounts } in &noted.charges {
                plan.change_slots(*level, *node, amounts, sign);
            }
        }
    }
}

impl Core {
    /// Enters an attempt: its slots are taken and its task is running, or unsure.
    pub(crate) fn open_attempt(&mut self, attempt: Attempt) -> AttemptIx {
        let (id, worker, seq) = (attempt.id, attempt.worker, attempt.seq);
        let at = self.attempts.insert(attempt);
        let of_worker = &mut self.workers[worker.index()];
        self.attempts.at_mut(at).place = of_worker.attempts.add(at);
        of_worker.digest.add(id);
        of_worker.last_seq = of_worker.last_seq.max(seq);
        self.attach(at);
        at
    }

    /// An attempt that was started by another reign, or without our knowledge.
    pub(crate) fn noted_attempt(
        &self,
        open: Arc<OpenAttempt>,
        worker: WorkerIx,
        incarnation: Incarnation,
        seq: Seq,
        stage: Stage,
    ) -> Attempt {
        Attempt {
            id: open.attempt,
            attempt_no: open.attempt_no,
            started_ms: open.started_ms,
            worker,
            place: 0,
            record: None,
            incarnation,
            seq,
            stage,
            preempted: false,
            start_told: true,
            disowned: false,
            held: Held::Noted(self.plan.note(open)),
        }
    }

    /// Makes an attempt of the plan before one of the present plan.
    pub(crate) fn carry_over(&mut self, at: AttemptIx, former: &Plan) {
        let open = self.attempts.at(at).open(former);
        let noted = self.plan.note(open);
        let attempt = self.attempts.at_mut(at);
        (attempt.held, attempt.record) = (Held::Noted(noted), None);
        self.attach(at);
    }

    /// Takes an attempt's slots, and shows its task as running.
    fn attach(&mut self, at: AttemptIx) {
        let attempt = self.attempts.at(at);
        let (task, stage, worker) = (attempt.task(), attempt.stage, attempt.worker);
        let (attempt_no, known) = (attempt.attempt_no, attempt.record);
        charge(&mut self.plan, &attempt.held, Sign::Take);
        let of_worker = attempt.worker_charges(&self.plan);
        if self.workers[worker.index()].change_slots(of_worker, Sign::Take) {
            self.refresh_room(worker);
        }
        let known = known.or_else(|| task.map(|task| self.known(task)));
        self.attempts.at_mut(at).record = known;
        if let (Some(task), Some(known)) = (task, known) {
            let known = self.records.at_mut(known);
            known.open = Some(at);
            let record = &mut known.record;
            record.attempt_no = record.attempt_no.max(attempt_no);
            // The stored record is of the attempt before: its wait and its guess are over.
            record.lost = None;
            if record.phase == Phase::Backoff {
                self.backoffs.remove(&(record.backoff_until_ms(), task));
            }
            record.phase = Phase::Ready;
            let was_done = self.plan.cell(task).phase() == Phase::Done;
            self.show_stage(task, stage);
            if was_done {
                self.refresh_dependents(task);
            }
        } else {
            let job = self.attempts.at(at).name(&self.plan).job;
            *self.homeless.entry(job).or_default() += 1;
        }
    }

    /// It was open in this reign, and is not any more (an attempt of this reign that is not open).
    pub(crate) fn has_ended(&self, id: AttemptId) -> bool {
        self.is_of_this_reign(id) || self.ended_of_before.contains(&id)
    }

    fn is_of_this_reign(&self, id: AttemptId) -> bool {
        let (made_at, number) = id.origin();
        made_at >= self.reigns_since && number >> 30 == self.identity.epoch.0 & 0xfff
    }

    /// Forgets an attempt and gives its slots back. The caller sets the task's new phase.
    pub(crate) fn close_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let at = self.attempts.find(id);
        let attempt = self.attempts.remove(id)?;
        if !self.is_of_this_reign(id) {
            self.ended_of_before.insert(id);
        }
        charge(&mut self.plan, &attempt.held, Sign::Give);
        let worker = &mut self.workers[attempt.worker.index()];
        worker.digest.remove(id);
        worker.attempts.remove(attempt.place);
        if worker.change_slots(attempt.worker_charges(&self.plan), Sign::Give) {
            self.refresh_room(attempt.worker);
        }
        match attempt.record {
            Some(record) => {
                let known = self.records.at_mut(record);
                if known.open == at {
                    known.open = None;
                }
            }
            None => self.leave_homeless(&attempt.name(&self.plan).job),
        }
        Some(attempt)
    }

    /// Asks for what the end of an attempt is about to look at.
    pub(crate) fn prefetch(&self, id: AttemptId) {
        let Some(attempt) = self.attempts.get(id) else {
            return;
        };
        if let Some(record) = attempt.record {
            self.records.prefetch(record);
        }
        self.worker(attempt.worker).attempts.prefetch(attempt.place);
        if let Held::Planned { path, .. } = &attempt.held {
            self.plan.prefetch(path);
        }
    }

    fn leave_homeless(&mut self, job: &Arc<str>) {
        if let Some(count) = self.homeless.get_mut(job) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.homeless.remove(job);
            }
        }
    }

    pub(crate) fn attempt_record(&self, attempt: &Attempt) -> AttemptRecord {
        AttemptRecord {
            open: attempt.open(&self.plan),
            worker: self.worker(attempt.worker).name.clone(),
            incarnation: attempt.incarnation,
            seq: attempt.seq,
            disowned: attempt.disowned,
        }
    }

    pub(crate) fn set_stage(&mut self, id: AttemptId, stage: Stage) {
        let Some(at) = self.attempts.find(id) else {
            return;
        };
        let attempt = self.attempts.at_mut(at);
        attempt.stage = stage;
        if let Some(task) = attempt.task() {
            self.show_stage(task, stage);
        }
    }

    fn show_stage(&mut self, task: TaskIx, stage: Stage) {
        let phase = match stage {
            Stage::Assigned | Stage::Running => Phase::Running,
            Stage::Unsure => Phase::Unsure,
        };
        self.set_cell(task, self.plan.cell(task).with_phase(phase));
    }

    /// What a worker may be running, in the order of the ids.
    pub(crate) fn attempts_on(&self, worker: WorkerIx) -> Vec<&Attempt> {
        let of_worker = self.worker(worker).attempts.iter();
        let mut attempts: Vec<_> = of_worker.map(|at| self.attempts.at(at)).collect();
        attempts.sort_unstable_by_key(|attempt| attempt.id);
        attempts
    }

    /// The open attempt of a task.
    pub(crate) fn attempt_of(&self, task: TaskIx) -> Option<&Attempt> {
        Some(self.attempts.at(self.records.get(task)?.open?))
    }
}
