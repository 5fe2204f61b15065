//! What happened: the last events of the stream, and those that come.

use anyhow::Context;
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use futures_util::StreamExt;
use std::collections::VecDeque;
use tokio::sync::mpsc;

use bistro_common::protocol::decode;
use bistro_common::protocol::event::Event;

use super::{Client, Unreachable};

impl Client {
    /// Sends the last `count` events whose kind starts with `kind`, then, if it is to follow, those
    /// that come, until nobody listens. (Of events of other kinds, those among the last `count`
    /// times a hundred are looked through.)
    pub async fn events(
        self,
        kind: String,
        count: u64,
        follow: bool,
        out: mpsc::Sender<Event>,
    ) -> anyhow::Result<()> {
        let context = jetstream::new(self.bus.client().clone());
        let name = self.cell.events_stream();
        let stream = context.get_stream(&name).await.map_err(|error| {
            Unreachable(format!("there is no stream {name}: {error}; has a scheduler run here?"))
        })?;
        let last = stream.cached_info().state.last_sequence;
        let look_at = if kind.is_empty() { count } else { count.saturating_mul(100) };
        let start = (last + 1).saturating_sub(look_at).max(1);
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            filter_subject: self.cell.events(),
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.context("reading the event stream")?;
        let mut messages = consumer.messages().await.context("reading the event stream")?;
        let mut past = VecDeque::new();
        let mut caught_up = stream.cached_info().state.messages == 0 || start > last;
        loop {
            if caught_up {
                for event in past.drain(..) {
                    if out.send(event).await.is_err() {
                        return Ok(());
                    }
                }
                if !follow {
                    return Ok(());
                }
            }
            let message = tokio::select! {
                message = messages.next() => message,
                () = out.closed() => return Ok(()),
            };
            let Some(message) = message.transpose().context("reading the event stream")? else {
                return Ok(());
            };
            let sequence = message.info().map_or(last, |info| info.stream_sequence);
            // One that cannot be read is of a newer build, or not ours.
            if let Ok(event) = decode::<Event>(&message.payload)
                && event.kind.starts_with(&kind)
            {
                past.push_back(event);
            }
            if !caught_up {
                let extra = past.len().saturating_sub(count as usize);
                past.drain(..extra);
                caught_up = sequence >= last;
            }
        }
    }
}
