//! What people see: rows of jobs, nodes, tasks and workers, and the grid. Reads only.

use std::collections::BTreeMap;

use bistro_common::protocol::VERSION;
use bistro_common::protocol::api::{
    Counts, Grid, GridJob, GridRequest, JobRow, Listing, NodeRow, NodesRequest, Page, RunningRow,
    SlotUse, TaskRow, TaskState, TasksRequest, WorkerHealth, WorkerRow,
};
use bistro_common::protocol::heartbeat::ClosedReason;
use bistro_common::protocol::view::{CellChange, GridDelta};

use crate::Core;
use crate::forest::NodeIx;
use crate::tasks::{JobIx, TaskIx, TaskRecord};

/// More changes than this between two looks are a new snapshot rather than a delta.
const CHANGES_MAX: usize = 10_000;

impl Core {
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for job in 0..self.plan.jobs.len() {
            for (state, count) in self.plan.counts(JobIx(job as u32)) {
                *counts.entry(state).or_default() += count;
            }
        }
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

    pub fn job_rows(&self, page: &Page) -> Listing<JobRow> {
        let row = |ix: JobIx, job: &crate::jobs::JobState| JobRow {
            job: job.config.name.to_string(),
            enabled: job.config.enabled,
            owner: job.config.owner.clone(),
            level: self.plan.config.settings.levels[job.level()].clone(),
            priority: job.config.priority,
            depends_on: job.config.depends_on.clone(),
            counts: self.plan.counts(ix),
            origin: self.origin(&job.config.name),
            overrides: self.overrides(&job.config.name),
            errors: job.config.errors.iter().map(|e| e.message.clone()).collect(),
        };
        let range = page.range(self.plan.jobs.len());
        let items = range.map(|i| row(JobIx(i as u32), &self.plan.jobs[i])).collect();
        Listing { total: self.plan.jobs.len() as u64, items }
    }

    pub fn node_rows(&self, request: &NodesRequest) -> Listing<NodeRow> {
        let names = self.plan.forest.level_names();
        let wanted = |node: &NodeIx| {
            let level = &names[self.plan.forest.level_of(*node)];
            request.level.as_ref().is_none_or(|wanted| wanted == level)
                && request
                    .contains
                    .as_ref()
                    .is_none_or(|c| self.plan.forest.name(*node).contains(c))
        };
        let all = (0..self.plan.forest.node_count() as u32).map(NodeIx);
        let row = |node: NodeIx| {
            let level = self.plan.forest.level_of(node);
            let slots = self.plan.resources.node_slots(level, node);
            NodeRow {
                node: self.plan.forest.name(node).to_owned(),
                level: names[level].clone(),
                parent: self.plan.forest.parent(node).map(|p| self.plan.forest.name(p).to_owned()),
                more_parents: self
                    .plan
                    .forest
                    .more_parents(node)
                    .iter()
                    .map(|&parent| self.plan.forest.name(parent).to_owned())
                    .collect(),
                enabled: self.plan.forest.is_enabled(node),
                slots: slots.map(|(name, slots)| (name.to_owned(), slots)).collect(),
            }
        };
        page_of(all.filter(wanted), &request.page, row)
    }

    pub fn task_rows(&self, request: &TasksRequest) -> Listing<TaskRow> {
        let jobs = (0..self.plan.jobs.len() as u32).map(JobIx).filter(|job| {
            let name = &self.plan.jobs[job.index()].config.name;
            request.job.as_ref().is_none_or(|wanted| **wanted == **name)
        });
        let tasks = jobs.flat_map(|job| {
            let state = &self.plan.jobs[job.index()];
            self.plan.cells(job).filter_map(move |(node, cell)| {
                let shown = state.state_of(cell);
                let wanted = request.states.is_empty() || request.states.contains(&shown);
                wanted.then_some(TaskIx { job, node })
            })
        });
        let wanted = |task: &TaskIx| {
            let name = self.plan.forest.name(task.node);
            request.node.as_ref().is_none_or(|wanted| wanted == name)
                && request.contains.as_ref().is_none_or(|text| name.contains(text))
                && request.worker.as_ref().is_none_or(|worker| {
                    self.attempt_of(*task)
                        .is_some_and(|a| self.worker(a.worker).name.as_str() == worker)
                })
        };
        page_of(tasks.filter(wanted), &request.page, |task| self.task_row(task))
    }

