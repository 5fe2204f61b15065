//! The guard's own process.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper, wait,
};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bistro_common::Millis;
use bistro_common::clock::boot_ms;
use bistro_common::ids::{AttemptId, LedgerId};
use bistro_common::protocol::heartbeat::Isolation;

use super::cgroup::Cgroups;
use super::confine;
use super::spawn::{Program, Spawner};
use super::{
    EXITED_WELL, Hold, Order, PACKET_BYTES_MAX, REPORTS_MAX, Report, STATUS_VARIABLE, Start,
    TaskSignal, receive_packet, send_packet,
};
use crate::processes::{ATTEMPT_VARIABLE, LEDGER_VARIABLE, Tree, is_marked, signal};

/// Between two looks at processes that are being killed.
const SWEEP_MS: Millis = 20;
/// The longest wait while there is a deadline: a wait does not count the time that the host sleeps,
/// and the deadline does.
const LOOK_MS: Millis = 1_000;

/// Between two looks at what tasks have left behind.
const LEFT_MS: Millis = 200;

/// So many orders are taken between two looks at what has ended: its cgroups are used again then.
const ORDERS_MAX: usize = 4;

/// The lowest number that a task's own pipes have in it. Scripts number files themselves: up to 9, 100,
/// 200; and shells give away 10 to 63 and 255. What they open there would take the status's place.
const INHERITED_FROM: i32 = 130;

/// What is added to how a task has ended.
const OVER_MEMORY: &str = ", over its limit of memory";

struct Guard<'a> {
    socket: BorrowedFd<'a>,
    /// The tasks' first processes that have not been reaped.
    roots: HashMap<AttemptId, Pid>,
    attempts: HashMap<Pid, AttemptId>,
    /// When everything must be dead; none once it is being seen to.
    deadline: Option<Millis>,
    /// The deadline has passed: nothing is started until there is a new one.
    expired: bool,
    /// Where the host has cgroups for us.
    cgroups: Option<Cgroups>,
    /// Starts tasks in these.
    spawner: Spawner,
    /// Reports that the worker has not taken yet. At most three per attempt.
    reports: VecDeque<Report>,
    /// Attempts of which nothing may be left.
    sweep: BTreeSet<AttemptId>,
    /// Nothing at all may be left.
    sweep_all: bool,
    /// The worker is gone.
    orphaned: bool,
}

/// Runs until the worker is gone and everything below is dead. Call it before anything in the
/// process has started a thread; standard input is the socket to the worker.
/// `allow_setuid`: tasks may gain privileges by programs such as sudo.
pub fn run(allow_setuid: bool) -> ExitCode {
    let stdin = std::io::stdin();
    match restrict(allow_setuid).and_then(|()| serve(stdin.as_fd())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the guard has failed: {error}; only a worker starts one");
            ExitCode::FAILURE
        }
    }
}

/// What holds for the guard holds for every task that it starts.
fn restrict(allow_setuid: bool) -> std::io::Result<()> {
    match allow_setuid {
        true => Ok(()),
        false => Ok(rustix::thread::set_no_new_privs(true)?),
    }
}

