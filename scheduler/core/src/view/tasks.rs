//! Rows of tasks. A million of them are looked through while somebody types a filter, so what can
//! be said of a whole job is said of it at once, and names are compared once per node rather than
//! once per task.

use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::ops::Range;

use bistro_common::Millis;
use bistro_common::config::LevelIx;
use bistro_common::filter::{Filter, Term, exactly};
use bistro_common::protocol::api::{
    ApiError, ErrorCode, Listing, RunningRow, TaskRow, TaskState, TasksRequest,
};

use super::lists::{Sort, parse};
use crate::Core;
use crate::forest::NodeIx;
use crate::tasks::{JobIx, TaskIx, TaskRecord};

/// So many are sorted or planned for at most; a number takes 8 bytes.
const TASKS_MAX: usize = 2_000_000;

/// So many are held at least before the greater half of them is dropped.
const LEAST_ROOM: usize = if cfg!(test) { 4 } else { 1_024 };

/// Of what a task said of itself, a row of a list has so much.
const STATUS_BYTES_MAX: usize = 400;

/// Masks that are kept; jobs of many different names may need one each.
const MASKS_MAX: usize = 16;

/// What a request for tasks means.
pub(crate) struct Query<'a> {
    request: &'a TasksRequest,
    filter: Filter,
    sort: Option<Sort>,
    /// By [`TaskState`].
    states: [bool; TaskState::ALL.len()],
    /// Which of a level's nodes pass; by level, and by which of the terms about names must hold for
    /// the node since they do not for the job.
    masks: FxHashMap<(LevelIx, u64), Mask>,
    /// Which of a level's nodes each term holds for, compared once.
    held: FxHashMap<(LevelIx, usize), Vec<bool>>,
    now: Millis,
}

struct Mask {
    nodes: Vec<NodeIx>,
    /// These are all of the level.
    all: bool,
}

/// The tasks of a page, out of all that pass.
#[derive(Default)]
struct Found {
    total: usize,
    page: Vec<TaskIx>,
}

impl Core {
    pub fn task_rows(
        &self,
        now: Millis,
        request: &TasksRequest,
    ) -> Result<Listing<TaskRow>, ApiError> {
        let mut query = Query::new(now, request)?;
        let page = request.list.page.range(usize::MAX);
        let found = match query.sort.take() {
            Some(sort) => self.sorted(&mut query, &sort, page.clone())?,
            None => self.found(&mut query, page.clone()),
        };
        // Whatever the order, these come last.
        let homeless = self.homeless_that_pass(&query);
        let of_page = (found.total..).zip(&homeless).filter(|(at, _)| page.contains(at));
        let rows = found.page.into_iter().map(|task| in_brief(self.task_row(task)));
        let items = rows.chain(of_page.map(|(_, (_, row))| row.clone())).collect();
        Ok(Listing { total: (found.total + homeless.len()) as u64, items })
    }

