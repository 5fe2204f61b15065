//! How the state changes: what came, and what was pressed. No I/O; what has to be done is returned.

mod mouse;
mod navigate;
mod press;
pub mod questions;
mod typing;

pub use press::events_filter;

use crossterm::event::{KeyEvent, MouseEvent};

use bistro_common::Millis;
use bistro_common::filter;
use bistro_common::protocol::api::{
    BulkAction, CellStatus, Explanation, Grid, JobRow, ListRequest, Listing, NodeRow, PlanReply,
    TaskRow, WorkerRow,
};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::view::{GridDelta, GridPlace};

use super::grid::{Names, Subtree};
use super::palette::Palette;
use super::state::{
    EVENTS_MAX, EventsFrom, JobMore, JobView, LINES_MAX, Logs, NOTICE_MS, State, View,
};
use crate::client::actions::{Acted, Action};
use crate::client::attempts::{Attempts, Of};
use crate::client::command_line::words;
use crate::client::logs::{Line, Query, Tail};
use crate::text::date_time;

pub enum Message {
    Key(KeyEvent),
    Mouse(MouseEvent),
    Paste(String),
    Resize(u16, u16),
    Time(Millis),
    Connected(bool),
    /// With how long it took.
    Status(Box<CellStatus>, f64),
    /// The scheduler did not answer.
    Silence(String),
    Jobs(ListRequest, Result<Listing<JobRow>, String>),
    Nodes(ListRequest, Result<Listing<NodeRow>, String>),
    Workers(ListRequest, Result<Listing<WorkerRow>, String>),
    Tasks(ListRequest, Result<Listing<TaskRow>, String>),
    Job(Box<JobView>),
    Task(Result<Box<Explanation>, (String, String, String)>),
    Attempts(Of, Attempts),
    JobMore(String, JobMore),
    Overused(Vec<NodeRow>),
    Grid(GridPlace, Grid),
    GridDelta(GridDelta),
    GridTrouble(String),
    Names(Names),
    Subtree(Subtree),
    /// The cells that there are.
    Cells(Vec<String>),
    Logs(Query, Tail),
    LogLines(Query, Vec<Line>),
    Event(EventsFrom, Event),
    Planned(BulkAction, String, PlanReply),
    /// What an action has changed, or may have.
    Done(Acted),
    Notice(String),
}

/// What is to be done outside.
#[derive(Debug, PartialEq)]
pub enum Command {
    Act(Action),
    Plan(BulkAction, String),
    /// A job, in an editor that has the terminal meanwhile.
    Edit(String),
    /// To the clipboard of the terminal.
    Copy(String),
    Save {
        path: String,
        text: String,
    },
}

pub fn update(state: &mut State, message: Message) -> Option<Command> {
    match message {
        Message::Key(key) => return press::on_key(state, key),
        Message::Mouse(event) => mouse::on_mouse(state, event),
        Message::Paste(text) => typing::on_paste(state, &text),
        Message::Resize(width, height) => state.size = (width, height),
        Message::Time(now) => {
            state.now_ms = now;
            if state.notice.as_ref().is_some_and(|(until, _)| *until <= now) {
                state.notice = None;
            }
        }
        Message::Connected(connected) => state.link.connected = connected,
        Message::Status(status, rtt_ms) => {
            state.link.answered_ms = Some(state.now_ms);
            state.link.rtt_ms = Some(rtt_ms);
            state.link.trouble = None;
            state.status = Some(*status);
        }
        Message::Silence(trouble) => state.link.trouble = Some(trouble),
        Message::Jobs(request, Ok(listing)) => {
            state.rates.note(state.now_ms, &listing.items);
            state.jobs.take(&request, listing);
        }
        Message::Jobs(request, Err(why)) => state.jobs.refuse(&request, why),
        Message::Nodes(request, Ok(listing)) => state.nodes.take(&request, listing),
        Message::Nodes(request, Err(why)) => state.nodes.refuse(&request, why),
        Message::Workers(request, Ok(listing)) => state.workers.take(&request, listing),
        Message::Workers(request, Err(why)) => state.workers.refuse(&request, why),
        Message::Tasks(request, Ok(listing)) => state.tasks.take(&request, listing),
        Message::Tasks(request, Err(why)) => state.tasks.refuse(&request, why),
        Message::Job(job) => {
            if job.job == state.job.job {
                state.rates.note(state.now_ms, job.row.as_slice());
                state.job = *job;
            }
        }
        Message::Task(Ok(explanation)) => {
            let row = &explanation.task;
            if state.task.as_ref().is_some_and(|(j, n)| *j == row.job && *n == row.node) {
                state.explanation = Some(*explanation);
                state.refused = None;
            }
        }
        Message::Task(Err((job, node, why))) => {
            if state.task == Some((job, node)) {
                (state.explanation, state.refused) = (None, Some(why));
            }
        }
        Message::Attempts(of, attempts) => {
            if state.task.as_ref().is_some_and(|(j, n)| *j == of.job && *n == of.node) {
                state.attempts = Some(attempts);
            }
        }
        Message::JobMore(job, more) => {
            if job == state.job.job {
                state.job_more = more;
            }
        }
        Message::Overused(rows) => state.overused = rows,
        Message::Grid(from, page) => {
            if let Err(problem) = state.grid.take(from, page) {
                grid_trouble(state, problem);
            }
        }
        Message::GridTrouble(why) => grid_trouble(state, why),
        Message::GridDelta(delta) => {
            let before = state.grid.in_sync;
            state.grid.apply(&delta);
            state.link.gaps += u64::from(before && !state.grid.in_sync);
        }
        Message::Names(names) => state.grid.names = names,
        Message::Subtree(subtree) => state.grid.take_subtree(subtree),
        Message::Cells(cells) => {
            let here = &state.cell;
            state.cells = Some(cells.into_iter().filter(|cell| cell != here).collect());
            // Nothing moves under a cursor that somebody has moved.
            if let Some(text) = state.palette.take_if(|p| p.cursor == 0).map(|p| p.text) {
                state.palette = Some(Palette::find(state, text));
            }
        }
        Message::Logs(query, tail) if query == state.logs.query => {
            let logs = &mut state.logs;
            logs.lines = tail.lines.into();
            (logs.problems, logs.loaded) = (tail.problems, true);
            // Who asked for a time sees what comes after it, and not the end.
            logs.up = if query.since_ms.is_some() { logs.lines.len() } else { 0 };
        }
        Message::LogLines(query, lines) if query == state.logs.query => on_lines(state, lines),
        Message::Event(from, event) if from == state.events.from => {
            let shown = events_filter(state).is_ok_and(|filter| event.passes(&filter));
            let events = &mut state.events;
            // Who looks at older ones keeps looking at them, and who asked for a time at its first.
            events.up += usize::from(events.up > 0 && shown);
            events.events.push_back(event);
            if events.events.len() > EVENTS_MAX {
                events.events.pop_front();
            }
        }
        Message::Logs(..) | Message::LogLines(..) | Message::Event(..) => {}
        Message::Planned(action, filter, plan) => questions::planned(state, action, filter, plan),
        Message::Done(Acted { text, undo }) => {
            state.undo = undo;
            let undo = match &state.undo {
                Some(_) => format!("  ({} undoes it)", state.keymap.key_of(super::keys::Key::Undo)),
                None => String::new(),
            };
            say(state, text + &undo);
        }
        Message::Notice(text) => say(state, text),
    }
    None
}

