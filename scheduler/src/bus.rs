//! The scheduler's side of NATS: streams, the consumer of results, and requests to workers.

use async_nats::jetstream::{self, consumer, stream};
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Service, ServiceExt};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::mpsc;

use bistro_common::ids::{SchedulerId, WorkerName};
use bistro_common::nats::{Bus, NatsError};
use bistro_common::protocol::assign::{Assign, AssignReply};
use bistro_common::protocol::control::{Control, ControlAnswer, ControlReply, Order};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::{MESSAGE_BYTES_MAX, decode, encode};
use bistro_common::subject::Cell;
use bistro_core::{Input, SendFailure};

const TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts to reach JetStream.
pub const RETRY: Duration = Duration::from_millis(300);
const FETCH: Duration = Duration::from_secs(5);
const FETCH_MAX: usize = 256;
const DAY: Duration = Duration::from_secs(86_400);
const STREAM_BYTES: i64 = 1 << 30;

/// Offers the verbs as a NATS service, so that `$SRV.PING` finds the cell. Every scheduler has a
/// queue group of its own: none may answer in another's place.
pub async fn api_service(
    bus: &Bus,
    cell: &Cell,
    scheduler: SchedulerId,
) -> Result<(Service, Endpoint), async_nats::Error> {
    let metadata = [("cell", cell.name()), ("role", "scheduler")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let service = bus
        .client()
        .service_builder()
        .description("runs data-parallel work: one request per verb")
        .metadata(metadata)
        .queue_group(scheduler)
        .start("bistro", env!("CARGO_PKG_VERSION"))
        .await?;
    let endpoint = service.endpoint_builder().name("api").add(cell.apis()).await?;
    Ok((service, endpoint))
}

/// A message of the DONE stream, to be acknowledged once it is applied.
pub struct Delivery {
    pub done: Done,
    pub message: jetstream::Message,
}

/// Delivers results for as long as somebody takes them.
pub async fn consume(bus: Bus, cell: Cell, replicas: usize, out: mpsc::Sender<Delivery>) {
    while !out.is_closed() {
        if let Err(error) = consume_once(&bus, &cell, replicas, &out).await {
            tracing::debug!(%error, "results are not coming in");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The streams of events and of results, as they must be; on so many servers of a NATS cluster.
pub async fn make_streams(
    context: &jetstream::Context,
    cell: &Cell,
    replicas: usize,
) -> Result<(), async_nats::Error> {
    let of_stream = |name: String, subjects: Vec<String>, days: u32| stream::Config {
        name,
        subjects,
        max_age: DAY * days,
        max_bytes: STREAM_BYTES,
        num_replicas: replicas,
        ..stream::Config::default()
    };
    let subjects = vec![cell.events(), cell.audit_events()];
    let events = of_stream(cell.events_stream(), subjects, 3);
    // An audit event that is sent again, however late, is known by its id.
    let events = stream::Config { duplicate_window: events.max_age, ..events };
    context.create_or_update_stream(events).await?;
    let done = of_stream(cell.done_stream(), vec![cell.dones()], 7);
    context.create_or_update_stream(done).await?;
    Ok(())
}

async fn consume_once(
    bus: &Bus,
    cell: &Cell,
    replicas: usize,
    out: &mpsc::Sender<Delivery>,
) -> Result<(), async_nats::Error> {
    let context = jetstream::new(bus.client().clone());
    make_streams(&context, cell, replicas).await?;
    let stream = context.get_stream(cell.done_stream()).await?;
    let consumer = stream
        .create_consumer(consumer::pull::Config {
            durable_name: Some("sched".to_owned()),
            ack_policy: consumer::AckPolicy::Explicit,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 2_048,
            ..consumer::pull::Config::default()
        })
        .await?;
    loop {
        let mut batch = consumer.fetch().max_messages(FETCH_MAX).expires(FETCH).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            match decode::<Done>(&message.payload) {
                Ok(done) => {
                    if out.send(Delivery { done, message }).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a result cannot be read and is skipped");
                    message.ack().await?;
                }
            }
        }
    }
}

/// Sends assignments and reports what is known about them. A batch that is too large for one
/// message goes in halves.
pub async fn assign(
    bus: Bus,
    cell: Cell,
    worker: WorkerName,
    assign: Assign,
    out: mpsc::Sender<Input>,
) {
    let mut todo = vec![assign];
    while let Some(mut assign) = todo.pop() {
        let payload = encode(&assign);
        if payload.len() > MESSAGE_BYTES_MAX && assign.attempts.len() > 1 {
            let rest = assign.attempts.split_off(assign.attempts.len() / 2);
            todo.push(Assign { fence: assign.fence, attempts: rest });
            todo.push(assign);
            continue;
        }
        let reply = if payload.len() > MESSAGE_BYTES_MAX {
            Err(SendFailure::TooLarge)
        } else {
            let answer = bus.request(cell.assign(&worker), payload, TIMEOUT).await;
            assign_reply(answer)
        };
        let input = Input::AssignReply {
            worker: worker.clone(),
            incarnation: assign.fence.incarnation,
            attempts: assign.attempts.iter().map(|a| a.open.attempt).collect(),
            reply,
        };
        if out.send(input).await.is_err() {
            return;
        }
    }
}

fn assign_reply(answer: Result<Vec<u8>, NatsError>) -> Result<AssignReply, SendFailure> {
    match answer {
        // An answer that cannot be read says nothing about what the worker did.
        Ok(bytes) => decode(&bytes).map_err(|_| SendFailure::Unknown),
        Err(NatsError::NoResponders { .. } | NatsError::Disconnected) => {
            Err(SendFailure::NotDelivered)
        }
        Err(NatsError::TooLarge { .. }) => Err(SendFailure::TooLarge),
        Err(_) => Err(SendFailure::Unknown),
    }
}

/// Sends an order; the answer to a probe goes back to the core.
pub async fn control(
    bus: Bus,
    cell: Cell,
    worker: WorkerName,
    control: Control,
    out: mpsc::Sender<Input>,
) {
    let answer = bus.request(cell.control(&worker), encode(&control), TIMEOUT).await;
    if !matches!(control.order, Order::Probe { .. }) {
        if let Err(error) = answer {
            tracing::warn!(%worker, %error, "an order did not reach its worker");
        }
        return;
    }
    let reply = answer.ok().and_then(|bytes| decode::<ControlReply>(&bytes).ok());
    let reply = reply.and_then(|reply| match reply.answer {
        ControlAnswer::Probed { attempts } => Some(attempts),
        _ => None,
    });
    let incarnation = control.fence.incarnation;
    // A scheduler that is gone needs no answer.
    let _ = out.send(Input::ProbeReply { worker, incarnation, reply }).await;
}
