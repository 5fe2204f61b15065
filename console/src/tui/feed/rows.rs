//! What the view in sight lists: asked for at once when that changes, and now and then.

use tokio::sync::{mpsc, watch};

use bistro_common::filter;
use bistro_common::protocol::api::{
    ExplainRequest, Explanation, Grid, GridRequest, JobRow, ListRequest, Listing, NodeRow, Page,
    TaskRow, TasksRequest, verb,
};
use bistro_common::protocol::job::JobGetRequest;
use bistro_common::protocol::view::GridPlace;

use super::{BUSY, FEW, POLL, ask, one_line, pause};
use crate::client::{Client, Unreachable};
use crate::tui::grid::{Names, Subtree};
use crate::tui::state::JobView;
use crate::tui::update::Message;
use crate::tui::wants::Wants;

/// Names of nodes around the cursor of the grid.
const NAMES: u32 = 200;

/// What the view lists, at once when it wants something else.
pub(super) async fn rows(
    client: Client,
    mut wants: watch::Receiver<Wants>,
    out: mpsc::Sender<Message>,
) {
    let mut before = 0;
    while !out.is_closed() {
        let now = wants.borrow_and_update().clone();
        let messages = ask_rows(&client, &now).await;
        // As often as they change.
        let answer = fingerprint(&messages);
        let wait = if answer == before { POLL } else { BUSY };
        before = answer;
        for message in messages {
            if out.send(message).await.is_err() {
                return;
            }
        }
        tokio::select! {
            _ = wants.changed() => {}
            () = pause(&client, wait) => {}
        }
    }
}

fn fingerprint(messages: &[Message]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for message in messages {
        match message {
            Message::Jobs(_, Ok(listing)) => {
                listing.items.iter().for_each(|row| row.counts.hash(&mut hasher));
            }
            Message::Tasks(_, Ok(listing)) => {
                listing.total.hash(&mut hasher);
                let rows = listing.items.iter().take(50);
                rows.for_each(|row| (&row.node, row.state).hash(&mut hasher));
            }
            Message::Workers(_, Ok(listing)) => {
                listing.items.iter().for_each(|row| row.running.hash(&mut hasher));
            }
            _ => {}
        }
    }
    hasher.finish()
}

async fn ask_rows(client: &Client, wants: &Wants) -> Vec<Message> {
    let mut messages = Vec::new();
    if let Some(request) = &wants.jobs
        && let Some(rows) = answered(ask(client, verb::JOBS, request).await)
    {
        messages.push(Message::Jobs(request.clone(), rows));
    }
    if let Some(request) = &wants.nodes
        && let Some(rows) = answered(ask(client, verb::NODES, request).await)
    {
        messages.push(Message::Nodes(request.clone(), rows));
    }
    if let Some(request) = &wants.workers
        && let Some(rows) = answered(ask(client, verb::WORKERS, request).await)
    {
        messages.push(Message::Workers(request.clone(), rows));
    }
    if let Some(request) = &wants.tasks
        && let Some(rows) = answered(ask(client, verb::TASKS, request).await)
    {
        messages.push(Message::Tasks(request.list.clone(), rows));
    }
    if let Some(job) = &wants.job {
        messages.push(Message::Job(Box::new(job_view(client, job.clone()).await)));
    }
    if let Some((job, node)) = wants.task.clone() {
        let request = ExplainRequest { job: job.clone(), node: node.clone() };
        let asked = ask::<Explanation>(client, verb::EXPLAIN, &request).await;
        messages.extend(
            answered(asked)
                .map(|task| Message::Task(task.map(Box::new).map_err(|why| (job, node, why)))),
        );
    }
    if let Some(wanted) = &wants.node
        && let Ok(names) = names(client, wanted).await
    {
        messages.push(Message::Names(names));
    }
    if let Some(wanted) = &wants.subtree
        && let Ok(subtree) = subtree(client, wanted).await
    {
        messages.push(Message::Subtree(subtree));
    }
    messages
}

/// What the scheduler says, or why it refuses; nothing if it is silent, which is said elsewhere.
fn answered<T>(asked: anyhow::Result<T>) -> Option<Result<T, String>> {
    match asked {
        Ok(answer) => Some(Ok(answer)),
        Err(error) if error.is::<Unreachable>() => None,
        Err(error) => Some(Err(one_line(&error))),
    }
}

/// A place at which a page of the grid has no cells.
const NOWHERE: GridPlace = GridPlace { job: u32::MAX, node: 0 };

async fn subtree(client: &Client, wanted: &Subtree) -> anyhow::Result<Subtree> {
    let under = Some(wanted.node.clone());
    let request = GridRequest { from: NOWHERE, under, ..Default::default() };
    let grid: Grid = ask(client, verb::GRID, &request).await?;
    anyhow::ensure!(grid.layout == wanted.layout, "the nodes have changed");
    Ok(Subtree { spans: grid.below, ..wanted.clone() })
}

async fn names(client: &Client, wanted: &Names) -> anyhow::Result<Names> {
    let first = wanted.first.saturating_sub(NAMES / 2);
    let page = Page { offset: first, limit: NAMES };
    let filter = filter::exactly("level", &wanted.level);
    let request = ListRequest { filter, page, ..ListRequest::default() };
    let rows: Listing<NodeRow> = ask(client, verb::NODES, &request).await?;
    // A list does not say under which layout it was made: it was this one if it still is.
    let now: Grid =
        ask(client, verb::GRID, &GridRequest { from: NOWHERE, ..Default::default() }).await?;
    anyhow::ensure!(now.layout == wanted.layout, "the nodes have changed");
    let names = rows.items.into_iter().map(|row| row.node).collect();
    Ok(Names { first, names, ..wanted.clone() })
}

async fn job_view(client: &Client, job: String) -> JobView {
    let mut view = JobView { job: job.clone(), ..JobView::default() };
    let filter = filter::exactly("job", &job);
    let request = ListRequest { filter: filter.clone(), ..ListRequest::default() };
    let few = |filter: String, sort: &str| {
        let (sort, page) = (sort.to_owned(), Page { offset: 0, limit: FEW });
        let list = ListRequest { filter, sort, page };
        TasksRequest { list, ..TasksRequest::default() }
    };
    let failing = few(filter::with(&filter, "state", Some("failed,backoff")), "");
    let slowest = few(filter::with(&filter, "state", Some("running")), "-age");
    let definition = JobGetRequest { job };
    let (rows, document, failing, slowest) = tokio::join!(
        ask::<Listing<JobRow>>(client, verb::JOBS, &request),
        ask(client, verb::JOB_GET, &definition),
        ask::<Listing<TaskRow>>(client, verb::TASKS, &failing),
        ask::<Listing<TaskRow>>(client, verb::TASKS, &slowest),
    );
    view.row = rows.ok().and_then(|rows| rows.items.into_iter().next());
    match document {
        Ok(document) => view.document = Some(document),
        Err(error) => view.problem = Some(one_line(&error)),
    }
    view.failing = failing.map(|rows| rows.items).unwrap_or_default();
    view.slowest = slowest.map(|rows| rows.items).unwrap_or_default();
    view
}
