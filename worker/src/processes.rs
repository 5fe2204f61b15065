//! What runs on this host: who is whose child, and which processes carry a mark of ours.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use bistro_common::ids::LedgerId;

use crate::guard::end_cgroups;

/// In the environment of every task; its descendants inherit it.
pub const LEDGER_VARIABLE: &str = "BISTRO_LEDGER";
/// Likewise, one attempt's.
pub const ATTEMPT_VARIABLE: &str = "BISTRO_ATTEMPT_ID";

/// A process that survives KILL for so long is stuck in the kernel.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Every process of the host at one moment, by its parent.
pub struct Tree {
    children: HashMap<i32, Vec<i32>>,
    memory_kb: HashMap<i32, u64>,
}

impl Tree {
    pub fn read() -> Self {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        let mut memory_kb = HashMap::new();
        for pid in pids() {
            if let Some(stat) = Stat::read(pid) {
                children.entry(stat.parent).or_default().push(pid);
                memory_kb.insert(pid, stat.memory_kb);
            }
        }
        Self { children, memory_kb }
    }

    /// What the process alone has in memory.
    pub fn memory_kb(&self, pid: i32) -> u64 {
        self.memory_kb.get(&pid).copied().unwrap_or(0)
    }

    pub fn children(&self, pid: i32) -> &[i32] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// The process itself and everything that descends from it.
    pub fn with_descendants(&self, pid: i32) -> Vec<i32> {
        let mut found = vec![pid];
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            found.extend(self.children(pid));
            next += 1;
        }
        found
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    parent: i32,
    memory_kb: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (name) state parent ...`; a name may hold anything, brackets too.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        // The 24th field, in pages.
        let pages: u64 = fields.nth(19)?.parse().ok()?;
        let page_kb = rustix::param::page_size() as u64 >> 10;
        Some(Self { parent, memory_kb: pages * page_kb })
    }
}

/// Does the process carry `name=value` in its environment? Processes of other users, and those
/// that have ended, cannot be read and are not ours.
pub fn is_marked(pid: i32, name: &str, value: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| {
        let value_of = variable.strip_prefix(name.as_bytes()).and_then(|v| v.strip_prefix(b"="));
        value_of == Some(value.as_bytes())
    })
}

/// Sends a signal to a process that may have ended since it was listed.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A process that is about to become another program has no environment for a moment, and no mark: so
/// often in a row nothing must be found.
const CLEAN_LOOKS: u32 = 3;

/// Ends what earlier processes of a worker left running: kills every process that carries the
/// ledger's mark, and waits until none is left. Returns the ones that would not die.
pub fn end_leftovers(ledger: LedgerId) -> Vec<i32> {
    let mark = ledger.to_string();
    let deadline = Instant::now() + TIMEOUT;
    let mut clean = 0;
    loop {
        let left: Vec<i32> = pids().filter(|&pid| is_marked(pid, LEDGER_VARIABLE, &mark)).collect();
        // They may hold what bears no mark any more.
        let empty = end_cgroups(ledger);
        clean = if left.is_empty() && empty { clean + 1 } else { 0 };
        if clean == CLEAN_LOOKS || Instant::now() >= deadline {
            return left;
        }
        for &pid in &left {
            signal(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn marked_processes_and_their_children_are_gone_and_others_are_not() {
        let ledger = LedgerId::generate();
        let mut ours = Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .env(LEDGER_VARIABLE, ledger.to_string())
            .spawn()
            .unwrap();
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        // The parent is a zombie until it is waited for; a zombie has no environment.
        assert_eq!(end_leftovers(ledger), Vec::<i32>::new());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn descendants_are_found() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let below = Tree::read().with_descendants(us);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(below[0], us);
        assert!(below.contains(&pid));
    }
}
