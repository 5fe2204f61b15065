//! Asking a scheduler: one client for every command.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

use bistro_common::nats::{Address, Bus, NatsError, Patience};
use bistro_common::protocol::api::{ApiError, ApiReply};
use bistro_common::subject::Cell;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The cell did not answer.
#[derive(Debug)]
pub struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

pub struct Client {
    bus: Bus,
    cell: Cell,
}

impl Client {
    pub async fn connect(url: &str, cell: Cell) -> anyhow::Result<Self> {
        let address = Address::parse(url)?;
        let role = format!("client_{}", std::process::id());
        let bus = Bus::connect(&address, &cell, &role, Patience::FailFast)
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
            NatsError::NoResponders { .. } => Unreachable(format!(
                "no scheduler runs for the cell {:?}; start one, or give another --cell",
                self.cell.name()
            )),
            error => Unreachable(error.to_string()),
        })?;
        let reply: ApiReply<T> = serde_json::from_slice(&bytes)?;
        match (reply.ok, reply.error) {
            (Some(ok), _) => Ok(ok),
            (None, Some(ApiError { message, hint: Some(hint), .. })) => {
                Err(anyhow::anyhow!("{message}\nhint: {hint}"))
            }
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(anyhow::anyhow!("the scheduler's reply is empty")),
        }
    }
}
