//! What operators may change.

use std::borrow::Cow;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    ApiError, ErrorCode, ForgiveReply, ForgiveRequest, KillReply, KillRequest,
};
use bistro_common::protocol::control::{Control, Order};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::task::Kill;
use bistro_common::status::bits;

use crate::Core;
use crate::attempts::Attempt;
use crate::io::Effect;
use crate::record::Record;
use crate::tasks::{Phase, TaskIx};

impl Core {
    /// Asks the worker of an open attempt to end it. Refused if the attempt is over.
    pub fn kill(
        &mut self,
        now: Millis,
        request: &KillRequest,
        out: &mut Vec<Effect>,
    ) -> Result<KillReply, ApiError> {
        self.begin(now, out)?;
        let KillRequest { attempt, kill, actor, reason } = request;
        self.kill_attempt(*attempt, *kill, actor, reason, out).ok_or_else(|| {
            let message = format!("attempt {attempt} is not running any more");
            ApiError::new(ErrorCode::Gone, message)
                .hint("look at the task again: it may be over, or running as another attempt")
        })
    }

    /// None if the attempt is over.
    pub(crate) fn kill_attempt(
        &mut self,
        id: AttemptId,
        kill: Option<Kill>,
        actor: &str,
        reason: &str,
        out: &mut Vec<Effect>,
    ) -> Option<KillReply> {
        let attempt = self.attempts.get(id)?;
        let worker = self.worker(attempt.worker);
        let task = attempt.name(&self.plan);
        let reply = KillReply {
            job: task.job.to_string(),
            node: task.node.to_string(),
            attempt_no: attempt.attempt_no,
            worker: worker.name.to_string(),
        };
        let order = self.kill_order(attempt, kill);
        let event = Event {
            job: Some(task.job),
            node: Some(task.node),
            attempt: Some(id),
            attempt_no: Some(reply.attempt_no),
            worker: Some(worker.name.shared()),
            actor: Some(actor.to_owned()),
            text: reason.to_owned(),
            ..self.event("audit.kill")
        };
        self.audit(event, out);
        out.push(order);
        Some(reply)
    }

    /// Ends an attempt, as its job says if nothing else is given; as the settings say where the
    /// job is gone.
    pub(crate) fn kill_order(&self, attempt: &Attempt, kill: Option<Kill>) -> Effect {
        let worker = self.worker(attempt.worker);
        let job = self.plan.job(&attempt.name(&self.plan).job);
        let configured = job.map_or(self.plan.config.settings.kill, |job| {
            self.plan.jobs[job.index()].config.spec.kill
        });
        let order = Order::Kill { attempt: attempt.id, kill: kill.unwrap_or(configured) };
        let control = Control { fence: self.identity.fence(worker.incarnation), order };
        Effect::Control { worker: worker.name.clone(), control }
    }

    /// Lets failed tasks run again, and ends the waits of those in backoff.
    pub fn forgive(
        &mut self,
        now: Millis,
        request: &ForgiveRequest,
        out: &mut Vec<Effect>,
    ) -> Result<ForgiveReply, ApiError> {
        self.begin(now, out)?;
        let Some(job) = self.plan.job(&request.job) else {
            return Err(self.no_such_job(&request.job));
        };
        let tasks: Vec<TaskIx> = match &request.node {
            Some(node) => match self.plan.find_task(&request.job, node) {
                Some(task) => vec![task],
                None => return Err(self.no_such_node(&request.job, node)),
            },
            None => self.plan.cells(job).map(|(node, _)| TaskIx { job, node }).collect(),
        };
        let mut forgiven = 0;
        for task in tasks {
            if self.can_forgive(task) {
                self.forgive_task(task, out);
                forgiven += 1;
            }
        }
        let event = Event {
            job: Some(request.job.as_str().into()),
            node: request.node.as_deref().map(Into::into),
            actor: Some(request.actor.clone()),
            text: format!("{forgiven} tasks forgiven; {}", request.reason),
            ..self.event("audit.forgive")
        };
        self.audit(event, out);
        Ok(ForgiveReply { forgiven })
    }

    pub(crate) fn can_forgive(&self, task: TaskIx) -> bool {
        matches!(self.plan.cell(task).phase(), Phase::Failed | Phase::Backoff)
    }

    pub(crate) fn forgive_task(&mut self, task: TaskIx, out: &mut Vec<Effect>) {
        let mut record = self.record(task).map(Cow::into_owned).unwrap_or_default();
        self.backoffs.remove(&(record.backoff_until_ms(), task));
        record.phase = Phase::Ready;
        record.backoff_seconds = 0;
        if let Some(status) = &mut record.status
            && status.has(bits::FAILED)
        {
            status.result_bits = status.result_bits & !bits::FAILED | bits::ERROR;
        }
        let name = self.plan.task_name(task);
        out.push(Effect::Persist(Record::Task { task: name, record: record.clone() }));
        let known = self.known(task);
        self.settle(known, record);
    }

    pub(crate) fn no_such_job(&self, job: &str) -> ApiError {
        ApiError::new(ErrorCode::NotFound, format!("there is no job {job:?}"))
            .hint("`bistro jobs` lists them")
    }

    pub(crate) fn no_such_node(&self, job: &str, node: &str) -> ApiError {
        let level = self
            .plan
            .job(job)
            .map(|job| {
                self.plan.config.settings.levels[self.plan.jobs[job.index()].level()].as_str()
            })
            .unwrap_or_default();
        ApiError::new(
            ErrorCode::NotFound,
            format!("the job {job:?} runs on level {level:?}, which has no node {node:?}"),
        )
        .hint(format!("`bistro nodes --filter level={level}` lists them"))
    }
}
