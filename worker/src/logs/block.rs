//! Blocks, of which segment files are made: lines, and who printed them.
//!
//! `magic, bytes of head, of body, of body as it is stored, crc | head | body`, numbers of 32 bits
//! little-endian. The head says which ids and sources there are, so that what nobody looks for is
//! not unpacked. The body is a table with a row per line, and then the text of all lines, each with
//! a newline after it: a search runs over all of them at once. A body is packed with LZ4 if that
//! makes it smaller. What is read may be damaged; then it is no block.

use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::log::{LineId, Stream};
use bistro_common::varint::{put, take};

use super::Source;

const MAGIC: u32 = u32::from_le_bytes(*b"bLK1");
pub const HEADER: usize = 20;
/// More than any block that is written: what claims more is none.
pub const BLOCK_BYTES_MAX: usize = 256 << 20;

const PARTIAL: u8 = 4;
const GAP: u8 = 8;

/// What is known of a line beside its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub id: LineId,
    pub time_ms: Millis,
    pub stream: Stream,
    pub partial: bool,
    pub dropped: u64,
}

/// A block that grows.
#[derive(Default)]
pub struct Builder {
    table: Vec<u8>,
    text: Vec<u8>,
    sources: Vec<Arc<Source>>,
    numbers: FxHashMap<AttemptId, u32>,
    first: LineId,
    last: LineId,
    last_ms: Millis,
    lines: u64,
    gaps: u64,
}

impl Builder {
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    pub fn bytes(&self) -> usize {
        self.table.len() + self.text.len()
    }

    pub fn ids(&self) -> (LineId, LineId) {
        (self.first, self.last)
    }

    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// The number of a source in this block.
    pub fn source(&mut self, about: &Arc<Source>) -> u32 {
        *self.numbers.entry(about.attempt).or_insert_with(|| {
            self.sources.push(about.clone());
            self.sources.len() as u32 - 1
        })
    }

    /// Ids grow.
    pub fn push(&mut self, source: u32, line: &Line, text: &[u8]) {
        if self.lines == 0 {
            (self.first, self.last) = (line.id, line.id);
        }
        let stream = Stream::ALL.iter().position(|&stream| stream == line.stream).unwrap_or(0);
        let partial = if line.partial { PARTIAL } else { 0 };
        let gap = if line.dropped > 0 { GAP } else { 0 };
        self.table.push(stream as u8 | partial | gap);
        put(&mut self.table, line.id.0.wrapping_sub(self.last.0));
        // The clock may go back.
        put(&mut self.table, line.time_ms.wrapping_sub(self.last_ms).rotate_left(1));
        put(&mut self.table, source.into());
        if line.dropped > 0 {
            put(&mut self.table, line.dropped);
            self.gaps += 1;
        }
        put(&mut self.table, text.len() as u64);
        self.text.extend_from_slice(text);
        self.text.push(b'\n');
        (self.last, self.last_ms) = (line.id, line.time_ms);
        self.lines += 1;
    }

    /// Appends the block, packed if that is wanted and worth it; begins anew.
    pub fn finish(&mut self, pack: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; HEADER]);
        out.extend(self.first.0.to_le_bytes());
        out.extend(self.last.0.to_le_bytes());
        for number in [self.lines, self.gaps, self.table.len() as u64, self.sources.len() as u64] {
            put(out, number);
        }
        for Source { attempt, attempt_no, task } in self.sources.iter().map(|about| &**about) {
            out.extend(attempt.0.as_bytes());
            put(out, (*attempt_no).into());
            for name in [&task.job, &task.node] {
                put(out, name.len() as u64);
                out.extend(name.as_bytes());
            }
        }
        let head_bytes = out.len() - start - HEADER;
        let body_bytes = self.bytes();
        self.table.append(&mut self.text);
        let packed = pack.then(|| lz4_flex::block::compress(&self.table));
        match packed.filter(|packed| packed.len() < body_bytes) {
            Some(packed) => out.extend(packed),
            None => out.extend(&self.table),
        }
        let stored_bytes = out.len() - start - HEADER - head_bytes;
        let (header, rest) = out[start..].split_at_mut(HEADER);
        let sizes = [head_bytes, body_bytes, stored_bytes].map(|bytes| bytes as u32);
        let crc = crc(sizes, rest);
        let numbers = [MAGIC, sizes[0], sizes[1], sizes[2], crc];
        for (place, number) in header.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let (mut table, text) = (std::mem::take(&mut self.table), std::mem::take(&mut self.text));
        table.clear();
        *self = Self { table, text, ..Self::default() };
    }
}

