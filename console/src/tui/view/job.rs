//! One job: how far, how fast, what fails, what is slow, and how it is configured.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use bistro_common::protocol::api::{JobRow, JobStats, LevelCounts, TaskRow, TaskState};
use bistro_common::protocol::job::JobDocument;

use super::lists::{bar_spans, rate_text, task_spans};
use super::{fold, nothing};
use crate::text::{change_line, fit, runtimes_text, safe_json};
use crate::tui::state::State;

/// Columns for the name of a level, and for how many of its nodes are done.
const LEVEL: usize = 8;
const COUNTED: usize = 15;

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let view = &state.job;
    let Some(row) = &view.row else {
        return nothing(state, view.problem.as_deref(), "asking...");
    };
    let mut lines = facts(state, row, area);
    lines.extend(state.job_more.stats.iter().flat_map(|stats| levels(state, stats, area)));
    lines.extend(tasks(state, "failing", &view.failing, area));
    lines.extend(tasks(state, "running longest", &view.slowest, area));
    lines.extend(history(state, area));
    lines.extend(view.document.iter().flat_map(|document| config(state, document, area)));
    lines
}

fn facts(state: &State, row: &JobRow, area: Rect) -> Vec<Line<'static>> {
    let count = |wanted| row.counts.get(&wanted).copied().unwrap_or(0);
    let total = row.counts.values().sum::<u64>() - count(TaskState::Avoided);
    let bar = bar_spans(state, &row.counts, total, usize::from(area.width).saturating_sub(1));
    let mut lines = vec![Line::from(bar)];
    let mut counts = Line::default();
    for which in TaskState::ALL.into_iter().filter(|&which| count(which) > 0) {
        let text = format!("{} {} {}  ", which.glyph(), which.as_str(), count(which));
        counts.push_span(Span::styled(text, state.theme.state(which)));
    }
    lines.push(counts);
    let enabled = if row.enabled { "enabled" } else { "disabled" };
    let mut facts = vec![
        ("is", format!("{enabled}, priority {}, on level {}", row.priority, row.level)),
        ("owner", row.owner.clone()),
    ];
    let rate = rate_text(state, row);
    if !rate.trim().is_empty() {
        let parts: Vec<&str> = rate.split_whitespace().collect();
        let left = parts[1..].join(" ");
        let left = if left.is_empty() { String::new() } else { format!(", {left} left") };
        facts.push(("does", format!("{} tasks/s{left}", parts[0])));
    }
    if !row.depends_on.is_empty() {
        facts.push(("after", row.depends_on.join(", ")));
    }
    if !row.overrides.is_empty() {
        facts.push(("beside", "its file: enabled or priority are overridden".to_owned()));
    }
    for (label, text) in facts {
        lines.extend(fold(&format!("{label:<8} {text}"), area.width, Style::new()));
    }
    let failed = state.theme.state(TaskState::Failed);
    lines.extend(row.errors.iter().flat_map(|error| fold(error, area.width, failed)));
    lines
}

/// How far the nodes of each level are, and how long tasks take.
fn levels(state: &State, stats: &JobStats, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width).saturating_sub(LEVEL + COUNTED + 2).max(4);
    let mut lines = Vec::new();
    // That of the tasks themselves is the bar above.
    let above = stats.levels.split_last().map_or(&[][..], |(_, above)| above);
    for LevelCounts { level, counts } in above {
        let total = counts.values().sum::<u64>();
        let done = counts.get(&TaskState::Done).copied().unwrap_or(0);
        let mut line = Line::from(format!("{} ", fit(level, LEVEL)));
        line.extend(bar_spans(state, counts, total, width));
        line.push_span(Span::raw(format!(" {done}/{total}")));
        lines.push(line);
    }
    if let Some(ran) = stats.ran {
        lines.extend(fold(&runtimes_text(&ran), area.width, Style::new()));
    }
    lines
}

fn history(state: &State, area: Rect) -> Vec<Line<'static>> {
    if state.job_more.history.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::raw(""), Line::styled("changes", state.theme.quiet)];
    for event in &state.job_more.history {
        lines.extend(fold(&change_line(event, state.now_ms), area.width, Style::new()));
    }
    lines
}

fn tasks(state: &State, title: &str, rows: &[TaskRow], area: Rect) -> Vec<Line<'static>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let name = (usize::from(area.width).saturating_sub(46) / 2).clamp(8, 40);
    let mut lines = vec![Line::raw(""), Line::styled(title.to_owned(), state.theme.quiet)];
    lines.extend(rows.iter().map(|row| Line::from(task_spans(state, row, name))));
    lines
}

fn config(state: &State, document: &JobDocument, area: Rect) -> Vec<Line<'static>> {
    let text = serde_json::to_string_pretty(&document.effective).unwrap_or_default();
    let mut lines = vec![Line::raw(""), Line::styled("config", state.theme.quiet)];
    for line in safe_json(&text).lines() {
        lines.extend(fold(line, area.width, Style::new()));
    }
    lines
}
