//! Why is a task not running? Evidence from the predicates that schedule, not from a second copy
//! of the rules.

use bistro_common::config::Placement;
use bistro_common::protocol::api::{
    ApiError, Explanation, Holder, Reason, ReasonKind, WorkerHealth,
};
use bistro_common::protocol::task::{PathNode, Slots};

use crate::Core;
use crate::attempts::Attempt;
use crate::forest::NodeIx;
use crate::tasks::{Gate, JobIx, Phase, TaskIx};

/// At most so many holders are named for each thing that is missing.
const HOLDERS_MAX: usize = 10;

impl Core {
    pub fn explain(&self, job: &str, node: &str) -> Result<Explanation, ApiError> {
        let Some(task) = self.plan.find_task(job, node) else {
            return self.explain_homeless(job, node).ok_or_else(|| match self.plan.job(job) {
                Some(_) => self.no_such_node(job, node),
                None => self.no_such_job(job),
            });
        };
        let mut path: Vec<String> = self
            .plan
            .forest
            .path_up(task.node)
            .map(|n| self.plan.forest.name(n).to_owned())
            .collect();
        path.reverse();
        let (row, reasons) = (self.task_row(task), self.reasons(task));
        let holds = self.attempt_of(task).map(|attempt| self.holds(attempt)).unwrap_or_default();
        Ok(Explanation { task: row, path, holds, reasons })
    }

    /// What an open attempt holds, of nodes and of its worker.
    pub(crate) fn holds(&self, attempt: &Attempt) -> Vec<PathNode> {
        let open = attempt.open(&self.plan);
        let node = self.worker(attempt.worker).name.shared();
        let of_worker = PathNode { node, slots: open.worker_slots.clone() };
        let all = open.path.iter().cloned().chain([of_worker]);
        all.filter(|held| held.slots.values().any(|slots| *slots > 0)).collect()
    }

    fn reasons(&self, task: TaskIx) -> Vec<Reason> {
        let cell = self.plan.cell(task);
        let over = match cell.phase() {
            Phase::Running => Some((ReasonKind::Running, "it is running".to_owned())),
            Phase::Unsure => Some((
                ReasonKind::Unsure,
                "it may be running: its worker has not answered yet".to_owned(),
            )),
            Phase::Done => Some((ReasonKind::Done, "it is done".to_owned())),
            _ => None,
        };
        if let Some((kind, text)) = over {
            return vec![reason(kind, text)];
        }
        let mut reasons = self.standing_reasons(task);
        reasons.extend(self.missing_room(task));
        reasons.extend(self.missing_worker(task));
        if reasons.is_empty() {
            let text = "nothing keeps it: it starts when its turn comes";
            reasons.push(reason(ReasonKind::ItsTurn, text));
        }
        reasons
    }

    /// What room and workers would not change.
    fn standing_reasons(&self, task: TaskIx) -> Vec<Reason> {
        let job = &self.plan.jobs[task.job.index()];
        let cell = self.plan.cell(task);
        let record = self.record(task);
        let mut reasons = Vec::new();
        if !self.plan.config.settings.enabled {
            let text = "the settings say \"enabled\": false";
            reasons.push(reason(ReasonKind::CellDisabled, text));
        }
        if !job.config.enabled {
            reasons.push(reason(ReasonKind::JobDisabled, "the job is disabled"));
        }
        for error in &job.config.errors {
            let text = format!("the job has an error: {}", error.message);
            reasons.push(reason(ReasonKind::JobInvalid, text));
        }
        if cell.has(Gate::Disabled) {
            let mut above = self.plan.forest.upwards(task.node).into_iter();
            let disabled = above.find(|&n| !self.plan.forest.is_enabled(n));
            let name = disabled.map_or("?", |n| self.plan.forest.name(n));
            reasons.push(reason(ReasonKind::NodeDisabled, format!("the node {name} is disabled")));
        }
        if cell.has(Gate::Avoided) {
            reasons.push(reason(ReasonKind::Filtered, "a filter of the job excludes the node"));
        }
        if let Some(at) = self.plan.missing_dependency(task) {
            let text = format!("{} is not done on this node", job.config.depends_on[at]);
            reasons.push(reason(ReasonKind::Dependency, text));
        }
        if let Some(at) = self.plan.awaited(task.job) {
            let text = format!("{} is not done on all nodes", job.config.after_all[at]);
            reasons.push(reason(ReasonKind::Dependency, text));
        }
        match cell.phase() {
            Phase::Failed => reasons.push(reason(
                ReasonKind::Failed,
                "it has failed for good; `bistro forgive` lets it run again",
            )),
            Phase::Backoff => {
                let until = record.map_or(0, |r| r.backoff_until_ms());
                let left = until.saturating_sub(self.now).div_ceil(1_000);
                let text = format!("it waits {left} s more before it is tried again");
                reasons.push(reason(ReasonKind::Backoff, text));
            }
            _ => {}
        }
        reasons
    }

