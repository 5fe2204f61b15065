//! Jobs, workers and tasks: one row each.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use bistro_common::protocol::api::{JobRow, TaskRow, TaskState, WorkerHealth, WorkerRow};
use bistro_common::protocol::heartbeat::Isolation;

use super::{heading, nothing, row};
use crate::text::{fit, span};
use crate::tui::state::State;
use crate::tui::table::first_shown;
use crate::tui::theme;

/// The rows that fit below a heading, each with its number.
fn shown<T>(rows: &[T], cursor: usize, area: Rect) -> impl Iterator<Item = (usize, &T)> {
    let height = usize::from(area.height).saturating_sub(1);
    rows.iter().enumerate().skip(first_shown(cursor, rows.len(), height)).take(height)
}

pub fn jobs(state: &State, area: Rect) -> Vec<Line<'static>> {
    if state.jobs.rows.is_empty() {
        return nothing(state, "no jobs; the config has none");
    }
    let width = usize::from(area.width);
    let numbers = 34;
    let name = (width.saturating_sub(numbers) * 2 / 5).max(8);
    let bar = width.saturating_sub(numbers + name + 2).max(4);
    let columns =
        [("JOB", name), ("PROGRESS", bar), ("DONE", 13), ("RUN", 5), ("WAIT", 6), ("FAIL", 5)];
    let mut lines = vec![heading(&columns, state)];
    for (at, job) in shown(&state.jobs.rows, state.jobs.cursor, area) {
        let spans = job_spans(state, job, name, bar);
        lines.push(row(spans, at == state.jobs.cursor));
    }
    lines
}

fn job_spans(state: &State, job: &JobRow, name: usize, bar: usize) -> Vec<Span<'static>> {
    let count = |wanted| job.counts.get(&wanted).copied().unwrap_or(0);
    let avoided = count(TaskState::Avoided);
    let total = job.counts.values().sum::<u64>() - avoided;
    let waiting = count(TaskState::CanRun) + count(TaskState::Blocked) + count(TaskState::Backoff);
    let style = match job.errors.is_empty() {
        true if job.enabled => theme::title(),
        true => theme::quiet(state.colour),
        false => theme::state_style(TaskState::Failed, state.colour),
    };
    let mut spans = vec![Span::styled(fit(&job.job, name) + " ", style)];
    spans.extend(bar_spans(state, job, total, bar));
    let done = format!("{}/{total}", count(TaskState::Done));
    spans.push(Span::raw(format!(" {done:<13} {:<5} {waiting:<6} ", count(TaskState::Running))));
    let failed = count(TaskState::Failed);
    let style = match failed {
        0 => theme::quiet(state.colour),
        _ => theme::state_style(TaskState::Failed, state.colour),
    };
    spans.push(Span::styled(format!("{failed:<5}"), style));
    if let Some(error) = job.errors.first() {
        spans.push(Span::styled(crate::text::safe(error), style));
    }
    spans
}

/// Every state that has tasks gets a part of the bar, and at least one cell: one failed task in a
/// million is seen.
fn bar_spans(state: &State, job: &JobRow, total: u64, width: usize) -> Vec<Span<'static>> {
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
        .filter_map(|s| Some((s, *job.counts.get(&s)?)).filter(|(_, count)| *count > 0))
        .collect();
    let cells = split(&parts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), total, width);
    let part = |(&(part, _), cells): (&(TaskState, u64), usize)| {
        let glyph = match (state.colour, part) {
            (true, TaskState::CanRun | TaskState::Blocked | TaskState::Disabled) => '░',
            (true, _) => '█',
            (false, _) => part.glyph(),
        };
        let text: String = std::iter::repeat_n(glyph, cells).collect();
        Span::styled(text, theme::state_style(part, state.colour))
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

pub fn workers(state: &State, area: Rect) -> Vec<Line<'static>> {
    if state.workers.rows.is_empty() {
        return nothing(state, "no workers; start one with `bistro worker`");
    }
    let name = (usize::from(area.width).saturating_sub(56) / 2).max(8);
    let columns = [
        ("WORKER", name),
        ("HOST", name),
        ("HEALTH", 9),
        ("RUNNING", 8),
        ("HEARD", 8),
        ("KILLS BY", 8),
        ("SLOTS", 18),
    ];
    let mut lines = vec![heading(&columns, state)];
    for (at, worker) in shown(&state.workers.rows, state.workers.cursor, area) {
        let spans = worker_spans(state, worker, name);
        lines.push(row(spans, at == state.workers.cursor));
    }
    lines
}

