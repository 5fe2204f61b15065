//! Draws the state. Reads it and changes nothing.

mod grid;
mod health;
mod job;
mod lists;
mod logs;
mod overlay;
mod task;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use bistro_common::protocol::api::{Counts, ProblemKind, ProblemReport, Severity, TaskState};

use unicode_width::UnicodeWidthStr;

use super::keys::{Binding, Key};
use super::state::{Prompt, PromptKind, State, View};
use crate::text::{clock, fit, safe, span};

pub use grid::{LEFT as GRID_LEFT, at as grid_at, grid_size};
pub use logs::shown_events;
pub use overlay::help_scroll_max;

/// Below this, words that glyphs and numbers stand for are left out.
const NARROW: u16 = 76;

/// Rows that are not the body's: two of the header, the tabs, and the footer.
pub const FRAME_ROWS: usize = 4;
pub const TABS_ROW: u16 = 2;
/// Where the body begins.
pub const BODY_TOP: u16 = 3;
/// What is above the rows of a list: what is listed, and the heading.
pub const LIST_HEAD: usize = 2;
/// Room for what stands between two steps of the way here, and for those that are left out.
const CRUMBS_CUT: usize = 9;

pub fn draw(state: &State, frame: &mut Frame<'_>) {
    let rows =
        [Constraint::Length(2), Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
    let [header, tabs, body, footer] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(header_lines(state, header.width)), header);
    frame.render_widget(Paragraph::new(tab_line(state, tabs.width)), tabs);
    frame.render_widget(Paragraph::new(body_lines(state, body)), body);
    frame.render_widget(Paragraph::new(footer_line(state, footer.width)), footer);
    if let Some(confirm) = &state.confirm {
        overlay::confirm(state, confirm, frame);
    } else if let Some(palette) = &state.palette {
        overlay::palette(state, palette, frame);
    } else if let Some(scroll) = state.help {
        overlay::help(state, scroll, frame);
    }
    if state.ascii {
        // Names and log lines may be in any script.
        for cell in frame.buffer_mut().content.iter_mut().filter(|c| !c.symbol().is_ascii()) {
            cell.set_symbol("?");
        }
    }
}

fn body_lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    match state.view {
        View::Jobs => lists::jobs(state, area),
        View::Nodes => lists::nodes(state, area),
        View::Workers => lists::workers(state, area),
        View::Tasks => lists::tasks(state, area),
        View::Grid => grid::lines(state, area),
        View::Job | View::Task | View::Health => {
            document(state, area).into_iter().skip(state.scroll).collect()
        }
        View::Logs => logs::logs(state, area),
        View::Events => logs::events(state, area),
    }
}

/// A view that is read from its top, as long as it is.
fn document(state: &State, area: Rect) -> Vec<Line<'static>> {
    match state.view {
        View::Job => job::lines(state, area),
        View::Task => task::lines(state, area),
        _ => health::lines(state, area),
    }
}

/// How far a view that is read from its top can be scrolled.
pub fn scroll_max(state: &State) -> usize {
    let height = state.body_rows();
    let area = Rect { x: 0, y: 0, width: state.size.0, height: height as u16 };
    document(state, area).len().saturating_sub(height)
}

