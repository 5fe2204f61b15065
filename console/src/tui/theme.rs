//! Looks, as data. Every state also has its own glyph, so nothing depends on colours.

use bistro_common::protocol::api::TaskState;
use ratatui::style::{Color, Modifier, Style};

#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    pub name: &'static str,
    /// By [`TaskState`].
    states: [Style; TaskState::ALL.len()],
    pub cursor: Style,
    pub title: Style,
    pub quiet: Style,
    pub alarm: Style,
    /// What a search has found.
    pub found: Style,
    /// Bars are blocks of colour rather than glyphs.
    pub blocks: bool,
}

/// In the order of [`TaskState::ALL`]: running, unsure, can run, blocked, backoff, failed, disabled,
/// done, avoided.
type Colours = [Color; TaskState::ALL.len()];

const fn grey(level: u8) -> Color {
    Color::Indexed(232 + level)
}

/// The terminal's own sixteen colours, so that its theme holds, be it dark or light.
const TERMINAL: Colours = [
    Color::Cyan,
    Color::Magenta,
    Color::Blue,
    Color::DarkGray,
    Color::Yellow,
    Color::Red,
    Color::DarkGray,
    Color::Green,
    Color::DarkGray,
];
/// On black, at 7:1 or more.
const DARK: Colours = [
    Color::Indexed(51),
    Color::Indexed(213),
    Color::Indexed(117),
    grey(15),
    Color::Indexed(221),
    Color::Indexed(210),
    grey(13),
    Color::Indexed(114),
    grey(12),
];
/// On white, at 4.5:1 or more.
const LIGHT: Colours = [
    Color::Indexed(24),
    Color::Indexed(90),
    Color::Indexed(19),
    grey(8),
    Color::Indexed(94),
    Color::Indexed(124),
    grey(9),
    Color::Indexed(22),
    grey(10),
];
/// Blue to orange, which those who confuse red and green tell apart.
const COLOUR_BLIND: Colours = [
    Color::Indexed(117),
    Color::Indexed(219),
    Color::Indexed(153),
    grey(14),
    Color::Indexed(228),
    Color::Indexed(208),
    grey(13),
    Color::Indexed(33),
    grey(12),
];
/// The brightest that there are.
const CONTRAST: Colours = [
    Color::Indexed(51),
    Color::Indexed(207),
    Color::Indexed(231),
    Color::Indexed(250),
    Color::Indexed(226),
    Color::Indexed(203),
    Color::Indexed(250),
    Color::Indexed(46),
    Color::Indexed(250),
];

impl Theme {
    pub const NAMES: [&'static str; 6] =
        ["terminal", "dark", "light", "high-contrast", "colour-blind", "mono"];

    pub fn named(name: &str) -> Option<Self> {
        let theme = match name {
            "terminal" => Self::coloured("terminal", TERMINAL, Color::DarkGray),
            "dark" => Self::coloured("dark", DARK, grey(15)),
            "light" => Self::coloured("light", LIGHT, grey(8)),
            "high-contrast" => Self::coloured("high-contrast", CONTRAST, Color::Indexed(250)),
            "colour-blind" => Self::coloured("colour-blind", COLOUR_BLIND, grey(15)),
            "mono" => Self::mono(),
            _ => return None,
        };
        Some(theme)
    }

    fn coloured(name: &'static str, colours: Colours, quiet: Color) -> Self {
        let loud = [TaskState::Failed, TaskState::Unsure];
        let states = TaskState::ALL.map(|state| {
            let style = Style::new().fg(colours[state as usize]);
            if loud.contains(&state) { style.add_modifier(Modifier::BOLD) } else { style }
        });
        let alarm = match name {
            "terminal" => Style::new().fg(Color::White).bg(Color::Red),
            _ => Style::new().fg(Color::Indexed(231)).bg(Color::Indexed(88)),
        };
        Self {
            name,
            states,
            quiet: Style::new().fg(quiet),
            alarm: alarm.add_modifier(Modifier::BOLD),
            found: Style::new().fg(Color::Black).bg(Color::Yellow),
            blocks: true,
            ..Self::mono()
        }
    }

    fn mono() -> Self {
        let style = Style::new();
        let states = TaskState::ALL.map(|state| match state {
            TaskState::Failed | TaskState::Unsure => style.add_modifier(Modifier::BOLD),
            TaskState::Done | TaskState::Avoided => style.add_modifier(Modifier::DIM),
            _ => style,
        });
        Self {
            name: "mono",
            states,
            cursor: style.add_modifier(Modifier::REVERSED),
            title: style.add_modifier(Modifier::BOLD),
            quiet: style.add_modifier(Modifier::DIM),
            alarm: style.add_modifier(Modifier::REVERSED | Modifier::BOLD),
            found: style.add_modifier(Modifier::UNDERLINED | Modifier::BOLD),
            blocks: false,
        }
    }

    pub fn state(&self, state: TaskState) -> Style {
        self.states[state as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red, green and blue of a colour of the cube or of the greys.
    fn rgb(colour: Color) -> Option<[f64; 3]> {
        let Color::Indexed(n) = colour else { return None };
        let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
        Some(match n {
            16..=231 => {
                [(n - 16) / 36, (n - 16) / 6 % 6, (n - 16) % 6].map(|n| f64::from(level(n)))
            }
            232.. => [f64::from(8 + 10 * u32::from(n - 232)); 3],
            _ => return None,
        })
    }

    fn luminance(colour: [f64; 3]) -> f64 {
        let [r, g, b] = colour.map(|c| {
            let c = c / 255.0;
            if c <= 0.03928 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    #[test]
    fn every_theme_can_be_read() {
        for name in Theme::NAMES {
            let theme = Theme::named(name).unwrap();
            let ground = if name == "light" { [255.0; 3] } else { [0.0; 3] };
            for style in TaskState::ALL.map(|s| theme.state(s)).into_iter().chain([theme.quiet]) {
                let Some(colour) = style.fg.and_then(rgb) else { continue };
                let (a, b) = (luminance(colour) + 0.05, luminance(ground) + 0.05);
                let contrast = a.max(b) / a.min(b);
                assert!(contrast >= 4.5, "{name}: {style:?} has {contrast:.1}");
            }
        }
        assert!(Theme::named("pink").is_none());
    }
}
