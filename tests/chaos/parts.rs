//! The parts of the cell as real processes, each behind a proxy of its own, and what can be done to
//! them.

use nix::sys::signal::Signal;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bistro_tests::proxy::{self, Proxy};
use bistro_tests::{NatsServer, Process, bistro, children_of, set_disk_full, without_xfsz};

use crate::wire::Wire;

pub const WORKERS: usize = 3;
/// So that it ends, and something follows, within a short run.
pub const LEASE_SEC: u64 = 5;
/// So that a standby takes over before leases end, and not at every blink.
const TAKEOVER_SEC: u64 = 2;
/// The exit status of a Rust program that has panicked.
const PANICKED: i32 = 101;
/// After a part has ended by itself.
const RESTART: Duration = Duration::from_secs(1);
/// The server is not gone for long, or nothing else happens.
const NATS_LASTS: Duration = Duration::from_secs(3);

/// A process that is to run, and may not at the moment.
struct Part {
    args: Vec<String>,
    data: PathBuf,
    proxy: Proxy,
    wire: Option<Wire>,
    process: Option<Process>,
    /// When it is started, continued, connected again, or has room on its disk.
    start_at: Option<Instant>,
    continue_at: Option<Instant>,
    heal_at: Option<Instant>,
    room_at: Option<Instant>,
    /// A copy of its store, and when it takes that one's place.
    older: Option<(SystemTime, Instant)>,
}

pub struct Parts {
    nats: NatsServer,
    nats_at: Option<Instant>,
    nats_continue_at: Option<Instant>,
    /// The scheduler first, then the workers, and another scheduler if there is one.
    parts: Vec<Part>,
    /// What the scheduler has written between these times is lost.
    lost: Vec<(SystemTime, SystemTime)>,
    /// Parts that have ended by a panic, or a signal that nobody here has sent.
    pub crashes: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Kill,
    KillWithGuard,
    KillGuard,
    Stop,
    Cut {
        out: bool,
        into: bool,
    },
    Delay {
        out: bool,
        into: bool,
    },
    /// Packets are lost.
    Unplug,
    DiskFull,
    /// The scheduler is killed, and has its store of a moment before.
    LoseWrites,
    KillNats,
    StopNats,
}

