//! `bistro job`: jobs that are made, changed and deleted from outside.

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use bistro_common::clock::Clock;
use bistro_common::protocol::api::{JobStats, JobStatsRequest, LevelCounts, verb};
use bistro_common::protocol::job::{
    Audit, JobDeleteRequest, JobDeleted, JobDocument, JobGetRequest, JobPatchRequest,
    JobPutRequest, Overrides, PutMode,
};

use super::act;
use super::print::{cell_text, print_document, print_rows, say};
use crate::args::{AuditArgs, JobCommand, Output, OutputArgs};
use crate::client::actions::{Action, how_it_is};
use crate::client::{Client, actor};
use crate::text::{change_line, runtimes_text, safe, safe_lines};

/// Changes that are told of a job.
const CHANGES: u64 = 10;

/// A definition may be so long; the scheduler takes less.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub async fn run(client: &Client, command: JobCommand) -> anyhow::Result<ExitCode> {
    match command {
        JobCommand::Get { job } => {
            let document: Value = client.ask(verb::JOB_GET, &JobGetRequest { job }).await?;
            print_document(&document)?;
        }
        JobCommand::Create { job, file, audit } => {
            let definition = read_object(&file)?;
            let mode = PutMode::Create;
            let audit = of(audit);
            let request = JobPutRequest { job, definition, mode, version_id: None, audit };
            changed(client, verb::JOB_PUT, &request).await?;
        }
        JobCommand::Replace { job, file, at, audit } => {
            let definition = read_object(&file)?;
            let (mode, version_id, audit) = (PutMode::Replace, at.version_id, of(audit));
            let request = JobPutRequest { job, definition, mode, version_id, audit };
            changed(client, verb::JOB_PUT, &request).await?;
        }
        JobCommand::Patch { job, patch, at, audit } => {
            let patch = parse_object(&patch).context("the patch")?;
            let (version_id, audit) = (at.version_id, of(audit));
            let request = JobPatchRequest { job, patch, version_id, audit };
            changed(client, verb::JOB_PATCH, &request).await?;
        }
        JobCommand::Edit { job, audit } => {
            say!("{}", safe_lines(&client.edit(&job, audit.reason).await?))?;
        }
        JobCommand::Delete { job, at, audit } => {
            let request = JobDeleteRequest { job, version_id: at.version_id, audit: of(audit) };
            let deleted: JobDeleted = client.ask(verb::JOB_DELETE, &request).await?;
            let running = deleted.running;
            say!("{} is deleted; {running} of its tasks run on", safe(&deleted.job))?;
        }
        JobCommand::Enable { job, audit } => {
            act(client, Action::Enable { job, on: true }, audit).await?;
        }
        JobCommand::Disable { job, audit } => {
            act(client, Action::Enable { job, on: false }, audit).await?;
        }
        JobCommand::SetPriority { job, priority, audit } => {
            act(client, Action::Prioritize { job, priority }, audit).await?;
        }
        JobCommand::Show { job, output } => show(client, job, output).await?,
        JobCommand::Reset { job, enabled, priority, version, audit } => {
            let (overrides, version_id) = (Overrides { enabled, priority }, version.version_id);
            act(client, Action::Reset { job, overrides, version_id }, audit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(client: &Client, job: String, output: OutputArgs) -> anyhow::Result<()> {
    let stats: JobStats =
        client.ask(verb::JOB_STATS, &JobStatsRequest { job: job.clone() }).await?;
    if output.output != Output::Table {
        print_rows(&json!({"items": [stats]}), output, &["job", "levels", "ran"])?;
        return Ok(());
    }
    for LevelCounts { level, counts } in &stats.levels {
        say!("{:<8} {}", safe(level), cell_text(&json!(counts)))?;
    }
    if let Some(ran) = &stats.ran {
        say!("{}", runtimes_text(ran))?;
    }
    for event in client.history(&job, CHANGES).await? {
        say!("{}", safe(&change_line(&event, Clock::start().now())))?;
    }
    Ok(())
}

fn of(audit: AuditArgs) -> Audit {
    Audit { actor: actor(), reason: audit.reason }
}

async fn changed(client: &Client, verb: &str, request: &impl Serialize) -> anyhow::Result<()> {
    let document: JobDocument = client.ask(verb, request).await?;
    say!("{}", safe_lines(&how_it_is(&document)))?;
    Ok(())
}

fn read_object(file: &Path) -> anyhow::Result<Map<String, Value>> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text),
        _ => {
            std::fs::File::open(file).and_then(|f| f.take(FILE_BYTES_MAX).read_to_string(&mut text))
        }
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    parse_object(&text).with_context(|| file.display().to_string())
}

fn parse_object(text: &str) -> anyhow::Result<Map<String, Value>> {
    serde_json::from_str(text).context("expected a JSON object such as {\"owner\": \"me\"}")
}
