//! The keymap, as data: what `?` and the reference show is what the keys do. Settings may give a
//! command other keys.

use crossterm::event::{KeyCode, KeyEvent};
use std::collections::BTreeMap;

use super::state::View;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Quit,
    Help,
    Palette,
    Back,
    Open,
    Go(View),
    NextView,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Filter,
    NextState,
    Failures,
    Sort,
    Reverse,
    Freeze,
    Copy,
    CopyLink,
    Mark,
    Subtree,
    Submit,
    Logs,
    Statuses,
    Search,
    NextFound,
    LastFound,
    Wrap,
    Times,
    Jump,
    Save,
    ZoomIn,
    ZoomOut,
    Kill,
    Forgive,
    KillAll,
    ForgiveAll,
    Toggle,
    Priority,
    Edit,
    Undo,
}

/// A key and what it does. `name` is what settings call it.
#[derive(Clone, Debug)]
pub struct Binding {
    pub key: Key,
    pub name: &'static str,
    pub codes: Vec<KeyCode>,
    /// In the footer; empty: help alone shows it.
    pub short: &'static str,
    pub help: &'static str,
    /// Where it does something; empty: everywhere.
    pub views: &'static [View],
}

#[derive(Clone, Debug)]
pub struct Keymap {
    pub bindings: Vec<Binding>,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum KeymapError {
    #[error("there is no command {0:?}; `bistro console --keys` lists them")]
    UnknownCommand(String),
    #[error(
        "{0:?} is no key; use one character, or enter, esc, tab, space, up, down, left, right, home, end, pgup, pgdn, f1 to f12"
    )]
    UnknownKey(String),
    #[error("{key} would mean both {one} and {other} in the {view} view")]
    Twice { key: String, one: &'static str, other: &'static str, view: &'static str },
}

const LISTS: &[View] = &[View::Jobs, View::Nodes, View::Workers, View::Tasks];
const LINES: &[View] = &[View::Logs, View::Events];
const TASKS: &[View] = &[View::Tasks, View::Task];