impl Parts {
    /// With `standby`, there are two schedulers.
    pub async fn start(directory: &Path, config: PathBuf, task: String, standby: bool) -> Self {
        let nats = NatsServer::start();
        let server = nats.url().trim_start_matches("nats://").to_owned();
        Wire::clear();
        let mut parts = Vec::new();
        for part in 0..=WORKERS + usize::from(standby) {
            let data = directory.join(format!("data-{part}"));
            std::fs::create_dir_all(&data).expect("a directory can be made");
            let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
            let name = format!("w{part}");
            let (lease, takeover) = (LEASE_SEC.to_string(), TAKEOVER_SEC.to_string());
            let config = text(&config);
            let own = match part {
                1..=WORKERS => vec!["worker", "--name", &name, "--worker-command", &task],
                _ if standby => {
                    let own = ["scheduler", "--config", &config, "--lease-sec", &lease];
                    let standby = ["--with-standbys", "--takeover-sec", &takeover];
                    [&own[..], &standby, &["--instance", "chaos"]].concat()
                }
                _ => vec!["scheduler", "--config", &config, "--lease-sec", &lease],
            };
            let data_dir = text(&data);
            let every = ["--cell", "chaos", "--data-dir", &data_dir];
            let args = own.into_iter().chain(every).map(str::to_owned).collect();
            let wire = Wire::new(part);
            let address = wire.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), Wire::address);
            let proxy = Proxy::start_on(address, server.clone()).await;
            parts.push(Part {
                args,
                data,
                proxy,
                wire,
                process: None,
                start_at: Some(Instant::now()),
                continue_at: None,
                heal_at: None,
                room_at: None,
                older: None,
            });
        }
        let (nats_at, nats_continue_at, lost) = (None, None, Vec::new());
        let mut parts = Self { nats, nats_at, nats_continue_at, parts, lost, crashes: 0 };
        parts.attend();
        parts
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }

    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Has every part a network of its own?
    pub fn have_wires(&self) -> bool {
        self.parts.iter().all(|part| part.wire.is_some())
    }

    /// Whether what the scheduler did then, or so long after, may be on no disk.
    pub fn is_lost(&self, at: SystemTime, later: Duration) -> bool {
        self.lost.iter().any(|(from, to)| *from <= at + later && at <= *to)
    }

    /// Does what is due: starts, continues, connects. Returns whether writes were lost.
    pub fn attend(&mut self) -> bool {
        let lost = self.lost.len();
        let now = Instant::now();
        let is_due = |at: &mut Instant| *at <= now;
        if self.nats_at.take_if(is_due).is_some() {
            self.nats.restart();
        }
        if self.nats_continue_at.take_if(is_due).is_some() {
            self.nats.signal(Signal::SIGCONT);
        }
        for (number, part) in self.parts.iter_mut().enumerate() {
            // As whoever supervises it would. (One that finds its disk full when it starts says so
            // and ends.)
            if let Some(status) = part.process.as_mut().and_then(Process::ended) {
                let crashed = matches!(status.code(), None | Some(PANICKED));
                self.crashes += usize::from(crashed);
                println!("{}part {number}: {status}", if crashed { "BROKEN: " } else { "" });
                part.kill(now + RESTART);
            }
            if part.continue_at.take_if(is_due).is_some()
                && let Some(process) = &part.process
            {
                process.signal(Signal::SIGCONT);
            }
            if let Some((copied, _)) = part.older.take_if(|(_, at)| *at <= now) {
                part.go_back();
                self.lost.push((copied, SystemTime::now()));
            }
            if part.start_at.take_if(is_due).is_some() && part.process.is_none() {
                part.process = Some(Process::spawn(part.command()));
            }
            if part.heal_at.take_if(is_due).is_some() {
                part.heal();
            }
            if part.room_at.take_if(is_due).is_some() {
                part.fill_disk(false);
            }
        }
        self.lost.len() > lost
    }

    /// Everything that is wrong is over now.
    pub fn mend(&mut self) {
        let now = Instant::now();
        for at in [&mut self.nats_at, &mut self.nats_continue_at] {
            *at = at.map(|_| now);
        }
        for part in &mut self.parts {
            let timers =
                [&mut part.start_at, &mut part.continue_at, &mut part.heal_at, &mut part.room_at];
            for at in timers {
                *at = at.map(|_| now);
            }
            part.older = None;
        }
        self.attend();
    }

    pub fn inflict(&mut self, fault: Fault, on: usize, lasts: Duration) {
        let until = Instant::now() + lasts;
        let nats_until = until.min(Instant::now() + NATS_LASTS);
        match fault {
            Fault::KillNats | Fault::StopNats
                if self.nats_at.is_some() || self.nats_continue_at.is_some() => {}
            Fault::KillNats => {
                self.nats.kill();
                self.nats_at = Some(nats_until);
            }
            Fault::StopNats => {
                self.nats.signal(Signal::SIGSTOP);
                self.nats_continue_at = Some(until);
            }
            fault => self.parts[on].suffer(fault, until),
        }
    }

    /// When nothing runs any more: the stores whose contents are not what was once written.
    pub fn end(self) -> anyhow::Result<Vec<PathBuf>> {
        let directories: Vec<PathBuf> = self.parts.iter().map(|part| part.data.clone()).collect();
        drop(self);
        let mut broken = Vec::new();
        for store in directories.iter().flat_map(|directory| stores(directory)) {
            if !redb::Database::open(&store)?.check_integrity()? {
                broken.push(store);
            }
        }
        Ok(broken)
    }
}

