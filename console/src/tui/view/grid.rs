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
/// The heading and the line about the cursor.
const ROWS: usize = 2;

/// How many cells fit beside the names, and how many rows.
pub fn grid_size(state: &State) -> (usize, usize) {
    let width = usize::from(state.size.0).saturating_sub(NAME + 1).max(1);
    (width, state.body_rows().saturating_sub(ROWS).max(1))
}

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let grid = &state.grid;
    if grid.jobs.is_empty() {
        let what = if grid.in_sync { "no tasks" } else { "loading the grid..." };
        return nothing(state, None, grid.trouble.as_deref().unwrap_or(what));
    }
    let width = usize::from(area.width).saturating_sub(NAME + 1).max(1);
    let height = usize::from(area.height).saturating_sub(ROWS).max(1);
    let scale = grid.scale(width, height);
    let first_cell = match grid.jobs.get(grid.row) {
        Some(job) => {
            let cells = job.cells.len().div_ceil(scale.nodes);
            first_shown(grid.column / scale.nodes, cells, width)
        }
        None => 0,
    };
    let groups = grid.jobs.len().div_ceil(scale.jobs);
    let first = first_shown(grid.row / scale.jobs, groups, height);
    let mut lines = vec![heading(state, scale)];
    for group in (first..groups).take(height) {
        let cursor = (group == grid.row / scale.jobs).then_some(grid.column / scale.nodes);
        lines.push(group_line(state, group, (first_cell, width), scale, cursor));
    }
    lines.resize_with(height + 1, Line::default);
    lines.push(cursor_line(state, scale));
    lines
}

fn heading(state: &State, scale: Scale) -> Line<'static> {
    let grid = &state.grid;
    let cells = match scale {
        Scale { jobs: 1, nodes: 1 } => "a task per cell".to_owned(),
        Scale { jobs: 1, nodes } => format!("{nodes} nodes per cell, the worst shows"),
        Scale { jobs, nodes } => format!("{jobs} jobs x {nodes} nodes per cell, the worst shows"),
    };
    let nodes = grid.levels.values().max().copied().unwrap_or(0);
    let sync = if grid.in_sync { "" } else { "  loading..." };
    let text = format!(
        "{:<NAME$} {cells}  {} x {nodes} = {}{sync}",
        "JOB",
        grid.jobs.len(),
        grid.cell_count()
    );
    Line::styled(text, state.theme.quiet)
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
