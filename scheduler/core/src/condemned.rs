//! Attempts that must end though nobody asked for it: orphans, whose job or node is gone, and those
//! that hold more than a lowered limit allows.

use rustc_hash::{FxHashMap, FxHashSet};

use bistro_common::Millis;
use bistro_common::ids::AttemptId;
use bistro_common::protocol::event::Event;
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::bits;

use crate::Core;
use crate::attempts::Attempt;
use crate::forest::NodeIx;
use crate::io::Effect;
use crate::plan::Plan;
use crate::tasks::TaskIx;
use crate::workers::WorkerIx;

/// A worker is asked again after so long; less often once that has not helped.
const REPEAT_MS: u64 = 1_000;
const PATIENCE: u32 = 10;
const REPEAT_LATER_MS: u64 = 30_000;

/// At most so many over-used places are named in one event.
const NAMED_MAX: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `delay_ms`: how long it may go on.
    Orphan {
        delay_ms: u64,
    },
    Preempted,
}

#[derive(Clone, Copy, Debug)]
pub struct Sentence {
    pub cause: Cause,
    /// When its worker is asked next.
    at: Millis,
    asked: u32,
}

/// Slots held beyond a limit: of a resource at a node, or at a worker.
type Excess<Place> = FxHashMap<(Place, usize), i64>;

impl Core {
    /// After a new plan: who is to end now? What was condemned before and is still so keeps its
    /// time.
    pub(crate) fn condemn(&mut self, out: &mut Vec<Effect>) {
        let former = std::mem::take(&mut self.condemned);
        self.executions.clear();
        // Nothing is ended while nothing may be started.
        if !self.plan.config.settings.enabled {
            return;
        }
        let preempted = self.overuse(out);
        let cause = |attempt: &Attempt| match self.orphan_delay(attempt) {
            Some(0) => Some(Cause::Orphan { delay_ms: 0 }),
            _ if preempted.contains(&attempt.id) => Some(Cause::Preempted),
            delay_ms => delay_ms.map(|delay_ms| Cause::Orphan { delay_ms }),
        };
        let causes = self.attempts.iter().filter_map(|a| Some((a.id, cause(a)?)));
        for (id, cause) in causes.collect::<Vec<_>>() {
            let delay_ms = match cause {
                Cause::Orphan { delay_ms } => delay_ms,
                Cause::Preempted => 0,
            };
            let fresh = Sentence { cause, at: self.now + delay_ms, asked: 0 };
            let sentence = former.get(&id).filter(|old| old.cause == cause).copied();
            self.sentence(id, sentence.unwrap_or(fresh));
        }
    }

    fn sentence(&mut self, id: AttemptId, sentence: Sentence) {
        self.executions.insert((sentence.at, id));
        self.condemned.insert(id, sentence);
    }

    /// The attempt's job is gone, disabled or broken, or its node is gone or disabled itself.
    pub fn is_orphan(&self, job: &str, node: &str) -> bool {
        match self.plan.find_task(job, node) {
            Some(task) => self.is_orphaned(task),
            // A job whose level has changed keeps what it runs on nodes that are still there.
            None => match self.plan.job(job) {
                Some(job) => {
                    let nodes = (0..self.plan.forest.level_names().len())
                        .filter_map(|level| self.plan.forest.find(level, node));
                    !self.plan.jobs[job.index()].config.can_run()
                        || !nodes.into_iter().any(|node| self.plan.forest.is_enabled(node))
                }
                None => true,
            },
        }
    }

    fn is_orphaned(&self, task: TaskIx) -> bool {
        !self.plan.jobs[task.job.index()].config.can_run()
            || !self.plan.forest.is_enabled(task.node)
    }

    fn orphan_delay(&self, attempt: &Attempt) -> Option<u64> {
        if let Some(task) = attempt.task() {
            let job = &self.plan.jobs[task.job.index()].config;
            return self.is_orphaned(task).then_some(job.kill_orphans_after_ms)?;
        }
        let task = attempt.name(&self.plan);
        if !self.is_orphan(&task.job, &task.node) {
            return None;
        }
        match self.plan.job(&task.job) {
            Some(job) => self.plan.jobs[job.index()].config.kill_orphans_after_ms,
            None => self.plan.config.settings.kill_orphans_after_ms,
        }
    }