/// Nothing that changes anything lies on a key that a slip or a terminal's own habit can hit.
type Default = (Key, &'static str, &'static str, &'static str, &'static str, &'static [View]);
const DEFAULTS: &[Default] = &[
    (Key::Go(View::Jobs), "jobs", "1", "", "jobs", &[]),
    (Key::Go(View::Grid), "grid", "2", "", "grid of jobs and nodes", &[]),
    (Key::Go(View::Nodes), "nodes", "3", "", "nodes, and their slots", &[]),
    (Key::Go(View::Workers), "workers", "4", "", "workers", &[]),
    (Key::Go(View::Tasks), "tasks", "5", "", "tasks", &[]),
    (Key::Go(View::Logs), "all-logs", "6", "", "logs", &[]),
    (Key::Go(View::Events), "events", "7", "", "events and audit", &[]),
    (Key::Go(View::Health), "health", "8", "", "health: what is wrong", &[]),
    (Key::NextView, "next-view", "tab", "", "next view", &[]),
    (Key::Palette, "palette", ":", "commands", "find a command or a job", &[]),
    (Key::Help, "help", "?", "help", "this help", &[]),
    (Key::Quit, "quit", "q", "quit", "quit", &[]),
    (Key::Back, "back", "esc", "", "back, or clear the filter", &[]),
    (Key::Up, "up", "up k", "", "up", &[]),
    (Key::Down, "down", "down j", "", "down", &[]),
    (Key::Left, "left", "left h", "", "left", &[View::Grid]),
    (Key::Right, "right", "right", "", "right", &[View::Grid]),
    (Key::PageUp, "page-up", "pgup", "", "a page up", &[]),
    (Key::PageDown, "page-down", "pgdn space", "", "a page down", &[]),
    (Key::Home, "home", "home g", "", "to the start", &[]),
    (Key::End, "end", "end G", "", "to the end; follow lines", &[]),
    (
        Key::Open,
        "open",
        "enter",
        "open",
        "open",
        &[View::Jobs, View::Grid, View::Nodes, View::Workers, View::Tasks, View::Job],
    ),
    (
        Key::Filter,
        "filter",
        "/",
        "filter",
        "filter, as state=failed",
        &[View::Jobs, View::Nodes, View::Workers, View::Tasks, View::Logs, View::Events],
    ),
    (
        Key::Failures,
        "failures",
        "f",
        "failures",
        "failures; grid: the next",
        &[View::Jobs, View::Grid, View::Tasks],
    ),
    (Key::NextState, "next-state", "t", "", "only the next state", &[View::Tasks]),
    (Key::Sort, "sort", "s", "sort", "sort by the next column", LISTS),
    (Key::Reverse, "reverse", "r", "", "sort the other way", LISTS),
    (Key::Freeze, "freeze", "z", "", "freeze the order", LISTS),
    (
        Key::Logs,
        "logs",
        "l",
        "logs",
        "its logs",
        &[View::Jobs, View::Grid, View::Workers, View::Tasks, View::Task, View::Job],
    ),
    (Key::Statuses, "statuses", "e", "", "with what befell attempts", &[View::Logs]),
    (Key::Search, "search", "s", "search", "search (regex)", &[View::Logs]),
    (Key::NextFound, "next-found", "n", "", "next that was found", &[View::Logs]),
    (Key::LastFound, "last-found", "N", "", "the one before", &[View::Logs]),
    (Key::Wrap, "wrap", "w", "wrap", "fold long lines", &[View::Logs]),
    (Key::Times, "times", "T", "", "with times, or without", &[View::Logs]),
    (Key::Jump, "jump", "@", "time", "jump to a time, as -10m", LINES),
    (Key::Save, "save", "o", "", "save to a file", &[View::Logs]),
    (Key::ZoomIn, "zoom-in", "+ =", "zoom", "zoom in", &[View::Grid]),
    (Key::ZoomOut, "zoom-out", "-", "", "zoom out", &[View::Grid]),
    (Key::Copy, "copy", "y", "", "copy its command line", &[]),
    (Key::CopyLink, "copy-link", "Y", "", "copy a link to here", &[]),
    (
        Key::Mark,
        "mark",
        "m",
        "",
        "mark; actions are about the marked",
        &[View::Jobs, View::Workers, View::Tasks],
    ),
    (Key::Subtree, "subtree", "c", "cells", "grid of what is below it", &[View::Nodes]),
    (Key::Submit, "submit", "S", "", "run a command once (asks)", &[View::Jobs]),
    (Key::Kill, "kill", "K", "kill", "kill the attempt (asks)", TASKS),
    (
        Key::Forgive,
        "forgive",
        "F",
        "forgive",
        "forgive failures (asks)",
        &[View::Jobs, View::Job, View::Grid, View::Tasks, View::Task],
    ),
    (Key::KillAll, "kill-all", "X", "", "kill all of these (asks)", &[View::Tasks]),
    (Key::ForgiveAll, "forgive-all", "A", "", "forgive all these (asks)", &[View::Tasks]),
    (
        Key::Toggle,
        "toggle",
        "D",
        "on/off",
        "disable, enable (asks)",
        &[View::Jobs, View::Job, View::Workers],
    ),
    (Key::Priority, "priority", "P", "", "change priority (asks)", &[View::Jobs, View::Job]),
    (Key::Edit, "edit", "E", "", "edit in $EDITOR (asks)", &[View::Jobs, View::Job]),
    (Key::Undo, "undo", "u", "", "undo the last (asks)", &[]),
];

impl Binding {
    pub fn is_in(&self, view: View) -> bool {
        self.views.is_empty() || self.views.contains(&view)
    }

    /// Its keys, as help shows them.
    pub fn shown(&self) -> String {
        self.codes.iter().map(|&code| shown(code)).collect::<Vec<_>>().join(" ")
    }
}

impl Keymap {
    /// The defaults, but for commands that have other keys.
    pub fn new(changed: &BTreeMap<String, Vec<String>>) -> Result<Self, KeymapError> {
        if let Some(name) = changed.keys().find(|name| !DEFAULTS.iter().any(|d| d.1 == **name)) {
            return Err(KeymapError::UnknownCommand(name.clone()));
        }
        let mut bindings = Vec::with_capacity(DEFAULTS.len());
        for &(key, name, keys, short, help, views) in DEFAULTS {
            let codes = match changed.get(name) {
                Some(keys) => keys.iter().map(|key| parse(key)).collect::<Result<_, _>>()?,
                None => keys.split(' ').map(parse).collect::<Result<_, _>>()?,
            };
            bindings.push(Binding { key, name, codes, short, help, views });
        }
        let map = Self { bindings };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), KeymapError> {
        for view in View::ALL {
            let mut meanings = BTreeMap::new();
            for binding in self.in_view(view) {
                for &code in &binding.codes {
                    let key = shown(code);
                    if let Some(one) = meanings.insert(key.clone(), binding.name) {
                        let (other, view) = (binding.name, view.title());
                        return Err(KeymapError::Twice { key, one, other, view });
                    }
                }
            }
        }
        Ok(())
    }

    pub fn in_view(&self, view: View) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.is_in(view))
    }

    /// What a key means in a view.
    pub fn meaning(&self, event: KeyEvent, view: View) -> Option<Key> {
        self.in_view(view).find(|binding| binding.codes.contains(&event.code)).map(|b| b.key)
    }

    /// The key of a command, for texts that name it.
    pub fn key_of(&self, key: Key) -> String {
        let binding = self.bindings.iter().find(|binding| binding.key == key);
        binding.and_then(|b| b.codes.first()).map(|&code| shown(code)).unwrap_or_default()
    }
}

