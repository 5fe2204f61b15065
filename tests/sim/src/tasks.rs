//! Tasks as processes of a machine: they end by themselves or are killed, whatever has become of
//! who started them.

use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::task::{Kill, KillMethod, OpenAttempt, Outcome, TaskResult};
use bistro_common::status::{TaskStatus, bits};
use bistro_worker_core::Input;

use crate::faults::Node;
use crate::queue::{MS, SEC, Us};
use crate::world::{Event, World};

/// A guard that works takes no longer to end a tree that it kills.
const KILL_MAX: Us = 20 * MS;

pub struct Task {
    node: Node,
    /// The process that hears of its end.
    life: u64,
    attempt: OpenAttempt,
    alive: bool,
    obeys_term: bool,
}

impl World {
    pub fn start_task(&mut self, node: Node, open: &OpenAttempt, started_ms: u64) {
        let (now, trace) = (self.now, &mut self.trace);
        trace.say(now, || format!("worker {node} starts {} {}", open.task, open.attempt));
        self.trace.mix(open.attempt.0.as_u64_pair().1);
        self.checks.started(node, &open.task, open.attempt);
        let attempt = OpenAttempt { started_ms, ..open.clone() };
        let life = self.hosts[node].life;
        let obeys_term = self.rng.u8(0..4) > 0;
        self.tasks.push(Task { node, life, attempt, alive: true, obeys_term });
        let lasts = match self.rng.u8(0..8) {
            0 => self.rng.u64(100..20 * MS),
            1 => self.rng.u64(SEC..30 * SEC),
            _ => self.rng.u64(100 * MS..4 * SEC),
        };
        self.queue.plan(self.now + lasts, Event::Exits(self.tasks.len() - 1));
    }

    /// It ends by itself.
    pub fn task_exits(&mut self, task: usize) {
        let bits = match self.rng.u8(0..10) {
            // At last everything is to be done.
            _ if self.now > self.whole_at => bits::DONE,
            0..4 => bits::INCOMPLETE,
            4 => bits::ERROR_BACKOFF,
            _ => bits::DONE,
        };
        self.end_task(task, TaskStatus::new(bits));
    }

    /// It has been killed.
    pub fn task_dies(&mut self, task: usize) {
        self.end_task(task, TaskStatus::new(bits::ERROR_BACKOFF));
    }

    fn end_task(&mut self, task: usize, status: TaskStatus) {
        let task = &mut self.tasks[task];
        if !std::mem::take(&mut task.alive) {
            return;
        }
        let (node, life, attempt) = (task.node, task.life, task.attempt.clone());
        let well = status.has(bits::DONE);
        let name: TaskName = attempt.task.clone();
        let (now, trace) = (self.now, &mut self.trace);
        trace.say(now, || format!("{name} {} ends, done: {well}", attempt.attempt));
        self.checks.ended(&name, attempt.attempt, well);
        let result = TaskResult {
            attempt: attempt.attempt,
            task: name,
            attempt_no: attempt.attempt_no,
            outcome: Outcome::Reported { status },
            started_ms: attempt.started_ms,
            ended_ms: self.hosts[node].clock.read(self.now),
            exit: None,
            usage: None,
        };
        let input = Box::new(Input::Ended { result });
        self.queue.plan(self.now + MS, Event::WorkerHears(node, life, input));
    }

    pub fn kill_task(&mut self, attempt: AttemptId, kill: Kill) {
        let found = self.tasks.iter().position(|t| t.alive && t.attempt.attempt == attempt);
        let Some(task) = found else { return };
        let term = self.now + self.rng.u64(MS..200 * MS);
        let kill_at = match kill.method {
            KillMethod::Term => None,
            KillMethod::Kill => Some(self.now),
            KillMethod::TermWaitKill => Some(self.now + kill.wait_ms * MS),
        };
        if self.tasks[task].obeys_term && kill.method != KillMethod::Kill {
            self.queue.plan(term, Event::Dies(task));
        }
        if let Some(at) = kill_at {
            let at = at + self.rng.u64(MS..KILL_MAX);
            self.queue.plan(at, Event::Dies(task));
        }
    }

    /// The guard, or what comes after it, kills all that runs on a machine.
    pub fn kill_tasks_of(&mut self, node: Node) {
        for task in 0..self.tasks.len() {
            if self.tasks[task].alive && self.tasks[task].node == node {
                let at = self.now + self.rng.u64(MS..KILL_MAX);
                self.queue.plan(at, Event::Dies(task));
            }
        }
    }

    /// All that runs on a machine is gone at once.
    pub fn end_all(&mut self, node: Node) {
        for task in 0..self.tasks.len() {
            if self.tasks[task].node == node {
                self.task_dies(task);
            }
        }
    }

    pub fn any_task_alive(&self) -> bool {
        self.tasks.iter().any(|task| task.alive)
    }
}
