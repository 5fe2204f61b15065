//! Runs one attempt by the original's contract: `command... node status-path json`.

mod pipe;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use bistro_common::clock::{Clock, sleep_until};
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::heartbeat::Isolation;
use bistro_common::protocol::log::Stream;
use bistro_common::protocol::task::{Kill, KillMethod, Outcome, Slots, TaskResult, Usage};
use bistro_common::status::{TaskStatus, bits};
use bistro_common::subject::Token;

use crate::guard::{EXITED_WELL, Guard, Report, Reports, STATUS_PATH, Start, TaskSignal};
use crate::journal::Journal;
use crate::logs::{Capture, LineQuota, Lines, Logs, Source};
use crate::processes::ATTEMPT_VARIABLE;
use crate::responder::{self, Voice};
use crate::usage::Usages;

use pipe::Pipe;

/// A status line may be so long; what is longer cannot be parsed, and says so.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// Most tasks are over before anybody would look at what they print: until then nobody does. It is
/// a tenth of what a person notices.
const UNWATCHED: Duration = Duration::from_millis(10);

/// Lines of one that is not watched may be so long together before they are printed.
const PRINT_BYTES: usize = 16 << 10;

/// Orders to end one attempt; more than these change nothing.
const KILLS_MAX: usize = 16;

/// To give one attempt orders to end. (One of tokio's channels takes kilobytes, and there is one for
/// each attempt.)
pub type Killing = futures_channel::mpsc::Sender<Kill>;
pub type Kills = futures_channel::mpsc::Receiver<Kill>;

pub fn killing() -> (Killing, Kills) {
    futures_channel::mpsc::channel(KILLS_MAX)
}

/// What all attempts of a worker have in common.
pub struct Surroundings {
    pub data_dir: PathBuf,
    pub worker: String,
    pub host: String,
    pub cell: String,
    /// argv for jobs without a command of their own.
    pub command: Vec<String>,
    pub clock: Clock,
    pub guard: Guard,
    pub usages: Usages,
    pub logs: Logs,
    pub voice: Voice,
}

/// Runs an attempt: until its first process has ended, every holder of its pipes is gone and its
/// cgroup, where it has one, is empty; or until its responder has answered.
pub async fn run(
    here: Arc<Surroundings>,
    assignment: Assignment,
    mut kills: Kills,
    interrupted: impl Fn() -> bool,
) -> TaskResult {
    let started_ms = here.clock.now();
    let source = Source {
        attempt: assignment.open.attempt,
        attempt_no: assignment.open.attempt_no,
        task: assignment.open.task.clone(),
    };
    let mut journal = Journal {
        clock: here.clock,
        host: here.host.clone(),
        started_ms,
        source: source.clone(),
        printer: here.logs.printer(source),
        raw_status: None,
        lines: Lines::default(),
    };
    let ended = match &assignment.spec.responder {
        Some(responder) => {
            responder::ask(&here, &assignment, responder, &mut kills, &mut journal).await
        }
        None if assignment.spec.noop => {
            Ended { how: How::Status(TaskStatus::new(bits::DONE)), exit: None, usage: None }
        }
        None => match start(&here, &assignment).await {
            Ok(mut running) => running.watch(&mut kills, &mut journal).await,
            Err(reason) => Ended::not_started(&reason),
        },
    };
    let outcome = match ended.how {
        How::Interrupted(reason) => Outcome::Interrupted { reason },
        How::Silent { signalled: true } if interrupted() => {
            Outcome::Interrupted { reason: "the worker was stopped".to_owned() }
        }
        How::Silent { signalled } => {
            Outcome::Reported { status: TaskStatus::of_attempt(None, signalled) }
        }
        How::Status(status) => Outcome::Reported { status },
        How::NotStarted(status) => {
            journal.event("task_failed_to_start", &[("status", json!(status))]);
            Outcome::Reported { status }
        }
    };
    if let Outcome::Reported { status } = &outcome {
        journal.event("got_status", &[("status", json!(status))]);
    }
    journal.end().await;
    TaskResult {
        attempt: assignment.open.attempt,
        task: assignment.open.task.clone(),
        attempt_no: assignment.open.attempt_no,
        outcome,
        started_ms,
        ended_ms: here.clock.now(),
        exit: ended.exit,
        usage: ended.usage,
    }
}

