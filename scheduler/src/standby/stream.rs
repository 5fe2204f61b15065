//! The stream of records: what the scheduler that reigns commits, for those that stand by.
//!
//! Each message is appended at the place that its writer thinks is the next, so that only one can
//! reign, and says for how long at least that may go on: until a time to live after it was sent. A
//! message that got no answer is sent again; if it is refused then, it may be there already.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{self, RawMessageErrorKind};
use async_nats::jetstream::{self, Context};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;

use bistro_common::Millis;
use bistro_common::clock::Clock;
use bistro_common::ids::{CellId, Epoch};
use bistro_common::nats::Bus;
use bistro_common::protocol::succession::{RecordsHeader, RecordsKind};
use bistro_common::protocol::{VERSION, encode};
use bistro_common::subject::Cell;
use bistro_core::Record;
use bistro_core::succession::{Appended, Position, StreamState};

use super::parts::{join_header, read_records};

/// As much as a message has of records; NATS takes a megabyte by default.
const PART_BYTES: usize = 512 << 10;

/// What a store lacks that has been away for longer is copied from another.
const STREAM_BYTES: i64 = 1 << 30;

/// Between two tries to append.
const RETRY: Duration = Duration::from_millis(100);

/// Until a try is given up.
const TRY: Duration = Duration::from_secs(2);

/// Why a scheduler does not reign any more.
#[derive(Debug, thiserror::Error)]
pub enum Deposed {
    #[error("another scheduler of this cell has begun to reign")]
    Overtaken,
    #[error("the stream of records has not answered for so long that another may reign by now")]
    Silent(#[source] async_nats::Error),
}

/// Makes the stream if it is not there, and says what is in it.
pub async fn look(
    context: &Context,
    cell: &Cell,
    replicas: usize,
) -> Result<(StreamState, Option<RecordsHeader>), async_nats::Error> {
    let config = stream::Config {
        name: cell.records_stream(),
        subjects: vec![cell.records()],
        max_bytes: STREAM_BYTES,
        num_replicas: replicas,
        ..stream::Config::default()
    };
    let info = context.create_or_update_stream(config).await?;
    let last = info.state.last_sequence;
    let header = match info.state.messages {
        0 => None,
        _ => {
            let stream = context.get_stream_no_info(cell.records_stream()).await?;
            Some(read_records(&stream.get_raw_message(last).await?.payload)?.0)
        }
    };
    let state = StreamState {
        stream: info.created.to_string(),
        first: info.state.first_sequence,
        last,
        last_epoch: header.as_ref().map(|header: &RecordsHeader| header.epoch),
    };
    Ok((state, header))
}

/// What a header says to the core.
pub fn appended(header: &RecordsHeader) -> Appended {
    let begins_after = match header.kind {
        RecordsKind::Reign { after } => Some(after),
        _ => None,
    };
    let from = match header.kind {
        // Nobody has what it has from there on.
        RecordsKind::Departure => u64::MAX,
        _ => header.from,
    };
    Appended { epoch: header.epoch, begins_after, from, rows: header.records }
}

/// Who appends.
#[derive(Clone, Debug)]
pub struct Writer {
    pub cell: CellId,
    pub epoch: Epoch,
    pub place: String,
    pub host: String,
}

/// The end of the stream, for the one that reigns.
pub struct StreamEnd {
    bus: Bus,
    context: Context,
    name: String,
    subject: String,
    clock: Clock,
    ttl_ms: Millis,
    writer: Writer,
    stream: String,
    /// The last message.
    seq: u64,
    /// The number of the next record.
    next: u64,
    /// Until when the reign lasts, if nothing is appended any more.
    lasts: watch::Sender<Millis>,
    /// Of messages whose records are not folded yet, and the last one before: the number of the
    /// record after its last, and its own.
    unfolded: VecDeque<(u64, u64)>,
}

impl StreamEnd {
    /// Begins a reign after message `seq`, with a store that ends before record `next`. Whoever has
    /// appended something since keeps this from happening.
    pub async fn begin(
        bus: &Bus,
        cell: &Cell,
        (clock, ttl_ms): (Clock, Millis),
        writer: Writer,
        (stream, seq): (String, u64),
        (after, next): (Epoch, u64),
    ) -> Result<Self, Deposed> {
        let mut context = jetstream::new(bus.client().clone());
        context.set_timeout(TRY.min(Duration::from_millis(ttl_ms / 3)));
        let (lasts, _) = watch::channel(clock.now() + ttl_ms);
        let mut end = Self {
            bus: bus.clone(),
            context,
            name: cell.records_stream(),
            subject: cell.records(),
            clock,
            ttl_ms,
            writer,
            stream,
            seq,
            next,
            lasts,
            unfolded: VecDeque::new(),
        };
        end.append(RecordsKind::Reign { after }, &[]).await?;
        end.unfolded.push_back((next, end.seq));
        Ok(end)
    }

    pub fn position(&self) -> Position {
        Position { stream: self.stream.clone(), seq: self.seq, epoch: self.writer.epoch }
    }

