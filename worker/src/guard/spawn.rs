//! Starts a process in a cgroup, at the price of posix_spawn.
//!
//! posix_spawn itself cannot (before glibc 2.39); a hook between fork and exec has the memory of the
//! guard copied; and a guard that goes into the cgroup first takes the kernel's lock against all
//! forks each time, and is in there when the memory runs out. So this is what posix_spawn does inside:
//! the child runs in the guard's memory, on a stack of its own, while the guard waits until the child
//! has become the task. In between the child makes system calls on what was made ready for it, and
//! nothing else: it must not allocate, lock or panic.

#![expect(unsafe_code, reason = "what happens between clone and exec can be said in no other way")]

use nix::libc::{self, c_char, c_int, c_long, c_ulonglong, c_void};
use nix::unistd::{AccessFlags, access};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Of which the child needs a few hundred bytes. In units that are aligned as a stack must be.
const STACK_BYTES: usize = 64 << 10;
type StackUnit = u128;

const SHELL: &CStr = c"/bin/sh";

/// What the exit status says of a child that never became anything else.
const NEVER_BECAME: c_int = 127;

// Of the kernel's sched.h, since 5.5 and 5.7.
const CLONE_CLEAR_SIGHAND: c_ulonglong = 1 << 32;
const CLONE_INTO_CGROUP: c_ulonglong = 1 << 33;

/// The kernel's `struct clone_args`, up to the cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: c_ulonglong,
    pidfd: c_ulonglong,
    child_tid: c_ulonglong,
    parent_tid: c_ulonglong,
    exit_signal: c_ulonglong,
    stack: c_ulonglong,
    stack_size: c_ulonglong,
    tls: c_ulonglong,
    set_tid: c_ulonglong,
    set_tid_size: c_ulonglong,
    cgroup: c_ulonglong,
}

/// What is to run. A `program` without a slash is looked up in the guard's `PATH`, as seen from where
/// the guard is.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    pub argv: &'a [&'a str],
    /// Beside what the guard has.
    pub env: &'a [(&'a str, &'a str)],
    pub directory: &'a Path,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

impl Program<'_> {
    /// Starts it where the guard is, in a process group of its own, and returns its pid.
    pub fn spawn_anywhere(&self) -> Result<libc::pid_t> {
        let (program, args) = self.argv.split_first().ok_or(ErrorKind::InvalidInput)?;
        let child = Command::new(program)
            .args(args)
            .envs(self.env.iter().copied())
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(self.stdout.try_clone_to_owned()?)
            .stderr(self.stderr.try_clone_to_owned()?)
            .process_group(0)
            .spawn()?;
        Ok(child.id() as libc::pid_t)
    }
}

/// What the child works on, all of it made before it is there.
struct Becoming {
    path: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    directory: *const c_char,
    /// To be its standard input, output and error.
    standard: [c_int; 3],
    /// What signals the task blocks: none.
    mask: libc::sigset_t,
    /// Out: why it did not become the task.
    errno: c_int,
}

pub struct Spawner {
    stack: Vec<StackUnit>,
    env: Vec<CString>,
    nothing: OwnedFd,
}

impl Spawner {
    pub fn new() -> Result<Self> {
        Ok(Self {
            stack: vec![0; STACK_BYTES / size_of::<StackUnit>()],
            env: std::env::vars_os()
                .map(|(name, value)| variable(name, value))
                .collect::<Result<_>>()?,
            nothing: std::fs::File::open("/dev/null")?.into(),
        })
    }

    /// Starts a program in a cgroup, in a process group of its own, and returns its pid.
    pub fn spawn(&mut self, program: &Program<'_>, cgroup: BorrowedFd<'_>) -> Result<libc::pid_t> {
        let path = find(program.argv.first().ok_or(ErrorKind::InvalidInput)?)?;
        match self.spawn_file(&path, program, cgroup) {
            // A script that does not say for whom is the shell's.
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                let path = path.to_str().map_err(|_| ErrorKind::InvalidInput)?;
                let argv = [&["sh", path], &program.argv[1..]].concat();
                self.spawn_file(SHELL, &Program { argv: &argv, ..*program }, cgroup)
            }
            spawned => spawned,
        }
    }

    fn spawn_file(
        &mut self,
        path: &CStr,
        program: &Program<'_>,
        cgroup: BorrowedFd<'_>,
    ) -> Result<libc::pid_t> {
        let argv: Vec<CString> =
            program.argv.iter().map(|word| c_string(word.as_bytes())).collect::<Result<_>>()?;
        let own = program.env.iter().map(|(name, value)| variable(name.into(), value.into()));
        let own: Vec<CString> = own.collect::<Result<_>>()?;
        let directory = c_string(program.directory.as_os_str().as_bytes())?;
        let (stdout, stderr) = (program.stdout.as_raw_fd(), program.stderr.as_raw_fd());
        // Of a variable that is there twice, programs see the first.
        let (argv, env) = (pointers(&argv), pointers(own.iter().chain(&self.env)));
        let mut becoming = Becoming {
            path: path.as_ptr(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            directory: directory.as_ptr(),
            standard: [self.nothing.as_raw_fd(), stdout, stderr],
            mask: no_signals(),
            errno: 0,
        };
        self.clone_into(cgroup, &mut becoming)
    }

    /// Whether this kernel, and who watches over its calls here, let a child be born in a cgroup.
    pub fn works_in(&mut self, cgroup: BorrowedFd<'_>) -> bool {
        // A directory is no program: the child ends before it is anything else.
        let program = Program {
            argv: &["/"],
            env: &[],
            directory: Path::new("/"),
            stdout: cgroup,
            stderr: cgroup,
        };
        self.spawn(&program, cgroup).is_err_and(|e| e.raw_os_error() == Some(libc::EACCES))
    }

    fn clone_into(
        &mut self,
        cgroup: BorrowedFd<'_>,
        becoming: &mut Becoming,
    ) -> Result<libc::pid_t> {
        let flags = (libc::CLONE_VM | libc::CLONE_VFORK) as c_ulonglong;
        let args = CloneArgs {
            flags: flags | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
            exit_signal: libc::SIGCHLD as c_ulonglong,
            stack: self.stack.as_mut_ptr() as c_ulonglong,
            stack_size: STACK_BYTES as c_ulonglong,
            cgroup: cgroup.as_raw_fd() as c_ulonglong,
            ..CloneArgs::default()
        };
        // A handler of the guard's must not run in the child, on the guard's memory.
        let mut before = no_signals();
        set_mask(&all_signals(), &mut before);
        // SAFETY: everything that `becoming` points to is alive until the child has gone from this
        // memory, for which CLONE_VFORK waits; the stack is nobody else's, as there is one thread.
        let pid = unsafe { clone_onto(&args, become_task, becoming) };
        set_mask(&before, &mut no_signals());
        if pid < 0 {
            return Err(Error::from_raw_os_error(-pid as i32));
        }
        let pid = pid as libc::pid_t;
        match becoming.errno {
            0 => Ok(pid),
            errno => {
                reap(pid);
                Err(Error::from_raw_os_error(errno))
            }
        }
    }
}

