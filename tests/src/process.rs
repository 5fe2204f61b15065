//! Parts of a cell as processes of their own, to be killed and stopped like any process.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Nothing in a test takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed with the value.
pub struct Process(Child);

impl Process {
    pub fn start(program: &Path, args: &[&str], url: &str) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("BISTRO_NATS_URL", url);
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the process exists");
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is our child")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have died by itself: then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The same command, started so that a limit on the size of its files is an error and not its end.
pub fn without_xfsz(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// To a process that was started [`without_xfsz`] its disk is full from now on, or not any more. What
/// it has started is not concerned.
pub fn set_disk_full(pid: i32, full: bool) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let limit = Rlimit { current: full.then_some(0), maximum: None };
    // One that has ended writes nothing.
    let _ = Pid::from_raw(pid).map(|pid| prlimit(Some(pid), Resource::Fsize, limit));
}

/// A process that has ended and was not reaped does not run.
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The children of a process whose command line ends with this argument.
pub fn children_of(parent: i32, last_argument: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        let (Ok(stat), Ok(command)) = (read("stat"), read("cmdline")) else {
            return false;
        };
        let its_parent = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(2));
        its_parent == Some(&parent.to_string())
            && command.trim_end_matches('\0').rsplit('\0').next() == Some(last_argument)
    })
    .collect()
}

/// Waits until something is so; fails after a while.
pub async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
