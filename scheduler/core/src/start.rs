//! Starting tasks, and what becomes of assignments.

use serde_json::{Value, json};

use bistro_common::ids::{AttemptId, Incarnation, Seq, WorkerName};
use bistro_common::protocol::assign::{
    Assign, AssignAnswer, AssignReply, Assignment, BATCH_MAX, RejectedReason,
};
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::{TaskStatus, bits};

use crate::Core;
use crate::attempts::{Attempt, Held, Path, Stage};
use crate::io::{Effect, SendFailure};
use crate::record::{Record, never_started};
use crate::resources::Sign;
use crate::tasks::{Phase, TaskIx, TaskRecord};
use crate::workers::WorkerIx;

/// A step starts at most so many tasks, so that heartbeats are answered in between.
const STARTS_PER_STEP_MAX: usize = 512;

/// After a refusal a worker gets no work for so long: what it refused may have passed by then.
const PAUSE_MS: u64 = 1_000;

/// Of what a task said when it last ran, the next attempt is told so much: all that it may say in one
/// line, unless that is mostly what JSON writes in six bytes. It is part of a command line.
const PREV_STATUS_BYTES_MAX: usize = 66_000;

/// When to ask about an assignment that got no answer.
const FIRST_PROBE_MS: u64 = 200;

/// Assignments are numbered within a reign, and every reign begins above all earlier ones.
const EPOCH_SHIFT: u32 = 40;

/// A task that can start, and where.
struct Choice {
    task: TaskIx,
    worker: WorkerIx,
}

impl Core {
    pub(crate) fn start_tasks(&mut self, out: &mut Vec<Effect>) {
        self.more = false;
        for _ in 0..STARTS_PER_STEP_MAX {
            let Some(choice) = self.choose() else {
                return;
            };
            self.start_one(choice, out);
        }
        self.more = self.plan.any_startable();
    }

    /// What starts next, on the way down that is then in `self.path`; nothing has been taken yet.
    fn choose(&mut self) -> Option<Choice> {
        let job = self.plan.next_job(&mut self.rng)?;
        let mut path = std::mem::take(&mut self.path);
        self.plan.pick_path(job, &mut self.rng, &mut path);
        let node = *path.last().expect("a path has the instance node at least");
        let task = TaskIx { job, node };
        self.records.prefetch_of(task);
        self.plan.prefetch(&path);
        let worker = self
            .choose_worker(job, &path)
            .expect("a job that can start on a node has a worker with room for it");
        self.path = path;
        Some(Choice { task, worker })
    }

    /// Chooses all that can start now and takes its slots, but starts nothing. It is for those who
    /// measure what decisions cost by themselves: this core is of no use any more. Returns how many.
    pub fn choose_all(&mut self) -> usize {
        let mut chosen = 0;
        while let Some(Choice { task, worker }) = self.choose() {
            self.plan.change_path(task.job, &self.path, Sign::Take);
            let class = self.plan.jobs[task.job.index()].worker_class;
            let amounts = self.plan.rooms.amounts(class);
            if self.workers[worker.index()].change_slots(amounts, Sign::Take) {
                self.refresh_room(worker);
            }
            self.set_cell(task, self.plan.cell(task).with_phase(Phase::Running));
            chosen += 1;
        }
        chosen
    }

    fn start_one(&mut self, Choice { task, worker }: Choice, out: &mut Vec<Effect>) {
        let known = self.known(task);
        let record = &mut self.records.at_mut(known).record;
        record.attempt_no = record.attempt_no.saturating_add(1);
        let attempt_no = record.attempt_no;
        let prev_status = status_json(record);
        let seq = self.next_seq(worker);
        let attempt = Attempt {
            id: self.new_attempt_id(),
            attempt_no,
            started_ms: self.now,
            worker,
            place: 0,
            record: Some(known),
            incarnation: self.worker(worker).incarnation,
            seq,
            stage: Stage::Assigned,
            preempted: false,
            start_told: false,
            disowned: false,
            held: Held::Planned { task, path: Path::from_slice(&self.path) },
        };
        let record = self.attempt_record(&attempt);
        let spec = self.plan.jobs[task.job.index()].config.spec.clone();
        let assignment = Assignment { seq, open: record.open.clone(), spec, prev_status };
        self.open_attempt(attempt);
        out.push(Effect::Persist(Record::AttemptOpened { attempt: record }));
        self.outbox.push((worker, assignment));
    }

    /// Ids grow within a reign: what is kept under them is then kept under growing keys.
    fn new_attempt_id(&mut self) -> AttemptId {
        self.attempts_made += 1;
        // Two reigns within one millisecond make different ids, too.
        let number = self.identity.epoch.0 << 30 | self.attempts_made & ((1 << 30) - 1);
        AttemptId::growing(self.now, number, self.attempts.next_rest())
    }

    /// The number of the next assignment to a worker.
    fn next_seq(&self, worker: WorkerIx) -> Seq {
        Seq(self.worker(worker).last_seq.0.max(self.identity.epoch.0 << EPOCH_SHIFT) + 1)
    }