pub struct Ended {
    pub how: How,
    pub exit: Option<String>,
    pub usage: Option<Usage>,
}

pub enum How {
    Status(TaskStatus),
    NotStarted(TaskStatus),
    /// No line, or a blank last one.
    Silent {
        signalled: bool,
    },
    /// The worker took the task down.
    Interrupted(String),
}

impl Ended {
    pub fn not_started(reason: &dyn std::fmt::Display) -> Self {
        let text = format!("Failed to start task: {reason}");
        let status = TaskStatus::with_exception(bits::ERROR_BACKOFF, text);
        Self { how: How::NotStarted(status), exit: None, usage: None }
    }
}

/// A task that the guard was told to start.
struct Running<'a> {
    guard: Guard,
    usages: Usages,
    assignment: &'a Assignment,
    argv: Vec<String>,
    reports: Reports,
    stdout: Pipe,
    stderr: Pipe,
    status: Pipe,
    canary: Pipe,
    started: Instant,
    /// When to begin to look at its pipes, unless it is over before.
    watch_at: Option<Instant>,
    signalled: bool,
    kill_at: Option<Instant>,
    quota: LineQuota,
    capture: Capture,
    last: LastLine,
}

async fn start<'a>(
    here: &Surroundings,
    assignment: &'a Assignment,
) -> Result<Running<'a>, Box<dyn std::error::Error + Send + Sync>> {
    let mut argv = command(&here.command, assignment)
        .ok_or("the job has no command, and the worker has no --worker-command")?;
    let directory = job_directory(&here.data_dir, &assignment.open.task.job);
    // It mostly is there, and to be told so by an attempt to make it is dearer.
    if !directory.is_dir() {
        std::fs::create_dir_all(&directory)?;
    }
    let (stdout, stdout_writer) = Pipe::new()?;
    let (stderr, stderr_writer) = Pipe::new()?;
    let (status, status_writer) = Pipe::new()?;
    // A cgroup says when a task is over.
    let in_cgroup = here.guard.hold().is_some_and(|hold| hold.isolation == Isolation::Cgroup);
    let canary = (!in_cgroup).then(Pipe::new).transpose()?;
    if !assignment.spec.plain_command {
        let argument = Argument::new(&here.worker, &here.host, assignment);
        argv.extend([STATUS_PATH.to_owned(), serde_json::to_string(&argument)?]);
    }
    let variables = [
        (ATTEMPT_VARIABLE, assignment.open.attempt.to_string()),
        ("BISTRO_ATTEMPT_NO", assignment.open.attempt_no.to_string()),
        ("BISTRO_JOB", assignment.open.task.job.to_string()),
        ("BISTRO_NODE", assignment.open.task.node.to_string()),
        ("BISTRO_CELL", here.cell.clone()),
        // For those that do not get it as an argument.
        ("BISTRO_STATUS", STATUS_PATH.to_owned()),
    ];
    let order = Start {
        attempt: assignment.open.attempt,
        argv: argv.clone(),
        directory,
        confinement: assignment.spec.confinement.clone(),
        limits: assignment.spec.limits.clone(),
        env: variables.map(|(name, value)| (name.to_owned(), value)).into(),
    };
    let (canary, canary_writer) = canary.unzip();
    let pipes =
        [stdout_writer, stderr_writer, status_writer].into_iter().chain(canary_writer).collect();
    Ok(Running {
        guard: here.guard.clone(),
        usages: here.usages.clone(),
        assignment,
        argv,
        reports: here.guard.start_task(order, pipes).await?,
        stdout,
        stderr,
        status,
        canary: canary.unwrap_or(Pipe::Closed),
        started: Instant::now(),
        watch_at: None,
        signalled: false,
        kill_at: None,
        quota: LineQuota::new(assignment.spec.log_lines_per_10_ms),
        capture: Capture::default(),
        last: LastLine::default(),
    })
}

/// Shared by all tasks of a job; the name is made safe for a path.
fn job_directory(data_dir: &Path, job: &str) -> PathBuf {
    data_dir.join("jobs").join(Token::new(job).as_str())
}

