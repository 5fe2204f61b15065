//! `bistro submit`: a command as a job of one task, for those who want a queue.

use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bistro_common::protocol::api::{
    CellStatus, ExplainRequest, Explanation, Listing, TaskRow, TaskState, TasksRequest, verb,
};
use bistro_common::protocol::job::Audit;

use super::print::say;
use crate::POLL;
use crate::args::SubmitArgs;
use crate::client::submission::{definition, job_name};
use crate::client::{Client, Unreachable, actor};
use crate::text::safe;

/// Who waits longer wants to know what for.
const QUIET: Duration = Duration::from_secs(2);

pub async fn run(client: &Client, args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let audit = Audit { actor: actor(), reason: String::new() };
    let document = client.submit(job_name(&args), definition(&args), audit).await?;
    say!("{}", safe(&document.job))?;
    for warning in &document.warnings {
        eprintln!("warning: {}", safe(warning));
    }
    match args.wait {
        true => wait_for(client, document.job).await,
        false => Ok(ExitCode::SUCCESS),
    }
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