    pub(crate) fn task_row(&self, task: TaskIx) -> TaskRow {
        let job = &self.plan.jobs[task.job.index()];
        let state = job.state_of(self.plan.cell(task));
        let record = self.record(task);
        let attempt = self.attempt_of(task);
        TaskRow {
            job: job.config.name.to_string(),
            node: self.plan.forest.name(task.node).to_owned(),
            state,
            attempt_no: record.map_or(0, |r| r.attempt_no),
            running: attempt.map(|attempt| RunningRow {
                attempt: attempt.id,
                worker: self.worker(attempt.worker).name.to_string(),
                started_ms: attempt.started_ms,
            }),
            last: record.and_then(|r| r.status.clone()),
            ended_ms: record.filter(|r| r.status.is_some()).map(|r| r.status_ms),
            ran_ms: record.filter(|r| r.status.is_some()).map(|r| r.ran_ms),
            usage: record.and_then(|r| r.usage),
            backoff_until_ms: record
                .filter(|_| state == TaskState::Backoff)
                .map(TaskRecord::backoff_until_ms),
        }
    }

    /// What is kept of a task of the present plan.
    pub fn task_record(&self, job: &str, node: &str) -> Option<TaskRecord> {
        self.record(self.plan.find_task(job, node)?).cloned()
    }

    pub fn worker_rows(&self, page: &Page) -> Listing<WorkerRow> {
        let limits = self.plan.resources.worker_limits();
        page_of(self.workers.iter(), page, |worker| WorkerRow {
            worker: worker.name.to_string(),
            host: worker.host.clone(),
            health: worker.health,
            closed: worker.closed.or(worker.drained.then_some(ClosedReason::Draining)),
            running: worker.attempts.len() as u64,
            last_heartbeat_ms: worker.answered,
            build: worker.build.clone(),
            capacity: worker.capacity.clone(),
            slots: limits
                .iter()
                .zip(worker.slots.iter().zip(&worker.used))
                .map(|(limit, (&limit_here, &used))| {
                    (limit.name.clone(), SlotUse { used, limit: limit_here })
                })
                .collect(),
        })
    }

    /// A snapshot of all cells; `seq` is the last delta that it contains.
    pub fn grid(&self, request: &GridRequest, seq: u64) -> Grid {
        let known = request.layout == self.layout;
        if known && request.in_sync {
            return Grid { layout: self.layout, seq, levels: None, jobs: Vec::new() };
        }
        let mut levels = BTreeMap::new();
        let job = |(ix, job): (usize, &crate::jobs::JobState)| GridJob {
            job: job.config.name.to_string(),
            level: self.plan.config.settings.levels[job.level()].clone(),
            cells: GridJob::pack(
                self.plan.cells(JobIx(ix as u32)).map(|(_, cell)| job.state_of(cell)),
            ),
        };
        for job in &self.plan.jobs {
            let name = &self.plan.config.settings.levels[job.level()];
            levels.entry(name.clone()).or_insert_with(|| {
                let nodes = self.plan.forest.level(job.level()).map(|n| NodeIx(n as u32));
                nodes.map(|node| self.plan.forest.name(node).to_owned()).collect()
            });
        }
        let jobs = self.plan.jobs.iter().enumerate().map(job).collect();
        Grid { layout: self.layout, seq, levels: (!known).then_some(levels), jobs }
    }

    /// Notes changes from now on, or no more.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
        self.relaid = false;
        if !watched {
            self.changed = Vec::new();
        }
    }

    pub fn has_changes(&self) -> bool {
        self.relaid || !self.changed.is_empty()
    }

    /// What has changed since the last call, as the delta `seq`. Too much to list is a delta
    /// without changes and with a gap in `seq`, which makes watchers take a snapshot.
    pub fn take_changes(&mut self, seq: u64) -> Option<GridDelta> {
        if !self.has_changes() {
            return None;
        }
        self.relaid = false;
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let too_many = changed.len() > CHANGES_MAX;
        let change = |task: TaskIx| {
            let job = &self.plan.jobs[task.job.index()];
            CellChange {
                job: task.job.0,
                node: (task.node.index() - self.plan.forest.level(job.level()).start) as u32,
                state: job.state_of(self.plan.cell(task)),
            }
        };
        let changes = if too_many { Vec::new() } else { changed.into_iter().map(change).collect() };
        let seq = if too_many { seq + 1 } else { seq };
        Some(GridDelta { v: VERSION, layout: self.layout, seq, changes })
    }
}

fn page_of<T, R>(all: impl Iterator<Item = T>, page: &Page, row: impl Fn(T) -> R) -> Listing<R> {
    let range = page.range(usize::MAX);
    let (mut total, mut items) = (0, Vec::new());
    for item in all {
        if range.contains(&total) {
            items.push(row(item));
        }
        total += 1;
    }
    Listing { total: total as u64, items }
}
