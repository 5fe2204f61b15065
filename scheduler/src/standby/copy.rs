//! A store for a scheduler that stands by and lacks what the stream does not have any more: page by
//! page from the one that reigns.

use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

use bistro_common::ids::CellId;
use bistro_common::nats::{Bus, NatsError};
use bistro_common::protocol::succession::{CopyHeader, CopyRequest};
use bistro_common::protocol::{VERSION, decode, encode};
use bistro_common::subject::Cell;
use bistro_core::succession::Position;

use super::parts::{PartError, check_epoch, join_header, push_row, rows, split_header};
use super::stream::StreamEnd;
use super::{OnDisk, StandbyError};
use crate::committer::Work;
use crate::store::{Page, Store, StoreError};

/// As much of rows as is in a page; the largest row comes on top of that.
const PAGE_BYTES: usize = 128 << 10;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("no scheduler reigns that could be copied; start the one that reigned last")]
    Nobody(#[source] NatsError),
    #[error("another scheduler has begun to reign meanwhile")]
    Changed,
    #[error("a page cannot be read")]
    Page(#[from] PartError),
}

/// A page as it is sent.
pub fn page(
    store: &Store,
    stream: &StreamEnd,
    cell: CellId,
    after: Option<&str>,
) -> Result<Vec<u8>, StoreError> {
    let page = store.page(after, PAGE_BYTES)?;
    let position = stream.position();
    let header = CopyHeader {
        v: VERSION,
        cell,
        epoch: position.epoch,
        folded: page.folded,
        end: stream.next(),
        stream: position.stream,
        after: stream.before(page.folded),
    };
    let mut bytes = Vec::new();
    page.rows.iter().for_each(|(key, value)| push_row(&mut bytes, key, value));
    Ok(join_header(&header, &bytes))
}

/// Answers those that ask for pages, for as long as this scheduler reigns.
pub async fn serve(mut requests: async_nats::Subscriber, bus: Bus, work: mpsc::Sender<Work>) {
    while let Some(message) = requests.next().await {
        let (Some(to), Ok(request)) = (message.reply, decode::<CopyRequest>(&message.payload))
        else {
            continue;
        };
        let (reply, page) = oneshot::channel();
        if work.send(Work::Page { after: request.after, reply }).await.is_err() {
            return;
        }
        let Ok(page) = page.await else { continue };
        if let Err(error) = bus.publish(to.to_string(), page).await {
            tracing::warn!(%error, "a page of the store was not sent");
        }
    }
}

/// Makes the store what that of the scheduler is which reigns.
pub async fn fetch(bus: &Bus, cell: &Cell, disk: &mut OnDisk) -> Result<(), StandbyError> {
    let mut header = None;
    let (mut after, mut count) = (None, 0);
    loop {
        let (its, rows) = ask(bus, cell, after.take()).await?;
        let first = header.get_or_insert_with(|| its.clone());
        if (its.epoch, &its.stream) != (first.epoch, &first.stream) {
            return Err(CopyError::Changed.into());
        }
        if count == 0 {
            let ours = disk.store().cell().filter(|_| !disk.store().is_new());
            if ours.is_some_and(|ours| ours != its.cell) {
                return Err(StandbyError::Alone { stream: cell.records_stream() });
            }
            let more = disk.store().end().saturating_sub(its.end);
            if ours.is_some() && more > 0 {
                return Err(StandbyError::Ahead { more });
            }
            tracing::warn!("its records are copied from the scheduler that reigns");
            disk.change(|store| store.begin_copy()).await?;
        }
        count += rows.len();
        after = rows.last().map(|(key, _)| key.clone());
        if rows.is_empty() {
            break;
        }
        let page = Page { folded: its.folded, rows };
        disk.change(move |store| store.put_page(&page)).await?;
    }
    let Some(CopyHeader { cell, epoch, folded, stream, after: seq, .. }) = header else {
        return Err(CopyError::Changed.into());
    };
    let position = Position { stream, seq, epoch };
    disk.change(move |store| store.end_copy(cell, epoch, folded, position)).await?;
    tracing::info!(rows = count, "copied");
    Ok(())
}

type Rows = Vec<(String, Vec<u8>)>;

async fn ask(
    bus: &Bus,
    cell: &Cell,
    after: Option<String>,
) -> Result<(CopyHeader, Rows), CopyError> {
    let request = encode(&CopyRequest { v: VERSION, after });
    let answer = bus.request(cell.copies(), request, TIMEOUT).await.map_err(CopyError::Nobody)?;
    let (header, bytes) = split_header::<CopyHeader>(&answer)?;
    check_epoch(header.epoch)?;
    Ok((header, rows(bytes)?))
}
