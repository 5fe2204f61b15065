//! Starts programs: finds them, makes ready what their birth needs, and looks after it.

use nix::unistd::{AccessFlags, access};
use std::ffi::{CString, OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::STATUS_NUMBER;
use super::birth::{Birth, Image, Stack, new_stack, wait_for_end};

/// The numbers that a task's pipes have in it: stdout, stderr, status and canary. Scripts number files
/// themselves: up to 9, 100, 200; and shells give away 10 to 63 and 255. What they open there would take
/// the status's place.
const NUMBERS: [i32; 4] = [1, 2, STATUS_NUMBER, STATUS_NUMBER + 1];

/// So many births go on at a time: as many as keep the CPUs busy.
const BIRTHS_MAX: usize = 4;

/// A birth that takes longer waits for something else than a CPU, and nothing waits for it.
const BIRTH: Duration = Duration::from_millis(20);

/// What is to run. A `program` without a slash is looked up in the guard's `PATH`, as seen from where
/// the guard is.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    pub argv: &'a [&'a str],
    /// Beside what the guard has.
    pub env: &'a [(&'a str, &'a str)],
    pub directory: &'a Path,
    /// Its stdout and stderr, and what else it gets: see [`NUMBERS`].
    pub pipes: &'a [OwnedFd],
    /// Its cgroup has limits.
    pub limited: bool,
}

/// Starts programs, each in a process group of its own.
pub struct Spawner {
    /// Those that are not known to be over, from the oldest on.
    births: Vec<Birth>,
    /// Stacks that no child is on.
    stacks: Vec<Stack>,
    env: Rc<[CString]>,
    nothing: OwnedFd,
}

impl Spawner {
    pub fn new() -> Result<Self> {
        Ok(Self {
            births: Vec::new(),
            stacks: Vec::new(),
            env: std::env::vars_os()
                .map(|(name, value)| variable(name, value))
                .collect::<Result<_>>()?,
            nothing: std::fs::File::open("/dev/null")?.into(),
        })
    }

    /// Begins to start a program, in a cgroup or where the guard is, and returns the pid that it will
    /// have. [`Self::over`] says how it went.
    pub fn begin(&mut self, program: &Program<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
        let image = self.image(program)?;
        self.wait_for_room();
        let stack = self.stacks.pop().unwrap_or_else(new_stack);
        let birth = Birth::begin(image, stack, cgroup, program.limited)?;
        let pid = birth.pid;
        self.births.push(birth);
        Ok(pid)
    }

    fn image(&self, program: &Program<'_>) -> Result<Image> {
        let words = program.argv.iter().map(|word| c_string(word.as_bytes()));
        let pipes = program.pipes.iter().map(AsRawFd::as_raw_fd).zip(NUMBERS);
        let files = std::iter::once((self.nothing.as_raw_fd(), 0)).chain(pipes).collect::<Vec<_>>();
        if files.iter().any(|&(file, _)| file >= STATUS_NUMBER) {
            return Err(Error::other("the guard has too many files open"));
        }
        let own = program.env.iter().map(|(name, value)| variable(name.into(), value.into()));
        Ok(Image {
            path: find(program.argv.first().ok_or(ErrorKind::InvalidInput)?)?,
            argv: words.collect::<Result<_>>()?,
            env: own.collect::<Result<_>>()?,
            common_env: Rc::clone(&self.env),
            directory: c_string(program.directory.as_os_str().as_bytes())?,
            files,
        })
    }

    /// Births that have come to an end since: whose, and why it is not the program.
    pub fn over(&mut self) -> Vec<(i32, Result<()>)> {
        let mut outcomes = Vec::new();
        for birth in self.births.extract_if(.., |birth| birth.outcome().is_some()) {
            outcomes.extend(birth.outcome().map(|outcome| (birth.pid, outcome)));
            self.stacks.push(birth.into_stack());
        }
        outcomes
    }

    /// Some births will be over in no time.
    pub fn is_busy(&self) -> bool {
        self.young().next().is_some()
    }

    /// Some are not over.
    pub fn any_left(&self) -> bool {
        !self.births.is_empty()
    }

    /// Comes back when one is over that will be so in no time, or soon in any case.
    pub fn wait(&self) {
        if let Some(birth) = self.young().next() {
            birth.wait(BIRTH);
        }
    }

    fn wait_for_room(&self) {
        while self.young().count() >= BIRTHS_MAX {
            self.wait();
        }
    }

    fn young(&self) -> impl Iterator<Item = &Birth> {
        let young = |birth: &&Birth| birth.outcome().is_none() && birth.since.elapsed() < BIRTH;
        self.births.iter().filter(young)
    }

    /// Whether this kernel, and who watches over its calls here, let a child be born in a cgroup.
    pub fn works_in(&mut self, cgroup: BorrowedFd<'_>) -> bool {
        // A directory is no program: the child ends before it is anything else.
        let program = Program {
            argv: &["/"],
            env: &[],
            directory: Path::new("/"),
            pipes: &[],
            limited: false,
        };
        let Ok(pid) = self.begin(&program, Some(cgroup)) else { return false };
        let _ = wait_for_end(pid);
        let denied = |(_, outcome): &(i32, Result<()>)| {
            outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        self.over().first().is_some_and(denied)
    }
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
    Err(Error::from_raw_os_error(nix::libc::ENOENT))
}

#[cfg(test)]
mod tests;