    /// One message per worker, or as many as it takes.
    pub(crate) fn flush_outbox(&mut self, out: &mut Vec<Effect>) {
        let mut outbox = std::mem::take(&mut self.outbox);
        outbox.sort_by_key(|&(worker, _)| worker);
        let mut rest = outbox.drain(..).peekable();
        while let Some((worker, first)) = rest.next() {
            let mut attempts = vec![first];
            while let Some((_, next)) =
                rest.next_if(|&(of, _)| of == worker && attempts.len() < BATCH_MAX)
            {
                attempts.push(next);
            }
            let state = self.worker(worker);
            let assign = Assign { fence: self.identity.fence(state.incarnation), attempts };
            out.push(Effect::Assign { worker: state.name.clone(), assign });
        }
        drop(rest);
        self.outbox = outbox;
    }

    pub(crate) fn on_assign_reply(
        &mut self,
        worker: &WorkerName,
        incarnation: Incarnation,
        attempts: &[AttemptId],
        reply: Result<AssignReply, SendFailure>,
        out: &mut Vec<Effect>,
    ) {
        for &id in attempts {
            // An attempt that has gone on since (its result was faster) is not looked at again.
            let waiting = self.attempts.get(id).is_some_and(|attempt| {
                attempt.stage == Stage::Assigned && attempt.incarnation == incarnation
            });
            if !waiting {
                continue;
            }
            let answer = match &reply {
                Ok(reply) => reply.results.iter().find(|r| r.attempt == id).map(|r| &r.answer),
                Err(SendFailure::Unknown) => None,
                Err(SendFailure::NotDelivered) => {
                    self.refused(id, "the worker could not be reached", out);
                    continue;
                }
                Err(SendFailure::TooLarge) => {
                    self.too_large(id, out);
                    continue;
                }
            };
            match answer {
                Some(AssignAnswer::Accepted) => self.accepted(id, out),
                // In its ledger already, or an answer that says nothing: ask what became of it.
                None | Some(AssignAnswer::Rejected { reason: RejectedReason::Known }) => {
                    self.set_stage(id, Stage::Unsure);
                    self.probe_soon(worker, FIRST_PROBE_MS);
                }
                Some(AssignAnswer::Rejected { reason }) => {
                    let reason = serde_json::to_value(reason).unwrap_or_default();
                    let text = reason.as_str().unwrap_or("refused").replace('_', " ");
                    self.refused(id, &format!("the worker refused it: {text}"), out);
                }
            }
        }
    }

    fn accepted(&mut self, id: AttemptId, out: &mut Vec<Effect>) {
        self.set_stage(id, Stage::Running);
        self.tell_start(id, out);
    }

    /// That an attempt was started, once: by the answer to its assignment, to a probe, or by its
    /// result ([`Core::apply_reported`]), whichever is the first to say so.
    pub(crate) fn tell_start(&mut self, id: AttemptId, out: &mut Vec<Effect>) {
        let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| !attempt.start_told) else {
            return;
        };
        attempt.start_told = true;
        let attempt = self.attempts.get(id).expect("it was just looked at");
        let name = attempt.name(&self.plan);
        out.push(self.attempt_event("task.started", attempt, &name, String::new()));
    }

    /// Certainly not started: back to where it was, after a pause for the worker.
    fn refused(&mut self, id: AttemptId, reason: &str, out: &mut Vec<Effect>) {
        let worker = self.attempts.get(id).expect("it was just looked at").worker;
        self.workers[worker.index()].paused_until = self.now + PAUSE_MS;
        self.refresh_room(worker);
        self.schedule_check(worker);
        let result = self.result_of(id, never_started(reason));
        self.apply_result(result, out);
    }

    fn too_large(&mut self, id: AttemptId, out: &mut Vec<Effect>) {
        let status = TaskStatus::with_exception(
            bits::ERROR_BACKOFF,
            "Failed to start task: its configuration is larger than a NATS message may be",
        );
        let result = self.result_of(id, Outcome::Reported { status });
        self.apply_result(result, out);
    }

    /// A result of an open attempt that the scheduler itself knows.
    pub(crate) fn result_of(&self, id: AttemptId, outcome: Outcome) -> TaskResult {
        let attempt = self.attempts.get(id).expect("the caller has the id of an open attempt");
        TaskResult {
            attempt: id,
            task: attempt.name(&self.plan),
            attempt_no: attempt.attempt_no,
            outcome,
            started_ms: attempt.started_ms,
            ended_ms: self.now,
            exit: None,
            usage: None,
        }
    }
}

/// The previous status as tasks are told it (reference, section 5.4).
fn status_json(record: &TaskRecord) -> Option<Value> {
    let status = record.status.clone()?.in_brief(PREV_STATUS_BYTES_MAX);
    let mut json = json!({"result_bits": status.result_bits, "time": record.status_ms / 1_000});
    if let Some(data) = &status.data {
        json["data"] = Value::Object((**data).clone());
    }
    if status.has(bits::USES_BACKOFF) && record.backoff_seconds > 0 {
        json["backoff_duration"] = record.backoff_seconds.into();
    }
    Some(json)
}