    /// All tasks that pass, in the order of the config, if they are not too many to hold.
    pub(crate) fn tasks_of(&self, query: &mut Query<'_>) -> Result<Vec<TaskIx>, ApiError> {
        let found = self.found(query, 0..TASKS_MAX);
        if found.total > TASKS_MAX {
            let message = format!("{} tasks are too many for this", found.total);
            return Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint(format!("narrow the filter to {TASKS_MAX} of them")));
        }
        Ok(found.page)
    }

    fn found(&self, query: &mut Query<'_>, range: Range<usize>) -> Found {
        let mut found = Found::default();
        if query.is_of_attempts() {
            let mut tasks: Vec<TaskIx> =
                self.attempts.iter().filter_map(|attempt| attempt.task()).collect();
            tasks.sort_unstable();
            for task in tasks.into_iter().filter(|&task| self.passes(query, task)) {
                found.push(task, &range);
            }
            return found;
        }
        for job in (0..self.plan.jobs.len() as u32).map(JobIx) {
            self.find_in_job(query, job, &range, &mut found);
        }
        found
    }

    fn find_in_job(
        &self,
        query: &mut Query<'_>,
        job: JobIx,
        range: &Range<usize>,
        found: &mut Found,
    ) {
        let state = &self.plan.jobs[job.index()];
        let Some(left) = query.left_for_node(&state.config.name) else { return };
        let counts = self.plan.shown_counts(job);
        let in_states: u64 =
            counts.iter().zip(&query.states).filter(|(_, wanted)| **wanted).map(|(n, _)| n).sum();
        if in_states == 0 {
            return;
        }
        if let Some(node) = &query.request.node {
            let node = self.plan.forest.find(state.level(), node);
            let task = node.map(|node| TaskIx { job, node });
            task.filter(|&task| self.passes(query, task)).into_iter().for_each(|task| {
                found.push(task, range);
            });
            return;
        }
        let by_task = query.tests_tasks();
        let mask = query.mask(self, state.level(), left);
        let beyond = found.total + in_states as usize <= range.start || found.total >= range.end;
        if mask.all && !by_task && beyond {
            found.total += in_states as usize;
            return;
        }
        let all = mask.all.then(|| self.plan.cells(job));
        let nodes = &query.masks[&(state.level(), left)].nodes;
        let some = nodes.iter().map(|&node| (node, self.plan.cell(TaskIx { job, node })));
        let some = all.is_none().then_some(some);
        for (node, cell) in all.into_iter().flatten().chain(some.into_iter().flatten()) {
            let task = TaskIx { job, node };
            if query.states[state.state_of(cell) as usize]
                && (!by_task || self.passes_terms(query, task))
            {
                found.push(task, range);
            }
        }
    }

    /// Only as many are sorted as come before the end of the page.
    fn sorted(
        &self,
        query: &mut Query<'_>,
        sort: &Sort,
        range: Range<usize>,
    ) -> Result<Found, ApiError> {
        let tasks = self.tasks_of(query)?;
        let total = tasks.len();
        let key = |&task: &TaskIx| {
            let key = match sort.key {
                "node" => u64::from(task.node.0),
                "state" => {
                    let job = &self.plan.jobs[task.job.index()];
                    job.state_of(self.plan.cell(task)) as u64
                }
                // Newest first; what does not run comes last either way, and is most of a million:
                // its attempt is not looked for.
                _ if !self.plan.cell(task).is_open() => u64::MAX,
                _ => self.attempt_of(task).map_or(u64::MAX, |attempt| {
                    if sort.reversed { attempt.started_ms } else { !attempt.started_ms }
                }),
            };
            let reversed = sort.reversed && sort.key != "age";
            (if reversed { !key } else { key }, task)
        };
        let end = range.end.min(total);
        let first = least(tasks.iter().map(key), end);
        let page = first[range.start.min(end)..].iter().map(|&(_, task)| task).collect();
        Ok(Found { total, page })
    }

    fn passes(&self, query: &Query<'_>, task: TaskIx) -> bool {
        let job = &self.plan.jobs[task.job.index()];
        let node = self.plan.forest.name(task.node);
        query.states[job.state_of(self.plan.cell(task)) as usize]
            && query.request.job.as_ref().is_none_or(|wanted| **wanted == *job.config.name)
            && query.request.node.as_ref().is_none_or(|wanted| wanted == node)
            && query.filter.named(&[&job.config.name, node])
            && query.filter.of("job").all(|term| term.holds_for(&job.config.name))
            && query.filter.of("node").all(|term| term.holds_for(node))
            && query.filter.of("under").all(|term| self.is_under(term, task.node))
            && self.passes_terms(query, task)
    }

    fn is_under(&self, term: &Term, node: NodeIx) -> bool {
        let above: Vec<&str> =
            self.plan.forest.upwards(node).into_iter().map(|n| self.plan.forest.name(n)).collect();
        term.holds_for_any(&above)
    }

    /// The terms that are about the task itself.
    fn passes_terms(&self, query: &Query<'_>, task: TaskIx) -> bool {
        let attempt = self.attempt_of(task);
        let worker = attempt.map(|attempt| self.worker(attempt.worker).name.as_str());
        let age = attempt.map(|attempt| query.now.saturating_sub(attempt.started_ms) as f64 / 1e3);
        query.request.worker.as_deref().is_none_or(|wanted| worker == Some(wanted))
            && query.filter.of("worker").all(|term| term.holds_for_any(worker.as_slice()))
            && query.filter.of("age").all(|term| term.holds_for_number(age))
    }

    pub(crate) fn task_row(&self, task: TaskIx) -> TaskRow {
        let job = &self.plan.jobs[task.job.index()];
        let state = job.state_of(self.plan.cell(task));
        let record = self.record(task);
        let record = record.as_deref();
        let attempt = self.attempt_of(task);
        TaskRow {
            job: job.config.name.to_string(),
            node: self.plan.forest.name(task.node).to_owned(),
            state,
            attempt_no: record.map_or(0, |r| r.attempt_no),
            running: attempt.map(|attempt| RunningRow {
                attempt: attempt.id,
                worker: self.worker(attempt.worker).name.to_string(),
                started_ms: attempt.started_ms,
            }),
            last: record.and_then(|r| r.status.clone()),
            ended_ms: record.filter(|r| r.status.is_some()).map(|r| r.status_ms),
            ran_ms: record.filter(|r| r.status.is_some()).map(|r| r.ran_ms),
            usage: record.and_then(|r| r.usage),
            backoff_until_ms: record
                .filter(|_| state == TaskState::Backoff)
                .map(TaskRecord::backoff_until_ms),
        }
    }

    /// What is kept of a task of the present plan.
    pub fn task_record(&self, job: &str, node: &str) -> Option<TaskRecord> {
        self.record(self.plan.find_task(job, node)?).map(Cow::into_owned)
    }
}

