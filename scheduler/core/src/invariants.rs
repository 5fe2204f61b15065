//! What must hold after every step. Walks everything: for tests and simulation.

use rustc_hash::FxHashMap;

use crate::Core;
use crate::forest::NodeIx;
use crate::resources::fits;
use crate::tasks::{JobIx, Phase, TaskCell, TaskIx};
use bistro_common::config::Placement;
use bistro_common::protocol::api::TaskState;

impl Core {
    /// Panics with a description of the first thing that is wrong.
    pub fn check_invariants(&self) {
        self.check_slots();
        self.check_tasks();
        for job in 0..self.jobs.len() {
            self.check_frontier(JobIx(job as u32));
        }
    }

    /// Slots in use are exactly what open attempts hold (G5 follows: nothing starts without room).
    fn check_slots(&self) {
        let mut used: FxHashMap<(usize, NodeIx), FxHashMap<String, i64>> = FxHashMap::default();
        for attempt in self.attempts.values() {
            for (level, on_path) in attempt.open.path.iter().enumerate() {
                let Some(node) = self.forest.find(level, &on_path.node) else { continue };
                for (name, amount) in on_path.slots.iter() {
                    *used.entry((level, node)).or_default().entry(name.clone()).or_default() +=
                        amount;
                }
            }
        }
        for index in 0..self.forest.node_count() {
            let node = NodeIx(index as u32);
            let level = self.forest.level_of(node);
            for (name, slots) in self.resources.node_slots(level, node) {
                let held = used.get(&(level, node)).and_then(|u| u.get(name)).copied();
                assert_eq!(slots.used, held.unwrap_or(0), "{name} on {}", self.forest.name(node));
            }
        }
    }

    fn check_tasks(&self) {
        for (&task, id) in &self.open_by_task {
            let attempt = &self.attempts[id];
            assert_eq!(attempt.task, Some(task), "attempt {id} belongs to its task");
            let phase = self.cell(task).phase();
            assert!(matches!(phase, Phase::Running | Phase::Unsure), "{phase:?} with an attempt");
        }
        for (i, job) in self.jobs.iter().enumerate() {
            for (node, cell) in job.cells() {
                let task = TaskIx { job: JobIx(i as u32), node };
                let open = matches!(cell.phase(), Phase::Running | Phase::Unsure);
                assert_eq!(open, self.open_by_task.contains_key(&task), "open attempt of {task:?}");
            }
        }
    }

    /// Every bit is what its definition says.
    fn check_frontier(&self, job: JobIx) {
        let state = &self.jobs[job.index()];
        for level in (0..=state.level()).rev() {
            let class = &self.classes[level].classes[state.classes[level].index()];
            for index in self.forest.level(level) {
                let node = NodeIx(index as u32);
                let limits = self.resources.limits(level);
                let room = fits(limits, self.resources.used(node), &class.demand);
                let below = if level == state.level() {
                    state.cell(node).can_run()
                } else {
                    self.forest.children(node).any(|child| state.open.get(child))
                        || self.forest.more_children(node).iter().any(|c| state.open.get(c.index()))
                };
                let placeable = match &state.config.placement {
                    Placement::HostAtLevel(placed) if *placed == level => {
                        self.host_has_room(job, self.forest.name(node))
                    }
                    _ => true,
                };
                let filter = state.config.filters.get(&level).filter(|_| level < state.level());
                let barred = self.forest.has_more_parents()
                    && level < state.level()
                    && (!self.forest.is_enabled(node)
                        || filter.is_some_and(|filter| {
                            let (name, tags) = (self.forest.name(node), self.forest.tags(node));
                            !filter.passes(name, tags, &state.config.name)
                        }));
                let open = (level == 0 || room) && placeable && below && !barred;
                assert_eq!(state.open.get(index), open, "{job:?} at {node:?}");
            }
        }
        let startable = self.config.settings.enabled
            && state.config.can_run()
            && state.open.get(0)
            && self.has_room(job, 0, NodeIx::INSTANCE)
            && self.rooms.any(state.worker_class)
            && state.config.after_all.iter().all(|name| {
                let job = self.job_names.get(name.as_str()).map(|job| &self.jobs[job.index()]);
                job.is_some_and(|job| {
                    let over = |cell: TaskCell| {
                        matches!(job.state_of(cell), TaskState::Done | TaskState::Avoided)
                    };
                    job.config.can_run() && job.cells().all(|(_, cell)| over(cell))
                })
            });
        assert_eq!(self.policy.is_startable(job), startable, "{job:?} is startable");
    }
}
