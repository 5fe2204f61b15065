//! Every view at every size, flows of keys, and random walks against a plain model. No I/O.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use bistro_common::protocol::api::{JobRow, ListRequest, Listing, TaskRow, TaskState};
use bistro_common::protocol::task::KillMethod;
use bistro_common::protocol::view::GridPlace;

use super::grid::Names;
use super::keys::Keymap;
use super::state::{EventsFrom, JobMore, JobView, State, View};
use super::theme::Theme;
use super::update::{Command, Message, update};
use super::view;
use crate::client::actions::{Acted, Action};
use crate::client::attempts::{Attempt, Attempts};
use crate::client::logs::{Line, Tail};

mod places;
mod walk;

const NOW: u64 = 1_700_000_000_000;
const SIZES: [(u16, u16); 4] = [(40, 10), (80, 24), (120, 40), (200, 60)];

fn draw(state: &State) -> Buffer {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(state, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn screen(state: &State) -> String {
    let buffer = draw(state);
    let rows = buffer.content().chunks(usize::from(state.size.0.max(1)));
    let text = |row: &[ratatui::buffer::Cell]| row.iter().map(|c| c.symbol()).collect::<String>();
    rows.map(|row| hide_clock(text(row).trim_end())).collect::<Vec<_>>().join("\n")
}

/// Where a style begins, line by line: what a screen says beside its text.
fn styles(state: &State) -> String {
    let buffer = draw(state);
    let mut lines = Vec::new();
    for (y, row) in buffer.content().chunks(usize::from(state.size.0.max(1))).enumerate() {
        let mut runs = Vec::new();
        let mut before = None;
        for (x, cell) in row.iter().enumerate() {
            let style = cell.style();
            if before != Some(style) {
                let (fg, bg) = (style.fg.unwrap_or_default(), style.bg.unwrap_or_default());
                runs.push(format!("{x}:{fg}/{bg}{:?}", style.add_modifier));
                before = Some(style);
            }
        }
        // Most of the screen has one style, and nothing in it.
        if runs != ["0:Reset/ResetNONE"] {
            lines.push(format!("{y} {}", runs.join(" ")));
        }
    }
    lines.join("\n")
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

fn type_text(state: &mut State, text: &str) {
    text.chars().for_each(|c| assert_eq!(press(state, KeyCode::Char(c)), None));
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn listing<T: serde::de::DeserializeOwned>(rows: Value) -> Listing<T> {
    let total = rows.as_array().map_or(0, Vec::len);
    from(json!({"total": total, "items": rows}))
}

fn job(name: &str) -> Value {
    json!({
        "job": name, "enabled": name != "paused", "owner": "me", "level": "db", "priority": 1.0,
        "depends_on": [], "counts": {"done": 70, "running": 12, "failed": 1, "can_run": 17},
    })
}

fn running_task(node: &str, attempt: u8) -> Value {
    json!({
        "job": "scrape", "node": node, "state": "running", "attempt_no": 2,
        "running": {
            "attempt": format!("01900000-0000-7000-8000-0000000000{attempt:02}"),
            "worker": "w1", "started_ms": NOW - 65_000,
        },
    })
}

fn waiting_task(node: &str) -> Value {
    json!({
        "job": "scrape", "node": node, "state": "backoff", "attempt_no": 1,
        "last": {"result_bits": 96, "data": {"exception": "timed out"}},
        "backoff_until_ms": NOW + 30_000,
    })
}

fn empty() -> State {
    let keymap = Keymap::new(&BTreeMap::new()).unwrap();
    State::new("main".to_owned(), Theme::named("dark").unwrap(), keymap)
}

/// A console that has heard of a small cell.
fn filled() -> State {
    let mut state = empty();
    let mut send = |message| assert_eq!(update(&mut state, message), None);
    send(Message::Resize(80, 24));
    send(Message::Time(NOW));
    send(Message::Connected(true));
    let status = from(json!({
        "cell": "main", "cell_id": "01900000-0000-7000-8000-000000000001",
        "scheduler": "01900000-0000-7000-8000-000000000002", "epoch": 3, "build": "0.1.0",
        "started_ms": NOW, "now_ms": NOW, "enabled": true, "finished": false,
        "counts": {"done": 140, "running": 24, "failed": 2, "can_run": 34},
        "jobs": 2, "nodes": 101, "workers": 2, "workers_healthy": 1,
        "problems": [{"severity": "error", "file": "bistro.json", "line": 7, "column": 3,
            "key_path": "bistro_job->x.level", "message": "there is no level \"rack\""}],
    }));
    send(Message::Status(status, 0.7));
    let page = json!({
        "layout": 1, "seq": 0, "total": 2, "levels": {"db": 4},
        "jobs": [{"job": "scrape", "level": "db", "cells": "+>x."},
                 {"job": "backup", "level": "db", "cells": "4:"}],
    });
    send(Message::Grid(GridPlace::default(), from(page)));
    let names = ["db1", "db2", "db3", "db4"].map(str::to_owned).to_vec();
    send(Message::Names(Names { layout: 1, level: "db".to_owned(), first: 0, names }));
    for second in 0..20 {
        let rows: Vec<JobRow> = vec![from(job("scrape"))];
        state.rates.note(NOW - 20_000 + second * 1_000, &rows);
    }
    fill_lists(&mut state);
    state
}

fn fill_lists(state: &mut State) {
    let jobs = json!([job("scrape"), job("backup"), job("paused")]);
    let workers = json!([{
        "worker": "w1", "host": "db1.example.com", "health": "healthy", "running": 2,
        "last_heartbeat_ms": NOW - 400, "build": "0.1.0",
        "capacity": {"cpu_cores": 8, "ram_mb": 0}, "slots": {"cpu": {"used": 2, "limit": 8}},
    }, {
        "worker": "w2", "host": "db2.example.com", "health": "gone", "running": 0,
        "last_heartbeat_ms": NOW - 400_000, "build": "0.1.0",
        "capacity": {"cpu_cores": 8, "ram_mb": 0}, "slots": {},
    }]);
    let nodes = json!([
        {"node": "host1", "level": "host", "parent": "root", "enabled": true,
         "slots": {"concurrency": {"used": 2, "limit": 2}}},
        {"node": "db1", "level": "db", "parent": "host1", "enabled": false, "slots": {}},
    ]);
    update(state, Message::Jobs(state.jobs.request(), Ok(listing(jobs))));
    update(state, Message::Workers(state.workers.request(), Ok(listing(workers))));
    update(state, Message::Nodes(state.nodes.request(), Ok(listing(nodes))));
    take_tasks(state, json!([running_task("db1", 1), running_task("db2", 2), waiting_task("db9")]));
}

fn take_tasks(state: &mut State, rows: Value) {
    update(state, Message::Tasks(state.tasks.request(), Ok(listing(rows))));
}

fn log_line(id: u64, stream: &str, text: &str, dropped: u64) -> Line {
    let line = from(json!({
        "id": id.to_string(), "time_ms": NOW, "stream": stream, "job": "scrape", "node": "db1",
        "attempt_no": 2, "text": text, "dropped": dropped,
    }));
    Line { worker: "w1".to_owned(), line }
}

fn show_logs(state: &mut State) {
    let exited = "{\"event\": \"process_exited\", \"message\": \"exited with status 0\"}";
    let lines = vec![
        log_line(1, "stdout", "one \u{1b}[31mline", 0),
        log_line(2, "statuses", "17 lines were dropped", 17),
        log_line(3, "statuses", exited, 0),
        log_line(4, "stderr", &"a long line ".repeat(20), 0),
        log_line(5, "stdout", "and another", 0),
    ];
    let query = state.logs.query.clone();
    update(state, Message::Logs(query, Tail { lines, ..Tail::default() }));
}

fn attempts() -> Attempts {
    let attempt = |attempt_no, ended_ms, end: &str| Attempt {
        attempt_no,
        attempt: None,
        worker: "w1".to_owned(),
        started_ms: Some(NOW - 65_000),
        ended_ms,
        end: end.to_owned(),
    };
    let problems = vec!["worker w2: it does not answer".to_owned()];
    let first = attempt(1, Some(NOW - 60_000), "error_backoff: timed out, exited with status 1");
    Attempts { attempts: vec![attempt(2, None, ""), first], problems }
}

/// Goes to a view by keys, as far as there is a way, and fills it.
fn show(view: View) -> State {
    let mut state = filled();
    match view {
        View::Task => {
            press(&mut state, KeyCode::Char('5'));
            press(&mut state, KeyCode::Enter);
            let explanation = from(json!({
                "task": running_task("db1", 1), "path": ["root", "host1", "db1"],
                "reasons": [{"kind": "running", "text": "it is running on w1"}],
            }));
            update(&mut state, Message::Task(Ok(explanation)));
            let of = state.wants().attempts.unwrap();
            update(&mut state, Message::Attempts(of, attempts()));
        }
        View::Job => {
            press(&mut state, KeyCode::Enter);
            let document = json!({"job": "scrape", "origin": "file", "version_id": 0,
                "effective": {"enabled": true, "owner": "me", "priority": 1.0}});
            let view = JobView {
                job: "scrape".to_owned(),
                row: Some(from(job("scrape"))),
                document: Some(from(document)),
                failing: vec![from(waiting_task("db9"))],
                slowest: vec![from(running_task("db1", 1))],
                problem: None,
            };
            update(&mut state, Message::Job(Box::new(view)));
            let change = json!({"v": 1, "time_ms": NOW, "epoch": 1, "kind": "audit.job_override",
                "job": "scrape", "actor": "ann", "text": "enabled false; on fire"});
            let stats = Some(from(json!({"job": "scrape",
                    "levels": [{"level": "host", "counts": {"done": 3, "failed": 1}},
                               {"level": "db", "counts": {"done": 70, "failed": 1, "running": 29}}],
                    "ran": {"sampled": 70, "p50_ms": 900, "p90_ms": 1_900, "p99_ms": 62_000,
                            "max_ms": 65_000}})));
            let more = JobMore { stats, history: vec![from(change)] };
            update(&mut state, Message::JobMore("scrape".to_owned(), more));
        }
        tab => {
            let at = View::TABS.iter().position(|&view| view == tab).unwrap();
            press(&mut state, KeyCode::Char(char::from(b'1' + at as u8)));
        }
    }
    if view == View::Logs {
        show_logs(&mut state);
    }
    let kinds = [("task.started", "scrape"), ("audit.kill", "scrape"), ("task.failed", "backup")];
    for (kind, job) in kinds {
        let event = json!({"v": 1, "time_ms": NOW, "epoch": 1, "kind": kind, "job": job,
            "actor": "ann"});
        update(&mut state, Message::Event(EventsFrom::default(), from(event)));
    }
    assert_eq!(state.view, view);
    state
}

#[test]
fn every_view_at_every_size() {
    for view in View::ALL {
        let mut state = show(view);
        for (width, height) in SIZES {
            update(&mut state, Message::Resize(width, height));
            let name = format!("{}_{width}x{height}", view.title().to_lowercase());
            insta::assert_snapshot!(name, screen(&state));
        }
        update(&mut state, Message::Resize(80, 24));
        insta::assert_snapshot!(format!("{}_styles", view.title().to_lowercase()), styles(&state));
    }
}

#[test]
fn what_lies_over_a_view() {
    let mut state = show(View::Tasks);
    for (width, height) in SIZES {
        update(&mut state, Message::Resize(width, height));
        let size = format!("{width}x{height}");
        press(&mut state, KeyCode::Char('?'));
        insta::assert_snapshot!(format!("help_{size}"), screen(&state));
        press(&mut state, KeyCode::Char('?'));
        press(&mut state, KeyCode::Char('K'));
        insta::assert_snapshot!(format!("confirm_{size}"), screen(&state));
        press(&mut state, KeyCode::Esc);
        press(&mut state, KeyCode::Char(':'));
        type_text(&mut state, "kil");
        insta::assert_snapshot!(format!("palette_{size}"), screen(&state));
        press(&mut state, KeyCode::Esc);
    }
    state.ascii = true;
    press(&mut state, KeyCode::Char('K'));
    assert!(screen(&state).is_ascii(), "{}", screen(&state));
}

#[test]
fn states_are_told_apart_without_colour_and_by_every_theme() {
    let mut glyphs: Vec<char> = TaskState::ALL.iter().map(|state| state.glyph()).collect();
    glyphs.sort_unstable();
    glyphs.dedup();
    assert_eq!(glyphs.len(), TaskState::ALL.len());
    for view in View::ALL {
        let mut state = show(view);
        let text = screen(&state);
        state.theme = Theme::named("mono").unwrap();
        state.ascii = true;
        let plain = screen(&state);
        assert!(plain.is_ascii(), "{plain}");
        // Bars are blocks of colour otherwise, and a task may print anything.
        if !matches!(view, View::Jobs | View::Job | View::Logs) {
            assert_eq!(plain, text);
        }
        let coloured = |cell: &ratatui::buffer::Cell| {
            cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset
        };
        assert!(!draw(&state).content().iter().any(coloured), "{view:?} has colours in mono");
    }
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
    let mut state = show(View::Tasks);
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Char('K'));
    // Another attempt of the same task, and another order.
    take_tasks(&mut state, json!([running_task("db2", 7), running_task("db1", 1)]));
    press(&mut state, KeyCode::Tab);
    press(&mut state, KeyCode::Down);
    let Some(Command::Act(Action::Kill { attempt, node, kill, .. })) =
        press(&mut state, KeyCode::Enter)
    else {
        panic!("a kill was confirmed");
    };
    assert!(attempt.to_string().ends_with("02"));
    assert_eq!((node.as_str(), kill.unwrap().method), ("db2", KillMethod::TermWaitKill));
}

#[test]
fn nothing_is_asked_about_a_row_that_nobody_has_chosen() {
    let mut state = show(View::Tasks);
    press(&mut state, KeyCode::Down);
    take_tasks(&mut state, json!([running_task("db5", 5), running_task("db6", 6)]));
    press(&mut state, KeyCode::Char('K'));
    assert!(state.confirm.is_none());
    assert!(screen(&state).contains("the row that you were on is gone"));
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Char('K'));
    assert!(state.confirm.is_some());
}

#[test]
fn enter_alone_confirms_nothing_and_read_only_asks_nothing() {
    let mut state = show(View::Tasks);
    press(&mut state, KeyCode::Char('K'));
    assert!(state.confirm.is_some());
    assert_eq!(press(&mut state, KeyCode::Enter), None);
    assert!(state.confirm.is_none());
    state.read_only = true;
    for view in View::ALL {
        let mut state = show(view);
        state.read_only = true;
        for binding in state.keymap.clone().bindings {
            let changes = binding.help.contains("(asks)");
            for &code in binding.codes.iter().filter(|_| changes) {
                assert_eq!(press(&mut state, code), None);
                assert!(state.confirm.is_none() && state.prompt.is_none(), "{}", binding.name);
            }
        }
    }
}

#[test]
fn actions_on_all_that_pass_a_filter_are_planned_and_then_confirmed() {
    let mut state = show(View::Tasks);
    assert_eq!(press(&mut state, KeyCode::Char('X')), None, "not without a filter");
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "state=running");
    press(&mut state, KeyCode::Enter);
    let Some(Command::Plan(action, filter)) = press(&mut state, KeyCode::Char('X')) else {
        panic!("a plan is asked for");
    };
    let plan = from(json!({"plan": "3-1", "total": 2, "counts": {"running": 2},
        "sample": [running_task("db1", 1)], "expires_ms": NOW + 1_000}));
    update(&mut state, Message::Planned(action, filter, plan));
    assert!(screen(&state).contains("2: 2 running"), "{}", screen(&state));
    press(&mut state, KeyCode::Tab);
    let confirmed = press(&mut state, KeyCode::Enter);
    let Some(Command::Act(Action::Apply { plan, .. })) = confirmed else {
        panic!("it is applied");
    };
    assert_eq!(plan, "3-1");
}

#[test]
fn a_plan_that_comes_late_takes_nobodys_keys() {
    let plan = || {
        from(json!({"plan": "3-1", "total": 9, "counts": {"running": 9}, "sample": [],
            "expires_ms": NOW + 1_000}))
    };
    for keys in ["K", "/", ":", "1"] {
        let mut state = show(View::Tasks);
        press(&mut state, KeyCode::Char('f'));
        take_tasks(&mut state, json!([running_task("db1", 1)]));
        let Some(Command::Plan(action, filter)) = press(&mut state, KeyCode::Char('X')) else {
            panic!("a plan is asked for");
        };
        keys.chars().for_each(|c| drop(press(&mut state, KeyCode::Char(c))));
        let before = state.confirm.clone();
        update(&mut state, Message::Planned(action, filter, plan()));
        assert_eq!(state.confirm, before, "{keys}");
    }
}

#[test]
fn what_was_done_can_be_taken_back() {
    let mut state = show(View::Jobs);
    press(&mut state, KeyCode::Char('D'));
    press(&mut state, KeyCode::Tab);
    let enable = |on| Action::Enable { job: "scrape".to_owned(), on };
    assert_eq!(press(&mut state, KeyCode::Enter), Some(Command::Act(enable(false))));
    let text = "scrape is disabled".to_owned();
    update(&mut state, Message::Done(Acted { text, undo: Some(enable(true)) }));
    assert!(screen(&state).contains("(u undoes it)"));
    press(&mut state, KeyCode::Char('u'));
    assert!(screen(&state).contains("bistro job enable scrape"), "{}", screen(&state));
    press(&mut state, KeyCode::Tab);
    assert_eq!(press(&mut state, KeyCode::Enter), Some(Command::Act(enable(true))));
    // Of a series it is said what it is, however long it is.
    let each = (0..100).map(|n| Action::Enable { job: format!("job-{n}"), on: true });
    let undo = Action::of_all(each.collect());
    update(&mut state, Message::Done(Acted { text: "100 done".to_owned(), undo }));
    press(&mut state, KeyCode::Char('u'));
    let shown = screen(&state);
    assert!(shown.contains("100 commands") && shown.contains("and 94 more"), "{shown}");
    press(&mut state, KeyCode::Esc);
    // What may have been done cannot be taken back, and what was before is not the last change.
    update(&mut state, Message::Done("no answer".to_owned().into()));
    press(&mut state, KeyCode::Char('u'));
    assert!(screen(&state).contains("nothing to take back"), "{}", screen(&state));
}

#[test]
fn a_filter_holds_while_it_is_typed_and_as_before_if_it_is_given_up() {
    let mut state = show(View::Tasks);
    press(&mut state, KeyCode::Char('f'));
    assert_eq!(state.tasks.query.filter, "state=failed,backoff");
    let old = state.tasks.request();
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, " db");
    assert_eq!(state.tasks.query.filter, "state=failed,backoff db");
    let late: Listing<TaskRow> = listing(json!([running_task("db7", 7)]));
    update(&mut state, Message::Tasks(old, Ok(late)));
    assert!(!state.tasks.loaded, "a late answer to another question");
    let why = "there is no \"x\"".to_owned();
    let refused = Message::Tasks(state.tasks.request(), Err(why));
    update(&mut state, refused);
    assert!(screen(&state).contains("there is no \"x\""));
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.tasks.query.filter, "state=failed,backoff");
    press(&mut state, KeyCode::Char('t'));
    assert_eq!(state.tasks.query.filter, "state=running");
}