/// The child's whole life.
extern "C" fn become_task(becoming: *mut Becoming) -> ! {
    // SAFETY: the parent waits, and has made `becoming` and all that it points to. Only calls that may
    // be made between fork and exec are made.
    unsafe {
        let becoming = &mut *becoming;
        become_or_return(becoming);
        becoming.errno = *libc::__errno_location();
        libc::_exit(NEVER_BECAME)
    }
}

/// Comes back if a call fails.
unsafe fn become_or_return(becoming: &Becoming) {
    // SAFETY: as above.
    unsafe {
        // What was ignored stays so otherwise, and a Rust program ignores this one.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // A guard that is killed with its worker cannot end it any more.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::setpgid(0, 0) != 0 || libc::chdir(becoming.directory) != 0 {
            return;
        }
        let mut to = 0;
        while to < 3 {
            if libc::dup2(becoming.standard[to as usize], to) < 0 {
                return;
            }
            to += 1;
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const becoming.mask, std::ptr::null_mut());
        libc::execve(becoming.path, becoming.argv, becoming.env);
    }
}

/// Makes a child that calls `run` on a stack of its own. Returns its pid, or an error number less
/// than zero.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_onto(
    args: &CloneArgs,
    run: extern "C" fn(*mut Becoming) -> !,
    becoming: *mut Becoming,
) -> c_long {
    let result: c_long;
    // SAFETY: in the parent it is a system call and no more; the child never comes out of it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(args).cast::<c_void>(),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") run,
            in("r13") becoming,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone_onto(
    args: &CloneArgs,
    run: extern "C" fn(*mut Becoming) -> !,
    becoming: *mut Becoming,
) -> c_long {
    let result: c_long;
    // SAFETY: in the parent it is a system call and no more; the child never comes out of it.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk #1",
            "2:",
            inlateout("x0") std::ptr::from_ref(args).cast::<c_void>() => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") run,
            in("x21") becoming,
        );
    }
    result
}

/// Elsewhere there are no cgroups for tasks.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone_onto(
    _: &CloneArgs,
    _: extern "C" fn(*mut Becoming) -> !,
    _: *mut Becoming,
) -> c_long {
    -c_long::from(libc::ENOSYS)
}

fn reap(pid: libc::pid_t) {
    // SAFETY: it is our child, has ended, and nobody else waits for it: there is one thread.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

fn no_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the call fills it in.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn all_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the call fills it in.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_mask(mask: &libc::sigset_t, before: &mut libc::sigset_t) {
    // SAFETY: both are sets of signals, and the call keeps neither.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, before) };
}

/// As execve wants them: with a null at the end.
fn pointers<'a>(strings: impl IntoIterator<Item = &'a CString>) -> Vec<*const c_char> {
    let pointers = strings.into_iter().map(|string| string.as_ptr());
    pointers.chain([std::ptr::null()]).collect()
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "there is a NUL in the command"))
}

fn variable(name: OsString, value: OsString) -> Result<CString> {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    c_string(&bytes)
}

/// The file of a program.
fn find(program: &str) -> Result<CString> {
    if program.contains('/') {
        return c_string(program.as_bytes());
    }
    let places = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/bin:/usr/bin").to_owned());
    for place in std::env::split_paths(&places) {
        let path = place.join(program);
        if access(&path, AccessFlags::X_OK).is_ok() && path.is_file() {
            return c_string(path.as_os_str().as_bytes());
        }
    }
    Err(Error::from_raw_os_error(libc::ENOENT))
}