/// What is run, up to the status path; `worker_command` where the job has no command of its own.
pub fn command(worker_command: &[String], assignment: &Assignment) -> Option<Vec<String>> {
    let prefix = match assignment.spec.command.is_empty() {
        true => worker_command,
        false => &assignment.spec.command,
    };
    let node = (!assignment.spec.plain_command).then(|| assignment.open.task.node.to_string());
    (!prefix.is_empty()).then(|| prefix.iter().cloned().chain(node).collect())
}

/// The JSON argument (reference, section 7.1).
#[derive(Serialize)]
pub struct Argument<'a> {
    id: &'a str,
    path_to_node: Vec<&'a str>,
    config: &'a Map<String, Value>,
    resources_by_node: BTreeMap<&'a str, &'a Slots>,
    worker_node: &'a str,
    worker_host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_status: Option<&'a Value>,
}

impl<'a> Argument<'a> {
    pub fn new(worker: &'a str, host: &'a str, assignment: &'a Assignment) -> Self {
        let open = &assignment.open;
        let on_nodes = open.path.iter().map(|on| (&*on.node, &*on.slots));
        let on_worker = std::iter::once((worker, &*open.worker_slots));
        Self {
            id: &open.task.job,
            path_to_node: open.path.iter().map(|on| &*on.node).collect(),
            config: &assignment.spec.config,
            resources_by_node: on_nodes
                .chain(on_worker)
                .filter(|(_, slots)| !slots.is_empty())
                .collect(),
            worker_node: worker,
            worker_host: host,
            prev_status: assignment.prev_status.as_ref(),
        }
    }
}

