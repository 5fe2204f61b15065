//! What a message does to the state. Pure: what has to happen outside comes back as commands.

use crossterm::event::{KeyCode, KeyEvent};

use bistro_common::Millis;
use bistro_common::protocol::api::{
    CellStatus, Explanation, ForgiveRequest, Grid, JobRow, KillRequest, Listing, TaskRow,
    TaskState, TasksRequest, WorkerRow,
};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::Stream;
use bistro_common::protocol::view::GridDelta;

use super::keys::{Key, meaning};
use super::state::{
    Action, Confirm, EVENTS_MAX, LINES_MAX, NOTICE_MS, State, TASKS_WINDOW, TaskFilter, View,
};
use super::view::grid_width;
use crate::client::logs::{Line, Query, Tail};

#[derive(Debug)]
pub enum Message {
    Key(KeyEvent),
    Resize(u16, u16),
    Time(Millis),
    Connected(bool),
    Status(CellStatus, Vec<JobRow>),
    /// The scheduler did not answer.
    Silence(String),
    /// It answered that what the view asks for is not to be had.
    Refused(String),
    GridTrouble(String),
    Workers(Vec<WorkerRow>),
    Tasks(TasksRequest, Listing<TaskRow>),
    Task(Explanation),
    Grid(Grid),
    GridDelta(GridDelta),
    Logs(Query, Tail),
    LogLines(Query, Vec<Line>),
    Event(Event),
    /// How an action went.
    Notice(String),
}

#[derive(Debug, PartialEq)]
pub enum Command {
    Kill(KillRequest),
    Forgive(ForgiveRequest),
}

pub fn update(state: &mut State, message: Message) -> Option<Command> {
    match message {
        Message::Key(key) => return on_key(state, key),
        Message::Resize(width, height) => state.size = (width, height),
        Message::Time(now) => {
            state.now_ms = now;
            if state.notice.as_ref().is_some_and(|(until, _)| *until <= now) {
                state.notice = None;
            }
        }
        Message::Connected(connected) => state.connected = connected,
        Message::Status(status, jobs) => {
            state.answered_ms = Some(state.now_ms);
            state.trouble = None;
            state.status = Some(status);
            state.jobs.replace(jobs);
        }
        Message::Silence(trouble) => state.trouble = Some(trouble),
        Message::Refused(why) => {
            state.explanation = None;
            state.refused = Some(why);
        }
        Message::GridTrouble(why) => {
            state.grid.in_sync = false;
            state.grid.trouble = Some(why);
        }
        Message::Workers(rows) => state.workers.replace(rows),
        Message::Tasks(request, listing) => on_tasks(state, &request, listing),
        Message::Task(explanation) => {
            let row = &explanation.task;
            if state.task.as_ref().is_some_and(|(j, n)| *j == row.job && *n == row.node) {
                state.explanation = Some(explanation);
                state.refused = None;
            }
        }
        Message::Grid(snapshot) => {
            if let Err(problem) = state.grid.replace(snapshot) {
                state.trouble = Some(problem);
            }
        }
        Message::GridDelta(delta) => state.grid.apply(&delta),
        Message::Logs(query, tail) => {
            if query == state.logs.query {
                state.logs.lines = tail.lines.into();
                state.logs.problems = tail.problems;
                state.logs.loaded = true;
                state.logs.up = 0;
            }
        }
        Message::LogLines(query, lines) => {
            if query == state.logs.query {
                on_lines(state, lines);
            }
        }
        Message::Event(event) => {
            // Who looks at older ones keeps looking at them.
            state.events.up += usize::from(state.events.up > 0);
            state.events.events.push_back(event);
            if state.events.events.len() > EVENTS_MAX {
                state.events.events.pop_front();
            }
        }
        Message::Notice(text) => state.notice = Some((state.now_ms + NOTICE_MS, text)),
    }
    None
}