fn grid_trouble(state: &mut State, why: String) {
    state.grid.in_sync = false;
    state.grid.trouble = Some(why);
}

pub(super) fn say(state: &mut State, text: impl Into<String>) {
    state.notice = Some((state.now_ms + NOTICE_MS, text.into()));
}

fn on_lines(state: &mut State, lines: Vec<Line>) {
    let logs = &mut state.logs;
    if logs.up > 0 {
        logs.up += lines.len();
    }
    logs.lines.extend(lines);
    let extra = logs.lines.len().saturating_sub(LINES_MAX);
    logs.lines.drain(..extra);
    logs.up = logs.up.min(logs.lines.len());
}

/// The command line that shows the same as a view.
pub fn command_of_view(state: &State, view: View) -> Option<Vec<String>> {
    let list = |name: &str, query: &super::list::Query| {
        let option =
            |name: &str, value: &str| (!value.is_empty()).then(|| format!("--{name}={value}"));
        let options = [option("filter", &query.filter), option("sort", &query.sort)];
        words(&[name], &[], options.into_iter().flatten().collect())
    };
    Some(match view {
        View::Jobs => list("jobs", &state.jobs.query),
        View::Nodes => list("nodes", &state.nodes.query),
        View::Workers => list("workers", &state.workers.query),
        View::Tasks => list("tasks", &state.tasks.query),
        View::Grid => {
            let under = state.grid.under().map(|node| filter::exactly("under", node));
            let filter = under.map(|under| format!("--filter={under}"));
            let format = ["-o".to_owned(), "ndjson".to_owned()];
            words(&["tasks"], &[], filter.into_iter().chain(format).collect())
        }
        View::Health => words(&["doctor"], &[], Vec::new()),
        View::Job => words(&["job", "get"], &[&state.job.job], Vec::new()),
        View::Task => {
            let (job, node) = state.task.as_ref()?;
            words(&["task", "show"], &[job, node], Vec::new())
        }
        View::Events => {
            let mut options = vec!["-f".to_owned()];
            if !state.events.filter.is_empty() {
                options.push(format!("--filter={}", state.events.filter));
            }
            options.extend(state.events.from.since_ms.map(since));
            words(&["events"], &[], options)
        }
        View::Logs => {
            let query = &state.logs.query;
            let streams: Vec<_> = query.streams.iter().map(|stream| stream.as_str()).collect();
            let streams = (query.streams != Logs::STREAMS).then(|| streams.join(","));
            let worker = query.worker.as_ref().map(ToString::to_string);
            let options = [
                Some("-f".to_owned()),
                query.regex.as_ref().map(|regex| format!("--grep={regex}")),
                worker.map(|worker| format!("--worker={worker}")),
                streams.map(|streams| format!("--stream={streams}")),
                query.since_ms.map(since),
            ];
            // There is no command for a node's lines of all jobs.
            let node = query.node.as_ref().filter(|_| query.job.is_some());
            let names: Vec<&str> = query.job.iter().chain(node).map(String::as_str).collect();
            words(&["logs"], &names, options.into_iter().flatten().collect())
        }
    })
}

/// The option for a time, as a shell's user in the same time zone would give it.
fn since(time_ms: Millis) -> String {
    format!("--since={}", date_time(time_ms))
}
