//! The console without a screen: one view as text, or changes line by line.

use ratatui::backend::TestBackend;
use std::process::ExitCode;
use std::time::Duration;

use bistro_common::clock::Clock;
use bistro_common::protocol::api::{CellStatus, Counts, JobRow, TaskState};
use std::collections::HashMap;

use super::settings::Settings;
use super::state::State;
use super::update::{Message, update};
use super::{Feeding, view};
use crate::cli::print_line;
use crate::client::{Client, Unreachable};
use crate::ended_by_signal;
use crate::text::{clock, safe};

/// Who wants a look once does not wait longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Changes are said together, so that a voice can follow.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Prints the view once, as text.
pub async fn once(client: Client, settings: Settings) -> anyhow::Result<ExitCode> {
    let mut state = settings.into_state(client.cell.name());
    // Some terminals do not know how large they are.
    let size = crossterm::terminal::size().ok().filter(|&(width, height)| width > 0 && height > 0);
    state.size = size.unwrap_or((120, 40));
    let clock = Clock::start();
    let mut feeding = Feeding::start(&client, &state);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !state.is_settled() {
        let message = tokio::time::timeout_at(deadline, feeding.messages.recv()).await;
        let Ok(Some(message)) = message else {
            let why = state.link.trouble.unwrap_or_else(|| "the cell does not answer".to_owned());
            return Err(Unreachable(why).into());
        };
        update(&mut state, Message::Time(clock.now()));
        update(&mut state, message);
        feeding.follow(&state);
    }
    let (width, height) = state.size;
    let mut screen = ratatui::Terminal::new(TestBackend::new(width, height))?;
    screen.draw(|frame| view::draw(&state, frame))?;
    let buffer = screen.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width.max(1)));
    for line in lines {
        let text: String = line.iter().map(|cell| cell.symbol()).collect();
        print_line(text.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what changes, line by line, until it is told to end.
pub async fn plain(client: Client, settings: Settings) -> anyhow::Result<ExitCode> {
    let mut state = settings.into_state(client.cell.name());
    let time = Clock::start();
    let mut feeding = Feeding::start(&client, &state);
    let mut said = Said::default();
    let mut ticks = tokio::time::interval(SAY_EVERY);
    let ended = ended_by_signal();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            Some(message) = feeding.messages.recv() => {
                update(&mut state, message);
                feeding.follow(&state);
            }
            _ = ticks.tick() => {
                update(&mut state, Message::Time(time.now()));
                for line in said.news(&state) {
                    print_line(&format!("{} {}", clock(state.now_ms), safe(&line)))?;
                }
            }
            () = &mut ended => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What was said last, so that only changes are.
#[derive(Default)]
struct Said {
    silent: bool,
    cell: Option<(Counts, u64, u64)>,
    jobs: HashMap<String, Counts>,
    problems: Vec<String>,
}

impl Said {
    fn news(&mut self, state: &State) -> Vec<String> {
        let mut lines = Vec::new();
        let silent = state.silent_ms();
        if silent.is_some() != self.silent {
            self.silent = silent.is_some();
            lines.push(match silent {
                Some(ms) => format!("the scheduler has been silent for {}", crate::text::span(ms)),
                None => "the scheduler answers again".to_owned(),
            });
        }
        lines.extend(state.status.as_ref().and_then(|status| self.of_cell(status)));
        for row in &state.jobs.rows {
            lines.extend(self.of_job(row));
        }
        let problems = state.status.iter().flat_map(|status| &status.problems);
        let problems: Vec<String> = problems.map(ToString::to_string).collect();
        lines.extend(problems.iter().filter(|p| !self.problems.contains(p)).cloned());
        if problems.is_empty() && !self.problems.is_empty() {
            lines.push("no problem is left".to_owned());
        }
        self.problems = problems;
        lines
    }

    fn of_cell(&mut self, status: &CellStatus) -> Option<String> {
        let now = (status.counts.clone(), status.workers_healthy, status.workers);
        if self.cell.as_ref() == Some(&now) {
            return None;
        }
        let text = format!(
            "cell {}: {}; {} of {} workers healthy",
            status.cell,
            counted(&status.counts),
            status.workers_healthy,
            status.workers
        );
        self.cell = Some(now);
        Some(text)
    }

    fn of_job(&mut self, row: &JobRow) -> Option<String> {
        if self.jobs.get(&row.job) == Some(&row.counts) {
            return None;
        }
        self.jobs.insert(row.job.clone(), row.counts.clone());
        Some(format!("job {}: {}", row.job, counted(&row.counts)))
    }
}

fn counted(counts: &Counts) -> String {
    let count = |state: &TaskState| Some(format!("{} {}", counts.get(state)?, state.as_str()));
    let counts: Vec<_> = TaskState::ALL.iter().filter_map(count).collect();
    if counts.is_empty() { "no tasks".to_owned() } else { counts.join(", ") }
}
