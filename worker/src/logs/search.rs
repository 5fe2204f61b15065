//! A regular expression over many lines at once.
//!
//! Trying lines one by one costs more than looking at their text. So the expression is run over
//! all text of a block, with `^` and `$` at its newlines, and only the lines in which that finds
//! the beginning of a match are tried.

use regex::bytes::{Regex, RegexBuilder};

use super::block::Row;

/// After so many matches that lie across lines, what is left of a block is tried line by line:
/// each of them may have looked at all of it.
const CROSSING_MAX: u32 = 8;

pub struct Search {
    line: Regex,
    /// None: the expression asks where the text begins or ends, and that is another place there.
    all: Option<Regex>,
}

impl Search {
    pub fn new(pattern: &str) -> Result<Self, regex::Error> {
        let line = Regex::new(pattern)?;
        let parsed = regex_syntax::ParserBuilder::new().utf8(false).multi_line(true).build();
        let looks = parsed.clone().parse(pattern).map(|hir| hir.properties().look_set());
        let is_local = looks.is_ok_and(|looks| {
            use regex_syntax::hir::Look;
            let elsewhere = [Look::Start, Look::End, Look::StartCRLF, Look::EndCRLF];
            !elsewhere.into_iter().any(|look| looks.contains(look))
        });
        let all = RegexBuilder::new(pattern).multi_line(true).build();
        Ok(Self { line, all: all.ok().filter(|_| is_local) })
    }

    pub fn is_match(&self, line: &[u8]) -> bool {
        self.line.is_match(line)
    }

    /// May any line of this text match? A quick look.
    pub fn may_match(&self, text: &[u8]) -> bool {
        self.all.as_ref().is_none_or(|all| all.is_match(text))
    }

    /// Calls with the number of each line that matches, in order.
    pub fn matches(&self, text: &[u8], rows: &[Row], mut found: impl FnMut(usize)) {
        let (mut number, mut crossing) = (0, 0);
        while let Some(row) = rows.get(number) {
            let mut end = row.at.end;
            if let Some(all) = self.all.as_ref().filter(|_| crossing < CROSSING_MAX) {
                let Some(found) = all.find_at(text, row.at.start) else {
                    return;
                };
                // The newline belongs to the line before it.
                number += rows[number..].partition_point(|row| row.at.end < found.start());
                end = found.end();
            }
            let Some(row) = rows.get(number) else {
                return;
            };
            match self.line.is_match(&text[row.at.clone()]) {
                true => found(number),
                false if end > row.at.end => crossing += 1,
                false => {}
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::block::Line;
    use bistro_common::protocol::log::{LineId, Stream};
    use proptest::prelude::*;

    const PATTERNS: [&str; 20] = [
        "a", "^a", "a$", "^$", "^", "$", "", "a.*b", "b\\s", "\\s+", "[^a]", "(?s)a.b", "\\Aa",
        "a\\z", "(?-m:^)b", "\\bab\\b", "(?i)A+B", "a\nb", "(?R)b$", "a[^B]*b",
    ];

    proptest! {
        #[test]
        fn the_same_lines_are_found_as_one_by_one(
            lines in prop::collection::vec("[abAB \r]{0,6}", 0..20),
        ) {
            let (mut text, mut rows) = (Vec::new(), Vec::new());
            for line in &lines {
                let start = text.len();
                text.extend_from_slice(line.as_bytes());
                let line = Line {
                    id: LineId(1),
                    time_ms: 0,
                    stream: Stream::Stdout,
                    partial: false,
                    dropped: 0,
                };
                rows.push(Row { line, source: 0, at: start..text.len() });
                text.push(b'\n');
            }
            for pattern in PATTERNS {
                let one = Regex::new(pattern).unwrap();
                let want = lines.iter().enumerate().filter(|(_, l)| one.is_match(l.as_bytes()));
                let want: Vec<usize> = want.map(|(number, _)| number).collect();
                let search = Search::new(pattern).unwrap();
                let mut got = Vec::new();
                search.matches(&text, &rows, |number| got.push(number));
                prop_assert_eq!(&got, &want, "{}", pattern);
                prop_assert!(want.is_empty() || search.may_match(&text), "{}", pattern);
            }
        }
    }
}
