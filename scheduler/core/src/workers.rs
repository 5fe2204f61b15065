//! The workers: their leases, their slots, and which of them can take what.

use std::sync::Arc;

use bistro_common::Millis;
use bistro_common::ids::{Incarnation, LedgerId, Seq, WorkerName};
use bistro_common::protocol::api::WorkerHealth;
use bistro_common::protocol::heartbeat::{Capacity, ClosedReason, Heartbeat, OpenDigest};
use bistro_common::protocol::task::Slots;

use crate::Core;
use crate::attempts::OfWorker;
use crate::bits::Bits;
use crate::forest::NodeIx;
use crate::record::WorkerRecord;
use crate::resources::{Amounts, ClassIx, Classes, Sign, fits_in};
use crate::tasks::JobIx;
use bistro_common::config::WorkerSelector;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIx(pub u32);

impl WorkerIx {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A floor above it is none that any scheduler has set, and must not make numbers overflow.
const SEQ_MAX: Seq = Seq(1 << 62);

#[derive(Debug)]
pub struct Worker {
    pub name: WorkerName,
    pub incarnation: Incarnation,
    pub ledger: LedgerId,
    pub host: String,
    pub build: String,
    /// Of its host's kernel; empty until it has said so in this reign.
    pub boot: String,
    pub capacity: Capacity,
    pub health: WorkerHealth,
    pub closed: Option<ClosedReason>,
    /// An operator wants it to take no new work.
    pub drained: bool,
    /// When its last heartbeat was answered.
    pub answered: Option<Millis>,
    /// When its tasks may start elsewhere.
    pub lease_end: Millis,
    /// No new work before this, after a refusal.
    pub paused_until: Millis,
    /// When to ask about unsure attempts again, and how long to wait after that.
    pub probe_at: Option<Millis>,
    pub probe_wait_ms: u64,
    pub last_seq: Seq,
    /// Slots that it has, one per worker resource, and those in use.
    pub slots: Vec<i64>,
    pub used: Vec<i64>,
    pub attempts: OfWorker,
    pub digest: OpenDigest,
    /// Heartbeats in a row whose digest was not the one expected.
    pub mismatches: u32,
    /// The deadline that is in [`Core::worker_checks`].
    check_at: Option<Millis>,
}

impl Worker {
    fn from_record(record: WorkerRecord, health: WorkerHealth, resources: usize) -> Self {
        Self {
            name: record.name,
            incarnation: record.incarnation,
            ledger: record.ledger,
            host: record.host,
            build: String::new(),
            boot: String::new(),
            capacity: Capacity::default(),
            health,
            closed: None,
            drained: record.drained,
            answered: None,
            lease_end: 0,
            paused_until: 0,
            probe_at: None,
            probe_wait_ms: 0,
            last_seq: Seq(0),
            slots: vec![0; resources],
            used: vec![0; resources],
            attempts: OfWorker::default(),
            digest: OpenDigest::default(),
            mismatches: 0,
            check_at: None,
        }
    }

    pub fn record(&self) -> WorkerRecord {
        WorkerRecord {
            name: self.name.clone(),
            incarnation: self.incarnation,
            ledger: self.ledger,
            host: self.host.clone(),
            drained: self.drained,
        }
    }

    pub fn note(&mut self, heartbeat: &Heartbeat) {
        self.build.clone_from(&heartbeat.build);
        self.boot.clone_from(&heartbeat.boot);
        // What it refuses must not be sent: a store that was put back has forgotten how far we were.
        self.last_seq = self.last_seq.max(heartbeat.floor.min(SEQ_MAX));
        self.host.clone_from(&heartbeat.host);
        self.capacity.clone_from(&heartbeat.capacity);
        self.closed = heartbeat.closed;
    }

    /// Takes or gives back slots; returns whether there are any.
    pub fn change_slots(&mut self, amounts: &[(usize, i64)], sign: Sign) -> bool {
        for &(resource, amount) in amounts {
            self.used[resource] += sign.of(amount);
        }
        !amounts.is_empty()
    }