fn crc(sizes: [u32; 3], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    sizes.iter().for_each(|size| hasher.update(&size.to_le_bytes()));
    hasher.update(rest);
    hasher.finalize()
}

/// A block as it was stored, found whole.
pub struct Stored<'a> {
    pub first: LineId,
    pub last: LineId,
    /// Lines that stand for others.
    pub gaps: u64,
    pub sources: Vec<Arc<Source>>,
    lines: u64,
    table_bytes: usize,
    body_bytes: usize,
    body: &'a [u8],
    /// From the magic on.
    pub bytes: usize,
}

impl<'a> Stored<'a> {
    /// The block at the start of `bytes`; `None` if there is none, or not all of it.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let sizes = [number(4), number(8), number(12)];
        let [head_bytes, body_bytes, stored_bytes] = sizes.map(|size| size as usize);
        if number(0) != MAGIC || body_bytes > BLOCK_BYTES_MAX {
            return None;
        }
        let rest = rest.get(..head_bytes.checked_add(stored_bytes)?)?;
        if crc(sizes, rest) != number(16) {
            return None;
        }
        let (mut head, body) = rest.split_at(head_bytes);
        let (first, last) = (LineId(take_u64(&mut head)?), LineId(take_u64(&mut head)?));
        let (lines, gaps) = (take(&mut head)?, take(&mut head)?);
        let (table_bytes, sources) = (take(&mut head)? as usize, take(&mut head)?);
        let sources = (0..sources).map(|_| take_source(&mut head)).collect::<Option<Vec<_>>>()?;
        let bytes = HEADER + rest.len();
        (table_bytes <= body_bytes).then_some(Self {
            first,
            last,
            gaps,
            sources,
            lines,
            table_bytes,
            body_bytes,
            body,
            bytes,
        })
    }

    /// The first block at or after a place, and where it is: what is damaged is passed over.
    pub fn find(bytes: &'a [u8], from: usize) -> Option<(usize, Self)> {
        let magic = MAGIC.to_le_bytes();
        let mut places = memchr::memmem::find_iter(bytes.get(from..)?, &magic);
        places.find_map(|at| Some((from + at, Self::parse(&bytes[from + at..])?)))
    }

    /// Unpacks the lines. `body`: what an earlier block has left, to be used again.
    pub fn open(self, mut body: Vec<u8>) -> Option<Block> {
        if self.body.len() == self.body_bytes {
            body.clear();
            body.extend_from_slice(self.body);
        } else {
            body.resize(self.body_bytes, 0);
            let unpacked = lz4_flex::block::decompress_into(self.body, &mut body).ok()?;
            if unpacked != self.body_bytes {
                return None;
            }
        }
        let Self { first, sources, lines, table_bytes, gaps, .. } = self;
        Some(Block { first, sources, lines, gaps, table_bytes, body })
    }
}

/// A block's lines.
pub struct Block {
    pub sources: Vec<Arc<Source>>,
    pub gaps: u64,
    first: LineId,
    lines: u64,
    table_bytes: usize,
    /// The table and the text.
    pub body: Vec<u8>,
}

/// A line and where it is.
pub struct Row {
    pub line: Line,
    pub source: u32,
    /// In the block's text, without its newline.
    pub at: Range<usize>,
}

impl Block {
    pub fn text(&self) -> &[u8] {
        &self.body[self.table_bytes..]
    }

