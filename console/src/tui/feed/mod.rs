//! Asks the cell for what the console wants, and tells it what came.
//!
//! The console says what it wants ([`Wants`]); everything here follows that. Nothing here waits
//! without a limit, and an answer that does not come is tried again.

mod grid;
mod rows;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use bistro_common::protocol::api::{
    CellStatus, JobStats, JobStatsRequest, ListRequest, Listing, NodeRow, Page, verb,
};

use super::state::{EVENTS_MAX, JobMore, LINES_MAX};
use super::update::{Command, Message};
use super::wants::Wants;
use crate::client::actions::Action;
use crate::client::attempts::Of;
use crate::client::events;
use crate::client::logs::Query;
use crate::client::{Client, Unreachable, find_cells};

/// Between two looks, while something happens and while nothing does.
const BUSY: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_secs(1);
/// Rows of short lists.
const FEW: u32 = 5;
/// All nodes are looked through for this: not with every look.
const OVERUSED: Duration = Duration::from_secs(10);
/// Longer than this nobody waits for a read.
const ANSWER: Duration = Duration::from_secs(2);
/// All workers are asked for this.
const ATTEMPTS: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: Duration = Duration::from_secs(60);
/// All tasks of a job and the stream of events are looked through for this.
const JOB_MORE: Duration = Duration::from_secs(5);
const CHANGES: u64 = 5;
const LOG_LINES: u32 = 1_000;
const PAST_EVENTS: u64 = 1_000;
const BATCHES_MAX: usize = 16;

