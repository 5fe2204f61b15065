//! Keys: in a view, in a question, in a line that is typed, and in the palette.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use bistro_common::filter::{self, Filter};
use bistro_common::protocol::api::{BulkAction, TaskState};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::Stream;

use super::typing::{
    filter_live, filter_of, find, on_palette_key, on_prompt_key, prompt, reload_logs,
};
use super::{Command, command_of_view, questions, say};
use crate::client::actions::{Action, shell};
use crate::client::logs::Query as LogQuery;
use crate::tui::keys::Key;
use crate::tui::list::{List, Query, Row};
use crate::tui::palette::Palette;
use crate::tui::state::{JobView, PromptKind, State, View};
use crate::tui::view::{grid_size, scroll_max, shown_events};

/// Nobody goes back further.
const BACK_MAX: usize = 16;

pub fn on_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    if event.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        // Wherever one is, this is the way out; nothing else is on such keys.
        state.quit |= event == KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        return None;
    }
    if state.confirm.is_some() {
        return on_confirm_key(state, event);
    }
    if state.palette.is_some() {
        return on_palette_key(state, event);
    }
    if state.prompt.is_some() {
        return on_prompt_key(state, event);
    }
    if state.help {
        state.help = false;
        return None;
    }
    let key = state.keymap.meaning(event, state.view)?;
    on_command(state, key)
}

pub(super) fn on_command(state: &mut State, key: Key) -> Option<Command> {
    let page = state.body_rows().max(2) as i64 - 1;
    match key {
        Key::Quit => state.quit = true,
        Key::Help => state.help = true,
        Key::Palette => state.palette = Some(Palette::default()),
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
            let (width, height) = grid_size(state);
            let step = state.grid.scale(width, height).nodes as i64;
            state.grid.move_by(0, if key == Key::Left { -step } else { step });
        }
        Key::ZoomIn | Key::ZoomOut => {
            let (width, height) = grid_size(state);
            state.grid.zoom(key == Key::ZoomIn, width, height);
        }
        Key::Open => open(state),
        Key::Filter => prompt(state, PromptKind::Filter, filter_of(state)),
        Key::Search => {
            let typed = state.logs.search.as_ref().map(|(text, _)| text.clone());
            prompt(state, PromptKind::Search, typed.unwrap_or_default());
        }
        Key::Jump => prompt(state, PromptKind::Time, String::new()),
        Key::Save => prompt(state, PromptKind::Save, "bistro.log".to_owned()),
        Key::NextState => next_state(state),
        Key::Failures => failures(state),
        Key::Sort => on_list(state, ListKey::Sort),
        Key::Reverse => on_list(state, ListKey::Reverse),
        Key::Freeze => on_list(state, ListKey::Freeze),
        Key::Logs => open_logs(state),
        Key::Statuses => {
            let streams = &mut state.logs.query.streams;
            match streams.iter().position(|&stream| stream == Stream::Statuses) {
                Some(at) => drop(streams.remove(at)),
                None => streams.push(Stream::Statuses),
            }
            reload_logs(state);
        }
        Key::NextFound => find(state, false),
        Key::LastFound => find(state, true),
        Key::Wrap => state.logs.wrap = !state.logs.wrap,
        Key::Times => state.logs.times = !state.logs.times,
        Key::Copy => return copy(state),
        Key::Kill | Key::Forgive | Key::Toggle | Key::Undo => questions::ask(state, key),
        Key::KillAll => return questions::plan(state, BulkAction::Kill),
        Key::ForgiveAll => return questions::plan(state, BulkAction::Forgive),
        Key::Priority => ask_priority(state),
        Key::Edit => return edit(state),
    }
    None
}

fn on_confirm_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    let confirm = state.confirm.as_mut()?;
    match event.code {
        KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
            confirm.yes = !confirm.yes;
        }
        KeyCode::Down | KeyCode::Up if !confirm.ways.is_empty() => {
            let all = confirm.ways.len();
            let step = if event.code == KeyCode::Down { 1 } else { all - 1 };
            confirm.way = (confirm.way + step) % all;
        }
        KeyCode::Enter => {
            let mut confirm = state.confirm.take().filter(|confirm| confirm.yes)?;
            if let Action::Kill { kill, .. } | Action::Apply { kill, .. } = &mut confirm.action {
                *kill = confirm.ways.get(confirm.way).and_then(|(_, kill)| *kill);
            }
            return Some(Command::Act(confirm.action));
        }
        KeyCode::Esc | KeyCode::Char('n' | 'q') => state.confirm = None,
        _ => {}
    }
    None
}

enum ListKey {
    Sort,
    Reverse,
    Freeze,
}

fn on_list(state: &mut State, key: ListKey) {
    fn apply<T: Row>(list: &mut List<T>, key: &ListKey) {
        match key {
            ListKey::Sort => list.sort_next(),
            ListKey::Reverse => list.sort_reversed(),
            ListKey::Freeze => list.frozen = !list.frozen,
        }
    }
    match state.view {
        View::Jobs => apply(&mut state.jobs, &key),
        View::Nodes => apply(&mut state.nodes, &key),
        View::Workers => apply(&mut state.workers, &key),
        View::Tasks => apply(&mut state.tasks, &key),
        _ => {}
    }
}

