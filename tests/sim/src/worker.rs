//! A worker's process: the real core, a ledger that keeps what was committed, and its shell's ways
//! of asking for its lease and of holding assignments of a reign it has not heard of.

use std::collections::BTreeMap;

use bistro_common::ids::{AttemptId, CellId, Incarnation, LedgerId, WorkerName};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Capacity, Heartbeat, HeartbeatAnswer};
use bistro_common::protocol::task::{OpenAttempt, TaskResult};
use bistro_worker_core::{Effect, Facts, Input, LedgerRecord, WorkerCore, lost, records};
use rustc_hash::FxHashMap;

use crate::faults::{Node, SCHEDULER};
use crate::net::{Body, NATS, Reply, Request};
use crate::queue::{MS, SEC, Us};
use crate::rules::Rule;
use crate::world::{Doom, Event, World};

/// So many assignments may wait for a heartbeat's answer, as in the shell.
const HELD_MAX: usize = 64;
const STOP_TIMEOUT: Us = 20 * SEC;

enum Asked {
    Heartbeat { sent: u64 },
    Publish { attempts: Vec<AttemptId> },
    Goodbye,
}

/// What was fsynced.
#[derive(Default)]
struct Ledger {
    cell: Option<CellId>,
    open: BTreeMap<AttemptId, OpenAttempt>,
    finished: BTreeMap<AttemptId, TaskResult>,
}

#[derive(Default)]
pub struct Worker {
    pub core: Option<WorkerCore>,
    ledger: Ledger,
    asked: FxHashMap<u64, Asked>,
    /// Heartbeats that are not answered yet.
    asking: u32,
    held: Vec<Input>,
    heartbeat_at: Us,
    /// A commit keeps the loop until then.
    pub busy_until: Us,
    /// Of the guard's deadline: the last one that was set counts.
    pub deadline: u64,
    lives: u64,
    stop_by: Option<Us>,
    pub doom: Option<Doom>,
    /// Records that a broken shell has not fsynced yet.
    unsynced: Vec<LedgerRecord>,
    /// The last lease, for worlds in which a rule is off.
    pub lease: Option<(u64, HeartbeatAnswer)>,
}

/// Workers are called after their nodes.
pub fn name(node: Node) -> WorkerName {
    WorkerName::new(format!("w{node}")).expect("a valid name")
}

pub fn node(name: &WorkerName) -> Node {
    name.as_str()[1..].parse().expect("the name of a node")
}

impl Ledger {
    fn keep(&mut self, record: LedgerRecord) {
        match record {
            LedgerRecord::Joined { cell } => self.cell = Some(cell),
            LedgerRecord::Starting { attempt } => {
                self.open.insert(attempt.attempt, attempt);
            }
            LedgerRecord::Finished { result } => {
                self.open.remove(&result.attempt);
                self.finished.insert(result.attempt, result);
            }
            LedgerRecord::Settled { attempt } => drop(self.finished.remove(&attempt)),
        }
    }
}

impl World {
    pub fn worker(&mut self, node: Node) -> &mut Worker {
        &mut self.workers[node - 1]
    }

    pub fn boot_worker(&mut self, node: Node) {
        if !self.off(Rule::EndLeftovers) {
            self.end_all(node);
        }
        let now = self.hosts[node].clock.read(self.now);
        let worker = self.worker(node);
        worker.lives += 1;
        let lives = worker.lives;
        let open = std::mem::take(&mut worker.ledger.open);
        for open in open.into_values() {
            worker.ledger.keep(LedgerRecord::Finished { result: lost(open, now) });
        }
        let unsettled = worker.ledger.finished.values().cloned().collect();
        let core = WorkerCore::new(
            name(node),
            incarnation(node, now, lives),
            LedgerId::from_parts(1, [node as u8; 10]),
            worker.ledger.cell,
            unsettled,
        );
        worker.core = Some(core);
        self.worker(node).heartbeat_at = self.now;
        self.plan_wake(node, self.now);
    }

    pub fn kill_worker(&mut self, node: Node, abruptly: bool) {
        let worker = self.worker(node);
        worker.core = None;
        worker.asked.clear();
        worker.held.clear();
        worker.asking = 0;
        worker.stop_by = None;
        worker.doom = None;
        worker.unsynced.clear();
        self.kill_process(node, abruptly);
    }

    pub fn stop_worker(&mut self, node: Node) {
        self.worker(node).stop_by = Some(self.now + STOP_TIMEOUT);
        self.worker_step(node, vec![Input::Stop]);
    }

    pub fn worker_hears(&mut self, node: Node, input: Input) {
        self.worker_step(node, vec![input]);
    }

