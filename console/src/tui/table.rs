//! Rows with a cursor that stays on its row while rows come, go and move.

use bistro_common::protocol::api::{JobRow, TaskRow, WorkerRow};

/// What a row is, whatever its place.
pub trait Keyed {
    fn key(&self) -> String;
}

impl Keyed for JobRow {
    fn key(&self) -> String {
        self.job.clone()
    }
}

impl Keyed for WorkerRow {
    fn key(&self) -> String {
        self.worker.clone()
    }
}

impl Keyed for TaskRow {
    fn key(&self) -> String {
        format!("{}\0{}", self.job, self.node)
    }
}

pub struct Table<T> {
    pub rows: Vec<T>,
    pub cursor: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), cursor: 0 }
    }
}

impl<T: Keyed> Table<T> {
    /// New rows; the cursor stays on its row if that is still there.
    pub fn replace(&mut self, rows: Vec<T>) {
        let key = self.current().map(Keyed::key);
        self.rows = rows;
        if let Some(key) = key {
            // Mostly it is where it was.
            let here = self.current().is_some_and(|row| row.key() == key);
            if !here && let Some(at) = self.rows.iter().position(|row| row.key() == key) {
                self.cursor = at;
            }
        }
        self.move_by(0);
    }

    pub fn current(&self) -> Option<&T> {
        self.rows.get(self.cursor)
    }

    pub fn move_by(&mut self, by: i64) {
        let last = self.rows.len().saturating_sub(1) as i64;
        self.cursor = (self.cursor as i64).saturating_add(by).clamp(0, last) as usize;
    }
}

/// The first row to show so that the cursor is in sight, and near the middle if it can be.
pub fn first_shown(cursor: usize, rows: usize, height: usize) -> usize {
    cursor.saturating_sub(height / 2).min(rows.saturating_sub(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for &str {
        fn key(&self) -> String {
            (*self).to_owned()
        }
    }

    #[test]
    fn the_cursor_stays_on_its_row() {
        let mut table = Table { rows: vec!["a", "b", "c"], cursor: 1 };
        table.replace(vec!["x", "y", "b"]);
        assert_eq!(table.current(), Some(&"b"));
        table.replace(vec!["x"]);
        assert_eq!(table.current(), Some(&"x"));
        table.replace(vec![]);
        assert_eq!(table.current(), None);
        table.move_by(5);
        assert_eq!(table.cursor, 0);
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
