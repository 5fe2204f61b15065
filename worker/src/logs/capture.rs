//! From bytes of a task's pipes to lines, within what one attempt may keep. No I/O, no clock.

use std::collections::VecDeque;
use std::time::Duration;

use bistro_common::protocol::log::Stream;

use super::{Line, Lines};

/// Longer lines are cut into pieces (the original's limit).
const LINE_BYTES_MAX: usize = 65_000;
/// Of an attempt that prints more than the first, the first and the last so many bytes are kept.
const HEAD_BYTES_MAX: usize = 8 << 20;
const TAIL_BYTES_MAX: usize = 8 << 10;

/// The output of one attempt.
#[derive(Default)]
pub struct Capture {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    printed: usize,
    tail: Tail,
    dropped: u64,
}

impl Capture {
    /// Takes bytes of `Stdout` or `Stderr`; appends the lines that are complete. Returns how many
    /// lines there were.
    pub fn push(&mut self, stream: Stream, mut bytes: &[u8], out: &mut Lines) -> u32 {
        let mut rest = std::mem::take(self.partial(stream));
        let mut count = 0;
        loop {
            let room = LINE_BYTES_MAX - rest.len();
            let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(room + 1)]);
            match end {
                Some(end) if rest.is_empty() => self.keep(stream, &bytes[..end], false, out),
                Some(end) => {
                    rest.extend_from_slice(&bytes[..end]);
                    self.keep(stream, &rest, false, out);
                }
                None if bytes.len() > room => {
                    rest.extend_from_slice(&bytes[..room]);
                    self.keep(stream, &rest, true, out);
                }
                None => {
                    rest.extend_from_slice(bytes);
                    *self.partial(stream) = rest;
                    return count;
                }
            }
            bytes = &bytes[end.map_or(room, |end| end + 1)..];
            rest.clear();
            count += 1;
        }
    }

    /// Appends what is left when all is closed: last lines without an end, and after too much
    /// output the gap and the last lines.
    pub fn finish(mut self, out: &mut Lines) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.partial(stream));
            if !rest.is_empty() {
                self.keep(stream, &rest, true, out);
            }
        }
        if self.dropped > 0 {
            let text = format!("{} lines were dropped: the attempt printed too much", self.dropped);
            out.push_gap(&text, self.dropped);
        }
        out.bytes.extend(self.tail.bytes);
        out.lines.extend(self.tail.lines);
    }

    fn partial(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        }
    }

    fn keep(&mut self, stream: Stream, text: &[u8], partial: bool, out: &mut Lines) {
        if self.printed <= HEAD_BYTES_MAX {
            self.printed += text.len() + 1;
            out.push(stream, text, partial);
            return;
        }
        self.dropped += self.tail.push(stream, partial, text);
    }
}

/// The last lines, as [`Lines`] has them: a thousand tasks may have some.
#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    lines: VecDeque<Line>,
}

impl Tail {
    /// Returns how many lines had no place any more.
    fn push(&mut self, stream: Stream, partial: bool, text: &[u8]) -> u64 {
        let mut dropped = 0;
        while self.bytes_with(text) > TAIL_BYTES_MAX {
            let Some(first) = self.lines.pop_front() else { return dropped + 1 };
            self.bytes.drain(..first.bytes as usize);
            dropped += 1;
        }
        self.bytes.extend(text);
        self.lines.push_back(Line::new(stream, text, partial));
        dropped
    }

    fn bytes_with(&self, text: &[u8]) -> usize {
        self.bytes.len() + text.len() + (self.lines.len() + 1) * size_of::<Line>()
    }
}

/// How many lines an attempt may print before it has to wait (reference, section 7.7). Unused
/// lines add up, so a quiet task may print many at once later.
pub struct LineQuota {
    per_period: Option<u32>,
    left: i64,
    periods: u128,
}

impl LineQuota {
    pub const PERIOD: Duration = Duration::from_millis(10);

    pub fn new(per_period: Option<u32>) -> Self {
        Self { per_period, left: i64::from(per_period.unwrap_or(0)), periods: 0 }
    }

    pub fn take(&mut self, lines: u32) {
        self.left = self.left.saturating_sub(i64::from(lines));
    }

    /// May it print, `elapsed` after its start?
    pub fn is_open(&mut self, elapsed: Duration) -> bool {
        let Some(quota) = self.per_period else {
            return true;
        };
        let periods = elapsed.as_millis() / Self::PERIOD.as_millis();
        let earned = (periods - self.periods).saturating_mul(u128::from(quota));
        self.periods = periods;
        self.left = self.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX));
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &Lines) -> Vec<(Stream, String, bool)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        lines.iter().map(|(line, bytes, _)| (line.stream, text(bytes), line.partial)).collect()
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let (mut capture, mut out) = (Capture::default(), Lines::default());
            let chunks = text.chunks(size);
            let count: u32 = chunks.map(|c| capture.push(Stream::Stdout, c, &mut out)).sum();
            assert_eq!(count, 3);
            capture.finish(&mut out);
            let got = texts(&out);
            let want = [("one", false), ("", false), ("two", false), ("three", true)];
            let want: Vec<_> =
                want.map(|(text, cut)| (Stream::Stdout, text.to_owned(), cut)).into();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn long_lines_are_cut_and_nothing_is_lost() {
        let (mut capture, mut out) = (Capture::default(), Lines::default());
        let long = "x".repeat(LINE_BYTES_MAX);
        capture.push(Stream::Stderr, format!("{long}\n{long}yz\n").as_bytes(), &mut out);
        let got = texts(&out);
        assert_eq!(got.len(), 3);
        assert_eq!((&got[0].1, got[0].2), (&long, false));
        assert_eq!((&got[1].1, got[1].2), (&long, true));
        assert_eq!((got[2].1.as_str(), got[2].2), ("yz", false));
    }

    #[test]
    fn too_much_output_keeps_its_head_and_tail_and_counts_the_rest() {
        let (mut capture, mut out) = (Capture::default(), Lines::default());
        let total = 200_000u64;
        for number in 0..total {
            let line = format!("{number:0>99}\n");
            capture.push(Stream::Stdout, line.as_bytes(), &mut out);
        }
        capture.finish(&mut out);
        let dropped: u64 = out.iter().map(|(_, _, dropped)| dropped).sum();
        let kept = out.iter().filter(|(line, ..)| line.stream == Stream::Stdout).count() as u64;
        assert!(dropped > 0);
        assert_eq!(kept + dropped, total);
        let bytes: usize = out.iter().map(|(_, text, _)| text.len()).sum();
        assert!(bytes < HEAD_BYTES_MAX + TAIL_BYTES_MAX + 1_000, "{bytes}");
        let last = texts(&out).pop().unwrap().1;
        assert_eq!(last, format!("{:0>99}", total - 1));
    }

    #[test]
    fn a_quota_pauses_and_opens_again() {
        let mut quota = LineQuota::new(Some(2));
        assert!(quota.is_open(Duration::ZERO));
        quota.take(5);
        assert!(!quota.is_open(Duration::from_millis(9)));
        assert!(!quota.is_open(Duration::from_millis(10)));
        assert!(quota.is_open(Duration::from_millis(20)));
        let mut none = LineQuota::new(None);
        none.take(u32::MAX);
        assert!(none.is_open(Duration::ZERO));
    }
}
