//! What the console was like when it was left, by cell: the place, the orders of lists, and how
//! lines are shown. In `~/.local/state/bistro/console.json`; nothing else depends on it, so what is
//! wrong with it is no reason not to start.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::route::Route;
use super::state::State;
use crate::client::contexts;

/// Cells that are remembered; who has more loses some.
const CELLS_MAX: usize = 100;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct File {
    cells: BTreeMap<String, Memory>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// A route as a text.
    place: String,
    /// By view.
    sorts: BTreeMap<String, String>,
    fold_lines: bool,
    hide_times: bool,
}

impl Memory {
    /// Of a cell, by what people call it.
    pub fn load(cell: &str) -> Self {
        let file = path().and_then(|path| std::fs::read(path).ok());
        let file: Option<File> = file.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        file.and_then(|mut file| file.cells.remove(cell)).unwrap_or_default()
    }

    pub fn save(self, cell: &str) -> anyhow::Result<()> {
        let Some(path) = path() else { return Ok(()) };
        // Another console may have written it meanwhile: the last one counts, cell by cell.
        let bytes = std::fs::read(&path).unwrap_or_default();
        let mut file: File = serde_json::from_slice(&bytes).unwrap_or_default();
        while file.cells.len() >= CELLS_MAX && !file.cells.contains_key(cell) {
            file.cells.pop_first();
        }
        file.cells.insert(cell.to_owned(), self);
        contexts::write_private(&path, &serde_json::to_vec_pretty(&file)?).with_context(|| {
            format!("what this console looked like is not kept in {}", path.display())
        })
    }

    pub fn of(state: &State) -> Self {
        let lists = [
            ("jobs", &state.jobs.query),
            ("nodes", &state.nodes.query),
            ("workers", &state.workers.query),
            ("tasks", &state.tasks.query),
        ];
        let sorted = lists.into_iter().filter(|(_, query)| !query.sort.is_empty());
        Self {
            place: state.route().to_string(),
            sorts: sorted.map(|(list, query)| (list.to_owned(), query.sort.clone())).collect(),
            fold_lines: state.logs.wrap,
            hide_times: !state.logs.times,
        }
    }

    /// Filters are not brought back, but for that of the place itself, where it is seen.
    pub fn recall(&self, state: &mut State) {
        let lists = [
            ("jobs", &mut state.jobs.query),
            ("nodes", &mut state.nodes.query),
            ("workers", &mut state.workers.query),
            ("tasks", &mut state.tasks.query),
        ];
        for (list, query) in lists {
            query.sort = self.sorts.get(list).cloned().unwrap_or_default();
        }
        (state.logs.wrap, state.logs.times) = (self.fold_lines, !self.hide_times);
        if let Ok(route) = self.place.parse::<Route>() {
            state.show(route);
        }
    }
}

fn path() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = of("XDG_STATE_HOME").or_else(|| Some(of("HOME")?.join(".local/state")))?;
    Some(state.join("bistro/console.json"))
}
