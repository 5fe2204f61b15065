//! How fast jobs go, and when they will be over: from what their counts were in the last minute.

use std::collections::{HashMap, VecDeque};

use bistro_common::Millis;
use bistro_common::protocol::api::{JobRow, TaskState};

/// How far back is looked, and what counts as just now.
const PAST_MS: Millis = 60_000;
const RECENT_MS: Millis = 15_000;
/// One look per second is kept, of so many jobs.
const STEP_MS: Millis = 1_000;
const JOBS_MAX: usize = 2_000;

#[derive(Default)]
pub struct Rates(pub HashMap<String, VecDeque<(Millis, u64)>>);

/// Tasks per second, and seconds until nothing is left, at the fastest and at the slowest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub left_seconds: Option<(f64, f64)>,
}

impl Rates {
    pub fn note(&mut self, now: Millis, rows: &[JobRow]) {
        if self.0.len() > JOBS_MAX {
            self.0.clear();
        }
        for row in rows {
            let past = self.0.entry(row.job.clone()).or_default();
            let ended = count(row, TaskState::Done) + count(row, TaskState::Failed);
            match past.back() {
                // It was forgiven, or made anew.
                Some(&(_, before)) if before > ended => past.clear(),
                Some(&(at, _)) if now < at + STEP_MS => continue,
                _ => {}
            }
            past.push_back((now, ended));
            while past.front().is_some_and(|&(at, _)| at + PAST_MS < now) {
                past.pop_front();
            }
        }
    }

    /// None until there is something to go by.
    pub fn of(&self, row: &JobRow) -> Option<Rate> {
        let past = self.0.get(&row.job)?;
        let &(now, ended) = past.back()?;
        let since = |ms: Millis| {
            let &(at, before) = past.iter().find(|(at, _)| at + ms >= now)?;
            let seconds = now.checked_sub(at).filter(|ms| *ms >= STEP_MS)? as f64 / 1e3;
            Some((ended - before) as f64 / seconds)
        };
        let (recent, long) = (since(RECENT_MS)?, since(PAST_MS)?);
        let left = [TaskState::Running, TaskState::Unsure, TaskState::CanRun, TaskState::Blocked]
            .into_iter()
            .chain([TaskState::Backoff])
            .map(|state| count(row, state))
            .sum::<u64>() as f64;
        let (slow, fast) = (recent.min(long), recent.max(long));
        let left_seconds = (slow > 0.0 && left > 0.0).then(|| (left / fast, left / slow));
        Some(Rate { per_second: recent, left_seconds })
    }
}

fn count(row: &JobRow, state: TaskState) -> u64 {
    row.counts.get(&state).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(done: u64, left: u64) -> JobRow {
        serde_json::from_value(json!({
            "job": "j", "enabled": true, "owner": "", "level": "db", "priority": 1.0,
            "depends_on": [], "counts": {"done": done, "can_run": left},
        }))
        .unwrap()
    }

    #[test]
    fn a_rate_comes_with_a_range_of_ends() {
        let mut rates = Rates::default();
        // 10 per second for 45 s, then 20 per second.
        for second in 0..=60u64 {
            let done = second * 10 + second.saturating_sub(45) * 10;
            rates.note(second * 1_000, &[row(done, 600)]);
        }
        let rate = rates.of(&row(750, 600)).unwrap();
        assert_eq!(rate.per_second, 20.0);
        let (soonest, latest) = rate.left_seconds.unwrap();
        assert_eq!((soonest, latest), (30.0, 48.0));
    }

    #[test]
    fn nothing_is_said_without_anything_to_go_by() {
        let mut rates = Rates::default();
        assert_eq!(rates.of(&row(1, 1)), None);
        rates.note(1_000, &[row(5, 5)]);
        assert_eq!(rates.of(&row(5, 5)), None);
        rates.note(2_500, &[row(5, 5)]);
        let still = Rate { per_second: 0.0, left_seconds: None };
        assert_eq!(rates.of(&row(5, 5)), Some(still), "no end in sight");
        rates.note(4_000, &[row(1, 9)]);
        assert_eq!(rates.of(&row(1, 9)), None, "it began anew");
    }
}
