//! Ends what an earlier process of this worker left running, before anyone hears of the new one.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

use bistro_common::ids::LedgerId;

/// In the environment of every task; its descendants inherit it.
pub const LEDGER_VARIABLE: &str = "BISTRO_LEDGER";

/// A process that survives KILL for so long is stuck in the kernel.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Kills every process that carries the ledger's mark, and waits until none is left. Returns the
/// ones that would not die.
pub fn end(ledger: LedgerId) -> Vec<i32> {
    let mark = format!("{LEDGER_VARIABLE}={ledger}");
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = marked(&mark);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        for &pid in &left {
            // It may have ended since it was listed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn marked(mark: &str) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        // Processes of others, and those that have ended, cannot be read and are not ours.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    })
    .collect()
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
        assert_eq!(end(ledger), Vec::<i32>::new());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
