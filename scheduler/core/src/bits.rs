//! A set of small integers that finds the next member of a range quickly.
//!
//! One bit per member, and above it one summary bit per word, so that a search over an empty
//! stretch of a million members looks at 250 words.

use std::ops::Range;

const WORD: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    /// Bit `w % 64` of word `w / 64` is set iff `words[w]` is not zero.
    summary: Vec<u64>,
    count: usize,
}

impl Bits {
    /// An empty set that can hold `0..len`.
    pub fn new(len: usize) -> Self {
        let words = len.div_ceil(WORD);
        Self { words: vec![0; words], summary: vec![0; words.div_ceil(WORD)], count: 0 }
    }

    /// Makes room for `0..len`; never takes any away.
    pub fn grow(&mut self, len: usize) {
        let words = len.div_ceil(WORD).max(self.words.len());
        self.words.resize(words, 0);
        self.summary.resize(words.div_ceil(WORD), 0);
    }

    /// Room for one member, if there is none yet.
    pub fn make_room(&mut self, member: usize) {
        if member / WORD >= self.words.len() {
            self.grow(member + 1);
        }
    }

    pub fn get(&self, member: usize) -> bool {
        self.words[member / WORD] >> (member % WORD) & 1 == 1
    }

    /// The same for what may lie beyond the room.
    pub fn holds(&self, member: usize) -> bool {
        self.words.get(member / WORD).is_some_and(|word| word >> (member % WORD) & 1 == 1)
    }

    /// Returns whether the set has changed.
    pub fn set(&mut self, member: usize, value: bool) -> bool {
        let (word, bit) = (member / WORD, 1u64 << (member % WORD));
        if (self.words[word] & bit != 0) == value {
            return false;
        }
        self.words[word] ^= bit;
        self.count = if value { self.count + 1 } else { self.count - 1 };
        let summary_bit = 1u64 << (word % WORD);
        if self.words[word] == 0 {
            self.summary[word / WORD] &= !summary_bit;
        } else {
            self.summary[word / WORD] |= summary_bit;
        }
        true
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The least member of `range`, which may end beyond what the set can hold.
    #[inline]
    pub fn first_in(&self, range: Range<usize>) -> Option<usize> {
        let first = range.start / WORD;
        if range.is_empty() || first >= self.words.len() {
            return None;
        }
        let masked = self.words[first] & (!0 << (range.start % WORD));
        let found = if masked != 0 {
            first * WORD + masked.trailing_zeros() as usize
        } else {
            let last = ((range.end - 1) / WORD).min(self.words.len() - 1);
            let at = self.next_word(first + 1, last)?;
            at * WORD + self.words[at].trailing_zeros() as usize
        };
        (found < range.end).then_some(found)
    }

    /// The first word from `first` to `last` that is not zero.
    fn next_word(&self, first: usize, last: usize) -> Option<usize> {
        if first > last {
            return None;
        }
        let mut at = first / WORD;
        let mut summary = self.summary[at] & (!0 << (first % WORD));
        while summary == 0 {
            at += 1;
            if at > last / WORD {
                return None;
            }
            summary = self.summary[at];
        }
        Some(at * WORD + summary.trailing_zeros() as usize)
    }

    /// The least member of `range` at or after `from`, or else the least before it.
    pub fn first_from(&self, range: Range<usize>, from: usize) -> Option<usize> {
        self.first_in(from..range.end).or_else(|| self.first_in(range.start..from))
    }

    pub fn any_in(&self, range: Range<usize>) -> bool {
        self.first_in(range).is_some()
    }

    /// The member that so many lesser ones come before.
    pub fn nth(&self, n: usize) -> Option<usize> {
        let mut left = n;
        let last = self.words.len().checked_sub(1)?;
        let mut word = self.next_word(0, last)?;
        loop {
            let (mut bits, count) = (self.words[word], self.words[word].count_ones() as usize);
            if left < count {
                for _ in 0..left {
                    bits &= bits - 1;
                }
                return Some(word * WORD + bits.trailing_zeros() as usize);
            }
            left -= count;
            word = self.next_word(word + 1, last)?;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let end = self.words.len() * WORD;
        std::iter::successors(self.first_in(0..end), move |&last| self.first_in(last + 1..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            ops in prop::collection::vec((0usize..9_000, any::<bool>()), 0..200),
            range in (0usize..9_000, 0usize..9_000),
        ) {
            let mut bits = Bits::new(9_000);
            let mut set = BTreeSet::new();
            for (member, value) in ops {
                let changed = if value { set.insert(member) } else { set.remove(&member) };
                prop_assert_eq!(bits.set(member, value), changed);
                prop_assert_eq!(bits.get(member), value);
            }
            prop_assert_eq!(bits.count(), set.len());
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            let (a, b) = (range.0.min(range.1), range.0.max(range.1));
            prop_assert_eq!(bits.first_in(a..b), set.range(a..b).next().copied());
            let n = set.len() / 2;
            prop_assert_eq!(bits.nth(n), set.iter().nth(n).copied());
            let from = a + (b - a) / 2;
            let expected = set.range(from..b).next().or_else(|| set.range(a..from).next());
            prop_assert_eq!(bits.first_from(a..b, from), expected.copied());
        }
    }
}
