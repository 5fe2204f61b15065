//! A window of a list that the server filters and sorts, with a cursor that stays on its row while
//! rows come, go and move.
//!
//! The console never has the whole list. The cursor is a place in it; what is asked for is a window
//! around that place. Rows can be marked, and stay marked as they were then, in sight or not.

use std::collections::BTreeMap;

use bistro_common::protocol::api::{
    JobRow, ListRequest, Listing, NodeRow, Page, TaskRow, WorkerRow,
};

/// Rows that are asked for at a time; several screens, so that scrolling seldom waits.
const WINDOW: u32 = 120;

/// What a row is, whatever its place.
pub trait Row: Clone {
    const SORTS: &'static [&'static str];
    /// A mark is about the thing as it is now, rather than as it was when it was marked: about a
    /// job, and not about an attempt.
    const LIVES: bool;
    fn key(&self) -> String;
}

/// More marks than this are not set by hand; a filter does that better.
pub const MARKS_MAX: usize = 1_000;

impl Row for JobRow {
    const SORTS: &'static [&'static str] = &Self::SORTS;
    const LIVES: bool = true;
    fn key(&self) -> String {
        self.job.clone()
    }
}

impl Row for NodeRow {
    const SORTS: &'static [&'static str] = &Self::SORTS;
    const LIVES: bool = true;
    fn key(&self) -> String {
        format!("{}\0{}", self.level, self.node)
    }
}

impl Row for WorkerRow {
    const SORTS: &'static [&'static str] = &Self::SORTS;
    const LIVES: bool = true;
    fn key(&self) -> String {
        self.worker.clone()
    }
}

impl Row for TaskRow {
    const SORTS: &'static [&'static str] = &Self::SORTS;
    const LIVES: bool = false;
    fn key(&self) -> String {
        format!("{}\0{}", self.job, self.node)
    }
}

/// What decides which rows there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub filter: String,
    /// A sort key of the row's type, `-` in front turns it around; empty: the config's order.
    pub sort: String,
}

pub struct List<T> {
    pub query: Query,
    pub rows: Vec<T>,
    /// Of the first row that is here, in the whole list.
    pub first: u64,
    pub total: u64,
    pub cursor: u64,
    /// The rows are those of the query.
    pub loaded: bool,
    /// Why there are none.
    pub problem: Option<String>,
    /// Rows keep their places, and only what they say changes.
    pub frozen: bool,
    /// The row that the cursor was on is not here any more: it is on another one now, which nobody
    /// has chosen.
    pub strayed: bool,
    /// By their keys: what was marked, as it was seen then.
    pub marks: BTreeMap<String, T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            query: Query::default(),
            rows: Vec::new(),
            first: 0,
            total: 0,
            cursor: 0,
            loaded: false,
            problem: None,
            frozen: false,
            strayed: false,
            marks: BTreeMap::new(),
        }
    }
}

impl<T: Row> List<T> {
    pub fn request(&self) -> ListRequest {
        let end = self.first + self.rows.len() as u64;
        let inside = (self.first..end).contains(&self.cursor);
        let first = match inside {
            true => self.first,
            false => self.cursor.saturating_sub(u64::from(WINDOW) / 2),
        };
        let offset = u32::try_from(first).unwrap_or(u32::MAX);
        let Query { filter, sort } = self.query.clone();
        ListRequest { filter, sort, page: Page { offset, limit: WINDOW } }
    }

    /// The answer to [`List::request`]; one to an older question changes nothing.
    pub fn take(&mut self, request: &ListRequest, listing: Listing<T>) {
        if *request != self.request() {
            return;
        }
        if T::LIVES && !self.marks.is_empty() {
            for row in &listing.items {
                self.marks.entry(row.key()).and_modify(|marked| marked.clone_from(row));
            }
        }
        let first = u64::from(request.page.offset);
        if self.frozen && self.loaded && first == self.first {
            self.problem = None;
            self.refresh(listing.items);
            return;
        }
        let key = self.current().filter(|_| self.loaded).map(Row::key);
        (self.rows, self.first, self.total) = (listing.items, first, listing.total);
        (self.loaded, self.problem) = (true, None);
        if let Some(key) = key {
            // Mostly it is where it was.
            let here = self.current().is_some_and(|row| row.key() == key);
            let at = if here { None } else { self.rows.iter().position(|row| row.key() == key) };
            match at {
                Some(at) => self.cursor = self.first + at as u64,
                None => self.strayed |= !here,
            }
        }
        self.cursor = self.cursor.min(self.total.saturating_sub(1));
    }

