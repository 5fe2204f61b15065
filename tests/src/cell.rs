//! A whole cell in one process: a scheduler and workers, as their own tasks, on a real NATS.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use bistro_common::ids::{AttemptId, WorkerName};
use bistro_common::lease::LeaseTerms;
use bistro_common::nats::{Address, Bus, NatsError, Patience};
use bistro_common::protocol::api::{
    ApiError, ApiReply, CellStatus, KillReply, KillRequest, ListRequest, Listing, TaskState,
    WorkerRow, verb,
};
use bistro_common::protocol::heartbeat::Isolation;
use bistro_common::protocol::log::{LogRead, LogReadReply};
use bistro_common::protocol::task::{Kill, KillMethod};
use bistro_common::protocol::{decode, encode};
use bistro_common::subject::Cell as CellName;

use bistro_scheduler::config_files::Location;
use bistro_worker::GuardCommand;
use bistro_worker::logs::Budget;

use crate::{NatsServer, Process};

/// Nothing in a test takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cell {
    pub nats: NatsServer,
    pub directory: tempfile::TempDir,
    /// Of schedulers that are started from now on.
    pub terms: LeaseTerms,
    /// Where the next scheduler offers HTTP.
    pub http: Option<std::net::SocketAddr>,
    name: CellName,
    client: Bus,
}

/// A worker that runs until it is stopped.
pub struct Worker {
    stop: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

impl Worker {
    /// Ends its tasks and says goodbye, as on SIGTERM.
    pub async fn stop(self) {
        self.stop.send(true).expect("the worker runs");
        tokio::time::timeout(PATIENCE, self.ended).await.expect("it stops").expect("cleanly");
    }
}

impl Cell {
    /// NATS and a client; no scheduler yet.
    pub async fn new() -> Self {
        Self::on(NatsServer::start()).await
    }

    /// The same on a server that is there.
    pub async fn on(nats: NatsServer) -> Self {
        let name = CellName::new("test").expect("a valid name");
        let client = connect(&nats, &name, "client").await;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { nats, directory, terms: LeaseTerms::DEVELOPMENT, http: None, name, client }
    }

    pub fn name(&self) -> &CellName {
        &self.name
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("bistro.json")
    }

    /// Where schedulers of this cell keep their store.
    pub fn scheduler_directory(&self) -> PathBuf {
        self.directory.path().join("scheduler")
    }

    pub fn write_config(&self, text: &str) {
        std::fs::write(self.config_path(), text).expect("the config can be written");
    }

    /// A scheduler in this process, for as long as the test runs.
    pub async fn start_scheduler(&self) {
        self.start_scheduler_on(Location::Path(self.config_path())).await;
    }

    /// The same with its config elsewhere.
    pub async fn start_scheduler_on(&self, config: Location) {
        let data_dir = self.scheduler_directory();
        std::fs::create_dir_all(&data_dir).expect("a directory can be made");
        let options = bistro_scheduler::Options {
            cell: self.name.clone(),
            config,
            data_dir,
            instance: "root".to_owned(),
            terms: self.terms,
            http: self.http,
            standbys: None,
        };
        let bus = self.connect("scheduler").await;
        tokio::spawn(async move {
            bistro_scheduler::run(options, bus, std::future::pending())
                .await
                .expect("the scheduler runs");
        });
    }

    pub async fn start_worker(&self, name: &str, command: &str) -> Worker {
        let data_dir = self.directory.path().join(format!("worker-{name}"));
        std::fs::create_dir_all(&data_dir).expect("a directory can be made");
        let options = bistro_worker::Options {
            cell: self.name.clone(),
            name: WorkerName::new(name).expect("a valid name"),
            data_dir,
            command: vec![command.to_owned()],
            host: "localhost".to_owned(),
            guard: GuardCommand {
                program: bistro(),
                args: vec!["guard".to_owned()],
                pass_env: vec!["BISTRO_TEST_PASSED".to_owned()],
            },
            log_budget: Budget { bytes: 1 << 30, age: Duration::from_secs(86_400) },
            finish: Duration::ZERO,
        };
        let bus = self.connect(name).await;
        let (stop, stopped) = watch::channel(false);
        let ended = tokio::spawn(async move {
            bistro_worker::run(options, bus, stopped).await.expect("the worker runs");
        });
        Worker { stop, ended }
    }

