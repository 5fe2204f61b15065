//! Pages of lines, read from the segment files.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bistro_common::protocol::log::{
    Direction, LineId, LogLine, LogRead, LogReadReply, PAGE_BYTES_MAX, PAGE_LINES_MAX,
};
use bistro_common::protocol::{VERSION, encoded_len};

use super::block::{Block, Row};
use super::search::Search;
use super::segment::{BlockAt, Filter, Segment};
use super::{Logs, Source};

/// A page looks at no more than so much before it is returned, however few lines it has by then.
const LOOKED_AT_BYTES_MAX: usize = 64 << 20;

impl Logs {
    /// One page. Blocks on the disk.
    pub fn read(&self, request: &LogRead) -> LogReadReply {
        let mut reply = LogReadReply {
            v: VERSION,
            lines: Vec::new(),
            next: None,
            at_end: false,
            removed_before: None,
            error: None,
        };
        let search = match request.regex.as_deref().map(Search::new).transpose() {
            Ok(search) => search,
            Err(error) => {
                reply.error = Some(format!("the regular expression is not valid: {error}"));
                return reply;
            }
        };
        let (segments, last) = {
            let visible = self.shared.lock();
            // One that has just been made has no place in their order yet.
            let filled = visible.segments.iter().filter(|segment| !segment.blocks.is_empty());
            let segments: Vec<_> = filled.cloned().collect();
            let first = segments.first().map(|segment| segment.first());
            reply.removed_before = first.filter(|_| visible.removed);
            (segments, visible.last)
        };
        let page = Page {
            logs: self,
            request,
            search,
            keys: keys(request),
            limit: request.limit.clamp(1, PAGE_LINES_MAX) as usize,
            bytes: 0,
            looked_at: 0,
            tried: 0,
            buffer: Vec::new(),
            body: Vec::new(),
            reply,
        };
        page.read(&segments, last)
    }
}

impl Logs {
    fn has(&self, path: &Path) -> bool {
        self.shared.lock().segments.iter().any(|segment| segment.path == path)
    }
}

/// What a segment's filter is asked.
fn keys(request: &LogRead) -> Vec<u32> {
    let LogRead { job, node, attempt, .. } = request;
    let job = job.as_deref().map(Filter::job);
    let node = node.as_deref().map(Filter::node);
    let attempt = attempt.map(|attempt| Filter::attempt(attempt.0.as_bytes()));
    job.into_iter().chain(node).chain(attempt).collect()
}

struct Page<'a> {
    logs: &'a Logs,
    request: &'a LogRead,
    search: Option<Search>,
    keys: Vec<u32>,
    limit: usize,
    bytes: usize,
    looked_at: usize,
    /// Lines that were tried against the regular expression.
    tried: u32,
    /// A block as it lies in its file, and the last one unpacked.
    buffer: Vec<u8>,
    body: Vec<u8>,
    reply: LogReadReply,
}

/// The page ends before this line.
struct Full(LineId);