    fn takes_work(&self, now: Millis) -> bool {
        self.health == WorkerHealth::Healthy
            && self.closed.is_none()
            && !self.drained
            && now >= self.paused_until
    }
}

/// For each class of worker demands, the workers that can take one more.
#[derive(Debug, Default)]
pub struct Rooms {
    pub classes: Classes,
    /// Where the next search begins, so that workers take turns.
    turn: usize,
}

impl Rooms {
    pub fn any(&self, class: ClassIx) -> bool {
        !self.classes.classes[class.index()].room.is_empty()
    }

    /// What a task of the class takes on its worker, by name.
    pub fn slots(&self, class: ClassIx) -> Arc<Slots> {
        self.classes.classes[class.index()].slots.clone()
    }

    /// The same by number.
    pub fn amounts(&self, class: ClassIx) -> &Amounts {
        &self.classes.classes[class.index()].amounts
    }

    /// No worker has room for the class, as far as is known.
    pub fn clear(&mut self, class: ClassIx, workers: usize) {
        self.classes.classes[class.index()].room = Bits::new(workers);
    }

    /// The next worker with room for the class.
    pub fn next(&mut self, class: ClassIx, workers: usize) -> Option<WorkerIx> {
        let room = &self.classes.classes[class.index()].room;
        let found = room.first_from(0..workers, self.turn.min(workers))?;
        self.turn = found + 1;
        Some(WorkerIx(found as u32))
    }
}

impl Core {
    pub(crate) fn worker(&self, worker: WorkerIx) -> &Worker {
        &self.workers[worker.index()]
    }

    pub(crate) fn add_worker(&mut self, record: WorkerRecord, health: WorkerHealth) -> WorkerIx {
        let worker = WorkerIx(self.workers.len() as u32);
        self.worker_names.insert(record.name.clone(), worker);
        let resources = self.plan.resources.worker_limits().len();
        self.workers.push(Worker::from_record(record, health, resources));
        self.refresh_worker_slots(worker);
        let host = self.workers[worker.index()].host.clone();
        self.hosts.entry(host).or_default().push(worker);
        for class in &mut self.plan.rooms.classes.classes {
            class.room.grow(self.workers.len());
        }
        self.refresh_room(worker);
        worker
    }

    /// What the worker has of each resource, by the present plan.
    pub(crate) fn refresh_worker_slots(&mut self, worker: WorkerIx) {
        let state = &mut self.workers[worker.index()];
        let (name, host) = (state.name.to_string(), state.host.as_str());
        let keys = [&format!("{host}:{name}"), host, &name];
        state.slots = self.plan.config.settings.worker_slots(&state.capacity, keys);
    }

    /// Sets all rooms from scratch.
    pub(crate) fn fill_rooms(&mut self) {
        for class in &mut self.plan.rooms.classes.classes {
            class.room = Bits::new(self.workers.len());
        }
        for worker in 0..self.workers.len() {
            self.refresh_room(WorkerIx(worker as u32));
        }
        self.plan.refresh_lanes();
    }

    /// Does the worker take one more of each class?
    pub(crate) fn refresh_room(&mut self, worker: WorkerIx) {
        // When a plan has been entered all rooms are looked at.
        if self.is_entering() {
            return;
        }
        let state = &self.workers[worker.index()];
        let takes_work = state.takes_work(self.now);
        let mut flipped = false;
        for class in 0..self.plan.rooms.classes.classes.len() {
            let of_class = &mut self.plan.rooms.classes.classes[class];
            let state = &self.workers[worker.index()];
            let room = takes_work
                && of_class.wanted.is_on(&state.host)
                && fits_in(&state.slots, &state.used, &of_class.demand);
            let before = of_class.room.is_empty();
            of_class.room.set(worker.index(), room);
            flipped |= of_class.room.is_empty() != before;
        }
        if flipped {
            self.plan.refresh_lanes();
        }
        if !self.plan.placed_jobs.is_empty() {
            let host = self.workers[worker.index()].host.clone();
            self.refresh_host(&host);
        }
    }

    /// Brings up to date which jobs that are placed on this host can start there.
    pub(crate) fn refresh_host(&mut self, host: &str) {
        for at in 0..self.plan.placed_jobs.len() {
            self.refresh_placed(self.plan.placed_jobs[at], host);
        }
    }

    /// The same for one job on all hosts.
    pub(crate) fn refresh_hosts(&mut self, job: JobIx) {
        let hosts: Vec<String> = self.hosts.keys().cloned().collect();
        hosts.iter().for_each(|host| self.refresh_placed(job, host));
    }