#[test]
fn the_palette_finds_what_is_meant_and_does_it() {
    let mut state = show(View::Jobs);
    press(&mut state, KeyCode::Char(':'));
    type_text(&mut state, "view work");
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.view, View::Workers);
    press(&mut state, KeyCode::Char(':'));
    type_text(&mut state, "job backup");
    press(&mut state, KeyCode::Enter);
    assert_eq!((state.view, state.job.job.as_str()), (View::Job, "backup"));
    press(&mut state, KeyCode::Char(':'));
    type_text(&mut state, "state=failed rack7");
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.tasks.query.filter, "state=failed rack7");
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.view, View::Job, "back to where it was opened");
}

#[test]
fn every_view_has_its_command_line() {
    use clap::Parser;
    for view in View::ALL {
        let mut state = show(view);
        let Some(Command::Copy(command)) = press(&mut state, KeyCode::Char('y')) else {
            panic!("{view:?} has no command");
        };
        let words: Vec<&str> = command.split(' ').collect();
        let parsed = crate::args::Args::try_parse_from(&words);
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}

#[test]
fn logs_are_searched_wrapped_and_read_from_a_time_on() {
    let mut state = show(View::Logs);
    let shown = screen(&state).lines().count();
    press(&mut state, KeyCode::Char('s'));
    type_text(&mut state, "^one");
    press(&mut state, KeyCode::Enter);
    assert!(screen(&state).contains("1 lines with ^one"), "{}", screen(&state));
    assert_eq!(state.logs.up, 4);
    press(&mut state, KeyCode::Char('w'));
    let text = screen(&state);
    assert!(text.matches("a long line").count() <= 20 && text.lines().count() <= shown);
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Char('@'));
    type_text(&mut state, "-10m");
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.logs.query.since_ms, Some(NOW - 600_000));
    press(&mut state, KeyCode::Char('s'));
    type_text(&mut state, "(");
    press(&mut state, KeyCode::Enter);
    assert!(screen(&state).contains("not a regular expression"));
}

