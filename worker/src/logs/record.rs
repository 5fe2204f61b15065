//! Records of a segment file: `length crc body`, both 32 bits little-endian, the crc of the body.
//!
//! A body is a source (who prints, as JSON) or a line. Every segment names its own sources, so
//! each file can be read alone.

use serde::{Deserialize, Serialize};

use bistro_common::Millis;
use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::log::{LineId, Stream};

const HEADER: usize = 8;
/// Longer than any record that is written: what claims more is not a record.
const BODY_MAX: usize = 1 << 20;

const KIND_SOURCE: u8 = 1;
const KIND_LINE: u8 = 2;

/// Who prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub attempt: AttemptId,
    pub attempt_no: u32,
    pub task: TaskName,
}

#[derive(Debug, PartialEq)]
pub enum Record<'a> {
    Source { source: u64, about: Source },
    Line(LineRecord<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LineRecord<'a> {
    pub id: LineId,
    pub source: u64,
    pub time_ms: Millis,
    pub stream: Stream,
    pub partial: bool,
    pub dropped: u64,
    pub text: &'a [u8],
}

pub fn write_source(out: &mut Vec<u8>, source: u64, about: &Source) {
    write(out, |body| {
        body.push(KIND_SOURCE);
        body.extend(source.to_le_bytes());
        let json = serde_json::to_vec(about).expect("names and ids are JSON");
        body.extend(json);
    });
}

pub fn write_line(out: &mut Vec<u8>, line: &LineRecord<'_>) {
    write(out, |body| {
        body.push(KIND_LINE);
        body.extend(line.source.to_le_bytes());
        body.extend(line.id.0.to_le_bytes());
        body.extend(line.time_ms.to_le_bytes());
        body.extend(line.dropped.to_le_bytes());
        let stream = Stream::ALL.iter().position(|&stream| stream == line.stream).unwrap_or(0);
        body.push(stream as u8);
        body.push(u8::from(line.partial));
        body.extend(line.text);
    });
}

fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEADER]);
    fill(out);
    let body = &out[start + HEADER..];
    let (length, crc) = (body.len() as u32, crc32fast::hash(body));
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// The records in `bytes`, up to the first that is torn or damaged.
pub struct Records<'a> {
    bytes: &'a [u8],
    /// Where the next record starts; after the last one: how far `bytes` are good.
    pub at: usize,
}

impl<'a> Records<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn body(&self) -> Option<&'a [u8]> {
        let header = self.bytes.get(self.at..self.at + HEADER)?;
        let length = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
        let crc = u32::from_le_bytes(header[4..].try_into().ok()?);
        let start = self.at + HEADER;
        let body = self.bytes.get(start..start.checked_add(length.min(BODY_MAX))?)?;
        (body.len() == length && crc32fast::hash(body) == crc).then_some(body)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let body = self.body()?;
        let record = parse(body)?;
        self.at += HEADER + body.len();
        Some(record)
    }
}

fn parse(body: &[u8]) -> Option<Record<'_>> {
    let (&kind, mut rest) = body.split_first()?;
    let source = take_u64(&mut rest)?;
    match kind {
        KIND_SOURCE => Some(Record::Source { source, about: serde_json::from_slice(rest).ok()? }),
        KIND_LINE => {
            let id = LineId(take_u64(&mut rest)?);
            let time_ms = take_u64(&mut rest)?;
            let dropped = take_u64(&mut rest)?;
            let (&[stream, partial], text) = rest.split_first_chunk()?;
            let stream = *Stream::ALL.get(usize::from(stream))?;
            let partial = partial != 0;
            Some(Record::Line(LineRecord { id, source, time_ms, stream, partial, dropped, text }))
        }
        _ => None,
    }
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_up_to_the_first_that_is_not_whole() {
        let about =
            Source { attempt: AttemptId::generate(), attempt_no: 2, task: TaskName::new("j", "n") };
        let line = LineRecord {
            id: LineId(7),
            source: 3,
            time_ms: 1,
            stream: Stream::Stderr,
            partial: true,
            dropped: 9,
            text: b"text\xff",
        };
        let mut bytes = Vec::new();
        write_source(&mut bytes, 3, &about);
        write_line(&mut bytes, &line);
        let whole = bytes.len();
        write_line(&mut bytes, &line);
        let mut records = Records::new(&bytes[..bytes.len() - 1]);
        assert_eq!(records.next(), Some(Record::Source { source: 3, about }));
        assert_eq!(records.next(), Some(Record::Line(line)));
        assert_eq!(records.next(), None);
        assert_eq!(records.at, whole);
        bytes[whole + HEADER + 3] ^= 1;
        assert_eq!(Records::new(&bytes).count(), 2);
        assert_eq!(Records::new(&[255; 64]).count(), 0);
    }
}
