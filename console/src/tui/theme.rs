//! Colours, as data. Every state also has its own glyph, so nothing depends on them.

use bistro_common::protocol::api::TaskState;
use ratatui::style::{Color, Modifier, Style};

/// The sixteen colours of the terminal's own palette, so that its theme holds.
pub fn state_style(state: TaskState, colour: bool) -> Style {
    let style = Style::new();
    if !colour {
        return match state {
            TaskState::Failed | TaskState::Unsure => style.add_modifier(Modifier::BOLD),
            TaskState::Done | TaskState::Avoided => style.add_modifier(Modifier::DIM),
            _ => style,
        };
    }
    match state {
        TaskState::Running => style.fg(Color::Cyan),
        TaskState::Unsure => style.fg(Color::Magenta).add_modifier(Modifier::BOLD),
        TaskState::CanRun => style.fg(Color::Blue),
        TaskState::Blocked => style.fg(Color::DarkGray),
        TaskState::Backoff => style.fg(Color::Yellow),
        TaskState::Failed => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        TaskState::Disabled | TaskState::Avoided => style.fg(Color::DarkGray),
        TaskState::Done => style.fg(Color::Green),
    }
}

pub fn cursor() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

pub fn title() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub fn quiet(colour: bool) -> Style {
    match colour {
        true => Style::new().fg(Color::DarkGray),
        false => Style::new().add_modifier(Modifier::DIM),
    }
}

pub fn alarm(colour: bool) -> Style {
    match colour {
        true => Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD),
        false => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
    }
}