impl Running<'_> {
    async fn watch(&mut self, kills: &mut Kills, journal: &mut Journal) -> Ended {
        let (mut exit, mut reporting) = (None, true);
        let (mut watched, mut usage) = (None, None);
        while reporting || self.pipes_are_open() {
            // A task that is soon over has all its lines printed at once.
            if self.is_watched() {
                journal.print().await;
            }
            let open = self.quota.is_open(self.started.elapsed());
            tokio::select! {
                report = self.reports.next(), if reporting => match report {
                    Some(Report::NotStarted { error, .. }) => return Ended::not_started(&error),
                    Some(Report::Started { pid, .. }) => {
                        watched = Some(self.usages.watch(pid));
                        self.watch_at = Some(Instant::now() + UNWATCHED);
                        self.tell_start(journal);
                    }
                    Some(Report::Exited { exit: message, cpu_ms, left, .. }) => {
                        reporting = left;
                        let memory_peak_kb = watched.take().and_then(|w| w.memory_peak_kb());
                        usage = Some(Usage { cpu_ms, memory_peak_kb });
                        journal.event("process_exited", &[("message", json!(message))]);
                        exit = Some(message);
                        match left {
                            true => journal.event("processes_left", &[]),
                            false => self.read_to_the_end(journal).await,
                        }
                    }
                    Some(Report::Empty { .. }) => reporting = false,
                    // It is the guard's word about itself, and is not passed on.
                    Some(Report::Ready(_)) => {}
                    None => {
                        reporting = false;
                        self.read_to_the_end(journal).await;
                    }
                },
                () = sleep_until(self.watch_at) => self.watch_pipes(),
                () = self.stdout.readable(), if open => {
                    self.read_lines(Stream::Stdout, journal).await;
                }
                () = self.stderr.readable(), if open => {
                    self.read_lines(Stream::Stderr, journal).await;
                }
                () = self.status.readable(), if open => drop(self.read_status(journal)),
                () = self.canary.readable(), if open => drop(self.canary.read(|_| ())),
                () = tokio::time::sleep(LineQuota::PERIOD), if !open => {}
                Some(kill) = kills.next() => self.kill(kill).await,
                () = sleep_until(self.kill_at) => {
                    self.kill_at = None;
                    self.guard.signal(self.assignment.open.attempt, TaskSignal::Kill).await;
                }
            }
        }
        std::mem::take(&mut self.capture).finish(&mut journal.lines);
        journal.event("task_pipes_closed", &[]);
        let how = match self.last.line() {
            Some(line) => How::Status(TaskStatus::of_attempt(Some(&line), self.signalled)),
            None if exit.is_none() => {
                How::Interrupted("the worker's guard was killed, and the task with it".to_owned())
            }
            None if self.assignment.spec.plain_command && !self.signalled => {
                How::Status(status_of_exit(exit.as_deref().unwrap_or_default()))
            }
            None => How::Silent { signalled: self.signalled },
        };
        Ended { how, exit, usage }
    }

    fn tell_start(&self, journal: &mut Journal) {
        let limits = &self.assignment.spec.limits;
        let limits = (!limits.is_empty()).then(|| ("limits", json!(limits)));
        let facts: Vec<_> = [("command", json!(self.argv))].into_iter().chain(limits).collect();
        journal.event("running", &facts);
    }

    fn watch_pipes(&mut self) {
        self.watch_at = None;
        let pipes = [&mut self.stdout, &mut self.stderr, &mut self.status, &mut self.canary];
        for pipe in pipes {
            if let Err(error) = pipe.watch() {
                tracing::error!(%error, "a pipe of a task cannot be read, and is closed");
            }
        }
    }

    /// When nothing of the task is left. Should somebody else hold a pipe, that is watched.
    async fn read_to_the_end(&mut self, journal: &mut Journal) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.read_lines(stream, journal).await {}
        }
        while self.read_status(journal) {}
        while self.canary.read(|_| ()) {}
        self.watch_pipes();
    }

    fn is_watched(&self) -> bool {
        self.watch_at.is_none()
    }

    /// Returns whether there may be more right now; so does the next.
    async fn read_lines(&mut self, stream: Stream, journal: &mut Journal) -> bool {
        let prints = self.is_watched() || journal.lines.bytes() >= PRINT_BYTES;
        let room = match prints {
            true => Some(journal.printer.room().await),
            false => None,
        };
        let pipe = match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdout | Stream::Statuses => &mut self.stdout,
        };
        let lines = &mut journal.lines;
        let more = pipe.read(|bytes| self.quota.take(self.capture.push(stream, bytes, lines)));
        if let Some(room) = room {
            room.print(journal.clock.now(), std::mem::take(lines));
        }
        more
    }

    fn read_status(&mut self, journal: &mut Journal) -> bool {
        let more = self.status.read(|bytes| self.last.push(bytes));
        journal.raw_status = self.last.line();
        more
    }

    fn pipes_are_open(&self) -> bool {
        [&self.stdout, &self.stderr, &self.status, &self.canary].into_iter().any(Pipe::is_open)
    }

    async fn kill(&mut self, kill: Kill) {
        self.signalled = true;
        let attempt = self.assignment.open.attempt;
        match kill.method {
            KillMethod::Kill => self.guard.signal(attempt, TaskSignal::Kill).await,
            KillMethod::Term => self.guard.signal(attempt, TaskSignal::Term).await,
            KillMethod::TermWaitKill => {
                self.guard.signal(attempt, TaskSignal::Term).await;
                // Of several deadlines the earliest holds.
                let at = Instant::now() + Duration::from_millis(kill.wait_ms);
                self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
            }
        }
    }
}

/// What a plain command's exit means.
fn status_of_exit(exit: &str) -> TaskStatus {
    match exit {
        EXITED_WELL => TaskStatus { result_bits: bits::DONE, data: None },
        exit => TaskStatus::with_exception(bits::ERROR_BACKOFF, format!("the command {exit}")),
    }
}

/// The last line of a stream, in bounded memory.
#[derive(Default)]
pub struct LastLine {
    line: Vec<u8>,
    ended: bool,
}

impl LastLine {
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if std::mem::take(&mut self.ended) {
                self.line.clear();
            }
            if byte == b'\n' {
                self.ended = true;
            } else if self.line.len() < STATUS_BYTES_MAX {
                self.line.push(byte);
            }
        }
    }

    /// `None` if there is no line, or the last one is blank.
    pub fn line(&self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        (!line.trim().is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let last = |text: &str| {
            let mut last = LastLine::default();
            text.as_bytes().chunks(3).for_each(|chunk| last.push(chunk));
            last.line()
        };
        assert_eq!(last("done\n").as_deref(), Some("done"));
        assert_eq!(last("failed\ndone").as_deref(), Some("done"));
        assert_eq!(last("done\n\n"), None);
        assert_eq!(last(""), None);
        assert_eq!(last(&"x".repeat(100_000)).map(|line| line.len()), Some(STATUS_BYTES_MAX));
    }
}