    fn refresh(&mut self, rows: Vec<T>) {
        for row in rows {
            let key = row.key();
            if let Some(old) = self.rows.iter_mut().find(|old| old.key() == key) {
                *old = row;
            }
        }
    }

    pub fn refuse(&mut self, request: &ListRequest, why: String) {
        if *request == self.request() {
            self.problem = Some(why);
        }
    }

    pub fn current(&self) -> Option<&T> {
        self.rows.get(usize::try_from(self.cursor.checked_sub(self.first)?).ok()?)
    }

    /// The row that somebody has put the cursor on.
    pub fn chosen(&self) -> Option<&T> {
        self.current().filter(|_| self.loaded && !self.strayed)
    }

    /// What actions are about: the marked rows, or else the chosen one.
    pub fn targets(&self) -> Vec<&T> {
        match self.marks.is_empty() {
            true => self.chosen().into_iter().collect(),
            false => self.marks.values().collect(),
        }
    }

    /// Marks the chosen row, or takes its mark away, and goes on to the next. False: there are as
    /// many marks as there can be.
    pub fn mark(&mut self) -> bool {
        let Some(row) = self.chosen().cloned() else { return true };
        if self.marks.remove(&row.key()).is_none() {
            if self.marks.len() >= MARKS_MAX {
                return false;
            }
            self.marks.insert(row.key(), row);
        }
        self.move_by(1);
        true
    }

    /// How many marked rows are not among those that so many lines show.
    pub fn hidden_marks(&self, height: usize) -> usize {
        let (_, rows) = self.shown(height);
        let in_sight = rows.iter().filter(|row| self.marks.contains_key(&row.key())).count();
        self.marks.len() - in_sight
    }

    pub fn move_by(&mut self, by: i64) {
        let last = self.total.saturating_sub(1);
        self.cursor = self.cursor.saturating_add_signed(by).min(last);
        self.strayed = false;
    }

    /// Another filter or order. The old rows stay in sight until the new ones come.
    pub fn ask(&mut self, query: Query) {
        if self.query != query {
            self.query = query;
            (self.loaded, self.frozen, self.strayed) = (false, false, false);
            (self.first, self.cursor, self.problem) = (0, 0, None);
        }
    }

    /// By the next column, from the config's order through all and back.
    pub fn sort_next(&mut self) {
        let now = self.query.sort.trim_start_matches('-');
        let at = T::SORTS.iter().position(|&sort| sort == now);
        let next = T::SORTS.get(at.map_or(0, |at| at + 1)).copied().unwrap_or_default();
        self.ask(Query { sort: next.to_owned(), ..self.query.clone() });
    }

    pub fn sort_reversed(&mut self) {
        let sort = match self.query.sort.strip_prefix('-') {
            Some(sort) => sort.to_owned(),
            None if self.query.sort.is_empty() => return,
            None => format!("-{}", self.query.sort),
        };
        self.ask(Query { sort, ..self.query.clone() });
    }