    /// A worker as a process of its own.
    pub fn spawn_worker(&self, name: &str, command: &str) -> Process {
        Process::spawn(self.worker_command(name, command))
    }

    /// The same before it is started.
    pub fn worker_command(&self, name: &str, command: &str) -> std::process::Command {
        self.worker_command_on(&format!("worker-{name}"), name, command)
    }

    /// The same with another disk than its name says.
    pub fn worker_command_on(
        &self,
        disk: &str,
        name: &str,
        command: &str,
    ) -> std::process::Command {
        let data_dir = self.directory.path().join(disk);
        let mut worker = std::process::Command::new(bistro());
        worker.args(["worker", "--cell", self.name.name(), "--name", name, "--data-dir"]);
        worker.arg(data_dir).args(["--worker-command", command]);
        worker.env("BISTRO_NATS_URL", self.nats.url());
        worker
    }

    /// A scheduler as a process of its own.
    pub fn spawn_scheduler(&self) -> Process {
        Process::spawn(self.scheduler_command(&self.scheduler_directory()))
    }

    /// One with this data directory, before it is started.
    pub fn scheduler_command(&self, data_dir: &std::path::Path) -> std::process::Command {
        let lease = (self.terms.lease_ms / 1_000).to_string();
        let mut scheduler = std::process::Command::new(bistro());
        scheduler.args(["scheduler", "--cell", self.name.name(), "--instance", "root"]);
        scheduler.arg("--config").arg(self.config_path()).arg("--data-dir").arg(data_dir);
        scheduler.args(["--lease-sec", &lease]).env("BISTRO_NATS_URL", self.nats.url());
        scheduler
    }