fn worker_spans(state: &State, worker: &WorkerRow, name: usize) -> Vec<Span<'static>> {
    let (health, style) = match (worker.health, worker.closed) {
        (WorkerHealth::Healthy, None) => ("healthy", TaskState::Done),
        (WorkerHealth::Healthy, Some(_)) => ("draining", TaskState::Backoff),
        (WorkerHealth::Suspect, _) => ("suspect", TaskState::Unsure),
        (WorkerHealth::Unheard, _) => ("unheard", TaskState::Unsure),
        (WorkerHealth::Gone, _) => ("gone", TaskState::Failed),
    };
    let heard = worker.last_heartbeat_ms.map(|at| span(state.now_ms.saturating_sub(at)) + " ago");
    let slots =
        worker.slots.iter().map(|(name, slots)| format!("{name} {}/{}", slots.used, slots.limit));
    let slots: Vec<_> = slots.collect();
    let kills_by = match worker.capacity.isolation {
        Some(Isolation::Cgroup) => "cgroup",
        Some(Isolation::ProcessGroup) => "group",
        None => "",
    };
    vec![
        Span::styled(fit(&worker.worker, name) + " ", theme::title()),
        Span::raw(fit(&worker.host, name) + " "),
        Span::styled(fit(health, 9) + " ", theme::state_style(style, state.colour)),
        Span::raw(format!(
            "{:<8} {} {} ",
            worker.running,
            fit(heard.as_deref().unwrap_or("never"), 8),
            fit(kills_by, 8),
        )),
        Span::raw(crate::text::safe(&slots.join(" "))),
    ]
}

pub fn tasks(state: &State, area: Rect) -> Vec<Line<'static>> {
    let tasks = &state.tasks;
    let mut lines = vec![filter_line(state)];
    let below = Rect { height: area.height.saturating_sub(1), ..area };
    if tasks.table.rows.is_empty() {
        lines.extend(nothing(state, if tasks.total > 0 { "loading..." } else { "no such tasks" }));
        return lines;
    }
    let width = usize::from(area.width);
    let name = (width.saturating_sub(46) / 2).clamp(8, 40);
    let last = width.saturating_sub(2 * name + 34).max(5);
    let columns =
        [("JOB", name), ("NODE", name), ("STATE", 10), ("TRY", 4), ("FOR", 7), ("ON/LAST", last)];
    lines.push(heading(&columns, state));
    for (at, task) in shown(&tasks.table.rows, tasks.table.cursor, below) {
        let spans = task_spans(state, task, name);
        lines.push(row(spans, at == tasks.table.cursor));
    }
    lines
}

fn filter_line(state: &State) -> Line<'static> {
    let tasks = &state.tasks;
    let filter = &tasks.filter;
    let parts = [
        filter.job.as_ref().map(|job| format!("job={job}")),
        filter.worker.as_ref().map(|worker| format!("worker={worker}")),
        filter.state.map(|state| format!("state={}", state.as_str())),
        (!filter.contains.is_empty()).then(|| format!("node~{}", filter.contains)),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let at = match tasks.total {
        0 => 0,
        _ => u64::from(tasks.offset) + tasks.table.cursor as u64 + 1,
    };
    let filter = if parts.is_empty() { "all tasks".to_owned() } else { parts.join(" ") };
    Line::styled(
        format!("{}  {at} of {}", crate::text::safe(&filter), tasks.total),
        theme::quiet(state.colour),
    )
}

fn task_spans(state: &State, task: &TaskRow, name: usize) -> Vec<Span<'static>> {
    let style = theme::state_style(task.state, state.colour);
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
        Span::raw(format!(
            " {:<4} {} {}",
            task.attempt_no,
            fit(&time, 7),
            crate::text::safe(&last)
        )),
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
