//! How attempts end: each result is applied exactly once, whichever way it comes.

use bistro_common::ids::AttemptId;
use bistro_common::protocol::VERSION;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::{NextBackoff, TaskStatus, bits};

use crate::Core;
use crate::attempts::Attempt;
use crate::io::Effect;
use crate::record::Record;
use crate::tasks::{Phase, TaskIx, TaskRecord};

impl Core {
    /// Applies a result if its attempt is open, or was given up and not replaced. Anything else
    /// has been applied before.
    pub(crate) fn apply_result(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        match self.close_attempt(result.attempt) {
            Some(attempt) => self.close_with(attempt, result, out),
            None => self.apply_late(result, out),
        }
    }

    fn close_with(&mut self, attempt: Attempt, result: TaskResult, out: &mut Vec<Effect>) {
        out.push(Effect::Persist(Record::AttemptClosed { attempt: result.attempt }));
        let mut record = match attempt.task {
            Some(task) => self.records.get(&task).cloned(),
            None => self.parked.get(&result.task).cloned(),
        }
        .unwrap_or_default();
        record.attempt_no = record.attempt_no.max(result.attempt_no);
        let result = self.pardon(&attempt, result);
        let kind = self.conclude(&mut record, &result);
        out.push(Effect::Persist(Record::Task {
            task: result.task.clone(),
            record: record.clone(),
        }));
        let text = describe(&result, &record, self.now);
        out.push(self.attempt_event(kind, &attempt, text));
        match attempt.task {
            Some(task) => self.settle_task(task, record),
            None => drop(self.parked.insert(result.task, record)),
        }
    }

    /// The real result of an attempt whose worker had been given up replaces the guess.
    fn apply_late(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        let Outcome::Reported { .. } = &result.outcome else {
            return;
        };
        let task = self.find_task(&result.task.job, &result.task.node);
        let record = match task {
            Some(task) => self.records.get(&task),
            None => self.parked.get(&result.task),
        };
        let Some(mut record) =
            record.filter(|r| r.lost.as_deref() == Some(&result.attempt)).cloned()
        else {
            return;
        };
        record.lost = None;
        let kind = self.conclude(&mut record, &result);
        out.push(Effect::Persist(Record::Task {
            task: result.task.clone(),
            record: record.clone(),
        }));
        out.push(Effect::Publish(Event {
            job: Some(result.task.job.clone()),
            node: Some(result.task.node.clone()),
            attempt: Some(result.attempt),
            attempt_no: Some(result.attempt_no),
            text: format!("late: {}", describe(&result, &record, self.now)),
            ..self.event(kind)
        }));
        match task {
            Some(task) => self.settle_task(task, record),
            None => drop(self.parked.insert(result.task, record)),
        }
    }

