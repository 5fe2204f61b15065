//! Open attempts: what may be running, where, and what it holds.

use std::sync::Arc;

use bistro_common::ids::{AttemptId, Incarnation, Seq};
use bistro_common::protocol::task::{OpenAttempt, Slots};

use crate::Core;
use crate::forest::NodeIx;
use crate::record::AttemptRecord;
use crate::resources::{Amounts, Limit, Sign};
use crate::tasks::{Phase, TaskIx};
use crate::workers::WorkerIx;

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

#[derive(Debug)]
pub struct Attempt {
    pub open: Arc<OpenAttempt>,
    pub worker: WorkerIx,
    pub incarnation: Incarnation,
    pub seq: Seq,
    pub stage: Stage,
    /// It was asked to end for room: what it reports is no failure, whatever has changed since.
    pub preempted: bool,
    /// The task in the present plan, if its job and node are in it.
    pub task: Option<TaskIx>,
    /// What it holds on nodes of the present plan.
    pub charges: Box<[Charge]>,
    pub worker_charges: Amounts,
}

/// Slots held at one node.
#[derive(Debug)]
pub struct Charge {
    pub level: u32,
    pub node: NodeIx,
    pub amounts: Amounts,
}

impl Attempt {
    pub fn record(&self, core: &Core) -> AttemptRecord {
        AttemptRecord {
            open: self.open.clone(),
            worker: core.worker(self.worker).name.clone(),
            incarnation: self.incarnation,
            seq: self.seq,
        }
    }
}

/// Slots by the numbers of their resources; resources that no longer exist hold nothing.
fn numbered(limits: &[Limit], slots: &Slots) -> Amounts {
    let number = |name: &str| limits.iter().position(|limit| limit.name == name);
    slots.iter().filter_map(|(name, &amount)| Some((number(name)?, amount))).collect()
}

impl Core {
    /// Enters an attempt: its slots are taken and its task is running, or unsure. Whoever knows
    /// its task says so, since a search by name is what costs most.
    pub(crate) fn open_attempt(
        &mut self,
        open: Arc<OpenAttempt>,
        worker: WorkerIx,
        incarnation: Incarnation,
        seq: Seq,
        stage: Stage,
        on: Option<(TaskIx, &[NodeIx])>,
    ) {
        let id = open.attempt;
        let attempt = Attempt {
            open,
            worker,
            incarnation,
            seq,
            stage,
            preempted: false,
            task: None,
            charges: Box::default(),
            worker_charges: Amounts::default(),
        };
        let of_worker = &mut self.workers[worker.index()];
        of_worker.attempts.insert(id);
        of_worker.digest.add(id);
        of_worker.last_seq = of_worker.last_seq.max(seq);
        self.attempts.insert(id, attempt);
        match on {
            Some((task, path)) => {
                let class = self.jobs[task.job.index()].worker_class;
                let of_worker = self.rooms.classes.classes[class.index()].amounts.clone();
                self.attach_at(id, Some(task), self.charges_on(task, path), of_worker);
            }
            None => self.attach(id),
        }
    }

    /// What a task of the present plan takes on a path to it.
    fn charges_on(&self, task: TaskIx, path: &[NodeIx]) -> Box<[Charge]> {
        let classes = &self.jobs[task.job.index()].classes;
        let down = path.iter().zip(classes).zip(0u32..);
        let charges = down.filter_map(|((&node, class), level)| {
            let amounts = &self.classes[level as usize].classes[class.index()].amounts;
            let charge = || Charge { level, node, amounts: amounts.clone() };
            (!amounts.is_empty()).then(charge)
        });
        charges.collect()
    }

    /// Connects an attempt to the present plan: finds its task and takes its slots.
    pub(crate) fn attach(&mut self, id: AttemptId) {
        let attempt = &self.attempts[&id];
        let task = self.find_task(&attempt.open.task.job, &attempt.open.task.node);
        let mut charges = Vec::new();
        for (level, on_path) in attempt.open.path.iter().enumerate() {
            let amounts = numbered(self.resources.limits(level), &on_path.slots);
            if let Some(node) = self.forest.find(level, &on_path.node)
                && !amounts.is_empty()
                && level < self.config.settings.worker_level()
            {
                charges.push(Charge { level: level as u32, node, amounts });
            }
        }
        let of_worker = numbered(self.resources.worker_limits(), &attempt.open.worker_slots);
        self.attach_at(id, task, charges.into(), of_worker);
    }

    fn attach_at(
        &mut self,
        id: AttemptId,
        task: Option<TaskIx>,
        charges: Box<[Charge]>,
        worker_charges: Amounts,
    ) {
        let attempt = &self.attempts[&id];
        let (stage, worker) = (attempt.stage, attempt.worker);
        let attempt_no = attempt.open.attempt_no;
        for charge in &charges {
            self.change_slots(charge.level as usize, charge.node, &charge.amounts, Sign::Take);
        }
        self.change_worker_slots(worker, &worker_charges, Sign::Take);
        let attempt = self.attempts.get_mut(&id).expect("was just looked at");
        attempt.task = task;
        attempt.charges = charges;
        attempt.worker_charges = worker_charges;
        if let Some(task) = task {
            self.open_by_task.insert(task, id);
            let record = self.records.entry(task).or_default();
            record.attempt_no = record.attempt_no.max(attempt_no);
            // The stored record is of the attempt before: its wait and its guess are over.
            record.lost = None;
            if record.phase == Phase::Backoff {
                self.backoffs.remove(&(record.backoff_until_ms, task));
            }
            record.phase = Phase::Ready;
            self.show_stage(task, stage);
        }
    }

    /// Forgets an attempt and gives its slots back. The caller sets the task's new phase.
    pub(crate) fn close_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        for charge in &attempt.charges {
            self.change_slots(charge.level as usize, charge.node, &charge.amounts, Sign::Give);
        }
        self.change_worker_slots(attempt.worker, &attempt.worker_charges, Sign::Give);
        let worker = &mut self.workers[attempt.worker.index()];
        worker.attempts.remove(&id);
        worker.digest.remove(id);
        if let Some(task) = attempt.task {
            self.open_by_task.remove(&task);
        }
        Some(attempt)
    }

    pub(crate) fn set_stage(&mut self, id: AttemptId, stage: Stage) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.stage = stage;
        if let Some(task) = attempt.task {
            self.show_stage(task, stage);
        }
    }

    fn show_stage(&mut self, task: TaskIx, stage: Stage) {
        let phase = match stage {
            Stage::Assigned | Stage::Running => Phase::Running,
            Stage::Unsure => Phase::Unsure,
        };
        self.set_cell(task, self.cell(task).with_phase(phase));
    }
}
