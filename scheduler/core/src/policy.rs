//! Which job starts a task next, among those that can.
//!
//! Jobs that demand the same of the instance node and of workers share a *lane*: where the last
//! slot goes or comes, a lane closes or opens as a whole, however many jobs are in it. A hundred
//! thousand jobs that wait for one worker cost no more than one.

use bistro_common::config::Policy as Kind;
use bistro_common::protocol::api::TaskState;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::jobs::JobState;
use crate::resources::ClassIx;
use crate::rng::Rng;
use crate::tasks::JobIx;

/// Jobs of one demand, by rank, that could start something if the lane is open.
#[derive(Debug)]
pub struct Lane {
    /// Their class at the instance node, and on workers.
    pub instance: ClassIx,
    pub worker: ClassIx,
    pub open: bool,
    ready: BTreeSet<u32>,
}

/// The jobs that can start something, and whose turn it is.
#[derive(Debug)]
pub struct Policy {
    kind: Kind,
    /// Jobs by rank: in the order of the file, or by priority, highest first.
    by_rank: Vec<JobIx>,
    rank_of: Vec<u32>,
    /// For each rank, the first rank after its group of equals; for ranked priority only.
    group_end: Vec<u32>,
    lanes: Vec<Lane>,
    lane_of: Vec<u32>,
    /// The rank whose turn it is.
    turn: u32,
}

impl Policy {
    /// All lanes are closed, and no job is ready.
    pub fn new(kind: Kind, jobs: &[JobState]) -> Self {
        let mut policy = Self {
            kind,
            by_rank: (0..jobs.len() as u32).map(JobIx).collect(),
            rank_of: Vec::new(),
            group_end: Vec::new(),
            lanes: Vec::new(),
            lane_of: Vec::new(),
            turn: 0,
        };
        if kind == Kind::RankedPriority {
            policy.rank(jobs);
        }
        policy.rank_of = vec![0; jobs.len()];
        for (rank, job) in policy.by_rank.iter().zip(0..).map(|(job, rank)| (rank, job)) {
            policy.rank_of[job.index()] = rank;
        }
        jobs.iter().for_each(|job| policy.enter(job));
        policy
    }

    fn rank(&mut self, jobs: &[JobState]) {
        let priority = |job: &JobIx| jobs[job.index()].config.priority;
        self.by_rank.sort_by(|a, b| priority(b).total_cmp(&priority(a)));
        self.group_end = vec![jobs.len() as u32; jobs.len()];
        for rank in (0..jobs.len().saturating_sub(1)).rev() {
            let same = priority(&self.by_rank[rank]) == priority(&self.by_rank[rank + 1]);
            self.group_end[rank] = if same { self.group_end[rank + 1] } else { rank as u32 + 1 };
        }
    }

    /// Puts the next job into its lane.
    fn enter(&mut self, job: &JobState) {
        let (instance, worker) = (job.instance_class(), job.worker_class);
        let same = |lane: &Lane| lane.instance == instance && lane.worker == worker;
        let lane = self.lanes.iter().position(same).unwrap_or_else(|| {
            self.lanes.push(Lane { instance, worker, open: false, ready: BTreeSet::new() });
            self.lanes.len() - 1
        });
        self.lane_of.push(lane as u32);
    }

    /// Enters a job after all others; it is not ready yet.
    pub fn add(&mut self, jobs: &[JobState]) {
        if self.kind == Kind::RankedPriority {
            // Its rank is anywhere: rank all anew.
            let old = std::mem::replace(self, Self::new(self.kind, jobs));
            for lane in &old.lanes {
                for &rank in &lane.ready {
                    self.set_ready(old.by_rank[rank as usize], true);
                }
            }
            return;
        }
        let rank = self.by_rank.len() as u32;
        self.by_rank.push(JobIx(rank));
        self.rank_of.push(rank);
        self.enter(&jobs[rank as usize]);
    }

    pub fn lanes(&mut self) -> &mut [Lane] {
        &mut self.lanes
    }

    /// The job could start something if its lane is open.
    pub fn set_ready(&mut self, job: JobIx, ready: bool) {
        let rank = self.rank_of[job.index()];
        let lane = &mut self.lanes[self.lane_of[job.index()] as usize];
        if ready {
            lane.ready.insert(rank);
        } else {
            lane.ready.remove(&rank);
        }
    }

    pub fn is_startable(&self, job: JobIx) -> bool {
        let lane = &self.lanes[self.lane_of[job.index()] as usize];
        lane.open && lane.ready.contains(&self.rank_of[job.index()])
    }

    fn open_lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.open)
    }

    /// Ranks of jobs that can start something, lane by lane.
    fn startable(&self) -> impl Iterator<Item = u32> {
        self.open_lanes().flat_map(|lane| lane.ready.iter().copied())
    }

    fn first_in(&self, ranks: Range<u32>) -> Option<u32> {
        if ranks.is_empty() {
            return None;
        }
        let firsts = self.open_lanes().filter_map(|lane| lane.ready.range(ranks.clone()).next());
        firsts.min().copied()
    }

    /// The first of these at or after `from`, or else the first before it.
    fn first_from(&self, ranks: Range<u32>, from: u32) -> Option<u32> {
        self.first_in(from..ranks.end).or_else(|| self.first_in(ranks.start..from))
    }

    pub fn any_startable(&self) -> bool {
        self.open_lanes().any(|lane| !lane.ready.is_empty())
    }

    pub fn next(&mut self, jobs: &[JobState], rng: &mut Rng) -> Option<JobIx> {
        let all = 0..self.by_rank.len() as u32;
        let rank = match self.kind {
            Kind::RoundRobin => {
                let rank = self.first_from(all.clone(), self.turn.min(all.end))?;
                self.turn = rank + 1;
                rank
            }
            Kind::RankedPriority => {
                // Equals are drawn at random, so that none starves.
                let first = self.first_in(all)?;
                let group = first..self.group_end[first as usize];
                let from = first + rng.below(group.len()) as u32;
                self.first_from(group, from)?
            }
            Kind::RandomizedPriority => self.draw(jobs, rng)?,
            Kind::LongTail => self.startable().min_by_key(|&rank| {
                (jobs[self.by_rank[rank as usize].index()].count(TaskState::CanRun), rank)
            })?,
        };
        Some(self.by_rank[rank as usize])
    }

    /// A rank with a probability in proportion to its priority. Jobs without a positive priority
    /// are drawn, all alike, only when no other can start anything.
    fn draw(&self, jobs: &[JobState], rng: &mut Rng) -> Option<u32> {
        let weight = |rank: u32| jobs[self.by_rank[rank as usize].index()].config.priority.max(0.0);
        let total: f64 = self.startable().map(weight).sum();
        if total <= 0.0 {
            let count = self.startable().count();
            return self.startable().nth(rng.below(count.max(1)));
        }
        let mut left = rng.unit() * total;
        let mut chosen = None;
        for rank in self.startable().filter(|&rank| weight(rank) > 0.0) {
            chosen = Some(rank);
            left -= weight(rank);
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}
