//! What is asked before something is changed, and about whom: always the row that somebody has
//! chosen, by its name and attempt.

use bistro_common::filter;
use bistro_common::protocol::api::{BulkAction, JobRow, PlanReply, TaskRow, TaskState};
use bistro_common::protocol::heartbeat::ClosedReason;
use bistro_common::protocol::task::{Kill, KillMethod};

use super::{Command, say};
use crate::client::actions::{Action, shell};
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

/// What a key would ask, if there is anything to ask it about.
pub fn about(state: &State, key: Key) -> Option<Confirm> {
    match key {
        Key::Kill => kill(task(state)?),
        Key::Forgive => forgive(state),
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
        _ if strayed => "the row that you were on is gone: choose one".to_owned(),
        Key::Undo => "there is nothing to take back".to_owned(),
        Key::Kill => match task(state) {
            Some(row) => format!("{} on {} is not running", row.job, row.node),
            None => "there is no task under the cursor".to_owned(),
        },
        _ => "there is nothing under the cursor".to_owned(),
    };
    say(state, text);
}

/// The task that the cursor is on, as fresh as the console has it.
fn task(state: &State) -> Option<&TaskRow> {
    match state.view {
        View::Tasks => state.tasks.chosen(),
        View::Task => state.explanation.as_ref().map(|explanation| &explanation.task),
        _ => None,
    }
}

fn job(state: &State) -> Option<&JobRow> {
    match state.view {
        View::Jobs => state.jobs.chosen(),
        View::Job => state.job.row.as_ref(),
        _ => None,
    }
}

fn question(title: &str, facts: &[(&str, &str)], action: Action) -> Confirm {
    let lines = facts.iter().map(|(label, text)| format!("{label:<8} {text}")).collect();
    Confirm { title: title.to_owned(), lines, action, ways: Vec::new(), way: 0, yes: false }
}

fn kill(row: &TaskRow) -> Option<Confirm> {
    let running = row.running.as_ref()?;
    let attempt = format!("#{} {}", row.attempt_no, running.attempt);
    let facts = [
        ("job", row.job.as_str()),
        ("node", &row.node),
        ("worker", &running.worker),
        ("attempt", &attempt),
    ];
    let (job, node) = (row.job.clone(), row.node.clone());
    let action = Action::Kill { job, node, attempt: running.attempt, kill: None };
    Some(Confirm { ways: WAYS.to_vec(), ..question("Kill this attempt?", &facts, action) })
}

fn forgive(state: &State) -> Option<Confirm> {
    let title = "Let these tasks run again at once?";
    if let Some(row) = job(state) {
        let count = |s| row.counts.get(&s).copied().unwrap_or(0);
        let (failed, waiting) = (count(TaskState::Failed), count(TaskState::Backoff));
        let nodes = format!("all: {failed} failed, {waiting} in backoff");
        let action = Action::Forgive { job: row.job.clone(), node: None };
        return Some(question(title, &[("job", &row.job), ("nodes", &nodes)], action));
    }
    let (job, node) = match state.view {
        View::Grid => {
            let job = state.grid.jobs.get(state.grid.row)?;
            (job.job.clone(), state.grid.node()?.to_owned())
        }
        _ => task(state).map(|row| (row.job.clone(), row.node.clone()))?,
    };
    let action = Action::Forgive { job: job.clone(), node: Some(node.clone()) };
    Some(question(title, &[("job", &job), ("node", &node)], action))
}

fn toggle(state: &State) -> Option<Confirm> {
    if state.view == View::Workers {
        let row = state.workers.chosen()?;
        // One that is full, or stops, is not resumed by anybody's word.
        let (on, title) = match row.closed {
            Some(ClosedReason::Draining) => (false, "Let this worker take work again?"),
            _ => (true, "Give this worker no new work?"),
        };
        let running = format!("{} tasks, which go on", row.running);
        let facts = [("worker", row.worker.as_str()), ("host", &row.host), ("runs", &running)];
        let action = Action::Drain { worker: row.worker.clone(), on };
        return Some(question(title, &facts, action));
    }
    let row = job(state)?;
    let (on, title) = match row.enabled {
        true => (false, "Let this job start nothing more?"),
        false => (true, "Let this job start tasks?"),
    };
    let running = row.counts.get(&TaskState::Running).copied().unwrap_or(0);
    let running = format!("{running} tasks, which go on");
    let facts = [("job", row.job.as_str()), ("runs", &running)];
    Some(question(title, &facts, Action::Enable { job: row.job.clone(), on }))
}

fn undo(state: &State) -> Option<Confirm> {
    let action = state.undo.clone()?;
    let command = shell(&action.command());
    Some(question("Do the opposite of the last change?", &[("does", &command)], action))
}

/// What was typed as a job's priority.
pub fn prioritize(state: &mut State, job: String, typed: &str) {
    match typed.trim().parse::<f64>().ok().filter(|priority| priority.is_finite()) {
        Some(priority) => {
            let text = priority.to_string();
            let facts = [("job", job.as_str()), ("priority", &text)];
            let action = Action::Prioritize { job: job.clone(), priority };
            state.confirm = Some(question("Change this job's priority?", &facts, action));
        }
        None => say(state, format!("{typed:?} is not a number")),
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
    let title = title.to_owned();
    state.confirm = Some(Confirm { title, lines, action, ways, way: 0, yes: false });
}

/// Only failed tasks, or those that wait after an error, too.
pub fn failures(filter: &str) -> String {
    filter::with(filter, "state", Some("failed,backoff"))
}