/// Starts everything; it ends when nobody listens or the set is dropped.
pub fn start(
    client: &Client,
    wants: &watch::Receiver<Wants>,
    in_sync: &watch::Receiver<bool>,
    out: &mpsc::Sender<Message>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(connections(client.clone(), out.clone()));
    tasks.spawn(poll(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(rows::rows(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(grid::grid(client.clone(), wants.clone(), in_sync.clone(), out.clone()));
    tasks.spawn(logs(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(follow_events(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(attempts(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(job_more(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(cells(client.clone(), wants.clone(), out.clone()));
    tasks
}

/// Carries out a command and says how it went.
pub async fn perform(client: Client, command: Command, out: mpsc::Sender<Message>) {
    let message = match command {
        Command::Act(action) => act(&client, action, &out).await,
        Command::Plan(action, filter) => match client.plan(action, &filter).await {
            Ok(plan) => Message::Planned(action, filter, plan),
            Err(error) => Message::Notice(format!("refused: {error:#}")),
        },
        Command::Save { path, text } => Message::Notice(match save(&path, &text) {
            Ok(()) => format!("saved to {path}"),
            Err(error) => format!("{path} was not written: {error}"),
        }),
        // The terminal's.
        Command::Copy(_) | Command::Edit(_) => return,
    };
    // A console that is gone does not want to know.
    let _ = out.send(message).await;
}

/// To a new file, never over one that is there.
fn save(path: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

async fn act(client: &Client, action: Action, out: &mpsc::Sender<Message>) -> Message {
    let progress = |done: u64, left: u64| {
        // Whoever leaves the console does not want the rest done unseen.
        let text = format!("{done} done, {left} left");
        !matches!(out.try_send(Message::Notice(text)), Err(mpsc::error::TrySendError::Closed(_)))
    };
    let went = client.act(action, "from the console".to_owned(), progress).await;
    match went {
        Ok(acted) => Message::Done(acted),
        // Silence is no refusal: nobody knows, and what came before is not the last change.
        Err(error) if error.is::<Unreachable>() => {
            let text = format!("no answer, it may have been done: {}", one_line(&error));
            Message::Done(text.into())
        }
        Err(error) => Message::Notice(format!("refused: {}", one_line(&error))),
    }
}

async fn connections(client: Client, out: mpsc::Sender<Message>) {
    let mut changes = client.bus.connections();
    loop {
        // Sent anew, since the change comes before the state that it announces.
        if out.send(Message::Connected(client.bus.is_connected())).await.is_err() {
            return;
        }
        let _ = tokio::time::timeout(POLL, changes.changed()).await;
    }
}

/// A read that is given up when the connection is lost, or when it takes longer than anybody waits.
async fn ask<T: DeserializeOwned>(
    client: &Client,
    verb: &str,
    request: &impl Serialize,
) -> anyhow::Result<T> {
    let gone = |why: &str| Err(Unreachable(why.to_owned()).into());
    let mut connections = client.bus.connections();
    connections.mark_unchanged();
    tokio::select! {
        answer = client.ask(verb, request) => answer,
        _ = connections.changed() => gone("the connection was lost"),
        () = tokio::time::sleep(ANSWER) => gone("the scheduler does not answer"),
    }
}

/// Until the next look, which comes at once after the connection has changed.
async fn pause(client: &Client, wait: Duration) {
    let mut connections = client.bus.connections();
    connections.mark_unchanged();
    let _ = tokio::time::timeout(wait, connections.changed()).await;
}

/// The cell at a glance.
async fn poll(client: Client, wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    let (mut before, mut looked) = (None, None);
    while !out.is_closed() {
        let asked = Instant::now();
        let (message, wait) = match ask::<CellStatus>(&client, verb::STATUS, &()).await {
            Ok(status) => {
                let wait = if before.as_ref() == Some(&status.counts) { POLL } else { BUSY };
                before = Some(status.counts.clone());
                let took_ms = asked.elapsed().as_secs_f64() * 1e3;
                (Message::Status(Box::new(status), took_ms), wait)
            }
            Err(error) => (Message::Silence(one_line(&error)), POLL),
        };
        if out.send(message).await.is_err() {
            return;
        }
        let due = looked.is_none_or(|at: Instant| at.elapsed() >= OVERUSED);
        if wants.borrow().health && due {
            looked = Some(Instant::now());
            if let Ok(rows) = overused(&client).await
                && out.send(Message::Overused(rows)).await.is_err()
            {
                return;
            }
        }
        pause(&client, wait).await;
    }
}

async fn overused(client: &Client) -> anyhow::Result<Vec<NodeRow>> {
    let page = Page { offset: 0, limit: FEW };
    let request = ListRequest { filter: "free<0".to_owned(), page, ..ListRequest::default() };
    let rows: Listing<NodeRow> = ask(client, verb::NODES, &request).await?;
    Ok(rows.items)
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "; ")
}

/// Waits until the console wants something of a kind.
async fn wanted<T>(
    wants: &mut watch::Receiver<Wants>,
    what: impl Fn(&Wants) -> Option<T>,
) -> Option<T> {
    let now = wants.wait_for(|wants| what(wants).is_some()).await.ok()?;
    what(&now)
}

/// Until it is so, or nobody will ever say so.
async fn until<T>(value: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) {
    drop(value.wait_for(is_so).await);
}

async fn logs(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    while let Some(query) = wanted(&mut wants, |wants| wants.logs.clone()).await {
        let mut changed = wants.clone();
        tokio::select! {
            () = follow(&client, &query, &out) => tokio::time::sleep(POLL).await,
            () = until(&mut changed, |wants| wants.logs.as_ref() != Some(&query)) => {}
        }
    }
}

/// The attempts of the task in sight, anew whenever another begins or ends.
async fn attempts(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    while let Some(of) = wanted(&mut wants, |wants| wants.attempts.clone()).await {
        let mut changed = wants.clone();
        tokio::select! {
            () = attempts_of(&client, &of, &out) => {}
            () = until(&mut changed, |wants| wants.attempts.as_ref() != Some(&of)) => {}
        }
    }
}

/// What some workers do not answer is tried again, less and less often, as long as somebody looks.
async fn attempts_of(client: &Client, of: &Of, out: &mpsc::Sender<Message>) {
    let mut wait = ATTEMPTS;
    loop {
        if let Ok(attempts) = client.attempts(&of.job, &of.node).await {
            let whole = attempts.problems.is_empty();
            if out.send(Message::Attempts(of.clone(), attempts)).await.is_err() || whole {
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ATTEMPTS_MAX);
    }
}

/// What is looked for less often about the job in sight.
async fn job_more(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    while let Some(job) = wanted(&mut wants, |wants| wants.job.clone()).await {
        let request = JobStatsRequest { job: job.clone() };
        let (stats, history) = tokio::join!(
            ask::<JobStats>(&client, verb::JOB_STATS, &request),
            client.history(&job, CHANGES),
        );
        // What is not answered now is not news.
        if let (Ok(stats), Ok(mut history)) = (stats, history) {
            history.reverse();
            let more = JobMore { stats: Some(stats), history };
            if out.send(Message::JobMore(job.clone(), more)).await.is_err() {
                return;
            }
        }
        let other = |wants: &Wants| wants.job.as_ref() != Some(&job);
        let _ = tokio::time::timeout(JOB_MORE, until(&mut wants, other)).await;
    }
}

/// Other cells on the same NATS, whenever somebody asks for them.
async fn cells(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    while wanted(&mut wants, |wants| wants.cells.then_some(())).await.is_some() {
        if let Ok(cells) = find_cells(&client.bus).await
            && out.send(Message::Cells(cells)).await.is_err()
        {
            return;
        }
        until(&mut wants, |wants| !wants.cells).await;
    }
}

async fn follow(client: &Client, query: &Query, out: &mpsc::Sender<Message>) {
    let Ok(tail) = client.tail_logs(query, LOG_LINES).await else { return };
    let (next, shown) = (tail.next.clone(), tail.lines.len());
    if out.send(Message::Logs(query.clone(), tail)).await.is_err() {
        return;
    }
    let (sender, mut lines) = mpsc::channel(BATCHES_MAX);
    let mut following = JoinSet::new();
    following.spawn(client.clone().follow_logs(query.clone(), next, sender));
    let mut room = LINES_MAX.saturating_sub(shown);
    while let Some(lines) = lines.recv().await {
        // Who asked for a time keeps what came after it, as much as fits.
        if query.since_ms.is_some() && lines.len() > room {
            drop(following);
            return std::future::pending().await;
        }
        room = room.saturating_sub(lines.len());
        if out.send(Message::LogLines(query.clone(), lines)).await.is_err() {
            return;
        }
    }
}

/// From the first time that events are looked at, the last ones are followed to the end. Those from
/// a time on come until there are as many as fit, or something else is wanted.
async fn follow_events(
    client: Client,
    mut wants: watch::Receiver<Wants>,
    out: mpsc::Sender<Message>,
) {
    let mut past = PAST_EVENTS;
    while let Some(from) = wanted(&mut wants, |wants| wants.events).await {
        let since_ms = from.since_ms;
        let count = if since_ms.is_some() { EVENTS_MAX as u64 } else { past };
        let query = events::Query { count, since_ms, follow: true, ..Default::default() };
        let (sender, mut events) = mpsc::channel(BATCHES_MAX);
        let mut following = JoinSet::new();
        following.spawn(client.clone().events(query, sender));
        let mut changed = wants.clone();
        let other = until(&mut changed, |wants| wants.events.is_some_and(|now| now != from));
        tokio::pin!(other);
        let mut came = 0;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = &mut other => {
                    past = PAST_EVENTS;
                    break;
                }
            };
            match event {
                Some(event) => {
                    // After a loss, those that are here do not come again.
                    past = 0;
                    came += 1;
                    if out.send(Message::Event(from, event)).await.is_err() {
                        return;
                    }
                }
                // As many as fit, or as came before a loss: until something else is wanted, since
                // the same ones would come again.
                None if since_ms.is_some() && came > 0 => {
                    (&mut other).await;
                    past = PAST_EVENTS;
                    break;
                }
                None => {
                    pause(&client, POLL).await;
                    break;
                }
            }
        }
    }
}
