//! The heat map: a row per job, a column per node or group of nodes, side by side for every job.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use bistro_common::protocol::api::TaskState;

use super::{heading, nothing};
use crate::text::{fit, safe};
use crate::tui::grid::{GridJob, worst};
use crate::tui::state::State;
use crate::tui::table::first_shown;
use crate::tui::theme;

const NAME: usize = 18;
/// The heading and the line about the cursor.
const ROWS: usize = 2;

/// How many cells fit beside the names.
pub fn grid_width(state: &State) -> usize {
    usize::from(state.size.0).saturating_sub(NAME + 1).max(1)
}

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let grid = &state.grid;
    if grid.jobs.is_empty() {
        let what = if grid.in_sync { "no tasks" } else { "loading the grid..." };
        return nothing(state, grid.trouble.as_deref().unwrap_or(what));
    }
    let width = usize::from(area.width).saturating_sub(NAME + 1).max(1);
    let per_cell = grid.nodes_per_cell(width);
    let first_cell = match grid.jobs.get(grid.row) {
        Some(job) => first_shown(grid.column / per_cell, job.cells.len().div_ceil(per_cell), width),
        None => 0,
    };
    let scale = match per_cell {
        1 => "a node per cell".to_owned(),
        n => format!("{n} nodes per cell, the worst one shows"),
    };
    let mut lines = vec![heading(&[("JOB", NAME), (&scale, width)], state)];
    let height = usize::from(area.height).saturating_sub(ROWS).max(1);
    let first = first_shown(grid.row, grid.jobs.len(), height);
    for (at, job) in grid.jobs.iter().enumerate().skip(first).take(height) {
        let cursor = (at == grid.row).then_some(grid.column / per_cell);
        lines.push(job_line(state, job, (first_cell, width, per_cell), cursor));
    }
    lines.resize_with(height + 1, Line::default);
    lines.push(cursor_line(state, per_cell));
    lines
}

fn job_line(
    state: &State,
    job: &GridJob,
    (first_cell, width, per_cell): (usize, usize, usize),
    cursor: Option<usize>,
) -> Line<'static> {
    let name = if cursor.is_some() { theme::title() } else { theme::quiet(state.colour) };
    let mut spans = vec![Span::styled(fit(&job.job, NAME) + " ", name)];
    let cells = job.cells.chunks(per_cell).enumerate().skip(first_cell).take(width);
    // Neighbours in the same style are one span: fewer bytes to the terminal.
    let mut run: Option<(TaskState, String)> = None;
    for (at, nodes) in cells {
        let Some(cell) = worst(nodes) else { continue };
        if cursor == Some(at) {
            flush(&mut spans, &mut run, state.colour);
            spans.push(Span::styled(cell.glyph().to_string(), theme::cursor()));
            continue;
        }
        match &mut run {
            Some((same, text)) if *same == cell => text.push(cell.glyph()),
            _ => {
                flush(&mut spans, &mut run, state.colour);
                run = Some((cell, cell.glyph().to_string()));
            }
        }
    }
    flush(&mut spans, &mut run, state.colour);
    Line::from(spans)
}

fn flush(spans: &mut Vec<Span<'static>>, run: &mut Option<(TaskState, String)>, colour: bool) {
    if let Some((state, text)) = run.take() {
        spans.push(Span::styled(text, theme::state_style(state, colour)));
    }
}

fn cursor_line(state: &State, per_cell: usize) -> Line<'static> {
    let Some((job, node, cell)) = state.grid.current() else {
        return Line::default();
    };
    let more = match per_cell {
        1 => String::new(),
        n => format!("  (the first of {n}; + zooms in)"),
    };
    Line::from(vec![
        Span::styled(format!("{} on {}: ", safe(job), safe(node)), theme::title()),
        Span::styled(cell.as_str(), theme::state_style(cell, state.colour)),
        Span::styled(more, theme::quiet(state.colour)),
    ])
}
