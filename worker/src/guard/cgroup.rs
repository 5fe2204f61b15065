//! A cgroup (v2) for each task, where the host lets us make one: what is in it can be killed as a
//! whole, however it forks, and nothing gets out of it by itself.
//!
//! ```text
//! bistro-<ledger>/   below where the worker was started; without processes of its own
//!   guard/           the guard
//!   worker/          the worker, if it had to make room
//!   1/, 2/, ...      a task each
//! ```
//!
//! Where memory and CPU are ours to give out, a task's share of them is limited. That needs cgroups
//! without processes all the way up to where the worker was started, hence the places for guard and
//! worker. A hybrid mount without controllers serves for the rest.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bistro_common::ids::{AttemptId, LedgerId};
use bistro_common::protocol::assign::Limits;
use bistro_common::protocol::heartbeat::Limited;

/// So many of those that may have become empty are looked at in one go.
const LOOKS_MAX: usize = 8;

const GUARD: &str = "guard";
const WORKER: &str = "worker";

/// Controllers, by what they limit.
const CONTROLLERS: [(&str, Limited); 2] = [("memory", Limited::Memory), ("cpu", Limited::Cpu)];

pub struct Cgroups {
    /// The parent of all others.
    home: PathBuf,
    /// Where the guard came from.
    origin: PathBuf,
    /// What can be limited here.
    limits: Vec<Limited>,
    /// Numbers of cgroups: how many were made, which are free, whose the others are.
    made: u32,
    free: Vec<u32>,
    of: HashMap<AttemptId, OfTask>,
    /// Attempts whose first process has ended.
    ended: VecDeque<AttemptId>,
}

struct OfTask {
    number: u32,
    /// It has limits, which stay.
    limited: bool,
    /// What was in it was killed at once. Kernels (6.14 and later) then kill all that is ever born in
    /// it from outside.
    killed: bool,
}

impl OfTask {
    /// It can be another task's, later.
    fn is_as_new(&self) -> bool {
        !self.limited && !self.killed
    }
}

impl Cgroups {
    /// Moves this process into a new cgroup for a worker, and the worker with the given pid, too, if
    /// limits need it. `None`: the host has no cgroup v2, or does not let us.
    pub fn open(ledger: LedgerId, worker: Option<i32>) -> Option<Self> {
        let origin = origin(ledger)?;
        let home = origin.join(directory(ledger));
        // That of a guard before this may have been killed at once, too.
        let _ = std::fs::remove_dir(home.join(GUARD));
        make(&home).and_then(|()| make(&home.join(GUARD))).ok()?;
        let mut cgroups = Self::at(home, origin);
        if !cgroups.home.join("cgroup.kill").exists() || join(&cgroups.home.join(GUARD)).is_err() {
            cgroups.close();
            return None;
        }
        for (controller, limited) in CONTROLLERS {
            if cgroups.delegate(controller, worker).is_ok() {
                cgroups.limits.push(limited);
            }
        }
        Some(cgroups)
    }

    fn at(home: PathBuf, origin: PathBuf) -> Self {
        let (limits, free, of, ended) = Default::default();
        Self { home, origin, limits, made: 0, free, of, ended }
    }

    /// Hands a controller down to the cgroups of tasks.
    fn delegate(&self, controller: &str, worker: Option<i32>) -> std::io::Result<()> {
        if !words(&self.origin.join("cgroup.controllers")).any(|word| word == controller) {
            return Err(ErrorKind::NotFound.into());
        }
        if enable(&self.origin, controller).is_err() {
            // A cgroup that hands controllers down has no processes of its own.
            let worker = worker.ok_or(ErrorKind::NotFound)?;
            make(&self.home.join(WORKER))?;
            put(&self.home.join(WORKER), worker)?;
            if let Err(error) = enable(&self.origin, controller) {
                put(&self.origin, worker)?;
                return Err(error);
            }
        }
        enable(&self.home, controller)
    }

    /// What can be limited here.
    pub fn limits(&self) -> &[Limited] {
        &self.limits
    }

