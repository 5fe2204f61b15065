//! What is finished, as a plan that is being compiled finds it: cells are set by what the rows say, before
//! anything that follows from cells is made. That is most of what is known, and takes no time of the loop.

use rustc_hash::FxHashMap;
use std::sync::Arc;

use bistro_common::config::LevelIx;

use crate::forest::{Forest, NodeIx};
use crate::plan::Plan;
use crate::rows::{NOWHERE, Places, Rows};
use crate::task_row;
use crate::tasks::{Gate, JobIx, TaskCell, TaskIx, TaskRecord};

/// A job with so many times fewer rows than another does not go by what that one has found.
const FEWER: usize = 4;

/// Rows, and the nodes that they are of.
struct Found {
    rows: Arc<Rows>,
    nodes: Vec<u32>,
}

impl Found {
    /// Nodes are found by the hashes of their names, which lie anywhere; most jobs have rows of the
    /// same nodes, and go along with one that has found them.
    fn new(forest: &Forest, level: LevelIx, rows: Arc<Rows>, like: Option<&Self>) -> Self {
        let like = like.filter(|like| rows.len() * FEWER >= like.rows.len());
        let mut known = like.into_iter().flat_map(|like| like.rows.iter().zip(&like.nodes));
        let mut next = known.next();
        let find = |name: &str| {
            while let Some(((known_name, _), node)) = next
                && known_name <= name
            {
                next = known.next();
                if known_name == name {
                    return *node;
                }
            }
            forest.find(level, name).map_or(NOWHERE, |node| node.0)
        };
        let nodes = rows.iter().map(|(name, _)| name).map(find).collect();
        Self { rows, nodes }
    }
}

impl Plan {
    /// Enters what is finished of some jobs.
    pub(crate) fn lay(&mut self, finished: Vec<(JobIx, Arc<Rows>)>) {
        if finished.is_empty() {
            return;
        }
        let mut largest: FxHashMap<LevelIx, Found> = FxHashMap::default();
        for (job, rows) in finished {
            let level = self.jobs[job.index()].level();
            let found = Found::new(&self.forest, level, rows, largest.get(&level));
            self.lay_job(job, &found);
            let nodes = self.forest.level(level);
            self.places.insert(job, Places::new(found.rows.clone(), &found.nodes, nodes));
            if largest.get(&level).is_none_or(|of| of.rows.len() < found.rows.len()) {
                largest.insert(level, found);
            }
        }
        for job in (0..self.jobs.len()).map(|job| JobIx(job as u32)) {
            let mut dependencies = self.jobs[job.index()].depends_on().iter().flatten();
            if dependencies.any(|dependency| self.places.contains_key(dependency)) {
                self.lay_gates(job);
            }
            self.count_left(job);
        }
    }

    fn lay_job(&mut self, job: JobIx, found: &Found) {
        for ((_, row), &node) in found.rows.iter().zip(&found.nodes) {
            if node != NOWHERE
                && let Some(phase) = task_row::phase(row)
            {
                let task = TaskIx { job, node: NodeIx(node) };
                let cell = self.cell(task).with_phase(phase);
                self.tasks.set_cell(&self.forest, task, cell);
            }
        }
    }

    fn lay_gates(&mut self, job: JobIx) {
        for node in self.tasks.nodes(job, self.jobs[job.index()].level()) {
            let task = TaskIx { job, node };
            let cell = self.gated(task);
            self.tasks.set_cell(&self.forest, task, cell);
        }
    }

    /// A task's cell, shut or not by what it depends on.
    pub(crate) fn gated(&self, task: TaskIx) -> TaskCell {
        let cell = self.cell(task);
        // What else shuts it does so for as long as there is this plan.
        if cell.has(Gate::Avoided) || cell.has(Gate::Disabled) {
            return cell;
        }
        cell.with_gate(Gate::Blocked, self.missing_dependency(task).is_some())
    }

    /// What the rows say of a task, if it has one; a record of it would know better.
    pub(crate) fn finished(&self, task: TaskIx) -> Option<TaskRecord> {
        self.places.get(&task.job)?.record(task.node)
    }
}