fn header_lines(state: &State, width: u16) -> Vec<Line<'static>> {
    let cell = match &state.context {
        Some(context) => format!("bistro {} ({}) ", safe(&state.cell), safe(context)),
        None => format!("bistro {} ", safe(&state.cell)),
    };
    let mut first = vec![Span::styled(cell, state.theme.title)];
    let mut second = Vec::new();
    if state.read_only {
        first.push(Span::styled(" RO ", state.theme.cursor));
    }
    match &state.status {
        Some(status) => {
            let text = format!(
                " {} jobs  {} nodes  {}/{} workers",
                status.jobs, status.nodes, status.workers_healthy, status.workers
            );
            first.push(Span::raw(text));
            if status.finished {
                first.push(Span::styled("  finished", state.theme.title));
            }
            second = counts_spans(state, &status.counts, false);
            // Numbers matter more than words.
            if second.iter().map(Span::width).sum::<usize>() > usize::from(width) {
                second = counts_spans(state, &status.counts, true);
            }
        }
        None => first.push(Span::raw(" no answer yet")),
    }
    match state.silent_ms() {
        Some(ms) => {
            let why = if state.link.connected { "scheduler silent" } else { "no connection" };
            first.push(Span::raw("  "));
            first.push(Span::styled(format!(" {why} for {} ", span(ms)), state.theme.alarm));
            // What is known is old.
            second.iter_mut().for_each(|span| span.style = state.theme.quiet);
        }
        None if state.status.is_none() => {
            if let Some(trouble) = &state.link.trouble {
                second.push(Span::styled(safe(trouble), state.theme.alarm));
            } else if !state.link.connected {
                second.push(Span::styled(" connecting to NATS ", state.theme.alarm));
            }
        }
        None => {}
    }
    let mut first = Line::from(first);
    let now = clock(state.now_ms);
    let room = usize::from(width).saturating_sub(first.width() + now.len());
    if room > 1 {
        first.push_span(Span::raw(" ".repeat(room)));
        first.push_span(Span::styled(now, state.theme.quiet));
    }
    vec![first, Line::from(second)]
}

fn counts_spans(state: &State, counts: &Counts, narrow: bool) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    for which in TaskState::ALL {
        let count = counts.get(&which).copied().unwrap_or(0);
        if count > 0 {
            let text = match narrow {
                true => format!("{} {count}  ", which.glyph()),
                false => format!("{} {} {count}  ", which.glyph(), which.as_str()),
            };
            spans.push(Span::styled(text, state.theme.state(which)));
        }
    }
    if spans.is_empty() {
        spans.push(Span::raw("no tasks"));
    }
    spans
}

/// What somebody must see to, and where it says more.
fn alarm(problems: &[ProblemReport]) -> Option<String> {
    if problems.iter().any(|problem| problem.kind == ProblemKind::DiskFull) {
        return Some(" DISK FULL: 8 ".to_owned());
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let plural = if errors == 1 { "" } else { "s" };
    (errors > 0).then(|| format!(" {errors} config error{plural}: 8 "))
}

fn tab_line(state: &State, width: u16) -> Line<'static> {
    let last = match state.view {
        View::Job => Some(format!(" Job {} ", safe(&state.job.job))),
        View::Task => Some(" Task ".to_owned()),
        _ => None,
    };
    let problems = state.status.as_ref().map_or(&[][..], |status| &status.problems);
    let alarm = alarm(problems);
    let more = last.iter().chain(&alarm).map(String::len).sum::<usize>();
    let narrow = usize::from(width) < usize::from(NARROW) + more;
    let mut spans = Vec::new();
    for (i, view) in View::TABS.iter().copied().enumerate() {
        let here = view == state.view;
        let style = if here { state.theme.cursor } else { state.theme.quiet };
        let text = match narrow && !here {
            true => format!(" {} ", i + 1),
            false => format!(" {} {} ", i + 1, view.title()),
        };
        spans.push(Span::styled(text, style));
    }
    spans.extend(last.map(|last| Span::styled(last, state.theme.cursor)));
    spans.extend(alarm.map(|alarm| Span::styled(alarm, state.theme.alarm)));
    let used: usize = spans.iter().map(Span::width).sum();
    let crumbs = crumbs(state, usize::from(width).saturating_sub(used + 2));
    spans.extend(crumbs.map(|crumbs| Span::styled(format!("  {crumbs}"), state.theme.quiet)));
    Line::from(spans)
}

/// The way that led here, the last steps of it that fit.
fn crumbs(state: &State, room: usize) -> Option<String> {
    let mut text = safe(&state.route().crumb());
    for step in state.back.iter().rev().map(|route| safe(&route.crumb())) {
        if text.width() + step.width() + CRUMBS_CUT > room {
            text = format!("... > {text}");
            break;
        }
        text = format!("{step} > {text}");
    }
    (!state.back.is_empty() && text.width() <= room).then_some(text)
}

/// The tab at a column of its line.
pub fn tab_at(state: &State, column: u16) -> Option<View> {
    let line = tab_line(state, state.size.0);
    let mut end = 0;
    let ends = line.spans.iter().map(|span| {
        end += span.width();
        end
    });
    let at = ends.take(View::TABS.len()).position(|end| usize::from(column) < end)?;
    View::TABS.get(at).copied()
}