#[test]
fn a_search_in_no_lines_finds_nothing() {
    let mut state = show(View::Logs);
    let query = state.logs.query.clone();
    update(&mut state, Message::Logs(query, Tail::default()));
    press(&mut state, KeyCode::Char('s'));
    type_text(&mut state, "x");
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Char('n'));
    assert!(screen(&state).contains("no more lines match"));
}

#[test]
fn names_of_another_layout_are_nobodys() {
    let mut state = show(View::Grid);
    assert_eq!(state.grid.node(), Some("db1"));
    let page = json!({"layout": 2, "seq": 0, "total": 1, "levels": {"db": 2},
        "jobs": [{"job": "scrape", "level": "db", "cells": "xx"}]});
    update(&mut state, Message::Grid(GridPlace::default(), from(page)));
    let names = vec!["old".to_owned(); 2];
    let late = Names { layout: 1, level: "db".to_owned(), first: 0, names };
    update(&mut state, Message::Names(late));
    assert_eq!(state.grid.node(), None);
    press(&mut state, KeyCode::Char('F'));
    assert!(state.confirm.is_none());
}

#[test]
fn events_are_filtered_here() {
    let mut state = show(View::Events);
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "kind~audit");
    press(&mut state, KeyCode::Enter);
    assert!(screen(&state).contains("kind~audit  1 of 3"), "{}", screen(&state));
    press(&mut state, KeyCode::Char('@'));
    type_text(&mut state, "-1h");
    press(&mut state, KeyCode::Enter);
    let wanted = state.wants().events.unwrap();
    assert_eq!(wanted.since_ms, Some(NOW - 3_600_000));
    let event = json!({"v": 1, "time_ms": NOW, "epoch": 1, "kind": "audit.kill"});
    update(&mut state, Message::Event(EventsFrom::default(), from(event.clone())));
    assert!(state.events.events.is_empty(), "it is not from then");
    update(&mut state, Message::Event(wanted, from(event)));
    assert_eq!(state.events.events.len(), 1);
}

