//! One client of a cell, for commands and console alike.

pub mod actions;
pub mod attempts;
pub mod command_line;
pub mod contexts;
mod edit;
pub mod events;
pub mod logs;
pub mod submission;

use anyhow::Context;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

use contexts::Contexts;

use bistro_common::nats::{Address, Bus, NatsError, Patience};
use bistro_common::protocol::api::{ApiError, ApiReply, ErrorCode};
use bistro_common::subject::{Cell, client_role};

const TIMEOUT: Duration = Duration::from_secs(5);

/// How long cells may take to say that they are there.
const DISCOVERY: Duration = Duration::from_millis(500);
const CELLS_MAX: usize = 500;

/// The cell did not answer.
#[derive(Debug)]
pub struct Unreachable(pub String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// The scheduler does not do what was asked for.
#[derive(Debug)]
pub struct Refused(pub ApiError);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)?;
        self.0.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Refused {}

/// Where `bistro up` in this directory has written how to reach its NATS.
pub const URL_FILE: &str = ".bistro/up/nats.url";

/// Where a cell is: its NATS, if that is known, its name, and the context that says so.
#[derive(Debug)]
pub struct Place {
    pub nats: Option<String>,
    pub cell: Cell,
    pub context: Option<String>,
}

impl Place {
    /// What is given counts first, then a context that is, then a `bistro up` in this directory,
    /// then the current context.
    pub fn find(
        nats: Option<String>,
        context: Option<&str>,
        cell: Option<&str>,
    ) -> anyhow::Result<Self> {
        let here = nats.is_some() || context.is_none() && Path::new(URL_FILE).exists();
        let contexts = if here { Contexts::default() } else { Contexts::load()? };
        let chosen = contexts.chosen(context)?;
        let of_context = chosen.map(|(_, context)| context.cell.as_str());
        let cell = Cell::new(cell.or(of_context).unwrap_or("main")).context("--cell")?;
        let nats = nats.or_else(|| chosen.map(|(_, context)| context.nats.clone()));
        Ok(Self { nats, cell, context: chosen.map(|(name, _)| name.to_owned()) })
    }
}

/// The address that was given, or that of a `bistro up` in this directory.
pub fn find_url(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(url) = given {
        return Ok(url.to_owned());
    }
    if Path::new(URL_FILE).exists() {
        let url =
            std::fs::read_to_string(URL_FILE).with_context(|| format!("reading {URL_FILE}"))?;
        return Ok(url.trim().to_owned());
    }
    anyhow::bail!(
        "no NATS address, and no `bistro up` runs in this directory; \
         give --nats URL, set BISTRO_NATS_URL, or see `bistro context --help`"
    )
}

#[derive(Clone)]
pub struct Client {
    pub bus: Bus,
    pub cell: Cell,
}

impl Client {
    pub async fn connect(url: &str, cell: Cell, patience: Patience) -> anyhow::Result<Self> {
        let address = Address::parse(url)?;
        let role = format!("{}.{}", client_role(address.user()), std::process::id());
        let bus = Bus::connect(&address, &cell, &role, patience)
            .await
            .map_err(|error| Unreachable(format!("{error}; is nats-server running there?")))?;
        Ok(Self { bus, cell })
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        let payload = serde_json::to_vec(request)?;
        let answer = self.bus.request(self.cell.api(verb), payload, TIMEOUT).await;
        let bytes = answer.map_err(|error| match error {
            NatsError::NoResponders { .. } => anyhow::Error::new(Unreachable(format!(
                "no scheduler runs for the cell {:?}; start one, or give another --cell",
                self.cell.name()
            ))),
            NatsError::Denied { .. } => {
                let error = ApiError::new(ErrorCode::Denied, error.to_string());
                Refused(error.hint("ask with a user who may change things")).into()
            }
            error => Unreachable(error.to_string()).into(),
        })?;
        let reply: ApiReply<T> = serde_json::from_slice(&bytes)?;
        match (reply.ok, reply.error) {
            (Some(ok), _) => Ok(ok),
            (None, Some(error)) => Err(Refused(error).into()),
            (None, None) => Err(anyhow::anyhow!("the scheduler's reply is empty")),
        }
    }
}

/// Names of the cells whose schedulers answer within a moment, in order.
pub async fn find_cells(bus: &Bus) -> anyhow::Result<Vec<String>> {
    let inbox = bus.client().new_inbox();
    let mut answers = bus.client().subscribe(inbox.clone()).await?;
    bus.client().publish_with_reply("$SRV.PING.bistro", inbox, Vec::new().into()).await?;
    let mut cells = std::collections::BTreeSet::new();
    let deadline = tokio::time::Instant::now() + DISCOVERY;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        // Anybody may answer.
        let name = answer["metadata"]["cell"].as_str().filter(|name| Cell::new(name).is_ok());
        if cells.len() < CELLS_MAX {
            cells.extend(name.map(str::to_owned));
        }
    }
    Ok(cells.into_iter().collect())
}

/// Who acts, for the audit.
pub fn actor() -> String {
    std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned())
}
