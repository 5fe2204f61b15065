//! Sets of small integers, many side by side: a set per column.
//!
//! Of 64 members each, the words of all columns lie together: what asks every column about one
//! member finds the answers in neighbouring memory. Above them one summary bit per word, so that a
//! search over an empty stretch of a million members looks at 250 words.

use smallvec::SmallVec;
use std::ops::Range;

const WORD: usize = 64;

/// Numbers of columns; as many as mostly share a member.
pub type Columns = SmallVec<[u32; 16]>;

#[derive(Debug, Default)]
pub struct BitMatrix {
    /// The word of members `64 w..` of column `c` is at `w * stride + c`.
    words: Vec<u64>,
    /// Bit `w % 64` of the summary word `w / 64` of a column is set iff its word `w` is not zero.
    summary: Vec<u64>,
    /// Members of each column.
    counts: Vec<u32>,
    /// How many there can be.
    members: usize,
    /// Words per column.
    len: usize,
    columns: usize,
    stride: usize,
}

/// A range of members, prepared for [`BitMatrix::any_in_span`].
pub struct Span {
    range: Range<usize>,
    /// If all of them are in one word: its row and their bits.
    within: Option<(usize, u64)>,
}

impl BitMatrix {
    /// No columns yet, and room for some; their members will be `0..members`.
    pub fn new(members: usize, columns: usize) -> Self {
        let mut matrix = Self { members, len: members.div_ceil(WORD), ..Self::default() };
        matrix.widen(columns);
        matrix
    }

    /// Adds an empty set; returns its column.
    pub fn add_column(&mut self) -> usize {
        if self.columns == self.stride {
            self.widen((self.stride * 2).max(1));
        }
        self.columns += 1;
        self.counts.push(0);
        self.columns - 1
    }

    fn widen(&mut self, stride: usize) {
        let old = self.stride;
        let wide = |words: &[u64], len: usize| {
            let mut wide = vec![0; len * stride];
            for row in 0..len {
                wide[row * stride..][..old].copy_from_slice(&words[row * old..][..old]);
            }
            wide
        };
        self.words = wide(&self.words, self.len);
        self.summary = wide(&self.summary, self.len.div_ceil(WORD));
        self.stride = stride;
    }

    /// The words of the first columns for a member.
    pub fn fetch(&self, member: usize) -> u64 {
        let row = member / WORD * self.stride;
        let word = |at: usize| self.words.get(at).copied().unwrap_or(0);
        word(row) ^ word(row + 8)
    }

    pub fn get(&self, column: usize, member: usize) -> bool {
        self.words[member / WORD * self.stride + column] >> (member % WORD) & 1 == 1
    }

    /// Returns whether the set has changed.
    pub fn set(&mut self, column: usize, member: usize, value: bool) -> bool {
        let at = member / WORD;
        let word = &mut self.words[at * self.stride + column];
        let bit = 1u64 << (member % WORD);
        if (*word & bit != 0) == value {
            return false;
        }
        let count = &mut self.counts[column];
        *count = if value { *count + 1 } else { *count - 1 };
        let before = std::mem::replace(word, *word ^ bit);
        if before == 0 || before == bit {
            self.summary[at / WORD * self.stride + column] ^= 1u64 << (at % WORD);
        }
        true
    }

    /// The same for one member of several columns; returns the columns that have changed.
    pub fn set_many(&mut self, columns: &[u32], member: usize, values: &[bool]) -> Columns {
        let (at, bit) = (member / WORD, 1u64 << (member % WORD));
        let words = &mut self.words[at * self.stride..][..self.stride];
        let summary = &mut self.summary[at / WORD * self.stride..][..self.stride];
        let mut changed = Columns::new();
        for (&number, &value) in columns.iter().zip(values) {
            let column = number as usize;
            let word = words[column];
            if (word & bit != 0) == value {
                continue;
            }
            words[column] = word ^ bit;
            if word == 0 || word == bit {
                summary[column] ^= 1u64 << (at % WORD);
            }
            let count = &mut self.counts[column];
            *count = if value { *count + 1 } else { *count - 1 };
            changed.push(number);
        }
        changed
    }

    /// Keeps the columns in which a member is not what is given.
    pub fn retain_others(&self, columns: &mut Columns, member: usize, value: bool) {
        let words = &self.words[member / WORD * self.stride..][..self.stride];
        columns.retain(|column| (words[*column as usize] >> (member % WORD) & 1 == 1) != value);
    }