#[test]
fn control_keys_do_nothing_but_quit_and_what_is_pasted_is_text() {
    for open in ["", "K", "/", ":", "?"] {
        for letter in 'a'..='z' {
            let mut state = show(View::Tasks);
            open.chars().for_each(|c| drop(press(&mut state, KeyCode::Char(c))));
            let before = screen(&state);
            let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
            assert_eq!(update(&mut state, Message::Key(key)), None);
            assert_eq!((state.quit, screen(&state)), (letter == 'c', before), "{open} {letter}");
        }
    }
    let mut state = show(View::Tasks);
    update(&mut state, Message::Paste("K\t\r".to_owned()));
    assert!(state.confirm.is_none());
    press(&mut state, KeyCode::Char('/'));
    update(&mut state, Message::Paste("db7\nK".to_owned()));
    assert_eq!(state.tasks.query.filter, "db7");
}

#[test]
fn a_list_says_what_it_is_sorted_by() {
    let mut state = show(View::Jobs);
    press(&mut state, KeyCode::Char('s'));
    fill_lists(&mut state);
    assert!(screen(&state).contains("JOB^"));
    press(&mut state, KeyCode::Char('r'));
    assert_eq!(
        state.jobs.request(),
        ListRequest { sort: "-job".to_owned(), ..state.jobs.request() }
    );
    fill_lists(&mut state);
    assert!(screen(&state).contains("JOBv"));
}
