//! Lines that come: logs and events. The newest is at the bottom.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use serde_json::Value;
use std::borrow::Cow;

use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::log::{LogLine, Stream};
use bistro_common::status::TaskStatus;

use super::{fold, nothing};
use crate::cli::events::line as event_line;
use crate::client::logs;
use crate::text::{clock, fit, safe};
use crate::tui::state::State;
use crate::tui::theme;

/// The part of `len` lines that fits, `up` lines up from the end.
fn window(len: usize, up: usize, rows: usize) -> std::ops::Range<usize> {
    let end = len - up.min(len.saturating_sub(rows)).min(len);
    end.saturating_sub(rows)..end
}

pub fn logs(state: &State, area: Rect) -> Vec<Line<'static>> {
    let logs = &state.logs;
    let mut lines = vec![about(state)];
    for problem in logs.problems.iter().take(3) {
        lines.push(Line::styled(safe(problem), theme::alarm(state.colour)));
    }
    if logs.lines.is_empty() {
        let what = if logs.loaded { "no lines yet" } else { "loading..." };
        lines.extend(nothing(state, what));
        return lines;
    }
    let rows = usize::from(area.height).saturating_sub(lines.len());
    let range = window(logs.lines.len(), logs.up, rows);
    lines.extend(logs.lines.range(range).map(|line| log_line(state, line)));
    lines
}

fn about(state: &State) -> Line<'static> {
    let logs = &state.logs;
    let query = &logs.query;
    let parts = [
        query.job.as_ref().map(|job| format!("job={job}")),
        query.node.as_ref().map(|node| format!("node={node}")),
        query.worker.as_ref().map(|worker| format!("worker={worker}")),
        query.regex.as_ref().map(|regex| format!("/{regex}/")),
        query.streams.contains(&Stream::Statuses).then(|| "with statuses".to_owned()),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let what = if parts.is_empty() { "all tasks".to_owned() } else { parts.join(" ") };
    let follow = match logs.up {
        0 => "following".to_owned(),
        up => format!("{up} lines up; G follows again"),
    };
    Line::styled(format!("{}  {follow}", safe(&what)), theme::quiet(state.colour))
}

fn log_line(state: &State, logs::Line { line, .. }: &logs::Line) -> Line<'static> {
    let style = match (line.dropped > 0, line.stream) {
        (true, _) => theme::alarm(state.colour),
        (_, Stream::Stderr) => theme::state_style(TaskState::Backoff, state.colour),
        (_, Stream::Statuses) => theme::quiet(state.colour),
        _ => ratatui::style::Style::new(),
    };
    let query = &state.logs.query;
    let mut from = format!("{} ", clock(line.time_ms));
    if query.job.is_none() {
        from += &(fit(&line.job, 12) + " ");
    }
    if query.node.is_none() {
        from += &(fit(&line.node, 16) + " ");
    }
    Line::from(vec![
        Span::styled(from, theme::quiet(state.colour)),
        Span::styled(safe(&shown_text(line)), style),
    ])
}

/// What happened to an attempt, in a few words rather than as JSON.
fn shown_text(line: &LogLine) -> Cow<'_, str> {
    let event = match line.stream {
        Stream::Statuses => serde_json::from_str::<Value>(&line.text).ok(),
        Stream::Stdout | Stream::Stderr => None,
    };
    let Some(name) = event.as_ref().and_then(|event| event["event"].as_str()) else {
        return Cow::Borrowed(&line.text);
    };
    let status = |event: &Value| serde_json::from_value::<TaskStatus>(event["status"].clone()).ok();
    let more = event.as_ref().and_then(|event| match event["message"].as_str() {
        Some(message) => Some(message.to_owned()),
        None => status(event).map(|s| s.exception().unwrap_or(s.label()).to_owned()),
    });
    Cow::Owned(format!("-- attempt {} {name} {}", line.attempt_no, more.unwrap_or_default()))
}

pub fn events(state: &State, area: Rect) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(status) = &state.status {
        for problem in status.problems.iter().take(usize::from(area.height) / 2) {
            let style = theme::state_style(TaskState::Failed, state.colour);
            lines.extend(fold(&problem.to_string(), area.width, style));
        }
    }
    let all = &state.events.events;
    if all.is_empty() {
        lines.extend(nothing(state, "no events yet"));
        return lines;
    }
    let rows = usize::from(area.height).saturating_sub(lines.len());
    let range = window(all.len(), state.events.up, rows);
    lines.extend(all.range(range).map(|event| {
        let style = match &*event.kind {
            kind if kind.contains("fail") || kind.contains("lost") || kind.contains("problem") => {
                theme::state_style(TaskState::Failed, state.colour)
            }
            kind if kind.starts_with("audit") => theme::title(),
            _ => ratatui::style::Style::new(),
        };
        Line::styled(event_line(event), style)
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn the_window_ends_at_the_newest_and_stops_at_the_oldest() {
        assert_eq!(window(100, 0, 10), 90..100);
        assert_eq!(window(100, 5, 10), 85..95);
        assert_eq!(window(100, 1_000, 10), 0..10);
        assert_eq!(window(3, 2, 10), 0..3);
        assert_eq!(window(0, 2, 10), 0..0);
    }
}
