//! Task logs: lines in append-only segment files, read in pages by line id.
//!
//! One thread writes; what it has written it makes visible to readers at once. Lines wait in a
//! bounded queue, so a slow disk slows the tasks that print down rather than filling memory. What
//! cannot be kept is counted and shown as a gap. Segments are packed when they are full, and
//! removed, oldest first, to stay within the budget. Lines are not flushed to the disk one by one:
//! a crash of the host may cost the last ones, one of the worker those that it was about to write.

mod block;
mod capture;
mod read;
mod search;
mod segment;
mod serve;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::log::{LineId, Stream};

use segment::Segment;

pub use capture::{Capture, LineQuota};
pub use serve::serve;

/// Batches on their way to the disk.
const BATCHES_MAX: usize = 64;

const THREAD_LIVES: &str = "the log thread lives as long as its handles";

#[derive(Debug, thiserror::Error)]
#[error("the task logs in {directory} cannot be opened; check that it is a writable directory")]
pub struct LogsError {
    directory: PathBuf,
    #[source]
    source: std::io::Error,
}

/// What the logs may take on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub bytes: u64,
    /// Lines are kept for so long at most, give or take a tenth.
    pub age: Duration,
}

/// Who prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub attempt: AttemptId,
    pub attempt_no: u32,
    pub task: TaskName,
}

/// Lines of one source, back to back. Of short ones a task prints thousands at a time, so what is
/// known of each is kept small.
#[derive(Debug, Default, PartialEq)]
pub struct Lines {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Of those that stand for others: which, and for how many.
    gaps: Vec<(usize, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    /// Of its text, which is cut long before it has so many.
    bytes: u32,
    stream: Stream,
    partial: bool,
}

impl Line {
    fn new(stream: Stream, text: &[u8], partial: bool) -> Self {
        let bytes = u32::try_from(text.len()).expect("a line is cut long before");
        Self { bytes, stream, partial }
    }
}

impl Lines {
    pub fn push(&mut self, stream: Stream, text: &[u8], partial: bool) {
        self.bytes.extend_from_slice(text);
        self.lines.push(Line::new(stream, text, partial));
    }

    /// Says that so many lines are missing here.
    pub fn push_gap(&mut self, text: &str, dropped: u64) {
        self.gaps.push((self.lines.len(), dropped));
        self.push(Stream::Statuses, text.as_bytes(), false);
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Of all texts.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Each with its text, and for how many others it stands.
    fn iter(&self) -> impl Iterator<Item = (Line, &[u8], u64)> {
        let (mut rest, mut gaps) = (&*self.bytes, self.gaps.iter().peekable());
        self.lines.iter().enumerate().map(move |(number, line)| {
            let text;
            (text, rest) = rest.split_at(line.bytes as usize);
            let gap = gaps.next_if(|(at, _)| *at == number);
            (*line, text, gap.map_or(0, |(_, dropped)| *dropped))
        })
    }
}

enum Message {
    Print(Print),
    /// It is this late: what is too old goes.
    Tidy {
        now: Millis,
    },
}

struct Print {
    source: Arc<Source>,
    time_ms: Millis,
    lines: Lines,
    /// With the last lines; answered when everything up to these can be read.
    visible: Option<oneshot::Sender<()>>,
}

/// What readers may see. A file goes only after it has left this.
#[derive(Debug, Default)]
struct Visible {
    /// Oldest first. None is empty but one that has just been made.
    segments: Vec<Arc<Segment>>,
    last: LineId,
    /// Segments have been removed before the first one.
    removed: bool,
}

#[derive(Clone)]
struct Shared {
    visible: Arc<Mutex<Visible>>,
    /// The last line, for those who wait for more.
    last: watch::Sender<LineId>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Visible> {
        self.visible.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's log store. When the last handle is dropped, its thread ends.
#[derive(Clone)]
pub struct Logs {
    messages: mpsc::Sender<Message>,
    shared: Shared,
}

impl Logs {
    /// Opens or makes the store in a directory. What an interrupted write has left is cut off.
    pub fn open(directory: PathBuf, budget: Budget) -> Result<Self, LogsError> {
        let visible = write::open(&directory)
            .map_err(|source| LogsError { directory: directory.clone(), source })?;
        let last = watch::Sender::new(visible.last);
        let shared = Shared { visible: Arc::new(Mutex::new(visible)), last };
        let (messages, incoming) = mpsc::channel(BATCHES_MAX);
        let writer = write::Writer::new(directory, budget, shared.clone());
        std::thread::spawn(move || writer.run(incoming));
        Ok(Self { messages, shared })
    }

    /// For the lines of one attempt.
    pub fn printer(&self, source: Source) -> Printer {
        Printer { logs: self.clone(), source: Arc::new(source) }
    }

    /// To be called now and then.
    async fn tidy(&self, now: Millis) {
        self.send(Message::Tidy { now }).await;
    }

    async fn send(&self, message: Message) {
        self.messages.send(message).await.expect(THREAD_LIVES);
    }
}

/// For some lines of one attempt.
pub struct Room<'a> {
    permit: mpsc::Permit<'a, Message>,
    source: &'a Arc<Source>,
}

impl Room<'_> {
    pub fn print(self, time_ms: Millis, lines: Lines) {
        if !lines.is_empty() {
            let source = self.source.clone();
            self.permit.send(Message::Print(Print { source, time_ms, lines, visible: None }));
        }
    }
}

/// Where one attempt's lines go.
pub struct Printer {
    logs: Logs,
    source: Arc<Source>,
}

impl Printer {
    /// Waits while the disk is behind. Whoever reads only when there is room holds the task up, and
    /// keeps nothing in memory.
    pub async fn room(&self) -> Room<'_> {
        let permit = self.logs.messages.reserve().await;
        Room { permit: permit.expect(THREAD_LIVES), source: &self.source }
    }

    pub async fn print(&self, time_ms: Millis, lines: Lines) {
        self.room().await.print(time_ms, lines);
    }

    /// Prints the last lines; returns when everything printed can be read.
    pub async fn end(self, time_ms: Millis, lines: Lines) {
        let (visible, done) = oneshot::channel();
        let last = Print { source: self.source, time_ms, lines, visible: Some(visible) };
        self.logs.send(Message::Print(last)).await;
        done.await.expect("the log thread answers");
    }
}