    fn refresh_placed(&mut self, job: JobIx, host: &str) {
        let Some(level) = self.plan.jobs[job.index()].placed().map(|placed| placed.level) else {
            return;
        };
        let Some(node) = self.plan.forest.find(level, host) else {
            return;
        };
        let room = self.host_has_room(job, host);
        let position = node.index() - self.plan.forest.level(level).start;
        let routes = self.plan.jobs[job.index()].routes.as_mut();
        let placed = routes.and_then(|routes| routes.placed.as_mut());
        if placed.expect("was just looked at").room.set(position, room) {
            self.plan.refresh_open(job, level, node);
        }
    }

    pub(crate) fn host_has_room(&self, job: JobIx, host: &str) -> bool {
        self.on_host(job, host).next().is_some()
    }

    /// The workers of a host that can take one more task of the job.
    fn on_host<'a>(&'a self, job: JobIx, host: &'a str) -> impl Iterator<Item = WorkerIx> + 'a {
        let class = self.plan.jobs[job.index()].worker_class;
        let room = &self.plan.rooms.classes.classes[class.index()].room;
        let here = self.hosts.get(host).into_iter().flatten();
        here.copied().filter(move |worker| room.get(worker.index()))
    }

    /// Which workers are on which host.
    pub(crate) fn index_hosts(&mut self) {
        self.hosts.clear();
        for (worker, state) in self.workers.iter().enumerate() {
            self.hosts.entry(state.host.clone()).or_default().push(WorkerIx(worker as u32));
        }
    }

    /// The worker for a task at the end of this path; there is one, since the task can start.
    pub(crate) fn choose_worker(&mut self, job: JobIx, path: &[NodeIx]) -> Option<WorkerIx> {
        if let Some(placed) = self.plan.jobs[job.index()].placed() {
            let on_path = *path.get(placed.level)?;
            return self
                .on_host(job, self.plan.forest.name(on_path))
                .min_by_key(|&worker| (self.worker(worker).attempts.len(), worker));
        }
        let class = self.plan.jobs[job.index()].worker_class;
        let room = &self.plan.rooms.classes.classes[class.index()].room;
        match self.plan.config.settings.worker_selector {
            WorkerSelector::RoundRobin => self.plan.rooms.next(class, self.workers.len()),
            WorkerSelector::Busiest => {
                let workers = room.iter().map(|worker| WorkerIx(worker as u32));
                workers.min_by_key(|&worker| (self.left_by_weight(worker), worker))
            }
            WorkerSelector::TwoChoice => {
                let all = 0..self.workers.len();
                let draws = [self.rng.below(all.len()), self.rng.below(all.len())];
                let found = draws.into_iter().filter_map(|from| room.first_from(all.clone(), from));
                let found = found.map(|worker| WorkerIx(worker as u32));
                found.min_by_key(|&worker| (self.worker(worker).attempts.len(), worker))
            }
        }
    }

    /// What the worker has left, by the weights of the resources.
    fn left_by_weight(&self, worker: WorkerIx) -> i64 {
        let state = self.worker(worker);
        let left = state.slots.iter().zip(&state.used).map(|(slots, used)| slots - used);
        self.plan
            .resources
            .worker_limits()
            .iter()
            .zip(left)
            .map(|(limit, left)| limit.weight.saturating_mul(left))
            .sum()
    }

    /// Sets when to look at the worker next, from what it waits for.
    pub(crate) fn schedule_check(&mut self, worker: WorkerIx) {
        let state = &self.workers[worker.index()];
        let terms = self.terms;
        let suspect = (state.health == WorkerHealth::Healthy)
            .then(|| state.answered.map(|at| terms.scheduler_suspect(at)))
            .flatten();
        let lease = (state.health != WorkerHealth::Gone).then_some(state.lease_end);
        let pause = (state.paused_until > self.now).then_some(state.paused_until);
        let check = [suspect, lease, pause, state.probe_at].into_iter().flatten().min();
        let state = &mut self.workers[worker.index()];
        if let Some(old) = std::mem::replace(&mut state.check_at, check) {
            self.worker_checks.remove(&(old, worker));
        }
        if let Some(check) = check {
            self.worker_checks.insert((check, worker));
        }
    }
}
