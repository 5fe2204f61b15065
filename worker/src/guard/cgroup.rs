//! A cgroup (v2) for each task, where the host lets us make one: what is in it can be killed as a
//! whole, however it forks, and nothing gets out of it by itself.
//!
//! The guard goes into a task's cgroup before it starts the task, which is born there. It leaves
//! when it enters the next one, or when this one is to be killed. An empty cgroup is used again.
//! No controllers are asked for, so that a hybrid mount without any serves as well.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bistro_common::ids::{AttemptId, LedgerId};

/// So many of those that may have become empty are looked at in one go.
const LOOKS_MAX: usize = 8;

pub struct Cgroups {
    /// The guard's own, and the parent of all others.
    home: PathBuf,
    /// Where the guard came from.
    origin: PathBuf,
    /// Numbers of cgroups: how many were made, which are free, whose the others are.
    made: u32,
    free: Vec<u32>,
    of: HashMap<AttemptId, u32>,
    /// The one that the guard is in, if it is not at home.
    here: Option<u32>,
    /// Attempts whose first process has ended.
    ended: VecDeque<AttemptId>,
}

impl Cgroups {
    /// Moves this process into a new cgroup for a worker. `None`: the host has no cgroup v2, or
    /// does not let us.
    pub fn open(ledger: LedgerId) -> Option<Self> {
        let origin = own()?;
        let home = origin.join(directory(ledger));
        match std::fs::create_dir(&home) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let cgroups = Self {
            home,
            origin,
            made: 0,
            free: Vec::new(),
            of: HashMap::new(),
            here: None,
            ended: VecDeque::new(),
        };
        let works = cgroups.home.join("cgroup.kill").exists() && join(&cgroups.home).is_ok();
        if !works {
            cgroups.close();
            return None;
        }
        Some(cgroups)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.home.join(number.to_string())
    }

    /// Goes into a cgroup that is the attempt's alone: what is started next is born there.
    pub fn enter(&mut self, attempt: AttemptId) -> std::io::Result<()> {
        // One that cannot be entered is not tried again.
        let number = match self.free.pop() {
            Some(number) => number,
            None => self.make()?,
        };
        join(&self.path(number))?;
        self.here = Some(number);
        self.of.insert(attempt, number);
        Ok(())
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

    /// Goes home.
    pub fn leave(&mut self) -> std::io::Result<()> {
        if self.here.is_some() {
            join(&self.home)?;
            self.here = None;
        }
        Ok(())
    }

    /// Kills everything in an attempt's cgroup.
    pub fn kill(&mut self, attempt: AttemptId) {
        let Some(&number) = self.of.get(&attempt) else { return };
        if self.here != Some(number) || self.leave().is_ok() {
            kill(&self.path(number));
        }
    }

    pub fn kill_all(&mut self) {
        if self.leave().is_ok() {
            self.of.values().for_each(|&number| kill(&self.path(number)));
        }
    }

    /// Nothing of the attempt is left; also if it has no cgroup.
    pub fn is_empty(&self, attempt: AttemptId) -> bool {
        match self.of.get(&attempt) {
            Some(&number) => self.here != Some(number) && !is_populated(&self.path(number)),
            None => true,
        }
    }

    /// The attempt's first process has ended; its cgroup is free when the last one has.
    pub fn ended(&mut self, attempt: AttemptId) {
        if self.of.contains_key(&attempt) {
            self.ended.push_back(attempt);
        }
    }

    /// Takes back what has become empty.
    pub fn collect(&mut self) {
        for _ in 0..self.ended.len().min(LOOKS_MAX) {
            let Some(attempt) = self.ended.pop_front() else { return };
            match self.is_empty(attempt) {
                true => self.free.extend(self.of.remove(&attempt)),
                false => self.ended.push_back(attempt),
            }
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
    let Some(home) = own().map(|own| own.join(directory(ledger))) else { return true };
    children(&home).for_each(|child| kill(&child));
    remove(&home);
    !children(&home).any(|child| is_populated(&child))
}

fn directory(ledger: LedgerId) -> String {
    format!("bistro-{ledger}")
}

/// Where this process is in the tree of cgroups, as a path of the file system.
fn own() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let ours = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    locate(&mounts, &ours)
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

/// This process, which has one thread, goes into a cgroup.
fn join(cgroup: &Path) -> std::io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
}

fn kill(cgroup: &Path) {
    // One that is gone has nothing in it.
    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
}

fn is_populated(cgroup: &Path) -> bool {
    let events = std::fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
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

    fn in_directory(home: &Path) -> Cgroups {
        Cgroups {
            home: home.to_owned(),
            origin: home.to_owned(),
            made: 0,
            free: Vec::new(),
            of: HashMap::new(),
            here: None,
            ended: VecDeque::new(),
        }
    }

    #[test]
    fn what_an_earlier_guard_has_left_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("1")).unwrap();
        let mut cgroups = in_directory(directory.path());
        let attempt = AttemptId::generate();
        cgroups.enter(attempt).unwrap();
        assert_eq!(cgroups.of[&attempt], 2);
    }

    #[test]
    fn one_that_is_empty_is_used_again_and_one_that_is_gone_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut cgroups = in_directory(directory.path());
        let [first, second, third] = [0; 3].map(|_| AttemptId::generate());
        cgroups.enter(first).unwrap();
        cgroups.ended(first);
        cgroups.collect();
        assert!(cgroups.free.is_empty(), "the guard is in it itself");
        cgroups.leave().unwrap();
        cgroups.collect();
        cgroups.enter(second).unwrap();
        assert_eq!(cgroups.of[&second], 1);
        cgroups.ended(second);
        cgroups.leave().unwrap();
        cgroups.collect();
        std::fs::remove_dir_all(directory.path().join("1")).unwrap();
        assert!(cgroups.enter(third).is_err());
        cgroups.enter(third).unwrap();
        assert_eq!(cgroups.of[&third], 2);
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