    /// All rows, or as many as the table has.
    pub fn rows(&self) -> Vec<Row> {
        let mut table = &self.body[..self.table_bytes];
        let mut rows: Vec<Row> = Vec::with_capacity((self.lines as usize).min(table.len() / 5));
        let (mut id, mut time_ms, mut start) = (self.first.0, 0u64, 0usize);
        let text_bytes = self.text().len();
        let mut row = || {
            let (&flags, rest) = table.split_first()?;
            table = rest;
            id = id.wrapping_add(take(&mut table)?);
            time_ms = time_ms.wrapping_add(take(&mut table)?.rotate_right(1));
            let source = u32::try_from(take(&mut table)?).ok()?;
            let dropped = if flags & GAP != 0 { take(&mut table)? } else { 0 };
            let end = start.checked_add(usize::try_from(take(&mut table)?).ok()?)?;
            let stream = *Stream::ALL.get(usize::from(flags & 3))?;
            if end >= text_bytes || source as usize >= self.sources.len() {
                return None;
            }
            let partial = flags & PARTIAL != 0;
            let line = Line { id: LineId(id), time_ms, stream, partial, dropped };
            let at = start..end;
            start = end + 1;
            Some(Row { line, source, at })
        };
        rows.extend(std::iter::from_fn(&mut row));
        rows
    }
}

fn take_source(head: &mut &[u8]) -> Option<Arc<Source>> {
    let (attempt, rest) = head.split_first_chunk()?;
    *head = rest;
    let attempt_no = u32::try_from(take(head)?).ok()?;
    let mut name = || {
        let bytes = usize::try_from(take(head)?).ok()?;
        let (name, rest) = head.split_at_checked(bytes)?;
        *head = rest;
        std::str::from_utf8(name).ok()
    };
    let task = TaskName::new(name()?, name()?);
    Some(Arc::new(Source { attempt: AttemptId(Uuid::from_bytes(*attempt)), attempt_no, task }))
}

pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn about(node: &str) -> Arc<Source> {
        let task = TaskName::new("job", node);
        Arc::new(Source { attempt: AttemptId::generate(), attempt_no: 3, task })
    }

    fn line(id: u64, time_ms: u64, number: usize, dropped: u64) -> Line {
        let stream = Stream::ALL[number % 3];
        Line { id: LineId(id), time_ms, stream, partial: number % 2 == 1, dropped }
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(
            given in prop::collection::vec(
                (1u64..1 << 40, any::<u64>(), 0usize..6, 0u64..3, prop::collection::vec(any::<u8>(), 0..40)),
                1..60,
            ),
            pack in any::<bool>(),
            wrong in any::<prop::sample::Index>(),
        ) {
            let sources = [about("a"), about("b")];
            let mut builder = Builder::default();
            let (mut id, mut want) = (0, Vec::new());
            for (step, time_ms, number, dropped, text) in given {
                id += step;
                let line = line(id, time_ms, number, dropped);
                let source = builder.source(&sources[number % 2]);
                builder.push(source, &line, &text);
                want.push((line, sources[number % 2].clone(), text));
            }
            let mut bytes = vec![7; 3];
            builder.finish(pack, &mut bytes);
            prop_assert!(builder.is_empty());
            let stored = Stored::parse(&bytes[3..]).unwrap();
            prop_assert_eq!(stored.bytes, bytes.len() - 3);
            prop_assert_eq!((stored.first, stored.last), (want[0].0.id, LineId(id)));
            let gaps = want.iter().filter(|(line, ..)| line.dropped > 0).count();
            prop_assert_eq!(stored.gaps, gaps as u64);
            let block = stored.open(vec![1; 100]).unwrap();
            let rows = block.rows();
            let got = rows.iter().map(|row| {
                let text = block.text()[row.at.clone()].to_vec();
                (row.line, block.sources[row.source as usize].clone(), text)
            });
            prop_assert_eq!(got.collect::<Vec<_>>(), want);
            let at = 3 + wrong.index(bytes.len() - 3);
            bytes[at] ^= 0x10;
            prop_assert!(Stored::parse(&bytes[3..]).is_none());
            prop_assert!(Stored::parse(&bytes[3..at]).is_none());
        }
    }
}
