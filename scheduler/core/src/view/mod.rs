//! What people see: rows of jobs, nodes, tasks and workers, and the grid. Reads only.

mod grid;
mod homeless;
mod lists;
mod stats;
pub(crate) mod tasks;

use bistro_common::protocol::api::{Counts, TaskState, WorkerHealth};

use crate::Core;
use crate::forest::NodeIx;
use crate::tasks::JobIx;

impl Core {
    /// Of all tasks, and of attempts that have lost theirs.
    pub fn counts(&self) -> Counts {
        let mut counts = [0; TaskState::ALL.len()];
        for job in (0..self.plan.jobs.len() as u32).map(JobIx) {
            let of_job = self.plan.shown_counts(job);
            counts.iter_mut().zip(of_job).for_each(|(all, count)| *all += count);
        }
        let mut counts: Counts =
            TaskState::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        self.count_homeless(&mut counts);
        counts
    }

    pub fn sizes(&self) -> (u64, u64) {
        (self.plan.jobs.len() as u64, self.plan.forest.node_count() as u64)
    }

    pub fn is_enabled(&self) -> bool {
        self.plan.config.settings.enabled
    }

    pub fn is_planned(&self) -> bool {
        self.planned
    }

    /// All workers that are not gone, and the healthy ones among them.
    pub fn worker_counts(&self) -> (u64, u64) {
        let count = |f: fn(&WorkerHealth) -> bool| {
            self.workers.iter().filter(|w| f(&w.health)).count() as u64
        };
        (count(|h| *h != WorkerHealth::Gone), count(|h| *h == WorkerHealth::Healthy))
    }

    /// Nothing runs or waits, and nothing could start if a worker came.
    pub fn is_finished(&self) -> bool {
        self.planned
            && !self.compiling
            && !self.is_entering()
            && !self.redefined
            && self.newly_defined.is_empty()
            && self.attempts.is_empty()
            && self.backoffs.is_empty()
            && !self.plan.jobs.iter().enumerate().any(|(i, job)| {
                self.plan.config.settings.enabled
                    && job.config.can_run()
                    && self.plan.is_root_open(JobIx(i as u32))
                    && self.plan.has_room(JobIx(i as u32), 0, NodeIx::INSTANCE)
            })
    }

    /// For a finished cell: why tasks are left that are not done.
    pub fn stuck(&self) -> Vec<String> {
        let mut stuck = Vec::new();
        if !self.plan.config.settings.enabled {
            stuck.push("the settings say \"enabled\": false".to_owned());
        }
        for (i, job) in self.plan.jobs.iter().enumerate() {
            let ix = JobIx(i as u32);
            let left = |state: TaskState| self.plan.count(ix, state) > 0;
            if !(left(TaskState::CanRun) || left(TaskState::Blocked)) {
                continue;
            }
            let example = self
                .plan
                .cells(ix)
                .find(|(_, cell)| matches!(cell.state(), TaskState::CanRun | TaskState::Blocked));
            let Some((node, _)) = example else { continue };
            let name = &job.config.name;
            if let Ok(explanation) = self.explain(name, self.plan.forest.name(node)) {
                let reasons: Vec<_> = explanation.reasons.into_iter().map(|r| r.text).collect();
                let node = self.plan.forest.name(node);
                stuck.push(format!("{name} on {node}: {}", reasons.join("; ")));
            }
        }
        stuck
    }
}
