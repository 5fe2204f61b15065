//! `bistro up`: a whole cell on this machine, as children of one process.
//!
//! Every child is told by the kernel when this process is gone, however it went.

mod nats;

use anyhow::Context;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use bistro_common::nats::Patience;
use bistro_common::protocol::api::{CellStatus, TaskState, verb};
use bistro_common::subject::Cell;

use crate::args::ConsoleArgs;
use crate::args::UpArgs;
use crate::client::{Client, URL_FILE};
use crate::text::safe;
use crate::tui::settings::Settings;
use crate::tui::{self, terminal};
use crate::{POLL, ended_by_signal, make_private_directory};

/// The lease of a cell on one machine.
const LEASE_SEC: u64 = 15;
const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// A child that is started again when it ends.
struct Part {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    url: String,
    /// What the child gets when this process is gone.
    farewell: Signal,
    child: Child,
}

impl Part {
    fn start(
        name: &str,
        program: PathBuf,
        args: Vec<String>,
        url: &str,
        farewell: Signal,
    ) -> anyhow::Result<Self> {
        let child = spawn(&program, &args, url, farewell)
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self { name: name.to_owned(), program, args, url: url.to_owned(), farewell, child })
    }

    async fn restart_if_ended(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            tracing::warn!("{} has ended ({status}) and is started again", self.name);
            // What cannot run must not be tried as fast as it fails.
            tokio::time::sleep(RESTART_DELAY).await;
            self.child = spawn(&self.program, &self.args, &self.url, self.farewell)?;
        }
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("{} does not end and is killed", self.name);
            let _ = self.child.kill().await;
        }
    }
}

#[expect(unsafe_code, reason = "only a hook between fork and exec can ask for the signal")]
fn spawn(program: &Path, args: &[String], url: &str, farewell: Signal) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(args)
        // Not in argv, which everybody may read: the URL has a password in it.
        .env("BISTRO_NATS_URL", url)
        .stdin(Stdio::null())
        // Away from the terminal's ctrl-c: this process stops its children in order.
        .process_group(0);
    // SAFETY: prctl is async-signal-safe, and the hook does nothing else.
    unsafe {
        command.pre_exec(move || nix::sys::prctl::set_pdeathsig(farewell).map_err(Into::into));
    }
    command.spawn()
}

pub async fn run(cell: &Cell, nats: Option<&str>, args: UpArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        args.config.exists(),
        "there is no file {}; configs/ has examples, and `bistro validate FILE` checks one",
        args.config.display()
    );
    let settings = Settings::new(&ConsoleArgs::default())?;
    make_private_directory(&args.data_dir)?;
    let data_dir = args.data_dir.canonicalize()?;
    let _lock = lock(&data_dir)?;
    let console = !args.no_console && terminal::is_possible();
    if console {
        // That of the parts too, which inherit it.
        terminal::divert_stderr(&data_dir.join("up.log"))?;
    }
    let url_file = data_dir.join("nats.url");
    let mut parts = Vec::new();
    let result = tokio::select! {
        result = work(cell, nats, &args, console.then_some(settings), &data_dir, &mut parts) => result,
        () = ended_by_signal() => Ok(ExitCode::from(u8::from(args.until_done))),
    };
    // Workers first, so that they can hand their results over; NATS last.
    for part in parts.iter_mut().rev() {
        part.stop().await;
    }
    // It may not have been written.
    let _ = std::fs::remove_file(url_file);
    result
}

/// Held for as long as this process lives.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let file = File::create(data_dir.join("lock"))?;
    file.try_lock().with_context(|| {
        format!(
            "another `bistro up` uses {}; stop it, or give another --data-dir",
            data_dir.display()
        )
    })?;
    Ok(file)
}

