//! Runs one attempt by asking a responder on NATS. What it publishes as progress goes into the
//! task's log; it is told to stop when the attempt is to be killed, and given up after that, or
//! when it is silent for too long.
//!
//! A responder is out of the guard's reach: one that does not stop when it is told to, or is cut
//! off, may still be at it when the task is started again. It can tell by the attempt.

use async_nats::client::RequestErrorKind;
use async_nats::{Message, Request, RequestError};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

use bistro_common::clock::sleep_until;
use bistro_common::nats::Bus;
use bistro_common::protocol::assign::{Assignment, Responder};
use bistro_common::protocol::log::Stream;
use bistro_common::protocol::run::RunRequest;
use bistro_common::protocol::task::KillMethod;
use bistro_common::protocol::{MESSAGE_BYTES_MAX, VERSION, encode};
use bistro_common::status::{TaskStatus, bits};
use bistro_common::subject::Cell;

use crate::exec::{Argument, Ended, How, Kills, LastLine, Surroundings};
use crate::journal::Journal;
use crate::logs::Capture;

/// What a worker talks to responders with.
#[derive(Clone)]
pub struct Voice {
    pub bus: Bus,
    pub cell: Cell,
}

/// Of one message of progress; the rest is left out.
const PROGRESS_BYTES_MAX: usize = 64 << 10;

/// No request lasts longer, whatever progress is made.
const REQUEST_MAX: Duration = Duration::from_secs(30 * 86_400);

pub async fn ask(
    here: &Surroundings,
    assignment: &Assignment,
    responder: &Responder,
    kills: &mut Kills,
    journal: &mut Journal,
) -> Ended {
    let Voice { bus, cell } = &here.voice;
    let open = &assignment.open;
    let (progress, cancel) = (cell.run_progress(open.attempt), cell.run_cancel(open.attempt));
    let request = encode(&RunRequest {
        v: VERSION,
        cell: here.cell.clone(),
        attempt: open.attempt,
        attempt_no: open.attempt_no,
        task: open.task.clone(),
        argument: json!(Argument::new(&here.worker, &here.host, assignment)),
        progress: progress.clone(),
        cancel: cancel.clone(),
        silence_ms: responder.silence_ms,
    });
    if request.len() > MESSAGE_BYTES_MAX {
        return Ended::not_started(&"its configuration is larger than a NATS message may be");
    }
    let mut said = match bus.client().subscribe(progress).await {
        Ok(said) if bus.is_connected() => said,
        _ => return Ended::not_started(&"the worker is not connected to NATS"),
    };
    let request = Request::new().payload(request.into()).timeout(Some(REQUEST_MAX));
    let answer = bus.client().send_request(responder.subject.clone(), request);
    tokio::pin!(answer);
    journal.event("running", &[("subject", json!(responder.subject))]);
    journal.print().await;
    let silence = Duration::from_millis(responder.silence_ms);
    let mut silent_at = Instant::now() + silence;
    let (mut capture, mut give_up_at, mut signalled) = (Capture::default(), None, false);
    let how = loop {
        tokio::select! {
            answer = &mut answer => break heard(answer, &responder.subject, signalled, journal),
            Some(message) = said.next() => {
                silent_at = Instant::now() + silence;
                print(&mut capture, &message, journal).await;
            }
            Some(kill) = kills.next() => {
                signalled = true;
                // One that is cut off hears nothing, and is given up all the same.
                let _ = bus.publish(cancel.clone(), Vec::new()).await;
                let wait = match kill.method {
                    KillMethod::Term => None,
                    KillMethod::Kill => Some(Duration::ZERO),
                    KillMethod::TermWaitKill => Some(Duration::from_millis(kill.wait_ms)),
                };
                // Of several deadlines the earliest holds.
                let at = wait.map(|wait| Instant::now() + wait);
                give_up_at = [give_up_at, at].into_iter().flatten().min();
            }
            () = sleep_until(give_up_at) => break How::Silent { signalled },
            () = tokio::time::sleep_until(silent_at) => {
                let _ = bus.publish(cancel.clone(), Vec::new()).await;
                let text = format!(
                    "no answer and no progress from {:?} for {} s",
                    responder.subject,
                    silence.as_secs_f64()
                );
                break How::Status(TaskStatus::with_exception(bits::ERROR_BACKOFF, text));
            }
        }
    };
    // What was said before the answer is here already: the server keeps its order. It ends, since
    // nothing more comes.
    let _ = said.unsubscribe().await;
    while let Some(Some(message)) = said.next().now_or_never() {
        print(&mut capture, &message, journal).await;
    }
    capture.finish(&mut journal.lines);
    Ended { how, exit: None, usage: None }
}

fn heard(
    answer: Result<Message, RequestError>,
    subject: &str,
    signalled: bool,
    journal: &mut Journal,
) -> How {
    match answer {
        Ok(message) => {
            // The same bounds as for a process: what is longer would not fit into a result.
            let mut last = LastLine::default();
            last.push(&message.payload);
            journal.raw_status = last.line();
            match last.line() {
                None => How::Silent { signalled },
                Some(line) => How::Status(TaskStatus::of_attempt(Some(&line), signalled)),
            }
        }
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            Ended::not_started(&format!("nobody answers on {subject:?}")).how
        }
        Err(error) => {
            let text = format!("the answer from {subject:?} is lost: {error}");
            How::Status(TaskStatus::with_exception(bits::ERROR_BACKOFF, text))
        }
    }
}

/// Each message is a line, or several.
async fn print(capture: &mut Capture, message: &Message, journal: &mut Journal) {
    let lines = &mut journal.lines;
    let text = &message.payload[..message.payload.len().min(PROGRESS_BYTES_MAX)];
    capture.push(Stream::Stdout, text, lines);
    if !text.ends_with(b"\n") {
        capture.push(Stream::Stdout, b"\n", lines);
    }
    journal.print().await;
}
