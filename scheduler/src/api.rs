//! Requests of people and pipelines: parsed, answered from the core, encoded. One place for all
//! verbs, whatever face they come through.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::grid_watch::GridWatch;
use crate::no_room;
use bistro_common::Millis;
use bistro_common::protocol::api::{
    ApiError, ApiReply, CellStatus, ErrorCode, ExplainRequest, GridRequest, JobStatsRequest,
    ProblemReport, verb,
};
use bistro_common::protocol::encode;
use bistro_common::protocol::job::JobGetRequest;
use bistro_core::{Core, Effect, Identity};

/// What the shell knows and the core does not.
pub struct Facts<'a> {
    pub cell: &'a str,
    pub identity: Identity,
    pub started: Millis,
    pub now: Millis,
    pub problems: &'a [ProblemReport],
    /// Nothing can be written down.
    pub no_room: bool,
    /// Schedulers that stand by, where any is to.
    pub standbys: Option<u64>,
}

/// The reply to one request.
pub fn answer(
    core: &mut Core,
    watch: &mut GridWatch,
    facts: &Facts<'_>,
    verb: &str,
    payload: &[u8],
    out: &mut Vec<Effect>,
) -> Vec<u8> {
    if facts.no_room && !verb::READS.contains(&verb) {
        return reply::<()>(Err(no_room::refusal()));
    }
    match verb {
        verb::STATUS => reply(Ok(status(core, facts))),
        verb::JOBS => reply(parse(payload).and_then(|request| core.job_rows(&request))),
        verb::NODES => reply(parse(payload).and_then(|request| core.node_rows(&request))),
        verb::TASKS => {
            reply(parse(payload).and_then(|request| core.task_rows(facts.now, &request)))
        }
        verb::WORKERS => reply(parse(payload).and_then(|request| core.worker_rows(&request))),
        verb::GRID => reply(parse::<GridRequest>(payload).map(|mut request| {
            if request.watch && !watch.renew(core) {
                request.in_sync = 0;
            }
            core.grid(&request, watch.seq())
        })),
        verb::EXPLAIN => reply(
            parse::<ExplainRequest>(payload)
                .and_then(|request| core.explain(&request.job, &request.node)),
        ),
        verb::KILL => reply(parse(payload).and_then(|request| core.kill(facts.now, &request, out))),
        verb::FORGIVE => {
            reply(parse(payload).and_then(|request| core.forgive(facts.now, &request, out)))
        }
        verb::PLAN => reply(parse(payload).and_then(|request| core.plan_bulk(facts.now, &request))),
        verb::APPLY => {
            reply(parse(payload).and_then(|request| core.apply_bulk(facts.now, &request, out)))
        }
        verb::JOB_GET => reply(
            parse::<JobGetRequest>(payload).and_then(|request| core.job_document(&request.job)),
        ),
        verb::JOB_STATS => reply(
            parse::<JobStatsRequest>(payload).and_then(|request| core.job_stats(&request.job)),
        ),
        verb::JOB_PUT => {
            reply(parse(payload).and_then(|request| core.job_put(facts.now, &request, out)))
        }
        verb::JOB_PATCH => {
            reply(parse(payload).and_then(|request| core.job_patch(facts.now, &request, out)))
        }
        verb::JOB_DELETE => {
            reply(parse(payload).and_then(|request| core.job_delete(facts.now, &request, out)))
        }
        verb::JOB_OVERRIDE => {
            reply(parse(payload).and_then(|request| core.job_override(facts.now, &request, out)))
        }
        verb::WORKER_DRAIN => {
            reply(parse(payload).and_then(|request| core.worker_drain(facts.now, &request, out)))
        }
        verb::WORKER_FORGET => {
            reply(parse(payload).and_then(|request| core.worker_forget(facts.now, &request, out)))
        }
        unknown => reply::<()>(Err(ApiError::new(
            ErrorCode::UnknownVerb,
            format!("this scheduler has no verb {unknown:?}"),
        ))),
    }
}

/// In place of an answer that does not fit into a message.
pub fn too_large(bytes: usize) -> Vec<u8> {
    let message = format!("the answer has {bytes} bytes, more than a message may have");
    reply::<()>(Err(ApiError::new(ErrorCode::BadRequest, message).hint("ask for a smaller page")))
}

fn status(core: &Core, facts: &Facts<'_>) -> CellStatus {
    let (jobs, nodes) = core.sizes();
    let (workers, workers_healthy) = core.worker_counts();
    let finished = core.is_finished();
    CellStatus {
        cell: facts.cell.to_owned(),
        cell_id: facts.identity.cell,
        scheduler: facts.identity.scheduler,
        epoch: facts.identity.epoch,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: facts.started,
        now_ms: facts.now,
        enabled: core.is_enabled(),
        counts: core.counts(),
        jobs,
        nodes,
        workers,
        workers_healthy,
        standbys: facts.standbys,
        finished,
        stuck: if finished { core.stuck() } else { Vec::new() },
        problems: facts.problems.to_vec(),
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
    let payload = if payload.is_empty() { b"{}" } else { payload };
    serde_json::from_slice(payload).map_err(|error| {
        ApiError::new(ErrorCode::BadRequest, format!("the request cannot be read: {error}"))
    })
}

fn reply<T: Serialize>(result: Result<T, ApiError>) -> Vec<u8> {
    encode(&ApiReply::new(result))
}
