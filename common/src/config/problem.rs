//! What is wrong with a config, and where.

use std::cell::RefCell;
use std::ops::Range;

use crate::protocol::api::{ProblemKind, ProblemReport, Severity};

/// One problem, placed by byte range and by key path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Keys from the root; array positions are decimal.
    pub path: Vec<String>,
    /// Absent where the problem is in no single place of the text.
    pub range: Option<Range<usize>>,
    pub message: String,
    /// The key that is not there, where that is the problem.
    pub missing_key: Option<&'static str>,
    pub hint: Option<String>,
}

/// Collects problems while several readers borrow the tree.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// How many errors, not counting warnings, have been found so far.
    pub fn error_count(&self) -> usize {
        self.0.borrow().iter().filter(|p| p.severity == Severity::Error).count()
    }

    /// The errors found since there were `count`.
    pub fn errors_since(&self, count: usize) -> Vec<Problem> {
        let problems = self.0.borrow();
        problems.iter().filter(|p| p.severity == Severity::Error).skip(count).cloned().collect()
    }

    /// In the order of the file, errors first at the same place.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|p| (p.range.as_ref().map_or(0, |r| r.start), p.severity));
        problems
    }
}

/// A text and its name, to turn byte ranges into lines and columns.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    /// Line and column, from 1; columns count characters.
    pub fn place(&self, offset: usize) -> (u32, u32) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        (line as u32, column as u32)
    }

    pub fn report(&self, problem: &Problem) -> ProblemReport {
        let (line, column) = match &problem.range {
            Some(range) => self.place(range.start),
            None => (0, 0),
        };
        ProblemReport {
            kind: ProblemKind::Config,
            severity: problem.severity,
            file: self.file.to_owned(),
            line,
            column,
            key_path: key_path(&problem.path),
            message: problem.message.clone(),
            hint: problem.hint.clone(),
        }
    }

    /// The line of the problem with carets below it, for terminals.
    pub fn excerpt(&self, problem: &Problem) -> Option<String> {
        let range = problem.range.clone()?;
        let (line, column) = self.place(range.start);
        let text = self.text.lines().nth(line as usize - 1)?;
        let rest = text.chars().count().saturating_sub(column as usize - 1);
        let width =
            self.text.get(range).map_or(1, |t| t.lines().next().unwrap_or("").chars().count());
        let carets = "^".repeat(width.clamp(1, rest.max(1)));
        let margin = " ".repeat(line.to_string().len());
        // Tabs are one column wide here, as they are in the count.
        let text = text.replace('\t', " ");
        let pad = " ".repeat(column as usize - 1);
        Some(format!("{margin} |\n{line} | {text}\n{margin} | {pad}{carets}"))
    }
}

fn key_path(path: &[String]) -> String {
    let mut text = String::new();
    for key in path {
        if key.bytes().all(|b| b.is_ascii_digit()) && !key.is_empty() {
            text.push_str(&format!("[{key}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(key);
        }
    }
    text
}