    /// The rows to show in so many lines, with the number of the first in the whole list.
    pub fn shown(&self, height: usize) -> (u64, &[T]) {
        let at = usize::try_from(self.cursor.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let first = first_shown(at.min(self.rows.len().saturating_sub(1)), self.rows.len(), height);
        let end = (first + height).min(self.rows.len());
        (self.first + first as u64, &self.rows[first..end])
    }
}

/// The first row to show so that the cursor is in sight, and near the middle if it can be.
pub fn first_shown(cursor: usize, rows: usize, height: usize) -> usize {
    cursor.saturating_sub(height / 2).min(rows.saturating_sub(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Row for u64 {
        const SORTS: &'static [&'static str] = &["a", "b"];
        const LIVES: bool = true;
        fn key(&self) -> String {
            self.to_string()
        }
    }

    fn answer(list: &mut List<u64>, all: &[u64]) {
        let request = list.request();
        let range = request.page.range(all.len());
        list.take(&request, Listing { total: all.len() as u64, items: all[range].to_vec() });
    }

    #[test]
    fn the_cursor_stays_on_its_row_or_says_that_it_does_not() {
        let mut list = List::<u64>::default();
        answer(&mut list, &[1, 2, 3]);
        list.move_by(1);
        answer(&mut list, &[7, 8, 2]);
        assert_eq!((list.current(), list.strayed), (Some(&2), false));
        answer(&mut list, &[7]);
        assert_eq!((list.current(), list.strayed), (Some(&7), true));
        answer(&mut list, &[7, 9]);
        assert!(list.strayed, "until somebody chooses");
        list.move_by(1);
        assert_eq!((list.current(), list.strayed), (Some(&9), false));
        answer(&mut list, &[]);
        assert_eq!(list.current(), None);
    }

    #[test]
    fn a_window_follows_the_cursor_through_a_long_list() {
        let all: Vec<u64> = (0..10_000).collect();
        let mut list = List::<u64>::default();
        answer(&mut list, &all);
        for by in [150, 100, 5_000, -3, i64::MAX, -199, i64::MIN, 9] {
            list.move_by(by);
            answer(&mut list, &all);
            assert_eq!(list.current(), Some(&list.cursor));
            let (first, shown) = list.shown(40);
            assert_eq!((shown.len(), shown[0]), (40, first));
            assert!((first..first + 40).contains(&list.cursor));
        }
        assert_eq!(list.cursor, 9);
    }

    #[test]
    fn a_late_answer_and_a_frozen_order_change_nothing_that_they_must_not() {
        let mut list = List::<u64>::default();
        answer(&mut list, &[1, 2]);
        let old = list.request();
        list.sort_next();
        assert_eq!(list.query.sort, "a");
        list.take(&old, Listing { total: 1, items: vec![5] });
        assert_eq!(list.rows, [1, 2]);
        answer(&mut list, &[2, 1]);
        list.frozen = true;
        answer(&mut list, &[1, 2, 3]);
        assert_eq!(list.rows, [2, 1]);
        list.sort_reversed();
        assert_eq!((list.query.sort.as_str(), list.frozen), ("-a", false));
        list.sort_next();
        list.sort_next();
        assert_eq!(list.query.sort, "");
    }

    #[test]
    fn marks_stay_whatever_is_in_sight() {
        let mut list = List::<u64>::default();
        answer(&mut list, &[1, 2, 3]);
        assert_eq!(list.targets(), [&1]);
        assert!(list.mark() && list.cursor == 1);
        list.move_by(1);
        assert!(list.mark());
        assert_eq!((list.targets(), list.hidden_marks(10)), (vec![&1, &3], 0));
        list.ask(Query { filter: "x".to_owned(), ..Query::default() });
        answer(&mut list, &[2, 3]);
        assert_eq!((list.targets(), list.hidden_marks(10)), (vec![&1, &3], 1));
        list.move_by(1);
        assert!(list.mark());
        assert_eq!((list.targets(), list.hidden_marks(1)), (vec![&1], 1));
        // No mark is set by a cursor that nobody has put there.
        answer(&mut list, &[2]);
        assert!(list.strayed && list.mark());
        assert_eq!(list.targets(), [&1]);
    }

    #[test]
    fn the_cursor_is_always_in_sight() {
        for rows in 0..30 {
            for cursor in 0..rows {
                let first = first_shown(cursor, rows, 10);
                assert!(first <= cursor && cursor < first + 10);
            }
        }
    }
}
