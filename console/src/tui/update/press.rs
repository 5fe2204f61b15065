//! Keys: in a view, in a question, in a line that is typed, and in the palette.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use bistro_common::filter::{self, Filter};
use bistro_common::protocol::api::{BulkAction, JobRow, TaskState};
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::Stream;

use super::navigate::{back, copy, go, link, open, open_logs, open_subtree};
use super::typing::{filter_live, filter_of, find, on_palette_key, on_prompt_key, prompt};
use super::{Command, command_of_view, questions, say};
use crate::tui::keys::Key;
use crate::tui::list::{List, MARKS_MAX, Row};
use crate::tui::palette::Palette;
use crate::tui::state::{PromptKind, State, View};
use crate::tui::view::{grid_size, help_scroll_max, scroll_max, shown_events};

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
