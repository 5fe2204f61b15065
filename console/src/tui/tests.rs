use super::keys::BINDINGS;
use super::state::{State, View};
use super::update::{Command, Message, update};
use super::view;
use crate::client::logs::{Line, Tail};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use bistro_common::protocol::api::{JobRow, TaskState};

const NOW: u64 = 1_700_000_000_000;

fn screen(state: &State) -> String {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(state, frame)).unwrap();
    let text = terminal.backend().to_string();
    text.lines().map(hide_clock).collect::<Vec<_>>().join("\n")
}

/// Replaces times of day, which depend on where this runs.
fn hide_clock(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    for at in 0..chars.len().saturating_sub(7) {
        let window = &chars[at..at + 8];
        let shape =
            |(i, c): (usize, &char)| if i % 3 == 2 { *c == ':' } else { c.is_ascii_digit() };
        if window.iter().enumerate().all(shape) {
            chars[at..at + 8].copy_from_slice(&['h', 'h', ':', 'm', 'm', ':', 's', 's']);
        }
    }
    chars.into_iter().collect()
}

fn press(state: &mut State, code: KeyCode) -> Option<Command> {
    update(state, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn jobs(names: &[&str]) -> Vec<JobRow> {
    let row = |name: &&str| {
        from(json!({
            "job": name, "enabled": true, "owner": "me", "level": "db", "priority": 1.0,
            "depends_on": [], "counts": {"done": 70, "running": 12, "failed": 1, "can_run": 17},
        }))
    };
    names.iter().map(row).collect()
}

fn running_task(node: &str, attempt: u8) -> serde_json::Value {
    json!({
        "job": "scrape", "node": node, "state": "running", "attempt_no": 2,
        "running": {
            "attempt": format!("01900000-0000-7000-8000-0000000000{attempt:02}"),
            "worker": "w1", "started_ms": NOW - 65_000,
        },
    })
}

/// A console that has heard of a small cell.
fn filled() -> State {
    let mut state = State::new("main".to_owned(), false, true);
    let mut send = |message| assert_eq!(update(&mut state, message), None);
    send(Message::Resize(80, 24));
    send(Message::Time(NOW));
    send(Message::Connected(true));
    let status = from(json!({
        "cell": "main", "cell_id": "01900000-0000-7000-8000-000000000001",
        "scheduler": "01900000-0000-7000-8000-000000000002", "epoch": 3, "build": "0.1.0",
        "started_ms": NOW, "now_ms": NOW, "enabled": true, "finished": false,
        "counts": {"done": 140, "running": 24, "failed": 2, "can_run": 34},
        "jobs": 2, "nodes": 101, "workers": 2, "workers_healthy": 2,
    }));
    send(Message::Status(status, jobs(&["scrape", "backup"])));
    send(Message::Workers(from(json!([{
        "worker": "w1", "host": "db1.example.com", "health": "healthy", "running": 2,
        "last_heartbeat_ms": NOW - 400, "build": "0.1.0",
        "capacity": {"cpu_cores": 8, "ram_mb": 0}, "slots": {"cpu": {"used": 2, "limit": 8}},
    }]))));
    send(Message::Grid(from(json!({
        "layout": 1, "seq": 0, "levels": {"db": ["db1", "db2", "db3", "db4"]},
        "jobs": [{"job": "scrape", "level": "db", "cells": "+>x."},
                 {"job": "backup", "level": "db", "cells": "4:"}],
    }))));
    state
}

fn show_tasks(state: &mut State, rows: serde_json::Value) {
    press(state, KeyCode::Char('4'));
    let request = state.tasks.request();
    let count = rows.as_array().map_or(0, Vec::len);
    let listing = from(json!({"total": count, "items": rows}));
    update(state, Message::Tasks(request, listing));
}

#[test]
fn every_view_at_80x24() {
    let mut state = filled();
    insta::assert_snapshot!("jobs", screen(&state));
    press(&mut state, KeyCode::Char('?'));
    insta::assert_snapshot!("help", screen(&state));
    press(&mut state, KeyCode::Char('?'));
    press(&mut state, KeyCode::Char('2'));
    press(&mut state, KeyCode::Right);
    insta::assert_snapshot!("grid", screen(&state));
    press(&mut state, KeyCode::Char('3'));
    insta::assert_snapshot!("workers", screen(&state));
    let waiting = json!({
        "job": "scrape", "node": "db9", "state": "backoff", "attempt_no": 1,
        "last": {"result_bits": 96, "data": {"exception": "timed out"}},
        "backoff_until_ms": NOW + 30_000,
    });
    show_tasks(&mut state, json!([running_task("db1", 1), running_task("db2", 2), waiting]));
    insta::assert_snapshot!("tasks", screen(&state));
    press(&mut state, KeyCode::Char('K'));
    insta::assert_snapshot!("confirm", screen(&state));
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Enter);
    let explanation = from(json!({
        "task": running_task("db1", 1), "path": ["root", "host1", "db1"],
        "reasons": [{"kind": "running", "text": "it is running on w1"}],
    }));
    update(&mut state, Message::Task(explanation));
    insta::assert_snapshot!("task", screen(&state));
    press(&mut state, KeyCode::Char('l'));
    let line = |id: u64, stream: &str, text: &str, dropped: u64| Line {
        worker: "w1".to_owned(),
        line: from(json!({
            "id": id.to_string(), "time_ms": NOW, "stream": stream, "job": "scrape", "node": "db1",
            "attempt_no": 2, "text": text, "dropped": dropped,
        })),
    };
    let lines = vec![
        line(1, "stdout", "one \u{1b}[31mline", 0),
        line(2, "statuses", "17 lines were dropped", 17),
        line(
            3,
            "statuses",
            "{\"event\": \"process_exited\", \"message\": \"exited with status 0\"}",
            0,
        ),
        line(4, "stderr", "and another", 0),
    ];
    let query = state.logs.query.clone();
    update(&mut state, Message::Logs(query, Tail { lines, ..Tail::default() }));
    insta::assert_snapshot!("logs", screen(&state));
}

#[test]
fn a_lost_connection_is_shown_with_what_was_known() {
    let mut state = filled();
    update(&mut state, Message::Connected(false));
    update(&mut state, Message::Time(NOW + 4_000));
    let screen = screen(&state);
    assert!(screen.contains("no connection for 4.0s"), "{screen}");
    assert!(screen.contains("scrape"), "{screen}");
}

#[test]
fn a_kill_is_about_the_attempt_that_was_shown_whatever_the_list_does() {
    let mut state = filled();
    show_tasks(&mut state, json!([running_task("db1", 1), running_task("db2", 2)]));
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Char('K'));
    // Another attempt of the same task, and another order.
    show_tasks(&mut state, json!([running_task("db2", 7), running_task("db1", 1)]));
    press(&mut state, KeyCode::Tab);
    let Some(Command::Kill(request)) = press(&mut state, KeyCode::Enter) else {
        panic!("a kill was confirmed");
    };
    assert!(request.attempt.to_string().ends_with("02"));
}

