//! What must hold after every step. Walks everything: for tests and simulation.

use rustc_hash::FxHashMap;
use std::borrow::Cow;

use crate::Core;
use crate::forest::NodeIx;
use crate::gates;
use crate::resources::fits;
use crate::task_row;
use crate::tasks::{Gate, JobIx, Phase, TaskCell, TaskIx};
use bistro_common::config::Placement;
use bistro_common::protocol::api::TaskState;

impl Core {
    /// Panics with a description of the first thing that is wrong.
    pub fn check_invariants(&self) {
        if self.is_entering() {
            return;
        }
        self.check_slots();
        self.check_tasks();
        self.check_rows();
        for job in 0..self.plan.jobs.len() {
            self.check_frontier(JobIx(job as u32));
        }
    }

    /// Slots in use are exactly what open attempts hold (G5 follows: nothing starts without room).
    fn check_slots(&self) {
        let plan = &self.plan;
        let mut used: FxHashMap<(usize, NodeIx), FxHashMap<String, i64>> = FxHashMap::default();
        for attempt in self.attempts.iter() {
            for (level, on_path) in attempt.open(plan).path.iter().enumerate() {
                let Some(node) = plan.forest.find(level, &on_path.node) else { continue };
                for (name, amount) in on_path.slots.iter() {
                    *used.entry((level, node)).or_default().entry(name.clone()).or_default() +=
                        amount;
                }
            }
        }
        for index in 0..plan.forest.node_count() {
            let node = NodeIx(index as u32);
            let level = plan.forest.level_of(node);
            for (name, slots) in plan.resources.node_slots(level, node) {
                let held = used.get(&(level, node)).and_then(|u| u.get(name)).copied();
                assert_eq!(slots.used, held.unwrap_or(0), "{name} on {}", plan.forest.name(node));
            }
        }
    }

    fn check_tasks(&self) {
        let mut on_workers = vec![0; self.workers.len()];
        let mut homeless: FxHashMap<std::sync::Arc<str>, u32> = FxHashMap::default();
        for attempt in self.attempts.iter() {
            on_workers[attempt.worker.index()] += 1;
            let at = self.worker(attempt.worker).attempts.at(attempt.place);
            assert_eq!(at, self.attempts.find(attempt.id), "{} has its place", attempt.id);
            match attempt.task() {
                Some(task) => assert_eq!(self.attempt_of(task).map(|a| a.id), Some(attempt.id)),
                None => *homeless.entry(attempt.name(&self.plan).job).or_default() += 1,
            }
        }
        assert_eq!(self.homeless, homeless);
        for (worker, count) in self.workers.iter().zip(on_workers) {
            assert_eq!(worker.attempts.len(), count, "attempts on {}", worker.name);
        }
        self.check_worker_slots();
        for (task, known) in self.records.iter() {
            let Some(at) = known.open else { continue };
            let attempt = self.attempts.at(at);
            assert_eq!(attempt.task(), Some(task), "attempt {} belongs to its task", attempt.id);
            let phase = self.plan.cell(task).phase();
            assert!(matches!(phase, Phase::Running | Phase::Unsure), "{phase:?} with an attempt");
        }
        for job in (0..self.plan.jobs.len()).map(|job| JobIx(job as u32)) {
            let mut counts = FxHashMap::default();
            for (node, cell) in self.plan.cells(job) {
                let task = TaskIx { job, node };
                let open = matches!(cell.phase(), Phase::Running | Phase::Unsure);
                assert_eq!(open, self.attempt_of(task).is_some(), "open attempt of {task:?}");
                *counts.entry(cell.state() as usize).or_insert(0) += 1;
                self.check_gates(task, cell);
            }
            for state in TaskState::ALL {
                let counted = counts.get(&(state as usize)).copied().unwrap_or(0);
                assert_eq!(self.plan.count(job, state), counted, "{job:?}, {state:?}");
            }
        }
    }