fn on_tasks(state: &mut State, request: &TasksRequest, listing: Listing<TaskRow>) {
    let tasks = &mut state.tasks;
    if *request != tasks.request() {
        return;
    }
    state.refused = None;
    tasks.total = listing.total;
    tasks.table.replace(listing.items);
    // The list has become shorter than where the window starts.
    if tasks.table.rows.is_empty() && tasks.offset > 0 {
        tasks.offset = 0;
    }
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

fn on_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    if state.confirm.is_some() {
        return on_confirm_key(state, event);
    }
    if state.typing.is_some() {
        on_typing_key(state, event);
        return None;
    }
    if state.help {
        state.help = false;
        return None;
    }
    let key = meaning(event, state.view)?;
    let page = state.body_rows().max(2) as i64 - 1;
    match key {
        Key::Quit => state.quit = true,
        Key::Help => state.help = true,
        Key::Back => back(state),
        Key::Go(view) => go(state, view),
        Key::NextView => {
            let at = View::TABS.iter().position(|&view| view == state.view);
            go(state, View::TABS[at.map_or(0, |at| (at + 1) % View::TABS.len())]);
        }
        Key::Up => move_by(state, -1),
        Key::Down => move_by(state, 1),
        Key::PageUp => move_by(state, -page),
        Key::PageDown => move_by(state, page),
        Key::Home => move_by(state, i64::MIN / 2),
        Key::End => move_by(state, i64::MAX / 2),
        Key::Left | Key::Right => {
            let step = state.grid.nodes_per_cell(grid_width(state)) as i64;
            state.grid.move_by(0, if key == Key::Left { -step } else { step });
        }
        Key::ZoomIn | Key::ZoomOut => {
            let width = grid_width(state);
            state.grid.zoom(key == Key::ZoomIn, width);
        }
        Key::Open => open(state),
        Key::Filter => {
            state.typing = Some(match state.view {
                View::Logs => state.logs.query.regex.clone().unwrap_or_default(),
                _ => state.tasks.filter.contains.clone(),
            });
        }
        Key::NextState => {
            let all = TaskState::ALL;
            let at = state.tasks.filter.state.and_then(|s| all.iter().position(|&a| a == s));
            let next = at.map_or(0, |at| at + 1);
            set_filter(state, |filter| filter.state = all.get(next).copied());
        }
        Key::Logs => open_logs(state),
        Key::Statuses => {
            let streams = &mut state.logs.query.streams;
            match streams.iter().position(|&stream| stream == Stream::Statuses) {
                Some(at) => drop(streams.remove(at)),
                None => streams.push(Stream::Statuses),
            }
            reload_logs(state);
        }
        Key::Kill => ask_kill(state),
        Key::Forgive => ask_forgive(state),
    }
    None
}

fn on_confirm_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    let confirm = state.confirm.as_mut()?;
    match event.code {
        KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
            confirm.yes = !confirm.yes;
        }
        KeyCode::Enter => {
            let confirm = state.confirm.take()?;
            if confirm.yes {
                return Some(command(confirm.action));
            }
        }
        KeyCode::Esc | KeyCode::Char('n' | 'q') => state.confirm = None,
        _ => {}
    }
    None
}

fn command(action: Action) -> Command {
    let (actor, reason) = (crate::client::actor(), "from the console".to_owned());
    match action {
        Action::Kill { attempt } => {
            Command::Kill(KillRequest { attempt, kill: None, actor, reason })
        }
        Action::Forgive { job, node } => {
            Command::Forgive(ForgiveRequest { job, node, actor, reason })
        }
    }
}

fn on_typing_key(state: &mut State, event: KeyEvent) {
    let Some(text) = &mut state.typing else { return };
    match event.code {
        KeyCode::Char(c) => text.push(c),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Esc => state.typing = None,
        KeyCode::Enter => {
            let text = state.typing.take().unwrap_or_default();
            match state.view {
                View::Logs => {
                    state.logs.query.regex = (!text.is_empty()).then_some(text);
                    reload_logs(state);
                }
                _ => set_filter(state, |filter| filter.contains = text),
            }
        }
        _ => {}
    }
}

fn go(state: &mut State, view: View) {
    state.refused = None;
    if state.view != view {
        state.back.push(state.view);
        // Nobody goes back further.
        let extra = state.back.len().saturating_sub(16);
        state.back.drain(..extra);
        state.view = view;
    }
}

fn back(state: &mut State) {
    match state.view {
        View::Tasks if state.tasks.filter != TaskFilter::default() => {
            set_filter(state, |filter| *filter = TaskFilter::default());
        }
        View::Logs if state.logs.query.regex.is_some() => {
            state.logs.query.regex = None;
            reload_logs(state);
        }
        _ => state.view = state.back.pop().unwrap_or(View::Jobs),
    }
}

fn move_by(state: &mut State, by: i64) {
    let up = |up: usize, len: usize, rows: usize| {
        let most = len.saturating_sub(rows) as i64;
        (up as i64).saturating_sub(by).clamp(0, most) as usize
    };
    let rows = state.body_rows();
    match state.view {
        View::Jobs => state.jobs.move_by(by),
        View::Workers => state.workers.move_by(by),
        View::Tasks => move_in_tasks(state, by),
        View::Grid => state.grid.move_by(by, 0),
        View::Logs => state.logs.up = up(state.logs.up, state.logs.lines.len(), rows),
        View::Events => state.events.up = up(state.events.up, state.events.events.len(), rows),
        View::Task => {}
    }
}

/// Moves among all tasks that pass the filter, though only a window of them is here.
fn move_in_tasks(state: &mut State, by: i64) {
    let tasks = &mut state.tasks;
    let last = tasks.total.saturating_sub(1) as i64;
    let wanted = (i64::from(tasks.offset) + tasks.table.cursor as i64).saturating_add(by);
    let wanted = wanted.clamp(0, last.max(0));
    let in_window = wanted - i64::from(tasks.offset);
    if (0..tasks.table.rows.len() as i64).contains(&in_window) {
        tasks.table.cursor = in_window as usize;
        return;
    }
    let offset = (wanted - i64::from(TASKS_WINDOW) / 2).max(0);
    tasks.offset = u32::try_from(offset).unwrap_or(u32::MAX);
    // The rows of the old window are not those of the new one.
    tasks.table.rows.clear();
    tasks.table.cursor = (wanted - offset) as usize;
}

