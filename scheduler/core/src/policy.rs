//! Which job starts a task next, among those that can.
//!
//! Jobs that demand the same of the instance node and of workers share a *lane*: where the last
//! slot goes or comes, a lane closes or opens as a whole, however many jobs are in it. A hundred
//! thousand jobs that wait for one worker cost no more than one.

use bistro_common::config::Policy as Kind;
use std::collections::{BTreeMap, BTreeSet};

use crate::bits::Bits;
use crate::jobs::JobState;
use crate::resources::ClassIx;
use crate::rng::Rng;
use crate::tasks::JobIx;

/// A job's place: first its priority (the highest is the least; the same for all jobs where the
/// policy does not rank), then its number among its equals, in the order they came.
type Place = (u64, u32);

/// Jobs of one demand that could start something if the lane is open.
#[derive(Debug)]
pub struct Lane {
    /// Their class at the instance node, and on workers.
    pub instance: ClassIx,
    pub worker: ClassIx,
    pub open: bool,
    ranks: BTreeMap<u64, Shelf>,
    /// By shelf, the numbers of the jobs that are ready.
    ready: Vec<Bits>,
    /// For long tail: the ready jobs by how many of their tasks could start, room apart.
    tail: BTreeSet<(u64, JobIx)>,
}

/// Number of a rank within its lane.
#[derive(Clone, Copy, Debug)]
struct Shelf(u32);

/// Where a job is.
#[derive(Clone, Copy, Debug)]
struct Seat {
    place: Place,
    lane: u32,
    shelf: Shelf,
}

impl Lane {
    fn shelf(&mut self, rank: u64) -> Shelf {
        *self.ranks.entry(rank).or_insert_with(|| {
            self.ready.push(Bits::default());
            Shelf(self.ready.len() as u32 - 1)
        })
    }

    fn set(&mut self, seat: Seat, ready: bool) -> bool {
        self.ready[seat.shelf.0 as usize].set(seat.place.1 as usize, ready)
    }

    fn has(&self, seat: Seat) -> bool {
        self.ready[seat.shelf.0 as usize].holds(seat.place.1 as usize)
    }

    fn by_rank(&self) -> impl Iterator<Item = (u64, &Bits)> {
        self.ranks.iter().map(|(&rank, shelf)| (rank, &self.ready[shelf.0 as usize]))
    }

    /// The best rank with a ready job.
    fn best(&self) -> Option<u64> {
        self.by_rank().find(|(_, ready)| !ready.is_empty()).map(|(rank, _)| rank)
    }

    /// The first among equals, from a number on and before another.
    fn first(&self, rank: u64, from: u32, to: u32) -> Option<u32> {
        let ready = &self.ready[self.ranks.get(&rank)?.0 as usize];
        ready.first_in(from as usize..to as usize).map(|at| at as u32)
    }
}

/// The jobs that can start something, and whose turn it is.
#[derive(Debug)]
pub struct Policy {
    kind: Kind,
    /// Jobs of equal rank.
    equals: BTreeMap<u64, Vec<JobIx>>,
    seats: Vec<Seat>,
    /// For long tail: how many tasks of each job could start.
    left: Vec<u64>,
    lanes: Vec<Lane>,
    /// Whose turn it is among equals.
    turn: u32,
}

/// The priority of a rank.
fn priority(rank: u64) -> f64 {
    let ascending = !rank;
    f64::from_bits(if ascending >> 63 == 1 { ascending & !(1 << 63) } else { !ascending })
}

/// Higher priorities come first.
fn rank(priority: f64) -> u64 {
    // Zero has two signs and one rank.
    let bits = (priority + 0.0).to_bits();
    let ascending = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    !ascending
}