impl Part {
    fn command(&self) -> Command {
        let mut command = match &self.wire {
            Some(wire) => wire.command(&bistro()),
            None => Command::new(bistro()),
        };
        command.args(&self.args).env("BISTRO_NATS_URL", self.proxy.url());
        without_xfsz(&command)
    }

    fn suffer(&mut self, fault: Fault, until: Instant) {
        let Some(process) = &self.process else { return };
        match fault {
            Fault::Kill | Fault::KillWithGuard => {
                let with_guard = matches!(fault, Fault::KillWithGuard);
                let guards = match with_guard {
                    true => children_of(process.pid(), "guard"),
                    false => Vec::new(),
                };
                guards.into_iter().for_each(kill);
                // Without its guard, tasks are ended by whoever starts the worker again: soon.
                let soon = Instant::now() + Duration::from_secs(1);
                self.kill(if with_guard { until.min(soon) } else { until });
            }
            // Its successor would inherit a disk that is full for good.
            Fault::KillGuard if self.room_at.is_some() => {}
            Fault::KillGuard => children_of(process.pid(), "guard").into_iter().for_each(kill),
            Fault::Stop => {
                process.signal(Signal::SIGSTOP);
                self.continue_at = Some(until);
            }
            Fault::Cut { out, into } => {
                self.proxy.set(proxy::Fault { out_cut: out, in_cut: into, ..Default::default() });
                self.heal_at = Some(until);
            }
            Fault::Delay { out, into } => {
                let delay = (until - Instant::now()) / 8;
                let of = |direction| if direction { delay } else { Duration::ZERO };
                let (out_delay, in_delay) = (of(out), of(into));
                self.proxy.set(proxy::Fault { out_delay, in_delay, ..Default::default() });
                self.heal_at = Some(until);
            }
            Fault::Unplug => {
                if let Some(wire) = &self.wire {
                    wire.plug(false);
                    self.heal_at = Some(until);
                }
            }
            Fault::DiskFull => {
                self.fill_disk(true);
                self.room_at = Some(until);
            }
            Fault::LoseWrites => self.remember(until),
            Fault::KillNats | Fault::StopNats => unreachable!("they are no part's"),
        }
    }

    fn kill(&mut self, start_at: Instant) {
        self.process.take().into_iter().for_each(Process::kill);
        (self.continue_at, self.room_at, self.older) = (None, None, None);
        self.start_at = Some(start_at);
    }

    fn heal(&self) {
        self.proxy.set(proxy::Fault::default());
        self.wire.iter().for_each(|wire| wire.plug(true));
    }

    fn fill_disk(&self, full: bool) {
        self.process.iter().for_each(|process| set_disk_full(process.pid(), full));
    }

    /// Copies the store as a crash would leave it now. Nothing else must be wrong, or what it wrote
    /// long ago might not be in it.
    fn remember(&mut self, until: Instant) {
        let is_well = self.continue_at.is_none() && self.room_at.is_none() && self.older.is_none();
        if let Some(process) = self.process.as_ref().filter(|_| is_well) {
            // Clocks of file systems are coarse.
            let before = SystemTime::now() - Duration::from_secs(1);
            process.signal(Signal::SIGSTOP);
            copy_stores(&self.data, &self.copies());
            process.signal(Signal::SIGCONT);
            self.older = Some((before, until));
        }
    }

    fn copies(&self) -> PathBuf {
        self.data.join("older")
    }

    fn go_back(&mut self) {
        self.kill(Instant::now());
        copy_stores(&self.copies(), &self.data);
    }
}

/// The files of the databases there.
fn stores(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|name| name == "redb")).collect()
}

/// All of them, and nothing else is left there: they belong together.
fn copy_stores(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    let remove = |store: PathBuf| std::fs::remove_file(store).expect("a file can be removed");
    stores(to).into_iter().for_each(remove);
    for store in stores(from) {
        let name = store.file_name().expect("it has an extension");
        std::fs::copy(&store, to.join(name)).expect("a file can be copied");
    }
}

fn kill(pid: i32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}