fn serve(socket: BorrowedFd<'_>) -> std::io::Result<()> {
    // It was started by a path that says nothing, and is looked for in lists of processes.
    rustix::thread::set_name(c"bistro-guard")?;
    set_child_subreaper(Some(getpid()))?;
    let mut exits = watch_signals()?;
    let mut spawner = Spawner::new()?;
    let worker = worker(socket)?;
    let cgroups = ledger().and_then(|ledger| Cgroups::open(ledger, worker));
    let cgroups = cgroups.and_then(|cgroups| {
        let guards = cgroups.guards().is_ok_and(|guards| spawner.works_in(guards.as_fd()));
        if !guards {
            cgroups.close();
            return None;
        }
        Some(cgroups)
    });
    let hold = Hold {
        isolation: match &cgroups {
            Some(_) => Isolation::Cgroup,
            None => Isolation::ProcessGroup,
        },
        limits: cgroups.as_ref().map(|cgroups| cgroups.limits().to_vec()).unwrap_or_default(),
    };
    let mut guard = Guard {
        socket,
        roots: HashMap::new(),
        attempts: HashMap::new(),
        deadline: None,
        expired: false,
        reports: VecDeque::from([Report::Ready(hold)]),
        cgroups,
        spawner,
        sweep: BTreeSet::new(),
        sweep_all: false,
        orphaned: false,
    };
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        guard.wait_for_something(&exits)?;
        // Only the wake-up counts, not what was written.
        while matches!(exits.read(&mut buffer), Ok(count) if count > 0) {}
        guard.take_orders(&mut buffer)?;
        guard.reap();
        guard.collect();
        guard.watch_deadline();
        guard.sweep();
        guard.send_reports();
        if guard.orphaned && !guard.sweep_all {
            guard.cgroups.into_iter().for_each(Cgroups::close);
            return Ok(());
        }
    }
}

/// Our parent, unless it is not the worker any more.
fn worker(socket: BorrowedFd<'_>) -> std::io::Result<Option<i32>> {
    let parent = rustix::process::getppid();
    // It closes the socket before its children get another parent.
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let gone = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0;
    Ok(parent.filter(|_| !gone).map(|pid| pid.as_raw_nonzero().get()))
}

/// A pipe that becomes readable when a child has ended. Signals that would end the guard are
/// caught and ignored: it ends when its worker does. (Caught, since what is ignored or blocked
/// would stay so in the tasks.)
fn watch_signals() -> std::io::Result<std::io::PipeReader> {
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let (reader, writer) = std::io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    signal_hook::low_level::pipe::register(SIGCHLD, OwnedFd::from(writer))?;
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(reader)
}

