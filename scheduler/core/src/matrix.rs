//! Sets of small integers, many side by side: a column per set, a row of bits per member.
//!
//! What all sets say of one member lies in one place, and is read and changed at once, 64 columns at
//! a time (a *chunk*). Above the rows lie *unions* of 64 rows each, above those unions of 64 unions,
//! so that a search over a million members looks at three times 64 rows.

use std::ops::Range;

use crate::prefetch::prefetch;

/// Columns in a chunk, and rows in a union.
const WORD: usize = 64;

/// Words in a line of the cache, and how many are worth asking for.
const LINE: usize = 8;
const NEAR: usize = 4 * LINE;

/// Some columns of one chunk: bit `b` of chunk `c` is the column `64 c + b`.
pub type ColumnBits = u64;

/// The chunk of a column, and its bit there.
pub fn place(column: usize) -> (usize, ColumnBits) {
    (column / WORD, 1 << (column % WORD))
}

/// The columns of some bits of a chunk.
pub fn columns(chunk: usize, bits: ColumnBits) -> impl Iterator<Item = usize> {
    let without_least = |bits: &ColumnBits| Some(bits & (bits - 1)).filter(|&rest| rest != 0);
    std::iter::successors(Some(bits).filter(|&bits| bits != 0), without_least)
        .map(move |bits| chunk * WORD + bits.trailing_zeros() as usize)
}

/// Adds a column to what is kept per chunk.
pub fn note(chunks: &mut Vec<ColumnBits>, column: usize) {
    let (chunk, bit) = place(column);
    if chunks.len() <= chunk {
        chunks.resize(chunk + 1, 0);
    }
    chunks[chunk] |= bit;
}

#[derive(Debug, Default)]
pub struct BitMatrix {
    /// The rows, then their unions, and so on until there are no more than 64.
    layers: Vec<Rows>,
    members: usize,
}

/// Rows one after the other, none across the words.
#[derive(Debug, Default)]
struct Rows {
    words: Vec<u64>,
    /// Bits per row: a power of two up to 64, or a multiple of 64.
    width: usize,
}

fn width_for(columns: usize) -> usize {
    match columns {
        0..=WORD => columns.next_power_of_two(),
        _ => columns.next_multiple_of(WORD),
    }
}

impl Rows {
    fn new(rows: usize, width: usize) -> Self {
        Self { words: vec![0; (rows * width).div_ceil(WORD)], width }
    }

    /// Where a row's chunk is: the word, and how far up in it.
    #[inline]
    fn at(&self, row: usize, chunk: usize) -> (usize, usize) {
        let bit = row * self.width;
        (bit / WORD + chunk, bit % WORD)
    }

    fn mask(&self) -> u64 {
        if self.width < WORD { (1 << self.width) - 1 } else { !0 }
    }

    #[inline]
    fn get(&self, row: usize, chunk: usize) -> ColumnBits {
        let (word, shift) = self.at(row, chunk);
        self.words[word] >> shift & self.mask()
    }

    #[inline]
    fn flip(&mut self, row: usize, chunk: usize, bits: ColumnBits) {
        let (word, shift) = self.at(row, chunk);
        self.words[word] ^= bits << shift;
    }

    /// The words that some rows, of less than a word each, lie in: the first and the last with
    /// their masks. Where there is only one, its mask is the last one's.
    #[inline]
    fn packed(&self, rows: Range<usize>) -> (usize, u64, usize, u64) {
        let (start, end) = (rows.start * self.width, rows.end * self.width);
        let (first, last) = (start / WORD, (end - 1) / WORD);
        let (from, to) = (!0 << (start % WORD), !0 >> (last * WORD + WORD - end));
        (first, from, last, if first == last { from & to } else { to })
    }

    /// Which columns have any of some rows.
    #[inline]
    fn union(&self, rows: Range<usize>, chunk: usize, wanted: ColumnBits) -> ColumnBits {
        if rows.is_empty() {
            return 0;
        }
        if self.width < WORD {
            let (first, from, last, to) = self.packed(rows);
            let mut all = self.words[last] & to;
            if first < last {
                all |= self.words[first] & from;
                all |= self.words[first + 1..last].iter().fold(0, |all, word| all | word);
            }
            let mut width = WORD / 2;
            while width >= self.width {
                all |= all >> width;
                width /= 2;
            }
            return all & self.mask() & wanted;
        }
        let mut found = 0;
        for row in rows {
            found |= self.get(row, chunk) & wanted;
            if found == wanted {
                break;
            }
        }
        found
    }

