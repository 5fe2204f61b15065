//! The keymap, as data: what `?` shows is what the keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::View;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Quit,
    Help,
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
    Logs,
    Kill,
    Forgive,
    NextState,
    Statuses,
    ZoomIn,
    ZoomOut,
}

pub struct Binding {
    pub key: Key,
    pub codes: &'static [KeyCode],
    /// As help shows them.
    pub shown: &'static str,
    /// In the footer; empty: help alone shows it.
    pub short: &'static str,
    pub help: &'static str,
    /// Where it does something; empty: everywhere.
    pub views: &'static [View],
}

const fn binding(
    key: Key,
    codes: &'static [KeyCode],
    shown: &'static str,
    short: &'static str,
    help: &'static str,
    views: &'static [View],
) -> Binding {
    Binding { key, codes, shown, short, help, views }
}

use KeyCode::Char;

/// Nothing that changes anything lies on a key that a slip or a terminal's own habit can hit.
pub const BINDINGS: &[Binding] = &[
    binding(Key::Go(View::Jobs), &[Char('1')], "1", "", "jobs and how far they are", &[]),
    binding(Key::Go(View::Grid), &[Char('2')], "2", "", "grid of jobs and nodes", &[]),
    binding(Key::Go(View::Workers), &[Char('3')], "3", "", "workers", &[]),
    binding(Key::Go(View::Tasks), &[Char('4')], "4", "", "tasks", &[]),
    binding(Key::Go(View::Logs), &[Char('5')], "5", "", "logs", &[]),
    binding(Key::Go(View::Events), &[Char('6')], "6", "", "events", &[]),
    binding(Key::NextView, &[KeyCode::Tab], "tab", "", "next view", &[]),
    binding(Key::Up, &[KeyCode::Up, Char('k')], "up k", "", "up", &[]),
    binding(Key::Down, &[KeyCode::Down, Char('j')], "down j", "", "down", &[]),
    binding(Key::Left, &[KeyCode::Left, Char('h')], "left h", "pan", "left", &[View::Grid]),
    binding(Key::Right, &[KeyCode::Right], "right", "", "right", &[View::Grid]),
    binding(Key::PageUp, &[KeyCode::PageUp], "pgup", "", "a page up", &[]),
    binding(Key::PageDown, &[KeyCode::PageDown, Char(' ')], "pgdn space", "", "a page down", &[]),
    binding(Key::Home, &[KeyCode::Home, Char('g')], "home g", "", "to the start", &[]),
    binding(Key::End, &[KeyCode::End, Char('G')], "end G", "", "to the end (logs: follow)", &[]),
    binding(
        Key::Open,
        &[KeyCode::Enter],
        "enter",
        "open",
        "open what the cursor is on",
        &[View::Jobs, View::Grid, View::Workers, View::Tasks],
    ),
    binding(Key::Back, &[KeyCode::Esc], "esc", "", "back; clear the filter", &[]),
    binding(Key::Filter, &[Char('/')], "/", "filter", "filter", &[View::Tasks, View::Logs]),
    binding(Key::NextState, &[Char('t')], "t", "state", "only one state: next", &[View::Tasks]),
    binding(
        Key::Logs,
        &[Char('l')],
        "l",
        "logs",
        "logs of what the cursor is on",
        &[View::Jobs, View::Grid, View::Workers, View::Tasks, View::Task],
    ),
    binding(
        Key::Statuses,
        &[Char('e')],
        "e",
        "statuses",
        "with what happened to attempts",
        &[View::Logs],
    ),
    binding(Key::ZoomIn, &[Char('+'), Char('=')], "+", "zoom", "zoom in", &[View::Grid]),
    binding(Key::ZoomOut, &[Char('-')], "-", "", "zoom out", &[View::Grid]),
    binding(
        Key::Kill,
        &[Char('K')],
        "K",
        "kill",
        "kill the running attempt (asks)",
        &[View::Grid, View::Tasks, View::Task],
    ),
    binding(
        Key::Forgive,
        &[Char('F')],
        "F",
        "forgive",
        "forgive failed tasks (asks)",
        &[View::Jobs, View::Grid, View::Tasks, View::Task],
    ),
    binding(Key::Help, &[Char('?')], "?", "help", "this help", &[]),
    binding(Key::Quit, &[Char('q')], "q", "quit", "quit", &[]),
];

/// What a key means in a view.
pub fn meaning(event: KeyEvent, view: View) -> Option<Key> {
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return (event.code == Char('c')).then_some(Key::Quit);
    }
    let here = BINDINGS.iter().filter(|b| b.views.is_empty() || b.views.contains(&view));
    here.into_iter().find(|b| b.codes.contains(&event.code)).map(|b| b.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things_in_a_view() {
        for view in View::TABS.into_iter().chain([View::Task]) {
            let here = BINDINGS.iter().filter(|b| b.views.is_empty() || b.views.contains(&view));
            let mut codes: Vec<_> = here.flat_map(|b| b.codes).collect();
            let all = codes.len();
            codes.dedup();
            codes.sort_by_key(|code| format!("{code:?}"));
            codes.dedup();
            assert_eq!(codes.len(), all, "{view:?}");
        }
    }

    #[test]
    fn control_keys_do_nothing_but_quit() {
        for letter in ('a'..='z').filter(|&letter| letter != 'c') {
            let event = KeyEvent::new(Char(letter), KeyModifiers::CONTROL);
            assert_eq!(meaning(event, View::Tasks), None, "{letter}");
        }
    }
}
