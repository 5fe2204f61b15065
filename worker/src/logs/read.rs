//! Pages of lines, read from the segment files.

use regex::bytes::Regex;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use bistro_common::protocol::log::{
    Direction, LineId, LogLine, LogRead, LogReadReply, PAGE_BYTES_MAX, PAGE_LINES_MAX,
};
use bistro_common::protocol::{VERSION, encode};

use super::record::{LineRecord, Record, Records, Source};
use super::{Logs, Segment};

/// A page looks at no more than so much before it is returned, however few lines it has by then.
const LOOKED_AT_BYTES_MAX: u64 = 64 << 20;

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
        let regex = match request.regex.as_deref().map(Regex::new).transpose() {
            Ok(regex) => regex,
            Err(error) => {
                reply.error = Some(format!("the regular expression is not valid: {error}"));
                return reply;
            }
        };
        let (segments, last) = {
            let visible = self.shared.lock();
            let first = visible.segments.first().map(|segment| segment.first);
            reply.removed_before = first.filter(|_| visible.removed);
            (visible.segments.clone(), visible.last)
        };
        let limit = request.limit.clamp(1, PAGE_LINES_MAX) as usize;
        let mut page = Page { request, regex, limit, bytes: 0, looked_at: 0, tried: 0, reply };
        match request.direction {
            Direction::Ascending => page.ascend(&segments, last),
            Direction::Descending => page.descend(&segments),
        }
        page.reply
    }
}

struct Page<'a> {
    request: &'a LogRead,
    regex: Option<Regex>,
    limit: usize,
    bytes: usize,
    looked_at: u64,
    /// Lines that were tried against the regular expression.
    tried: u32,
    reply: LogReadReply,
}

impl Page<'_> {
    /// Is there room for a line of so many bytes? Always for one.
    fn has_room(&self, bytes: usize) -> bool {
        self.reply.lines.is_empty()
            || (self.reply.lines.len() < self.limit && self.bytes + bytes <= PAGE_BYTES_MAX)
    }

    fn ascend(&mut self, segments: &[Segment], last: LineId) {
        let from = self.request.from;
        let start = segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        for segment in &segments[start.min(segments.len())..] {
            if self.looked_at >= LOOKED_AT_BYTES_MAX {
                self.reply.next = Some(segment.first.max(from));
                return;
            }
            let found = self.find(segment);
            for (source, line) in found.lines().filter(|(_, line)| line.id >= from) {
                let id = line.id;
                if !self.take(source, line) {
                    self.reply.next = Some(id);
                    return;
                }
            }
        }
        self.reply.next = Some(last.next().max(from));
        self.reply.at_end = true;
    }

    fn descend(&mut self, segments: &[Segment]) {
        let from = self.request.from;
        let end = segments.partition_point(|segment| segment.first <= from);
        for segment in segments[..end].iter().rev() {
            let found = self.find(segment);
            for (source, line) in found.lines().rev().filter(|(_, line)| line.id <= from) {
                let id = line.id;
                if !self.take(source, line) {
                    self.reply.next = Some(id);
                    return;
                }
            }
            if self.looked_at >= LOOKED_AT_BYTES_MAX && segment.first > LineId::MIN {
                self.reply.next = Some(LineId(segment.first.0 - 1));
                return;
            }
        }
        self.reply.at_end = true;
    }

    fn find(&mut self, segment: &Segment) -> Found {
        self.looked_at += segment.bytes;
        let mut bytes = Vec::with_capacity(segment.bytes as usize);
        let read = File::open(&segment.path)
            .and_then(|file| file.take(segment.bytes).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            // Removed meanwhile, to stay within the budget.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.reply.error =
                    Some(format!("{} cannot be read: {error}", segment.path.display()));
            }
        }
        let found =
            Found::in_segment(bytes, |about| self.wants(about), |line| self.wants_line(line));
        if found.good_bytes < found.bytes.len() {
            let (file, at) = (segment.path.display(), found.good_bytes);
            self.reply.error =
                Some(format!("{file} is damaged at byte {at}; lines after it are lost"));
        }
        found
    }

    fn wants(&self, about: &Source) -> bool {
        let LogRead { job, node, attempt, .. } = self.request;
        job.as_ref().is_none_or(|job| **job == *about.task.job)
            && node.as_ref().is_none_or(|node| **node == *about.task.node)
            && attempt.is_none_or(|attempt| attempt == about.attempt)
    }

    fn wants_line(&self, line: &LineRecord<'_>) -> bool {
        let streams = &self.request.streams;
        // A gap is shown in every stream: what is missing may have been of it.
        (streams.is_empty() || streams.contains(&line.stream) || line.dropped > 0)
            && (self.request.tried_max.is_some() || self.passes(line))
    }

    fn passes(&self, line: &LineRecord<'_>) -> bool {
        self.regex.as_ref().is_none_or(|regex| line.dropped > 0 || regex.is_match(line.text))
    }

    /// Adds a line, if there is room for it as it is in a message. False: the page ends before it.
    fn take(&mut self, source: &Source, line: LineRecord<'_>) -> bool {
        if let Some(max) = self.request.tried_max {
            if self.tried >= max {
                return false;
            }
            self.tried += 1;
            if !self.passes(&line) {
                return true;
            }
        }
        let line = LogLine {
            id: line.id,
            time_ms: line.time_ms,
            stream: line.stream,
            job: source.task.job.to_string(),
            node: source.task.node.to_string(),
            attempt_no: source.attempt_no,
            text: String::from_utf8_lossy(line.text).into_owned(),
            partial: line.partial,
            dropped: line.dropped,
        };
        // One control character is six there.
        let bytes = encode(&line).len() + 1;
        let room = self.has_room(bytes);
        if room {
            self.bytes += bytes;
            self.reply.lines.push(line);
        }
        room
    }
}

