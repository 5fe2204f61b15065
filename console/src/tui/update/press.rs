//! Keys: in a view, in a question, in a line that is typed, and in the palette.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use bistro_common::filter::{self, Filter};
use bistro_common::protocol::api::{BulkAction, JobRow, TaskState};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::Stream;

use super::typing::{filter_live, filter_of, find, on_palette_key, on_prompt_key, prompt};
use super::{Command, command_of_view, questions, say};
use crate::client::actions::shell;
use crate::client::logs::Query as LogQuery;
use crate::text::safe;
use crate::tui::keys::Key;
use crate::tui::list::{List, MARKS_MAX, Query, Row};
use crate::tui::palette::Palette;
use crate::tui::route::Route;
use crate::tui::state::{PromptKind, State, View};
use crate::tui::view::{grid_size, help_scroll_max, scroll_max, shown_events};

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
    let key = state.keymap.meaning(event, state.view);
    if let Some(scroll) = state.help {
        let most = help_scroll_max(state);
        state.help = match key {
            Some(Key::Down | Key::PageDown) if most > 0 => Some((scroll + 1).min(most)),
            Some(Key::Up | Key::PageUp) if most > 0 => Some(scroll.saturating_sub(1)),
            _ => None,
        };
        return None;
    }
    let key = key?;
    on_command(state, key)
}

pub(super) fn on_command(state: &mut State, key: Key) -> Option<Command> {
    let page = state.body_rows().max(2) as i64 - 1;
    match key {
        Key::Quit => state.quit = true,
        Key::Help => state.help = Some(0),
        Key::Palette => state.palette = Some(Palette::new(state)),
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
            state.logs.reload();
        }
        Key::NextFound => find(state, false),
        Key::LastFound => find(state, true),
        Key::Wrap => state.logs.wrap = !state.logs.wrap,
        Key::Times => state.logs.times = !state.logs.times,
        Key::Copy => return copy(state, command_of_view(state, state.view)),
        Key::CopyLink => return copy(state, Some(link(state))),
        Key::Mark => mark(state),
        Key::Subtree => open_subtree(state),
        Key::Submit if state.read_only => say(state, "this console is read-only"),
        Key::Submit => prompt(state, PromptKind::Submit, String::new()),
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
            let confirm = state.confirm.take().filter(|confirm| confirm.yes)?;
            if confirm.marked {
                state.clear_marks();
            }
            return Some(Command::Act(match confirm.ways.get(confirm.way) {
                Some((_, way)) => confirm.action.by(*way),
                None => confirm.action,
            }));
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

fn back(state: &mut State) {
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

pub(super) fn move_by(state: &mut State, by: i64) {
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
fn open_subtree(state: &mut State) {
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
    let query = LogQuery { job, node, worker, streams, ..LogQuery::default() };
    visit(state, Route::Logs(query));
}

fn copy(state: &mut State, words: Option<Vec<String>>) -> Option<Command> {
    // Nothing that is pasted may be more than one line.
    let command = safe(&shell(&words?));
    say(state, format!("copied: {command}"));
    Some(Command::Copy(command))
}

/// Opens the same place in another console.
fn link(state: &State) -> Vec<String> {
    let mut words = vec!["bistro".to_owned(), "console".to_owned()];
    match &state.context {
        Some(context) => words.extend(["--context".to_owned(), context.clone()]),
        None if state.cell == "main" => {}
        None => words.extend(["--cell".to_owned(), state.cell.clone()]),
    }
    words.push(state.route().to_string());
    words
}

/// The jobs that may be changed; or why there are none is said.
fn changeable_jobs(state: &mut State) -> Vec<JobRow> {
    if state.read_only {
        say(state, "this console is read-only");
        return Vec::new();
    }
    let jobs: Vec<JobRow> = questions::jobs(state).into_iter().cloned().collect();
    if jobs.is_empty() {
        say(state, "there is no job under the cursor");
    }
    jobs
}

fn ask_priority(state: &mut State) {
    let jobs = changeable_jobs(state);
    if let Some(first) = jobs.first() {
        let now = first.priority.to_string();
        prompt(state, PromptKind::Priority { jobs }, now);
    }
}

/// The question is the editor: what is left as it was changes nothing. It is about the job under the
/// cursor, whatever is marked: there is one editor.
fn edit(state: &mut State) -> Option<Command> {
    let row = match state.view {
        View::Jobs => state.jobs.chosen(),
        _ => state.job.row.as_ref(),
    };
    match row.map(|row| row.job.clone()) {
        _ if state.read_only => say(state, "this console is read-only"),
        Some(job) => return Some(Command::Edit(job)),
        None => say(state, "there is no job under the cursor"),
    }
    None
}

fn mark(state: &mut State) {
    let room = match state.view {
        View::Jobs => state.jobs.mark(),
        View::Workers => state.workers.mark(),
        _ => state.tasks.mark(),
    };
    if !room {
        say(state, format!("more than {MARKS_MAX} are a matter for a filter"));
    }
}

/// What is wrong with a filter of events, if anything.
pub fn events_filter(state: &State) -> Result<Filter, String> {
    Filter::parse(&state.events.filter, &Event::KEYS).map_err(|error| error.to_string())
}
