//! Text for people. Names and log lines come from nodes and tasks, so control characters are shown
//! and never obeyed.

use bistro_common::Millis;
use bistro_common::protocol::api::{Explanation, Runtimes};
use bistro_common::protocol::event::Event;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::client::attempts::Attempt;

/// One line that cannot steer a terminal. Tabs become spaces.
pub fn safe(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            // Directions and other invisible marks can make a line read as something else.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => {
                '\u{fffd}'
            }
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Several lines that cannot steer a terminal.
pub fn safe_lines(text: &str) -> String {
    text.split('\n').map(safe).collect::<Vec<_>>().join("\n")
}

/// JSON in which no character steers a terminal. (JSON itself leaves some of them as they are.)
pub fn safe_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// `HH:MM:SS` in the local time zone.
pub fn clock(ms: Millis) -> String {
    format(ms, "%H:%M:%S")
}

/// `HH:MM:SS.mmm` in the local time zone.
pub fn clock_ms(ms: Millis) -> String {
    format(ms, "%H:%M:%S%.3f")
}

/// As [`parse_time`] reads it again.
pub fn date_time(ms: Millis) -> String {
    format(ms, "%Y-%m-%dT%H:%M:%S%.3f")
}

fn format(ms: Millis, format: &str) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match time {
        Some(time) => time.to_zoned(TimeZone::system()).strftime(format).to_string(),
        None => "--:--:--".to_owned(),
    }
}

