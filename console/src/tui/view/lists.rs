//! Jobs, nodes, workers and tasks: one row each.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use bistro_common::protocol::api::{
    Counts, JobRow, NodeRow, SlotUse, TaskRow, TaskState, WorkerHealth, WorkerRow,
};
use bistro_common::protocol::heartbeat::{ClosedReason, Isolation};
use std::collections::BTreeMap;

use super::{LIST_HEAD, heading, nothing, row};
use crate::text::{fit, safe, span};
use crate::tui::list::{List, Row};
use crate::tui::state::State;

/// A column: its title, its sort key if it has one, its width.
type Column<'a> = (&'a str, &'a str, usize);

/// A line about the list, its heading, and the rows that fit.
fn table<T: Row>(
    state: &State,
    list: &List<T>,
    what: &str,
    columns: &[Column<'_>],
    area: Rect,
    spans: impl Fn(&T) -> Vec<Span<'static>>,
) -> Vec<Line<'static>> {
    let rows = usize::from(area.height).saturating_sub(LIST_HEAD);
    let mut lines = vec![about(state, list, what, rows)];
    if list.rows.is_empty() || list.problem.is_some() {
        let what = match (list.loaded, what) {
            (false, _) => "loading...".to_owned(),
            (true, _) if list.query.filter.is_empty() => format!("no {what}"),
            (true, _) => format!("no {what} that pass the filter; esc clears it"),
        };
        lines.extend(nothing(state, list.problem.as_deref(), &what));
        return lines;
    }
    lines.push(heading(columns, &list.query.sort, state));
    let (first, rows) = list.shown(rows);
    for (number, item) in (first..).zip(rows) {
        let marked = !list.marks.is_empty() && list.marks.contains_key(&item.key());
        lines.push(row(state, spans(item), number == list.cursor, marked));
    }
    lines
}

/// What is listed, and where the cursor is.
fn about<T: Row>(state: &State, list: &List<T>, what: &str, rows: usize) -> Line<'static> {
    let filter = match list.query.filter.is_empty() {
        true => format!("all {what}"),
        false => safe(&list.query.filter),
    };
    let at = if list.total == 0 { 0 } else { list.cursor + 1 };
    let mut line = Line::styled(format!("{filter}  {at} of {}", list.total), state.theme.quiet);
    let marked = match (list.marks.len(), list.hidden_marks(rows)) {
        (0, _) => String::new(),
        (marks, 0) => format!("  {marks} marked"),
        (marks, hidden) => format!("  {marks} marked, {hidden} out of sight"),
    };
    line.push_span(Span::styled(marked, state.theme.title));
    let flags = [
        (list.frozen, "  frozen"),
        (list.strayed, "  your row is gone"),
        (!list.loaded && !list.rows.is_empty(), "  ..."),
    ];
    for (_, text) in flags.into_iter().filter(|(is_so, _)| *is_so) {
        line.push_span(Span::styled(text, state.theme.title));
    }
    line
}

/// How wide the jobs' columns are; a bar or a name of no width is left out.
struct JobColumns {
    name: usize,
    bar: usize,
    /// With what waits.
    waiting: bool,
    /// With priorities and rates.
    rates: bool,
}

impl JobColumns {
    fn new(width: usize) -> Self {
        let (waiting, rates) = (width >= 60, width >= 110);
        let numbers = if rates { 65 } else { 34 };
        match waiting {
            true => {
                let name = (width.saturating_sub(numbers) * 2 / 5).clamp(8, 40);
                let bar = width.saturating_sub(numbers + name + 2).max(4);
                Self { name, bar, waiting, rates }
            }
            // What fails must be in sight.
            false => Self { name: width.saturating_sub(27).clamp(6, 40), bar: 0, waiting, rates },
        }
    }
}

pub fn jobs(state: &State, area: Rect) -> Vec<Line<'static>> {
    let widths = JobColumns::new(usize::from(area.width));
    let mut columns = vec![("JOB", "job", widths.name)];
    if widths.bar > 0 {
        columns.push(("PROGRESS", "progress", widths.bar));
    }
    columns.extend([("DONE", "done", 13), ("RUN", "running", 5)]);
    if widths.waiting {
        columns.push(("WAIT", "waiting", 6));
    }
    columns.push(("FAIL", "failed", 5));
    if widths.rates {
        columns.extend([("PRIO", "priority", 6), ("PER SEC", "", 8), ("LEFT", "", 14)]);
    }
    table(state, &state.jobs, "jobs", &columns, area, |job| job_spans(state, job, &widths))
}