    /// Until when the reign lasts: after that, nobody may be told anything that needs it.
    pub fn lasts(&self) -> watch::Receiver<Millis> {
        self.lasts.subscribe()
    }

    pub async fn records(&mut self, records: &[Record]) -> Result<Position, Deposed> {
        self.append(RecordsKind::Records, records).await?;
        self.unfolded.push_back((self.next, self.seq));
        Ok(self.position())
    }

    /// Says that it still reigns, unless it has said so just now.
    pub async fn renew(&mut self) -> Result<(), Deposed> {
        let left = self.lasts.borrow().saturating_sub(self.clock.now());
        match left < self.ttl_ms - self.ttl_ms / 4 {
            true => self.append(RecordsKind::Renewal, &[]).await,
            false => Ok(()),
        }
    }

    pub async fn resign(&mut self) {
        if let Err(error) = self.append(RecordsKind::Resignation, &[]).await {
            tracing::debug!(%error, "the others are not told that this reign is over");
        }
    }

    /// Goes on without the stream, which nobody may go on with.
    pub async fn depart(&mut self) -> Result<(), Deposed> {
        self.append(RecordsKind::Departure, &[]).await
    }

    /// The number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Records before this one are folded.
    pub fn forget(&mut self, folded: u64) {
        while self.unfolded.get(1).is_some_and(|&(end, _)| end <= folded) {
            self.unfolded.pop_front();
        }
    }

    /// After which message the records are that come from this one on: it must not be before those
    /// that are forgotten.
    pub fn before(&self, record: u64) -> u64 {
        if record >= self.next {
            return self.seq;
        }
        let whole = self.unfolded.iter().take_while(|&&(end, _)| end <= record);
        whole.last().map_or(0, |&(_, seq)| seq)
    }

    async fn append(&mut self, kind: RecordsKind, records: &[Record]) -> Result<(), Deposed> {
        let sent = self.clock.now();
        let parts = self.parts(kind, records);
        let mut tries = 0;
        loop {
            tries += 1;
            let tried = tokio::time::timeout(2 * TRY, self.try_append(&parts)).await;
            let error = match tried.unwrap_or_else(|_| Err("there was no answer in time".into())) {
                Ok(()) => break,
                Err(error) => error,
            };
            let kind = error.downcast_ref::<PublishError>().map(PublishError::kind);
            let refused = kind == Some(PublishErrorKind::WrongLastSequence);
            let error = match refused {
                true if tries == 1 => return Err(Deposed::Overtaken),
                true => match self.has(&parts).await {
                    Ok(true) => break,
                    Ok(false) => return Err(Deposed::Overtaken),
                    Err(error) => error,
                },
                false => error,
            };
            if self.clock.now() >= *self.lasts.borrow() {
                return Err(Deposed::Silent(error));
            }
            tracing::debug!(%error, "records wait: the stream does not take them");
            tokio::time::sleep(RETRY).await;
        }
        self.seq += parts.len() as u64;
        self.next += records.len() as u64;
        // From the first try on: that may be the one that was heard.
        self.lasts.send_replace(sent + self.ttl_ms);
        Ok(())
    }

    /// Whether these parts are what is at the place where they were to be.
    async fn has(&self, parts: &[Vec<u8>]) -> Result<bool, async_nats::Error> {
        let stream = self.context.get_stream_no_info(&self.name).await?;
        for (seq, part) in (self.seq + 1..).zip(parts) {
            match stream.get_raw_message(seq).await {
                Ok(message) if message.payload[..] == part[..] => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn parts(&self, kind: RecordsKind, records: &[Record]) -> Vec<Vec<u8>> {
        let bytes = if records.is_empty() { Vec::new() } else { encode(&records) };
        let count = bytes.len().div_ceil(PART_BYTES).max(1);
        let header = |part: usize| RecordsHeader {
            v: VERSION,
            cell: self.writer.cell,
            epoch: self.writer.epoch,
            place: self.writer.place.clone(),
            host: self.writer.host.clone(),
            kind,
            ttl_ms: self.ttl_ms,
            from: self.next,
            records: records.len() as u64,
            part: part as u32,
            parts: count as u32,
        };
        let part = |part: usize| {
            let begin = (part * PART_BYTES).min(bytes.len());
            let end = (begin + PART_BYTES).min(bytes.len());
            join_header(&header(part), &bytes[begin..end])
        };
        (0..count).map(part).collect()
    }

    async fn try_append(&self, parts: &[Vec<u8>]) -> Result<(), async_nats::Error> {
        // Queued while there is no connection, it would come when it is not expected any more.
        if !self.bus.is_connected() {
            return Err("there is no connection".into());
        }
        let mut answers = Vec::new();
        for (last, part) in (self.seq..).zip(parts) {
            let message =
                PublishMessage::build().payload(part.clone().into()).expected_last_sequence(last);
            answers.push(self.context.send_publish(self.subject.clone(), message).await?);
        }
        for answer in answers {
            answer.await?;
        }
        Ok(())
    }
}
