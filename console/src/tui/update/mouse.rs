//! The mouse, where it is wanted: it scrolls, and puts the cursor somewhere. It confirms nothing.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::navigate::go;
use super::press::{move_by, on_command};
use crate::tui::keys::Key;
use crate::tui::list::{List, Row};
use crate::tui::state::{State, View};
use crate::tui::view::{BODY_TOP, GRID_LEFT, LIST_HEAD, TABS_ROW, grid_at, tab_at};

/// Lines per turn of the wheel.
const WHEEL: i64 = 3;

pub fn on_mouse(state: &mut State, event: MouseEvent) {
    // What lies over a view is for keys.
    if state.confirm.is_some() || state.prompt.is_some() || state.palette.is_some() {
        return;
    }
    if state.help.take().is_some() {
        return;
    }
    match event.kind {
        MouseEventKind::ScrollUp => move_by(state, -WHEEL),
        MouseEventKind::ScrollDown => move_by(state, WHEEL),
        MouseEventKind::Down(MouseButton::Left) => press(state, event.column, event.row),
        _ => {}
    }
}

fn press(state: &mut State, x: u16, y: u16) {
    if y == TABS_ROW {
        if let Some(view) = tab_at(state, x) {
            go(state, view);
        }
        return;
    }
    let Some(line) = usize::from(y).checked_sub(usize::from(BODY_TOP)) else { return };
    let again = match state.view {
        View::Jobs => choose(&mut state.jobs, line, state.size.1),
        View::Nodes => choose(&mut state.nodes, line, state.size.1),
        View::Workers => choose(&mut state.workers, line, state.size.1),
        View::Tasks => choose(&mut state.tasks, line, state.size.1),
        View::Grid => match usize::from(x).checked_sub(GRID_LEFT) {
            Some(column) => grid_at(state, line, column).is_some_and(|(row, node)| {
                let before = (state.grid.row, state.grid.column);
                state.grid.move_by(row as i64 - before.0 as i64, 0);
                state.grid.move_by(0, node as i64 - state.grid.column as i64);
                (state.grid.row, state.grid.column) == before
            }),
            None => false,
        },
        View::Job | View::Task | View::Logs | View::Events | View::Health => false,
    };
    // On what is under the cursor already, it is enter.
    if again {
        on_command(state, Key::Open);
    }
}

/// Puts the cursor on a line of a list; says whether it was there.
fn choose<T: Row>(list: &mut List<T>, line: usize, height: u16) -> bool {
    if !list.loaded {
        return false;
    }
    let rows = usize::from(height).saturating_sub(crate::tui::view::FRAME_ROWS + LIST_HEAD);
    let (first, shown) = list.shown(rows);
    let Some(at) = line.checked_sub(LIST_HEAD).filter(|at| *at < shown.len()) else { return false };
    let row = first + at as u64;
    let again = row == list.cursor && !list.strayed;
    list.move_by(row as i64 - list.cursor as i64);
    again
}
