//! The thread that writes segments, and keeps them within the budget.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::log::LineId;

use super::block::{Builder, Line};
use super::segment::{BlockAt, SEGMENT_BYTES, Segment};
use super::{Budget, Lines, Message, Print, Shared, Source, Visible};

/// One write takes what has come together, up to about so much.
const WRITE_BYTES: usize = 1 << 20;
/// After a write of less than so much, what comes within so long waits for the next one.
const GATHER_BYTES: usize = 64 << 10;
const GATHER: Duration = Duration::from_millis(2);
/// A file of this name says that segments have been removed.
const REMOVED: &str = "removed";

/// What is in the directory. A torn end of a segment is left out; what was being packed when the
/// worker ended is packed again, or was already.
pub fn open(directory: &Path) -> std::io::Result<Visible> {
    std::fs::create_dir_all(directory)?;
    let (mut packed, mut open) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("seg") => packed.push(path),
            Some("open") => open.push(path),
            Some("new") => std::fs::remove_file(path)?,
            // As builds before this one kept lines.
            Some("log") if is_hex(&path) => remove(&path),
            _ => {}
        }
    }
    let mut segments = Vec::new();
    for path in &packed {
        segments.push(Arc::new(Segment::load(path.clone())?));
    }
    for path in open {
        let segment = Segment::load(path)?;
        if segment.blocks.is_empty() || packed.contains(&segment.path.with_extension("seg")) {
            std::fs::remove_file(&segment.path)?;
        } else {
            segments.push(Arc::new(pack(segment)));
        }
    }
    segments.retain(|segment| !segment.blocks.is_empty());
    segments.sort_by_key(|segment| segment.first());
    let last = segments.iter().map(|segment| segment.last()).max().unwrap_or_default();
    Ok(Visible { segments, last, removed: directory.join(REMOVED).exists() })
}

fn is_hex(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 16 && u64::from_str_radix(name, 16).is_ok())
}

