//! The worker's side of NATS: heartbeats, and results to the stream.

use async_nats::jetstream;
use std::time::Duration;

use bistro_common::nats::Bus;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Heartbeat, HeartbeatAnswer, HeartbeatReply};
use bistro_common::protocol::{decode, encode};
use bistro_common::subject::Cell;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends one heartbeat and waits for its answer; none if there is no usable one.
pub async fn heartbeat(bus: &Bus, cell: &Cell, heartbeat: &Heartbeat) -> Option<HeartbeatAnswer> {
    let subject = cell.heartbeat(&heartbeat.worker);
    match bus.request(subject, encode(heartbeat), TIMEOUT).await {
        Ok(bytes) => match decode::<HeartbeatReply>(&bytes) {
            Ok(reply) => Some(reply.answer),
            Err(error) => {
                tracing::warn!(%error, "the scheduler's answer cannot be read");
                None
            }
        },
        Err(error) => {
            tracing::debug!(%error, "no answer to a heartbeat");
            None
        }
    }
}

/// Publishes results and waits for the stream to have them; says so (false: it has not).
pub async fn publish(bus: Bus, context: jetstream::Context, cell: Cell, done: Done) -> bool {
    let send = async {
        let acknowledged = context.publish(cell.done(&done.worker), encode(&done).into()).await?;
        acknowledged.await
    };
    bus.is_connected()
        && match tokio::time::timeout(TIMEOUT, send).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                // A new cell has no stream yet; later it is worth a look.
                tracing::info!(%error, "results wait: the stream did not take them");
                false
            }
            Err(_) => false,
        }
}
