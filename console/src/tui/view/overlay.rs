//! What lies over a view: help, questions and the palette.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::fold;
use crate::text::{fit, safe};
use crate::tui::list::first_shown;
use crate::tui::palette::Palette;
use crate::tui::state::{Confirm, State};

/// Rows for the command line that does the same.
const COMMAND_ROWS: usize = 2;
/// More does not fit into them.
const COMMAND_CHARS: usize = 1_000;

/// A frame of characters that every terminal has.
const ASCII: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

pub fn confirm(state: &State, confirm: &Confirm, frame: &mut Frame<'_>) {
    let width = frame.area().width.saturating_sub(4);
    let facts = confirm.lines.iter().flat_map(|line| fold(line, width, Style::new()));
    let mut lines: Vec<_> = facts.collect();
    // Whom it is about must be in sight, whatever else is not.
    let room = usize::from(frame.area().height).saturating_sub(2);
    let spacious = lines.len() + confirm.ways.len() + COMMAND_ROWS + 2 <= room;
    for (at, (way, _)) in confirm.ways.iter().enumerate() {
        let chosen = at == confirm.way;
        let label = if at == 0 || !spacious { "how" } else { "" };
        if spacious || chosen {
            lines.push(Line::from(vec![
                Span::raw(format!("{label:<8} {} ", if chosen { ">" } else { " " })),
                Span::styled(*way, if chosen { state.theme.title } else { state.theme.quiet }),
            ]));
        }
    }
    if spacious {
        // Of a long series the start says enough.
        let command: String = confirm.action.shell().chars().take(COMMAND_CHARS).collect();
        let command = fold(&command, width, state.theme.quiet);
        lines.extend(command.into_iter().take(COMMAND_ROWS));
        lines.push(Line::raw(""));
    }
    let button = |text: &'static str, focus| match focus {
        true => Span::styled(text, state.theme.cursor),
        false => Span::raw(text),
    };
    let keys = match confirm.ways.is_empty() {
        true => "   tab: choose, enter: take it",
        false => "   tab: choose, enter: take it, down: how",
    };
    lines.push(Line::from(vec![
        button(" Cancel ", !confirm.yes),
        Span::raw("  "),
        button(" Do it ", confirm.yes),
        Span::styled(keys, state.theme.quiet),
    ]));
    boxed(state, frame, &confirm.title, lines);
}

pub fn palette(state: &State, palette: &Palette, frame: &mut Frame<'_>) {
    let width = usize::from(frame.area().width).saturating_sub(6).min(100);
    let height = usize::from(frame.area().height).saturating_sub(6).clamp(1, 20);
    let entries = &palette.entries;
    let first = first_shown(palette.cursor, entries.len(), height);
    let mut lines = vec![Line::from(vec![
        Span::styled(":", state.theme.title),
        Span::raw(format!("{}_", safe(&palette.text))),
    ])];
    for (at, entry) in entries.iter().enumerate().skip(first).take(height) {
        let here = at == palette.cursor;
        let title = fit(&safe(&entry.title), width / 2);
        let style = if here { state.theme.cursor } else { ratatui::style::Style::new() };
        lines.push(Line::from(vec![
            Span::styled(title, style),
            Span::styled(
                format!("  {}", fit(&safe(&entry.command), (width - width / 2).saturating_sub(2))),
                state.theme.quiet,
            ),
        ]));
    }
    boxed(state, frame, "enter: do it, esc: close", lines);
}

/// What keys do. Two columns where one is too long and there is room for them.
const COLUMN: usize = 38;

/// How far help can be scrolled.
pub fn help_scroll_max(state: &State) -> usize {
    let (width, height) = state.size;
    help_lines(state, width, height).len().saturating_sub(usize::from(height.saturating_sub(2)))
}

fn help_lines(state: &State, width: u16, height: u16) -> Vec<Line<'static>> {
    let mut lines: Vec<_> = state
        .keymap
        .in_view(state.view)
        .map(|binding| {
            Line::from(vec![
                Span::styled(fit(&binding.shown(), 11), state.theme.title),
                Span::raw(binding.help),
            ])
        })
        .collect();
    let height = usize::from(height).saturating_sub(2);
    let column = usize::from(width).saturating_sub(4) / 2;
    if lines.len() > height && column >= COLUMN - 1 {
        let rest = lines.split_off(lines.len().div_ceil(2));
        for (left, right) in lines.iter_mut().zip(rest) {
            let room = column.saturating_sub(left.width()).max(1);
            left.push_span(Span::raw(" ".repeat(room)));
            right.spans.into_iter().for_each(|span| left.push_span(span));
        }
    }
    lines
}

pub fn help(state: &State, scroll: usize, frame: &mut Frame<'_>) {
    let most = help_scroll_max(state);
    let keys = if most > 0 { "down: more" } else { "any key closes" };
    let lines = help_lines(state, state.size.0, state.size.1);
    let lines = lines.into_iter().skip(scroll.min(most)).collect();
    boxed(state, frame, &format!("Keys in {} ({keys})", state.view.title()), lines);
}

fn boxed(state: &State, frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).max(title.len() + 2);
    let width = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(4).min(area.width);
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let height = rows.saturating_add(2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let mut block = Block::bordered().title(format!(" {title} "));
    if state.ascii {
        block = block.border_set(ASCII);
    }
    let inner = block.inner(place);
    frame.render_widget(Clear, place);
    frame.render_widget(block, place);
    // Where there are not enough rows, the end is what has the buttons.
    let hidden = rows.saturating_sub(inner.height);
    let inner = Rect { x: inner.x.saturating_add(1).min(inner.right()), ..inner };
    frame.render_widget(
        Paragraph::new(lines).scroll((if state.confirm.is_some() { hidden } else { 0 }, 0)),
        Rect { width: inner.width.saturating_sub(1), ..inner },
    );
}
