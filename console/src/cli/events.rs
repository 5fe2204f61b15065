//! `bistro events`: what happened, in order.

use serde_json::json;
use std::process::ExitCode;
use tokio::sync::mpsc;

use bistro_common::filter::Filter;
use bistro_common::protocol::event::Event;

use super::logs::since;
use super::print::{Rows, print_document, print_line};
use crate::args::{EventsArgs, Output};
use crate::client::Client;
use crate::client::events::Query;
use crate::text::{clock, safe};

const COLUMNS: &[&str] =
    &["kind", "time_ms", "job", "node", "attempt_no", "worker", "actor", "text"];
const EVENTS_MAX: usize = 256;

pub async fn run(client: Client, args: EventsArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !(args.follow && args.output == Output::Json),
        "-o json is one document; with --follow use -o ndjson"
    );
    let filter = Filter::parse(&args.filter, &Event::KEYS)?;
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let since_ms = since(args.since.as_deref())?;
    let (kind, count, follow) = (args.kind, args.lines, args.follow);
    let query = Query { kind, filter, count, since_ms, follow };
    let reading = tokio::spawn(client.events(query, sender));
    let mut rows = Rows::new(args.output, COLUMNS);
    let mut all = Vec::new();
    while let Some(event) = events.recv().await {
        match args.output {
            Output::Table => print_line(&line(&event))?,
            Output::Json => all.push(event),
            _ => print_line(&rows.next(&serde_json::to_value(event)?))?,
        }
    }
    if args.output == Output::Json {
        print_document(&json!({"items": all}))?;
    }
    reading.await??;
    Ok(ExitCode::SUCCESS)
}

/// One event as a line for people.
pub fn line(event: &Event) -> String {
    let mut line = format!("{} {:<16}", clock(event.time_ms), event.kind);
    let task = match (&event.job, &event.node) {
        (Some(job), Some(node)) => Some(format!("{job} on {node}")),
        (Some(name), None) | (None, Some(name)) => Some(name.to_string()),
        (None, None) => None,
    };
    let number = event.attempt_no.map(|number| format!("#{number}"));
    let worker = event.worker.as_ref().map(|worker| format!("worker {worker}"));
    let actor = event.actor.as_ref().map(|actor| format!("by {actor}"));
    let text = (!event.text.is_empty()).then(|| event.text.clone());
    for part in [task, number, worker, actor, text].into_iter().flatten() {
        line.push(' ');
        line.push_str(&part);
    }
    safe(&line)
}
