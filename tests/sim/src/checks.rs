//! The promises G1 to G5, checked against what really happens in the world, not against what
//! anybody in it believes.

use rustc_hash::{FxHashMap, FxHashSet};

use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::event::Event;

use crate::faults::Node;
use crate::workload::{HOST_SLOTS, WORKER_SLOTS, host_of};

#[derive(Default)]
pub struct Checks {
    attempts: FxHashMap<AttemptId, Seen>,
    /// A process of the task is alive.
    running: FxHashMap<TaskName, (AttemptId, Node)>,
    /// The store says so.
    done: FxHashSet<TaskName>,
    pub violation: Option<String>,
}

/// What became of an attempt.
#[derive(Default)]
struct Seen {
    started: bool,
    /// Its process has ended by itself, and has said that it is done.
    well: bool,
    /// The scheduler has said how it ended.
    concluded: bool,
    /// The scheduler has said that it was never started.
    never_started: bool,
}

impl Checks {
    fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    pub fn running(&self, task: &TaskName) -> Option<AttemptId> {
        self.running.get(task).map(|&(attempt, _)| attempt)
    }

    /// What runs on a worker's machine.
    pub fn running_on(&self, node: Node) -> Option<AttemptId> {
        let mut on_node = self.running.values().filter(|&&(_, on)| on == node);
        on_node.next().map(|&(attempt, _)| attempt)
    }

    pub fn started(&mut self, node: Node, task: &TaskName, attempt: AttemptId) {
        let seen = self.attempts.entry(attempt).or_default();
        let (again, disowned) = (seen.started, seen.never_started);
        seen.started = true;
        if again {
            self.violate(|| format!("G1: attempt {attempt} of {task} was started twice"));
        }
        if disowned {
            self.violate(|| format!("G1: {attempt} of {task} was to be never started, and was"));
        }
        if let Some((other, on)) = self.running.insert(task.clone(), (attempt, node)) {
            self.violate(|| {
                format!("G2: {task} was started on worker {node} while attempt {other} ran on {on}")
            });
        }
        if self.done.contains(task) {
            self.violate(|| format!("G3: {task} was started again after it was reported done"));
        }
        self.check_slots(node, task);
    }

    fn check_slots(&mut self, node: Node, task: &TaskName) {
        let host = host_of(&task.node);
        let on_host = self.running.keys().filter(|task| host_of(&task.node) == host).count();
        if on_host > HOST_SLOTS {
            self.violate(|| format!("G5: {on_host} tasks run on the node {host}"));
        }
        let on_worker = self.running.values().filter(|&&(_, on)| on == node).count();
        if on_worker > WORKER_SLOTS {
            self.violate(|| format!("G5: {on_worker} tasks run on worker {node}"));
        }
    }

    pub fn ended(&mut self, task: &TaskName, attempt: AttemptId, well: bool) {
        if self.running.get(task).is_some_and(|&(running, _)| running == attempt) {
            self.running.remove(task);
        }
        self.attempts.entry(attempt).or_default().well = well;
    }

    pub fn reported_done(&mut self, task: &TaskName) {
        self.done.insert(task.clone());
    }

    pub fn scheduler_says(&mut self, event: &Event) {
        let Some(attempt) = event.attempt else { return };
        let seen = self.attempts.entry(attempt).or_default();
        let (started, well, concluded) = (seen.started, seen.well, seen.concluded);
        match &*event.kind {
            "task.done" | "task.backoff" | "task.incomplete" => {
                seen.concluded = true;
                if concluded {
                    self.violate(|| format!("the result of attempt {attempt} was applied twice"));
                }
                if event.kind == "task.done" && !well {
                    self.violate(|| format!("attempt {attempt} was not done, and was called done"));
                }
            }
            "task.never_started" => {
                seen.never_started = true;
                if started {
                    self.violate(|| format!("attempt {attempt} ran, and was called never started"));
                }
            }
            "task.lost" => {
                let alive = self.running.values().any(|&(running, _)| running == attempt);
                if alive {
                    self.violate(|| format!("G2: attempt {attempt} was given up while it ran"));
                }
            }
            _ => {}
        }
    }
}
