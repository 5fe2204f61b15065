//! Lines that are typed: filters, searches, times and names, and the palette.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use bistro_common::filter;

use super::navigate::{open_job, open_tasks};
use super::press::on_command;
use super::{Command, questions, say};
use crate::text::{clock_ms, parse_time};
use crate::tui::list::{List, Query, Row};
use crate::tui::palette::{Palette, Pick};
use crate::tui::state::{Prompt, PromptKind, State, View};

/// Nobody types more.
const TYPED_MAX: usize = 1_000;

/// Text for a line that is being typed; elsewhere it means nothing.
pub fn on_paste(state: &mut State, text: &str) {
    if state.confirm.is_some() {
        return;
    }
    let line = text.lines().next().unwrap_or_default();
    for c in line.chars().filter(|c| !c.is_control()) {
        let key = KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
        if state.palette.is_some() {
            on_palette_key(state, key);
        } else if state.prompt.is_some() {
            on_prompt_key(state, key);
        }
    }
}

pub(super) fn on_palette_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    let palette = state.palette.as_mut()?;
    match event.code {
        KeyCode::Esc => state.palette = None,
        KeyCode::Up => palette.cursor = palette.cursor.saturating_sub(1),
        KeyCode::Down | KeyCode::Tab => {
            palette.cursor = (palette.cursor + 1).min(palette.entries.len().saturating_sub(1));
        }
        KeyCode::Enter => {
            let Palette { cursor, entries, .. } = state.palette.take()?;
            let entry = entries.into_iter().nth(cursor)?;
            return pick(state, entry.pick);
        }
        code => {
            let mut text = std::mem::take(&mut palette.text);
            type_into(&mut text, code);
            state.palette = Some(Palette::find(state, text));
        }
    }
    None
}

fn pick(state: &mut State, pick: Pick) -> Option<Command> {
    match pick {
        Pick::Press(key) => return on_command(state, key),
        Pick::Job(job) => open_job(state, job),
        Pick::Worker(worker) => open_tasks(state, filter::exactly("worker", &worker)),
        Pick::Tasks(filter) => open_tasks(state, filter),
        Pick::Elsewhere(elsewhere) => (state.elsewhere, state.quit) = (Some(elsewhere), true),
    }
    None
}

fn type_into(text: &mut String, code: KeyCode) {
    match code {
        KeyCode::Char(c) if text.len() < TYPED_MAX => text.push(c),
        KeyCode::Backspace => drop(text.pop()),
        _ => {}
    }
}

pub(super) fn prompt(state: &mut State, kind: PromptKind, text: String) {
    let before = text.clone();
    state.prompt = Some(Prompt { kind, text, before });
}

pub(super) fn on_prompt_key(state: &mut State, event: KeyEvent) -> Option<Command> {
    let prompt = state.prompt.as_mut()?;
    match event.code {
        KeyCode::Esc => {
            let Prompt { kind, before, .. } = state.prompt.take()?;
            if kind == PromptKind::Filter {
                filter_live(state, before);
            }
        }
        KeyCode::Enter => {
            let Prompt { kind, text, .. } = state.prompt.take()?;
            return entered(state, kind, text);
        }
        code => {
            type_into(&mut prompt.text, code);
            // What is typed holds at once, where that costs little.
            if prompt.kind == PromptKind::Filter && state.view != View::Logs {
                let text = prompt.text.clone();
                filter_live(state, text);
            }
        }
    }
    None
}

fn entered(state: &mut State, kind: PromptKind, text: String) -> Option<Command> {
    match kind {
        PromptKind::Filter if state.view == View::Logs => {
            state.logs.query.regex = (!text.is_empty()).then_some(text);
            state.logs.reload();
        }
        PromptKind::Filter => filter_live(state, text),
        PromptKind::Search => search(state, &text),
        PromptKind::Time => jump(state, &text),
        PromptKind::Priority { jobs } => questions::prioritize(state, &jobs, &text),
        PromptKind::Submit if text.trim().is_empty() => {}
        PromptKind::Submit => questions::submit(state, &text),
        PromptKind::Save if text.is_empty() => {}
        PromptKind::Save => {
            let line = |line: &crate::client::logs::Line| {
                let l = &line.line;
                let time = clock_ms(l.time_ms);
                format!("{time} {} {} {} {}\n", line.worker, l.job, l.node, l.text)
            };
            let lines = state.logs.lines.iter().map(line).collect();
            return Some(Command::Save { path: text, text: lines });
        }
    }
    None
}

pub(super) fn filter_of(state: &State) -> String {
    match state.view {
        View::Jobs => state.jobs.query.filter.clone(),
        View::Nodes => state.nodes.query.filter.clone(),
        View::Workers => state.workers.query.filter.clone(),
        View::Tasks => state.tasks.query.filter.clone(),
        View::Logs => state.logs.query.regex.clone().unwrap_or_default(),
        View::Events => state.events.filter.clone(),
        View::Grid | View::Health | View::Job | View::Task => String::new(),
    }
}

pub(super) fn filter_live(state: &mut State, filter: String) {
    fn ask<T: Row>(list: &mut List<T>, filter: String) {
        list.ask(Query { filter, sort: list.query.sort.clone() });
    }
    match state.view {
        View::Jobs => ask(&mut state.jobs, filter),
        View::Nodes => ask(&mut state.nodes, filter),
        View::Workers => ask(&mut state.workers, filter),
        View::Tasks => ask(&mut state.tasks, filter),
        View::Events => {
            state.events.filter = filter;
            state.events.up = 0;
        }
        View::Logs | View::Grid | View::Health | View::Job | View::Task => {}
    }
}

fn search(state: &mut State, text: &str) {
    if text.is_empty() {
        state.logs.search = None;
        return;
    }
    match regex::RegexBuilder::new(text).size_limit(1 << 20).build() {
        Ok(regex) => {
            state.logs.search = Some((text.to_owned(), regex));
            find(state, true);
        }
        Err(_) => say(state, format!("{text:?} is not a regular expression")),
    }
}

/// Goes to the next line that was searched, up or down from the last one in sight.
pub(super) fn find(state: &mut State, upwards: bool) {
    let logs = &state.logs;
    let Some((_, regex)) = &logs.search else {
        return say(state, "nothing is searched for");
    };
    let last = logs.lines.len().saturating_sub(logs.up + 1);
    let found = |at: &usize| regex.is_match(&logs.lines[*at].line.text);
    let at = match upwards {
        // The first time, the line at the end counts too.
        true => {
            let end = last + usize::from(logs.up == 0);
            (0..end.min(logs.lines.len())).rev().find(found)
        }
        false => (last + 1..logs.lines.len()).find(found),
    };
    match at {
        Some(at) => state.logs.up = logs.lines.len() - at - 1,
        None => say(state, "no more lines match"),
    }
}

fn jump(state: &mut State, text: &str) {
    let Some(time_ms) = parse_time(text, state.now_ms) else {
        return say(state, format!("{text:?} is no time; try -10m, 14:05 or 2024-05-01T14:05"));
    };
    match state.view {
        View::Logs => {
            state.logs.query.since_ms = Some(time_ms);
            state.logs.reload();
        }
        View::Events => {
            let filter = state.events.filter.clone();
            state.events.ask(filter, Some(time_ms));
        }
        _ => {}
    }
}