fn next_state(state: &mut State) {
    let filter = &state.tasks.query.filter;
    let only = |s: TaskState| filter::with(filter, "state", Some(s.as_str())) == *filter;
    let at = TaskState::ALL.into_iter().position(only);
    let next = TaskState::ALL.get(at.map_or(0, |at| at + 1));
    let filter = filter::with(filter, "state", next.map(|state| state.as_str()));
    filter_live(state, filter);
}

fn failures(state: &mut State) {
    match state.view {
        View::Grid if !state.grid.next_failed() => say(state, "no task has failed"),
        View::Jobs => filter_live(state, "failed>0".to_owned()),
        View::Tasks => {
            let filter = questions::failures(&state.tasks.query.filter);
            filter_live(state, filter);
        }
        _ => {}
    }
}

pub fn go(state: &mut State, view: View) {
    if state.view != view {
        state.back.push(state.view);
        let extra = state.back.len().saturating_sub(BACK_MAX);
        state.back.drain(..extra);
        (state.view, state.scroll) = (view, 0);
    }
}

fn back(state: &mut State) {
    let filtered = !filter_of(state).is_empty();
    match state.view {
        View::Logs if state.logs.search.is_some() => state.logs.search = None,
        View::Logs if filtered || state.logs.query.since_ms.is_some() => {
            state.logs.query.regex = None;
            state.logs.query.since_ms = None;
            reload_logs(state);
        }
        View::Events if state.events.since_ms.is_some() => {
            state.events.events.clear();
            (state.events.since_ms, state.events.up) = (None, 0);
        }
        // A list that was opened from another is left with its filter.
        _ if filtered && state.back.is_empty() => filter_live(state, String::new()),
        _ => {
            state.view = state.back.pop().unwrap_or(View::Jobs);
            state.scroll = 0;
        }
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
        View::Nodes => state.nodes.move_by(by),
        View::Workers => state.workers.move_by(by),
        View::Tasks => state.tasks.move_by(by),
        View::Grid => {
            let (width, height) = grid_size(state);
            let jobs = state.grid.scale(width, height).jobs as i64;
            state.grid.move_by(by.saturating_mul(jobs), 0);
        }
        View::Logs => state.logs.up = up(state.logs.up, state.logs.lines.len(), rows),
        View::Events => {
            let len = shown_events(state).len();
            state.events.up = up(state.events.up, len, rows);
        }
        View::Health | View::Job | View::Task => {
            let most = scroll_max(state) as i64;
            let to = (state.scroll as i64).saturating_add(by);
            state.scroll = to.clamp(0, most) as usize;
        }
    }
}

fn open(state: &mut State) {
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
            if let Some(task) = task_under_cursor(state) {
                state.task = Some(task);
                (state.explanation, state.refused) = (None, None);
                go(state, View::Task);
            }
        }
        View::Task | View::Logs | View::Events | View::Health => {}
    }
}

pub(super) fn open_job(state: &mut State, job: String) {
    if state.job.job != job {
        state.job = JobView { job, ..JobView::default() };
    }
    go(state, View::Job);
}

pub(super) fn open_tasks(state: &mut State, filter: String) {
    state.tasks.ask(Query { filter, sort: String::new() });
    go(state, View::Tasks);
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

fn open_logs(state: &mut State) {
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
    state.logs.query = LogQuery { job, node, worker, streams, ..LogQuery::default() };
    reload_logs(state);
    go(state, View::Logs);
}

fn copy(state: &mut State) -> Option<Command> {
    let command = shell(&command_of_view(state, state.view)?);
    say(state, format!("copied: {command}"));
    Some(Command::Copy(command))
}

/// The job that may be changed, and its priority; or why there is none is said.
fn changeable_job(state: &mut State) -> Option<(String, f64)> {
    if state.read_only {
        say(state, "this console is read-only");
        return None;
    }
    let row = match state.view {
        View::Jobs => state.jobs.chosen(),
        _ => state.job.row.as_ref(),
    };
    let job = row.map(|row| (row.job.clone(), row.priority));
    if job.is_none() {
        say(state, "there is no job under the cursor");
    }
    job
}

fn ask_priority(state: &mut State) {
    if let Some((job, priority)) = changeable_job(state) {
        prompt(state, PromptKind::Priority { job }, priority.to_string());
    }
}

/// The question is the editor: what is left as it was changes nothing.
fn edit(state: &mut State) -> Option<Command> {
    changeable_job(state).map(|(job, _)| Command::Edit(job))
}

/// What is wrong with a filter of events, if anything.
pub fn events_filter(state: &State) -> Result<Filter, String> {
    Filter::parse(&state.events.filter, &Event::KEYS).map_err(|error| error.to_string())
}
