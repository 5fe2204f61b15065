//! Commands that ask a scheduler, and how their answers are printed.

use serde_json::{Value, json};
use std::process::ExitCode;

use bistro_common::clock::Clock;
use bistro_common::protocol::api::{
    CellStatus, ExplainRequest, Explanation, ForgiveReply, ForgiveRequest, KillReply, KillRequest,
    NodesRequest, Page, TasksRequest, verb,
};

use super::print::{cell_text, print_rows, say};
use crate::args::{Output, OutputArgs, ReadCommand, TaskCommand};
use crate::client::{Client, actor};
use crate::text::{safe, task_facts};

pub async fn run(client: &Client, command: ReadCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReadCommand::Status(output) => status(client, output).await?,
        ReadCommand::Jobs(output) => {
            let rows: Value = client.ask(verb::JOBS, &page(output)).await?;
            print_rows(
                &rows,
                output,
                &["job", "enabled", "level", "priority", "counts", "errors"],
            )?;
        }
        ReadCommand::Nodes { level, contains, output } => {
            let request = NodesRequest { level, contains, page: page(output) };
            let rows: Value = client.ask(verb::NODES, &request).await?;
            print_rows(&rows, output, &["node", "level", "parent", "enabled", "slots"])?;
        }
        ReadCommand::Workers(output) => {
            let rows: Value = client.ask(verb::WORKERS, &page(output)).await?;
            let columns = ["worker", "host", "health", "closed", "running", "capacity.isolation"];
            print_rows(&rows, output, &[&columns[..], &["build", "slots"]].concat())?;
        }
        ReadCommand::Tasks { job, node, contains, worker, state, output } => {
            let request =
                TasksRequest { job, node, contains, worker, states: state, page: page(output) };
            let rows: Value = client.ask(verb::TASKS, &request).await?;
            print_rows(&rows, output, &["job", "node", "state", "attempt_no", "last"])?;
        }
        ReadCommand::Task(TaskCommand::Show { job, node, output }) => {
            show(client, ExplainRequest { job, node }, output).await?;
        }
        ReadCommand::Explain { job, node, output } => {
            explain(client, ExplainRequest { job, node }, output).await?;
        }
        ReadCommand::Kill { job, node, reason } => {
            let request = ExplainRequest { job, node };
            let task: Explanation = client.ask(verb::EXPLAIN, &request).await?;
            let Some(running) = task.task.running else {
                anyhow::bail!(
                    "{} on {} is not running: it is {}",
                    request.job,
                    request.node,
                    task.task.state.as_str()
                );
            };
            let request =
                KillRequest { attempt: running.attempt, kill: None, actor: actor(), reason };
            let reply: KillReply = client.ask(verb::KILL, &request).await?;
            say!(
                "asked {} to end {} on {} (attempt {})",
                safe(&reply.worker),
                safe(&reply.job),
                safe(&reply.node),
                reply.attempt_no
            )?;
        }
        ReadCommand::Forgive { job, node, reason } => {
            let request = ForgiveRequest { job, node, actor: actor(), reason };
            let reply: ForgiveReply = client.ask(verb::FORGIVE, &request).await?;
            say!("{} tasks forgiven", reply.forgiven)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn page(output: OutputArgs) -> Page {
    Page { offset: output.offset, limit: output.limit }
}

async fn status(client: &Client, output: OutputArgs) -> anyhow::Result<()> {
    let status: CellStatus = client.ask(verb::STATUS, &json!({})).await?;
    if output.output != Output::Table {
        print_rows(&json!({"items": [status]}), output, &["cell", "epoch", "finished", "counts"])?;
        return Ok(());
    }
    let counts = cell_text(&json!(status.counts));
    say!(
        "cell {}  epoch {}  {} jobs, {} nodes",
        status.cell,
        status.epoch,
        status.jobs,
        status.nodes
    )?;
    say!("workers  {} of {} healthy", status.workers_healthy, status.workers)?;
    say!("tasks    {}", if counts.is_empty() { "none" } else { &counts })?;
    for line in &status.stuck {
        say!("stuck    {}", safe(line))?;
    }
    for problem in &status.problems {
        say!("{}", safe(&problem.to_string()))?;
    }
    Ok(())
}

async fn explain(
    client: &Client,
    request: ExplainRequest,
    output: OutputArgs,
) -> anyhow::Result<()> {
    let explanation: Explanation = client.ask(verb::EXPLAIN, &request).await?;
    if output.output != Output::Table {
        print_rows(&json!({"items": [explanation]}), output, &["task", "path", "reasons"])?;
        return Ok(());
    }
    say!("{} on {}", safe(&explanation.task.job), safe(&explanation.path.join(" > ")))?;
    say!("{}", explanation.task.state.as_str())?;
    say_reasons(&explanation)
}

fn say_reasons(explanation: &Explanation) -> anyhow::Result<()> {
    for reason in &explanation.reasons {
        say!("- {}", safe(&reason.text))?;
        for holder in &reason.held_by {
            say!("    held by {} on {}", safe(&holder.job), safe(&holder.node))?;
        }
    }
    Ok(())
}

async fn show(client: &Client, request: ExplainRequest, output: OutputArgs) -> anyhow::Result<()> {
    let explanation: Explanation = client.ask(verb::EXPLAIN, &request).await?;
    if output.output != Output::Table {
        let tasks = json!({"items": [explanation.task]});
        print_rows(&tasks, output, &["job", "node", "state", "attempt_no", "last", "usage"])?;
        return Ok(());
    }
    for (label, text) in task_facts(&explanation, Clock::start().now()) {
        say!("{label:<9}{}", safe(&text))?;
    }
    say_reasons(&explanation)
}
