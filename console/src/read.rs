//! Commands that ask a scheduler, and how their answers are printed.

use serde_json::{Value, json};
use std::process::ExitCode;

use bistro_common::protocol::api::{
    CellStatus, ExplainRequest, Explanation, ForgiveReply, ForgiveRequest, KillReply, KillRequest,
    Page, TasksRequest, verb,
};

use crate::args::{Output, OutputArgs, ReadCommand};
use crate::client::Client;

pub async fn run(client: &Client, command: ReadCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReadCommand::Status(output) => status(client, output).await?,
        ReadCommand::Jobs(output) => {
            let rows: Value = client.ask(verb::JOBS, &page(output)).await?;
            print_rows(&rows, output, &["job", "enabled", "level", "priority", "counts", "errors"]);
        }
        ReadCommand::Nodes(output) => {
            let rows: Value = client.ask(verb::NODES, &json!({"page": page(output)})).await?;
            print_rows(&rows, output, &["node", "level", "parent", "enabled", "slots"]);
        }
        ReadCommand::Workers(output) => {
            let rows: Value = client.ask(verb::WORKERS, &page(output)).await?;
            print_rows(&rows, output, &["worker", "host", "health", "closed", "running", "slots"]);
        }
        ReadCommand::Tasks { job, node, state, output } => {
            let request = TasksRequest {
                job,
                node,
                states: state,
                page: page(output),
                ..TasksRequest::default()
            };
            let rows: Value = client.ask(verb::TASKS, &request).await?;
            print_rows(&rows, output, &["job", "node", "state", "attempt_no", "last"]);
        }
        ReadCommand::Explain { job, node, output } => explain(client, job, node, output).await?,
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
            println!(
                "asked {} to end {} on {} (attempt {})",
                reply.worker, reply.job, reply.node, reply.attempt_no
            );
        }
        ReadCommand::Forgive { job, node, reason } => {
            let request = ForgiveRequest { job, node, actor: actor(), reason };
            let reply: ForgiveReply = client.ask(verb::FORGIVE, &request).await?;
            println!("{} tasks forgiven", reply.forgiven);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn page(output: OutputArgs) -> Page {
    Page { offset: output.offset, limit: output.limit }
}

fn actor() -> String {
    std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned())
}

async fn status(client: &Client, output: OutputArgs) -> anyhow::Result<()> {
    let status: CellStatus = client.ask(verb::STATUS, &json!({})).await?;
    if output.output != Output::Table {
        print_rows(&json!({"items": [status]}), output, &["cell", "epoch", "finished", "counts"]);
        return Ok(());
    }
    let counts = cell_text(&json!(status.counts));
    println!(
        "cell {}  epoch {}  {} jobs, {} nodes",
        status.cell, status.epoch, status.jobs, status.nodes
    );
    println!("workers  {} of {} healthy", status.workers_healthy, status.workers);
    println!("tasks    {}", if counts.is_empty() { "none" } else { &counts });
    for line in &status.stuck {
        println!("stuck    {line}");
    }
    for problem in &status.problems {
        println!("{problem}");
    }
    Ok(())
}

async fn explain(
    client: &Client,
    job: String,
    node: String,
    output: OutputArgs,
) -> anyhow::Result<()> {
    let request = ExplainRequest { job, node };
    let explanation: Explanation = client.ask(verb::EXPLAIN, &request).await?;
    if output.output != Output::Table {
        print_rows(&json!({"items": [explanation]}), output, &["task", "path", "reasons"]);
        return Ok(());
    }
    println!("{} on {}", explanation.task.job, explanation.path.join(" > "));
    println!("{}", explanation.task.state.as_str());
    for reason in &explanation.reasons {
        println!("- {}", reason.text);
        for holder in &reason.held_by {
            println!("    held by {} on {}", holder.job, holder.node);
        }
    }
    Ok(())
}

/// Prints a listing; `columns` are those of the table and of CSV, the first one is the name.
fn print_rows(listing: &Value, output: OutputArgs, columns: &[&str]) {
    let empty = Vec::new();
    let items = listing["items"].as_array().unwrap_or(&empty);
    let text = |item: &Value, column: &&str| cell_text(&item[*column]);
    match output.output {
        Output::Json => println!("{listing:#}"),
        Output::Ndjson => items.iter().for_each(|item| println!("{item}")),
        Output::Name => items.iter().for_each(|item| println!("{}", text(item, &columns[0]))),
        Output::Csv => {
            println!("{}", columns.join(","));
            for item in items {
                let fields: Vec<_> = columns.iter().map(|c| csv_field(&text(item, c))).collect();
                println!("{}", fields.join(","));
            }
        }
        Output::Table => {
            let rows: Vec<Vec<String>> =
                items.iter().map(|item| columns.iter().map(|c| text(item, c)).collect()).collect();
            print_table(columns, &rows);
            let total = listing["total"].as_u64().unwrap_or(0);
            if total > items.len() as u64 {
                println!("{} of {total}; see --offset and --limit", items.len());
            }
        }
    }
}

fn print_table(columns: &[&str], rows: &[Vec<String>]) {
    let header: Vec<String> = columns.iter().map(|c| c.to_uppercase()).collect();
    let lines = || std::iter::once(&header).chain(rows);
    let width = |i: usize| lines().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in lines() {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A JSON value in one line for people. Names come from nodes and tasks, so control characters
/// are shown and not obeyed.
fn cell_text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell_text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => match (fields.get("used"), fields.get("limit")) {
            (Some(used), Some(limit)) => format!("{used}/{limit}"),
            _ => fields
                .iter()
                .map(|(key, value)| format!("{key} {}", cell_text(value)))
                .collect::<Vec<_>>()
                .join(", "),
        },
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_one_safe_line() {
        assert_eq!(cell_text(&json!({"cpu": {"used": 1, "limit": 4}})), "cpu 1/4");
        assert_eq!(cell_text(&json!("a\u{1b}[31m")), "a\u{fffd}[31m");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