    pub fn worker_wakes(&mut self, node: Node) {
        self.worker_step(node, vec![Input::Tick]);
        if self.workers[node - 1].core.is_some() && self.now >= self.workers[node - 1].heartbeat_at
        {
            self.send_heartbeat(node);
        }
        self.plan_worker_wake(node);
    }

    pub fn heartbeat_soon(&mut self, node: Node) {
        self.worker(node).heartbeat_at = self.now;
        self.plan_wake(node, self.now);
    }

    fn plan_worker_wake(&mut self, node: Node) {
        let worker = &self.workers[node - 1];
        let Some(core) = &worker.core else { return };
        let wake = core.next_wake().map(|at| self.hosts[node].clock.when(at));
        let at = [wake, Some(worker.heartbeat_at), worker.stop_by].into_iter().flatten().min();
        if let Some(at) = at {
            self.plan_wake(node, at.max(self.now + 1));
        }
    }

    /// As the driver does: one commit for a group of inputs, then their effects.
    fn worker_step(&mut self, node: Node, inputs: Vec<Input>) {
        let now = self.hosts[node].clock.read(self.now);
        let worker = &mut self.workers[node - 1];
        let Some(core) = &mut worker.core else { return };
        let mut effects = Vec::new();
        for input in inputs {
            core.step(now, input, &mut effects);
            self.steps += 1;
        }
        let records = records(&effects);
        let doom = if records.is_empty() { None } else { self.worker(node).doom.take() };
        if let Some(Doom { effects: None }) = doom {
            return self.crash_soon_back(node);
        }
        if !records.is_empty() {
            self.commit_ledger(node, records);
        }
        if let Some(Doom { effects: Some(count) }) = doom {
            effects.truncate(count.into());
        }
        for effect in effects {
            self.perform_worker(node, effect);
        }
        match doom {
            Some(_) => self.crash_soon_back(node),
            None => self.leave_if_stopped(node),
        }
        self.plan_worker_wake(node);
    }

    fn commit_ledger(&mut self, node: Node, records: Vec<LedgerRecord>) {
        let busy_until = self.now + self.commit_time(node);
        let late = self.off(Rule::LedgerBeforeSpawn);
        let worker = self.worker(node);
        worker.busy_until = busy_until;
        // With the rule off they reach the disk with the next commit, if there is one.
        let synced = std::mem::take(&mut worker.unsynced);
        synced.into_iter().for_each(|record| worker.ledger.keep(record));
        for record in records {
            match record {
                LedgerRecord::Starting { .. } if late => worker.unsynced.push(record),
                record => worker.ledger.keep(record),
            }
        }
    }

    fn leave_if_stopped(&mut self, node: Node) {
        let worker = &self.workers[node - 1];
        let (Some(core), Some(by)) = (&worker.core, worker.stop_by) else { return };
        let alone = core.running() == 0 && !self.hosts[node].link.connected;
        if core.is_stopped() || alone || self.now >= by {
            let heartbeat = self.heartbeat(node, true);
            let goodbye = Request::Heartbeat(Box::new(heartbeat));
            if let Some(id) = self.request(node, SCHEDULER, goodbye) {
                self.worker(node).asked.insert(id, Asked::Goodbye);
            }
            self.kill_worker(node, false);
        }
    }

    fn perform_worker(&mut self, node: Node, effect: Effect) {
        match effect {
            Effect::Persist(_) => {}
            Effect::Deadline(at) => {
                let at = self.hosts[node].clock.when(at);
                let worker = self.worker(node);
                worker.deadline += 1;
                let deadline = worker.deadline;
                if !self.off(Rule::GuardDeadline) {
                    self.queue.plan(at, Event::Deadline(node, deadline));
                }
            }
            Effect::AssignReply { token, reply } => self.reply(node, token, Reply::Assign(reply)),
            Effect::ControlReply { token, reply } => self.reply(node, token, Reply::Control(reply)),
            Effect::Spawn(assignment) => self.spawn(node, &assignment),
            Effect::Kill { attempt, kill } => self.kill_task(attempt, kill),
            Effect::Publish(results) => self.publish(node, results),
            Effect::HeartbeatNow => self.heartbeat_soon(node),
            Effect::Reborn => {
                let now = self.hosts[node].clock.read(self.now);
                let worker = self.worker(node);
                worker.lives += 1;
                let next = incarnation(node, now, worker.lives);
                worker.core.as_mut().expect("it is stepping").reborn(next);
                self.heartbeat_soon(node);
            }
            Effect::Ignored { .. } => {}
            Effect::Unwanted { .. } => self.crash_soon_back(node),
        }
    }

