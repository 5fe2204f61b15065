//! Heartbeats: who may live on, who is refused, and what follows from a new process.

use std::sync::Arc;

use bistro_common::ids::{AttemptId, Incarnation, TaskName, WorkerName};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::api::WorkerHealth;
use bistro_common::protocol::control::{Fate, Probed};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::heartbeat::{
    ClosedReason, Heartbeat, HeartbeatAnswer, HeartbeatReply, RefusedReason,
};
use bistro_common::protocol::task::OpenAttempt;

use crate::Core;
use crate::attempts::Stage;
use crate::io::Effect;
use crate::record::{Record, WorkerRecord, never_started};
use crate::workers::WorkerIx;

/// So many heartbeats in a row with an unexpected digest are no message crossing another any more.
const MISMATCHES_MAX: u32 = 3;

/// A list that was asked for comes at once, or not at all.
const SYNC_WAIT_MS: u64 = 2_000;

impl Core {
    pub(crate) fn on_heartbeat(
        &mut self,
        token: u64,
        heartbeat: Box<Heartbeat>,
        out: &mut Vec<Effect>,
    ) {
        if self.is_entering() && !self.is_routine(&heartbeat) {
            self.held_heartbeats.push((token, heartbeat));
            return;
        }
        let answer = match self.admit(&heartbeat, out) {
            Ok(worker) => self.renew(worker, *heartbeat, out),
            Err((reason, detail)) => {
                let by = Some(self.identity.reign());
                HeartbeatAnswer::Refused { reason, detail, by }
            }
        };
        out.push(Effect::Reply { token, reply: HeartbeatReply { v: VERSION, answer } });
    }

    /// Says nothing new, so that its answer needs no look at what the worker runs.
    fn is_routine(&self, heartbeat: &Heartbeat) -> bool {
        let worker = self.worker_names.get(&heartbeat.worker).map(|&worker| self.worker(worker));
        worker.is_some_and(|worker| {
            worker.incarnation == heartbeat.incarnation
                && worker.answered.is_some()
                && worker.host == heartbeat.host
                && worker.capacity == heartbeat.capacity
                && heartbeat.open_attempts.is_none()
                && heartbeat.closed.is_none()
        })
    }

    /// The worker that may have a lease, entered or replaced if it is new.
    fn admit(
        &mut self,
        heartbeat: &Heartbeat,
        out: &mut Vec<Effect>,
    ) -> Result<WorkerIx, (RefusedReason, String)> {
        if heartbeat.cell.is_some_and(|cell| cell != self.identity.cell) {
            let detail = format!(
                "this cell is {}; the worker's data directory belongs to another",
                self.identity.cell
            );
            return Err((RefusedReason::ForeignCell, detail));
        }
        let fenced = |detail: &str| Err((RefusedReason::Fenced, detail.to_owned()));
        if self.fenced.contains(&heartbeat.incarnation) {
            return fenced("this worker process was given up; its tasks may run elsewhere");
        }
        let Some(&worker) = self.worker_names.get(&heartbeat.worker) else {
            let worker = self.add_worker(record_of(heartbeat), WorkerHealth::Healthy);
            self.announce(worker, "worker.joined", "", out);
            return Ok(worker);
        };
        let state = self.worker(worker);
        if state.incarnation == heartbeat.incarnation {
            return Ok(worker);
        }
        let restarted = state.ledger == heartbeat.ledger;
        if restarted && heartbeat.incarnation < state.incarnation {
            return fenced("a later process of this worker has registered");
        }
        // A stranger may have the name only when nothing of its last owner can be alive.
        let free = state.attempts.is_empty()
            && (state.health == WorkerHealth::Gone || state.closed == Some(ClosedReason::Stopped));
        if !restarted && !free {
            let detail = format!(
                "the name {} is taken by a worker on {} with another data directory",
                state.name, state.host
            );
            return Err((RefusedReason::NameTaken, detail));
        }
        self.replace(worker, heartbeat, out);
        Ok(worker)
    }

