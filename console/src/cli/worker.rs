//! `bistro worker drain|resume|forget`: workers that run already.

use std::process::ExitCode;

use super::act;
use crate::args::WorkerCommand;
use crate::client::Client;
use crate::client::actions::Action;

pub async fn run(client: &Client, command: WorkerCommand) -> anyhow::Result<ExitCode> {
    let (action, audit) = match command {
        WorkerCommand::Drain { worker, audit } => (Action::Drain { worker, on: true }, audit),
        WorkerCommand::Resume { worker, audit } => (Action::Drain { worker, on: false }, audit),
        WorkerCommand::Forget { worker, i_have_fenced_it: fenced, audit } => {
            (Action::Forget { worker, fenced }, audit)
        }
    };
    act(client, action, audit).await?;
    Ok(ExitCode::SUCCESS)
}
