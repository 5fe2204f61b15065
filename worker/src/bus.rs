//! The worker's side of NATS: heartbeats, and results to the stream.

use async_nats::jetstream;
use std::time::Duration;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::nats::Bus;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Heartbeat, HeartbeatReply};
use bistro_common::protocol::{decode, encode};
use bistro_common::subject::Cell;
use bistro_worker_core::Input;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends one heartbeat; an answer goes to the core, silence to nobody.
pub async fn heartbeat(
    bus: Bus,
    cell: Cell,
    heartbeat: Heartbeat,
    sent: Millis,
    out: mpsc::Sender<Input>,
) {
    let subject = cell.heartbeat(&heartbeat.worker);
    match bus.request(subject, encode(&heartbeat), TIMEOUT).await {
        Ok(bytes) => match decode::<HeartbeatReply>(&bytes) {
            // A driver that is gone needs no answer.
            Ok(reply) => drop(out.send(Input::Heartbeat { sent, answer: reply.answer }).await),
            Err(error) => tracing::warn!(%error, "the scheduler's answer cannot be read"),
        },
        Err(error) => tracing::debug!(%error, "no answer to a heartbeat"),
    }
}

/// Publishes results and waits for the stream to have them.
pub async fn publish(
    bus: Bus,
    context: jetstream::Context,
    cell: Cell,
    done: Done,
    out: mpsc::Sender<Input>,
) {
    let attempts: Vec<_> = done.results.iter().map(|result| result.attempt).collect();
    let send = async {
        let acknowledged = context.publish(cell.done(&done.worker), encode(&done).into()).await?;
        acknowledged.await
    };
    let stored = bus.is_connected()
        && match tokio::time::timeout(TIMEOUT, send).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "results wait: the stream did not take them");
                false
            }
            Err(_) => false,
        };
    drop(out.send(Input::Published { attempts, stored }).await);
}