    /// A new process of a worker: the old one is dead, and what it ran is settled by the ledger.
    fn replace(&mut self, worker: WorkerIx, heartbeat: &Heartbeat, out: &mut Vec<Effect>) {
        let old = self.worker(worker).incarnation;
        self.fence(old, out);
        let state = &mut self.workers[worker.index()];
        let rebooted = state.ledger == heartbeat.ledger
            && !state.boot.is_empty()
            && state.boot != heartbeat.boot;
        state.incarnation = heartbeat.incarnation;
        state.ledger = heartbeat.ledger;
        let ids: Vec<_> = self.attempts_on(worker).iter().map(|attempt| attempt.id).collect();
        ids.into_iter().for_each(|id| self.set_stage(id, Stage::Unsure));
        let why = if rebooted { ", which was booted again" } else { "" };
        self.announce(worker, "worker.restarted", why, out);
    }

    pub(crate) fn fence(&mut self, incarnation: Incarnation, out: &mut Vec<Effect>) {
        if self.fenced.insert(incarnation) {
            out.push(Effect::Persist(Record::Fenced { incarnation }));
        }
    }

    fn announce(&mut self, worker: WorkerIx, kind: &'static str, why: &str, out: &mut Vec<Effect>) {
        let record = self.worker(worker).record();
        out.push(Effect::Publish(Event {
            worker: Some(record.name.shared()),
            text: format!("on {}{why}", record.host),
            ..self.event(kind)
        }));
        out.push(Effect::Persist(Record::Worker { worker: record }));
    }

    fn renew(
        &mut self,
        worker: WorkerIx,
        heartbeat: Heartbeat,
        out: &mut Vec<Effect>,
    ) -> HeartbeatAnswer {
        let (now, terms) = (self.now, self.terms);
        let state = &mut self.workers[worker.index()];
        let first = state.answered.is_none();
        if state.health == WorkerHealth::Suspect {
            state.paused_until = now;
        }
        let old_host = (state.host != heartbeat.host).then(|| state.host.clone());
        let same_host = state.host == heartbeat.host && state.capacity == heartbeat.capacity;
        state.note(&heartbeat);
        state.health = WorkerHealth::Healthy;
        state.answered = Some(now);
        state.lease_end = terms.scheduler_end(now);
        let stopped = heartbeat.closed == Some(ClosedReason::Stopped);
        let is_unsure = |at| self.attempts.at(at).stage == Stage::Unsure;
        let unsure = self.worker(worker).attempts.iter().any(is_unsure);
        if unsure && !stopped {
            let state = &mut self.workers[worker.index()];
            state.probe_wait_ms = 0;
            state.probe_at = Some(now);
        }
        let slots = self.worker(worker).slots.clone();
        if !same_host {
            self.refresh_worker_slots(worker);
        }
        let resized = self.worker(worker).slots != slots;
        if let Some(old_host) = old_host {
            self.index_hosts();
            self.refresh_host(&old_host);
        }
        let listed = heartbeat.open_attempts.is_some();
        let full_sync = match heartbeat.open_attempts {
            // One that was not asked for by this reign may be about another time.
            Some(_) if heartbeat.epoch_seen != self.identity.epoch => true,
            Some(open) => {
                self.adopt_unknown(worker, heartbeat.incarnation, open, out);
                false
            }
            // What is still to be entered must not be called unsure.
            None if self.is_entering() => false,
            None => self.compare_digest(worker, &heartbeat, first),
        };
        // What it runs and we do not know of must be known before it is given the same again.
        if full_sync || listed {
            let until = if full_sync { now + SYNC_WAIT_MS } else { now };
            self.workers[worker.index()].paused_until = until;
        }
        if resized {
            self.condemn(out);
        }
        self.refresh_room(worker);
        self.schedule_check(worker);
        let applied = |id: &AttemptId| !self.attempts.contains(*id);
        HeartbeatAnswer::Lease {
            cell: self.identity.cell,
            scheduler: self.identity.scheduler,
            epoch: self.identity.epoch,
            terms,
            settled: heartbeat.unsettled.into_iter().filter(applied).collect(),
            full_sync,
        }
    }