/// Starts the parts and does what was asked for while they run.
async fn work(
    cell: &Cell,
    nats: Option<&str>,
    args: &UpArgs,
    console: Option<Settings>,
    data_dir: &Path,
    parts: &mut Vec<Part>,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let url = match nats {
        Some(url) => url.to_owned(),
        None => {
            let (server, url) = nats::start(data_dir).await?;
            parts.push(server);
            url
        }
    };
    start_scheduler(cell, args, data_dir, &url, parts)?;
    for number in 1..=args.workers {
        start_worker(cell, args, data_dir, &url, number, parts)?;
    }
    write_private(&data_dir.join("nats.url"), &url)?;
    let client = Client::connect(&url, cell.clone(), Patience::FailFast).await?;
    if console.is_none() {
        let how = match Path::new(URL_FILE).canonicalize() {
            Ok(found) if found.parent() == Some(data_dir) => {
                "`bistro status` in this directory".to_owned()
            }
            _ => format!("`bistro status --nats \"$(cat {}/nats.url)\"`", data_dir.display()),
        };
        let text = format!("bistro up: the cell {} runs; {how} asks it", cell.name());
        // Where nobody reads, there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    let ended = async {
        match console {
            Some(settings) => {
                tui::run(client.clone(), settings).await?;
                match args.until_done {
                    true => client.ask(verb::STATUS, &()).await.map(Some),
                    false => Ok(None),
                }
            }
            None if args.until_done => Ok(Some(until_done(&client).await)),
            None => std::future::pending().await,
        }
    };
    let status = tokio::select! {
        result = keep_running(parts) => return result.map(|()| ExitCode::SUCCESS),
        status = ended => status?,
    };
    let Some(status) = status else { return Ok(ExitCode::SUCCESS) };
    report(&status, started.elapsed())
}

fn start_scheduler(
    cell: &Cell,
    args: &UpArgs,
    data_dir: &Path,
    url: &str,
    parts: &mut Vec<Part>,
) -> anyhow::Result<()> {
    let config = args.config.display().to_string();
    let lease = LEASE_SEC.to_string();
    let directory = data_dir.join("scheduler").display().to_string();
    let scheduler = ["scheduler", "--config", &config, "--lease-sec", &lease];
    let common = ["--data-dir", &directory, "--cell", cell.name()];
    let arguments = scheduler.into_iter().chain(common).map(str::to_owned).collect();
    parts.push(Part::start("scheduler", this_program()?, arguments, url, Signal::SIGTERM)?);
    Ok(())
}

fn start_worker(
    cell: &Cell,
    args: &UpArgs,
    data_dir: &Path,
    url: &str,
    number: u16,
    parts: &mut Vec<Part>,
) -> anyhow::Result<()> {
    let name = format!("w{number}");
    let directory = data_dir.join(format!("worker-{name}")).display().to_string();
    let worker = ["worker", "--name", &name, "--data-dir", &directory, "--cell", cell.name()];
    let mut arguments = worker.map(str::to_owned).to_vec();
    if let Some(command) = &args.worker_command {
        arguments.extend(["--worker-command".to_owned(), absolute(command)?]);
    }
    if !args.pass_env.is_empty() {
        arguments.extend(["--pass-env".to_owned(), args.pass_env.join(",")]);
    }
    parts.push(Part::start(&name, this_program()?, arguments, url, Signal::SIGTERM)?);
    Ok(())
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

async fn keep_running(parts: &mut [Part]) -> anyhow::Result<()> {
    loop {
        for part in parts.iter_mut() {
            part.restart_if_ended().await?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Returns the status of a cell in which nothing can run any more.
async fn until_done(client: &Client) -> CellStatus {
    let mut broken_since: Option<Instant> = None;
    loop {
        if let Ok(status) = client.ask::<CellStatus>(verb::STATUS, &()).await {
            // A config that cannot be used will not finish anything.
            let broken = status.nodes <= 1 && !status.problems.is_empty();
            broken_since = broken.then(|| broken_since.unwrap_or_else(Instant::now));
            if status.finished || broken_since.is_some_and(|at| at.elapsed() > START_TIMEOUT) {
                return status;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last line is for scripts.
fn report(status: &CellStatus, took: Duration) -> anyhow::Result<ExitCode> {
    let count = |state| status.counts.get(&state).copied().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for problem in &status.problems {
        writeln!(out, "{}", safe(&problem.to_string()))?;
    }
    for line in &status.stuck {
        writeln!(out, "not done: {}", safe(line))?;
    }
    let (done, failed) = (count(TaskState::Done), count(TaskState::Failed));
    let wanted: u64 = status.counts.values().sum::<u64>() - count(TaskState::Avoided);
    writeln!(out, "{done} done, {failed} failed in {:.1} s", took.as_secs_f64())?;
    Ok(ExitCode::from(u8::from(done != wanted || wanted == 0)))
}

/// Tasks run in another directory, so a relative program is made absolute; a bare name is left to
/// the PATH unless there is such a file here.
fn absolute(command: &str) -> anyhow::Result<String> {
    let path = Path::new(command);
    if !command.contains('/') && !path.exists() {
        return Ok(command.to_owned());
    }
    let found = path.canonicalize().with_context(|| format!("--worker-command {command}"))?;
    Ok(found.display().to_string())
}

/// A new file that only this user can read: there is a password in it.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