    /// One in which a child may be tried; it is a task's once the child has ended.
    pub fn on_trial(&mut self) -> std::io::Result<File> {
        let number = self.make()?;
        self.free.push(number);
        File::open(self.path(number))
    }

    fn path(&self, number: u32) -> PathBuf {
        path(&self.home, number)
    }

    /// A cgroup that is the attempt's alone, for it to be born in, with the limits that this host
    /// knows.
    pub fn give(&mut self, attempt: AttemptId, limits: &Limits) -> std::io::Result<File> {
        let limited = !limits.is_empty();
        // One that cannot be opened is not tried again.
        let used_before = if limited { None } else { self.free.pop() };
        let number = match used_before {
            Some(number) => number,
            None => self.make()?,
        };
        let path = self.path(number);
        self.limit(&path, limits)?;
        let cgroup = File::open(path)?;
        self.of.insert(attempt, OfTask { number, limited, killed: false });
        Ok(cgroup)
    }

    fn make(&mut self) -> std::io::Result<u32> {
        loop {
            self.made += 1;
            match std::fs::create_dir(self.path(self.made)) {
                // Left over from a guard before this, and not known to be empty.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| self.made),
            }
        }
    }

    fn limit(&self, path: &Path, limits: &Limits) -> std::io::Result<()> {
        if let Some(mb) = limits.memory_mb.filter(|_| self.limits.contains(&Limited::Memory)) {
            std::fs::write(path.join("memory.max"), mb.saturating_mul(1 << 20).to_string())?;
            // All of it ends, rather than a part that the rest waits for.
            std::fs::write(path.join("memory.oom.group"), "1")?;
        }
        if let Some(weight) = limits.cpu_weight.filter(|_| self.limits.contains(&Limited::Cpu)) {
            std::fs::write(path.join("cpu.weight"), weight.to_string())?;
        }
        Ok(())
    }

    /// Whether the kernel killed of an attempt for the memory that it took.
    pub fn was_over_memory(&self, attempt: AttemptId) -> bool {
        let Some(of_task) = self.of.get(&attempt).filter(|of_task| of_task.limited) else {
            return false;
        };
        let events = self.path(of_task.number).join("memory.events");
        let events = std::fs::read_to_string(events).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills != "0")
    }

    /// Kills everything in an attempt's cgroup.
    pub fn kill(&mut self, attempt: AttemptId) {
        if let Some(of_task) = self.of.get_mut(&attempt) {
            of_task.killed = true;
            kill(&path(&self.home, of_task.number));
        }
    }

    pub fn kill_all(&mut self) {
        for of_task in self.of.values_mut() {
            of_task.killed = true;
            kill(&path(&self.home, of_task.number));
        }
    }

    /// Nothing of the attempt is left; also if it has no cgroup.
    pub fn is_empty(&self, attempt: AttemptId) -> bool {
        let of_task = self.of.get(&attempt);
        of_task.is_none_or(|of_task| !is_populated(&self.path(of_task.number)))
    }

    /// The attempt's first process has ended. Returns whether nothing is left of it; its cgroup is
    /// free then, and otherwise when [`Self::collect`] says so.
    pub fn ended(&mut self, attempt: AttemptId) -> bool {
        let empty = self.is_empty(attempt);
        match empty {
            true => self.take_back(attempt),
            false => self.ended.push_back(attempt),
        }
        empty
    }

    /// Something that an attempt has left behind has not ended.
    pub fn any_left(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Takes back what has become empty since.
    pub fn collect(&mut self) -> Vec<AttemptId> {
        let mut empty = Vec::new();
        for _ in 0..self.ended.len().min(LOOKS_MAX) {
            let Some(attempt) = self.ended.pop_front() else { break };
            match self.is_empty(attempt) {
                true => {
                    self.take_back(attempt);
                    empty.push(attempt);
                }
                false => self.ended.push_back(attempt),
            }
        }
        empty
    }

    fn take_back(&mut self, attempt: AttemptId) {
        match self.of.remove(&attempt) {
            Some(of_task) if of_task.is_as_new() => self.free.push(of_task.number),
            Some(of_task) => remove(&self.path(of_task.number)),
            None => {}
        }
    }

    /// Goes back to where the guard came from, and leaves nothing behind that is empty.
    pub fn close(self) {
        // What cannot be removed now is removed by the next process of this worker.
        let _ = join(&self.origin);
        remove(&self.home);
    }
}

