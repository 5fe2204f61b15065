//! What operators may do with workers.

use bistro_common::Millis;
use bistro_common::ids::WorkerName;
use bistro_common::protocol::api::{
    ApiError, ErrorCode, WorkerDrainRequest, WorkerForgetRequest, WorkerHealth, WorkerReply,
};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::job::Audit;

use crate::Core;
use crate::io::Effect;
use crate::record::Record;
use crate::workers::WorkerIx;

impl Core {
    /// No new work for a worker, or work again. What it runs goes on.
    pub fn worker_drain(
        &mut self,
        now: Millis,
        request: &WorkerDrainRequest,
        out: &mut Vec<Effect>,
    ) -> Result<WorkerReply, ApiError> {
        self.begin(now, out)?;
        let worker = self.named_worker(&request.worker)?;
        let state = &mut self.workers[worker.index()];
        state.drained = request.on;
        let attempts = state.attempts.len() as u64;
        let record = state.record();
        self.refresh_room(worker);
        out.push(Effect::Persist(Record::Worker { worker: record }));
        let kind = if request.on { "audit.worker_drain" } else { "audit.worker_resume" };
        self.audit_worker(worker, kind, &request.audit, out);
        Ok(WorkerReply { worker: request.worker.clone(), attempts })
    }

    /// Gives up at once what a silent worker ran.
    pub fn worker_forget(
        &mut self,
        now: Millis,
        request: &WorkerForgetRequest,
        out: &mut Vec<Effect>,
    ) -> Result<WorkerReply, ApiError> {
        self.begin(now, out)?;
        let worker = self.named_worker(&request.worker)?;
        if !request.fenced {
            let message = "a worker is forgotten only by somebody who has made sure that nothing of it runs any more";
            return Err(ApiError::new(ErrorCode::BadRequest, message).hint(
                "switch its host off, or cut it off; or wait: its tasks run elsewhere when its lease is over",
            ));
        }
        let state = self.worker(worker);
        if state.health == WorkerHealth::Healthy {
            let message = format!("the worker {} is alive: it has just been heard", state.name);
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .hint("drain it, or stop its process; what it runs is settled then"));
        }
        let attempts = state.attempts.len() as u64;
        self.audit_worker(worker, "audit.worker_forget", &request.audit, out);
        self.lose_worker(worker, "it is dead, as an operator says", out);
        self.refresh_room(worker);
        self.schedule_check(worker);
        Ok(WorkerReply { worker: request.worker.clone(), attempts })
    }

    fn named_worker(&self, name: &str) -> Result<WorkerIx, ApiError> {
        let known = WorkerName::new(name).ok().and_then(|name| self.worker_names.get(&name));
        known.copied().ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("there is no worker {name:?}"))
                .hint("`bistro workers` lists them")
        })
    }

    fn audit_worker(
        &mut self,
        worker: WorkerIx,
        kind: &'static str,
        audit: &Audit,
        out: &mut Vec<Effect>,
    ) {
        let event = Event {
            worker: Some(self.worker(worker).name.shared()),
            actor: Some(audit.actor.clone()),
            text: audit.reason.clone(),
            ..self.event(kind)
        };
        self.audit(event, out);
    }
}
