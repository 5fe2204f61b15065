//! Queries of the original's HTTP API that change something. Each is audited under who asked.

use serde_json::{Value, json};

use bistro_common::protocol::api::{ApiError, ForgiveRequest, KillRequest};
use bistro_common::protocol::job::{Audit, JobDeleteRequest, JobPutRequest, PutMode};
use bistro_core::{Core, Effect};

use super::{Context, text, texts};

const REASON: &str = "by the HTTP API of the original";

fn audit(context: &Context<'_>) -> Audit {
    Audit { actor: context.actor.to_owned(), reason: REASON.to_owned() }
}

fn refused(error: ApiError) -> String {
    match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    }
}

pub fn save(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Result<Value, String> {
    let job = text(query, "job_id")?.to_owned();
    let definition = query["job"].as_object().cloned().ok_or("\"job\" must be an object")?;
    let known = core.job_document(&job).is_ok();
    let request = JobPutRequest {
        job,
        definition,
        mode: if known { PutMode::Replace } else { PutMode::Create },
        version_id: None,
        audit: audit(context),
    };
    core.job_put(context.now, &request, out).map_err(refused)?;
    Ok(json!("saved"))
}

pub fn delete(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Result<Value, String> {
    let job = text(query, "job_id")?.to_owned();
    let request = JobDeleteRequest { job, version_id: None, audit: audit(context) };
    core.job_delete(context.now, &request, out).map_err(refused)?;
    Ok(json!("deleted"))
}

/// One that is not known ends it; those before are forgiven.
pub fn forgive(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Result<Value, String> {
    for job in texts(query, "jobs")? {
        let Audit { actor, reason } = audit(context);
        let request = ForgiveRequest { job, node: None, actor, reason };
        core.forgive(context.now, &request, out).map_err(refused)?;
    }
    Ok(json!("forgiven"))
}

pub fn kill(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Result<Value, String> {
    let (job, node) = (text(query, "job_id")?, text(query, "node_id")?);
    let Some(attempt) = core.attempt_on(job, node) else {
        return Err(match core.task_count(job) {
            Some(_) => format!("Unknown running task {job}, {node}"),
            None => format!("Unknown job {job}"),
        });
    };
    let Audit { actor, reason } = audit(context);
    let request = KillRequest { attempt, kill: None, actor, reason };
    core.kill(context.now, &request, out).map_err(refused)?;
    Ok(json!("signaled"))
}