    /// Does the worker have to list what it runs?
    fn compare_digest(&mut self, worker: WorkerIx, heartbeat: &Heartbeat, first: bool) -> bool {
        let state = &mut self.workers[worker.index()];
        if state.digest == heartbeat.open {
            state.mismatches = 0;
            return false;
        }
        state.mismatches += 1;
        if first {
            return true;
        }
        if state.mismatches < MISMATCHES_MAX {
            return false;
        }
        // Messages were lost for good: ask about everything that the worker should have.
        state.mismatches = 0;
        state.probe_at = Some(self.now);
        let ids: Vec<_> = self.attempts_on(worker).iter().map(|attempt| attempt.id).collect();
        ids.into_iter().for_each(|id| self.set_stage(id, Stage::Unsure));
        true
    }

    /// Attempts that the worker has and we do not know: our disk lost them. They run, so they
    /// count. Unless the list is late: what has ended since it was made must not come back.
    fn adopt_unknown(
        &mut self,
        worker: WorkerIx,
        incarnation: Incarnation,
        open: Vec<OpenAttempt>,
        out: &mut Vec<Effect>,
    ) {
        let known = self.attempts.len();
        for attempt in open {
            if self.attempts.contains(attempt.attempt) || self.has_ended(attempt.attempt) {
                continue;
            }
            let task = self.plan.find_task(&attempt.task.job, &attempt.task.node);
            let rival = match task {
                Some(task) => self.attempt_of(task).map(|attempt| attempt.id),
                None => self.homeless_rival(&attempt.task),
            };
            let event = Event {
                job: Some(attempt.task.job.clone()),
                node: Some(attempt.task.node.clone()),
                attempt: Some(attempt.attempt),
                worker: Some(self.worker(worker).name.shared()),
                ..self.event("attempt.unknown")
            };
            if let Some(rival) = rival {
                let text = format!("not adopted: attempt {rival} of the task is open as well");
                out.push(Effect::Publish(Event { text, ..event }));
                continue;
            }
            let seq = self.worker(worker).last_seq;
            let open = Arc::new(attempt);
            let attempt = self.noted_attempt(open, worker, incarnation, seq, Stage::Running);
            let record = self.attempt_record(&attempt);
            self.open_attempt(attempt);
            out.push(Effect::Persist(Record::AttemptOpened { attempt: record }));
            let text = "adopted: the worker runs it, though the store does not know it";
            out.push(Effect::Publish(Event { text: text.to_owned(), ..event }));
        }
        if self.attempts.len() > known {
            self.condemn(out);
        }
    }

    /// The open attempt of a task that is not in the plan.
    pub(crate) fn homeless_rival(&self, task: &TaskName) -> Option<AttemptId> {
        self.homeless.get(&task.job)?;
        let mut homeless = self.attempts.iter().filter(|attempt| attempt.task().is_none());
        homeless.find(|attempt| attempt.name(&self.plan) == *task).map(|attempt| attempt.id)
    }

    pub(crate) fn on_probe_reply(
        &mut self,
        worker: &WorkerName,
        incarnation: Incarnation,
        reply: Option<Vec<Probed>>,
        out: &mut Vec<Effect>,
    ) {
        let Some(&worker) = self.worker_names.get(worker) else {
            return;
        };
        if self.worker(worker).incarnation != incarnation {
            return;
        }
        for probed in reply.unwrap_or_default() {
            let ours = self
                .attempts
                .get(probed.attempt)
                .is_some_and(|attempt| attempt.worker == worker && attempt.stage == Stage::Unsure);
            if !ours {
                continue;
            }
            match probed.fate {
                Fate::Running => {
                    self.set_stage(probed.attempt, Stage::Running);
                    self.tell_start(probed.attempt, out);
                }
                Fate::Finished { result } if result.attempt == probed.attempt => {
                    self.tell_start(probed.attempt, out);
                    self.apply_result(result, out);
                }
                // A result of another attempt answers nothing: it stays unsure, and is asked again.
                Fate::Finished { .. } => {}
                Fate::NeverStarted => {
                    let outcome = never_started("the worker never started it");
                    let result = self.result_of(probed.attempt, outcome);
                    self.apply_result(result, out);
                }
            }
        }
    }
}

fn record_of(heartbeat: &Heartbeat) -> WorkerRecord {
    WorkerRecord {
        name: heartbeat.worker.clone(),
        incarnation: heartbeat.incarnation,
        ledger: heartbeat.ledger,
        host: heartbeat.host.clone(),
        drained: false,
    }
}
