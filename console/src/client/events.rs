//! What happened: the last events of the stream, and those that come.

use anyhow::Context;
use async_nats::jetstream::{
    self,
    consumer::{
        DeliverPolicy,
        pull::{Ordered, OrderedConfig},
    },
};
use futures_util::StreamExt;
use std::collections::VecDeque;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::filter::{self, Filter};
use bistro_common::protocol::decode;
use bistro_common::protocol::event::{Event, Events};

use super::{Client, Unreachable};

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// How their kind begins.
    pub kind: String,
    pub filter: Filter,
    /// So many: the last ones, or the first ones of a time. (The last ones are looked for among a
    /// hundred times as many.)
    pub count: u64,
    pub since_ms: Option<Millis>,
    /// Those that come, too; from a time on, until there are as many as are wanted.
    pub follow: bool,
}

impl Query {
    fn wants(&self, event: &Event) -> bool {
        // A message has events of some time before it.
        event.kind.starts_with(&self.kind)
            && self.since_ms.is_none_or(|at| event.time_ms >= at)
            && event.passes(&self.filter)
    }
}

/// A message has the time of the server that keeps it, an event that of its scheduler: as much as the
/// two may differ is read before a time.
const CLOCKS_APART_MS: Millis = 5_000;
/// So many times as many events as are wanted are looked through for them.
const LOOKED_THROUGH: u64 = 100;
/// Messages that are looked at first for the last events, and by how many times more if those have
/// too few.
const LOOK: u64 = 64;
const LOOK_MORE: u64 = 8;

impl Client {
    /// Sends the events that are wanted, in order, until nobody listens.
    pub async fn events(self, query: Query, out: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let context = jetstream::new(self.bus.client().clone());
        let name = self.cell.events_stream();
        let stream = context.get_stream(&name).await.map_err(|error| {
            Unreachable(format!("there is no stream {name}: {error}; has a scheduler run here?"))
        })?;
        let last = stream.cached_info().state.last_sequence;
        let from = match query.since_ms {
            Some(since_ms) => {
                let since_ms = since_ms.saturating_sub(CLOCKS_APART_MS);
                let nanos = i128::from(since_ms) * 1_000_000;
                let start_time = OffsetDateTime::from_unix_timestamp_nanos(nanos)?;
                DeliverPolicy::ByStartTime { start_time }
            }
            None => {
                for event in self.last_events(&stream, &query, last).await? {
                    if out.send(event).await.is_err() {
                        return Ok(());
                    }
                }
                if !query.follow {
                    return Ok(());
                }
                DeliverPolicy::ByStartSequence { start_sequence: last + 1 }
            }
        };
        let mut reader = Reader::open(&self, &stream, from, &query).await?;
        let mut left = query.since_ms.map(|_| query.count);
        while left != Some(0) && (query.follow || reader.has_more(last)) {
            let events = tokio::select! {
                events = reader.next() => events?,
                () = out.closed() => return Ok(()),
            };
            let Some(events) = events else { return Ok(()) };
            for event in events.into_iter().filter(|event| query.wants(event)) {
                if left == Some(0) || out.send(event).await.is_err() {
                    return Ok(());
                }
                left = left.map(|left| left - 1);
            }
        }
        Ok(())
    }

    /// The last changes of a job, in order.
    pub async fn history(&self, job: &str, count: u64) -> anyhow::Result<Vec<Event>> {
        let filter = Filter::parse(&filter::exactly("job", job), &Event::KEYS)?;
        let query = Query { kind: "audit.".to_owned(), filter, count, ..Query::default() };
        let (sender, mut events) = mpsc::channel(count as usize + 1);
        self.clone().events(query, sender).await?;
        let mut all = Vec::new();
        events.recv_many(&mut all, count as usize + 1).await;
        Ok(all)
    }

    /// The last ones, among as few messages as have them.
    async fn last_events(
        &self,
        stream: &Stream,
        query: &Query,
        last: u64,
    ) -> anyhow::Result<VecDeque<Event>> {
        let most = query.count.saturating_mul(LOOKED_THROUGH);
        let mut look_at = LOOK;
        loop {
            let start_sequence = (last + 1).saturating_sub(look_at).max(1);
            let from = DeliverPolicy::ByStartSequence { start_sequence };
            let mut reader = Reader::open(self, stream, from, query).await?;
            let (mut found, mut seen) = (VecDeque::new(), 0);
            while reader.has_more(last)
                && let Some(events) = reader.next().await?
            {
                seen += events.len() as u64;
                found.extend(events.into_iter().filter(|event| query.wants(event)));
                let extra = found.len().saturating_sub(query.count as usize);
                found.drain(..extra);
            }
            let enough = found.len() as u64 >= query.count;
            if enough || start_sequence == 1 || seen >= most {
                return Ok(found);
            }
            look_at = look_at.saturating_mul(LOOK_MORE);
        }
    }
}

type Stream = jetstream::stream::Stream;

/// The stream from a place on.
struct Reader {
    messages: Ordered,
    /// Of the whole stream, in its messages.
    batches: String,
    at: u64,
    pending: u64,
}

impl Reader {
    async fn open(
        client: &Client,
        stream: &Stream,
        from: DeliverPolicy,
        query: &Query,
    ) -> anyhow::Result<Self> {
        let mut config = OrderedConfig { deliver_policy: from, ..OrderedConfig::default() };
        if query.kind.starts_with("audit.") || query.kind == "audit" {
            // These are few among many, and the server knows which.
            config.filter_subject = client.cell.audit_events();
        }
        let consumer = stream.create_consumer(config).await.context("reading the event stream")?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.context("reading the event stream")?;
        Ok(Self { messages, batches: client.cell.events(), at: 0, pending })
    }

    /// Is there anything up to this message?
    fn has_more(&self, last: u64) -> bool {
        self.pending > 0 && self.at < last
    }

    /// Those of the next message; nothing at the end of the connection.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<Event>>> {
        let message = self.messages.next().await.transpose().context("reading the event stream")?;
        let Some(message) = message else { return Ok(None) };
        if let Ok(info) = message.info() {
            (self.at, self.pending) = (info.stream_sequence, info.pending);
        }
        // One that cannot be read is of a newer build, or not ours.
        Ok(Some(match *message.subject == *self.batches {
            true => decode::<Events>(&message.payload).unwrap_or_default().events,
            false => decode::<Event>(&message.payload).into_iter().collect(),
        }))
    }
}