    fn missing_room(&self, task: TaskIx) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.has_way_up(task.job, task.node) {
            return reasons;
        }
        for node in self.plan.forest.upwards(task.node) {
            let level = self.plan.forest.level_of(node);
            if self.plan.has_room(task.job, level, node) {
                continue;
            }
            let demand =
                self.plan.resources.demand(&self.plan.jobs[task.job.index()].config, level);
            for ((name, slots), need) in self.plan.resources.node_slots(level, node).zip(demand) {
                if need > slots.limit - slots.used {
                    reasons.push(Reason {
                        kind: ReasonKind::NoRoomOnNode,
                        text: format!(
                            "needs {need} {name} on {}, which has {} of {} in use",
                            self.plan.forest.name(node),
                            slots.used,
                            slots.limit
                        ),
                        held_by: self.holders(node, name),
                    });
                }
            }
        }
        reasons
    }

    /// Is there room on all nodes of some path from here up?
    fn has_way_up(&self, job: JobIx, node: NodeIx) -> bool {
        let level = self.plan.forest.level_of(node);
        self.plan.has_room(job, level, node)
            && self.plan.is_placeable(job, level, node)
            && !self.plan.is_barred(job, level, node)
            && (level == 0
                || self.plan.forest.parents(node).any(|parent| self.has_way_up(job, parent)))
    }

    fn holders(&self, node: NodeIx, resource: &str) -> Vec<Holder> {
        let level = self.plan.forest.level_of(node);
        let limits = self.plan.resources.limits(level);
        let number = limits.iter().position(|limit| limit.name == resource);
        let mut holders: Vec<Holder> = self
            .attempts
            .iter()
            .filter_map(|attempt| {
                let charge = attempt.charges(&self.plan).find(|charge| charge.node == node)?;
                let amount = |&&(of, amount): &&(usize, i64)| Some(of) == number && amount != 0;
                let held = charge.amounts.iter().find(amount)?.1;
                let task = attempt.name(&self.plan);
                Some(Holder {
                    job: task.job.to_string(),
                    node: task.node.to_string(),
                    slots: Slots::from([(resource.to_owned(), held)]),
                })
            })
            .collect();
        holders.sort_by(|a, b| (&a.job, &a.node).cmp(&(&b.job, &b.node)));
        holders.truncate(HOLDERS_MAX);
        holders
    }

    fn missing_worker(&self, task: TaskIx) -> Option<Reason> {
        let placeable = |node: &NodeIx| {
            self.plan.is_placeable(task.job, self.plan.forest.level_of(*node), *node)
        };
        let unplaceable =
            self.plan.forest.upwards(task.node).into_iter().find(|node| !placeable(node));
        if let Some(node) = unplaceable.filter(|_| !self.has_way_up(task.job, task.node)) {
            let host = self.plan.forest.name(node);
            let text = format!("it must run on the host {host}, where no worker takes it");
            return Some(reason(ReasonKind::NoRoomOnWorkers, text));
        }
        if self.plan.rooms.any(self.plan.jobs[task.job.index()].worker_class) {
            return None;
        }
        if let Placement::Host(host) = &self.plan.jobs[task.job.index()].config.placement {
            let text = format!("it must run on the host {host}, where no worker takes it");
            return Some(reason(ReasonKind::NoRoomOnWorkers, text));
        }
        let healthy = self.workers.iter().filter(|w| w.health == WorkerHealth::Healthy).count();
        Some(match healthy {
            0 => reason(ReasonKind::NoWorker, "no worker is connected and healthy"),
            n => reason(
                ReasonKind::NoRoomOnWorkers,
                format!("none of the {n} healthy workers takes it: full, draining or paused"),
            ),
        })
    }
}

fn reason(kind: ReasonKind, text: impl Into<String>) -> Reason {
    Reason { kind, text: text.into(), held_by: Vec::new() }
}
