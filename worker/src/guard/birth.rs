//! A child from its clone until it has become a task, and its end.
//!
//! posix_spawn cannot have a child born in a cgroup (before glibc 2.39); a hook between fork and exec
//! has the memory of the guard copied; and a guard that goes into the cgroup first takes the kernel's
//! lock against all forks each time, and is in there when the memory runs out. So this is what
//! posix_spawn does inside: the child runs in the guard's memory, on a stack of its own. Only, the
//! guard goes on meanwhile: it has others to start, while the newborn waits for a CPU or its program
//! for a slow disk.
//!
//! The child has the guard's thread-local variables, too. So all that it works on was made ready for
//! it, and it makes system calls and nothing else: it must not allocate, lock or panic, nor call what
//! sets `errno`.

#![expect(unsafe_code, reason = "what happens between clone and exec can be said in no other way")]

mod syscall;

use nix::libc::{self, c_char, c_int, c_ulonglong, pid_t};
use rustix::thread::futex;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use syscall::{CLONE_INTO_CGROUP, Clone, CloneArgs, call, clone_onto};

/// Of which the child needs a few hundred bytes. In units that are aligned as a stack must be.
const STACK_BYTES: usize = 64 << 10;
type StackUnit = u128;
pub type Stack = Box<[StackUnit]>;

const SHELL: &CStr = c"/bin/sh";

/// What the exit status says of a child that never became anything else.
const NEVER_BECAME: usize = 127;

/// What a child is to become.
pub struct Image {
    pub path: CString,
    pub argv: Vec<CString>,
    /// Of a variable that is there twice, programs see the first.
    pub env: Vec<CString>,
    /// What every task has beside its own.
    pub common_env: Rc<[CString]>,
    pub directory: CString,
    /// Files of the guard, and the numbers that they get. None is on both sides.
    pub files: Vec<(c_int, c_int)>,
}

/// A child that has been made. It uses the guard's memory until it is over.
pub struct Birth {
    pub pid: pid_t,
    pub since: Instant,
    becoming: Box<Becoming>,
    stack: Stack,
}

/// What the child works on.
struct Becoming {
    image: Image,
    /// As execve wants them: with a null at the end. Before the arguments is room for the shell, whose
    /// a script is that does not say for whom.
    argv: Box<[Cell<*const c_char>]>,
    env: Box<[*const c_char]>,
    guard: pid_t,
    /// Not zero until the kernel says that the child has left the guard's memory.
    alive: AtomicU32,
    /// Why it did not become a task; zero if it did.
    errno: AtomicI32,
}

impl Birth {
    /// In a cgroup that is `limited` the kernel may kill for memory, and whoever shares the memory of
    /// the killed with it: unless that is a parent which waits, so the guard does.
    pub fn begin(
        image: Image,
        mut stack: Stack,
        cgroup: Option<BorrowedFd<'_>>,
        limited: bool,
    ) -> Result<Self> {
        let vfork = if limited { libc::CLONE_VFORK } else { 0 };
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let null = std::ptr::null;
        let argv = [vec![null()], pointers(&image.argv), vec![null()]].concat();
        let becoming = Box::new(Becoming {
            argv: argv.into_iter().map(Cell::new).collect(),
            env: [pointers(&image.env), pointers(&image.common_env), vec![null()]].concat().into(),
            image,
            guard: std::process::id() as pid_t,
            alive: AtomicU32::new(1),
            errno: AtomicI32::new(0),
        });
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | vfork;
        let alive = becoming.alive.as_ptr();
        let args;
        let clone = match cgroup {
            None => Clone::with_stack(
                flags | libc::SIGCHLD,
                stack.as_mut_ptr_range().end.expose_provenance(),
                alive.expose_provenance(),
            ),
            Some(cgroup) => {
                args = CloneArgs {
                    flags: flags as c_ulonglong | CLONE_INTO_CGROUP,
                    child_tid: alive as c_ulonglong,
                    exit_signal: libc::SIGCHLD as c_ulonglong,
                    stack: stack.as_mut_ptr() as c_ulonglong,
                    stack_size: size_of_val(&*stack) as c_ulonglong,
                    cgroup: cgroup.as_raw_fd() as c_ulonglong,
                    ..CloneArgs::default()
                };
                Clone::with_args(&args)
            }
        };
        // SAFETY: what the child is given is alive until it has left this memory, which `drop` waits
        // for, and nobody changes it or uses the stack.
        let pid = unsafe { clone_onto(&clone, become_task, &raw const *becoming) };
        if pid < 0 {
            return Err(Error::from_raw_os_error(-pid as i32));
        }
        let pid = pid as pid_t;
        // It does so itself, too; but whoever signals its group now must not have to wait for that.
        // SAFETY: nothing but a system call. It fails when the child has become the task.
        unsafe { libc::setpgid(pid, pid) };
        Ok(Self { pid, since: Instant::now(), becoming, stack })
    }