/// For one row of many: [`Core::explain`] has all of a status.
pub(crate) fn in_brief(row: TaskRow) -> TaskRow {
    TaskRow { last: row.last.map(|status| status.in_brief(STATUS_BYTES_MAX)), ..row }
}

/// The `count` least of them, in order. Holds few more than that at a time: of a million, a page is
/// wanted.
fn least<T: Copy + Ord>(all: impl Iterator<Item = T>, count: usize) -> Vec<T> {
    let room = (2 * count).max(LEAST_ROOM);
    let mut first: Vec<T> = Vec::with_capacity(room.min(all.size_hint().0));
    let mut limit = None;
    for one in all {
        if limit.is_some_and(|limit| one >= limit) {
            continue;
        }
        first.push(one);
        if first.len() == room {
            let (_, last, _) = first.select_nth_unstable(count);
            limit = Some(*last);
            first.truncate(count);
        }
    }
    first.sort_unstable();
    first.truncate(count);
    first
}

impl<'a> Query<'a> {
    pub(crate) fn new(now: Millis, request: &'a TasksRequest) -> Result<Self, ApiError> {
        let (filter, sort) = parse(&request.list, &TaskRow::KEYS, &TaskRow::SORTS)?;
        let states = TaskState::ALL.map(|state| {
            (request.states.is_empty() || request.states.contains(&state))
                && filter.of("state").all(|term| term.holds_for(state.as_str()))
        });
        let (masks, held) = (FxHashMap::default(), FxHashMap::default());
        Ok(Self { request, filter, sort, states, masks, held, now })
    }

