//! Lines that come: logs and events. The newest is at the bottom.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use serde_json::Value;
use std::borrow::Cow;

use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::log::{LogLine, Stream};
use bistro_common::status::TaskStatus;

use super::nothing;
use crate::cli::events::line as event_line;
use crate::client::logs;
use crate::text::{clock, fit, safe};
use crate::tui::state::{EVENTS_MAX, State};
use crate::tui::update::events_filter;

/// The part of `len` lines that fits, `up` lines up from the end.
fn window(len: usize, up: usize, rows: usize) -> std::ops::Range<usize> {
    let end = len - up.min(len.saturating_sub(rows)).min(len);
    end.saturating_sub(rows)..end
}

pub fn logs(state: &State, area: Rect) -> Vec<Line<'static>> {
    let logs = &state.logs;
    let mut lines = vec![about(state)];
    for problem in logs.problems.iter().take(3) {
        lines.push(Line::styled(safe(problem), state.theme.alarm));
    }
    if logs.lines.is_empty() {
        let what = if logs.loaded { "no lines yet" } else { "loading..." };
        lines.extend(nothing(state, None, what));
        return lines;
    }
    let rows = usize::from(area.height).saturating_sub(lines.len());
    let range = window(logs.lines.len(), logs.up, rows);
    let mut shown: Vec<Line<'static>> = Vec::new();
    for line in logs.lines.range(range) {
        let line = log_line(state, line);
        match logs.wrap {
            true => shown.extend(folded(line, area.width)),
            false => shown.push(line),
        }
    }
    // The newest is what is looked at, however much the others take.
    let extra = shown.len().saturating_sub(rows);
    lines.extend(shown.into_iter().skip(extra));
    lines
}

/// A line of several styles as several lines.
fn folded(line: Line<'static>, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width).max(10);
    let (mut lines, mut room) = (vec![Line::default()], width);
    for span in line.spans {
        let mut rest: Vec<char> = span.content.chars().collect();
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(room));
            room -= rest.len();
            let text: String = rest.into_iter().collect();
            if let Some(line) = lines.last_mut() {
                line.push_span(Span::styled(text, span.style));
            }
            rest = after;
            if room == 0 {
                (room, _) = (width, lines.push(Line::default()));
            }
        }
    }
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
        query.since_ms.map(|since| format!("from {}", clock(since))),
        query.streams.contains(&Stream::Statuses).then(|| "with statuses".to_owned()),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let what = if parts.is_empty() { "all tasks".to_owned() } else { parts.join(" ") };
    let follow = match logs.up {
        0 => "following".to_owned(),
        up => format!("{up} lines up; G follows again"),
    };
    let found = logs.search.as_ref().map(|(text, regex)| {
        let count = logs.lines.iter().filter(|line| regex.is_match(&line.line.text)).count();
        format!("  {count} lines with {text}")
    });
    let text = format!("{}  {follow}{}", safe(&what), safe(&found.unwrap_or_default()));
    Line::styled(text, state.theme.quiet)
}

fn log_line(state: &State, logs::Line { line, .. }: &logs::Line) -> Line<'static> {
    let style = match (line.dropped > 0, line.stream) {
        (true, _) => state.theme.alarm,
        (_, Stream::Stderr) => state.theme.state(TaskState::Backoff),
        (_, Stream::Statuses) => state.theme.quiet,
        _ => Style::new(),
    };
    let query = &state.logs.query;
    let mut from = String::new();
    if state.logs.times {
        from += &(clock(line.time_ms) + " ");
    }
    if query.job.is_none() {
        from += &(fit(&line.job, 12) + " ");
    }
    if query.node.is_none() {
        from += &(fit(&line.node, 16) + " ");
    }
    let mut shown = Line::from(Span::styled(from, state.theme.quiet));
    let text = safe(&shown_text(line));
    match &state.logs.search {
        Some((_, regex)) => mark(&mut shown, &text, regex, style, state),
        None => shown.push_span(Span::styled(text, style)),
    }
    shown
}

/// What is searched for stands out.
fn mark(line: &mut Line<'static>, text: &str, regex: &regex::Regex, style: Style, state: &State) {
    let mut at = 0;
    for found in regex.find_iter(text).filter(|found| !found.is_empty()) {
        line.push_span(Span::styled(text[at..found.start()].to_owned(), style));
        line.push_span(Span::styled(found.as_str().to_owned(), state.theme.found));
        at = found.end();
    }
    line.push_span(Span::styled(text[at..].to_owned(), style));
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

/// The events that pass the filter; all of them if it cannot be read.
pub fn shown_events(state: &State) -> Vec<&Event> {
    let events = &state.events.events;
    match events_filter(state) {
        Ok(filter) if !filter.is_empty() => events.iter().filter(|e| e.passes(&filter)).collect(),
        _ => events.iter().collect(),
    }
}

pub fn events(state: &State, area: Rect) -> Vec<Line<'static>> {
    let all = shown_events(state);
    let what = match (&*state.events.filter, events_filter(state)) {
        ("", _) => "all events".to_owned(),
        (filter, Ok(_)) => filter.to_owned(),
        (_, Err(problem)) => problem,
    };
    let at = match (state.events.from.since_ms, state.events.up) {
        (Some(since), _) if all.len() >= EVENTS_MAX => {
            format!("from {}, as many as fit; @ goes on", clock(since))
        }
        (Some(since), _) => format!("from {}; esc: the last ones", clock(since)),
        (None, 0) => "following".to_owned(),
        (None, up) => format!("{up} up; G follows again"),
    };
    let about = format!("{}  {} of {}  {at}", safe(&what), all.len(), state.events.events.len());
    let mut lines = vec![Line::styled(about, state.theme.quiet)];
    if all.is_empty() {
        lines.extend(nothing(state, None, "no such events yet"));
        return lines;
    }
    let rows = usize::from(area.height).saturating_sub(lines.len());
    let range = window(all.len(), state.events.up, rows);
    lines.extend(all[range].iter().map(|event| {
        let style = match &*event.kind {
            kind if kind.contains("fail") || kind.contains("lost") || kind.contains("problem") => {
                state.theme.state(TaskState::Failed)
            }
            kind if kind.starts_with("audit") => state.theme.title,
            _ => Style::new(),
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
