//! `bistro worker drain|resume|forget`: workers that run already.

use std::process::ExitCode;

use bistro_common::protocol::api::{WorkerDrainRequest, WorkerForgetRequest, WorkerReply, verb};

use super::job::of;
use super::print::say;
use crate::args::{AuditArgs, WorkerCommand};
use crate::client::Client;
use crate::text::safe;

pub async fn run(client: &Client, command: WorkerCommand) -> anyhow::Result<ExitCode> {
    match command {
        WorkerCommand::Drain { worker, audit } => {
            let reply = drain(client, worker, true, audit).await?;
            let running = reply.attempts;
            say!("{} takes no new work; it still runs {running} tasks", safe(&reply.worker))?;
        }
        WorkerCommand::Resume { worker, audit } => {
            let reply = drain(client, worker, false, audit).await?;
            say!("{} takes work again", safe(&reply.worker))?;
        }
        WorkerCommand::Forget { worker, i_have_fenced_it: fenced, audit } => {
            let request = WorkerForgetRequest { worker, fenced, audit: of(audit) };
            let reply: WorkerReply = client.ask(verb::WORKER_FORGET, &request).await?;
            let lost = reply.attempts;
            say!("{} is forgotten; {lost} of its tasks were given up", safe(&reply.worker))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn drain(
    client: &Client,
    worker: String,
    on: bool,
    audit: AuditArgs,
) -> anyhow::Result<WorkerReply> {
    let request = WorkerDrainRequest { worker, on, audit: of(audit) };
    client.ask(verb::WORKER_DRAIN, &request).await
}
