//! Asks the cell for what the console wants, and tells it what came.
//!
//! The console says what it wants ([`Wants`]); everything here follows that. Nothing here waits
//! without a limit, and an answer that does not come is tried again.

use futures_util::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use bistro_common::protocol::api::{
    CellStatus, ExplainRequest, Explanation, ForgiveReply, Grid, GridRequest, JobRow, KillReply,
    Listing, Page, TaskRow, WorkerRow, verb,
};
use bistro_common::protocol::decode;
use bistro_common::protocol::view::GridDelta;

use super::state::Wants;
use super::update::{Command, Message};
use crate::client::Client;
use crate::client::logs::Query;

const POLL: Duration = Duration::from_secs(1);
/// Well within the time that a watcher counts as watching.
const RENEW: Duration = Duration::from_secs(5);
/// A grid that is out of step is asked for again, but not all the time.
const RESYNC: Duration = Duration::from_millis(300);
const LOG_LINES: u32 = 1_000;
const PAST_EVENTS: u64 = 200;
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
    tasks.spawn(grid(client.clone(), wants.clone(), in_sync.clone(), out.clone()));
    tasks.spawn(logs(client.clone(), wants.clone(), out.clone()));
    tasks.spawn(events(client.clone(), wants.clone(), out.clone()));
    tasks
}

/// Carries out a command and says how it went.
pub async fn perform(client: Client, command: Command, out: mpsc::Sender<Message>) {
    let went = match command {
        Command::Kill(request) => {
            client.ask::<KillReply>(verb::KILL, &request).await.map(|reply| {
                let KillReply { job, node, attempt_no, worker } = reply;
                format!("asked {worker} to end {job} on {node} (attempt {attempt_no})")
            })
        }
        Command::Forgive(request) => client
            .ask::<ForgiveReply>(verb::FORGIVE, &request)
            .await
            .map(|reply| format!("{} tasks forgiven", reply.forgiven)),
    };
    let text = went.unwrap_or_else(|error| format!("refused: {error}"));
    // A console that is gone does not want to know.
    let _ = out.send(Message::Notice(text)).await;
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

async fn poll(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    while !out.is_closed() {
        let now = wants.borrow_and_update().clone();
        if let Err(error) = ask_status(&client, &out).await {
            let _ = out.send(Message::Silence(format!("{error:#}"))).await;
        } else if let Err(error) = ask_rows(&client, &now, &out).await {
            // The scheduler is well; what the view asks for is not to be had.
            let _ = out.send(Message::Refused(format!("{error:#}"))).await;
        }
        let _ = tokio::time::timeout(POLL, wants.changed()).await;
    }
}

async fn ask_status(client: &Client, out: &mpsc::Sender<Message>) -> anyhow::Result<()> {
    let status: CellStatus = client.ask(verb::STATUS, &()).await?;
    let jobs: Listing<JobRow> = client.ask(verb::JOBS, &Page::default()).await?;
    out.send(Message::Status(status, jobs.items)).await?;
    Ok(())
}

async fn ask_rows(
    client: &Client,
    wants: &Wants,
    out: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    if let Some(request) = &wants.tasks {
        let rows: Listing<TaskRow> = client.ask(verb::TASKS, request).await?;
        out.send(Message::Tasks(request.clone(), rows)).await?;
    }
    if let Some((job, node)) = wants.task.clone() {
        let task = client.ask::<Explanation>(verb::EXPLAIN, &ExplainRequest { job, node }).await?;
        out.send(Message::Task(task)).await?;
    }
    if wants.workers {
        let rows: Listing<WorkerRow> = client.ask(verb::WORKERS, &Page::default()).await?;
        out.send(Message::Workers(rows.items)).await?;
    }
    Ok(())
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

async fn grid(
    client: Client,
    mut wants: watch::Receiver<Wants>,
    in_sync: watch::Receiver<bool>,
    out: mpsc::Sender<Message>,
) {
    while wanted(&mut wants, |wants| wants.grid.then_some(())).await.is_some() {
        let mut gone = wants.clone();
        tokio::select! {
            result = watch_grid(&client, in_sync.clone(), &out) => {
                if let Err(error) = result {
                    let _ = out.send(Message::GridTrouble(format!("{error:#}"))).await;
                }
                // What failed will not be different at once.
                tokio::time::sleep(RENEW).await;
            }
            () = until(&mut gone, |wants| !wants.grid) => {}
        }
    }
}

async fn watch_grid(
    client: &Client,
    mut in_sync: watch::Receiver<bool>,
    out: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let mut deltas = client.bus.client().subscribe(client.cell.view_grid()).await?;
    let mut layout = 0;
    loop {
        let request = GridRequest { watch: true, layout, in_sync: *in_sync.borrow() && layout > 0 };
        let snapshot = client.ask::<Grid>(verb::GRID, &request).await?;
        layout = snapshot.layout;
        // What came before the answer belongs before it.
        while let Some(Some(delta)) = deltas.next().now_or_never() {
            send_delta(&delta, out).await?;
        }
        out.send(Message::Grid(snapshot)).await?;
        let renew = tokio::time::sleep(RENEW);
        tokio::pin!(renew);
        loop {
            tokio::select! {
                () = &mut renew => break,
                () = until(&mut in_sync, |in_sync| !in_sync) => {
                    tokio::time::sleep(RESYNC).await;
                    break;
                }
                delta = deltas.next() => {
                    let Some(delta) = delta else { return Ok(()) };
                    send_delta(&delta, out).await?;
                }
            }
        }
    }
}

async fn send_delta(
    message: &async_nats::Message,
    out: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    // One that cannot be read leaves a gap, which is noticed.
    if let Ok(delta) = decode::<GridDelta>(&message.payload) {
        out.send(Message::GridDelta(delta)).await?;
    }
    Ok(())
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

async fn follow(client: &Client, query: &Query, out: &mpsc::Sender<Message>) {
    let Ok(tail) = client.tail_logs(query, LOG_LINES).await else { return };
    let next = tail.next.clone();
    if out.send(Message::Logs(query.clone(), tail)).await.is_err() {
        return;
    }
    let (sender, mut lines) = mpsc::channel(BATCHES_MAX);
    let mut following = JoinSet::new();
    following.spawn(client.clone().follow_logs(query.clone(), next, sender));
    while let Some(lines) = lines.recv().await {
        if out.send(Message::LogLines(query.clone(), lines)).await.is_err() {
            return;
        }
    }
}

/// From the first time that events are looked at, they are followed to the end.
async fn events(client: Client, mut wants: watch::Receiver<Wants>, out: mpsc::Sender<Message>) {
    let mut past = PAST_EVENTS;
    while wanted(&mut wants, |wants| wants.events.then_some(())).await.is_some() {
        let (sender, mut events) = mpsc::channel(BATCHES_MAX);
        let mut following = JoinSet::new();
        following.spawn(client.clone().events(String::new(), past, true, sender));
        while let Some(event) = events.recv().await {
            past = 0;
            if out.send(Message::Event(event)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