impl Policy {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            equals: BTreeMap::new(),
            seats: Vec::new(),
            left: Vec::new(),
            lanes: Vec::new(),
            turn: 0,
        }
    }

    /// Enters the next job; it is not ready yet. A lane that is new is closed.
    pub fn add(&mut self, job: &JobState) {
        let rank = match self.kind {
            Kind::RankedPriority | Kind::RandomizedPriority => rank(job.config.priority),
            Kind::RoundRobin | Kind::LongTail => 0,
        };
        let equals = self.equals.entry(rank).or_default();
        equals.push(JobIx(self.seats.len() as u32));
        let place = (rank, equals.len() as u32 - 1);
        let (instance, worker) = (job.instance_class(), job.worker_class);
        let same = |lane: &Lane| lane.instance == instance && lane.worker == worker;
        let lane = self.lanes.iter().position(same).unwrap_or_else(|| {
            let (ranks, ready, tail) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
            self.lanes.push(Lane { instance, worker, open: false, ranks, ready, tail });
            self.lanes.len() - 1
        });
        let shelf = self.lanes[lane].shelf(rank);
        self.lanes[lane].ready[shelf.0 as usize].make_room(place.1 as usize);
        self.seats.push(Seat { place, lane: lane as u32, shelf });
        self.left.push(0);
    }

    /// Does it matter how many tasks of a job are left?
    pub fn counts_what_is_left(&self) -> bool {
        self.kind == Kind::LongTail
    }

    pub fn left(&self, job: JobIx) -> u64 {
        self.left[job.index()]
    }

    pub fn set_left(&mut self, job: JobIx, left: u64) {
        let before = std::mem::replace(&mut self.left[job.index()], left);
        let tail = &mut self.lanes[self.seats[job.index()].lane as usize].tail;
        if tail.remove(&(before, job)) {
            tail.insert((left, job));
        }
    }

    pub fn lanes(&mut self) -> &mut [Lane] {
        &mut self.lanes
    }

    /// The job could start something if its lane is open. Returns whether that is a change.
    pub fn set_ready(&mut self, job: JobIx, ready: bool) -> bool {
        let seat = self.seats[job.index()];
        let lane = &mut self.lanes[seat.lane as usize];
        let changed = lane.set(seat, ready);
        if self.kind == Kind::LongTail {
            let entry = (self.left[job.index()], job);
            match ready {
                true => drop(lane.tail.insert(entry)),
                false => drop(lane.tail.remove(&entry)),
            }
        }
        changed
    }

    pub fn is_ready(&self, job: JobIx) -> bool {
        let seat = self.seats[job.index()];
        let lane = &self.lanes[seat.lane as usize];
        let in_tail = lane.tail.contains(&(self.left[job.index()], job));
        debug_assert!(self.kind != Kind::LongTail || in_tail == lane.has(seat));
        lane.has(seat)
    }

    pub fn is_lane_open(&self, job: JobIx) -> bool {
        self.lanes[self.seats[job.index()].lane as usize].open
    }

    fn open_lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.open)
    }

    fn job_at(&self, (rank, at): Place) -> JobIx {
        self.equals[&rank][at as usize]
    }

    /// Among equals, the first from a number on, or else the first of all.
    fn first_from(&self, rank: u64, from: u32) -> Option<Place> {
        let len = self.equals.get(&rank).map_or(0, |equals| equals.len() as u32);
        let first = |from, to| self.open_lanes().filter_map(|l| l.first(rank, from, to)).min();
        first(from, len).or_else(|| first(0, from.min(len))).map(|at| (rank, at))
    }

    pub fn any_startable(&self) -> bool {
        self.open_lanes().any(|lane| lane.best().is_some())
    }

    /// The job whose turn it is.
    pub fn next(&mut self, rng: &mut Rng) -> Option<JobIx> {
        match self.kind {
            Kind::RoundRobin => {
                let place = self.first_from(0, self.turn)?;
                self.turn = place.1 + 1;
                Some(self.job_at(place))
            }
            Kind::RankedPriority => {
                // Equals are drawn at random, so that none starves.
                let rank = self.open_lanes().filter_map(Lane::best).min()?;
                let from = rng.below(self.equals[&rank].len()) as u32;
                self.first_from(rank, from).map(|place| self.job_at(place))
            }
            Kind::RandomizedPriority => self.draw(rng),
            Kind::LongTail => {
                let firsts = self.open_lanes().filter_map(|lane| lane.tail.first());
                firsts.min().map(|&(_, job)| job)
            }
        }
    }

    /// A job with a probability in proportion to its priority. Jobs without a positive priority
    /// are drawn, all alike, only when no other can start anything.
    fn draw(&self, rng: &mut Rng) -> Option<JobIx> {
        let shelves = || self.open_lanes().flat_map(Lane::by_rank).filter(|(_, r)| !r.is_empty());
        let any_positive = shelves().any(|(rank, _)| priority(rank) > 0.0);
        let weight = |rank: u64, ready: &Bits| {
            let each = if any_positive { priority(rank).max(0.0) } else { 1.0 };
            each * ready.count() as f64
        };
        let all: f64 = shelves().map(|(rank, ready)| weight(rank, ready)).sum();
        let mut left = rng.unit() * all;
        let mut chosen = None;
        for (rank, ready) in shelves() {
            let weight = weight(rank, ready);
            if weight > 0.0 {
                chosen = Some((rank, ready));
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        let (rank, ready) = chosen?;
        let at = ready.nth(rng.below(ready.count()))?;
        Some(self.job_at((rank, at as u32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_priorities_rank_first() {
        let sorted = [1e300, 2.5, 1.0, 0.0, -0.5, -1e300];
        assert!(sorted.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(0.0), rank(-0.0));
        assert_eq!(sorted.map(rank).map(priority), sorted);
    }
}
