//! `bistro logs`: lines of tasks, from all workers.

use anyhow::Context;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::clock::Clock;
use bistro_common::protocol::api::{ExplainRequest, verb};
use bistro_common::protocol::job::JobGetRequest;
use bistro_common::protocol::log::Stream;

use super::print::{Rows, print_document, print_line};
use crate::args::{LogsArgs, Output};
use crate::client::logs::{Line, Query};
use crate::client::{Client, Unreachable};
use crate::text::{clock_ms, parse_time, safe};

const COLUMNS: &[&str] = &["node", "job", "worker", "time_ms", "stream", "attempt_no", "text"];
/// Batches of followed lines that wait for a slow reader.
const BATCHES_MAX: usize = 16;

pub async fn run(client: Client, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let streams = match args.stream.is_empty() {
        true => vec![Stream::Stdout, Stream::Stderr],
        false => args.stream.clone(),
    };
    let query = Query {
        streams,
        job: args.job,
        node: args.node,
        attempt: args.attempt,
        regex: args.grep,
        worker: args.worker,
        since_ms: since(args.since.as_deref())?,
    };
    anyhow::ensure!(
        !(args.follow && args.output == Output::Json),
        "-o json is one document; with --follow use -o ndjson"
    );
    let tail = client.tail_logs(&query, args.lines).await?;
    let mut print = Print {
        table: args.output == Output::Table,
        rows: Rows::new(args.output, COLUMNS),
        sanitize: std::io::stdout().is_terminal(),
    };
    match args.output {
        Output::Json => print_document(&json!({"items": tail.lines}))?,
        _ => print.lines(&tail.lines)?,
    }
    for problem in &tail.problems {
        eprintln!("warning: {}", safe(problem));
    }
    if !args.follow {
        if tail.lines.is_empty() {
            say_why_empty(&client, &query, &tail.problems).await?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (sender, mut lines) = mpsc::channel(BATCHES_MAX);
    tokio::spawn(client.follow_logs(query, tail.next, sender));
    while let Some(lines) = lines.recv().await {
        print.lines(&lines)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn say_why_empty(client: &Client, query: &Query, problems: &[String]) -> anyhow::Result<()> {
    if !problems.is_empty() {
        return Err(Unreachable("no worker's log could be read".to_owned()).into());
    }
    // A name may be misspelled; but logs outlive jobs and nodes, so it is asked only now.
    if let Some(job) = query.job.clone() {
        let _: Value = match query.node.clone() {
            Some(node) => client.ask(verb::EXPLAIN, &ExplainRequest { job, node }).await?,
            None => client.ask(verb::JOB_GET, &JobGetRequest { job }).await?,
        };
    }
    eprintln!("no lines; `bistro tasks` says what has run, and --stream statuses how it went");
    Ok(())
}

struct Print {
    table: bool,
    rows: Rows<'static>,
    /// A terminal must not be steered by what tasks print; a file gets it as it is.
    sanitize: bool,
}

impl Print {
    fn lines(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        for line in lines {
            let text = match self.table {
                true => self.for_people(line),
                false => self.rows.next(&serde_json::to_value(line)?),
            };
            print_line(&text)?;
        }
        Ok(())
    }

    fn for_people(&self, Line { worker, line }: &Line) -> String {
        let text = if self.sanitize { safe(&line.text) } else { line.text.clone() };
        let mark = match (line.dropped > 0, line.stream) {
            (true, _) => '!',
            (_, Stream::Stdout) => ' ',
            (_, Stream::Stderr) => 'E',
            (_, Stream::Statuses) => 'S',
        };
        let (job, node) = (safe(&line.job), safe(&line.node));
        format!("{} {worker} {job} {node} {mark} {text}", clock_ms(line.time_ms))
    }
}

/// A time that was given.
pub fn since(text: Option<&str>) -> anyhow::Result<Option<Millis>> {
    let Some(text) = text else { return Ok(None) };
    let time = parse_time(text, Clock::start().now());
    time.map(Some).with_context(|| format!("--since {text:?} is no time; try -10m or 14:05"))
}
