//! `log.read.<w>`: pages of a worker's task logs.
//!
//! Following a log is reading ascending pages with `wait_ms`: the worker answers as soon as there
//! is a line, so nothing is pushed to consoles that are gone and no line can be skipped.

use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::Millis;
use crate::ids::AttemptId;

/// The most lines, and bytes of lines, in one page.
pub const PAGE_LINES_MAX: u32 = 5_000;
pub const PAGE_BYTES_MAX: usize = 512 * 1024;

/// The longest that a reader may ask a worker to wait for a first line.
pub const WAIT_MS_MAX: u64 = 20_000;

/// Position of a line in a worker's log: seconds since the epoch in the upper half, a counter in
/// the lower. Ordered by time, unique per worker. Opaque to clients.
///
/// On the wire it is a text of twenty digits: many languages cannot hold it as a number, and as a
/// text it sorts the same.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct LineId(pub u64);

impl From<LineId> for String {
    fn from(id: LineId) -> Self {
        format!("{:020}", id.0)
    }
}

impl TryFrom<String> for LineId {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl LineId {
    pub const MIN: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    /// The first id that a line of this time can have.
    pub fn at(time_ms: Millis) -> Self {
        Self((time_ms / 1_000) << 32)
    }

    pub fn seconds(self) -> u64 {
        self.0 >> 32
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// What the task wrote to its status file, and what happened to the attempt.
    Statuses,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Statuses];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Statuses => "statuses",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Lines at or after `from`, oldest first.
    Ascending,
    /// Lines at or before `from`, newest first.
    Descending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRead {
    pub v: u32,
    /// Empty: all streams.
    #[serde(default)]
    pub streams: Vec<Stream>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    pub from: LineId,
    pub direction: Direction,
    pub limit: u32,
    /// Only lines in which this regular expression is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Of the lines that are not filtered out otherwise, at most so many are tried against the
    /// regular expression. Absent: until the page is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_max: Option<u32>,
    /// Ascending only: wait so long for a first line.
    #[serde(default)]
    pub wait_ms: u64,
}

impl LogRead {
    /// A page of everything that there is; what is not wanted is left out by setting more.
    pub fn page(from: LineId, direction: Direction, limit: u32) -> Self {
        Self {
            v: VERSION,
            streams: Vec::new(),
            job: None,
            node: None,
            attempt: None,
            from,
            direction,
            limit,
            regex: None,
            tried_max: None,
            wait_ms: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogReadReply {
    pub v: u32,
    #[serde(default)]
    pub lines: Vec<LogLine>,
    /// Where the next page starts: lines beyond it were not looked at. None: there are no more.
    /// An ascending page always has one, since lines may yet come.
    pub next: Option<LineId>,
    /// There is nothing more in this direction, for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_end: bool,
    /// Older lines than this have been removed to stay within the disk budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_before: Option<LineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub id: LineId,
    pub time_ms: Millis,
    pub stream: Stream,
    pub job: String,
    pub node: String,
    pub attempt_no: u32,
    /// Without its newline; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The line was cut, or had no newline at its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// So many lines were not kept here. `text` says why.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

/// Pages of several workers as one: the lines in order, and where the next page starts. As far as
/// one worker has not shown all its lines, those of others beyond that are left for the next page.
pub fn merge(pages: Vec<LogReadReply>, direction: Direction) -> (Vec<LogLine>, Option<LineId>) {
    let unfinished = pages.iter().filter(|page| !page.at_end).filter_map(|page| page.next);
    let next = match direction {
        Direction::Ascending => unfinished.min(),
        Direction::Descending => unfinished.max(),
    };
    let is_before = |line: &LogLine| match (direction, next) {
        (_, None) => true,
        (Direction::Ascending, Some(next)) => line.id < next,
        (Direction::Descending, Some(next)) => line.id > next,
    };
    let lines = pages.into_iter().flat_map(|page| page.lines);
    let mut lines: Vec<LogLine> = lines.filter(is_before).collect();
    lines.sort_by_key(|line| line.id);
    if direction == Direction::Descending {
        lines.reverse();
    }
    (lines, next)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
