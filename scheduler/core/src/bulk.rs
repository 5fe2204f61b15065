//! Actions on many tasks: planned first, then applied to exactly what was planned.
//!
//! A plan names attempts, so that what has ended or started again since is left alone. It is not on
//! disk: a scheduler that dies forgets its plans, and whoever made one makes another.

use std::collections::VecDeque;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    ApiError, ApplyReply, ApplyRequest, BulkAction, Counts, ErrorCode, PlanReply, PlanRequest,
    TaskState,
};
use bistro_common::protocol::event::Event;

use crate::Core;
use crate::io::Effect;
use crate::tasks::TaskIx;
use crate::view::tasks::{Query, in_brief};

/// Plans that are remembered, and for how long.
const PLANS_MAX: usize = 8;
const PLAN_MS: Millis = 600_000;
/// More tasks than this are asked for in parts.
const TASKS_MAX: usize = 200_000;
const SAMPLE: usize = 10;
/// So many at once do not hold the loop up.
const KILLS_PER_REQUEST: usize = 500;
const FORGIVEN_PER_REQUEST: usize = 2_000;

#[derive(Debug, Default)]
pub(crate) struct Bulk {
    plans: VecDeque<BulkPlan>,
    made: u64,
}

#[derive(Debug)]
struct BulkPlan {
    id: String,
    expires: Millis,
    /// What was asked for, for the audit.
    filter: String,
    targets: Targets,
}

/// What is left to do, the next one last.
#[derive(Debug)]
enum Targets {
    Attempts(Vec<AttemptId>),
    /// As they were after so many starts, in this layout.
    Tasks {
        layout: u64,
        tasks: Vec<(TaskIx, u32)>,
    },
}

impl Core {
    pub fn plan_bulk(&mut self, now: Millis, request: &PlanRequest) -> Result<PlanReply, ApiError> {
        let mut query = Query::new(now, &request.tasks)?;
        // Tasks in backoff of a job that is disabled show as disabled.
        query.only(match request.action {
            BulkAction::Kill => &[TaskState::Running, TaskState::Unsure],
            BulkAction::Forgive => &[TaskState::Failed, TaskState::Backoff, TaskState::Disabled],
        });
        let mut tasks = self.tasks_of(&mut query)?;
        match request.action {
            BulkAction::Kill => tasks.retain(|&task| self.attempt_of(task).is_some()),
            BulkAction::Forgive => tasks.retain(|&task| self.can_forgive(task)),
        }
        let homeless = match request.action {
            BulkAction::Kill => self.homeless_that_pass(&query),
            BulkAction::Forgive => Vec::new(),
        };
        if tasks.len() + homeless.len() > TASKS_MAX {
            let message =
                format!("{} tasks are more than a plan may have", tasks.len() + homeless.len());
            return Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint(format!("narrow the filter to {TASKS_MAX} of them")));
        }
        let mut counts = Counts::new();
        for &task in &tasks {
            let job = &self.plan.jobs[task.job.index()];
            *counts.entry(job.state_of(self.plan.cell(task))).or_default() += 1;
        }
        homeless.iter().for_each(|(_, row)| *counts.entry(row.state).or_default() += 1);
        let rows = tasks.iter().map(|&task| in_brief(self.task_row(task)));
        let sample = rows.chain(homeless.iter().map(|(_, row)| row.clone())).take(SAMPLE).collect();
        let total = (tasks.len() + homeless.len()) as u64;
        tasks.reverse();
        let targets = match request.action {
            BulkAction::Kill => {
                let ids = tasks.iter().filter_map(|&task| Some(self.attempt_of(task)?.id));
                Targets::Attempts(homeless.into_iter().map(|(id, _)| id).chain(ids).collect())
            }
            BulkAction::Forgive => {
                let tasks = tasks.into_iter().map(|task| (task, self.attempt_no(task)));
                Targets::Tasks { layout: self.layout, tasks: tasks.collect() }
            }
        };
        self.bulk.made += 1;
        let id = format!("{}-{}", self.identity.epoch.0, self.bulk.made);
        let expires = now + PLAN_MS;
        let filter = query.text();
        self.bulk.plans.push_back(BulkPlan { id: id.clone(), expires, filter, targets });
        if self.bulk.plans.len() > PLANS_MAX {
            self.bulk.plans.pop_front();
        }
        Ok(PlanReply { plan: id, total, counts, sample, expires_ms: expires })
    }

    fn attempt_no(&self, task: TaskIx) -> u32 {
        self.record(task).map_or(0, |record| record.attempt_no)
    }

    /// The next part of a plan.
    pub fn apply_bulk(
        &mut self,
        now: Millis,
        request: &ApplyRequest,
        out: &mut Vec<Effect>,
    ) -> Result<ApplyReply, ApiError> {
        self.begin(now, out)?;
        self.bulk.plans.retain(|plan| plan.expires > now);
        let at = self.bulk.plans.iter().position(|plan| plan.id == request.plan);
        let Some(mut plan) = at.and_then(|at| self.bulk.plans.remove(at)) else {
            let message = format!("the plan {:?} is done, or too old", request.plan);
            return Err(ApiError::new(ErrorCode::Gone, message).hint("make another"));
        };
        let (applied, gone) = match &mut plan.targets {
            Targets::Attempts(attempts) => self.kill_some(attempts, request, out),
            Targets::Tasks { layout, .. } if *layout != self.layout => {
                let message = "the config or the nodes have changed since this was planned";
                return Err(ApiError::new(ErrorCode::Gone, message).hint("plan it again"));
            }
            Targets::Tasks { tasks, .. } => self.forgive_some(tasks, request, &plan.filter, out),
        };
        let left = match &plan.targets {
            Targets::Attempts(attempts) => attempts.len(),
            Targets::Tasks { tasks, .. } => tasks.len(),
        };
        if left > 0 {
            self.bulk.plans.push_back(plan);
        }
        Ok(ApplyReply { applied, gone, left: left as u64 })
    }

    fn kill_some(
        &mut self,
        attempts: &mut Vec<AttemptId>,
        request: &ApplyRequest,
        out: &mut Vec<Effect>,
    ) -> (u64, u64) {
        let (mut applied, mut gone) = (0, 0);
        let first = attempts.len().saturating_sub(KILLS_PER_REQUEST);
        for attempt in attempts.drain(first..).rev() {
            let ApplyRequest { kill, actor, reason, .. } = request;
            match self.kill_attempt(attempt, *kill, actor, reason, out) {
                Some(_) => applied += 1,
                None => gone += 1,
            }
        }
        (applied, gone)
    }

    fn forgive_some(
        &mut self,
        tasks: &mut Vec<(TaskIx, u32)>,
        request: &ApplyRequest,
        filter: &str,
        out: &mut Vec<Effect>,
    ) -> (u64, u64) {
        let (mut applied, mut gone) = (0, 0);
        let first = tasks.len().saturating_sub(FORGIVEN_PER_REQUEST);
        for (task, attempt_no) in tasks.drain(first..).rev() {
            if self.can_forgive(task) && self.attempt_no(task) == attempt_no {
                self.forgive_task(task, out);
                applied += 1;
            } else {
                gone += 1;
            }
        }
        let event = Event {
            actor: Some(request.actor.clone()),
            text: format!("{applied} tasks of [{filter}] forgiven; {}", request.reason),
            ..self.event("audit.forgive")
        };
        self.audit(event, out);
        (applied, gone)
    }
}
