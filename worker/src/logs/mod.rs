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
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Lines of one source, back to back.
#[derive(Debug, Default, PartialEq)]
pub struct Lines {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    stream: Stream,
    /// Where its text ends in `bytes`.
    end: usize,
    partial: bool,
    dropped: u64,
}

impl Lines {
    pub fn push(&mut self, stream: Stream, text: &[u8], partial: bool, dropped: u64) {
        self.bytes.extend_from_slice(text);
        self.lines.push(Line { stream, end: self.bytes.len(), partial, dropped });
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (Line, &[u8])> {
        let mut start = 0;
        self.lines.iter().map(move |line| {
            let text = &self.bytes[start..line.end];
            start = line.end;
            (*line, text)
        })
    }
}

enum Message {
    Lines {
        source: u64,
        time_ms: Millis,
        lines: Lines,
    },
    Begin {
        source: u64,
        about: Arc<Source>,
    },
    /// The last lines; answered when everything up to these can be read.
    End {
        source: u64,
        time_ms: Millis,
        lines: Lines,
        visible: oneshot::Sender<()>,
    },
    /// It is this late: what is too old goes.
    Tidy {
        now: Millis,
    },
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
    next_source: Arc<AtomicU64>,
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
        Ok(Self { messages, shared, next_source: Arc::new(AtomicU64::new(0)) })
    }

    /// A new source of lines: one attempt.
    pub async fn begin(&self, about: Source) -> Printer {
        let source = self.next_source.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Begin { source, about: Arc::new(about) }).await;
        Printer { logs: self.clone(), source }
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
    source: u64,
}

impl Room<'_> {
    pub fn print(self, time_ms: Millis, lines: Lines) {
        if !lines.is_empty() {
            self.permit.send(Message::Lines { source: self.source, time_ms, lines });
        }
    }
}

/// Where one attempt's lines go.
pub struct Printer {
    logs: Logs,
    source: u64,
}

impl Printer {
    /// Waits while the disk is behind. Whoever reads only when there is room holds the task up, and
    /// keeps nothing in memory.
    pub async fn room(&self) -> Room<'_> {
        let permit = self.logs.messages.reserve().await;
        Room { permit: permit.expect(THREAD_LIVES), source: self.source }
    }

    pub async fn print(&self, time_ms: Millis, lines: Lines) {
        self.room().await.print(time_ms, lines);
    }

    /// Prints the last lines; returns when everything printed can be read.
    pub async fn end(self, time_ms: Millis, lines: Lines) {
        let (visible, done) = oneshot::channel();
        self.logs.send(Message::End { source: self.source, time_ms, lines, visible }).await;
        done.await.expect("the log thread answers");
    }
}
