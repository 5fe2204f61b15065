//! `bistro submit`: a command as a job of one task, for those who want a queue.

use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bistro_common::ids::AttemptId;
use bistro_common::protocol::api::{
    CellStatus, ExplainRequest, Explanation, Listing, TaskRow, TaskState, TasksRequest, verb,
};
use bistro_common::protocol::job::{Audit, JobDocument, JobPutRequest, PutMode};

use super::print::say;
use crate::POLL;
use crate::args::SubmitArgs;
use crate::client::{Client, Unreachable, actor};
use crate::text::safe;

/// The first wait after an error; each one is twice the one before.
const FIRST_RETRY_SEC: u64 = 5;

/// Who waits longer wants to know what for.
const QUIET: Duration = Duration::from_secs(2);

pub async fn run(client: &Client, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let wait = args.wait;
    let request = JobPutRequest {
        job: args.name.clone().unwrap_or_else(|| name_for(&args.command)),
        definition: definition(args),
        mode: PutMode::Create,
        version_id: None,
        audit: Audit { actor: actor(), reason: String::new() },
    };
    let document: JobDocument = client.ask(verb::JOB_PUT, &request).await?;
    say!("{}", safe(&document.job))?;
    for warning in &document.warnings {
        eprintln!("warning: {}", safe(warning));
    }
    match wait {
        true => wait_for(client, document.job).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

fn definition(args: SubmitArgs) -> Map<String, Value> {
    let mut job = Map::from_iter([
        ("owner".to_owned(), json!(actor())),
        ("level_for_tasks".to_owned(), json!("instance")),
        ("command".to_owned(), json!(args.command)),
        ("plain_command".to_owned(), json!(true)),
    ]);
    let waits = (0..u32::from(args.retries)).map(|n| json!(FIRST_RETRY_SEC << n));
    let backoff: Vec<Value> = waits.chain([json!("fail")]).collect();
    job.insert("backoff".to_owned(), json!(backoff));
    if !args.resources.is_empty() {
        let slots = args.resources.into_iter().map(|(name, slots)| (name, json!(slots)));
        job.insert("resources".to_owned(), Value::Object(slots.collect()));
    }
    if let Some(priority) = args.priority {
        job.insert("priority".to_owned(), json!(priority));
    }
    if !args.after.is_empty() {
        job.insert("depends_on".to_owned(), json!(args.after));
    }
    if let Some(host) = args.host {
        job.insert("host_placement".to_owned(), json!(host));
    }
    job
}

/// Names that sort by time, and that no two submissions share.
fn name_for(command: &[String]) -> String {
    let program = command.first().map_or("task", String::as_str);
    let program = program.rsplit('/').next().unwrap_or(program);
    // The time in milliseconds, and what makes it unique.
    let id = AttemptId::generate().0.as_u128();
    format!("{program}-{:012x}-{:08x}", id >> 80, id as u32)
}

/// A scheduler that has just started may not know its jobs yet.
async fn planned(client: &Client) -> bool {
    let status: anyhow::Result<CellStatus> = client.ask(verb::STATUS, &json!({})).await;
    status.is_ok_and(|status| status.nodes > 0 && status.enabled)
}

/// What keeps a task from starting, if that is anything but its run.
async fn reason_to_wait(client: &Client, task: &TaskRow) -> Option<String> {
    if matches!(task.state, TaskState::Running | TaskState::Unsure) {
        return None;
    }
    let request = ExplainRequest { job: task.job.clone(), node: task.node.clone() };
    let explained: anyhow::Result<Explanation> = client.ask(verb::EXPLAIN, &request).await;
    Some(explained.ok()?.reasons.into_iter().next()?.text)
}

async fn wait_for(client: &Client, job: String) -> anyhow::Result<ExitCode> {
    let request = TasksRequest { job: Some(job), ..TasksRequest::default() };
    let started = Instant::now();
    let mut said = None;
    loop {
        let tasks: anyhow::Result<Listing<TaskRow>> = client.ask(verb::TASKS, &request).await;
        match tasks.as_ref().map(|tasks| tasks.items.first()) {
            Ok(Some(task)) if task.state == TaskState::Done => return Ok(ExitCode::SUCCESS),
            Ok(Some(task)) if task.state == TaskState::Failed => {
                let why = task.last.as_ref().and_then(|status| status.exception());
                eprintln!("failed: {}", safe(why.unwrap_or("it says no more")));
                return Ok(ExitCode::from(1));
            }
            Ok(Some(task)) if started.elapsed() > QUIET => {
                let reason = reason_to_wait(client, task).await;
                if let Some(reason) = reason.filter(|reason| said.as_ref() != Some(reason)) {
                    eprintln!("waiting: {}", safe(&reason));
                    said = Some(reason);
                }
            }
            Ok(None) if planned(client).await => anyhow::bail!("the job was deleted meanwhile"),
            Ok(_) => {}
            // It is on disk: a scheduler that comes back goes on with it.
            Err(error) if error.is::<Unreachable>() => {}
            Err(_) => return tasks.map(|_| ExitCode::SUCCESS),
        }
        tokio::time::sleep(POLL).await;
    }
}