/// The lines of a segment that are wanted, by where they are.
struct Found {
    bytes: Vec<u8>,
    good_bytes: usize,
    sources: HashMap<u64, Source>,
    positions: Vec<usize>,
}

impl Found {
    fn in_segment(
        bytes: Vec<u8>,
        wants: impl Fn(&Source) -> bool,
        wants_line: impl Fn(&LineRecord<'_>) -> bool,
    ) -> Self {
        let mut sources = HashMap::new();
        let mut positions = Vec::new();
        let mut records = Records::new(&bytes);
        loop {
            let at = records.at;
            match records.next() {
                Some(Record::Source { source, about }) if wants(&about) => {
                    sources.insert(source, about);
                }
                Some(Record::Line(line))
                    if sources.contains_key(&line.source) && wants_line(&line) =>
                {
                    positions.push(at);
                }
                Some(_) => {}
                None => break,
            }
        }
        let good_bytes = records.at;
        Self { bytes, good_bytes, sources, positions }
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = (&Source, LineRecord<'_>)> {
        self.positions.iter().filter_map(|&at| match Records::new(&self.bytes[at..]).next()? {
            Record::Line(line) => Some((self.sources.get(&line.source)?, line)),
            Record::Source { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Lines, Printer};
    use bistro_common::ids::{AttemptId, TaskName};
    use bistro_common::protocol::log::Stream;

    fn source(job: &str, node: &str) -> Source {
        let task = TaskName::new(job, node);
        Source { attempt: AttemptId::generate(), attempt_no: 1, task }
    }

    async fn print(printer: &Printer, time_ms: u64, stream: Stream, texts: &[&str]) {
        let mut lines = Lines::default();
        texts.iter().for_each(|text| lines.push(stream, text.as_bytes(), false, 0));
        printer.print(time_ms, lines).await;
    }

    fn texts(reply: &LogReadReply) -> Vec<&str> {
        assert_eq!(reply.error, None);
        reply.lines.iter().map(|line| line.text.as_str()).collect()
    }

    async fn filled(directory: &std::path::Path) -> Logs {
        let logs = Logs::open(directory.to_owned(), 1 << 30).unwrap();
        let (a, b) = (logs.begin(source("a", "n")).await, logs.begin(source("b", "n")).await);
        print(&a, 1_000, Stream::Stdout, &["a1", "a2"]).await;
        print(&b, 1_000, Stream::Stderr, &["b1"]).await;
        print(&a, 2_000, Stream::Stderr, &["a3"]).await;
        a.end().await;
        b.end().await;
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
        let logs = Logs::open(directory.path().to_owned(), 1 << 30).unwrap();
        let printer = logs.begin(source("c", "n")).await;
        print(&printer, 500, Stream::Stdout, &["c1"]).await;
        printer.end().await;
        let all = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 10));
        assert_eq!(texts(&all), ["a1", "a2", "b1", "a3", "c1"]);
        assert!(all.lines.is_sorted_by_key(|line| line.id));
    }

    #[tokio::test]
    async fn a_page_of_control_characters_fits_into_a_message_too() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned(), 1 << 30).unwrap();
        let printer = logs.begin(source("a", "n")).await;
        let zeros = "\0".repeat(65_000);
        print(&printer, 1_000, Stream::Stdout, &[&zeros, &zeros, &zeros, &zeros]).await;
        printer.end().await;
        let (mut from, mut count) = (LineId::MIN, 0);
        while count < 4 {
            let page = logs.read(&LogRead::page(from, Direction::Ascending, 100));
            assert!(encode(&page).len() <= bistro_common::protocol::MESSAGE_BYTES_MAX);
            assert!(!page.lines.is_empty());
            count += page.lines.len();
            from = page.next.unwrap();
        }
    }

    #[tokio::test]
    async fn the_budget_holds_and_what_was_removed_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned(), 0).unwrap();
        let printer = logs.begin(source("a", "n")).await;
        let text = "x".repeat(60_000);
        for _ in 0..1_000 {
            print(&printer, 1_000, Stream::Stdout, &[&text]).await;
        }
        printer.end().await;
        let files = std::fs::read_dir(directory.path()).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 32 << 20, "{bytes}");
        let page = logs.read(&LogRead::page(LineId::MIN, Direction::Ascending, 5_000));
        assert_eq!(page.error, None);
        assert_eq!(page.removed_before, Some(page.lines[0].id));
        assert!(page.lines.len() < 100, "a page has a size");
    }
}
