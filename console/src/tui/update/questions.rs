//! What is asked before something is changed, and about whom: always the row that somebody has
//! chosen, or those that were marked, by name and attempt.

use bistro_common::filter;
use bistro_common::protocol::api::{BulkAction, JobRow, PlanReply, TaskRow, TaskState, WorkerRow};
use bistro_common::protocol::heartbeat::ClosedReason;
use bistro_common::protocol::task::{Kill, KillMethod};

use super::{Command, say};
use crate::client::actions::Action;
use crate::client::submission;
use crate::tui::keys::Key;
use crate::tui::state::{Confirm, State, View};

const WAYS: [(&str, Option<Kill>); 4] = [
    ("as the job's config says", None),
    (
        "TERM, then KILL after 10 s",
        Some(Kill { method: KillMethod::TermWaitKill, wait_ms: 10_000 }),
    ),
    ("TERM only", Some(Kill { method: KillMethod::Term, wait_ms: 0 })),
    ("KILL at once", Some(Kill { method: KillMethod::Kill, wait_ms: 0 })),
];

/// So many of those that an action is about are named in its question.
const NAMED: usize = 6;

/// What a key would ask, if there is anything to ask it about.
pub fn about(state: &State, key: Key) -> Option<Confirm> {
    match key {
        Key::Kill => kill(state),
        Key::Forgive => forgive(state),
        Key::Toggle if state.view == View::Workers => drain(state),
        Key::Toggle => toggle(state),
        Key::Undo => undo(state),
        _ => None,
    }
}

/// Asks, or says why not.
pub fn ask(state: &mut State, key: Key) {
    if state.read_only {
        return say(state, "this console is read-only");
    }
    if let Some(confirm) = about(state, key) {
        state.confirm = Some(confirm);
        return;
    }
    let strayed = match state.view {
        View::Jobs => state.jobs.strayed,
        View::Workers => state.workers.strayed,
        View::Tasks => state.tasks.strayed,
        _ => false,
    };
    let text = match key {
        _ if strayed && state.marks() == 0 => {
            "the row that you were on is gone: choose one".to_owned()
        }
        Key::Undo => "there is nothing to take back".to_owned(),
        Key::Kill => match tasks(state).as_slice() {
            [] => "there is no task under the cursor".to_owned(),
            [row] => format!("{} on {} is not running", row.job, row.node),
            rows => format!("none of the {} marked tasks is running", rows.len()),
        },
        _ => "there is nothing under the cursor".to_owned(),
    };
    say(state, text);
}

/// The marked tasks, or the one that the cursor is on, as fresh as the console has it.
fn tasks(state: &State) -> Vec<&TaskRow> {
    match state.view {
        View::Tasks => state.tasks.targets(),
        View::Task => state.explanation.iter().map(|explanation| &explanation.task).collect(),
        _ => Vec::new(),
    }
}

pub fn jobs(state: &State) -> Vec<&JobRow> {
    match state.view {
        View::Jobs => state.jobs.targets(),
        View::Job => state.job.row.iter().collect(),
        _ => Vec::new(),
    }
}

fn question(title: &str, facts: &[(&str, &str)], action: Action) -> Confirm {
    let lines = facts.iter().map(|(label, text)| format!("{label:<8} {text}")).collect();
    let title = title.to_owned();
    Confirm { title, lines, action, marked: false, ways: Vec::new(), way: 0, yes: false }
}

/// One question about several: `what` is how one of them is called, with what each one is and what
/// is done to it.
fn series(state: &State, title: &str, what: &str, each: Vec<(String, Action)>) -> Option<Confirm> {
    let (names, actions): (Vec<_>, Vec<_>) = each.into_iter().unzip();
    let mut lines = vec![format!("marked   {} {what}", names.len())];
    lines.extend(first_of(&names));
    let hidden = state.hidden_marks();
    if hidden > 0 {
        lines.push(format!("hidden   {hidden} marked ones are not in sight"));
    }
    let action = Action::of_all(actions)?;
    Some(Confirm { lines, marked: true, ..question(title, &[], action) })
}

fn first_of(names: &[String]) -> Vec<String> {
    let mut lines: Vec<_> =
        names.iter().take(NAMED).map(|name| format!("         {name}")).collect();
    if names.len() > NAMED {
        lines.push(format!("         and {} more", names.len() - NAMED));
    }
    lines
}

