//! The worker's side of NATS: heartbeats, and results to the stream.

use async_nats::jetstream;
use std::time::Duration;

use bistro_common::nats::Bus;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Heartbeat, HeartbeatAnswer, HeartbeatReply};
use bistro_common::protocol::{decode, encode};
use bistro_common::subject::Cell;
use bistro_worker_core::Loyalty;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Answers to one heartbeat; more than these are not looked at.
const ANSWERS_MAX: usize = 16;

/// Sends one heartbeat and waits for the answer of whom the worker follows. Others that came before
/// it are told, too.
pub async fn heartbeat(
    bus: &Bus,
    cell: &Cell,
    heartbeat: &Heartbeat,
    loyalty: Loyalty,
) -> Vec<HeartbeatAnswer> {
    let subject = cell.heartbeat(&heartbeat.worker);
    let mut answers = Vec::new();
    let taken = |bytes: &[u8]| match decode::<HeartbeatReply>(bytes) {
        Ok(reply) => {
            let enough = loyalty.is_due(&reply.answer) || answers.len() + 1 >= ANSWERS_MAX;
            answers.push(reply.answer);
            enough
        }
        Err(error) => {
            tracing::warn!(%error, "a scheduler's answer cannot be read");
            false
        }
    };
    if let Err(error) = bus.request_until(subject, encode(heartbeat), TIMEOUT, taken).await {
        tracing::debug!(%error, "no answer to a heartbeat from whom this worker follows");
    }
    answers
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