fn job_spans(state: &State, job: &JobRow, widths: &JobColumns) -> Vec<Span<'static>> {
    let count = |wanted| job.counts.get(&wanted).copied().unwrap_or(0);
    let total = job.counts.values().sum::<u64>() - count(TaskState::Avoided);
    let style = match job.errors.is_empty() {
        true if job.enabled => state.theme.title,
        true => state.theme.quiet,
        false => state.theme.state(TaskState::Failed),
    };
    let label = if job.enabled { job.job.clone() } else { format!("# {}", job.job) };
    let mut spans = vec![Span::styled(fit(&label, widths.name) + " ", style)];
    if widths.bar > 0 {
        spans.extend(bar_spans(state, &job.counts, total, widths.bar));
        spans.push(Span::raw(" "));
    }
    let done = format!("{}/{total}", count(TaskState::Done));
    spans.push(Span::raw(format!("{done:<13} {:<5} ", count(TaskState::Running))));
    if widths.waiting {
        let waiting = [TaskState::CanRun, TaskState::Blocked, TaskState::Backoff];
        let waiting: u64 = waiting.into_iter().map(count).sum();
        spans.push(Span::raw(format!("{waiting:<6} ")));
    }
    let failed = count(TaskState::Failed);
    let style = if failed == 0 { state.theme.quiet } else { state.theme.state(TaskState::Failed) };
    spans.push(Span::styled(format!("{failed:<5} "), style));
    if widths.rates {
        spans.push(Span::raw(format!("{:<6} {}", job.priority, rate_text(state, job))));
    }
    if let Some(error) = job.errors.first() {
        spans.push(Span::styled(safe(error), state.theme.state(TaskState::Failed)));
    }
    spans
}

/// Tasks per second, and when the rest will be done.
pub fn rate_text(state: &State, job: &JobRow) -> String {
    let Some(rate) = state.rates.of(job) else { return String::new() };
    let left = match rate.left_seconds {
        Some((soonest, latest)) => {
            let [soonest, latest] = [soonest, latest].map(|s| span((s * 1e3) as u64));
            if soonest == latest { soonest } else { format!("{soonest} to {latest}") }
        }
        None => String::new(),
    };
    format!("{:<8.1} {left}", rate.per_second)
}

/// Every state that has tasks gets a part of the bar, and at least one cell: one failed task in a
/// million is seen.
pub fn bar_spans(state: &State, counts: &Counts, total: u64, width: usize) -> Vec<Span<'static>> {
    const ORDER: [TaskState; 8] = [
        TaskState::Done,
        TaskState::Running,
        TaskState::Unsure,
        TaskState::Failed,
        TaskState::Backoff,
        TaskState::CanRun,
        TaskState::Blocked,
        TaskState::Disabled,
    ];
    let parts: Vec<(TaskState, u64)> = ORDER
        .into_iter()
        .filter_map(|s| Some((s, *counts.get(&s)?)).filter(|(_, count)| *count > 0))
        .collect();
    let cells = split(&parts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), total, width);
    let part = |(&(part, _), cells): (&(TaskState, u64), usize)| {
        let glyph = match (state.theme.blocks && !state.ascii, part) {
            (true, TaskState::CanRun | TaskState::Blocked | TaskState::Disabled) => '░',
            (true, _) => '█',
            (false, _) => part.glyph(),
        };
        let text: String = std::iter::repeat_n(glyph, cells).collect();
        Span::styled(text, state.theme.state(part))
    };
    let used: usize = cells.iter().sum();
    let mut spans: Vec<_> = parts.iter().zip(cells).map(part).collect();
    spans.push(Span::raw(" ".repeat(width.saturating_sub(used))));
    spans
}

/// Shares out `width` cells by `counts`; nobody with a count gets none, as far as there are cells.
fn split(counts: &[u64], total: u64, width: usize) -> Vec<usize> {
    let mut cells: Vec<usize> = counts
        .iter()
        .map(|&count| ((count as u128 * width as u128 / u128::from(total.max(1))) as usize).max(1))
        .collect();
    while cells.iter().sum::<usize>() > width {
        let Some(most) = cells.iter_mut().max().filter(|most| **most > 0) else { break };
        *most -= 1;
    }
    let missing = width.saturating_sub(cells.iter().sum());
    if let Some(most) = cells.iter_mut().max() {
        *most += missing;
    }
    cells
}

pub fn nodes(state: &State, area: Rect) -> Vec<Line<'static>> {
    let name = (usize::from(area.width).saturating_sub(38) / 2).clamp(8, 40);
    let columns =
        [("NODE", "node", name), ("LEVEL", "", 12), ("ABOVE", "", name), ("SLOTS", "used", 20)];
    table(state, &state.nodes, "nodes", &columns, area, |node| node_spans(state, node, name))
}

