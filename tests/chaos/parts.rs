//! The parts of the cell as real processes, each behind a proxy of its own, and what can be done to
//! them.

use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bistro_tests::{NatsServer, Process, bistro, children_of};

use bistro_tests::proxy::{self, Proxy};

pub const WORKERS: usize = 3;
/// So that it ends, and something follows, within a short run.
pub const LEASE_SEC: u64 = 5;

/// A process that is to run, and may not at the moment.
struct Part {
    args: Vec<String>,
    proxy: Proxy,
    process: Option<Process>,
    /// When it is started, continued, or connected again.
    start_at: Option<Instant>,
    continue_at: Option<Instant>,
    heal_at: Option<Instant>,
}

pub struct Parts {
    nats: NatsServer,
    nats_at: Option<Instant>,
    /// The scheduler first.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Kill,
    KillWithGuard,
    KillGuard,
    Stop,
    Cut { out: bool, into: bool },
    Delay,
    KillNats,
}

impl Parts {
    pub async fn start(directory: &std::path::Path, config: PathBuf, task: String) -> Self {
        let nats = NatsServer::start();
        let server = nats.url().trim_start_matches("nats://").to_owned();
        let mut parts = Vec::new();
        for part in 0..=WORKERS {
            let data = directory.join(format!("data-{part}"));
            std::fs::create_dir_all(&data).expect("a directory can be made");
            let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
            let own = match part {
                0 => vec!["scheduler".to_owned(), "--config".to_owned(), text(&config)]
                    .into_iter()
                    .chain(["--lease-sec".to_owned(), LEASE_SEC.to_string()])
                    .collect::<Vec<_>>(),
                worker => vec!["worker".to_owned(), "--name".to_owned(), format!("w{worker}")]
                    .into_iter()
                    .chain(["--worker-command".to_owned(), task.clone()])
                    .collect(),
            };
            let every = ["--cell", "chaos", "--data-dir"].map(str::to_owned);
            let args = own.into_iter().chain(every).chain([text(&data)]).collect();
            let proxy = Proxy::start(server.clone()).await;
            let (start_at, continue_at, heal_at) = (Some(Instant::now()), None, None);
            parts.push(Part { args, proxy, process: None, start_at, continue_at, heal_at });
        }
        let mut parts = Self { nats, nats_at: None, parts };
        parts.attend();
        parts
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }

    /// Does what is due: starts, continues, connects.
    pub fn attend(&mut self) {
        let now = Instant::now();
        if self.nats_at.take_if(|at| *at <= now).is_some() {
            self.nats.restart();
        }
        for part in &mut self.parts {
            if part.start_at.take_if(|at| *at <= now).is_some() && part.process.is_none() {
                let args: Vec<&str> = part.args.iter().map(String::as_str).collect();
                part.process = Some(Process::start(&bistro(), &args, &part.proxy.url()));
            }
            if part.continue_at.take_if(|at| *at <= now).is_some()
                && let Some(process) = &part.process
            {
                process.signal(Signal::SIGCONT);
            }
            if part.heal_at.take_if(|at| *at <= now).is_some() {
                part.proxy.set(proxy::Fault::default());
            }
        }
    }

    /// Everything that is wrong is over now.
    pub fn mend(&mut self) {
        let now = Instant::now();
        self.nats_at = self.nats_at.map(|_| now);
        for part in &mut self.parts {
            for at in [&mut part.start_at, &mut part.continue_at, &mut part.heal_at] {
                *at = at.map(|_| now);
            }
        }
        self.attend();
    }

    /// Part 0 is the scheduler.
    pub fn inflict(&mut self, fault: Fault, on: usize, lasts: Duration) {
        let until = Instant::now() + lasts;
        if let Fault::KillNats = fault {
            if self.nats_at.is_none() {
                self.nats.kill();
                self.nats_at = Some(until.min(Instant::now() + Duration::from_secs(3)));
            }
            return;
        }
        let part = &mut self.parts[on];
        let Some(process) = &part.process else { return };
        match fault {
            Fault::Kill | Fault::KillWithGuard => {
                let guards = match fault {
                    Fault::KillWithGuard => children_of(process.pid(), "guard"),
                    _ => Vec::new(),
                };
                guards.into_iter().for_each(kill);
                part.process.take().into_iter().for_each(Process::kill);
                part.continue_at = None;
                // Without its guard, tasks are ended by whoever starts the worker again: soon.
                let soon = Instant::now() + Duration::from_secs(1);
                part.start_at = Some(match fault {
                    Fault::KillWithGuard => until.min(soon),
                    _ => until,
                });
            }
            Fault::KillGuard => children_of(process.pid(), "guard").into_iter().for_each(kill),
            Fault::Stop => {
                process.signal(Signal::SIGSTOP);
                part.continue_at = Some(until);
            }
            Fault::Cut { out, into } => {
                part.proxy.set(proxy::Fault { out_cut: out, in_cut: into, ..Default::default() });
                part.heal_at = Some(until);
            }
            Fault::Delay => {
                part.proxy.set(proxy::Fault { delay: lasts / 8, ..Default::default() });
                part.heal_at = Some(until);
            }
            Fault::KillNats => unreachable!("that was looked at before"),
        }
    }
}

fn kill(pid: i32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}
