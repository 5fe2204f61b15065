//! The grid of jobs and nodes: `grid` answers with its cells, page by page, and `view.grid` has the
//! changes since, coalesced, only while someone watches.
//!
//! A watcher subscribes first, then takes all pages, and applies every change that comes after the
//! first page, in order: one that a later page has already is overtaken by those that follow.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::api::TaskState;

/// How long a watcher counts as watching after its last `grid` request with `watch`.
pub const WATCH_MS: u64 = 15_000;
/// A page has at most so many cells, which take at most half a megabyte.
pub const PAGE_CELLS_MAX: usize = 750_000;
/// People can read runs: bits must be shorter by this.
const READABLE: usize = 16;
/// In front of cells that are packed as four bits each.
const BITS: char = '=';

/// `grid`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GridRequest {
    /// Keep [`GridDelta`]s coming for a while.
    #[serde(default)]
    pub watch: bool,
    /// The layout that the asker has followed every delta of: if it is still the same, no cells are
    /// wanted. 0: none.
    #[serde(default)]
    pub in_sync: u64,
    /// Where the page begins.
    #[serde(default)]
    pub from: GridPlace,
    /// A node: which cells are those of what is below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<String>,
}

/// A cell: numbers of a job, and of a node within that job's level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GridPlace {
    pub job: u32,
    pub node: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub layout: u64,
    /// The last delta that this page contains.
    pub seq: u64,
    /// How many jobs there are on all pages.
    pub total: u32,
    /// How many nodes there are, per level that has tasks. Their order is that of `nodes`.
    pub levels: BTreeMap<String, u32>,
    pub jobs: Vec<GridJob>,
    /// Where the next page begins; none after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<GridPlace>,
    /// Per level, the first of the nodes that `under` names and those below it, and how many they
    /// are. A node with several parents is below the first of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub below: BTreeMap<String, NodeSpan>,
}

/// Nodes of a level, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpan {
    pub first: u32,
    pub count: u32,
}

/// Cells of a job, from the page's beginning on or from its level's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridJob {
    pub job: String,
    pub level: String,
    /// One state per node. Run-length coded: count (if it is not one) and [`TaskState::glyph`], as
    /// in `12+3.>`. Or `=`, and then base64 without padding of four bits per state, the lower ones
    /// first: its place among [`TaskState::ALL`]. 15 fills the last byte up.
    pub cells: String,
}

impl GridJob {
    /// Packs states in the way that is clearly shorter.
    pub fn pack(states: &[TaskState]) -> String {
        let runs = pack_runs(states);
        if runs.len() <= states.len().div_ceil(2) * 4 / 3 + READABLE {
            return runs;
        }
        let nibble = |state: Option<&TaskState>| state.map_or(15, |&state| state as u8);
        let pairs = states.chunks(2);
        let bytes: Vec<u8> =
            pairs.map(|pair| nibble(pair.first()) | nibble(pair.get(1)) << 4).collect();
        format!("{BITS}{}", STANDARD_NO_PAD.encode(bytes))
    }

    /// The states of the job's cells; an error names what is not a cell. At most `max` cells, so
    /// that a short text cannot claim a lot of memory.
    pub fn unpack(&self, max: usize) -> Result<Vec<TaskState>, String> {
        match self.cells.strip_prefix(BITS) {
            Some(bits) => unpack_bits(bits, max),
            None => unpack_runs(&self.cells, max),
        }
    }
}

fn pack_runs(states: &[TaskState]) -> String {
    let mut cells = String::new();
    for run in states.chunk_by(|a, b| a == b) {
        if run.len() > 1 {
            cells.push_str(&run.len().to_string());
        }
        cells.push(run[0].glyph());
    }
    cells
}

fn unpack_runs(cells: &str, max: usize) -> Result<Vec<TaskState>, String> {
    let mut states = Vec::new();
    let mut count = 0usize;
    for c in cells.chars() {
        if let Some(digit) = c.to_digit(10) {
            count = count.saturating_mul(10).saturating_add(digit as usize);
            continue;
        }
        let state = TaskState::from_glyph(c).ok_or_else(|| format!("unknown cell {c:?}"))?;
        let run = count.max(1);
        if run > max - states.len() {
            return Err(format!("more than {max} cells"));
        }
        states.extend(std::iter::repeat_n(state, run));
        count = 0;
    }
    Ok(states)
}

fn unpack_bits(bits: &str, max: usize) -> Result<Vec<TaskState>, String> {
    let bytes = STANDARD_NO_PAD.decode(bits).map_err(|error| format!("cells: {error}"))?;
    let nibbles = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
    let states = nibbles.filter(|&nibble| nibble != 15).map(|nibble| {
        let state = TaskState::ALL.get(usize::from(nibble)).copied();
        state.ok_or_else(|| format!("unknown cell {nibble}"))
    });
    let states: Vec<TaskState> = states.collect::<Result<_, _>>()?;
    if states.len() > max { Err(format!("more than {max} cells")) } else { Ok(states) }
}

/// Changes since the delta before. A gap in `seq`, or another `layout`, means that the watcher must
/// take all pages again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridDelta {
    pub v: u32,
    /// Changes with every new config or node list: columns and rows are numbered anew.
    pub layout: u64,
    pub seq: u64,
    pub changes: Vec<CellChange>,
}

/// On the wire: `[job, node, glyph]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32, char)", into = "(u32, u32, char)")]
pub struct CellChange {
    pub at: GridPlace,
    pub state: TaskState,
}

impl From<CellChange> for (u32, u32, char) {
    fn from(CellChange { at, state }: CellChange) -> Self {
        (at.job, at.node, state.glyph())
    }
}

impl TryFrom<(u32, u32, char)> for CellChange {
    type Error = String;
    fn try_from((job, node, glyph): (u32, u32, char)) -> Result<Self, String> {
        let state =
            TaskState::from_glyph(glyph).ok_or_else(|| format!("unknown cell {glyph:?}"))?;
        Ok(Self { at: GridPlace { job, node }, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::*;

    fn job(cells: &str) -> GridJob {
        GridJob { job: String::new(), level: String::new(), cells: cells.to_owned() }
    }

    #[test]
    fn cells_are_packed_in_the_shorter_way_and_unpacked() {
        let states = [Done, Done, Done, CanRun, Running, Running];
        assert_eq!(GridJob::pack(&states), "3+.2>");
        assert_eq!(job("3+.2>").unpack(6).unwrap(), states);
        // Two bits of every state at most, and in the worst order.
        let mixed: Vec<TaskState> = (0..999).map(|n| TaskState::ALL[n * 7 % 9]).collect();
        let cells = GridJob::pack(&mixed);
        assert!(cells.starts_with('=') && cells.len() < 680, "{}", cells.len());
        assert_eq!(job(&cells).unpack(999).unwrap(), mixed);
        assert_eq!(GridJob::pack(&[]), "");
    }

    #[test]
    fn what_are_no_cells_is_refused() {
        assert!(job("3+.2>").unpack(5).is_err());
        assert!(job("99999999999999999999+").unpack(1_000).is_err());
        assert!(job("3!").unpack(9).is_err());
        assert!(job("=?").unpack(9).is_err());
        assert!(job("=AAAA").unpack(5).is_err(), "six cells");
        assert!(job("=zMw").unpack(9).is_err(), "12 is no state");
    }
}