    fn spawn(&mut self, node: Node, assignment: &Assignment) {
        let started = self.hosts[node].clock.read(self.now);
        self.start_task(node, &assignment.open, started);
    }

    fn publish(&mut self, node: Node, results: Vec<TaskResult>) {
        let attempts: Vec<_> = results.iter().map(|result| result.attempt).collect();
        let incarnation = self.worker(node).core.as_ref().expect("it is stepping").incarnation;
        let cell = crate::scheduler::cell_id();
        let done = Done { v: VERSION, cell, worker: name(node), incarnation, results };
        match self.request(node, NATS, Request::Done(done)) {
            Some(id) => drop(self.worker(node).asked.insert(id, Asked::Publish { attempts })),
            None => {
                let failed = Box::new(Input::Published { attempts, stored: false });
                self.queue.plan(self.now, Event::WorkerHears(node, self.hosts[node].life, failed));
            }
        }
    }

    fn heartbeat(&mut self, node: Node, last: bool) -> Heartbeat {
        let facts = Facts {
            host: format!("host{node}"),
            boot: String::new(),
            pid: 1,
            build: String::new(),
            started_ms: self.hosts[node].clock.read(0),
            capacity: Capacity::default(),
        };
        self.worker(node).core.as_mut().expect("it is alive").heartbeat(facts, last)
    }

    fn send_heartbeat(&mut self, node: Node) {
        let heartbeat = self.heartbeat(node, false);
        let sent = self.hosts[node].clock.read(self.now);
        let now = self.now;
        let worker = self.worker(node);
        let every = worker.core.as_ref().expect("it is alive").heartbeat_ms();
        worker.heartbeat_at = now + every * MS;
        let request = Request::Heartbeat(Box::new(heartbeat));
        if let Some(id) = self.request(node, SCHEDULER, request) {
            let worker = self.worker(node);
            worker.asked.insert(id, Asked::Heartbeat { sent });
            worker.asking += 1;
        }
    }

    pub fn worker_receives(&mut self, node: Node, body: Body) {
        match body {
            Body::Request { id, request: Request::Assign(mut assign) } => {
                let Some(core) = &self.workers[node - 1].core else { return };
                let unknown = core.epoch_seen() < assign.fence.epoch;
                self.undo_fences(node, &mut assign.fence);
                let input = Input::Assign { token: id, assign };
                let worker = self.worker(node);
                if unknown && worker.asking > 0 && worker.held.len() < HELD_MAX {
                    worker.held.push(input);
                } else {
                    self.worker_step(node, vec![input]);
                }
            }
            Body::Request { id, request: Request::Control(mut control) } => {
                self.undo_fences(node, &mut control.fence);
                self.undo_floor(&mut control);
                self.worker_step(node, vec![Input::Control { token: id, control }]);
            }
            Body::Beacon => self.heartbeat_soon(node),
            Body::Reply { id, reply } => match self.worker(node).asked.remove(&id) {
                Some(Asked::Heartbeat { sent }) => self.heartbeat_answered(node, sent, reply),
                Some(Asked::Publish { attempts }) => {
                    let stored = matches!(reply, Reply::Stored);
                    let mut inputs = vec![Input::Published { attempts: attempts.clone(), stored }];
                    if stored && self.off(Rule::SettleBeforeForget) {
                        inputs.extend(self.forget_at_once(node, attempts));
                    }
                    self.worker_step(node, inputs);
                }
                Some(Asked::Goodbye) | None => {}
            },
            body => unreachable!("nobody sends {body:?} to a worker"),
        }
    }

    fn heartbeat_answered(&mut self, node: Node, sent: u64, reply: Reply) {
        let longer = self.off(Rule::LeaseOrder);
        let worker = self.worker(node);
        worker.asking -= 1;
        let mut inputs = Vec::new();
        if let Reply::Heartbeat(reply) = reply {
            let mut answer = reply.answer;
            if let HeartbeatAnswer::Lease { terms, .. } = &mut answer {
                if longer {
                    terms.lease_ms *= 2;
                }
                worker.lease = Some((sent, answer.clone()));
            }
            inputs.push(Input::Heartbeat { sent, answer });
        }
        inputs.append(&mut worker.held);
        self.worker_step(node, inputs);
    }
}

fn incarnation(node: Node, now: u64, lives: u64) -> Incarnation {
    // Lives that begin within one millisecond are told apart, and stay in order.
    let mut bits = [node as u8; 10];
    bits[..8].copy_from_slice(&lives.to_be_bytes());
    Incarnation::from_parts(now, bits)
}