    /// What is finished has its place in the plan and its phase in the cell, unless a record hides it.
    fn check_rows(&self) {
        for (job, rows) in &self.finished {
            for (node, row) in rows.iter() {
                let Some(task) = self.plan.find_task(job, node) else { continue };
                if self.records.find(task).is_some() {
                    continue;
                }
                assert_eq!(self.record(task).map(Cow::into_owned), task_row::decode(row), "{node}");
                assert_eq!(Some(self.plan.cell(task).phase()), task_row::phase(row), "{node}");
            }
        }
    }

    /// What workers have in use is what their attempts hold.
    fn check_worker_slots(&self) {
        let resources = self.plan.resources.worker_limits().len();
        let mut used = vec![vec![0; resources]; self.workers.len()];
        for attempt in self.attempts.iter() {
            for &(resource, amount) in attempt.worker_charges(&self.plan).iter() {
                used[attempt.worker.index()][resource] += amount;
            }
        }
        for (worker, used) in self.workers.iter().zip(used) {
            assert_eq!(worker.used, used, "slots in use on {}", worker.name);
        }
    }

    /// A task is shut by what the config says of its node, by dependencies, and by nothing else.
    fn check_gates(&self, task: TaskIx, cell: TaskCell) {
        let job = &self.plan.jobs[task.job.index()].config;
        let gate = gates::gate(job, &self.plan.forest, job.level, task.node);
        assert_eq!(cell.has(Gate::Avoided), gate == Some(Gate::Avoided), "{task:?}");
        assert_eq!(cell.has(Gate::Disabled), gate == Some(Gate::Disabled), "{task:?}");
        if gate.is_none() {
            let blocked = self.plan.missing_dependency(task).is_some();
            assert_eq!(cell.has(Gate::Blocked), blocked, "{task:?}");
        }
    }

    /// Every bit is what its definition says.
    fn check_frontier(&self, job: JobIx) {
        let plan = &self.plan;
        let state = &plan.jobs[job.index()];
        for level in (0..=state.level()).rev() {
            let class = &plan.classes[level].classes[state.classes[level].index()];
            for node in plan.forest.level(level).map(|node| NodeIx(node as u32)) {
                let limits = plan.resources.limits(level);
                let room = fits(limits, plan.resources.used(level, node), &class.demand);
                let is_open = |child: NodeIx| plan.tasks.is_open(job, level + 1, child);
                let below = if level == state.level() {
                    plan.cell(TaskIx { job, node }).can_run()
                } else {
                    plan.forest.children(node).any(|child| is_open(NodeIx(child as u32)))
                        || plan.forest.more_children(node).iter().any(|&child| is_open(child))
                };
                let placeable = match &state.config.placement {
                    Placement::HostAtLevel(placed) if *placed == level => {
                        self.host_has_room(job, plan.forest.name(node))
                    }
                    _ => true,
                };
                let filter = state.config.filters.get(&level).filter(|_| level < state.level());
                let barred = plan.forest.has_more_parents()
                    && level < state.level()
                    && (!plan.forest.is_enabled(node)
                        || filter.is_some_and(|filter| {
                            let (name, tags) = (plan.forest.name(node), plan.forest.tags(node));
                            !filter.passes(name, tags, &state.config.name)
                        }));
                let open = (level == 0 || room) && placeable && below && !barred;
                assert_eq!(plan.tasks.is_open(job, level, node), open, "{job:?} at {node:?}");
            }
        }
        let startable = plan.config.settings.enabled
            && state.can_run()
            && plan.is_root_open(job)
            && plan.has_room(job, 0, NodeIx::INSTANCE)
            && plan.rooms.any(state.worker_class)
            && state.config.after_all.iter().all(|name| {
                plan.job(name).is_some_and(|job| {
                    let of_job = &plan.jobs[job.index()];
                    let over = |cell: TaskCell| {
                        matches!(of_job.state_of(cell), TaskState::Done | TaskState::Avoided)
                    };
                    of_job.config.can_run() && plan.cells(job).all(|(_, cell)| over(cell))
                })
            });
        if plan.policy.counts_what_is_left() {
            let left = plan.count(job, TaskState::CanRun);
            assert_eq!(plan.policy.left(job), left, "{job:?}");
        }
        assert_eq!(plan.is_startable(job), startable, "{job:?} is startable");
    }
}
