//! Names of jobs, nodes and workers for completion in a shell: asked of the cell while somebody
//! types, briefly, and none if it does not answer.

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use serde_json::Value;
use std::ffi::OsStr;
use std::time::Duration;

use bistro_common::filter;
use bistro_common::nats::Patience;
use bistro_common::protocol::api::{ListRequest, Page, verb};

use crate::client::{Client, Place, find_url};

/// Longer than this nobody waits for a tab key.
const PATIENCE: Duration = Duration::from_millis(700);
const NAMES_MAX: u32 = 200;

pub fn jobs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| names(verb::JOBS, "job", typed))
}

pub fn nodes() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| names(verb::NODES, "node", typed))
}

pub fn workers() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| names(verb::WORKERS, "worker", typed))
}

fn names(verb: &'static str, column: &'static str, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let asked = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, ask(verb, column, &typed)).await.ok()?.ok()
    });
    let names = asked.unwrap_or_default().into_iter();
    names.filter(|name| name.starts_with(&typed)).map(CompletionCandidate::new).collect()
}

/// The command line is not read yet: what it says of the cell is taken from the environment.
async fn ask(verb: &str, column: &str, typed: &str) -> anyhow::Result<Vec<String>> {
    let set = |name: &str| std::env::var(name).ok();
    let context = set("BISTRO_CONTEXT");
    let place =
        Place::find(set("BISTRO_NATS_URL"), context.as_deref(), set("BISTRO_CELL").as_deref())?;
    let url = find_url(place.nats.as_deref())?;
    let client = Client::connect(&url, place.cell, Patience::FailFast).await?;
    let filter = match typed {
        "" => String::new(),
        typed => filter::beginning(column, typed),
    };
    let page = Page { offset: 0, limit: NAMES_MAX };
    let request = ListRequest { filter, sort: String::new(), page };
    let rows: Value = client.ask(verb, &request).await?;
    let rows = rows["items"].as_array().cloned().unwrap_or_default();
    Ok(rows.iter().filter_map(|row| Some(row[column].as_str()?.to_owned())).collect())
}
