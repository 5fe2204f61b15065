//! `bistro job`: jobs that are made, changed and deleted from outside.

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use bistro_common::protocol::api::verb;
use bistro_common::protocol::job::{
    Audit, JobDeleteRequest, JobDeleted, JobDocument, JobGetRequest, JobOverrideRequest,
    JobPatchRequest, JobPutRequest, Origin, Overrides, PutMode,
};

use super::print::{print_document, say};
use crate::args::{AuditArgs, JobCommand};
use crate::client::{Client, actor};
use crate::text::safe;

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
        JobCommand::Delete { job, at, audit } => {
            let request = JobDeleteRequest { job, version_id: at.version_id, audit: of(audit) };
            let deleted: JobDeleted = client.ask(verb::JOB_DELETE, &request).await?;
            let running = deleted.running;
            say!("{} is deleted; {running} of its tasks run on", safe(&deleted.job))?;
        }
        JobCommand::Enable { job, audit } => {
            let overrides = Overrides { enabled: Some(true), priority: None };
            set(client, job, false, overrides, audit).await?;
        }
        JobCommand::Disable { job, audit } => {
            let overrides = Overrides { enabled: Some(false), priority: None };
            set(client, job, false, overrides, audit).await?;
        }
        JobCommand::SetPriority { job, priority, audit } => {
            let overrides = Overrides { enabled: None, priority: Some(priority) };
            set(client, job, false, overrides, audit).await?;
        }
        JobCommand::Reset { job, audit } => {
            set(client, job, true, Overrides::default(), audit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn of(audit: AuditArgs) -> Audit {
    Audit { actor: actor(), reason: audit.reason }
}

async fn set(
    client: &Client,
    job: String,
    reset: bool,
    overrides: Overrides,
    audit: AuditArgs,
) -> anyhow::Result<()> {
    let audit = of(audit);
    let request = JobOverrideRequest { job, reset, overrides, version_id: None, audit };
    changed(client, verb::JOB_OVERRIDE, &request).await
}

async fn changed(client: &Client, verb: &str, request: &impl Serialize) -> anyhow::Result<()> {
    let document: JobDocument = client.ask(verb, request).await?;
    let enabled = match document.effective.get("enabled") == Some(&json!(true)) {
        true => "enabled",
        false => "disabled",
    };
    let priority = document.effective.get("priority").and_then(Value::as_f64).unwrap_or(1.0);
    let origin = match document.origin {
        Origin::File if document.overrides.is_empty() => " as its file says",
        Origin::File => " beside what its file says",
        Origin::Store => "",
    };
    say!(
        "{} is {enabled} with priority {priority}{origin} (version {})",
        safe(&document.job),
        document.version_id
    )?;
    for warning in &document.warnings {
        say!("warning: {}", safe(warning))?;
    }
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
