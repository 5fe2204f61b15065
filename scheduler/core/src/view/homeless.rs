//! Open attempts whose job or node has left the config. No table has their tasks, but they run, hold
//! their slots, and are looked at and ended like all others.

use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    Counts, Explanation, Reason, ReasonKind, RunningRow, TaskRow, TaskState,
};

use super::tasks::Query;
use crate::Core;
use crate::attempts::{Attempt, Stage};

impl Core {
    /// In the order of their ids. Mostly there are none, and they are looked for only if there are.
    fn homeless_attempts(&self) -> Vec<&Attempt> {
        if self.homeless.is_empty() {
            return Vec::new();
        }
        let homeless = self.attempts.iter().filter(|attempt| attempt.task().is_none());
        let mut homeless: Vec<_> = homeless.collect();
        homeless.sort_unstable_by_key(|attempt| attempt.id);
        homeless
    }

    fn homeless_attempt(&self, job: &str, node: &str) -> Option<&Attempt> {
        self.homeless.get(job)?;
        let is_it = |attempt: &&Attempt| {
            let name = attempt.name(&self.plan);
            *name.job == *job && *name.node == *node
        };
        self.homeless_attempts().into_iter().find(is_it)
    }

    /// The open attempt of a task, in the config or not.
    pub fn attempt_on(&self, job: &str, node: &str) -> Option<AttemptId> {
        let planned = self.plan.find_task(job, node).and_then(|task| self.attempt_of(task));
        planned.or_else(|| self.homeless_attempt(job, node)).map(|attempt| attempt.id)
    }

    pub(super) fn count_homeless(&self, counts: &mut Counts) {
        for attempt in self.homeless_attempts() {
            *counts.entry(state(attempt)).or_default() += 1;
        }
    }

    /// Those that a request for tasks asks for, too.
    pub(crate) fn homeless_that_pass(&self, query: &Query<'_>) -> Vec<(AttemptId, TaskRow)> {
        let all = self.homeless_attempts().into_iter();
        let rows = all.map(|attempt| (attempt, self.homeless_row(attempt)));
        let passing = rows.filter(|(attempt, row)| {
            let open = attempt.open(&self.plan);
            let path: Vec<&str> = open.path.iter().map(|on_path| &*on_path.node).collect();
            query.passes_row(row, &path)
        });
        passing.map(|(attempt, row)| (attempt.id, row)).collect()
    }

    fn homeless_row(&self, attempt: &Attempt) -> TaskRow {
        let name = attempt.name(&self.plan);
        TaskRow {
            job: name.job.to_string(),
            node: name.node.to_string(),
            state: state(attempt),
            attempt_no: attempt.attempt_no,
            running: Some(RunningRow {
                attempt: attempt.id,
                worker: self.worker(attempt.worker).name.to_string(),
                started_ms: attempt.started_ms,
            }),
            last: None,
            ended_ms: None,
            ran_ms: None,
            usage: None,
            backoff_until_ms: None,
        }
    }

    pub(crate) fn explain_homeless(&self, job: &str, node: &str) -> Option<Explanation> {
        let attempt = self.homeless_attempt(job, node)?;
        let path = attempt.open(&self.plan).path.iter().map(|on| on.node.to_string()).collect();
        let missing = match self.plan.job(job) {
            Some(_) => "node",
            None => "job",
        };
        let text = format!(
            "it runs on, though its {missing} is not in the config any more; `bistro kill` ends it"
        );
        let kind = match attempt.stage {
            Stage::Unsure => ReasonKind::Unsure,
            Stage::Assigned | Stage::Running => ReasonKind::Running,
        };
        let reasons = vec![Reason { kind, text, held_by: Vec::new() }];
        let (task, holds) = (self.homeless_row(attempt), self.holds(attempt));
        Some(Explanation { task, path, holds, reasons })
    }
}

fn state(attempt: &Attempt) -> TaskState {
    match attempt.stage {
        Stage::Unsure => TaskState::Unsure,
        Stage::Assigned | Stage::Running => TaskState::Running,
    }
}
