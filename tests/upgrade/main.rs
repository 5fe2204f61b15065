//! `bistro-upgrade`: the version before this one and this one in one cell, either way around, and
//! each part replaced while tasks run. `BISTRO_BEFORE_BIN` is the other one's `bistro`.

use anyhow::Context;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, Process, bistro, is_running, wait_until};

const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["host"],
      "node_sources": [{"source": "manual", "prefs": {"n1": [], "n2": [], "n3": [], "n4": []}}]
    },
    "resources": {"instance": {"concurrency": {"limit": 3, "default": 1}}}
  },
  "bistro_job->job": {"owner": "me", "backoff": [1, "repeat"]}
}"#;
const TASKS: u64 = 4;
/// So many have room at once.
const ROOM: usize = 3;

/// Notes its start in `$0.log`; runs until there is `$0.go`.
const WAITS: &str = r#"echo "$1 $BISTRO_ATTEMPT_ID $$" >> "$0.log"
while [ ! -e "$0.go" ]; do sleep 0.05; done
echo done > "$2""#;

/// The programs.
struct Versions {
    before: PathBuf,
    now: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let before = std::env::var_os("BISTRO_BEFORE_BIN");
    let before = before.context("BISTRO_BEFORE_BIN is missing; run scripts/upgrade-test")?.into();
    let versions = Versions { before, now: bistro() };
    let Versions { before, now } = &versions;
    side_by_side("this scheduler, the worker before it", now, before).await;
    side_by_side("the scheduler before this one, this worker", before, now).await;
    replaced("the scheduler first, then the worker", &versions, &[Part::Scheduler, Part::Worker])
        .await;
    replaced("the worker first, then the scheduler", &versions, &[Part::Worker, Part::Scheduler])
        .await;
    Ok(())
}

/// The two get everything done, and start it once.
async fn side_by_side(what: &str, scheduler: &Path, worker: &Path) {
    let mut run = Run::start(scheduler, worker).await;
    run.all_are_done().await;
    assert_eq!(run.starts().len() as u64, TASKS, "each task was started once");
    println!("ok: {what}");
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Scheduler,
    Worker,
}

/// Tasks run meanwhile. A scheduler costs them nothing; what a worker runs ends with it, and runs
/// again.
async fn replaced(what: &str, versions: &Versions, order: &[Part]) {
    let mut run = Run::start(&versions.before, &versions.before).await;
    for part in order {
        let before = run.starts().len();
        match part {
            Part::Scheduler => {
                run.replace_scheduler(&versions.now).await;
                assert_eq!(run.starts().len(), before, "nothing was started again");
                assert_eq!(run.running(), ROOM, "what ran goes on");
            }
            Part::Worker => {
                run.replace_worker(&versions.now).await;
                wait_until("what it ran to start again", || run.starts().len() == before + ROOM)
                    .await;
            }
        }
    }
    run.all_are_done().await;
    println!("ok: {what}");
}

struct Run {
    cell: Cell,
    script: String,
    /// None: it is being replaced.
    scheduler: Option<Process>,
    worker: Option<Process>,
}

impl Run {
    /// With as many tasks running as have room.
    async fn start(scheduler: &Path, worker: &Path) -> Self {
        let cell = Cell::new().await;
        cell.write_config(CONFIG);
        let script = cell.script("task", WAITS);
        let mut run = Self { cell, script, scheduler: None, worker: None };
        run.scheduler =
            Some(run.spawn(run.cell.scheduler_command(&run.cell.scheduler_directory()), scheduler));
        run.worker = Some(run.spawn(run.cell.worker_command("w1", &run.script), worker));
        wait_until("the first starts", || run.starts().len() == ROOM).await;
        run.cell.wait_for_count(TaskState::Running, ROOM as u64).await;
        run
    }

    /// The same command of another version.
    fn spawn(&self, command: Command, program: &Path) -> Process {
        let mut other = Command::new(program);
        other.args(command.get_args());
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::spawn(other)
    }

    async fn replace_scheduler(&mut self, program: &Path) {
        let epoch = self.cell.status().await.epoch;
        self.scheduler.take().into_iter().for_each(Process::kill);
        self.scheduler = Some(
            self.spawn(self.cell.scheduler_command(&self.cell.scheduler_directory()), program),
        );
        let is_new = |epoch_now, running| epoch_now > epoch && running == Some(ROOM as u64);
        self.cell
            .wait_for("the new one to know what runs", |status| {
                is_new(status.epoch, status.counts.get(&TaskState::Running).copied())
            })
            .await;
    }

    async fn replace_worker(&mut self, program: &Path) {
        if let Some(worker) = self.worker.take() {
            worker.signal(Signal::SIGTERM);
            wait_until("the worker to end", || !is_running(worker.pid())).await;
        }
        let command = self.cell.worker_command("w1", &self.script);
        self.worker = Some(self.spawn(command, program));
    }

    async fn all_are_done(&mut self) {
        std::fs::write(format!("{}.go", self.script), "").expect("a file can be written");
        self.cell.wait_for_count(TaskState::Done, TASKS).await;
        let starts = self.starts();
        let attempts: HashSet<_> = starts.iter().map(|(attempt, _)| attempt).collect();
        assert_eq!(attempts.len(), starts.len(), "no attempt was started twice: {starts:?}");
    }

    /// Attempts and processes of all starts so far.
    fn starts(&self) -> Vec<(String, i32)> {
        let text = std::fs::read_to_string(format!("{}.log", self.script)).unwrap_or_default();
        let start = |line: &str| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        text.lines().filter_map(start).collect()
    }

    fn running(&self) -> usize {
        self.starts().iter().filter(|(_, pid)| is_running(*pid)).count()
    }
}
