//! Puts audit events into the event stream, in order, until it says that it has them.
//!
//! They are on disk until then. One that is sent twice, because its answer was lost or a scheduler
//! died, has the same message id both times; the stream keeps one of them.

use async_nats::jetstream::{self, Context, message::PublishMessage};
use tokio::sync::mpsc;

use bistro_common::nats::Bus;
use bistro_common::protocol::encode;
use bistro_common::protocol::event::Event;
use bistro_common::subject::Cell;
use bistro_core::AuditId;

use crate::bus::{RETRY, make_streams};

/// On their way at a time.
const BATCH_MAX: usize = 256;

/// Runs until nobody is left to hear what has been told.
pub async fn tell(
    bus: Bus,
    cell: Cell,
    replicas: usize,
    mut audits: mpsc::Receiver<(AuditId, Event)>,
    out: mpsc::Sender<Vec<AuditId>>,
) {
    let context = jetstream::new(bus.client().clone());
    let mut waiting = Vec::new();
    while audits.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        while !waiting.is_empty() {
            let (told, error) = publish(&context, &cell, &waiting).await;
            let ids = waiting.drain(..told).map(|(id, _)| id).collect();
            if out.send(ids).await.is_err() {
                return;
            }
            if let Some(error) = error {
                tracing::warn!(%error, "audit events wait: the event stream does not take them");
                tokio::time::sleep(RETRY).await;
                if let Err(error) = make_streams(&context, &cell, replicas).await {
                    tracing::debug!(%error, "the streams cannot be made");
                }
            }
        }
    }
}

/// How many of these, from the first, the stream has now; and why not more.
async fn publish(
    context: &Context,
    cell: &Cell,
    audits: &[(AuditId, Event)],
) -> (usize, Option<async_nats::Error>) {
    let (mut answers, mut failed) = (Vec::new(), None);
    for (id, event) in audits {
        let message =
            PublishMessage::build().payload(encode(event).into()).message_id(format!("audit-{id}"));
        match context.send_publish(cell.event(&event.kind), message).await {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                failed = Some(error.into());
                break;
            }
        }
    }
    let mut told = 0;
    for answer in answers {
        match answer.await {
            Ok(_) => told += 1,
            Err(error) => return (told, Some(error.into())),
        }
    }
    (told, failed)
}
