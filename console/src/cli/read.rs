//! Commands that ask a scheduler, and how their answers are printed.

use serde::Serialize;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use bistro_common::clock::Clock;
use bistro_common::protocol::api::{
    BulkAction, CellStatus, ExplainRequest, Explanation, ListRequest, Page, TasksRequest, verb,
};
use bistro_common::protocol::task::{Kill, KillMethod};

use super::act;
use super::print::{cell_text, print_rows, say};
use crate::args::{
    AuditArgs, ListArgs, Output, OutputArgs, QueryArgs, ReadCommand, Signal, TaskArgs, TaskCommand,
    WhatArgs,
};
use crate::client::Client;
use crate::client::actions::Action;
use crate::client::attempts::{Attempt, Attempts};
use crate::text::{attempt_line, safe, task_facts};

pub async fn run(client: &Client, command: ReadCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReadCommand::Status { output } => status(client, output).await?,
        ReadCommand::Jobs(list) => {
            let columns = ["job", "enabled", "level", "priority", "counts", "errors"];
            show_list(client, verb::JOBS, &request(&list), &list, &columns).await?;
        }
        ReadCommand::Nodes(list) => {
            let columns = ["node", "level", "parent", "enabled", "slots"];
            show_list(client, verb::NODES, &request(&list), &list, &columns).await?;
        }
        ReadCommand::Workers(list) => {
            let columns = ["worker", "host", "health", "closed", "running", "capacity.isolation"];
            let columns = [&columns[..], &["capacity.limits", "build", "slots"]].concat();
            show_list(client, verb::WORKERS, &request(&list), &list, &columns).await?;
        }
        ReadCommand::Tasks { job, node, worker, state, list } => {
            let request = TasksRequest { job, node, worker, states: state, list: request(&list) };
            let columns = ["job", "node", "state", "attempt_no", "last"];
            show_list(client, verb::TASKS, &request, &list, &columns).await?;
        }
        ReadCommand::Task(TaskCommand::Show(TaskArgs { job, node, output })) => {
            show(client, ExplainRequest { job, node }, output).await?;
        }
        ReadCommand::Explain(TaskArgs { job, node, output }) => {
            explain(client, ExplainRequest { job, node }, output).await?;
        }
        ReadCommand::Kill { what, signal, grace, audit } => {
            let kill = signal.map(|signal| Kill { method: method(signal), wait_ms: grace * 1_000 });
            kill_what(client, what, kill, audit).await?;
        }
        ReadCommand::Forgive { what: WhatArgs { filter: Some(filter), yes, .. }, audit } => {
            bulk(client, BulkAction::Forgive, filter, None, yes, audit).await?;
        }
        ReadCommand::Forgive { what: WhatArgs { job, node, .. }, audit } => {
            let job = job.expect("a job is required where there is no filter");
            act(client, Action::Forgive { job, node }, audit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(list: &ListArgs) -> ListRequest {
    let page = Page { offset: list.offset, limit: list.limit };
    let QueryArgs { filter, sort } = list.query.clone();
    ListRequest { filter, sort, page }
}

/// Once, or again and again.
async fn show_list(
    client: &Client,
    verb: &str,
    request: &impl Serialize,
    list: &ListArgs,
    columns: &[&str],
) -> anyhow::Result<()> {
    loop {
        let rows: Value = client.ask(verb, request).await?;
        let Some(seconds) = list.watch else {
            print_rows(&rows, list.output, columns)?;
            return Ok(());
        };
        clear()?;
        print_rows(&rows, list.output, columns)?;
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    }
}

/// Makes room for the next look, on a terminal.
fn clear() -> std::io::Result<()> {
    if std::io::stdout().is_terminal() {
        use crossterm::{cursor::MoveTo, execute, terminal};
        execute!(std::io::stdout(), terminal::Clear(terminal::ClearType::All), MoveTo(0, 0))?;
    }
    Ok(())
}

fn method(signal: Signal) -> KillMethod {
    match signal {
        Signal::Term => KillMethod::Term,
        Signal::Kill => KillMethod::Kill,
        Signal::TermWaitKill => KillMethod::TermWaitKill,
    }
}

async fn kill_what(
    client: &Client,
    what: WhatArgs,
    kill: Option<Kill>,
    audit: AuditArgs,
) -> anyhow::Result<()> {
    if let Some(filter) = what.filter {
        return bulk(client, BulkAction::Kill, filter, kill, what.yes, audit).await;
    }
    let (Some(job), Some(node)) = (what.job, what.node) else {
        anyhow::bail!("which node? all of a job's tasks are --filter 'job=...'");
    };
    let request = ExplainRequest { job, node };
    let task: Explanation = client.ask(verb::EXPLAIN, &request).await?;
    let ExplainRequest { job, node } = request;
    let Some(running) = task.task.running else {
        anyhow::bail!("{job} on {node} is not running: it is {}", task.task.state.as_str());
    };
    act(client, Action::Kill { job, node, attempt: running.attempt, kill }, audit).await
}

/// Says what would be done to whom, and does it if that is wanted.
async fn bulk(
    client: &Client,
    action: BulkAction,
    filter: String,
    kill: Option<Kill>,
    yes: bool,
    audit: AuditArgs,
) -> anyhow::Result<()> {
    let plan = client.plan(action, &filter).await?;
    if yes {
        let plan = plan.plan;
        return act(client, Action::Apply { action, filter, plan, kill }, audit).await;
    }
    let counts = cell_text(&json!(plan.counts));
    say!("{} tasks{}{counts}", plan.total, if counts.is_empty() { "" } else { ": " })?;
    for task in &plan.sample {
        say!("  {} on {}  {}", safe(&task.job), safe(&task.node), task.state.as_str())?;
    }
    if plan.total > plan.sample.len() as u64 {
        say!("  ...")?;
    }
    if plan.total > 0 {
        say!("nothing was done; --yes does it")?;
    }
    Ok(())
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
    if let Some(standbys) = status.standbys {
        say!("standbys {standbys}")?;
    }
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
        let mut task = json!(explanation.task);
        task["attempts"] = json!(attempts(client, &request).await);
        let columns = ["job", "node", "state", "attempt_no", "last", "usage"];
        print_rows(&json!({"items": [task]}), output, &columns)?;
        return Ok(());
    }
    for (label, text) in task_facts(&explanation, Clock::start().now()) {
        say!("{label:<9}{}", safe(&text))?;
    }
    say_reasons(&explanation)?;
    for attempt in attempts(client, &request).await {
        say!("{}", safe(&attempt_line(&attempt)))?;
    }
    Ok(())
}

/// As far as workers answer: what the scheduler has said holds without them.
async fn attempts(client: &Client, request: &ExplainRequest) -> Vec<Attempt> {
    let Attempts { attempts, problems } =
        client.attempts(&request.job, &request.node).await.unwrap_or_else(|error| Attempts {
            attempts: Vec::new(),
            problems: vec![format!("{error:#}")],
        });
    for problem in problems {
        eprintln!("warning: attempts may be missing: {}", safe(&problem));
    }
    attempts
}