fn node_spans(state: &State, node: &NodeRow, name: usize) -> Vec<Span<'static>> {
    let over = node.slots.values().any(|slots| slots.used > slots.limit);
    let style = if node.enabled { state.theme.title } else { state.theme.quiet };
    let label = match node.enabled {
        true => fit(&node.node, name),
        false => fit(&format!("# {}", node.node), name),
    };
    let style_of_slots = match over {
        true => state.theme.state(TaskState::Failed),
        false => ratatui::style::Style::new(),
    };
    vec![
        Span::styled(label + " ", style),
        Span::raw(fit(&node.level, 12) + " "),
        Span::raw(fit(node.parent.as_deref().unwrap_or(""), name) + " "),
        Span::styled(slots_text(&node.slots), style_of_slots),
    ]
}

fn slots_text(slots: &BTreeMap<String, SlotUse>) -> String {
    let texts = slots.iter().map(|(name, slots)| format!("{name} {}/{}", slots.used, slots.limit));
    safe(&texts.collect::<Vec<_>>().join(" "))
}

pub fn workers(state: &State, area: Rect) -> Vec<Line<'static>> {
    let name = (usize::from(area.width).saturating_sub(56) / 2).clamp(8, 40);
    let columns = [
        ("WORKER", "worker", name),
        ("HOST", "host", name),
        ("HEALTH", "", 9),
        ("RUNNING", "running", 8),
        ("HEARD", "", 8),
        ("KILLS BY", "", 8),
        ("SLOTS", "", 18),
    ];
    table(state, &state.workers, "workers", &columns, area, |worker| {
        worker_spans(state, worker, name)
    })
}

fn worker_spans(state: &State, worker: &WorkerRow, name: usize) -> Vec<Span<'static>> {
    let (health, style) = match (worker.health, worker.closed) {
        (WorkerHealth::Healthy, None) => ("healthy", TaskState::Done),
        (WorkerHealth::Healthy, Some(ClosedReason::Draining)) => ("draining", TaskState::Backoff),
        (WorkerHealth::Healthy, Some(ClosedReason::DiskFull)) => ("disk full", TaskState::Failed),
        (WorkerHealth::Healthy, Some(_)) => ("closed", TaskState::Backoff),
        (WorkerHealth::Suspect, _) => ("suspect", TaskState::Unsure),
        (WorkerHealth::Unheard, _) => ("unheard", TaskState::Unsure),
        (WorkerHealth::Gone, _) => ("gone", TaskState::Failed),
    };
    let heard = worker.last_heartbeat_ms.map(|at| span(state.now_ms.saturating_sub(at)) + " ago");
    let kills_by = match worker.capacity.isolation {
        Some(Isolation::Cgroup) => "cgroup",
        Some(Isolation::ProcessGroup) => "group",
        None => "",
    };
    vec![
        Span::styled(fit(&worker.worker, name) + " ", state.theme.title),
        Span::raw(fit(&worker.host, name) + " "),
        Span::styled(fit(health, 9) + " ", state.theme.state(style)),
        Span::raw(format!(
            "{:<8} {} {} ",
            worker.running,
            fit(heard.as_deref().unwrap_or("never"), 8),
            fit(kills_by, 8),
        )),
        Span::raw(slots_text(&worker.slots)),
    ]
}

pub fn tasks(state: &State, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let name = (width.saturating_sub(46) / 2).clamp(8, 40);
    let last = width.saturating_sub(2 * name + 34).max(5);
    let columns = [
        ("JOB", "", name),
        ("NODE", "node", name),
        ("STATE", "state", 10),
        ("TRY", "", 4),
        ("FOR", "age", 7),
        ("ON/LAST", "", last),
    ];
    table(state, &state.tasks, "tasks", &columns, area, |task| task_spans(state, task, name))
}

pub fn task_spans(state: &State, task: &TaskRow, name: usize) -> Vec<Span<'static>> {
    let style = state.theme.state(task.state);
    let (time, last) = match (&task.running, &task.last) {
        (Some(running), _) => {
            (span(state.now_ms.saturating_sub(running.started_ms)), running.worker.clone())
        }
        (None, last) => {
            let left = task.backoff_until_ms.map(|until| until.saturating_sub(state.now_ms));
            let text = last.as_ref().map(|last| last.exception().unwrap_or(last.label()));
            (left.map(span).unwrap_or_default(), text.unwrap_or_default().to_owned())
        }
    };
    vec![
        Span::raw(format!("{} {} ", fit(&task.job, name), fit(&task.node, name))),
        Span::styled(fit(&format!("{} {}", task.state.glyph(), task.state.as_str()), 10), style),
        Span::raw(format!(" {:<4} {} {}", task.attempt_no, fit(&time, 7), safe(&last))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_its_width_and_hides_nobody() {
        assert_eq!(split(&[999_999, 1], 1_000_000, 10), [9, 1]);
        assert_eq!(split(&[1, 1, 1], 3, 10).iter().sum::<usize>(), 10);
        assert_eq!(split(&[5, 5, 5], 15, 2).iter().sum::<usize>(), 2);
        assert_eq!(split(&[], 0, 10), Vec::<usize>::new());
    }
}
