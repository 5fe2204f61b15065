//! The guard's own process.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{self, Pid, getpid, kill_process_group, set_child_subreaper};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use bistro_common::Millis;
use bistro_common::clock::boot_ms;
use bistro_common::ids::{AttemptId, LedgerId};
use bistro_common::protocol::heartbeat::Isolation;

use super::birth::{Ended, close_what_is_not_ours, ignore_none, next_ended, wait_for_end};
use super::cgroup::Cgroups;
use super::confine;
use super::spawn::{Program, Spawner};
use super::{
    EXITED_WELL, Hold, Order, PACKET_BYTES_MAX, REPORTS_MAX, Report, Start, TaskSignal,
    receive_packet, send_packet,
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

/// What comes with an order to start at least: stdout, stderr and status.
const PIPES_MIN: usize = 3;

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
    // A worker does without large pages. Tasks have them.
    let _ = nix::sys::prctl::set_thp_disable(false);
    close_what_is_not_ours();
    let signals = watch_signals()?;
    let mut spawner = Spawner::new()?;
    let worker = worker(socket)?;
    let cgroups = ledger().and_then(|ledger| Cgroups::open(ledger, worker));
    let cgroups = cgroups.and_then(|mut cgroups| {
        let works = cgroups.on_trial().is_ok_and(|cgroup| spawner.works_in(cgroup.as_fd()));
        if !works {
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
        guard.wait_for_something(&signals)?;
        guard.take_orders(&mut buffer)?;
        guard.reap();
        guard.settle_births();
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

/// A file that becomes readable when a child has ended. Signals that would end the guard go there,
/// too, and are not looked at: it ends when its worker does.
fn watch_signals() -> std::io::Result<SignalFd> {
    use Signal::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM};
    let signals = [SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM];
    ignore_none(&signals.map(|signal| signal as i32));
    let signals = SigSet::from_iter(signals);
    // Tasks unblock what is blocked here.
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

impl Guard<'_> {
    fn wait_for_something(&self, signals: &SignalFd) -> std::io::Result<()> {
        let busy = self.spawner.is_busy();
        let sweeping = self.sweep_all || !self.sweep.is_empty();
        let wait_ms = match self.deadline {
            _ if busy => Some(0),
            _ if sweeping || self.spawner.any_left() => Some(SWEEP_MS),
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
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if !self.orphaned {
            fds.push(PollFd::from_borrowed_fd(self.socket, wanted));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) if busy => self.spawner.wait(),
            Ok(_) if !fds[0].revents().is_empty() => drop(signals.read_signal()?),
            result => drop(result?),
        }
        Ok(())
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
                if let Err(error) = self.start(&start, &descriptors) {
                    self.not_started(attempt, &error);
                }
            }
            Order::Signal { attempt, signal } => self.signal(attempt, signal),
            Order::Deadline { boot_ms: at } => {
                self.deadline = Some(at);
                self.expired = boot_ms() >= at;
            }
        }
    }

    fn start(&mut self, start: &Start, descriptors: &[OwnedFd]) -> std::io::Result<()> {
        if descriptors.len() < PIPES_MIN {
            return Err(std::io::Error::other("the order came without its pipes"));
        }
        self.watch_deadline();
        if self.sweep_all || self.expired {
            return Err(std::io::Error::other("the worker's lease is over"));
        }
        // It becomes the task's when it has confined itself.
        let confined = confine::command(&start.confinement)?;
        let argv: Vec<&str> = confined.iter().chain(&start.argv).map(String::as_str).collect();
        let env: Vec<(&str, &str)> =
            start.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let directory = &start.directory;
        let limited = !start.limits.is_empty();
        let program = Program { argv: &argv, env: &env, directory, pipes: descriptors, limited };
        // It is reported when it has become the task.
        let cgroup = self.cgroup_for(start)?;
        let pid = self.spawner.begin(&program, cgroup.as_ref().map(File::as_fd))?;
        let pid = Pid::from_raw(pid).expect("a child has a pid");
        self.roots.insert(start.attempt, pid);
        self.attempts.insert(pid, start.attempt);
        Ok(())
    }

    /// Reports what has become of the births that are over.
    fn settle_births(&mut self) {
        for (pid, outcome) in self.spawner.over() {
            let root = Pid::from_raw(pid).expect("a child has a pid");
            let Some(&attempt) = self.attempts.get(&root) else { continue };
            match outcome {
                Ok(()) => self.reports.push_back(Report::Started { attempt, pid }),
                Err(error) => {
                    // It ends in no time, and is no task's.
                    let _ = wait_for_end(pid);
                    self.attempts.remove(&root);
                    self.roots.remove(&attempt);
                    self.not_started(attempt, &error);
                }
            }
        }
    }

    fn not_started(&mut self, attempt: AttemptId, error: &std::io::Error) {
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.ended(attempt);
        }
        self.reports.push_back(Report::NotStarted { attempt, error: error.to_string() });
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
                // Nobody may be there to read it.
                let _ = writeln!(
                    std::io::stderr(),
                    "warning: a task has no cgroup of its own: {error}"
                );
                Ok(None)
            }
        }
    }

    fn signal(&mut self, attempt: AttemptId, wanted: TaskSignal) {
        let number = match wanted {
            TaskSignal::Term => process::Signal::TERM,
            TaskSignal::Kill => process::Signal::KILL,
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
            self.cgroups.iter_mut().for_each(Cgroups::kill_all);
            let left = tree.with_descendants(us).split_off(1);
            left.iter().for_each(|&pid| signal(pid, process::Signal::KILL));
            self.sweep_all = !left.is_empty();
            return;
        }
        for attempt in std::mem::take(&mut self.sweep) {
            let left = self.members(&tree, attempt);
            left.iter().for_each(|&pid| signal(pid, process::Signal::KILL));
            let empty = self.cgroups.as_ref().is_none_or(|cgroups| cgroups.is_empty(attempt));
            if !left.is_empty() || !empty {
                self.cgroups.iter_mut().for_each(|cgroups| cgroups.kill(attempt));
                self.sweep.insert(attempt);
            }
        }
    }

    fn reap(&mut self) {
        while let Some(Ended { pid, status, cpu_ms }) = next_ended() {
            // It may have ended before it was known to have become a task.
            self.settle_births();
            let Some(attempt) = Pid::from_raw(pid).and_then(|pid| self.attempts.remove(&pid))
            else {
                continue;
            };
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

/// Whose guard this is.
fn ledger() -> Option<LedgerId> {
    std::env::var(LEDGER_VARIABLE).ok()?.parse().ok()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => EXITED_WELL.to_owned(),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => format!("ended with {status:?}"),
    }
}