    /// How it has gone: the child has become the task, or why it did not. `None` as long as it uses
    /// the guard's memory.
    pub fn outcome(&self) -> Option<Result<()>> {
        if self.becoming.alive.load(Ordering::Acquire) != 0 {
            return None;
        }
        match self.becoming.errno.load(Ordering::Relaxed) {
            0 => Some(Ok(())),
            errno => Some(Err(Error::from_raw_os_error(errno))),
        }
    }

    /// Comes back when it is over, after the given time, or earlier.
    pub fn wait(&self, at_most: Duration) {
        let timeout = at_most.try_into().ok();
        // The kernel wakes as those are woken who may be in other processes.
        let flags = futex::Flags::empty();
        // That it is over, a signal and the end of the time are all the same here.
        let _ = futex::wait(&self.becoming.alive, flags, 1, timeout.as_ref());
    }

    /// The stack, for another child.
    pub fn into_stack(mut self) -> Stack {
        self.wait_until_over();
        std::mem::take(&mut self.stack)
    }

    fn wait_until_over(&self) {
        while self.outcome().is_none() {
            self.wait(Duration::from_secs(1));
        }
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        self.wait_until_over();
    }
}

pub fn new_stack() -> Stack {
    vec![0; STACK_BYTES / size_of::<StackUnit>()].into()
}

/// The child's whole life.
extern "C" fn become_task(becoming: *const Becoming) -> ! {
    // SAFETY: the guard keeps it and what it points to, and this is the child.
    unsafe {
        if let Err(errno) = execute(&*becoming) {
            (*becoming).errno.store(errno, Ordering::Relaxed);
        }
        loop {
            let _ = call(libc::SYS_exit_group, [NEVER_BECAME, 0, 0, 0]);
        }
    }
}

/// Comes back if a call fails, with its error number.
unsafe fn execute(becoming: &Becoming) -> std::result::Result<(), c_int> {
    let Becoming { image, argv, env, .. } = becoming;
    let no_signals = 0_u64;
    // SAFETY: as above. Only calls that may be made between fork and exec are made.
    unsafe {
        // A guard that is killed with its worker cannot end it any more.
        let signal = libc::SIGKILL as usize;
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, signal, 0, 0])?;
        if call(libc::SYS_getppid, [0; 4])? != becoming.guard as usize {
            return Err(libc::ESRCH);
        }
        call(libc::SYS_setpgid, [0; 4])?;
        call(libc::SYS_chdir, [image.directory.as_ptr() as usize, 0, 0, 0])?;
        for &(from, to) in &image.files {
            call(libc::SYS_dup3, [from as usize, to as usize, 0, 0])?;
        }
        let (how, mask) = (libc::SIG_SETMASK as usize, (&raw const no_signals) as usize);
        call(libc::SYS_rt_sigprocmask, [how, mask, 0, size_of_val(&no_signals)])?;
        let execve = |path: &CStr, argv: &[Cell<*const c_char>]| {
            let args = [path.as_ptr() as usize, argv.as_ptr() as usize, env.as_ptr() as usize, 0];
            call(libc::SYS_execve, args).map(drop)
        };
        let [shell, own @ ..] = &**argv else { return Err(libc::EINVAL) };
        match (execve(&image.path, own), own) {
            (Err(libc::ENOEXEC), [first, ..]) => {
                shell.set(SHELL.as_ptr());
                first.set(image.path.as_ptr());
                execve(SHELL, argv)
            }
            (result, _) => result,
        }
    }
}

/// A child that has ended, and is a child no more.
pub struct Ended {
    pub pid: pid_t,
    pub status: ExitStatus,
    /// Of it, and of those of its own that it has waited for.
    pub cpu_ms: u64,
}

/// The next one that has ended, if any has.
pub fn next_ended() -> Option<Ended> {
    wait_for(-1, libc::WNOHANG)
}

/// Waits for the end of a child; `None` if it is no child any more.
pub fn wait_for_end(pid: pid_t) -> Option<Ended> {
    wait_for(pid, 0)
}

fn wait_for(which: pid_t, options: c_int) -> Option<Ended> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills both in; zeros are a value of both.
    let (pid, usage) = unsafe {
        let pid = libc::wait4(which, &raw mut status, options, usage.as_mut_ptr());
        (pid, usage.assume_init())
    };
    let us = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let cpu_ms = (us(usage.ru_utime) + us(usage.ru_stime)) as u64 / 1_000;
    (pid > 0).then(|| Ended { pid, status: ExitStatus::from_raw(status), cpu_ms })
}

/// Closes what whoever started the worker has left open: no task is to have it.
pub fn close_what_is_not_ours() {
    let first = 3;
    // SAFETY: it is called before this process opens anything.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

/// Lets signals do to tasks what they do by default: what is ignored here would be so in them.
pub fn ignore_none(signals: &[c_int]) {
    for &signal in signals {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