    /// Runs a part that should end by itself; its exit code, and what it says.
    pub async fn run_to_end(&self, command: std::process::Command) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::from(command);
        let ran = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
        let output = ran.await.expect("it ends").expect("it can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// How many messages come on these subjects from now on.
    pub async fn count(&self, subjects: &str) -> Arc<AtomicUsize> {
        let subscribed = self.client.client().subscribe(subjects.to_owned()).await;
        let mut messages = subscribed.expect("NATS is there");
        self.client.client().flush().await.expect("NATS is there");
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        tokio::spawn(async move {
            while futures_util::StreamExt::next(&mut messages).await.is_some() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
    }

    /// Of events of this kind.
    pub async fn count_events(&self, kind: &str) -> Arc<AtomicUsize> {
        self.count(&self.name.event(kind)).await
    }

    /// A command of the CLI that is about this cell.
    pub fn cli_command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(bistro());
        command.args(args).env("BISTRO_NATS_URL", self.nats.url());
        command.env("BISTRO_CELL", self.name.name());
        command
    }

    /// Runs a command of the CLI to its end; the lines of its output, or of its errors.
    pub async fn cli(&self, args: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let ran = tokio::time::timeout(PATIENCE, self.cli_command(args).output());
        let output = ran.await.expect("it ends").expect("it can be started");
        let lines = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        match output.status.success() {
            true => Ok(lines(&output.stdout)),
            false => Err(lines(&output.stderr)),
        }
    }

    /// Asks on any subject, as a pipeline without our libraries does.
    pub async fn request(&self, subject: &str) -> serde_json::Value {
        let timeout = Duration::from_secs(10);
        let bytes = self.client.request(subject.to_owned(), Vec::new(), timeout).await;
        serde_json::from_slice(&bytes.expect("somebody answers")).expect("JSON")
    }

    /// Does anybody listen on this subject?
    pub async fn is_heard(&self, subject: &str) -> bool {
        let timeout = Duration::from_secs(1);
        let answer = self.client.request(subject.to_owned(), Vec::new(), timeout).await;
        !matches!(answer, Err(NatsError::NoResponders { .. }))
    }

    /// One page of a worker's task logs.
    pub async fn logs(&self, worker: &str, request: &LogRead) -> LogReadReply {
        let subject = self.name.log_read(&WorkerName::new(worker).expect("a valid name"));
        let timeout = Duration::from_secs(10);
        let bytes = self.client.request(subject, encode(request), timeout).await;
        decode(&bytes.expect("the worker answers")).expect("a page")
    }

    /// Asks the scheduler, again and again while nobody answers.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T, ApiError> {
        let payload = serde_json::to_vec(request).expect("requests are JSON");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let subject = self.name.api(verb);
            let answer =
                self.client.request(subject, payload.clone(), Duration::from_secs(2)).await;
            match answer {
                Ok(bytes) => {
                    let reply: ApiReply<T> =
                        serde_json::from_slice(&bytes).expect("a reply of this verb");
                    return match (reply.ok, reply.error) {
                        (Some(ok), _) => Ok(ok),
                        (None, Some(error)) => Err(error),
                        (None, None) => panic!("an empty reply"),
                    };
                }
                Err(error) => assert!(Instant::now() < deadline, "no scheduler: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for the end of an attempt that runs.
    pub async fn kill(&self, attempt: AttemptId, method: KillMethod, wait_ms: u64) {
        let kill = Some(Kill { method, wait_ms });
        let (actor, reason) = ("me".to_owned(), String::new());
        let request = KillRequest { attempt, kill, actor, reason };
        let _: KillReply = self.ask(verb::KILL, &request).await.expect("it is asked to end");
    }

    /// Another connection of this cell.
    pub async fn connect(&self, role: &str) -> Bus {
        connect(&self.nats, &self.name, role).await
    }

    pub async fn status(&self) -> CellStatus {
        self.ask(verb::STATUS, &()).await.expect("the status")
    }

    /// What the only worker has in force, once it has said so.
    pub async fn isolation(&self) -> Isolation {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows: Listing<WorkerRow> =
                self.ask(verb::WORKERS, &ListRequest::default()).await.expect("the workers");
            if let Some(isolation) = rows.items.first().and_then(|row| row.capacity.isolation) {
                return isolation;
            }
            assert!(Instant::now() < deadline, "the worker does not say it: {rows:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the status is as wanted; fails with the last one after a while.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&CellStatus) -> bool) -> CellStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited for: {what}; {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn wait_for_count(&self, state: TaskState, count: u64) -> CellStatus {
        let what = format!("{count} tasks {}", state.as_str());
        self.wait_for(&what, |status| status.counts.get(&state).copied() == Some(count)).await
    }

    /// An executable script, by its absolute path.
    pub fn script(&self, name: &str, body: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a file can be written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("it can be made executable");
        path.to_str().expect("a temporary path is UTF-8").to_owned()
    }
}

/// The one binary. Built with the workspace's tests and benches, next to where they lie.
pub fn bistro() -> PathBuf {
    let this = std::env::current_exe().expect("a test has a file");
    // target/PROFILE/deps/TEST, or target/PROFILE/bistro-bench.
    let found = this.ancestors().skip(1).take(2).map(|directory| directory.join("bistro"));
    found.into_iter().find(|binary| binary.is_file()).unwrap_or_else(|| {
        panic!("there is no bistro next to {}; run `cargo build` first", this.display())
    })
}

async fn connect(nats: &NatsServer, cell: &CellName, role: &str) -> Bus {
    let address = Address::parse(&nats.url()).expect("the server's own address");
    Bus::connect(&address, cell, role, Patience::FailFast).await.expect("the server listens")
}
