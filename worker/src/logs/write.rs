//! The thread that writes segments, and keeps them within the budget.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::protocol::log::{LineId, Stream};

use super::record::{LineRecord, Record, Records, Source, write_line, write_source};
use super::{Lines, Message, Segment, Shared, Visible};

const SEGMENT_BYTES: u64 = 8 << 20;
/// One write takes what has come together, up to about so much.
const WRITE_BYTES: usize = 1 << 20;
/// A file of this name says that segments have been removed.
const REMOVED: &str = "removed";

/// What is in the directory. A torn end of the newest segment is cut off.
pub fn open(directory: &Path) -> std::io::Result<Visible> {
    std::fs::create_dir_all(directory)?;
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".log"));
        if let Some(first) = first.and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            let bytes = entry.metadata()?.len();
            segments.push(Segment { first: LineId(first), path: entry.path(), bytes });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    let mut last = LineId::MIN;
    if let Some(newest) = segments.last_mut() {
        let bytes = std::fs::read(&newest.path)?;
        let mut records = Records::new(&bytes);
        last = newest.first;
        for record in records.by_ref() {
            if let Record::Line(line) = record {
                last = line.id;
            }
        }
        newest.bytes = records.at as u64;
        OpenOptions::new().write(true).open(&newest.path)?.set_len(newest.bytes)?;
    }
    Ok(Visible { segments, last, removed: directory.join(REMOVED).exists() })
}

pub struct Writer {
    directory: PathBuf,
    budget_bytes: u64,
    shared: Shared,
    sources: HashMap<u64, Source>,
    /// Lines per source that could not be written, to be owned up to with the next that can.
    lost: HashMap<u64, u64>,
    last: LineId,
    /// The segment that grows; always the last of the visible ones.
    file: Option<File>,
    /// Sources that it names already.
    named: HashSet<u64>,
    buffer: Vec<u8>,
    /// Lines per source in the buffer.
    buffered: HashMap<u64, u64>,
    first_buffered: LineId,
}

impl Writer {
    pub fn new(directory: PathBuf, budget_bytes: u64, shared: Shared) -> Self {
        let last = shared.lock().last;
        Self {
            directory,
            // The growing segment must fit, or nothing could be kept.
            budget_bytes: budget_bytes.max(2 * SEGMENT_BYTES),
            shared,
            sources: HashMap::new(),
            lost: HashMap::new(),
            last,
            file: None,
            named: HashSet::new(),
            buffer: Vec::new(),
            buffered: HashMap::new(),
            first_buffered: LineId::MIN,
        }
    }

    pub fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.blocking_recv() {
            let mut ended = Vec::new();
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Begin { source, about } => drop(self.sources.insert(source, about)),
                    Message::Lines { source, time_ms, lines } => self.add(source, time_ms, &lines),
                    Message::End { source, visible } => ended.push((source, visible)),
                }
                let full = self.buffer.len() >= WRITE_BYTES;
                next = if full { None } else { messages.try_recv().ok() };
            }
            self.write();
            for (source, visible) in ended {
                self.end(source);
                // Nobody waits for an attempt whose task was dropped.
                let _ = visible.send(());
            }
        }
    }

    fn end(&mut self, source: u64) {
        let about = self.sources.remove(&source);
        if let (Some(lost), Some(about)) = (self.lost.remove(&source), about) {
            tracing::error!(task = %about.task, lost, "the last lines of a task's log are lost");
        }
    }

    fn add(&mut self, source: u64, time_ms: Millis, lines: &Lines) {
        if let Some(lost) = self.lost.remove(&source) {
            let text = format!("{lost} lines are lost: the log could not be written");
            self.add_line(source, time_ms, Stream::Statuses, text.as_bytes(), false, lost);
        }
        for (line, text) in lines.iter() {
            self.add_line(source, time_ms, line.stream, text, line.partial, line.dropped);
        }
    }

    fn add_line(
        &mut self,
        source: u64,
        time_ms: Millis,
        stream: Stream,
        text: &[u8],
        partial: bool,
        dropped: u64,
    ) {
        let Some(about) = self.sources.get(&source) else {
            return;
        };
        if self.named.insert(source) {
            write_source(&mut self.buffer, source, about);
        }
        let id = self.last.next().max(LineId::at(time_ms));
        let line = LineRecord { id, source, time_ms, stream, partial, dropped, text };
        write_line(&mut self.buffer, &line);
        if self.buffered.is_empty() {
            self.first_buffered = id;
        }
        *self.buffered.entry(source).or_default() += dropped.max(1);
        self.last = id;
    }

    fn write(&mut self) {
        if self.buffered.is_empty() {
            return;
        }
        if let Err(error) = self.try_write() {
            tracing::error!(%error, "task logs cannot be written; lines are lost");
            self.undo();
            for (source, lines) in self.buffered.drain() {
                *self.lost.entry(source).or_default() += lines;
            }
        }
        self.buffer.clear();
        self.buffered.clear();
    }

    fn try_write(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.directory.join(format!("{:016x}.log", self.first_buffered.0));
                let new =
                    OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
                let segment = Segment { first: self.first_buffered, path, bytes: 0 };
                self.shared.lock().segments.push(segment);
                none.insert(new)
            }
        };
        file.write_all(&self.buffer)?;
        let mut visible = self.shared.lock();
        visible.last = self.last;
        let grown = visible.segments.last_mut().expect("the growing segment is visible");
        grown.bytes += self.buffer.len() as u64;
        let full = grown.bytes >= SEGMENT_BYTES;
        drop(visible);
        self.shared.last.send_replace(self.last);
        if full {
            self.close();
            self.keep_budget();
        }
        Ok(())
    }

    /// Takes back what a failed write has left in the file; a file that cannot be mended is given
    /// up, and read no further than it was good.
    fn undo(&mut self) {
        self.named.clear();
        let mut visible = self.shared.lock();
        let Some(grown) = visible.segments.last().filter(|_| self.file.is_some()) else {
            return;
        };
        let mended = self.file.as_ref().is_some_and(|file| file.set_len(grown.bytes).is_ok());
        if mended && grown.bytes > 0 {
            return;
        }
        self.file = None;
        if grown.bytes == 0 && std::fs::remove_file(&grown.path).is_ok() {
            visible.segments.pop();
        }
    }

    fn close(&mut self) {
        self.file = None;
        self.named.clear();
    }

    fn keep_budget(&self) {
        let mut visible = self.shared.lock();
        let mut total: u64 = visible.segments.iter().map(|segment| segment.bytes).sum();
        let mut removed = 0;
        for segment in &visible.segments {
            if total <= self.budget_bytes {
                break;
            }
            total -= segment.bytes;
            removed += 1;
        }
        let old: Vec<Segment> = visible.segments.drain(..removed).collect();
        visible.removed |= removed > 0;
        drop(visible);
        if removed > 0
            && let Err(error) = File::create(self.directory.join(REMOVED))
        {
            tracing::warn!(%error, "it cannot be noted that task logs are removed");
        }
        for segment in old {
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(%error, path = %segment.path.display(), "a log stays");
            }
        }
    }
}