#[test]
fn enter_alone_confirms_nothing_and_read_only_asks_nothing() {
    let mut state = filled();
    show_tasks(&mut state, json!([running_task("db1", 1)]));
    press(&mut state, KeyCode::Char('K'));
    assert!(state.confirm.is_some());
    assert_eq!(press(&mut state, KeyCode::Enter), None);
    assert!(state.confirm.is_none());
    state.read_only = true;
    press(&mut state, KeyCode::Char('K'));
    press(&mut state, KeyCode::Char('F'));
    assert!(state.confirm.is_none());
}

#[test]
fn late_answers_to_another_question_change_nothing() {
    let mut state = filled();
    show_tasks(&mut state, json!([running_task("db1", 1)]));
    let old = state.tasks.request();
    press(&mut state, KeyCode::Char('t'));
    assert_eq!(state.tasks.filter.state, Some(TaskState::Running));
    let listing = from(json!({"total": 1, "items": [running_task("db9", 9)]}));
    update(&mut state, Message::Tasks(old, listing));
    assert!(state.tasks.table.rows.is_empty());
}

#[test]
fn every_state_is_told_apart_without_colour() {
    let mut glyphs: Vec<char> = TaskState::ALL.iter().map(|state| state.glyph()).collect();
    glyphs.sort_unstable();
    glyphs.dedup();
    assert_eq!(glyphs.len(), TaskState::ALL.len());
}

proptest! {
    #[test]
    fn no_keys_and_no_size_break_it(
        steps in prop::collection::vec((0usize..40, 1u16..200, 1u16..60), 1..60)
    ) {
        let mut state = filled();
        show_tasks(&mut state, json!([running_task("db1", 1), running_task("db2", 2)]));
        let mut codes: Vec<KeyCode> = BINDINGS.iter().flat_map(|b| b.codes).copied().collect();
        codes.push(KeyCode::Backspace);
        for (key, width, height) in steps {
            update(&mut state, Message::Resize(width, height));
            press(&mut state, codes[key % codes.len()]);
            screen(&state);
            state.quit = false;
        }
        for view in View::TABS {
            state.view = view;
            screen(&state);
        }
    }
}
