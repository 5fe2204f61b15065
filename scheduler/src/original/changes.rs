//! Queries of the original's HTTP API that change something. Each is audited under who asked.

use serde_json::{Value, json};

use bistro_common::protocol::api::{ApiError, ForgiveRequest, KillRequest};
use bistro_common::protocol::job::{Audit, JobDeleteRequest, JobPutRequest, PutMode};
use bistro_core::{Core, Effect};

use super::{Context, text, texts};
use crate::no_room;

const REASON: &str = "by the HTTP API of the original";

/// `None`: the handler is none that changes something.
pub fn answer(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Option<Result<Value, String>> {
    let handler = query["handler"].as_str()?;
    let mut change = Change { core, context, query, out };
    Some(match handler {
        "save_job" | "delete_job" | "forgive_jobs" | "kill_task" if context.no_room => {
            Err(refused(no_room::refusal()))
        }
        "save_job" => change.save(),
        "delete_job" => change.delete(),
        "forgive_jobs" => change.forgive(),
        "kill_task" => change.kill(),
        _ => return None,
    })
}

fn refused(error: ApiError) -> String {
    match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    }
}

struct Change<'a> {
    core: &'a mut Core,
    context: &'a Context<'a>,
    query: &'a Value,
    out: &'a mut Vec<Effect>,
}

impl Change<'_> {
    fn actor(&self) -> String {
        self.context.actor.to_owned()
    }

    fn audit(&self) -> Audit {
        Audit { actor: self.actor(), reason: REASON.to_owned() }
    }

    fn save(&mut self) -> Result<Value, String> {
        let job = text(self.query, "job_id")?.to_owned();
        let definition =
            self.query["job"].as_object().cloned().ok_or("\"job\" must be an object")?;
        let known = self.core.job_document(&job).is_ok();
        let mode = if known { PutMode::Replace } else { PutMode::Create };
        let audit = self.audit();
        let request = JobPutRequest { job, definition, mode, version_id: None, audit };
        self.core.job_put(self.context.now, &request, self.out).map_err(refused)?;
        Ok(json!("saved"))
    }

    fn delete(&mut self) -> Result<Value, String> {
        let job = text(self.query, "job_id")?.to_owned();
        let request = JobDeleteRequest { job, version_id: None, audit: self.audit() };
        self.core.job_delete(self.context.now, &request, self.out).map_err(refused)?;
        Ok(json!("deleted"))
    }

    /// One that is not known ends it; those before are forgiven.
    fn forgive(&mut self) -> Result<Value, String> {
        for job in texts(self.query, "jobs")? {
            let (actor, reason) = (self.actor(), REASON.to_owned());
            let request = ForgiveRequest { job, node: None, actor, reason };
            self.core.forgive(self.context.now, &request, self.out).map_err(refused)?;
        }
        Ok(json!("forgiven"))
    }

    fn kill(&mut self) -> Result<Value, String> {
        let (job, node) = (text(self.query, "job_id")?, text(self.query, "node_id")?);
        let Some(attempt) = self.core.attempt_on(job, node) else {
            return Err(match self.core.task_count(job) {
                Some(_) => format!("Unknown running task {job}, {node}"),
                None => format!("Unknown job {job}"),
            });
        };
        let (actor, reason) = (self.actor(), REASON.to_owned());
        let request = KillRequest { attempt, kill: None, actor, reason };
        self.core.kill(self.context.now, &request, self.out).map_err(refused)?;
        Ok(json!("signaled"))
    }
}
