//! `bistro up`: a whole cell on this machine, as children of one process.
//!
//! Every child is told by the kernel when this process is gone, however it went.

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use bistro_common::protocol::api::{CellStatus, TaskState, verb};
use bistro_common::subject::Cell;

use crate::args::UpArgs;
use crate::client::Client;
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
            eprintln!("bistro up: {} has ended ({status}) and is started again", self.name);
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
            eprintln!("bistro up: {} does not end and is killed", self.name);
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
    make_private_directory(&args.data_dir)?;
    let data_dir = args.data_dir.canonicalize()?;
    let mut parts = Vec::new();
    let result = tokio::select! {
        result = work(cell, nats, &args, &data_dir, &mut parts) => result,
        () = ended_by_signal() => Ok(ExitCode::from(1)),
    };
    // Workers first, so that they can hand their results over; NATS last.
    for part in parts.iter_mut().rev() {
        part.stop().await;
    }
    result
}

async fn work(
    cell: &Cell,
    nats: Option<&str>,
    args: &UpArgs,
    data_dir: &Path,
    parts: &mut Vec<Part>,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let url = match nats {
        Some(url) => url.to_owned(),
        None => start_nats(data_dir, parts).await?,
    };
    let this = std::env::current_exe().context("cannot find this program")?;
    let text = |path: PathBuf| path.display().to_string();
    let common = ["--cell".to_owned(), cell.name().to_owned()];
    let scheduler = ["scheduler", "--config", &args.config.display().to_string(), "--lease-sec"]
        .map(str::to_owned)
        .into_iter()
        .chain([LEASE_SEC.to_string(), "--data-dir".to_owned(), text(data_dir.join("scheduler"))])
        .chain(common.clone());
    let scheduler = scheduler.collect();
    parts.push(Part::start("scheduler", this.clone(), scheduler, &url, Signal::SIGTERM)?);
    for number in 1..=args.workers {
        let name = format!("w{number}");
        let directory = text(data_dir.join(format!("worker-{name}")));
        let mut worker: Vec<String> =
            ["worker", "--name", &name, "--data-dir", &directory].map(str::to_owned).to_vec();
        worker.extend(common.clone());
        if let Some(command) = &args.worker_command {
            worker.extend(["--worker-command".to_owned(), absolute(command)?]);
        }
        parts.push(Part::start(&name, this.clone(), worker, &url, Signal::SIGTERM)?);
    }
    eprintln!("bistro up: cell {} on {url}", cell.name());
    let client = Client::connect(&url, cell.clone()).await?;
    let mut quiet_since: Option<Instant> = None;
    loop {
        for part in parts.iter_mut() {
            part.restart_if_ended().await?;
        }
        if args.until_done
            && let Ok(status) = client.ask::<CellStatus>(verb::STATUS, &json!({})).await
        {
            if status.finished {
                return Ok(report(&status, started.elapsed()));
            }
            // A config that cannot be used will not finish anything.
            let broken = status.nodes <= 1 && !status.problems.is_empty();
            quiet_since = broken.then(|| quiet_since.unwrap_or_else(Instant::now));
            if quiet_since.is_some_and(|since| since.elapsed() > START_TIMEOUT) {
                return Ok(report(&status, started.elapsed()));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last line is for scripts.
fn report(status: &CellStatus, took: Duration) -> ExitCode {
    let count = |state| status.counts.get(&state).copied().unwrap_or(0);
    for problem in &status.problems {
        eprintln!("{problem}");
    }
    for line in &status.stuck {
        println!("not done: {line}");
    }
    let (done, failed) = (count(TaskState::Done), count(TaskState::Failed));
    let wanted: u64 = status.counts.values().sum::<u64>() - count(TaskState::Avoided);
    println!("{done} done, {failed} failed in {:.1} s", took.as_secs_f64());
    ExitCode::from(u8::from(done != wanted || wanted == 0))
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

/// A nats-server of our own on a free loopback port, with a password that only this cell knows.
async fn start_nats(data_dir: &Path, parts: &mut Vec<Part>) -> anyhow::Result<String> {
    let directory = data_dir.join("nats");
    make_private_directory(&directory)?;
    let port = free_port()?;
    let password = uuid::Uuid::new_v4().simple().to_string();
    let config = directory.join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\nauthorization {{ user: bistro, password: \"{password}\" }}\n\
         jetstream {{ store_dir: {}, sync_interval: always }}\n",
        serde_json::to_string(&directory.join("store").display().to_string())?
    );
    std::fs::remove_file(&config).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&config)?;
    file.write_all(text.as_bytes())?;
    let binary = nats_server()?;
    let log = directory.join("nats.log");
    let args = ["-c", &config.display().to_string(), "-l", &log.display().to_string()];
    let args = args.map(str::to_owned).to_vec();
    parts.push(Part::start("nats-server", binary, args, "", Signal::SIGTERM)?);
    let deadline = Instant::now() + START_TIMEOUT;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if Instant::now() >= deadline {
            bail!("nats-server does not listen; see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(format!("nats://bistro:{password}@127.0.0.1:{port}"))
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn nats_server() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return Ok(path.into());
    }
    let local = Path::new(".bistro/bin/nats-server");
    if local.exists() {
        return Ok(local.canonicalize()?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|p| p.exists());
    found.context(
        "there is no nats-server; run scripts/setup, set NATS_SERVER_BIN, or give --nats URL",
    )
}
