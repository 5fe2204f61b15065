//! What happened: the last events of the stream, and those that come.

use anyhow::Context;
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use futures_util::StreamExt;
use std::collections::VecDeque;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::protocol::decode;
use bistro_common::protocol::event::Event;

use super::{Client, Unreachable};

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// How their kind begins.
    pub kind: String,
    /// So many: the last ones, or the first ones of a time. (Of the last ones of a kind, those among
    /// a hundred times as many are looked through.)
    pub count: u64,
    pub since_ms: Option<Millis>,
    /// Those that come, too; from a time on, until there are as many as are wanted.
    pub follow: bool,
}

impl Client {
    /// Sends the events that are wanted, in order, until nobody listens.
    pub async fn events(self, query: Query, out: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let context = jetstream::new(self.bus.client().clone());
        let name = self.cell.events_stream();
        let stream = context.get_stream(&name).await.map_err(|error| {
            Unreachable(format!("there is no stream {name}: {error}; has a scheduler run here?"))
        })?;
        let last = stream.cached_info().state.last_sequence;
        let deliver_policy = match query.since_ms {
            Some(since_ms) => {
                let nanos = i128::from(since_ms) * 1_000_000;
                let start_time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos)?;
                DeliverPolicy::ByStartTime { start_time }
            }
            None => {
                let all_kinds = query.kind.is_empty();
                let look_at = query.count.saturating_mul(if all_kinds { 1 } else { 100 });
                let start_sequence = (last + 1).saturating_sub(look_at).max(1);
                DeliverPolicy::ByStartSequence { start_sequence }
            }
        };
        let filter_subject = self.cell.events();
        let config = OrderedConfig { deliver_policy, filter_subject, ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.context("reading the event stream")?;
        let mut caught_up = consumer.cached_info().num_pending == 0;
        let mut messages = consumer.messages().await.context("reading the event stream")?;
        let (mut waiting, mut sent) = (VecDeque::new(), 0);
        loop {
            // The last ones are known when all are here.
            if caught_up || query.since_ms.is_some() {
                for event in waiting.drain(..) {
                    sent += 1;
                    let enough = query.since_ms.is_some() && sent == query.count;
                    if out.send(event).await.is_err() || enough {
                        return Ok(());
                    }
                }
            }
            if caught_up && !query.follow {
                return Ok(());
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
                && event.kind.starts_with(&query.kind)
            {
                waiting.push_back(event);
            }
            if !caught_up {
                let extra = waiting.len().saturating_sub(query.count as usize);
                waiting.drain(..extra);
                caught_up = sequence >= last;
            }
        }
    }
}