impl Page<'_> {
    fn read(mut self, segments: &[Arc<Segment>], last: LineId) -> LogReadReply {
        let (from, direction) = (self.request.from, self.request.direction);
        let ended = match direction {
            Direction::Ascending => {
                let start = segments.partition_point(|segment| segment.last() < from);
                segments[start..].iter().try_for_each(|segment| {
                    let start = segment.blocks.partition_point(|block| block.last < from);
                    self.look(segment, segment.blocks[start..].iter())
                })
            }
            Direction::Descending => {
                let end = segments.partition_point(|segment| segment.first() <= from);
                segments[..end].iter().rev().try_for_each(|segment| {
                    let end = segment.blocks.partition_point(|block| block.first <= from);
                    self.look(segment, segment.blocks[..end].iter().rev())
                })
            }
        };
        match (ended, direction) {
            (Err(Full(next)), _) => self.reply.next = Some(next),
            (Ok(()), Direction::Ascending) => {
                self.reply.next = Some(last.next().max(from));
                self.reply.at_end = true;
            }
            (Ok(()), Direction::Descending) => self.reply.at_end = true,
        }
        self.reply
    }

    /// Takes what is wanted of these blocks, in this order.
    fn look<'b>(
        &mut self,
        segment: &Segment,
        blocks: impl Iterator<Item = &'b BlockAt>,
    ) -> Result<(), Full> {
        let filter = segment.filter.as_ref();
        if filter.is_some_and(|filter| !self.keys.iter().all(|&key| filter.may_have(key))) {
            return Ok(());
        }
        let mut file = None;
        for at in blocks {
            // A block may begin before what is asked for; a page never goes back.
            let here = match self.request.direction {
                Direction::Ascending => at.first.max(self.request.from),
                Direction::Descending => at.last.min(self.request.from),
            };
            if self.looked_at >= LOOKED_AT_BYTES_MAX {
                return Err(Full(here));
            }
            let block = match self.load(segment, &mut file, at) {
                Ok(block) => block,
                // Packed or removed meanwhile: the next page sees what there is now.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && !self.logs.has(&segment.path) =>
                {
                    return Err(Full(here));
                }
                Err(error) => {
                    let path = segment.path.display();
                    self.reply.error = Some(format!("{path} cannot be read: {error}"));
                    continue;
                }
            };
            if let Some(block) = block {
                self.take_block(&block)?;
                self.body = block.body;
            }
        }
        Ok(())
    }

    /// A block, if there may be anything in it that is wanted.
    fn load(
        &mut self,
        segment: &Segment,
        file: &mut Option<File>,
        at: &BlockAt,
    ) -> std::io::Result<Option<Block>> {
        let file = match file {
            Some(file) => file,
            none => none.insert(File::open(&segment.path)?),
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let stored = Segment::stored(file, at, &mut buffer)?;
        self.looked_at += at.bytes as usize;
        let block = match stored {
            Some(stored) if !stored.sources.iter().any(|about| self.wants(about)) => None,
            Some(stored) => {
                let block = stored.open(std::mem::take(&mut self.body));
                self.looked_at += block.as_ref().map_or(0, |block| block.body.len());
                block
            }
            None => {
                let (path, at) = (segment.path.display(), at.at);
                self.reply.error = Some(format!("{path} is damaged at byte {at}; lines are lost"));
                None
            }
        };
        self.buffer = buffer;
        Ok(block)
    }

    fn take_block(&mut self, block: &Block) -> Result<(), Full> {
        let text = block.text();
        // With a number of lines to try, lines that do not match count, too.
        let search = self.search.as_ref().filter(|_| self.request.tried_max.is_none());
        if block.gaps == 0 && search.is_some_and(|search| !search.may_match(text)) {
            return Ok(());
        }
        let rows = block.rows();
        let wanted: Vec<bool> = block.sources.iter().map(|about| self.wants(about)).collect();
        let mut found: Vec<usize> = Vec::new();
        match search {
            Some(search) => {
                search.matches(text, &rows, |number| found.push(number));
                // A gap is shown whatever is looked for: what is missing may have been it.
                found.extend((0..rows.len()).filter(|&number| rows[number].line.dropped > 0));
                found.sort_unstable();
                found.dedup();
            }
            None => found.extend(0..rows.len()),
        }
        found.retain(|&number| {
            wanted[rows[number].source as usize] && self.wants_row(&rows[number])
        });
        let descending = self.request.direction == Direction::Descending;
        let mut take = |number: usize| {
            let row = &rows[number];
            self.take(&block.sources[row.source as usize], row, &text[row.at.clone()])
        };
        match descending {
            false => found.into_iter().try_for_each(&mut take),
            true => found.into_iter().rev().try_for_each(&mut take),
        }
    }

    fn wants(&self, about: &Source) -> bool {
        let LogRead { job, node, attempt, .. } = self.request;
        job.as_ref().is_none_or(|job| **job == *about.task.job)
            && node.as_ref().is_none_or(|node| **node == *about.task.node)
            && attempt.is_none_or(|attempt| attempt == about.attempt)
    }

    fn wants_row(&self, row: &Row) -> bool {
        let LogRead { streams, from, direction, .. } = self.request;
        let in_reach = match direction {
            Direction::Ascending => row.line.id >= *from,
            Direction::Descending => row.line.id <= *from,
        };
        // A gap is shown in every stream: what is missing may have been of it.
        in_reach
            && (streams.is_empty() || streams.contains(&row.line.stream) || row.line.dropped > 0)
    }

    /// Is there room for a line of so many bytes? Always for one.
    fn has_room(&self, bytes: usize) -> bool {
        self.reply.lines.is_empty()
            || (self.reply.lines.len() < self.limit && self.bytes + bytes <= PAGE_BYTES_MAX)
    }

    /// Adds a line, if there is room for it as it is in a message.
    fn take(&mut self, source: &Source, row: &Row, text: &[u8]) -> Result<(), Full> {
        let full = Err(Full(row.line.id));
        if let Some(max) = self.request.tried_max {
            if self.tried >= max {
                return full;
            }
            self.tried += 1;
            let matches = |search: &Search| row.line.dropped > 0 || search.is_match(text);
            if !self.search.as_ref().is_none_or(matches) {
                return Ok(());
            }
        }
        if !self.has_room(0) {
            return full;
        }
        let line = LogLine {
            id: row.line.id,
            time_ms: row.line.time_ms,
            stream: row.line.stream,
            job: source.task.job.to_string(),
            node: source.task.node.to_string(),
            attempt_no: source.attempt_no,
            text: String::from_utf8_lossy(text).into_owned(),
            partial: row.line.partial,
            dropped: row.line.dropped,
        };
        // One control character is six there.
        let bytes = encoded_len(&line) + 1;
        if !self.has_room(bytes) {
            return full;
        }
        self.bytes += bytes;
        self.reply.lines.push(line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Budget, Lines, Printer};
    use bistro_common::ids::{AttemptId, TaskName};
    use bistro_common::protocol::log::Stream;
    use std::time::Duration;

    const BUDGET: Budget = Budget { bytes: 1 << 30, age: Duration::from_secs(86_400) };

    fn source(job: &str, node: &str) -> Source {
        let task = TaskName::new(job, node);
        Source { attempt: AttemptId::generate(), attempt_no: 1, task }
    }

    async fn print(printer: &Printer, time_ms: u64, stream: Stream, texts: &[&str]) {
        let mut lines = Lines::default();
        texts.iter().for_each(|text| lines.push(stream, text.as_bytes(), false));
        printer.print(time_ms, lines).await;
    }

    fn texts(reply: &LogReadReply) -> Vec<&str> {
        assert_eq!(reply.error, None);
        reply.lines.iter().map(|line| line.text.as_str()).collect()
    }

    async fn filled(directory: &std::path::Path) -> Logs {
        let logs = Logs::open(directory.to_owned(), BUDGET).unwrap();
        let (a, b) = (logs.printer(source("a", "n")), logs.printer(source("b", "n")));
        print(&a, 1_000, Stream::Stdout, &["a1", "a2"]).await;
        print(&b, 1_000, Stream::Stderr, &["b1"]).await;
        print(&a, 2_000, Stream::Stderr, &["a3"]).await;
        a.end(1_000, Lines::default()).await;
        b.end(1_000, Lines::default()).await;
        logs
    }

    #[tokio::test]
    async fn pages_go_both_ways_and_meet() {
        let directory = tempfile::tempdir().unwrap();
        let logs = filled(directory.path()).await;
        let first = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 3));
        assert_eq!(texts(&first), ["a1", "a2", "b1"]);
        let rest = logs.read(&LogRead::page(first.next.unwrap(), Direction::Ascending, 3));
        assert_eq!(texts(&rest), ["a3"]);
        let none = logs.read(&LogRead::page(rest.next.unwrap(), Direction::Ascending, 3));
        assert_eq!((texts(&none), none.next), (vec![], rest.next));
        let last = logs.read(&LogRead::page(LineId::MAX, Direction::Descending, 3));
        assert_eq!(texts(&last), ["a3", "b1", "a2"]);
        let first = logs.read(&LogRead::page(last.next.unwrap(), Direction::Descending, 3));
        assert_eq!((texts(&first), first.next), (vec!["a1"], None));
    }

    #[tokio::test]
    async fn filters_are_applied_where_the_lines_are() {
        let directory = tempfile::tempdir().unwrap();
        let logs = filled(directory.path()).await;
        let all = LogRead::page(LineId::MIN, Direction::Ascending, 10);
        let of_job = LogRead { job: Some("b".to_owned()), ..all.clone() };
        assert_eq!(texts(&logs.read(&of_job)), ["b1"]);
        let of_stream = LogRead { streams: vec![Stream::Stderr], ..all.clone() };
        assert_eq!(texts(&logs.read(&of_stream)), ["b1", "a3"]);
        let matching = LogRead { regex: Some("^a[13]$".to_owned()), ..all.clone() };
        assert_eq!(texts(&logs.read(&matching)), ["a1", "a3"]);
        let later = LogRead { from: LineId::at(2_000), ..all.clone() };
        assert_eq!(texts(&logs.read(&later)), ["a3"]);
        let wrong = logs.read(&LogRead { regex: Some("(".to_owned()), ..all });
        assert!(wrong.error.is_some_and(|error| error.contains("regular expression")));
    }

    #[tokio::test]
    async fn a_torn_end_costs_nothing_before_it_and_ids_go_on() {
        let directory = tempfile::tempdir().unwrap();
        drop(filled(directory.path()).await);
        let path = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([7; 11]);
        std::fs::write(&path, bytes).unwrap();
        let logs = Logs::open(directory.path().to_owned(), BUDGET).unwrap();
        let printer = logs.printer(source("c", "n"));
        print(&printer, 500, Stream::Stdout, &["c1"]).await;
        printer.end(1_000, Lines::default()).await;
        let all = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 10));
        assert_eq!(texts(&all), ["a1", "a2", "b1", "a3", "c1"]);
        assert!(all.lines.is_sorted_by_key(|line| line.id));
    }

    #[tokio::test]
    async fn a_page_of_control_characters_fits_into_a_message_too() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned(), BUDGET).unwrap();
        let printer = logs.printer(source("a", "n"));
        let zeros = "\0".repeat(65_000);
        print(&printer, 1_000, Stream::Stdout, &[&zeros, &zeros, &zeros, &zeros]).await;
        printer.end(1_000, Lines::default()).await;
        let (mut from, mut count) = (LineId::MIN, 0);
        while count < 4 {
            let page = logs.read(&LogRead::page(from, Direction::Ascending, 100));
            assert!(encoded_len(&page) <= bistro_common::protocol::MESSAGE_BYTES_MAX);
            assert!(!page.lines.is_empty());
            count += page.lines.len();
            from = page.next.unwrap();
        }
    }

    #[tokio::test]
    async fn the_budget_holds_and_what_was_removed_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned(), Budget { bytes: 0, ..BUDGET }).unwrap();
        let printer = logs.printer(source("a", "n"));
        // Hardly smaller when it is packed.
        let mut number = 1u64;
        for _ in 0..1_000 {
            let mut text = String::new();
            while text.len() < 60_000 {
                number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                text.push_str(&format!("{number:016x}"));
            }
            print(&printer, 1_000, Stream::Stdout, &[&text]).await;
        }
        printer.end(1_000, Lines::default()).await;
        let files = std::fs::read_dir(directory.path()).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 32 << 20, "{bytes}");
        let page = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 5_000));
        assert_eq!(page.error, None);
        assert_eq!(page.removed_before, Some(page.lines[0].id));
        assert!(page.lines.len() < 100, "a page has a size");
    }
}
