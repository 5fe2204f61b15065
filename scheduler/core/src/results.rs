//! How attempts end: each result is applied exactly once, whichever way it comes.

use std::borrow::Cow;

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::{NextBackoff, TaskStatus, bits};

use crate::Core;
use crate::attempts::Attempt;
use crate::io::Effect;
use crate::record::Record;
use crate::records::RecordIx;
use crate::task_row;
use crate::tasks::{Phase, TaskIx, TaskRecord};

/// Of what a task said of itself, its event has so much.
const EXCEPTION_BYTES_MAX: usize = 2_000;

impl Core {
    /// Applies a result if its attempt is open, or was given up and not replaced. Anything else
    /// has been applied before.
    pub(crate) fn apply_result(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        let Some(attempt) = self.close_attempt(result.attempt) else {
            return self.apply_late(result, out);
        };
        let name = attempt.name_as(&result.task, &self.plan);
        self.close_with(attempt, name, result, out);
    }

    /// The same for a worker's report, which also says that the attempt was started.
    pub(crate) fn apply_reported(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        self.prefetch(result.attempt);
        // Its slots come first: the name takes longest to be at hand.
        let Some(attempt) = self.close_attempt(result.attempt) else {
            return self.apply_late(result, out);
        };
        let name = attempt.name_as(&result.task, &self.plan);
        if !attempt.start_told && !matches!(result.outcome, Outcome::NeverStarted { .. }) {
            out.push(self.attempt_event("task.started", &attempt, &name, String::new()));
        }
        self.close_with(attempt, name, result, out);
    }

    /// `name`: the attempt's own. A worker that names another task must not have that one's record
    /// changed.
    fn close_with(
        &mut self,
        attempt: Attempt,
        name: TaskName,
        result: TaskResult,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::Persist(Record::AttemptClosed { attempt: result.attempt }));
        let mut record = match attempt.record {
            Some(known) => self.records.at(known).record.clone(),
            None => self.record_of(None, &name).map(Cow::into_owned).unwrap_or_default(),
        };
        record.attempt_no = record.attempt_no.max(attempt.attempt_no);
        // The stored record may be of an attempt before this one: its guess is over.
        record.lost = None;
        let result = self.pardon(&attempt, result);
        let kind = match attempt.disowned {
            true => "task.disowned",
            false => self.conclude(&mut record, &name.job, &result),
        };
        let text = describe(&result, &record, self.now);
        let event = self.attempt_event(kind, &attempt, &name, text);
        self.keep(attempt.record, name, record, out);
        out.push(event);
    }

    /// The real result of an attempt whose worker had been given up replaces the guess.
    fn apply_late(&mut self, result: TaskResult, out: &mut Vec<Effect>) {
        let Outcome::Reported { .. } = &result.outcome else {
            return;
        };
        let task = self.plan.find_task(&result.task.job, &result.task.node);
        let record = self.record_of(task, &result.task);
        let waited_for = record.filter(|r| r.lost.as_deref() == Some(&result.attempt));
        let Some(mut record) = waited_for.map(Cow::into_owned) else {
            return;
        };
        if task.is_none() && self.homeless_rival(&result.task).is_some() {
            return;
        }
        record.lost = None;
        let kind = self.conclude(&mut record, &result.task.job, &result);
        let event = Event {
            job: Some(result.task.job.clone()),
            node: Some(result.task.node.clone()),
            attempt: Some(result.attempt),
            attempt_no: Some(result.attempt_no),
            text: format!("late: {}", describe(&result, &record, self.now)),
            ..self.event(kind)
        };
        let known = task.map(|task| self.known(task));
        self.keep(known, result.task, record, out);
        out.push(Effect::Publish(event));
    }

    /// Of a task of the present plan, or one that is not in it.
    fn record_of(&self, task: Option<TaskIx>, name: &TaskName) -> Option<Cow<'_, TaskRecord>> {
        if let Some(task) = task {
            return self.record(task);
        }
        let parked = self.parked.get(&name.job).and_then(|of_job| of_job.get(&name.node));
        let row = || self.finished.get(&name.job)?.get(&name.node);
        let finished = || task_row::decode(row()?).map(Cow::Owned);
        parked.map(Cow::Borrowed).or_else(finished)
    }

    /// Records what is known of a task now, and enters it.
    fn keep(
        &mut self,
        known: Option<RecordIx>,
        name: TaskName,
        record: TaskRecord,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::Persist(Record::Task { task: name.clone(), record: record.clone() }));
        match known {
            Some(known) => self.settle(known, record),
            None => self.parked.entry(name.job).or_default().insert(name.node, record),
        }
    }

    /// What the outcome makes of the task; returns the kind of the event.
    fn conclude(&self, record: &mut TaskRecord, job: &str, result: &TaskResult) -> &'static str {
        if !matches!(result.outcome, Outcome::NeverStarted { .. }) {
            record.ran_ms = result.ended_ms.saturating_sub(result.started_ms);
            record.usage = result.usage;
        }
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
        self.record_status(record, job, status);
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
        let job = self.plan.job(job).map(|job| &self.plan.jobs[job.index()].config);
        let backoff = job.map_or(&self.plan.config.settings.backoff, |job| &job.backoff);
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
        record.status = Some(status);
        record.status_ms = self.now;
    }

    /// Enters a task's new record, and lets everything follow that follows from it.
    pub(crate) fn settle(&mut self, known: RecordIx, record: TaskRecord) {
        let task = self.records.task(known);
        let known = self.records.at_mut(known);
        if known.record.phase == Phase::Backoff {
            self.backoffs.remove(&(known.record.backoff_until_ms(), task));
        }
        if record.phase == Phase::Backoff {
            self.backoffs.insert((record.backoff_until_ms(), task));
        }
        let phase = record.phase;
        known.record = record;
        let cell = self.plan.cell(task);
        self.set_cell(task, cell.with_phase(phase));
        if cell.phase() == Phase::Done || phase == Phase::Done {
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
        task: &TaskName,
        text: String,
    ) -> Effect {
        Effect::Publish(Event {
            job: Some(task.job.clone()),
            node: Some(task.node.clone()),
            attempt: Some(attempt.id),
            attempt_no: Some(attempt.attempt_no),
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

fn describe(result: &TaskResult, record: &TaskRecord, now: Millis) -> String {
    let mut text = match &result.outcome {
        Outcome::Reported { status } => {
            let status = status.clone().in_brief(EXCEPTION_BYTES_MAX);
            let exception = status.exception().map(|e| format!(": {e}"));
            let exit = result.exit.as_ref().map(|e| format!(", {e}"));
            [exception, exit].into_iter().flatten().fold(status.label().to_owned(), |a, b| a + &b)
        }
        Outcome::Lost { reason }
        | Outcome::Interrupted { reason }
        | Outcome::NeverStarted { reason } => reason.clone(),
    };
    if record.phase == Phase::Backoff {
        let wait = record.backoff_until_ms().saturating_sub(now) / 1_000;
        text.push_str(&format!("; again in {wait} s"));
    }
    text
}