fn set_filter(state: &mut State, change: impl FnOnce(&mut TaskFilter)) {
    change(&mut state.tasks.filter);
    state.tasks.offset = 0;
    state.tasks.total = 0;
    state.tasks.table = Default::default();
}

fn open(state: &mut State) {
    match state.view {
        View::Jobs => {
            let Some(job) = state.jobs.current().map(|row| row.job.clone()) else { return };
            set_filter(state, |f| *f = TaskFilter { job: Some(job), ..TaskFilter::default() });
            go(state, View::Tasks);
        }
        View::Workers => {
            let Some(worker) = state.workers.current().map(|row| row.worker.clone()) else {
                return;
            };
            set_filter(state, |f| {
                *f = TaskFilter { worker: Some(worker), ..TaskFilter::default() }
            });
            go(state, View::Tasks);
        }
        View::Tasks | View::Grid => {
            if let Some(task) = task_under_cursor(state) {
                state.task = Some(task);
                state.explanation = None;
                go(state, View::Task);
            }
        }
        View::Task | View::Logs | View::Events => {}
    }
}

fn task_under_cursor(state: &State) -> Option<(String, String)> {
    match state.view {
        View::Tasks => state.tasks.table.current().map(|row| (row.job.clone(), row.node.clone())),
        View::Grid => state.grid.current().map(|(job, node, _)| (job.to_owned(), node.to_owned())),
        View::Task => state.task.clone(),
        _ => None,
    }
}

fn open_logs(state: &mut State) {
    let (mut job, mut node, mut worker) = (None, None, None);
    match state.view {
        View::Jobs => job = state.jobs.current().map(|row| row.job.clone()),
        View::Workers => {
            let name = state.workers.current().map(|row| row.worker.clone());
            worker = name.and_then(|name| name.parse().ok());
        }
        _ => {
            if let Some((its_job, its_node)) = task_under_cursor(state) {
                (job, node) = (Some(its_job), Some(its_node));
            }
        }
    }
    state.logs.query = Query { job, node, worker, regex: None, ..state.logs.query.clone() };
    reload_logs(state);
    go(state, View::Logs);
}

fn reload_logs(state: &mut State) {
    state.logs.lines.clear();
    state.logs.problems.clear();
    state.logs.up = 0;
    state.logs.loaded = false;
}

fn refuse(state: &mut State, text: &str) {
    state.notice = Some((state.now_ms + NOTICE_MS, text.to_owned()));
}

/// The row of the task under the cursor, as fresh as the console has it.
fn row_under_cursor(state: &State) -> Option<&TaskRow> {
    match state.view {
        View::Tasks => state.tasks.table.current(),
        View::Task => state.explanation.as_ref().map(|explanation| &explanation.task),
        _ => None,
    }
}

fn ask_kill(state: &mut State) {
    if state.read_only {
        return refuse(state, "this console is read-only");
    }
    if state.view == View::Grid {
        // The grid does not know attempts; the task view does.
        open(state);
        return refuse(state, "look at the task, then press K again");
    }
    let Some(row) = row_under_cursor(state) else { return };
    let Some(running) = &row.running else {
        let text = format!("{} on {} is not running", row.job, row.node);
        return refuse(state, &text);
    };
    state.confirm = Some(Confirm {
        title: "Kill this attempt?".to_owned(),
        lines: vec![
            format!("job      {}", row.job),
            format!("node     {}", row.node),
            format!("worker   {}", running.worker),
            format!("attempt  #{} {}", row.attempt_no, running.attempt),
        ],
        action: Action::Kill { attempt: running.attempt },
        yes: false,
    });
}

fn ask_forgive(state: &mut State) {
    if state.read_only {
        return refuse(state, "this console is read-only");
    }
    let (job, node) = match state.view {
        View::Jobs => match state.jobs.current() {
            Some(row) => (row.job.clone(), None),
            None => return,
        },
        _ => match task_under_cursor(state) {
            Some((job, node)) => (job, Some(node)),
            None => return,
        },
    };
    let about = match (&node, state.jobs.rows.iter().find(|row| row.job == job)) {
        (Some(node), _) => format!("node  {node}"),
        (None, row) => {
            let count = |s| row.and_then(|row| row.counts.get(&s).copied()).unwrap_or(0);
            let (failed, waiting) = (count(TaskState::Failed), count(TaskState::Backoff));
            format!("all nodes: {failed} failed, {waiting} in backoff")
        }
    };
    state.confirm = Some(Confirm {
        title: "Let these tasks run again at once?".to_owned(),
        lines: vec![format!("job   {job}"), about],
        action: Action::Forgive { job, node },
        yes: false,
    });
}