    /// The first of some rows that has a column.
    #[inline]
    fn find(&self, mut rows: Range<usize>, column: usize) -> Option<usize> {
        if rows.is_empty() {
            return None;
        }
        if self.width < WORD {
            let (first, from, last, to) = self.packed(rows);
            // That column of every row in a word.
            let column = (!0 / self.mask()) << column;
            let row = |word: usize, found: u64| {
                (word * WORD + found.trailing_zeros() as usize) / self.width
            };
            if first < last {
                let found = self.words[first] & from & column;
                if found != 0 {
                    return Some(row(first, found));
                }
                let between = &self.words[first + 1..last];
                if let Some(at) = between.iter().position(|word| word & column != 0) {
                    let word = first + 1 + at;
                    return Some(row(word, self.words[word] & column));
                }
            }
            let found = self.words[last] & to & column;
            return (found != 0).then(|| row(last, found));
        }
        let (chunk, bit) = place(column);
        rows.find(|&row| self.get(row, chunk) & bit != 0)
    }
}

impl BitMatrix {
    /// Members `0..members`, and room for some columns, which are empty.
    pub fn new(members: usize, columns: usize) -> Self {
        let width = width_for(columns);
        let mut layers = vec![Rows::new(members, width)];
        let mut rows = members;
        while rows > WORD {
            rows = rows.div_ceil(WORD);
            layers.push(Rows::new(rows, width));
        }
        Self { layers, members }
    }

    /// Makes room for columns, if there is none yet.
    pub fn make_room(&mut self, columns: usize) {
        let width = width_for(columns);
        if width <= self.layers[0].width {
            return;
        }
        let wider = Self::new(self.members, columns);
        let former = std::mem::replace(self, wider);
        let mut rows = self.members;
        for (layer, former) in self.layers.iter_mut().zip(former.layers) {
            for chunk in 0..former.width.div_ceil(WORD) {
                (0..rows).for_each(|row| layer.flip(row, chunk, former.get(row, chunk)));
            }
            rows = rows.div_ceil(WORD);
        }
    }

    /// The columns of a chunk that have a member.
    #[inline]
    pub fn row(&self, member: usize, chunk: usize) -> ColumnBits {
        self.layers[0].get(member, chunk)
    }

    /// Asks for a member's row, and for those that are in a union with it.
    pub fn prefetch(&self, member: usize) {
        let rows = &self.layers[0];
        let union = member / WORD * WORD;
        let (first, end) = (rows.at(union, 0).0, rows.at(union + WORD, 0).0);
        let near = first..end.min(first + NEAR).min(rows.words.len());
        near.step_by(LINE).for_each(|word| prefetch(&rows.words[word]));
        prefetch(&rows.words[rows.at(member, 0).0]);
        if let Some(unions) = self.layers.get(1) {
            prefetch(&unions.words[unions.at(member / WORD, 0).0]);
        }
    }

    pub fn get(&self, column: usize, member: usize) -> bool {
        let (chunk, bit) = place(column);
        self.row(member, chunk) & bit != 0
    }

    /// Adds a member to columns that do not have it, or takes it from columns that do.
    pub fn flip(&mut self, member: usize, chunk: usize, bits: ColumnBits, value: bool) {
        self.layers[0].flip(member, chunk, bits);
        let (mut row, mut bits) = (member, bits);
        let mut rows = self.members;
        for layer in 1..self.layers.len() {
            let union = row / WORD;
            bits &= match value {
                true => !self.layers[layer].get(union, chunk),
                false => {
                    let below = union * WORD..(union * WORD + WORD).min(rows);
                    !self.layers[layer - 1].union(below, chunk, bits)
                }
            };
            if bits == 0 {
                return;
            }
            self.layers[layer].flip(union, chunk, bits);
            (row, rows) = (union, rows.div_ceil(WORD));
        }
    }

    /// The same for one column, whatever it has; returns whether that is a change.
    pub fn set(&mut self, column: usize, member: usize, value: bool) -> bool {
        let change = self.get(column, member) != value;
        if change {
            let (chunk, bit) = place(column);
            self.flip(member, chunk, bit, value);
        }
        change
    }

    /// Which of some columns have any member of a range.
    pub fn any_in(&self, range: Range<usize>, chunk: usize, wanted: ColumnBits) -> ColumnBits {
        self.any_at(0, range, chunk, wanted)
    }