/// A segment that nobody reads yet, packed; or as it is, if that cannot be.
fn pack(segment: Segment) -> Segment {
    match segment.pack() {
        Ok(packed) => {
            remove(&segment.path);
            packed
        }
        Err(error) => {
            tracing::warn!(%error, path = %segment.path.display(), "a log is not packed");
            segment
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a log stays");
    }
}

pub struct Writer {
    directory: PathBuf,
    budget: Budget,
    shared: Shared,
    /// Lines that could not be written, to be owned up to with the next ones of their attempt.
    lost: HashMap<AttemptId, u64>,
    last: LineId,
    /// The segment that grows; always the last of the visible ones.
    file: Option<File>,
    block: Builder,
    /// Lines per source in the block, by the block's numbers.
    in_block: Vec<(AttemptId, u64)>,
    out: Vec<u8>,
}

impl Writer {
    pub fn new(directory: PathBuf, budget: Budget, shared: Shared) -> Self {
        let last = shared.lock().last;
        Self {
            directory,
            budget,
            shared,
            lost: HashMap::new(),
            last,
            file: None,
            block: Builder::default(),
            in_block: Vec::new(),
            out: Vec::new(),
        }
    }

    pub fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.blocking_recv() {
            let (mut ended, mut now) = (Vec::new(), None);
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Print(Print { source, time_ms, lines, visible }) => {
                        self.add(&source, time_ms, &lines);
                        ended.extend(visible.map(|visible| (source, visible)));
                    }
                    Message::Tidy { now: late } => now = Some(late),
                }
                let full = self.block.bytes() >= WRITE_BYTES;
                next = if full { None } else { messages.try_recv().ok() };
            }
            let little = self.block.bytes() < GATHER_BYTES;
            self.write();
            if let Some(now) = now {
                self.tidy(now);
            }
            for (source, visible) in ended {
                self.end(&source);
                // Nobody waits for an attempt whose task was dropped.
                let _ = visible.send(());
            }
            if little {
                std::thread::sleep(GATHER);
            }
        }
    }

    fn end(&mut self, source: &Source) {
        if let Some(lost) = self.lost.remove(&source.attempt) {
            tracing::error!(task = %source.task, lost, "the last lines of a task's log are lost");
        }
    }

    fn add(&mut self, source: &Arc<Source>, time_ms: Millis, lines: &Lines) {
        let lost = self.lost.remove(&source.attempt).unwrap_or(0);
        if lines.is_empty() && lost == 0 {
            return;
        }
        let number = self.block.source(source);
        let (mut id, mut count) = (self.last, 0);
        let mut push = |line: super::Line, text: &[u8], dropped: u64| {
            id = id.next().max(LineId::at(time_ms));
            count += dropped.max(1);
            let super::Line { stream, partial, .. } = line;
            self.block.push(number, &Line { id, time_ms, stream, partial, dropped }, text);
        };
        if lost > 0 {
            let mut gap = Lines::default();
            gap.push_gap(&format!("{lost} lines are lost: the log could not be written"), lost);
            gap.iter().for_each(|(line, text, dropped)| push(line, text, dropped));
        }
        lines.iter().for_each(|(line, text, dropped)| push(line, text, dropped));
        self.last = id;
        match self.in_block.get_mut(number as usize) {
            Some((_, lines)) => *lines += count,
            None => self.in_block.push((source.attempt, count)),
        }
    }

    fn write(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let (first, last) = self.block.ids();
        self.out.clear();
        self.block.finish(false, &mut self.out);
        if let Err(error) = self.try_write(first, last) {
            tracing::error!(%error, "task logs cannot be written; lines are lost");
            self.undo();
            for (attempt, lines) in &self.in_block {
                *self.lost.entry(*attempt).or_default() += lines;
            }
        }
        self.in_block.clear();
    }

    fn try_write(&mut self, first: LineId, last: LineId) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let (segment, file) = Segment::create(&self.directory, first)?;
                self.shared.lock().segments.push(Arc::new(segment));
                none.insert(file)
            }
        };
        file.write_all(&self.out)?;
        let mut visible = self.shared.lock();
        visible.last = last;
        let grown = visible.segments.last_mut().expect("the growing segment is visible");
        let grown = Arc::make_mut(grown);
        let bytes = self.out.len() as u32;
        grown.blocks.push(BlockAt { at: grown.bytes, bytes, first, last });
        grown.bytes += u64::from(bytes);
        let full = grown.is_full();
        drop(visible);
        self.shared.last.send_replace(last);
        if full {
            self.close();
            self.keep_budget(None);
        }
        Ok(())
    }

    /// Takes back what a failed write has left in the file; a file that cannot be mended is given
    /// up, and read no further than it was good.
    fn undo(&mut self) {
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

    /// Packs the growing segment; the next write begins another.
    fn close(&mut self) {
        self.file = None;
        let Some(grown) = self.shared.lock().segments.last().cloned() else {
            return;
        };
        let open = grown.path.clone();
        match grown.pack() {
            Ok(packed) => {
                let mut visible = self.shared.lock();
                visible.segments.pop();
                // Damage may have left nothing.
                match packed.blocks.is_empty() {
                    true => remove(&packed.path),
                    false => visible.segments.push(Arc::new(packed)),
                }
                drop(visible);
                remove(&open);
            }
            Err(error) => {
                tracing::warn!(%error, path = %open.display(), "a log is not packed");
            }
        }
    }

    fn tidy(&mut self, now: Millis) {
        let age_ms = u64::try_from(self.budget.age.as_millis()).unwrap_or(u64::MAX);
        let before = |age_ms: u64| LineId::at(now.saturating_sub(age_ms));
        let growing_since = self.shared.lock().segments.last().map(|segment| segment.first());
        // What an idle worker has printed grows old, too.
        if self.file.is_some() && growing_since.is_some_and(|first| first < before(age_ms / 10)) {
            self.close();
        }
        self.keep_budget(Some(before(age_ms)));
    }

    /// Removes the oldest closed segments that are too much, or end before a line.
    fn keep_budget(&self, before: Option<LineId>) {
        let mut visible = self.shared.lock();
        let closed = visible.segments.len() - usize::from(self.file.is_some());
        let mut bytes: u64 = visible.segments[..closed].iter().map(|segment| segment.bytes).sum();
        // One grows, and one is there twice while it is packed.
        let budget = self.budget.bytes.saturating_sub(2 * SEGMENT_BYTES);
        let is_old = |segment: &Segment| before.is_some_and(|before| segment.last() < before);
        let old = visible.segments[..closed].iter().take_while(|segment| {
            let goes = bytes > budget || is_old(segment);
            bytes -= segment.bytes;
            goes
        });
        let removed = old.count();
        let old: Vec<_> = visible.segments.drain(..removed).collect();
        visible.removed |= removed > 0;
        drop(visible);
        if removed > 0
            && let Err(error) = File::create(self.directory.join(REMOVED))
        {
            tracing::warn!(%error, "it cannot be noted that task logs are removed");
        }
        old.iter().for_each(|segment| remove(&segment.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Logs;
    use bistro_common::ids::TaskName;
    use bistro_common::protocol::log::{Direction, LogRead, Stream};

    const BUDGET: Budget = Budget { bytes: 1 << 30, age: Duration::from_secs(1_000) };
    /// More than a segment.
    const LINES: usize = 300_000;

    fn source(node: &str) -> Source {
        let task = TaskName::new("job", node);
        Source { attempt: AttemptId::generate(), attempt_no: 1, task }
    }

    fn text(number: usize) -> String {
        format!("{number:0>70}")
    }

    /// Prints all lines, a thousand a second, and then one of another task.
    async fn fill(directory: &Path) -> Logs {
        let logs = Logs::open(directory.to_owned(), BUDGET).unwrap();
        let printer = logs.printer(source("a"));
        for thousand in 0..LINES / 1_000 {
            let mut lines = Lines::default();
            for number in 0..1_000 {
                let text = text(thousand * 1_000 + number);
                lines.push(Stream::Stdout, text.as_bytes(), false);
            }
            printer.print(thousand as u64 * 1_000, lines).await;
        }
        printer.end(LINES as u64, Lines::default()).await;
        let other = logs.printer(source("b"));
        let mut lines = Lines::default();
        lines.push(Stream::Stdout, b"of b", false);
        other.print(LINES as u64, lines).await;
        other.end(1_000, Lines::default()).await;
        logs
    }

    fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
        let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|of| of == extension)).collect()
    }

    /// The texts of everything, page by page.
    fn all(logs: &Logs, direction: Direction) -> Vec<String> {
        let mut from = match direction {
            Direction::Ascending => LineId::MIN,
            Direction::Descending => LineId::MAX,
        };
        let mut texts = Vec::new();
        loop {
            let page = logs.read(&LogRead::page(from, direction, 5_000));
            assert_eq!(page.error, None);
            texts.extend(page.lines.into_iter().map(|line| line.text));
            match page.next.filter(|_| !page.at_end) {
                Some(next) => from = next,
                None => return texts,
            }
        }
    }

    #[tokio::test]
    async fn packed_segments_are_smaller_and_nothing_is_missing_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let logs = fill(directory.path()).await;
        let packed = files(directory.path(), "seg");
        assert!(!packed.is_empty());
        let bytes: u64 = packed.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(bytes < SEGMENT_BYTES / 2, "{bytes}");
        let mut want: Vec<String> = (0..LINES).map(text).chain(["of b".to_owned()]).collect();
        assert!(all(&logs, Direction::Ascending) == want);
        let of_b = LogRead {
            node: Some("b".to_owned()),
            ..LogRead::page(LineId::MAX, Direction::Descending, 10)
        };
        assert_eq!(logs.read(&of_b).lines.len(), 1);
        drop(logs);
        // It has ended while it packed: both are there, or a part of the new one.
        let unpacked = packed[0].with_extension("open");
        std::fs::copy(&packed[0], &unpacked).unwrap();
        std::fs::write(packed[0].with_extension("new"), "part").unwrap();
        let logs = Logs::open(directory.path().to_owned(), BUDGET).unwrap();
        assert!(
            files(directory.path(), "open").is_empty() && files(directory.path(), "new").is_empty()
        );
        want.reverse();
        assert!(all(&logs, Direction::Descending) == want);
    }

    #[tokio::test]
    async fn damage_costs_the_block_that_it_is_in() {
        let directory = tempfile::tempdir().unwrap();
        drop(fill(directory.path()).await);
        let mut packed = files(directory.path(), "seg");
        packed.sort();
        let mut bytes = std::fs::read(&packed[0]).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&packed[0], bytes).unwrap();
        let logs = Logs::open(directory.path().to_owned(), BUDGET).unwrap();
        let page = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 1));
        assert!(page.error.is_some_and(|error| error.contains("is damaged at byte 0")));
        assert!(page.lines[0].text > text(0) && page.lines[0].text < text(20_000));
    }

    #[tokio::test]
    async fn a_file_that_somebody_has_removed_is_said_and_read_past() {
        let directory = tempfile::tempdir().unwrap();
        let logs = fill(directory.path()).await;
        let mut packed = files(directory.path(), "seg");
        packed.sort();
        std::fs::remove_file(&packed[0]).unwrap();
        let page = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 1));
        assert!(page.error.is_some_and(|error| error.contains("cannot be read")));
        assert!(page.lines[0].text > text(0));
    }

    #[tokio::test]
    async fn damage_in_a_segment_that_was_not_packed_costs_no_more() {
        let directory = tempfile::tempdir().unwrap();
        drop(fill(directory.path()).await);
        files(directory.path(), "seg").iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let open = &files(directory.path(), "open")[0];
        let mut bytes = std::fs::read(open).unwrap();
        let before = Segment::load(open.clone()).unwrap().blocks.len();
        bytes[100] ^= 1;
        bytes.extend([7; 11]);
        std::fs::write(open, bytes).unwrap();
        assert_eq!(Segment::load(open.clone()).unwrap().blocks.len(), before - 1);
        let logs = Logs::open(directory.path().to_owned(), BUDGET).unwrap();
        let all = all(&logs, Direction::Ascending);
        assert_eq!(all.last().map(String::as_str), Some("of b"));
        assert!(all[0] > text(0) && all.is_sorted());
    }

    #[tokio::test]
    async fn what_is_too_old_goes_and_that_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let logs = fill(directory.path()).await;
        logs.tidy(LINES as u64 + 1_000_000).await;
        let after = logs.printer(source("c"));
        after.end(1_000, Lines::default()).await;
        // The growing segment was closed first, having grown old too; its last line is in time.
        let page = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 1));
        assert!(page.lines[0].text > text(0));
        assert_eq!(page.removed_before, Some(page.lines[0].id));
        logs.tidy(LINES as u64 + 2_000_000).await;
        logs.printer(source("c")).end(1_000, Lines::default()).await;
        assert!(all(&logs, Direction::Ascending).is_empty());
        assert!(
            files(directory.path(), "seg").is_empty() && files(directory.path(), "open").is_empty()
        );
    }
}
