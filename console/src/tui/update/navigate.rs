//! Ways through the console: to another place, into what the cursor is on, and back.

use bistro_common::filter;

use super::typing::{filter_live, filter_of};
use super::{Command, say};
use crate::client::command_line::shell;
use crate::client::logs::Query as LogQuery;
use crate::text::safe;
use crate::tui::list::Query;
use crate::tui::route::Route;
use crate::tui::state::{State, View};

/// Nobody goes back further.
const BACK_MAX: usize = 16;

pub(super) fn go(state: &mut State, view: View) {
    visit(state, state.route_of(view));
}

/// Goes there, and remembers the way back. Who comes round to a place is where the way was then.
pub(super) fn visit(state: &mut State, route: Route) {
    let here = state.route();
    if here == route {
        return;
    }
    state.back.push(here);
    if let Some(before) = state.back.iter().position(|earlier| *earlier == route) {
        state.back.truncate(before);
    }
    let extra = state.back.len().saturating_sub(BACK_MAX);
    state.back.drain(..extra);
    state.show(route);
}

pub(super) fn back(state: &mut State) {
    let filtered = !filter_of(state).is_empty();
    match state.view {
        _ if state.marks() > 0 => state.clear_marks(),
        View::Logs if state.logs.search.is_some() => state.logs.search = None,
        View::Logs if filtered || state.logs.query.since_ms.is_some() => {
            state.logs.query.regex = None;
            state.logs.query.since_ms = None;
            state.logs.reload();
        }
        View::Events if state.events.from.since_ms.is_some() => {
            let filter = state.events.filter.clone();
            state.events.ask(filter, None);
        }
        View::Grid if state.back.is_empty() && state.grid.under().is_some() => {
            state.grid.show_under(None);
        }
        // A list that was opened from another is left with its filter.
        _ if filtered && state.back.is_empty() => filter_live(state, String::new()),
        _ => {
            let before = state.back.pop().unwrap_or_else(|| state.route_of(View::Jobs));
            state.show(before);
        }
    }
}

pub(super) fn open(state: &mut State) {
    match state.view {
        View::Jobs => {
            if let Some(job) = state.jobs.chosen().map(|row| row.job.clone()) {
                open_job(state, job);
            }
        }
        View::Job => {
            let filter = filter::exactly("job", &state.job.job);
            open_tasks(state, filter);
        }
        View::Nodes => {
            if let Some(node) = state.nodes.chosen().map(|row| row.node.clone()) {
                open_tasks(state, filter::exactly("under", &node));
            }
        }
        View::Workers => {
            if let Some(worker) = state.workers.chosen().map(|row| row.worker.clone()) {
                open_tasks(state, filter::exactly("worker", &worker));
            }
        }
        View::Tasks | View::Grid => {
            if let Some((job, node)) = task_under_cursor(state) {
                visit(state, Route::Task { job, node });
            }
        }
        View::Task | View::Logs | View::Events | View::Health => {}
    }
}

pub(super) fn open_job(state: &mut State, job: String) {
    visit(state, Route::Job(job));
}

pub(super) fn open_tasks(state: &mut State, filter: String) {
    visit(state, Route::Tasks(Query { filter, sort: String::new() }));
}

/// The cells of what is below the node under the cursor.
pub(super) fn open_subtree(state: &mut State) {
    if let Some(node) = state.nodes.chosen().map(|row| row.node.clone()) {
        visit(state, Route::Grid(Some(node)));
    }
}

fn task_under_cursor(state: &State) -> Option<(String, String)> {
    match state.view {
        View::Tasks => state.tasks.chosen().map(|row| (row.job.clone(), row.node.clone())),
        View::Grid => {
            let job = state.grid.jobs.get(state.grid.row)?;
            Some((job.job.clone(), state.grid.node()?.to_owned()))
        }
        View::Task => state.task.clone(),
        _ => None,
    }
}

pub(super) fn open_logs(state: &mut State) {
    let (mut job, mut node, mut worker) = (None, None, None);
    match state.view {
        View::Jobs => job = state.jobs.chosen().map(|row| row.job.clone()),
        View::Job => job = Some(state.job.job.clone()),
        View::Workers => {
            let name = state.workers.chosen().map(|row| row.worker.clone());
            worker = name.and_then(|name| name.parse().ok());
        }
        _ => {
            if let Some((its_job, its_node)) = task_under_cursor(state) {
                (job, node) = (Some(its_job), Some(its_node));
            }
        }
    }
    let streams = state.logs.query.streams.clone();
    let query = LogQuery { job, node, worker, streams, ..LogQuery::default() };
    visit(state, Route::Logs(query));
}

pub(super) fn copy(state: &mut State, words: Option<Vec<String>>) -> Option<Command> {
    // Nothing that is pasted may be more than one line.
    let command = safe(&shell(&words?));
    say(state, format!("copied: {command}"));
    Some(Command::Copy(command))
}

/// Opens the same place in another console.
pub(super) fn link(state: &State) -> Vec<String> {
    let mut words = vec!["bistro".to_owned(), "console".to_owned()];
    match &state.context {
        Some(context) => words.extend(["--context".to_owned(), context.clone()]),
        None if state.cell == "main" => {}
        None => words.extend(["--cell".to_owned(), state.cell.clone()]),
    }
    words.push(state.route().to_string());
    words
}