    fn any_at(
        &self,
        layer: usize,
        rows: Range<usize>,
        chunk: usize,
        wanted: ColumnBits,
    ) -> ColumnBits {
        let of_layer = &self.layers[layer];
        let Some((before, unions, after)) = self.split(layer, &rows) else {
            return of_layer.union(rows, chunk, wanted);
        };
        let mut found = of_layer.union(before, chunk, wanted);
        if found != wanted {
            found |= self.any_at(layer + 1, unions, chunk, wanted & !found);
        }
        if found != wanted {
            found |= of_layer.union(after, chunk, wanted & !found);
        }
        found
    }

    /// The least member of a range that a column has.
    pub fn first_in(&self, column: usize, range: Range<usize>) -> Option<usize> {
        self.first_at(0, column, range)
    }

    fn first_at(&self, layer: usize, column: usize, rows: Range<usize>) -> Option<usize> {
        let of_layer = &self.layers[layer];
        let Some((before, unions, after)) = self.split(layer, &rows) else {
            return of_layer.find(rows, column);
        };
        let in_unions = || {
            let union = self.first_at(layer + 1, column, unions)?;
            of_layer.find(union * WORD..(union + 1) * WORD, column)
        };
        let found = of_layer.find(before, column).or_else(in_unions);
        found.or_else(|| of_layer.find(after, column))
    }

    /// Rows before the first whole union among some, the unions, and the rows after the last one.
    fn split(
        &self,
        layer: usize,
        rows: &Range<usize>,
    ) -> Option<(Range<usize>, Range<usize>, Range<usize>)> {
        let (first, end) = (rows.start.div_ceil(WORD), rows.end / WORD);
        let any = layer + 1 < self.layers.len() && first < end;
        any.then(|| (rows.start..first * WORD, first..end, end * WORD..rows.end))
    }

    /// The least member of `range` at or after `from`, or else the least before it.
    pub fn first_from(&self, column: usize, range: Range<usize>, from: usize) -> Option<usize> {
        let after = self.first_in(column, from..range.end);
        after.or_else(|| self.first_in(column, range.start..from))
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
            // A matrix is widened when there are more columns than it began with.
            (scale, begin) in (1usize..30, 0usize..70),
            range in (0usize..9_000, 0usize..9_000),
        ) {
            let mut matrix = BitMatrix::new(9_000, begin);
            let mut sets: Vec<BTreeSet<usize>> = Vec::new();
            for (column, member, value) in ops {
                let column = column * scale;
                if sets.len() <= column {
                    sets.resize(column + 1, BTreeSet::new());
                    matrix.make_room(column + 1);
                }
                let set = &mut sets[column];
                let changed = if value { set.insert(member) } else { set.remove(&member) };
                prop_assert_eq!(matrix.set(column, member, value), changed);
                prop_assert_eq!(matrix.get(column, member), value);
            }
            let (a, b) = (range.0.min(range.1), range.0.max(range.1));
            let from = a + (b - a) / 2;
            for (column, set) in sets.iter().enumerate() {
                let (chunk, bit) = place(column);
                prop_assert_eq!(matrix.first_in(column, a..b), set.range(a..b).next().copied());
                for range in [a..b, 0..9_000, a..(a + 3).min(9_000)] {
                    let any = set.range(range.clone()).next().is_some();
                    prop_assert_eq!(matrix.any_in(range, chunk, bit) != 0, any);
                }
                let expected = set.range(from..b).next().or_else(|| set.range(a..from).next());
                prop_assert_eq!(matrix.first_from(column, a..b, from), expected.copied());
            }
        }

        #[test]
        fn columns_change_together(
            ops in prop::collection::vec((0usize..700, any::<u64>(), any::<bool>()), 0..60),
            width in 1usize..150,
        ) {
            let mut matrix = BitMatrix::new(700, width);
            let mut rows = vec![vec![0u64; width.div_ceil(64)]; 700];
            for (member, bits, value) in ops {
                let chunk = member % width.div_ceil(64);
                let there = if width - chunk * 64 < 64 { (1 << (width - chunk * 64)) - 1 } else { !0 };
                let row = &mut rows[member][chunk];
                let bits = bits & there & if value { !*row } else { *row };
                *row ^= bits;
                matrix.flip(member, chunk, bits, value);
                prop_assert_eq!(matrix.row(member, chunk), *row);
                let union = rows.iter().fold(0, |all, row| all | row[chunk]);
                prop_assert_eq!(matrix.any_in(0..700, chunk, !0), union);
            }
        }
    }

    #[test]
    fn bits_are_columns() {
        assert_eq!(columns(1, 0b101).collect::<Vec<_>>(), [64, 66]);
        assert_eq!(columns(0, 0).count(), 0);
        let mut chunks = Vec::new();
        note(&mut chunks, 66);
        assert_eq!(chunks, [0, 0b100]);
    }
}