    /// A range to look for in many columns.
    pub fn span(&self, range: Range<usize>) -> Span {
        let first = range.start / WORD;
        let within = (!range.is_empty() && first == (range.end - 1) / WORD).then(|| {
            let mask = !0 >> (WORD - range.len()) << (range.start % WORD);
            (first * self.stride, mask)
        });
        Span { range, within }
    }

    pub fn any_in_span(&self, column: usize, span: &Span) -> bool {
        match span.within {
            Some((row, mask)) => self.words[row + column] & mask != 0,
            None => self.any_in(column, span.range.clone()),
        }
    }

    /// Takes no search where the range is everything.
    pub fn any_in(&self, column: usize, range: Range<usize>) -> bool {
        match self.counts[column] as usize {
            0 => false,
            count if range.len() + count > self.members => true,
            _ => self.first_in(column, range).is_some(),
        }
    }

    /// The least member of `range`.
    pub fn first_in(&self, column: usize, range: Range<usize>) -> Option<usize> {
        let (words, summary, len) = (&self.words, &self.summary, self.len);
        Column { words, summary, len, stride: self.stride, column }.first_in(range)
    }

    /// The least member of `range` at or after `from`, or else the least before it.
    pub fn first_from(&self, column: usize, range: Range<usize>, from: usize) -> Option<usize> {
        let after = self.first_in(column, from..range.end);
        after.or_else(|| self.first_in(column, range.start..from))
    }
}

/// A set to be searched, among the words of others.
pub struct Column<'a> {
    pub words: &'a [u64],
    pub summary: &'a [u64],
    /// Words of each column.
    pub len: usize,
    pub stride: usize,
    pub column: usize,
}

impl Column<'_> {
    /// The least member of `range`, which may end beyond what the set can hold.
    #[inline]
    pub fn first_in(&self, range: Range<usize>) -> Option<usize> {
        let first = range.start / WORD;
        if range.is_empty() || first >= self.len {
            return None;
        }
        let word = |at: usize| self.words[at * self.stride + self.column];
        let masked = word(first) & (!0 << (range.start % WORD));
        let found = if masked != 0 {
            first * WORD + masked.trailing_zeros() as usize
        } else {
            let last = ((range.end - 1) / WORD).min(self.len - 1);
            let at = self.next_word(first + 1, last)?;
            at * WORD + word(at).trailing_zeros() as usize
        };
        (found < range.end).then_some(found)
    }

    /// The first word from `first` to `last` that is not zero.
    pub fn next_word(&self, first: usize, last: usize) -> Option<usize> {
        if first > last {
            return None;
        }
        let mut at = first / WORD;
        let mut summary = self.summary[at * self.stride + self.column] & (!0 << (first % WORD));
        while summary == 0 {
            at += 1;
            if at > last / WORD {
                return None;
            }
            summary = self.summary[at * self.stride + self.column];
        }
        Some(at * WORD + summary.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn columns_behave_like_sets(
            ops in prop::collection::vec((0usize..6, 0usize..9_000, any::<bool>()), 0..200),
            range in (0usize..9_000, 0usize..9_000),
        ) {
            let mut matrix = BitMatrix::new(9_000, 1);
            let mut sets: Vec<BTreeSet<usize>> = Vec::new();
            for (column, member, value) in ops {
                while sets.len() <= column {
                    prop_assert_eq!(matrix.add_column(), sets.len());
                    sets.push(BTreeSet::new());
                }
                let set = &mut sets[column];
                let changed = if value { set.insert(member) } else { set.remove(&member) };
                if member % 2 == 0 {
                    prop_assert_eq!(matrix.set(column, member, value), changed);
                } else {
                    let flipped = matrix.set_many(&[column as u32], member, &[value]);
                    prop_assert_eq!(!flipped.is_empty(), changed);
                }
                prop_assert_eq!(matrix.get(column, member), value);
            }
            let (a, b) = (range.0.min(range.1), range.0.max(range.1));
            let from = a + (b - a) / 2;
            for (column, set) in sets.iter().enumerate() {
                prop_assert_eq!(matrix.first_in(column, a..b), set.range(a..b).next().copied());
                prop_assert_eq!(matrix.any_in(column, a..b), set.range(a..b).next().is_some());
                prop_assert_eq!(matrix.any_in(column, 0..9_000), !set.is_empty());
                for range in [a..b, a..(a + 3).min(9_000)] {
                    let any = set.range(range.clone()).next().is_some();
                    prop_assert_eq!(matrix.any_in_span(column, &matrix.span(range)), any);
                }
                let expected = set.range(from..b).next().or_else(|| set.range(a..from).next());
                prop_assert_eq!(matrix.first_from(column, a..b, from), expected.copied());
            }
        }
    }
}
