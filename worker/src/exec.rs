//! Runs one attempt by the original's contract: `command... node status-path json`.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use bistro_common::clock::Clock;
use bistro_common::ids::LedgerId;
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::task::{Kill, KillMethod, Outcome, TaskResult};
use bistro_common::status::{TaskStatus, bits};
use bistro_common::subject::Token;

use crate::leftovers::LEDGER_VARIABLE;

/// A status line may be so long; what is longer cannot be parsed, and says so.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// While a status pipe can be inherited no other task may be started, or it would inherit it too.
static SPAWNING: Mutex<()> = Mutex::new(());

/// What all attempts of a worker have in common.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub data_dir: PathBuf,
    pub worker: String,
    pub host: String,
    pub cell: String,
    pub ledger: LedgerId,
    /// argv for jobs without a command of their own.
    pub command: Vec<String>,
    pub clock: Clock,
}

/// Runs an attempt until it and everything that holds its status pipe has ended.
pub async fn run(
    here: Surroundings,
    assignment: Assignment,
    mut kills: mpsc::Receiver<Kill>,
    interrupted: impl Fn() -> bool,
) -> TaskResult {
    let started_ms = here.clock.now();
    let (status, exit) = match start(&here, &assignment) {
        Ok((child, pipe)) => watch(child, pipe, &mut kills).await,
        Err(reason) => {
            let text = format!("Failed to start task: {reason}");
            (Ended::Status(TaskStatus::with_exception(bits::ERROR_BACKOFF, text)), None)
        }
    };
    let outcome = match status {
        Ended::Silent { signalled: true } if interrupted() => {
            Outcome::Interrupted { reason: "the worker was stopped".to_owned() }
        }
        Ended::Silent { signalled } => {
            Outcome::Reported { status: TaskStatus::of_attempt(None, signalled) }
        }
        Ended::Status(status) => Outcome::Reported { status },
    };
    TaskResult {
        attempt: assignment.attempt,
        task: assignment.task,
        attempt_no: assignment.attempt_no,
        outcome,
        started_ms,
        ended_ms: here.clock.now(),
        exit,
    }
}

enum Ended {
    Status(TaskStatus),
    /// No line, or a blank last one.
    Silent {
        signalled: bool,
    },
}

fn start(
    here: &Surroundings,
    assignment: &Assignment,
) -> Result<(Child, pipe::Receiver), std::io::Error> {
    let prefix = match assignment.command.is_empty() {
        true => &here.command,
        false => &assignment.command,
    };
    let Some((program, args)) = prefix.split_first() else {
        return Err(std::io::Error::other(
            "the job has no command, and the worker has no --worker-command",
        ));
    };
    let directory = job_directory(&here.data_dir, &assignment.task.job);
    std::fs::create_dir_all(&directory)?;
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(&assignment.task.node)
        .arg(format!("/dev/fd/{}", writer.as_raw_fd()))
        .arg(argument(here, assignment).to_string())
        .current_dir(directory)
        .env_remove("BISTRO_NATS_URL")
        .env("BISTRO_ATTEMPT_ID", assignment.attempt.to_string())
        .env("BISTRO_ATTEMPT_NO", assignment.attempt_no.to_string())
        .env("BISTRO_JOB", &assignment.task.job)
        .env("BISTRO_NODE", &assignment.task.node)
        .env("BISTRO_CELL", &here.cell)
        .env(LEDGER_VARIABLE, here.ledger.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let child = {
        let _alone = SPAWNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let child = command.spawn();
        drop(writer);
        child?
    };
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

/// Shared by all tasks of a job; the name is made safe for a path.
fn job_directory(data_dir: &Path, job: &str) -> PathBuf {
    data_dir.join("jobs").join(Token::new(job).as_str())
}

/// The JSON argument (reference, section 7.1).
fn argument(here: &Surroundings, assignment: &Assignment) -> Value {
    let path: Vec<&str> = assignment.path.iter().map(|on| on.node.as_str()).collect();
    let mut resources: Map<String, Value> = assignment
        .path
        .iter()
        .filter(|on| !on.slots.is_empty())
        .map(|on| (on.node.clone(), json!(on.slots)))
        .collect();
    if !assignment.worker_slots.is_empty() {
        resources.insert(here.worker.clone(), json!(assignment.worker_slots));
    }
    let mut argument = json!({
        "id": assignment.task.job,
        "path_to_node": path,
        "config": assignment.config,
        "resources_by_node": resources,
        "worker_node": here.worker,
        "worker_host": here.host,
    });
    if let Some(status) = &assignment.prev_status {
        argument["prev_status"] = status.clone();
    }
    argument
}

async fn watch(
    mut child: Child,
    mut pipe: pipe::Receiver,
    kills: &mut mpsc::Receiver<Kill>,
) -> (Ended, Option<String>) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut last = LastLine::default();
    let (mut exit, mut open, mut signalled) = (None, true, false);
    let mut kill_at: Option<Instant> = None;
    let mut buffer = vec![0; 4 << 10];
    while exit.is_none() || open {
        let deadline = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait(), if exit.is_none() => exit = Some(status.ok()),
            read = pipe.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => last.push(&buffer[..count]),
            },
            Some(kill) = kills.recv() => {
                signalled = true;
                match kill.method {
                    KillMethod::Kill => signal(group, Signal::SIGKILL),
                    KillMethod::Term => signal(group, Signal::SIGTERM),
                    KillMethod::TermWaitKill => {
                        signal(group, Signal::SIGTERM);
                        // Of several deadlines the earliest holds.
                        let at = Instant::now() + Duration::from_millis(kill.wait_ms);
                        kill_at = Some(kill_at.map_or(at, |before| before.min(at)));
                    }
                }
            }
            () = deadline => {
                kill_at = None;
                signal(group, Signal::SIGKILL);
            }
        }
    }
    let ended = match last.line() {
        Some(line) => Ended::Status(TaskStatus::of_attempt(Some(&line), signalled)),
        None => Ended::Silent { signalled },
    };
    (ended, exit.flatten().map(describe))
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // The group may have ended just now.
        let _ = killpg(group, signal);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last line of a stream, in bounded memory.
#[derive(Default)]
struct LastLine {
    line: Vec<u8>,
    ended: bool,
}

impl LastLine {
    fn push(&mut self, bytes: &[u8]) {
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
    fn line(&self) -> Option<String> {
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