/// A time as people type it: `-10m` ago, `14:05` of today, or `2024-05-01T14:05` in the local time
/// zone.
pub fn parse_time(text: &str, now: Millis) -> Option<Millis> {
    let text = text.trim();
    if let Some(ago) = text.strip_prefix('-') {
        let digits = ago.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match &ago[digits.len()..] {
            "s" => 1_000,
            "m" | "" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        return now.checked_sub(digits.parse::<Millis>().ok()?.checked_mul(factor)?);
    }
    let zone = TimeZone::system();
    let now = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?.to_zoned(zone.clone());
    let time = match text.parse::<jiff::civil::Time>() {
        Ok(time) if !text.contains(['-', 'T']) => now.date().to_datetime(time),
        _ => text.parse::<jiff::civil::DateTime>().ok()?,
    };
    Millis::try_from(time.to_zoned(zone).ok()?.timestamp().as_millisecond()).ok()
}

/// A span for people: `0.4s`, `12s`, `3m05s`, `2h07m`, `4d03h`.
pub fn span(ms: Millis) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, ms % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// What there is to say of a task, each with a label.
pub fn task_facts(explanation: &Explanation, now: Millis) -> Vec<(&'static str, String)> {
    let task = &explanation.task;
    let mut facts = vec![
        ("task", format!("{} on {}", task.job, task.node)),
        ("state", task.state.as_str().to_owned()),
        ("path", explanation.path.join(" > ")),
        ("starts", task.attempt_no.to_string()),
    ];
    if let Some(running) = &task.running {
        let time = span(now.saturating_sub(running.started_ms));
        facts.push(("running", format!("for {time} on {}", running.worker)));
        facts.push(("attempt", running.attempt.to_string()));
    }
    for held in &explanation.holds {
        let slots = held.slots.iter().map(|(name, slots)| format!("{name} {slots}"));
        let slots = slots.collect::<Vec<_>>().join(", ");
        facts.push(("holds", format!("{slots} of {}", held.node)));
    }
    if let Some(at) = task.backoff_until_ms {
        facts.push(("waits", format!("for {}", span(at.saturating_sub(now)))));
    }
    if let Some(last) = &task.last {
        let why = last.exception().map(|why| format!(": {why}")).unwrap_or_default();
        facts.push(("last", format!("{}{why}", last.label())));
    }
    if let (Some(ended), Some(ran)) = (task.ended_ms, task.ran_ms) {
        facts.push(("ended", format!("{}, after {}", clock(ended), span(ran))));
    }
    if let Some(usage) = task.usage {
        let memory = usage.memory_peak_kb.map(|kb| format!(", {} of memory at most", size(kb)));
        let cpu = match usage.cpu_ms {
            ms @ ..1_000 => format!("{ms}ms"),
            ms => span(ms),
        };
        facts.push(("used", format!("{cpu} of CPU{}", memory.unwrap_or_default())));
    }
    facts
}

/// How long tasks take, with the labels of a job's other facts.
pub fn runtimes_text(ran: &Runtimes) -> String {
    let Runtimes { sampled, p50_ms, p90_ms, p99_ms, max_ms } = *ran;
    let [p50, p90, p99, max] = [p50_ms, p90_ms, p99_ms, max_ms].map(span);
    format!("took     half {p50}, nine of ten {p90}, 99 of 100 {p99}, at most {max} (of {sampled})")
}

/// A change of a job: how long ago, by whom, and what.
pub fn change_line(event: &Event, now: Millis) -> String {
    let ago = span(now.saturating_sub(event.time_ms));
    let what = event.kind.strip_prefix("audit.").unwrap_or(&event.kind);
    let actor = event.actor.as_deref().unwrap_or("nobody");
    format!("{ago} ago, {what} by {actor}: {}", event.text)
}

/// One attempt in a line: when, for how long, where, and how it ended.
pub fn attempt_line(attempt: &Attempt) -> String {
    let started = attempt.started_ms.map_or_else(|| "--:--:--".to_owned(), clock);
    let ran = match (attempt.started_ms, attempt.ended_ms) {
        (Some(started), Some(ended)) => span(ended.saturating_sub(started)),
        (Some(_), None) => "...".to_owned(),
        (None, _) => String::new(),
    };
    let (no, worker) = (attempt.attempt_no, fit(&attempt.worker, 12));
    format!("#{no:<4} {started} {ran:<7} {worker} {}", attempt.end)
}

/// An amount of memory for people: `740 KB`, `1.2 MB`, `3.4 GB`.
fn size(kb: u64) -> String {
    let kb = kb as f64;
    match kb {
        ..1_024.0 => format!("{kb} KB"),
        ..1_048_576.0 => format!("{:.1} MB", kb / 1_024.0),
        _ => format!("{:.1} GB", kb / 1_048_576.0),
    }
}

/// Exactly `width` columns: cut (with a mark) or filled with spaces.
pub fn fit(text: &str, width: usize) -> String {
    let text = safe(text);
    let have = text.width();
    if have <= width {
        return format!("{text}{}", " ".repeat(width - have));
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        cut.push(c);
        used += wide;
    }
    if width > 0 {
        cut.push('~');
        used += 1;
    }
    format!("{cut}{}", " ".repeat(width - used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_steers_the_terminal() {
        assert_eq!(safe("a\u{1b}[31m\tb\u{202e}"), "a\u{fffd}[31m b\u{fffd}");
        assert_eq!(safe("häuser ✓"), "häuser ✓");
        assert_eq!(safe_lines("a\u{9b}\nb"), "a\u{fffd}\nb");
        assert_eq!(safe_json("{\n\"a\": \"\u{9b}ä\"}"), "{\n\"a\": \"\\u009bä\"}");
    }

    #[test]
    fn times_are_read_as_people_type_them() {
        let now = 1_700_000_000_000;
        assert_eq!(parse_time("-10m", now), Some(now - 600_000));
        assert_eq!(parse_time("-90s", now), Some(now - 90_000));
        assert_eq!(parse_time("-5", now), Some(now - 300_000));
        let at = |text: &str| clock(parse_time(text, now).unwrap());
        assert_eq!(at("14:05"), "14:05:00");
        assert_eq!(at("2023-11-14T03:07"), "03:07:00");
        assert_eq!(parse_time(&date_time(now + 7), now), Some(now + 7));
        for no in ["", "soon", "-", "-1w", "25:00", "-99999999999d"] {
            assert_eq!(parse_time(no, now), None, "{no}");
        }
    }

    #[test]
    fn texts_have_the_width_that_is_asked_for() {
        assert_eq!(fit("ab", 4), "ab  ");
        assert_eq!(fit("abcdef", 4), "abc~");
        assert_eq!(fit("日本語", 4), "日~ ");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn spans_are_short() {
        let spans = [400, 12_000, 185_000, 7_620_000, 356_400_000].map(span);
        assert_eq!(spans, ["0.4s", "12s", "3m05s", "2h07m", "4d03h"]);
    }
}