fn kill(state: &State) -> Option<Confirm> {
    let action = |row: &TaskRow| {
        let (job, node) = (row.job.clone(), row.node.clone());
        Some(Action::Kill { job, node, attempt: row.running.as_ref()?.attempt, kill: None })
    };
    let confirm = match tasks(state).as_slice() {
        [row] if state.marks() == 0 => {
            let running = row.running.as_ref()?;
            let attempt = format!("#{} {}", row.attempt_no, running.attempt);
            let facts = [
                ("job", row.job.as_str()),
                ("node", &row.node),
                ("worker", &running.worker),
                ("attempt", &attempt),
            ];
            question("Kill this attempt?", &facts, action(row)?)
        }
        rows => {
            let name = |row: &&TaskRow| format!("{} on {} #{}", row.job, row.node, row.attempt_no);
            let each = rows.iter().filter_map(|row| Some((name(row), action(row)?))).collect();
            series(state, "Kill these attempts?", "attempts that were running", each)?
        }
    };
    Some(Confirm { ways: WAYS.to_vec(), ..confirm })
}

fn forgive(state: &State) -> Option<Confirm> {
    let title = "Let these tasks run again at once?";
    let jobs = jobs(state);
    if let ([row], 0) = (jobs.as_slice(), state.marks()) {
        let nodes = format!("all: {}", waiting(row));
        let action = Action::Forgive { job: row.job.clone(), node: None };
        return Some(question(title, &[("job", &row.job), ("nodes", &nodes)], action));
    }
    if !jobs.is_empty() {
        let of = |row: &&JobRow| {
            let action = Action::Forgive { job: row.job.clone(), node: None };
            (format!("{}: {}", row.job, waiting(row)), action)
        };
        return series(state, title, "jobs, all their nodes", jobs.iter().map(of).collect());
    }
    let tasks = match state.view {
        View::Grid => {
            let job = state.grid.jobs.get(state.grid.row)?;
            vec![(job.job.clone(), state.grid.node()?.to_owned())]
        }
        _ => tasks(state).iter().map(|row| (row.job.clone(), row.node.clone())).collect(),
    };
    let action = |(job, node): &(String, String)| Action::Forgive {
        job: job.clone(),
        node: Some(node.clone()),
    };
    if let ([task], 0) = (tasks.as_slice(), state.marks()) {
        return Some(question(title, &[("job", &task.0), ("node", &task.1)], action(task)));
    }
    let of = |task: &(String, String)| (format!("{} on {}", task.0, task.1), action(task));
    series(state, title, "tasks", tasks.iter().map(of).collect())
}

fn waiting(row: &JobRow) -> String {
    let count = |state| row.counts.get(&state).copied().unwrap_or(0);
    let (failed, backoff) = (count(TaskState::Failed), count(TaskState::Backoff));
    format!("{failed} failed, {backoff} in backoff")
}

fn drain(state: &State) -> Option<Confirm> {
    let rows = state.workers.targets();
    // One that is full, or stops, is not resumed by anybody's word.
    let is_drained = |row: &&WorkerRow| row.closed == Some(ClosedReason::Draining);
    let on = !rows.iter().all(is_drained);
    let rows: Vec<_> = rows.into_iter().filter(|row| is_drained(row) != on).collect();
    let title = if on { "Give no new work to" } else { "Let work be taken again by" };
    let action = |row: &WorkerRow| Action::Drain { worker: row.worker.clone(), on };
    match rows.as_slice() {
        [row] if state.marks() == 0 => {
            let running = format!("{} tasks, which go on", row.running);
            let facts = [("worker", row.worker.as_str()), ("host", &row.host), ("runs", &running)];
            Some(question(&format!("{title} this worker?"), &facts, action(row)))
        }
        rows => {
            let of = |row: &&WorkerRow| {
                (format!("{}: {} tasks, which go on", row.worker, row.running), action(row))
            };
            series(state, &format!("{title} these?"), "workers", rows.iter().map(of).collect())
        }
    }
}

fn toggle(state: &State) -> Option<Confirm> {
    let rows = jobs(state);
    // As long as one of them is enabled, they are disabled.
    let on = !rows.iter().any(|row| row.enabled);
    let rows: Vec<_> = rows.into_iter().filter(|row| row.enabled != on).collect();
    let title = if on { "Let tasks be started by" } else { "Let nothing more be started by" };
    let action = |row: &JobRow| Action::Enable { job: row.job.clone(), on };
    let running = |row: &JobRow| {
        let count = row.counts.get(&TaskState::Running).copied().unwrap_or(0);
        format!("{count} tasks, which go on")
    };
    match rows.as_slice() {
        [row] if state.marks() == 0 => {
            let facts = [("job", row.job.as_str()), ("runs", &running(row))];
            Some(question(&format!("{title} this job?"), &facts, action(row)))
        }
        rows => {
            let of = |row: &&JobRow| (format!("{}: {}", row.job, running(row)), action(row));
            series(state, &format!("{title} these?"), "jobs", rows.iter().map(of).collect())
        }
    }
}