/// Kills what is in the cgroups of an earlier guard of this worker, and removes those that are
/// empty. Returns whether none is left with anything in it.
pub fn end_leftovers(ledger: LedgerId) -> bool {
    let Some(home) = origin(ledger).map(|origin| origin.join(directory(ledger))) else {
        return true;
    };
    // Of tasks; the worker, which asks, may be in there, too.
    let tasks = || children(&home).filter(|child| number(child).is_some());
    tasks().for_each(|child| kill(&child));
    remove(&home);
    !tasks().any(|child| is_populated(&child))
}

fn path(home: &Path, number: u32) -> PathBuf {
    home.join(number.to_string())
}

fn number(cgroup: &Path) -> Option<u32> {
    cgroup.file_name()?.to_str()?.parse().ok()
}

fn directory(ledger: LedgerId) -> String {
    format!("bistro-{ledger}")
}

/// Where the worker was started in the tree of cgroups, as a path of the file system.
pub fn origin(ledger: LedgerId) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let ours = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = locate(&mounts, &ours)?;
    // Whoever asks may have been moved below it already.
    let home = directory(ledger);
    let above = own.ancestors().find(|at| at.ends_with(&home)).and_then(Path::parent);
    Some(above.map(Path::to_owned).unwrap_or(own))
}

/// From `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn locate(mounts: &str, ours: &str) -> Option<PathBuf> {
    let path = Path::new(ours.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = path.strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| Path::new(point).join(below))
    })
}

