//! `log.read`: pages for whoever asks.

use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use bistro_common::clock::Clock;
use bistro_common::nats::{Bus, NatsError};
use bistro_common::protocol::log::{Direction, LogRead, LogReadReply, WAIT_MS_MAX};
use bistro_common::protocol::{VERSION, decode, encode};

use super::Logs;

/// So many readers may wait for lines or the disk; more are told to come back.
const READERS_MAX: usize = 256;
/// So many may use the disk at once.
const READING_MAX: usize = 4;
/// Lines that come soon after the first one travel with it.
const GATHER: Duration = Duration::from_millis(20);
/// How often a look is taken at what has grown too old.
const TIDY: Duration = Duration::from_secs(60);

/// Answers requests until the subscription ends, and sees to it that old lines go.
pub async fn serve(bus: Bus, mut requests: async_nats::Subscriber, logs: Logs, clock: Clock) {
    let mut tidy = tokio::time::interval(TIDY);
    let readers = Arc::new(Semaphore::new(READERS_MAX));
    let reading = Arc::new(Semaphore::new(READING_MAX));
    loop {
        let message = tokio::select! {
            message = requests.next() => message,
            _ = tidy.tick() => {
                logs.tidy(clock.now()).await;
                continue;
            }
        };
        let Some(message) = message else { return };
        let Some(subject) = message.reply else { continue };
        let (bus, logs, reading) = (bus.clone(), logs.clone(), reading.clone());
        let permit = readers.clone().try_acquire_owned();
        tokio::spawn(async move {
            let reply = match (decode::<LogRead>(&message.payload), permit) {
                (Err(error), _) => refusal(error.to_string()),
                (_, Err(_)) => refusal("too many readers; ask again later".to_owned()),
                (Ok(request), Ok(_permit)) => read(&logs, &reading, request).await,
            };
            let sent = match bus.publish(subject.to_string(), encode(&reply)).await {
                // A server that takes less than we think.
                Err(error @ NatsError::TooLarge { .. }) => {
                    let reply = refusal(format!("{error}; ask for fewer lines"));
                    bus.publish(subject.to_string(), encode(&reply)).await
                }
                sent => sent,
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "a page of logs was not sent");
            }
        });
    }
}

fn refusal(error: String) -> LogReadReply {
    LogReadReply {
        v: VERSION,
        lines: Vec::new(),
        next: None,
        at_end: false,
        removed_before: None,
        error: Some(error),
    }
}

/// Reads a page; one that goes up waits for a first line as long as the reader wants.
async fn read(logs: &Logs, reading: &Semaphore, request: LogRead) -> LogReadReply {
    let wait = Duration::from_millis(request.wait_ms.min(WAIT_MS_MAX));
    let deadline = Instant::now() + wait;
    let mut request = Arc::new(request);
    let mut last = logs.shared.last.subscribe();
    loop {
        last.mark_unchanged();
        let reply = {
            let _permit = reading.acquire().await;
            let (logs, request) = (logs.clone(), request.clone());
            let page = tokio::task::spawn_blocking(move || logs.read(&request)).await;
            page.unwrap_or_else(|error| refusal(format!("the page cannot be read: {error}")))
        };
        let done = !reply.lines.is_empty()
            || reply.error.is_some()
            || request.direction == Direction::Descending
            // There is more to look at already.
            || reply.next.is_some_and(|next| next <= *last.borrow())
            || wait.is_zero();
        if done || tokio::time::timeout_at(deadline, last.changed()).await.is_err() {
            return reply;
        }
        // What was looked at need not be looked at again.
        if let Some(next) = reply.next {
            request = Arc::new(LogRead { from: next, ..(*request).clone() });
        }
        tokio::time::sleep(GATHER).await;
    }
}