fn undo(state: &State) -> Option<Confirm> {
    let (title, action) = ("Take the last change back?", state.undo.clone()?);
    let Action::Each(actions) = &action else {
        return Some(question(title, &[("does", &action.shell())], action));
    };
    let commands: Vec<_> = actions.iter().map(Action::shell).collect();
    let mut lines = vec![format!("does     {} commands", commands.len())];
    lines.extend(first_of(&commands));
    Some(Confirm { lines, ..question(title, &[], action) })
}

/// What was typed as the priority of jobs.
pub fn prioritize(state: &mut State, rows: &[JobRow], typed: &str) {
    let Some(priority) = typed.trim().parse::<f64>().ok().filter(|number| number.is_finite())
    else {
        return say(state, format!("{typed:?} is not a number"));
    };
    let action = |row: &JobRow| Action::Prioritize { job: row.job.clone(), priority };
    state.confirm = match rows {
        [row] if state.marks() == 0 => {
            let change = format!("{} -> {priority}", row.priority);
            let facts = [("job", row.job.as_str()), ("priority", &change)];
            Some(question("Change this job's priority?", &facts, action(row)))
        }
        rows => {
            let of = |row: &JobRow| {
                (format!("{}: {} -> {priority}", row.job, row.priority), action(row))
            };
            let each = rows.iter().map(of).collect();
            series(state, "Change the priority of these?", "jobs", each)
        }
    };
}

/// What was typed as a command to be run once.
pub fn submit(state: &mut State, typed: &str) {
    match submission::parse(typed) {
        Ok(action) => {
            let Action::Submit { job, words, .. } = &action else { return };
            let command = words.join(" ");
            let facts = [("job", job.as_str()), ("runs", &command)];
            state.confirm = Some(question("Run this once?", &facts, action.clone()));
        }
        Err(problem) => say(state, format!("this is no command to submit: {problem}")),
    }
}

/// Of all tasks that pass the filter in sight it must be known first which they are.
pub fn plan(state: &mut State, action: BulkAction) -> Option<Command> {
    if state.read_only {
        say(state, "this console is read-only");
        return None;
    }
    let filter = state.tasks.query.filter.clone();
    if filter.trim().is_empty() {
        say(state, "filter first: this would be about every task of the cell");
        return None;
    }
    say(state, "looking at what that would touch...");
    Some(Command::Plan(action, filter))
}

pub fn planned(state: &mut State, action: BulkAction, filter: String, plan: PlanReply) {
    // Whatever somebody does by now, its keys are not for this question.
    let busy = state.confirm.is_some() || state.prompt.is_some() || state.palette.is_some();
    if busy || state.view != View::Tasks || state.tasks.query.filter != filter {
        return say(state, "the plan came too late, and is dropped: ask again");
    }
    state.notice = None;
    if plan.total == 0 {
        return say(state, "no task that passes the filter is in a state for this");
    }
    let counts: Vec<_> =
        plan.counts.iter().map(|(state, count)| format!("{count} {}", state.as_str())).collect();
    let (total, counts) = (plan.total.to_string(), counts.join(", "));
    let (title, ways) = match action {
        BulkAction::Kill => ("Kill all of these attempts?", WAYS.to_vec()),
        BulkAction::Forgive => ("Let all of these run again at once?", Vec::new()),
    };
    let mut lines = vec![format!("filter   {filter}"), format!("tasks    {total}: {counts}")];
    let sample = plan.sample.iter().take(5);
    lines.extend(sample.map(|row| format!("         {} on {}", row.job, row.node)));
    if plan.total > 5 {
        lines.push("         ...".to_owned());
    }
    let action = Action::Apply { action, filter, plan: plan.plan, kill: None };
    state.confirm = Some(Confirm { ways, lines, ..question(title, &[], action) });
}

/// Only failed tasks, or those that wait after an error, too.
pub fn failures(filter: &str) -> String {
    filter::with(filter, "state", Some("failed,backoff"))
}
