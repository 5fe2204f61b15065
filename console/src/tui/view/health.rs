//! What is wrong with the cell, and with what this console knows of it.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use bistro_common::protocol::api::{CellStatus, Severity, TaskState};

use super::{fold, nothing};
use crate::text::span;
use crate::tui::state::State;

/// One finding: bad ones first say what, then what to do.
type Finding = (bool, String);

pub fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let Some(status) = &state.status else {
        return nothing(state, None, "nothing is known yet");
    };
    let mut findings = of_cell(status);
    findings.extend(of_nodes(state));
    findings.extend(of_console(state));
    findings.sort_by_key(|(bad, _)| !bad);
    let mut lines = Vec::new();
    for (bad, text) in findings {
        let (mark, style) = match bad {
            true => ("x", state.theme.state(TaskState::Failed)),
            false => ("+", Style::new()),
        };
        lines.extend(fold(&format!("{mark} {text}"), area.width, style));
    }
    lines.push(Line::raw(""));
    let up = status.now_ms.saturating_sub(status.started_ms);
    let text = format!(
        "scheduler {}  build {}  reign {}  up {}",
        status.scheduler,
        status.build,
        status.epoch,
        span(up)
    );
    lines.push(Line::styled(text, state.theme.quiet));
    if let Some(rtt) = state.link.rtt_ms {
        let text = format!("answers in {rtt:.1} ms");
        lines.push(Line::styled(text, state.theme.quiet));
    }
    lines
}

fn of_cell(status: &CellStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (healthy, all) = (status.workers_healthy, status.workers);
    findings.push(match (healthy, all) {
        (0, 0) => (true, "no worker: start `bistro worker`".to_owned()),
        (healthy, all) if healthy < all => {
            (true, format!("{healthy} of {all} workers are healthy: see Workers"))
        }
        _ => (false, format!("all {all} workers are healthy")),
    });
    let unsure = status.counts.get(&TaskState::Unsure).copied().unwrap_or(0);
    findings.push(match unsure {
        0 => (false, "every attempt is accounted for".to_owned()),
        unsure => (
            true,
            format!(
                "{unsure} attempts may run or not, until their workers say so or their leases \
                 are over: filter Tasks by state=unsure"
            ),
        ),
    });
    findings.extend(status.standbys.map(|standbys| match standbys {
        0 => (true, "no other scheduler stands by: start one --with-standbys".to_owned()),
        standbys => (false, format!("{standbys} more schedulers stand by")),
    }));
    if !status.enabled {
        let text = "nothing is started: the settings say \"enabled\": false";
        findings.push((true, text.to_owned()));
    }
    for problem in &status.problems {
        findings.push((problem.severity == Severity::Error, problem.to_string()));
    }
    if status.problems.is_empty() {
        findings.push((false, "the config is sound".to_owned()));
    }
    findings.extend(status.stuck.iter().map(|line| (true, format!("not done: {line}"))));
    findings
}

fn of_nodes(state: &State) -> Vec<Finding> {
    if state.overused.is_empty() {
        return vec![(false, "no node has more slots taken than it has".to_owned())];
    }
    let of = |row: &bistro_common::protocol::api::NodeRow| {
        let over = row.slots.iter().filter(|(_, slots)| slots.used > slots.limit);
        let over: Vec<_> =
            over.map(|(name, slots)| format!("{name} {}/{}", slots.used, slots.limit)).collect();
        let text = format!("{}: more taken than there is: {}", row.node, over.join(" "));
        (true, text)
    };
    state.overused.iter().map(of).collect()
}

fn of_console(state: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(ms) = state.silent_ms() {
        findings.push((true, format!("what you see is {} old", span(ms))));
    }
    if state.link.gaps > 0 {
        let gaps = state.link.gaps;
        findings.push((
            false,
            format!("changes of the grid were missed {gaps} times, and all of it was taken again"),
        ));
    }
    findings.extend(state.logs.problems.iter().map(|problem| (true, problem.clone())));
    findings
}
