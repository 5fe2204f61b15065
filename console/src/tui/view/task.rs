//! One task: what it does, and why it does not run.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{fold, nothing};
use crate::text::{safe, span};
use crate::tui::state::State;
use crate::tui::theme;

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let Some(explanation) = &state.explanation else {
        return nothing(state, "asking...");
    };
    let task = &explanation.task;
    let style = theme::state_style(task.state, state.colour);
    let mut lines = vec![
        Line::styled(format!("{} on {}", safe(&task.job), safe(&task.node)), theme::title()),
        Line::from(vec![
            Span::raw("state    "),
            Span::styled(format!("{} {}", task.state.glyph(), task.state.as_str()), style),
        ]),
        Line::raw(format!("path     {}", safe(&explanation.path.join(" > ")))),
        Line::raw(format!("starts   {}", task.attempt_no)),
    ];
    if let Some(running) = &task.running {
        let time = span(state.now_ms.saturating_sub(running.started_ms));
        lines.push(Line::raw(format!("running  for {time} on {}", safe(&running.worker))));
        lines.push(Line::raw(format!("attempt  {}", running.attempt)));
    }
    if let Some(last) = &task.last {
        let text = last.exception().map(|text| format!(": {text}")).unwrap_or_default();
        lines.push(Line::raw(format!("last     {}{}", last.label(), safe(&text))));
    }
    if !explanation.reasons.is_empty() {
        lines.push(Line::raw(""));
        lines.push(Line::styled("why it does not start now", theme::quiet(state.colour)));
    }
    for reason in &explanation.reasons {
        lines.extend(fold(&format!("- {}", reason.text), area.width, Style::new()));
        for holder in &reason.held_by {
            let text = format!("    held by {} on {}", holder.job, holder.node);
            lines.extend(fold(&text, area.width, Style::new()));
        }
    }
    lines
}
