//! Rows of jobs, nodes and workers, and what all lists have in common.

use bistro_common::filter::{Filter, Key};
use bistro_common::protocol::api::{
    ApiError, ErrorCode, JobRow, ListRequest, Listing, NodeRow, Page, SlotUse, TaskState,
    WorkerHealth, WorkerRow,
};
use bistro_common::protocol::heartbeat::ClosedReason;

use crate::Core;
use crate::forest::NodeIx;
use crate::tasks::JobIx;
use crate::workers::Worker;

/// How a list is sorted: by one of its keys, and which way.
pub(super) struct Sort {
    pub key: &'static str,
    pub reversed: bool,
}

/// A request as the list understands it, or what it does not.
pub(super) fn parse(
    request: &ListRequest,
    keys: &[Key],
    sorts: &[&'static str],
) -> Result<(Filter, Option<Sort>), ApiError> {
    let bad = |message: String| ApiError::new(ErrorCode::BadRequest, message);
    let filter = Filter::parse(&request.filter, keys).map_err(|error| bad(error.to_string()))?;
    let (wanted, reversed) = match request.sort.strip_prefix('-') {
        Some(wanted) => (wanted, true),
        None => (request.sort.as_str(), false),
    };
    let sort = sorts.iter().find(|&&key| key == wanted).map(|&key| Sort { key, reversed });
    if sort.is_none() && !wanted.is_empty() {
        let known = sorts.join(", ");
        return Err(bad(format!("this list is not sorted by {wanted:?}; it can be by {known}")));
    }
    Ok((filter, sort))
}

/// The part of a list that was asked for. A stable sort: what is equal stays as it was.
fn page_of<T, R>(
    mut all: Vec<T>,
    sort: Option<(impl Fn(&T, &T) -> std::cmp::Ordering, bool)>,
    page: &Page,
    row: impl FnMut(&T) -> R,
) -> Listing<R> {
    if let Some((compare, reversed)) = sort {
        all.sort_by(|a, b| if reversed { compare(b, a) } else { compare(a, b) });
    }
    Listing { total: all.len() as u64, items: all[page.range(all.len())].iter().map(row).collect() }
}

/// Numbers by which something is sorted; names are compared apart.
type Numbers = fn(&[u64; TaskState::ALL.len()]) -> f64;

impl Core {
    pub fn job_rows(&self, request: &ListRequest) -> Result<Listing<JobRow>, ApiError> {
        let (filter, sort) = parse(request, &JobRow::KEYS, &JobRow::SORTS)?;
        let all = (0..self.plan.jobs.len() as u32).map(JobIx);
        let all = all.filter(|&job| self.is_wanted(job, &filter)).collect();
        let config = |job: &JobIx| &self.plan.jobs[job.index()].config;
        let compare = |sort: &Sort| {
            let numbers = numbers_of(sort.key);
            let by_name = sort.key == "job";
            move |a: &(f64, JobIx), b: &(f64, JobIx)| match (by_name, numbers) {
                (true, _) => config(&a.1).name.cmp(&config(&b.1).name),
                (false, Some(_)) => a.0.total_cmp(&b.0),
                (false, None) => config(&a.1).priority.total_cmp(&config(&b.1).priority),
            }
        };
        let numbers = sort.as_ref().and_then(|sort| numbers_of(sort.key));
        let keyed = |job: JobIx| (numbers.map_or(0.0, |f| f(&self.plan.shown_counts(job))), job);
        let all: Vec<JobIx> = all;
        let all = all.into_iter().map(keyed).collect();
        let sort = sort.map(|sort| (compare(&sort), sort.reversed));
        Ok(page_of(all, sort, &request.page, |&(_, job)| self.job_row(job)))
    }

    fn is_wanted(&self, ix: JobIx, filter: &Filter) -> bool {
        if filter.is_empty() {
            return true;
        }
        let job = &self.plan.jobs[ix.index()].config;
        let counted = |term: &&bistro_common::filter::Term| term.key.parse::<TaskState>().ok();
        let counts = self.plan.shown_counts(ix);
        let level = &self.plan.config.settings.levels[job.level];
        filter.named(&[&job.name])
            && filter.of("job").all(|term| term.holds_for(&job.name))
            && filter.of("level").all(|term| term.holds_for(level))
            && filter.of("owner").all(|term| term.holds_for(&job.owner))
            && filter.of("enabled").all(|term| term.holds_for(yes_or_no(job.enabled)))
            && filter.of("priority").all(|term| term.holds_for_number(Some(job.priority)))
            && filter
                .terms
                .iter()
                .filter_map(|term| Some((term, counted(&term)?)))
                .all(|(term, state)| term.holds_for_number(Some(counts[state as usize] as f64)))
    }

    fn job_row(&self, ix: JobIx) -> JobRow {
        let job = &self.plan.jobs[ix.index()];
        JobRow {
            job: job.config.name.to_string(),
            enabled: job.config.enabled,
            owner: job.config.owner.clone(),
            level: self.plan.config.settings.levels[job.level()].clone(),
            priority: job.config.priority,
            depends_on: job.config.depends_on.clone(),
            counts: self.plan.counts(ix),
            origin: self.origin(&job.config.name),
            overrides: self.overrides(&job.config.name),
            errors: job.config.errors.iter().map(|e| e.message.clone()).collect(),
        }
    }

    pub fn node_rows(&self, request: &ListRequest) -> Result<Listing<NodeRow>, ApiError> {
        let (filter, sort) = parse(request, &NodeRow::KEYS, &NodeRow::SORTS)?;
        let forest = &self.plan.forest;
        let levels = forest.level_names();
        let free = |node: NodeIx| {
            let slots = self.plan.resources.node_slots(forest.level_of(node), node);
            slots.map(|(_, slots)| (slots.limit - slots.used) as f64).reduce(f64::min)
        };
        let wanted = |&node: &NodeIx| {
            let name = forest.name(node);
            let parent = || forest.parent(node).map(|parent| forest.name(parent));
            filter.named(&[name])
                && filter.of("node").all(|term| term.holds_for(name))
                && filter.of("level").all(|term| term.holds_for(&levels[forest.level_of(node)]))
                && filter.of("parent").all(|term| term.holds_for(parent().unwrap_or_default()))
                && filter
                    .of("enabled")
                    .all(|term| term.holds_for(yes_or_no(forest.is_enabled(node))))
                && filter.of("free").all(|term| term.holds_for_number(free(node)))
        };
        let used = |&node: &NodeIx| -> i64 {
            let slots = self.plan.resources.node_slots(forest.level_of(node), node);
            slots.map(|(_, slots)| slots.used).sum()
        };
        let all: Vec<NodeIx> = (0..forest.node_count() as u32).map(NodeIx).filter(wanted).collect();
        let sort = sort.map(|sort| {
            let compare = move |a: &NodeIx, b: &NodeIx| match sort.key {
                "used" => used(a).cmp(&used(b)),
                _ => forest.name(*a).cmp(forest.name(*b)),
            };
            (compare, sort.reversed)
        });
        Ok(page_of(all, sort, &request.page, |&node| self.node_row(node)))
    }

    fn node_row(&self, node: NodeIx) -> NodeRow {
        let forest = &self.plan.forest;
        let level = forest.level_of(node);
        let slots = self.plan.resources.node_slots(level, node);
        let name = |parent: NodeIx| forest.name(parent).to_owned();
        NodeRow {
            node: name(node),
            level: forest.level_names()[level].clone(),
            parent: forest.parent(node).map(name),
            more_parents: forest.more_parents(node).iter().copied().map(name).collect(),
            enabled: forest.is_enabled(node),
            slots: slots.map(|(name, slots)| (name.to_owned(), slots)).collect(),
        }
    }

    pub fn worker_rows(&self, request: &ListRequest) -> Result<Listing<WorkerRow>, ApiError> {
        let (filter, sort) = parse(request, &WorkerRow::KEYS, &WorkerRow::SORTS)?;
        let wanted = |worker: &&Worker| {
            let name = worker.name.as_str();
            filter.named(&[name, &worker.host])
                && filter.of("worker").all(|term| term.holds_for(name))
                && filter.of("host").all(|term| term.holds_for(&worker.host))
                && filter.of("health").all(|term| term.holds_for(health(worker)))
                && filter.of("build").all(|term| term.holds_for(&worker.build))
                && filter
                    .of("running")
                    .all(|term| term.holds_for_number(Some(worker.attempts.len() as f64)))
        };
        let all: Vec<&Worker> = self.workers.iter().filter(wanted).collect();
        let sort = sort.map(|sort| {
            let compare = move |a: &&Worker, b: &&Worker| match sort.key {
                "running" => a.attempts.len().cmp(&b.attempts.len()),
                "host" => a.host.cmp(&b.host),
                _ => a.name.as_str().cmp(b.name.as_str()),
            };
            (compare, sort.reversed)
        });
        Ok(page_of(all, sort, &request.page, |worker| self.worker_row(worker)))
    }

    fn worker_row(&self, worker: &Worker) -> WorkerRow {
        let limits = self.plan.resources.worker_limits();
        let slots = limits.iter().zip(worker.slots.iter().zip(&worker.used));
        WorkerRow {
            worker: worker.name.to_string(),
            host: worker.host.clone(),
            health: worker.health,
            closed: worker.closed.or(worker.drained.then_some(ClosedReason::Draining)),
            running: worker.attempts.len() as u64,
            last_heartbeat_ms: worker.answered,
            build: worker.build.clone(),
            capacity: worker.capacity.clone(),
            slots: slots
                .map(|(limit, (&here, &used))| (limit.name.clone(), SlotUse { used, limit: here }))
                .collect(),
        }
    }
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn health(worker: &Worker) -> &'static str {
    match worker.health {
        WorkerHealth::Healthy if worker.drained => "draining",
        WorkerHealth::Healthy => match worker.closed {
            Some(ClosedReason::Draining) => "draining",
            Some(_) => "closed",
            None => "healthy",
        },
        WorkerHealth::Suspect => "suspect",
        WorkerHealth::Unheard => "unheard",
        WorkerHealth::Gone => "gone",
    }
}

/// Of the counts of a job's tasks; none for keys that are about something else.
fn numbers_of(sort: &str) -> Option<Numbers> {
    use TaskState::{Avoided, Backoff, Blocked, CanRun, Done, Failed, Running, Unsure};
    let numbers: Numbers = match sort {
        "total" => |counts| (counts.iter().sum::<u64>() - counts[Avoided as usize]) as f64,
        "progress" => |counts| {
            let total = counts.iter().sum::<u64>() - counts[Avoided as usize];
            counts[Done as usize] as f64 / (total as f64).max(1.0)
        },
        "done" => |counts| counts[Done as usize] as f64,
        "running" => |counts| (counts[Running as usize] + counts[Unsure as usize]) as f64,
        "waiting" => |counts| {
            (counts[CanRun as usize] + counts[Blocked as usize] + counts[Backoff as usize]) as f64
        },
        "failed" => |counts| counts[Failed as usize] as f64,
        _ => return None,
    };
    Some(numbers)
}
