//! Which job starts a task next, among those that can.

use bistro_common::config::Policy as Kind;
use bistro_common::protocol::api::TaskState;

use crate::bits::Bits;
use crate::jobs::JobState;
use crate::rng::Rng;
use crate::tasks::JobIx;

/// The jobs that can start something, and whose turn it is.
#[derive(Debug)]
pub struct Policy {
    kind: Kind,
    /// Jobs by rank: in the order of the file, or by priority, highest first.
    by_rank: Vec<JobIx>,
    rank_of: Vec<usize>,
    /// For each rank, the first rank after its group of equals.
    group_end: Vec<usize>,
    startable: Bits,
    /// The rank whose turn it is.
    turn: usize,
}

impl Policy {
    pub fn new(kind: Kind, jobs: &[JobState]) -> Self {
        let priority = |job: &JobIx| jobs[job.index()].config.priority;
        let mut by_rank: Vec<JobIx> = (0..jobs.len() as u32).map(JobIx).collect();
        let mut group_end = vec![jobs.len(); jobs.len()];
        if kind == Kind::RankedPriority {
            by_rank.sort_by(|a, b| priority(b).total_cmp(&priority(a)));
            for rank in (0..jobs.len().saturating_sub(1)).rev() {
                let same = priority(&by_rank[rank]) == priority(&by_rank[rank + 1]);
                group_end[rank] = if same { group_end[rank + 1] } else { rank + 1 };
            }
        }
        let mut rank_of = vec![0; jobs.len()];
        for (rank, job) in by_rank.iter().enumerate() {
            rank_of[job.index()] = rank;
        }
        Self { kind, by_rank, rank_of, group_end, startable: Bits::new(jobs.len()), turn: 0 }
    }

    /// Enters a job after all others; it cannot start anything yet.
    pub fn add(&mut self, jobs: &[JobState]) {
        if self.kind == Kind::RankedPriority {
            // Its rank is anywhere: rank all anew.
            let old = std::mem::replace(self, Self::new(self.kind, jobs));
            for rank in old.startable.iter() {
                self.set_startable(old.by_rank[rank], true);
            }
            return;
        }
        let rank = self.by_rank.len();
        self.by_rank.push(JobIx(rank as u32));
        self.rank_of.push(rank);
        self.startable.grow(rank + 1);
    }

    pub fn set_startable(&mut self, job: JobIx, startable: bool) {
        self.startable.set(self.rank_of[job.index()], startable);
    }

    pub fn is_startable(&self, job: JobIx) -> bool {
        self.startable.get(self.rank_of[job.index()])
    }

    pub fn any_startable(&self) -> bool {
        !self.startable.is_empty()
    }

    pub fn next(&mut self, jobs: &[JobState], rng: &mut Rng) -> Option<JobIx> {
        let all = 0..self.by_rank.len();
        let rank = match self.kind {
            Kind::RoundRobin => {
                let rank = self.startable.first_from(all.clone(), self.turn.min(all.end))?;
                self.turn = rank + 1;
                rank
            }
            Kind::RankedPriority => {
                // Equals are drawn at random, so that none starves.
                let first = self.startable.first_in(all)?;
                let group = first..self.group_end[first];
                let from = first + rng.below(group.len());
                self.startable.first_from(group, from)?
            }
            Kind::RandomizedPriority => self.draw(jobs, rng)?,
            Kind::LongTail => self
                .startable
                .iter()
                .min_by_key(|&rank| jobs[self.by_rank[rank].index()].count(TaskState::CanRun))?,
        };
        Some(self.by_rank[rank])
    }

    /// A rank with a probability in proportion to its priority. Jobs without a positive priority
    /// are drawn, all alike, only when no other can start anything.
    fn draw(&self, jobs: &[JobState], rng: &mut Rng) -> Option<usize> {
        let weight = |rank: usize| jobs[self.by_rank[rank].index()].config.priority.max(0.0);
        let total: f64 = self.startable.iter().map(weight).sum();
        if total <= 0.0 {
            return self.startable.iter().nth(rng.below(self.startable.count().max(1)));
        }
        let mut left = rng.unit() * total;
        let mut chosen = None;
        for rank in self.startable.iter().filter(|&rank| weight(rank) > 0.0) {
            chosen = Some(rank);
            left -= weight(rank);
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}
