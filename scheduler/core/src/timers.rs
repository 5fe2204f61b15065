//! What time brings: waits that are over, workers that fall silent, questions to ask again.

use bistro_common::ids::{Seq, WorkerName};
use bistro_common::protocol::api::WorkerHealth;
use bistro_common::protocol::control::{Control, Order};
use bistro_common::protocol::event::Event;

use crate::Core;
use crate::attempts::Stage;
use crate::io::Effect;
use crate::tasks::Phase;
use crate::workers::WorkerIx;

/// The longest wait between two questions about the same attempts.
const PROBE_WAIT_MS_MAX: u64 = 5_000;

/// At most so many attempts are asked about in one message.
const PROBE_MAX: usize = 1_000;

impl Core {
    pub(crate) fn on_time(&mut self, out: &mut Vec<Effect>) {
        while let Some(&(at, task)) = self.backoffs.first()
            && at <= self.now
        {
            self.backoffs.remove(&(at, task));
            if let Some(known) = self.records.find(task) {
                self.records.at_mut(known).record.phase = Phase::Ready;
            }
            self.set_cell(task, self.plan.cell(task).with_phase(Phase::Ready));
        }
        while let Some(&(at, worker)) = self.worker_checks.first()
            && at <= self.now
        {
            self.check_worker(worker, out);
        }
        if self.may_execute() {
            self.execute(out);
        }
    }

    /// Under another config that is coming they may not have to end.
    pub(crate) fn may_execute(&self) -> bool {
        std::sync::Arc::ptr_eq(&self.config, &self.plan.config)
    }

    fn check_worker(&mut self, worker: WorkerIx, out: &mut Vec<Effect>) {
        let (now, terms) = (self.now, self.terms);
        let state = &mut self.workers[worker.index()];
        if state.health != WorkerHealth::Gone && now >= state.lease_end {
            self.lose_worker(worker, "its lease is over", out);
        } else {
            let suspect = state.answered.is_some_and(|at| now >= terms.scheduler_suspect(at));
            if state.health == WorkerHealth::Healthy && suspect {
                state.health = WorkerHealth::Suspect;
            }
            if state.probe_at.is_some_and(|at| now >= at) {
                self.probe(worker, out);
            }
        }
        self.refresh_room(worker);
        self.schedule_check(worker);
    }

    /// Whatever the worker ran has been killed by now: its lease is over, or somebody has said so.
    pub(crate) fn lose_worker(&mut self, worker: WorkerIx, why: &str, out: &mut Vec<Effect>) {
        let ids: Vec<_> = self.attempts_on(worker).iter().map(|attempt| attempt.id).collect();
        let state = &mut self.workers[worker.index()];
        state.health = WorkerHealth::Gone;
        state.probe_at = None;
        let (incarnation, stopped) = (state.incarnation, state.closed.is_some());
        let count = ids.len();
        self.fence(incarnation, out);
        if !(stopped && ids.is_empty()) {
            out.push(Effect::Publish(Event {
                worker: Some(self.worker(worker).name.shared()),
                text: format!("{why}; {count} attempts were given up"),
                ..self.event("worker.lost")
            }));
        }
        self.lose_attempts(ids, "Remote worker lost (crashed? network down?)", out);
    }

    pub(crate) fn probe_soon(&mut self, worker: &WorkerName, wait_ms: u64) {
        let Some(&worker) = self.worker_names.get(worker) else {
            return;
        };
        let at = self.now + wait_ms;
        let state = &mut self.workers[worker.index()];
        state.probe_at = Some(state.probe_at.map_or(at, |before| before.min(at)));
        self.schedule_check(worker);
    }

    /// Asks a worker about all its unsure attempts, and plans to ask again.
    fn probe(&mut self, worker: WorkerIx, out: &mut Vec<Effect>) {
        let state = self.worker(worker);
        let attempts = self.attempts_on(worker);
        let at_stage = |stage: Stage| attempts.iter().filter(move |a| a.stage == stage);
        // Every assignment that was sent so far is to be refused from now on, except those that
        // are waiting for their answer: the worker may still take them.
        let waiting = at_stage(Stage::Assigned).map(|attempt| attempt.seq).min();
        let floor = waiting.map_or(state.last_seq, |seq| Seq(seq.0 - 1));
        let any_unsure = at_stage(Stage::Unsure).next().is_some();
        let askable = at_stage(Stage::Unsure)
            .filter(|attempt| attempt.incarnation != state.incarnation || attempt.seq <= floor);
        let asked: Vec<_> = askable.map(|attempt| attempt.id).take(PROBE_MAX).collect();
        if !asked.is_empty() && state.health == WorkerHealth::Healthy {
            let fence = self.identity.fence(state.incarnation);
            let order = Order::Probe { attempts: asked, floor };
            let control = Control { fence, order };
            out.push(Effect::Control { worker: state.name.clone(), control });
        }
        let now = self.now;
        let state = &mut self.workers[worker.index()];
        state.probe_wait_ms = (state.probe_wait_ms * 2).clamp(500, PROBE_WAIT_MS_MAX);
        state.probe_at = any_unsure.then(|| now + state.probe_wait_ms);
    }
}