impl Guard<'_> {
    fn wait_for_something(&self, exits: &std::io::PipeReader) -> std::io::Result<()> {
        let sweeping = self.sweep_all || !self.sweep.is_empty();
        let wait_ms = match self.deadline {
            _ if sweeping => Some(SWEEP_MS),
            deadline => deadline.map(|at| at.saturating_sub(boot_ms()).min(LOOK_MS)),
        };
        let any_left = self.cgroups.as_ref().is_some_and(Cgroups::any_left);
        let wait_ms = wait_ms.into_iter().chain(any_left.then_some(LEFT_MS)).min();
        let timeout = wait_ms.map(|ms| Timespec {
            tv_sec: (ms / 1_000) as i64,
            tv_nsec: (ms % 1_000 * 1_000_000) as i64,
        });
        let mut wanted = PollFlags::IN;
        if !self.reports.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(exits, PollFlags::IN)];
        if !self.orphaned {
            fds.push(PollFd::from_borrowed_fd(self.socket, wanted));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    fn take_orders(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        for _ in 0..ORDERS_MAX {
            if self.orphaned {
                break;
            }
            match receive_packet(self.socket, buffer) {
                Ok(Some((count, descriptors))) => {
                    let order = serde_json::from_slice(&buffer[..count])?;
                    self.on_order(order, descriptors);
                }
                Ok(None) => self.on_orphaned(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.on_orphaned(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn watch_deadline(&mut self) {
        if self.deadline.is_some_and(|at| boot_ms() >= at) {
            self.deadline = None;
            self.expired = true;
            self.sweep_all = true;
        }
    }

    fn on_orphaned(&mut self) {
        self.orphaned = true;
        self.sweep_all = true;
    }

    fn on_order(&mut self, order: Order, descriptors: Vec<OwnedFd>) {
        match order {
            Order::Start(start) => {
                let attempt = start.attempt;
                let report = match self.start(start, descriptors) {
                    Ok((pid, status_path)) => Report::Started { attempt, pid, status_path },
                    Err(error) => Report::NotStarted { attempt, error: error.to_string() },
                };
                self.reports.push_back(report);
            }
            Order::Signal { attempt, signal } => self.signal(attempt, signal),
            Order::Deadline { boot_ms: at } => {
                self.deadline = Some(at);
                self.expired = boot_ms() >= at;
            }
        }
    }

    fn start(&mut self, start: Start, descriptors: Vec<OwnedFd>) -> std::io::Result<(i32, String)> {
        let [stdout, stderr, inherited @ ..] = descriptors.as_slice() else {
            return Err(std::io::Error::other("the order came without its pipes"));
        };
        if inherited.is_empty() {
            return Err(std::io::Error::other("the order came without a pipe for the status"));
        }
        self.watch_deadline();
        if self.sweep_all || self.expired {
            return Err(std::io::Error::other("the worker's lease is over"));
        }
        if start.before.is_empty() {
            return Err(std::io::Error::other("no program"));
        }
        // It becomes the task's when it has confined itself.
        let confined = confine::command(&start.confinement)?;
        let mut argv = confined.iter().chain(&start.before);
        let program = argv.next().expect("there is a program");
        // There is one thread, so nothing else can inherit them meanwhile.
        let inherited: Vec<OwnedFd> = inherited.iter().map(to_inherit).collect::<Result<_, _>>()?;
        let status_path = format!("/dev/fd/{}", inherited[0].as_raw_fd());
        let status_path_argument = start.status_argument.then_some(status_path.as_str());
        let argv: Vec<&str> = std::iter::once(program)
            .chain(argv)
            .map(String::as_str)
            .chain(status_path_argument)
            .chain(start.after.iter().map(String::as_str))
            .collect();
        let own = start.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let env: Vec<(&str, &str)> = own.chain([(STATUS_VARIABLE, status_path.as_str())]).collect();
        let directory = &start.directory;
        let (stdout, stderr) = (stdout.as_fd(), stderr.as_fd());
        let program = Program { argv: &argv, env: &env, directory, stdout, stderr };
        let spawned = match self.cgroup_for(&start)? {
            Some(cgroup) => self.spawner.spawn(&program, cgroup.as_fd()),
            None => program.spawn_anywhere(),
        };
        if let (Err(_), Some(cgroups)) = (&spawned, &mut self.cgroups) {
            cgroups.ended(start.attempt);
        }
        let pid = Pid::from_raw(spawned?);
        let pid = pid.ok_or_else(|| std::io::Error::other("the child has no pid"))?;
        self.roots.insert(start.attempt, pid);
        self.attempts.insert(pid, start.attempt);
        Ok((pid.as_raw_nonzero().get(), status_path))
    }

    /// `None`: it is found by its group and its mark, as where there are no cgroups.
    fn cgroup_for(&mut self, start: &Start) -> std::io::Result<Option<File>> {
        let Some(cgroups) = &mut self.cgroups else { return Ok(None) };
        match cgroups.give(start.attempt, &start.limits) {
            Ok(cgroup) => Ok(Some(cgroup)),
            // One that is to be held to something must not run without.
            Err(error) if !start.limits.is_empty() => {
                Err(std::io::Error::other(format!("its limits cannot be set: {error}")))
            }
            Err(error) => {
                eprintln!("warning: a task has no cgroup of its own: {error}");
                Ok(None)
            }
        }
    }

    fn signal(&mut self, attempt: AttemptId, wanted: TaskSignal) {
        let number = match wanted {
            TaskSignal::Term => Signal::TERM,
            TaskSignal::Kill => Signal::KILL,
        };
        match self.roots.get(&attempt) {
            // It has not been reaped, so the number cannot be anybody else's.
            Some(&root) => drop(kill_process_group(root, number)),
            None => {
                let tree = Tree::read();
                self.members(&tree, attempt).into_iter().for_each(|pid| signal(pid, number));
            }
        }
        if wanted == TaskSignal::Kill {
            // Its cgroup is killed by the sweep, which follows in this turn.
            self.sweep.insert(attempt);
        }
    }

    /// The processes of an attempt: below its first process, or adopted and marked.
    fn members(&self, tree: &Tree, attempt: AttemptId) -> Vec<i32> {
        let mark = attempt.to_string();
        let tops = tree.children(getpid().as_raw_nonzero().get()).iter().copied();
        let owner = |pid| self.attempts.get(&Pid::from_raw(pid)?);
        let tops = tops.filter(|&pid| match owner(pid) {
            Some(&owner) => owner == attempt,
            None => is_marked(pid, ATTEMPT_VARIABLE, &mark),
        });
        tops.flat_map(|pid| tree.with_descendants(pid)).collect()
    }

    /// Kills once more what is to be dead, until it is.
    fn sweep(&mut self) {
        if !self.sweep_all && self.sweep.is_empty() {
            return;
        }
        let tree = Tree::read();
        let us = getpid().as_raw_nonzero().get();
        if self.sweep_all {
            self.cgroups.iter().for_each(Cgroups::kill_all);
            let left = tree.with_descendants(us).split_off(1);
            left.iter().for_each(|&pid| signal(pid, Signal::KILL));
            self.sweep_all = !left.is_empty();
            return;
        }
        for attempt in std::mem::take(&mut self.sweep) {
            let left = self.members(&tree, attempt);
            left.iter().for_each(|&pid| signal(pid, Signal::KILL));
            let empty = self.cgroups.as_ref().is_none_or(|cgroups| cgroups.is_empty(attempt));
            if !left.is_empty() || !empty {
                self.cgroups.iter().for_each(|cgroups| cgroups.kill(attempt));
                self.sweep.insert(attempt);
            }
        }
    }

    fn reap(&mut self) {
        let mut before = children_cpu_ms();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            // What a child has used is told only by how much all have.
            let now = children_cpu_ms();
            let cpu_ms = now.saturating_sub(std::mem::replace(&mut before, now));
            let Some(attempt) = self.attempts.remove(&pid) else { continue };
            self.roots.remove(&attempt);
            let mut exit = describe(status);
            let mut left = false;
            if let Some(cgroups) = &mut self.cgroups {
                if cgroups.was_over_memory(attempt) {
                    exit.push_str(OVER_MEMORY);
                }
                left = !cgroups.ended(attempt);
            }
            self.reports.push_back(Report::Exited { attempt, exit, cpu_ms, left });
        }
    }

    /// Tells whose cgroups have become empty.
    fn collect(&mut self) {
        let empty = self.cgroups.as_mut().map(Cgroups::collect).unwrap_or_default();
        self.reports.extend(empty.into_iter().map(|attempt| Report::Empty { attempt }));
    }

    fn send_reports(&mut self) {
        while !self.reports.is_empty() {
            let packet: Vec<&Report> = self.reports.iter().take(REPORTS_MAX).collect();
            // A worker that does not read gets it later; one that is gone needs none.
            if !self.orphaned && send_packet(self.socket, &packet).is_err() {
                break;
            }
            let sent = packet.len();
            self.reports.drain(..sent);
        }
    }
}

/// CPU time of all children that have been waited for.
fn children_cpu_ms() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return 0 };
    let ms = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    u64::try_from(ms(usage.user_time()) + ms(usage.system_time())).unwrap_or(0) / 1_000
}

/// Whose guard this is.
fn ledger() -> Option<LedgerId> {
    std::env::var(LEDGER_VARIABLE).ok()?.parse().ok()
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => EXITED_WELL.to_owned(),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => format!("ended with {status:?}"),
    }
}

/// The same pipe, open in every program that is started while this lives.
fn to_inherit(pipe: &OwnedFd) -> std::io::Result<OwnedFd> {
    let inherited = rustix::io::fcntl_dupfd_cloexec(pipe, INHERITED_FROM)?;
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty())?;
    Ok(inherited)
}