const NAMED: [(&str, KeyCode); 12] = [
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("space", KeyCode::Char(' ')),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pgup", KeyCode::PageUp),
    ("pgdn", KeyCode::PageDown),
];

/// A key without modifiers: those are a terminal's and a multiplexer's own.
fn parse(text: &str) -> Result<KeyCode, KeymapError> {
    if let Some((_, code)) = NAMED.iter().find(|(name, _)| *name == text) {
        return Ok(*code);
    }
    if let Some(Ok(number @ 1..=12)) = text.strip_prefix('f').map(str::parse) {
        return Ok(KeyCode::F(number));
    }
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if !c.is_control() => Ok(KeyCode::Char(c)),
        _ => Err(KeymapError::UnknownKey(text.to_owned())),
    }
}

fn shown(code: KeyCode) -> String {
    match (NAMED.iter().find(|(_, named)| *named == code), code) {
        (Some((name, _)), _) => (*name).to_owned(),
        (None, KeyCode::Char(c)) => c.to_string(),
        (None, KeyCode::F(number)) => format!("f{number}"),
        (None, _) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyModifiers;

    fn changed(command: &str, key: &str) -> Result<Keymap, KeymapError> {
        Keymap::new(&[(command.to_owned(), vec![key.to_owned()])].into())
    }

    #[test]
    fn no_key_means_two_things_in_a_view() {
        Keymap::new(&BTreeMap::new()).unwrap();
        assert!(matches!(changed("kill", "F"), Err(KeymapError::Twice { .. })));
        assert!(matches!(changed("kill", "q"), Err(KeymapError::Twice { .. })));
    }

    #[test]
    fn commands_can_have_other_keys() {
        let map = changed("kill", "f12").unwrap();
        let press = |code| map.meaning(KeyEvent::new(code, KeyModifiers::NONE), View::Tasks);
        assert_eq!(press(KeyCode::F(12)), Some(Key::Kill));
        assert_eq!(press(KeyCode::Char('K')), None);
        assert_eq!(map.key_of(Key::Kill), "f12");
        assert!(matches!(changed("explode", "x"), Err(KeymapError::UnknownCommand(_))));
        assert!(matches!(changed("kill", "ctrl-k"), Err(KeymapError::UnknownKey(_))));
    }
}