    /// Reports where more is held than the limits allow, and returns the newest attempts that must
    /// end for it, if the settings say so.
    fn overuse(&self, out: &mut Vec<Effect>) -> FxHashSet<AttemptId> {
        let overused = self.plan.resources.overused();
        let mut on_nodes: Excess<NodeIx> =
            overused.map(|(node, resource, excess)| ((node, resource), excess)).collect();
        let mut on_workers: Excess<WorkerIx> = FxHashMap::default();
        // What a worker has is not known before it has said so.
        let heard = self.workers.iter().enumerate().filter(|(_, w)| w.answered.is_some());
        for (worker, state) in heard {
            for (resource, (slots, used)) in state.slots.iter().zip(&state.used).enumerate() {
                if used > slots {
                    on_workers.insert((WorkerIx(worker as u32), resource), used - slots);
                }
            }
        }
        if on_nodes.is_empty() && on_workers.is_empty() {
            return FxHashSet::default();
        }
        self.report_overuse(&on_nodes, &on_workers, out);
        if !self.plan.config.settings.preempt {
            return FxHashSet::default();
        }
        let mut newest: Vec<&Attempt> = self.attempts.iter().collect();
        newest.sort_by_key(|attempt| std::cmp::Reverse((attempt.started_ms, attempt.id)));
        let over =
            |attempt: &&Attempt| take_excess(&self.plan, attempt, &mut on_nodes, &mut on_workers);
        newest.into_iter().filter(over).map(|attempt| attempt.id).collect()
    }

    fn report_overuse(
        &self,
        on_nodes: &Excess<NodeIx>,
        on_workers: &Excess<WorkerIx>,
        out: &mut Vec<Effect>,
    ) {
        let nodes = on_nodes.iter().map(|(&(node, resource), excess)| {
            let limit = &self.plan.resources.limits(self.plan.forest.level_of(node))[resource];
            format!("{} by {excess} on {}", limit.name, self.plan.forest.name(node))
        });
        let workers = on_workers.iter().map(|(&(worker, resource), excess)| {
            let limit = &self.plan.resources.worker_limits()[resource];
            format!("{} by {excess} on the worker {}", limit.name, self.worker(worker).name)
        });
        let mut places: Vec<String> = nodes.chain(workers).collect();
        places.sort_unstable();
        let more = places.len().saturating_sub(NAMED_MAX);
        places.truncate(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!("more is held than the limits allow: {}{more}", places.join(", "));
        out.push(Effect::Publish(Event { text, ..self.event("resources.overused") }));
    }

    /// Asks the workers of those whose time has come, and plans to ask again.
    pub(crate) fn execute(&mut self, out: &mut Vec<Effect>) {
        while let Some(&(at, id)) = self.executions.first()
            && at <= self.now
        {
            self.executions.remove(&(at, id));
            let (Some(sentence), Some(attempt)) =
                (self.condemned.get(&id).copied(), self.attempts.get(id))
            else {
                // It has ended meanwhile.
                self.condemned.remove(&id);
                continue;
            };
            out.push(self.kill_order(attempt, None));
            if sentence.asked == 0 {
                let (kind, text) = match sentence.cause {
                    Cause::Orphan { .. } => {
                        ("task.orphan_killed", "its job or its node is gone or disabled")
                    }
                    Cause::Preempted => ("task.preempted", "a limit was lowered below what runs"),
                };
                let name = attempt.name(&self.plan);
                out.push(self.attempt_event(kind, attempt, &name, text.to_owned()));
            }
            let wait = if sentence.asked < PATIENCE { REPEAT_MS } else { REPEAT_LATER_MS };
            if sentence.cause == Cause::Preempted
                && let Some(attempt) = self.attempts.get_mut(id)
            {
                attempt.preempted = true;
            }
            let again = Sentence { at: self.now + wait, asked: sentence.asked + 1, ..sentence };
            self.sentence(id, again);
        }
    }

    /// What a preempted attempt reports, unless it is done, is no failure of the task.
    pub(crate) fn pardon(&mut self, attempt: &Attempt, mut result: TaskResult) -> TaskResult {
        self.condemned.remove(&result.attempt);
        if attempt.preempted
            && let Outcome::Reported { status } = &result.outcome
            && !status.has(bits::DONE)
        {
            let reason = "it was ended because a limit was lowered".to_owned();
            result.outcome = Outcome::Interrupted { reason };
        }
        result
    }
}

/// Does the attempt hold something beyond a limit? If so, that is less by what it holds.
fn take_excess(
    plan: &Plan,
    attempt: &Attempt,
    on_nodes: &mut Excess<NodeIx>,
    on_workers: &mut Excess<WorkerIx>,
) -> bool {
    let held = |excess: Option<&i64>, amount: i64| amount > 0 && excess.is_some_and(|&e| e > 0);
    let of_worker = attempt.worker_charges(plan);
    let over = attempt.charges(plan).any(|charge| {
        let mut amounts = charge.amounts.iter();
        amounts.any(|&(resource, amount)| held(on_nodes.get(&(charge.node, resource)), amount))
    }) || of_worker
        .iter()
        .any(|&(resource, amount)| held(on_workers.get(&(attempt.worker, resource)), amount));
    if over {
        for charge in attempt.charges(plan) {
            for &(resource, amount) in charge.amounts.iter() {
                on_nodes.entry((charge.node, resource)).and_modify(|excess| *excess -= amount);
            }
        }
        for &(resource, amount) in of_worker.iter() {
            on_workers.entry((attempt.worker, resource)).and_modify(|excess| *excess -= amount);
        }
    }
    over
}