/// Makes a cgroup, if it is not there.
fn make(cgroup: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// This process goes into a cgroup.
fn join(cgroup: &Path) -> std::io::Result<()> {
    put(cgroup, 0)
}

fn put(cgroup: &Path, pid: i32) -> std::io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

fn enable(cgroup: &Path, controller: &str) -> std::io::Result<()> {
    let control = cgroup.join("cgroup.subtree_control");
    match words(&control).any(|word| word == controller) {
        true => Ok(()),
        false => std::fs::write(control, format!("+{controller}")),
    }
}

fn words(file: &Path) -> impl Iterator<Item = String> + use<> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn kill(cgroup: &Path) {
    // One that is gone has nothing in it.
    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
}

/// As long as it is not known to be empty, something may be in it.
fn is_populated(cgroup: &Path) -> bool {
    // One read has all of it, and takes half the calls of one to the end.
    let mut events = [0; 256];
    match File::open(cgroup.join("cgroup.events")).and_then(|mut file| file.read(&mut events)) {
        Ok(bytes) => !events[..bytes].split(|&byte| byte == b'\n').any(|l| l == b"populated 0"),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

fn children(cgroup: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path())
}

/// With all that is in it, as far as nothing runs there. Tasks may have made some of their own.
fn remove(cgroup: &Path) {
    children(cgroup).for_each(|child| remove(&child));
    let _ = std::fs::remove_dir(cgroup);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain directories: nothing runs in them.
    fn in_directory(home: &Path) -> Cgroups {
        Cgroups::at(home.to_owned(), home.to_owned())
    }

    fn give(cgroups: &mut Cgroups, limits: &Limits) -> (AttemptId, std::io::Result<u32>) {
        let attempt = AttemptId::generate();
        let given = cgroups.give(attempt, limits);
        (attempt, given.map(|_| cgroups.of[&attempt].number))
    }

    fn free(cgroups: &mut Cgroups) -> std::io::Result<u32> {
        give(cgroups, &Limits::default()).1
    }

    #[test]
    fn what_an_earlier_guard_has_left_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("1")).unwrap();
        assert_eq!(free(&mut in_directory(directory.path())).unwrap(), 2);
    }

    #[test]
    fn one_that_is_empty_is_used_again_and_one_that_is_gone_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("1/cgroup.events");
        let mut cgroups = in_directory(directory.path());
        let (first, _) = give(&mut cgroups, &Limits::default());
        std::fs::write(&events, "populated 1\n").unwrap();
        assert!(!cgroups.ended(first), "something is left in it");
        assert_eq!((cgroups.collect(), cgroups.any_left()), (Vec::new(), true));
        std::fs::write(&events, "populated 0\n").unwrap();
        assert_eq!((cgroups.collect(), cgroups.any_left()), (vec![first], false));
        let (second, number) = give(&mut cgroups, &Limits::default());
        assert_eq!(number.unwrap(), 1);
        assert!(cgroups.ended(second));
        std::fs::remove_dir_all(directory.path().join("1")).unwrap();
        assert!(free(&mut cgroups).is_err());
        assert_eq!(free(&mut cgroups).unwrap(), 2);
    }

    #[test]
    fn one_that_was_killed_is_not_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let events = |number: u32| directory.path().join(format!("{number}/cgroup.events"));
        let mut cgroups = in_directory(directory.path());
        for killed in 1..4 {
            let (attempt, number) = give(&mut cgroups, &Limits::default());
            assert_eq!(number.unwrap(), killed);
            match killed {
                1 => cgroups.kill_all(),
                _ => cgroups.kill(attempt),
            }
            std::fs::write(events(killed), "populated 0\n").unwrap();
            assert!(cgroups.ended(attempt));
        }
        let (spared, number) = give(&mut cgroups, &Limits::default());
        std::fs::write(events(4), "populated 0\n").unwrap();
        assert!(cgroups.ended(spared));
        assert_eq!((number.unwrap(), free(&mut cgroups).unwrap()), (4, 4));
    }

    #[test]
    fn limits_are_set_where_they_can_be_and_are_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let mut cgroups = in_directory(directory.path());
        let limits = Limits { memory_mb: Some(3), cpu_weight: Some(250) };
        let file = |number: u32, name: &str| {
            std::fs::read_to_string(directory.path().join(format!("{number}/{name}"))).ok()
        };
        give(&mut cgroups, &limits).1.unwrap();
        assert_eq!(file(1, "memory.max"), None, "there is no controller");
        cgroups.limits = vec![Limited::Memory, Limited::Cpu];
        let (limited, number) = give(&mut cgroups, &limits);
        assert_eq!(number.unwrap(), 2);
        assert_eq!(file(2, "memory.max").as_deref(), Some("3145728"));
        assert_eq!(file(2, "memory.oom.group").as_deref(), Some("1"));
        assert_eq!(file(2, "cpu.weight").as_deref(), Some("250"));
        assert!(!cgroups.was_over_memory(limited));
        std::fs::write(directory.path().join("2/memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(cgroups.was_over_memory(limited));
        assert!(cgroups.ended(limited));
        let (unlimited, number) = give(&mut cgroups, &Limits::default());
        assert_eq!(number.unwrap(), 3, "limits stay with what they were set for");
        std::fs::write(directory.path().join("3/cgroup.events"), "populated 0\n").unwrap();
        assert!(cgroups.ended(unlimited));
        assert_eq!(give(&mut cgroups, &limits).1.unwrap(), 4);
        assert_eq!(free(&mut cgroups).unwrap(), 3, "what is free stays so until it is used");
    }

    #[test]
    fn the_cgroup_is_found_whatever_the_mounts_are() {
        let hybrid = "31 1 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let ours = "8:pids:/x\n0::/user.slice/a\n";
        let found = locate(hybrid, ours);
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/user.slice/a")));
        let container = "41 31 0:38 /docker/7 /sys/fs/cgroup rw shared:9 - cgroup2 none rw\n";
        let found = locate(container, "0::/docker/7/b\n");
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/b")));
        assert_eq!(locate(container, "0::/elsewhere\n"), None, "it is not in sight");
        assert_eq!(locate("", ours), None);
        assert_eq!(locate(hybrid, "8:pids:/x\n"), None, "there is v1 only");
    }
}
