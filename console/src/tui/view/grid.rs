//! The heat map: a row per job or group of jobs, a column per node or group of nodes, side by side
//! for every job.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::nothing;
use crate::text::{fit, safe};
use crate::tui::grid::{Cell, Grid, Scale};
use crate::tui::list::first_shown;
use crate::tui::state::State;

const NAME: usize = 18;
/// Where cells begin.
pub const LEFT: usize = NAME + 1;
/// The heading and the line about the cursor.
const ROWS: usize = 2;

/// How many cells fit beside the names, and how many rows.
pub fn grid_size(state: &State) -> (usize, usize) {
    let width = usize::from(state.size.0).saturating_sub(LEFT).max(1);
    (width, state.body_rows().saturating_sub(ROWS).max(1))
}

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let grid = &state.grid;
    if grid.jobs.is_empty() {
        let what = if grid.in_sync { "no tasks" } else { "loading the grid..." };
        return nothing(state, None, grid.trouble.as_deref().unwrap_or(what));
    }
    let width = usize::from(area.width).saturating_sub(LEFT).max(1);
    let height = usize::from(area.height).saturating_sub(ROWS).max(1);
    let (scale, first, first_cell) = window(grid, width, height);
    let column = grid.column.saturating_sub(grid.shown(grid.row).start) / scale.nodes;
    let groups = grid.jobs.len().div_ceil(scale.jobs);
    let mut lines = vec![heading(state, scale)];
    for group in (first..groups).take(height) {
        let cursor = (group == grid.row / scale.jobs).then_some(column);
        lines.push(group_line(state, group, (first_cell, width), scale, cursor));
    }
    lines.resize_with(height + 1, Line::default);
    lines.push(cursor_line(state, scale));
    lines
}

/// What is in sight: how much a cell stands for, and the first group of jobs and of nodes.
fn window(grid: &Grid, width: usize, height: usize) -> (Scale, usize, usize) {
    let scale = grid.scale(width, height);
    // Cells are counted from the first that is shown.
    let shown = grid.shown(grid.row);
    let column = grid.column.saturating_sub(shown.start) / scale.nodes;
    let first_cell = first_shown(column, shown.len().div_ceil(scale.nodes), width);
    let groups = grid.jobs.len().div_ceil(scale.jobs);
    (scale, first_shown(grid.row / scale.jobs, groups, height), first_cell)
}

/// The job and the node at a line of the body and a column of cells.
pub fn at(state: &State, line: usize, column: usize) -> Option<(usize, usize)> {
    let grid = &state.grid;
    let (width, height) = grid_size(state);
    let (scale, first, first_cell) = window(grid, width, height);
    let row = (first + line.checked_sub(1).filter(|line| *line < height)?) * scale.jobs;
    let shown = grid.shown(row);
    let node = shown.start + (first_cell + column) * scale.nodes;
    shown.contains(&node).then_some((row, node))
}

fn heading(state: &State, scale: Scale) -> Line<'static> {
    let grid = &state.grid;
    let cells = match scale {
        Scale { jobs: 1, nodes: 1 } => "a task per cell".to_owned(),
        Scale { jobs: 1, nodes } => format!("{nodes} nodes per cell, the worst shows"),
        Scale { jobs, nodes } => format!("{jobs} jobs x {nodes} nodes per cell, the worst shows"),
    };
    let (jobs, nodes) = (grid.jobs.len(), grid.longest());
    let what = match grid.under() {
        Some(_) if grid.wanted_subtree().is_some() => "  looking for it...".to_owned(),
        Some(node) if nodes == 0 => format!("  no tasks below {}", safe(node)),
        Some(node) => format!("  {jobs} x {nodes} below {}", safe(node)),
        None => format!("  {jobs} x {nodes} = {}", grid.cell_count()),
    };
    let sync = if grid.in_sync { "" } else { "  loading..." };
    Line::styled(format!("{:<NAME$} {cells}{what}{sync}", "JOB"), state.theme.quiet)
}

fn group_line(
    state: &State,
    group: usize,
    (first_cell, width): (usize, usize),
    scale: Scale,
    cursor: Option<usize>,
) -> Line<'static> {
    let grid = &state.grid;
    let jobs = group * scale.jobs..(group + 1) * scale.jobs;
    let name = &grid.jobs[jobs.start].job;
    let name = match scale.jobs {
        1 => fit(name, NAME),
        more => fit(&format!("{} +{}", fit(name, NAME - 6).trim_end(), more - 1), NAME),
    };
    let style = if cursor.is_some() { state.theme.title } else { state.theme.quiet };
    let mut line = Line::from(Span::styled(name + " ", style));
    // Neighbours in the same style are one span: fewer bytes to the terminal.
    let mut run: Option<(Cell, String)> = None;
    for at in first_cell..first_cell + width {
        let nodes = at * scale.nodes..(at + 1) * scale.nodes;
        let Some(cell) = grid.worst(jobs.clone(), nodes) else { break };
        let glyph = cell.state().glyph();
        if cursor == Some(at) {
            flush(state, &mut line, &mut run);
            line.push_span(Span::styled(glyph.to_string(), state.theme.cursor));
            continue;
        }
        match &mut run {
            Some((same, text)) if *same == cell => text.push(glyph),
            _ => {
                flush(state, &mut line, &mut run);
                run = Some((cell, glyph.to_string()));
            }
        }
    }
    flush(state, &mut line, &mut run);
    line
}

fn flush(state: &State, line: &mut Line<'static>, run: &mut Option<(Cell, String)>) {
    if let Some((cell, text)) = run.take() {
        line.push_span(Span::styled(text, state.theme.state(cell.state())));
    }
}

fn cursor_line(state: &State, scale: Scale) -> Line<'static> {
    let grid: &Grid = &state.grid;
    let (Some(job), Some(cell), Some((_, number))) =
        (grid.jobs.get(grid.row), grid.current(), grid.place())
    else {
        return Line::default();
    };
    let node = grid.node().map_or_else(|| format!("node {number}"), safe);
    let more = match scale {
        Scale { jobs: 1, nodes: 1 } => String::new(),
        Scale { jobs, nodes } => format!("  (the first of {}; + zooms in)", jobs * nodes),
    };
    Line::from(vec![
        Span::styled(format!("{} on {node}: ", safe(&job.job)), state.theme.title),
        Span::styled(cell.state().as_str(), state.theme.state(cell.state())),
        Span::styled(more, state.theme.quiet),
    ])
}
