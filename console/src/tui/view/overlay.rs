//! What lies over a view: help, and questions.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use crate::text::{fit, safe};
use crate::tui::keys::BINDINGS;
use crate::tui::state::{Confirm, State};
use crate::tui::theme;

pub fn confirm(state: &State, confirm: &Confirm, frame: &mut Frame<'_>) {
    let mut lines: Vec<_> = confirm.lines.iter().map(|line| Line::raw(safe(line))).collect();
    lines.push(Line::raw(""));
    let button = |text: &'static str, focus| match focus {
        true => Span::styled(text, theme::cursor()),
        false => Span::raw(text),
    };
    lines.push(Line::from(vec![
        button(" Cancel ", !confirm.yes),
        Span::raw("  "),
        button(" Do it ", confirm.yes),
        Span::styled("   tab: choose, enter: take it", theme::quiet(state.colour)),
    ]));
    boxed(frame, &confirm.title, lines);
}

pub fn help(state: &State, frame: &mut Frame<'_>) {
    let here = BINDINGS.iter().filter(|b| b.views.is_empty() || b.views.contains(&state.view));
    let mut lines: Vec<_> = here
        .map(|binding| {
            Line::from(vec![
                Span::styled(fit(binding.shown, 12), theme::title()),
                Span::raw(binding.help),
            ])
        })
        .collect();
    // Two columns where one is too long.
    let height = usize::from(frame.area().height).saturating_sub(2);
    if lines.len() > height && height > 0 {
        let rest = lines.split_off(lines.len().div_ceil(2));
        for (left, right) in lines.iter_mut().zip(rest) {
            let room = 42usize.saturating_sub(left.width());
            left.push_span(Span::raw(" ".repeat(room)));
            right.spans.into_iter().for_each(|span| left.push_span(span));
        }
    }
    boxed(frame, &format!("Keys in {} (any key closes)", state.view.title()), lines);
}

fn boxed(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).max(title.len() + 2);
    let width = (widest as u16).saturating_add(4).min(area.width);
    let height = (lines.len() as u16).saturating_add(2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered().title(format!(" {title} "));
    let inner = block.inner(place);
    frame.render_widget(Clear, place);
    frame.render_widget(block, place);
    let inner = Rect { x: inner.x.saturating_add(1).min(inner.right()), ..inner };
    frame.render_widget(
        Paragraph::new(lines),
        Rect { width: inner.width.saturating_sub(1), ..inner },
    );
}
