//! Draws the state. Reads it and changes nothing.

mod grid;
mod lists;
mod logs;
mod overlay;
mod task;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use bistro_common::protocol::api::{Counts, Severity, TaskState};

use super::keys::BINDINGS;
use super::state::{State, View};
use super::theme;
use crate::text::{clock, fit, safe, span};

pub use grid::grid_width;

/// Rows that are not the body's: two of the header, the tabs, and the footer.
pub const FRAME_ROWS: usize = 4;

pub fn draw(state: &State, frame: &mut Frame<'_>) {
    let rows =
        [Constraint::Length(2), Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
    let [header, tabs, body, footer] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(header_lines(state, header.width)), header);
    frame.render_widget(Paragraph::new(tab_line(state)), tabs);
    draw_body(state, frame, body);
    frame.render_widget(Paragraph::new(footer_line(state)), footer);
    if let Some(confirm) = &state.confirm {
        overlay::confirm(state, confirm, frame);
    } else if state.help {
        overlay::help(state, frame);
    }
}

fn draw_body(state: &State, frame: &mut Frame<'_>, area: Rect) {
    let lines = match state.view {
        View::Jobs => lists::jobs(state, area),
        View::Workers => lists::workers(state, area),
        View::Tasks => lists::tasks(state, area),
        View::Grid => grid::lines(state, area),
        View::Task => task::lines(state, area),
        View::Logs => logs::logs(state, area),
        View::Events => logs::events(state, area),
    };
    frame.render_widget(Paragraph::new(lines), area);
}

fn header_lines(state: &State, width: u16) -> Vec<Line<'static>> {
    let mut first = vec![Span::styled(format!("bistro {} ", safe(&state.cell)), theme::title())];
    let mut second = Vec::new();
    match &state.status {
        Some(status) => {
            let text = format!(
                " {} jobs  {} nodes  {}/{} workers",
                status.jobs, status.nodes, status.workers_healthy, status.workers
            );
            first.push(Span::raw(text));
            if status.finished {
                first.push(Span::styled("  finished", theme::title()));
            }
            second = counts_spans(&status.counts, state.colour);
        }
        None => first.push(Span::raw(" no answer yet")),
    }
    match state.silent_ms() {
        Some(ms) => {
            let why = if state.connected { "scheduler silent" } else { "no connection" };
            let text = format!(" {why} for {} ", span(ms));
            first.push(Span::raw("  "));
            first.push(Span::styled(text, theme::alarm(state.colour)));
        }
        None if state.status.is_none() => {
            if let Some(trouble) = &state.trouble {
                second.push(Span::styled(safe(trouble), theme::alarm(state.colour)));
            } else if !state.connected {
                second.push(Span::styled(" connecting to NATS ", theme::alarm(state.colour)));
            }
        }
        None => {}
    }
    let mut first = Line::from(first);
    let now = clock(state.now_ms);
    let room = usize::from(width).saturating_sub(first.width() + now.len());
    if room > 1 {
        first.push_span(Span::raw(" ".repeat(room)));
        first.push_span(Span::styled(now, theme::quiet(state.colour)));
    }
    vec![first, Line::from(second)]
}

fn counts_spans(counts: &Counts, colour: bool) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    for state in TaskState::ALL {
        let count = counts.get(&state).copied().unwrap_or(0);
        if count > 0 {
            let text = format!("{} {} {count}  ", state.glyph(), state.as_str());
            spans.push(Span::styled(text, theme::state_style(state, colour)));
        }
    }
    if spans.is_empty() {
        spans.push(Span::raw("no tasks"));
    }
    spans
}

fn tab_line(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, view) in View::TABS.into_iter().enumerate() {
        let style = if view == state.view { theme::cursor() } else { theme::quiet(state.colour) };
        spans.push(Span::styled(format!(" {} {} ", i + 1, view.title()), style));
    }
    if state.view == View::Task {
        spans.push(Span::styled(" Task ", theme::cursor()));
    }
    let errors = state.status.as_ref().map_or(0, |status| {
        status.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    });
    if errors > 0 {
        let text = format!(" {errors} config error{}: 6 ", if errors == 1 { "" } else { "s" });
        spans.push(Span::raw(" "));
        spans.push(Span::styled(text, theme::alarm(state.colour)));
    }
    Line::from(spans)
}

fn footer_line(state: &State) -> Line<'static> {
    if let Some(text) = &state.typing {
        return Line::from(format!("filter (enter: apply, esc: cancel): {}_", safe(text)));
    }
    if let Some((_, notice)) = &state.notice {
        return Line::styled(safe(notice), theme::title());
    }
    let mut spans = Vec::new();
    let here = BINDINGS.iter().filter(|b| b.views.is_empty() || b.views.contains(&state.view));
    for binding in here.filter(|binding| !binding.short.is_empty()) {
        spans.push(Span::styled(binding.shown, theme::title()));
        spans.push(Span::styled(format!(" {}  ", binding.short), theme::quiet(state.colour)));
    }
    Line::from(spans)
}

/// What an empty list says.
fn nothing(state: &State, what: &str) -> Vec<Line<'static>> {
    let text = match (state.answered_ms, &state.refused) {
        (None, _) => "waiting for the scheduler...",
        (Some(_), Some(refused)) => refused,
        (Some(_), None) => what,
    };
    vec![Line::raw(""), Line::styled(format!("  {}", safe(text)), theme::quiet(state.colour))]
}

/// A row of a list. The cursor marks its name; the rest keeps its colours, which mean something.
fn row(mut spans: Vec<Span<'static>>, here: bool) -> Line<'static> {
    if here && let Some(name) = spans.first_mut() {
        name.style = theme::cursor();
    }
    Line::from(spans)
}

/// A long line as several.
fn fold(text: &str, width: u16, style: Style) -> Vec<Line<'static>> {
    let characters: Vec<char> = safe(text).chars().collect();
    let parts = characters.chunks(usize::from(width).max(10));
    parts.map(|part| Line::styled(part.iter().collect::<String>(), style)).collect()
}

fn heading(columns: &[(&str, usize)], state: &State) -> Line<'static> {
    let text: String = columns.iter().map(|(name, width)| fit(name, *width) + " ").collect();
    Line::styled(text, theme::quiet(state.colour))
}
