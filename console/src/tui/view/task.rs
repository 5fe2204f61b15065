//! One task: what it does, and why it does not run.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{fold, nothing};
use crate::client::attempts::Attempts;
use crate::text::{attempt_line, safe, task_facts};
use crate::tui::state::State;

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let Some(explanation) = &state.explanation else {
        return nothing(state, state.refused.as_deref(), "asking...");
    };
    let style = state.theme.state(explanation.task.state);
    let mut lines = Vec::new();
    for (label, text) in task_facts(explanation, state.now_ms) {
        match label {
            "task" => lines.push(Line::styled(safe(&text), state.theme.title)),
            "state" => lines.push(Line::from(vec![
                Span::raw(format!("{label:<9}")),
                Span::styled(format!("{} {text}", explanation.task.state.glyph()), style),
            ])),
            _ => lines.extend(fold(&format!("{label:<9}{text}"), area.width, Style::new())),
        }
    }
    if !explanation.reasons.is_empty() {
        lines.push(Line::raw(""));
        lines.push(Line::styled("why it does not start now", state.theme.quiet));
    }
    for reason in &explanation.reasons {
        lines.extend(fold(&format!("- {}", reason.text), area.width, Style::new()));
        for holder in &reason.held_by {
            let text = format!("    held by {} on {}", holder.job, holder.node);
            lines.extend(fold(&text, area.width, Style::new()));
        }
    }
    lines.extend(state.attempts.iter().flat_map(|attempts| history(state, attempts, area)));
    lines
}

/// The attempts that its workers remember, newest first.
fn history(state: &State, history: &Attempts, area: Rect) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw(""), Line::styled("attempts", state.theme.quiet)];
    for attempt in &history.attempts {
        lines.extend(fold(&attempt_line(attempt), area.width, Style::new()));
    }
    if history.attempts.is_empty() {
        lines.push(Line::raw("none that its workers remember"));
    }
    for problem in &history.problems {
        lines.extend(fold(problem, area.width, state.theme.alarm));
    }
    lines
}