    /// What the outcome makes of the task; returns the kind of the event.
    fn conclude(&self, record: &mut TaskRecord, result: &TaskResult) -> &'static str {
        let status = match &result.outcome {
            Outcome::Reported { status } => status.clone(),
            Outcome::Lost { reason } => {
                record.lost = Some(Box::new(result.attempt));
                TaskStatus::with_exception(bits::WORKER_LOST, reason.clone())
            }
            Outcome::Interrupted { reason } => {
                // The worker's doing, not the task's: it costs the task no wait.
                record.phase = Phase::Ready;
                record.status = Some(TaskStatus::with_exception(bits::INCOMPLETE, reason.clone()));
                record.status_ms = self.now;
                return "task.interrupted";
            }
            Outcome::NeverStarted { .. } => {
                record.phase = Phase::Ready;
                return "task.never_started";
            }
        };
        let lost = record.lost.is_some();
        self.record_status(record, &result.task.job, status);
        match record.phase {
            Phase::Done => "task.done",
            Phase::Failed => "task.failed",
            _ if lost => "task.lost",
            Phase::Backoff => "task.backoff",
            _ => "task.incomplete",
        }
    }

    /// Section 5.6 of the reference, with the configured wait remembered across attempts.
    fn record_status(&self, record: &mut TaskRecord, job: &str, mut status: TaskStatus) {
        let job = self.job_names.get(job).map(|job| &self.jobs[job.index()].config);
        let backoff = job.map_or(&self.config.settings.backoff, |job| &job.backoff);
        if status.has(bits::USES_BACKOFF) {
            let next = backoff.next(record.backoff_seconds);
            let advances = !status.has(bits::DOES_NOT_ADVANCE_BACKOFF);
            if advances || record.backoff_seconds == 0 {
                record.backoff_seconds = next.seconds();
            }
            if advances && next == NextBackoff::Exhausted && status.has(bits::ERROR) {
                status.result_bits = status.result_bits & !bits::ERROR | bits::FAILED;
            }
        } else {
            record.backoff_seconds = 0;
        }
        record.phase = if status.has(bits::DONE) {
            Phase::Done
        } else if status.has(bits::FAILED) {
            Phase::Failed
        } else if status.has(bits::USES_BACKOFF) {
            Phase::Backoff
        } else {
            Phase::Ready
        };
        record.backoff_until_ms = self.now + record.backoff_seconds * 1_000;
        record.status = Some(status);
        record.status_ms = self.now;
    }

    /// Enters a task's new record, and lets everything follow that follows from it.
    pub(crate) fn settle_task(&mut self, task: TaskIx, record: TaskRecord) {
        if let Some(old) = self.records.get(&task)
            && old.phase == Phase::Backoff
        {
            self.backoffs.remove(&(old.backoff_until_ms, task));
        }
        if record.phase == Phase::Backoff {
            self.backoffs.insert((record.backoff_until_ms, task));
        }
        let was_done = self.cell(task).phase() == Phase::Done;
        let phase = record.phase;
        self.records.insert(task, record);
        self.set_cell(task, self.cell(task).with_phase(phase));
        if was_done || phase == Phase::Done {
            self.refresh_dependents(task);
        }
    }

    pub(crate) fn event(&self, kind: &'static str) -> Event {
        Event {
            v: VERSION,
            time_ms: self.now,
            epoch: self.identity.epoch,
            kind: kind.into(),
            ..Event::default()
        }
    }

    pub(crate) fn attempt_event(
        &self,
        kind: &'static str,
        attempt: &Attempt,
        text: String,
    ) -> Effect {
        Effect::Publish(Event {
            job: Some(attempt.open.task.job.clone()),
            node: Some(attempt.open.task.node.clone()),
            attempt: Some(attempt.open.attempt),
            attempt_no: Some(attempt.open.attempt_no),
            worker: Some(self.worker(attempt.worker).name.shared()),
            text,
            ..self.event(kind)
        })
    }

    /// Gives up everything that a worker may be running.
    pub(crate) fn lose_attempts(&mut self, ids: Vec<AttemptId>, why: &str, out: &mut Vec<Effect>) {
        for id in ids {
            let result = self.result_of(id, Outcome::Lost { reason: why.to_owned() });
            self.apply_result(result, out);
        }
    }
}

fn describe(result: &TaskResult, record: &TaskRecord, now: u64) -> String {
    let mut text = match &result.outcome {
        Outcome::Reported { status } => {
            let exception = status.exception().map(|e| format!(": {e}")).unwrap_or_default();
            let exit = result.exit.as_ref().map(|e| format!(", {e}")).unwrap_or_default();
            format!("{}{exception}{exit}", status.label())
        }
        Outcome::Lost { reason }
        | Outcome::Interrupted { reason }
        | Outcome::NeverStarted { reason } => reason.clone(),
    };
    if record.phase == Phase::Backoff {
        let wait = record.backoff_until_ms.saturating_sub(now) / 1_000;
        text.push_str(&format!("; again in {wait} s"));
    }
    text
}