fn footer_line(state: &State, width: u16) -> Line<'static> {
    if let Some(Prompt { kind, text, .. }) = &state.prompt {
        let what = match kind {
            PromptKind::Filter if state.view == View::Logs => "only lines with (regex)".to_owned(),
            PromptKind::Filter => "filter".to_owned(),
            PromptKind::Search => "search (regex)".to_owned(),
            PromptKind::Time => "from (-10m, 14:05)".to_owned(),
            PromptKind::Save => "save to".to_owned(),
            PromptKind::Priority { jobs } => match jobs.as_slice() {
                [row] => format!("priority of {}", safe(&row.job)),
                rows => format!("priority of {} jobs", rows.len()),
            },
            PromptKind::Submit => "run once: [options --] command".to_owned(),
        };
        // The end of what is typed stays in sight.
        let room = usize::from(width).saturating_sub(what.len() + 4);
        let typed: Vec<char> = safe(text).chars().collect();
        let typed: String = typed[typed.len().saturating_sub(room)..].iter().collect();
        return Line::from(vec![
            Span::styled(format!("{what}: "), state.theme.title),
            Span::raw(format!("{typed}_")),
        ]);
    }
    if let Some((_, notice)) = &state.notice {
        return Line::styled(safe(notice), state.theme.title);
    }
    let shown = state.keymap.in_view(state.view).filter(|binding| !binding.short.is_empty());
    // What this view is for comes first; help, which has the rest, is always there.
    let (help, shown): (Vec<_>, Vec<_>) = shown.partition(|binding| binding.key == Key::Help);
    let (general, own): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|binding| binding.views.is_empty());
    let hint = |binding: &Binding| {
        let key = binding.shown().split(' ').next().unwrap_or_default().to_owned();
        [
            Span::styled(key, state.theme.title),
            Span::styled(format!(" {}  ", binding.short), state.theme.quiet),
        ]
    };
    let help: Vec<Span<'static>> = help.into_iter().flat_map(hint).collect();
    let mut room = usize::from(width).saturating_sub(help.iter().map(Span::width).sum());
    let mut line = Line::default();
    for hint in own.into_iter().chain(general).map(hint) {
        let wide: usize = hint.iter().map(Span::width).sum();
        if wide > room {
            break;
        }
        room -= wide;
        line.spans.extend(hint);
    }
    line.spans.extend(help);
    line
}

/// What an empty view says.
fn nothing(state: &State, problem: Option<&str>, what: &str) -> Vec<Line<'static>> {
    let text = match (state.link.answered_ms, problem) {
        (None, _) => "waiting for the scheduler...",
        (Some(_), Some(problem)) => problem,
        (Some(_), None) => what,
    };
    vec![Line::raw(""), Line::styled(format!("  {}", safe(text)), state.theme.quiet)]
}

/// A row of a list. The cursor marks its name; the rest keeps its colours, which mean something.
fn row(state: &State, mut spans: Vec<Span<'static>>, here: bool, marked: bool) -> Line<'static> {
    if let Some(name) = spans.first_mut() {
        if here {
            name.style = state.theme.cursor;
        }
        if marked {
            let text = format!("*{}", name.content);
            name.content = fit(&text, name.content.width()).into();
        }
    }
    Line::from(spans)
}

/// A long line as several.
fn fold(text: &str, width: u16, style: Style) -> Vec<Line<'static>> {
    let characters: Vec<char> = safe(text).chars().collect();
    let parts = characters.chunks(usize::from(width).max(10));
    parts.map(|part| Line::styled(part.iter().collect::<String>(), style)).collect()
}

/// The heading of a list, with an arrow at the column that it is sorted by.
fn heading(columns: &[(&str, &str, usize)], sort: &str, state: &State) -> Line<'static> {
    let (by, arrow) = match sort.strip_prefix('-') {
        Some(by) => (by, 'v'),
        None => (sort, '^'),
    };
    let title = |&(name, key, width): &(&str, &str, usize)| match !key.is_empty() && key == by {
        true => fit(&format!("{name}{arrow}"), width) + " ",
        false => fit(name, width) + " ",
    };
    Line::styled(columns.iter().map(title).collect::<String>(), state.theme.quiet)
}