    /// Is this row asked for? `path`: the names of the nodes down to its own.
    pub(crate) fn passes_row(&self, row: &TaskRow, path: &[&str]) -> bool {
        let worker = row.running.as_ref().map(|running| running.worker.as_str());
        let age = row.running.as_ref().map(|r| self.now.saturating_sub(r.started_ms) as f64 / 1e3);
        let TasksRequest { job, node, worker: on, .. } = self.request;
        let wanted = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == name)
        };
        self.states[row.state as usize]
            && wanted(job, &row.job)
            && wanted(node, &row.node)
            && on.as_deref().is_none_or(|on| worker == Some(on))
            && self.filter.named(&[&row.job, &row.node])
            && self.filter.of("job").all(|term| term.holds_for(&row.job))
            && self.filter.of("node").all(|term| term.holds_for(&row.node))
            && self.filter.of("under").all(|term| term.holds_for_any(path))
            && self.filter.of("worker").all(|term| term.holds_for_any(worker.as_slice()))
            && self.filter.of("age").all(|term| term.holds_for_number(age))
    }

    /// Leaves out tasks in other states.
    pub(crate) fn only(&mut self, states: &[TaskState]) {
        for state in TaskState::ALL {
            self.states[state as usize] &= states.contains(&state);
        }
    }

    /// For people: all that it asks for.
    pub(crate) fn text(&self) -> String {
        let TasksRequest { job, node, states, worker, list } = self.request;
        let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let parts = [
            job.as_ref().map(|job| exactly("job", job)),
            node.as_ref().map(|node| exactly("node", node)),
            (!states.is_empty()).then(|| format!("state={}", states.join(","))),
            worker.as_ref().map(|worker| exactly("worker", worker)),
            (!list.filter.is_empty()).then(|| list.filter.clone()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Only what runs can pass.
    fn is_of_attempts(&self) -> bool {
        let needs = |key| self.filter.of(key).any(|term| !term.negated);
        self.request.worker.is_some() || needs("worker") || needs("age")
    }

    fn tests_tasks(&self) -> bool {
        self.filter.of("worker").next().or(self.filter.of("age").next()).is_some()
    }

    /// Which of the terms about names, as bits, must hold for the node since they do not for the
    /// job; none if the job's tasks cannot pass at all.
    fn left_for_node(&self, job: &str) -> Option<u64> {
        if self.request.job.as_ref().is_some_and(|wanted| wanted != job)
            || !self.filter.of("job").all(|term| term.holds_for(job))
        {
            return None;
        }
        let mut left = 0;
        for (at, term) in self.filter.of("").enumerate() {
            match (term.negated, term.holds_for(job)) {
                (true, false) => return None,
                (false, true) => {}
                _ => left |= 1u64 << at,
            }
        }
        Some(left)
    }

    fn mask(&mut self, core: &Core, level: LevelIx, left: u64) -> &Mask {
        let range = core.plan.forest.level(level);
        // About names, as far as they are left, and about nodes in any case.
        let mut names = 0;
        let of_nodes = |(at, term): (usize, &Term)| match term.key {
            "" => {
                names += 1;
                (left >> (names - 1) & 1 == 1).then_some(at)
            }
            "node" | "under" => Some(at),
            _ => None,
        };
        let terms: Vec<usize> = self.filter.terms.iter().enumerate().filter_map(of_nodes).collect();
        for &at in &terms {
            let term = &self.filter.terms[at];
            let holds = |node: usize| match term.key {
                "under" => core.is_under(term, NodeIx(node as u32)),
                _ => term.holds_for(core.plan.forest.name(NodeIx(node as u32))),
            };
            self.held.entry((level, at)).or_insert_with(|| range.clone().map(holds).collect());
        }
        if self.masks.len() >= MASKS_MAX && !self.masks.contains_key(&(level, left)) {
            self.masks.clear();
        }
        let held: Vec<&Vec<bool>> = terms.iter().map(|&at| &self.held[&(level, at)]).collect();
        self.masks.entry((level, left)).or_insert_with(|| {
            let passes = |node: &NodeIx| held.iter().all(|held| held[node.index() - range.start]);
            let all = range.clone().map(|node| NodeIx(node as u32));
            let nodes: Vec<NodeIx> = all.filter(passes).collect();
            Mask { all: nodes.len() == range.len(), nodes }
        })
    }
}

impl Found {
    fn push(&mut self, task: TaskIx, range: &Range<usize>) {
        if range.contains(&self.total) {
            self.page.push(task);
        }
        self.total += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_are_those_of_all_in_order(
            all in prop::collection::vec(0u32..50, 0..60),
            count in 0usize..70,
        ) {
            let mut sorted = all.clone();
            sorted.sort_unstable();
            sorted.truncate(count);
            prop_assert_eq!(least(all.into_iter(), count), sorted);
        }
    }
}
