//! Births, in cgroups of their own and without. Where the host lets us make none, those in some are
//! not tested.

use super::*;
use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Instant;

use bistro_common::ids::LedgerId;

use crate::guard::STATUS_PATH;
use crate::guard::cgroup::origin;

const DEADLINE: Duration = Duration::from_secs(10);

struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Option<Self> {
        let ledger = LedgerId::generate();
        let path = origin(ledger)?.join(format!("bistro-test-{ledger}"));
        std::fs::create_dir(&path).ok()?;
        // A hybrid mount without one has no frozen tasks either.
        path.join("cgroup.freeze").exists().then_some(Self(path))
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }

    fn freeze(&self, frozen: bool) {
        std::fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Births are the same with a cgroup and without.
fn places() -> impl Iterator<Item = Option<Cgroup>> {
    [None].into_iter().chain(Cgroup::make().map(Some))
}

fn program<'a>(argv: &'a [&str]) -> Program<'a> {
    Program { argv, env: &[], directory: Path::new("/"), pipes: &[], limited: false }
}

fn begin(spawner: &mut Spawner, program: &Program<'_>, place: Option<&Cgroup>) -> Result<i32> {
    let cgroup = place.map(Cgroup::open);
    spawner.begin(program, cgroup.as_ref().map(File::as_fd))
}

/// What comes of the next birth that is over.
fn next_over(spawner: &mut Spawner) -> (i32, Result<()>) {
    let started = Instant::now();
    loop {
        if let Some(over) = spawner.over().pop() {
            return over;
        }
        assert!(started.elapsed() < DEADLINE, "no birth is over");
        spawner.wait();
    }
}

fn executable(directory: &tempfile::TempDir, text: &str) -> PathBuf {
    let script = directory.path().join("script");
    std::fs::write(&script, format!("{text}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    script
}

#[test]
fn its_pipes_have_their_numbers_in_it() {
    let mut spawner = Spawner::new().unwrap();
    for place in places() {
        let (readers, writers): (Vec<_>, Vec<OwnedFd>) = (0..4)
            .map(|_| std::io::pipe().unwrap())
            .map(|(reader, writer)| (reader, writer.into()))
            .unzip();
        let say = format!("echo out; echo err >&2; echo status > {STATUS_PATH}; cat");
        let argv = ["sh", "-c", &say];
        let program = Program { pipes: &writers, ..program(&argv) };
        let pid = begin(&mut spawner, &program, place.as_ref()).unwrap();
        drop(writers);
        let texts = readers.into_iter().map(|mut reader| {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["out\n", "err\n", "status\n", ""]);
        assert_eq!(wait_for_end(pid).unwrap().status.code(), Some(0), "its input has an end");
        assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
    }
}

#[test]
fn a_script_that_does_not_say_for_whom_is_the_shells() {
    let directory = tempfile::tempdir().unwrap();
    let script = executable(&directory, "exit $(($1 + $#))");
    let mut spawner = Spawner::new().unwrap();
    let argv = [script.to_str().unwrap(), "40", "x"];
    for place in places() {
        // With limits the guard waits, and all else is the same.
        for limited in [false, true] {
            let program = Program { limited, ..program(&argv) };
            let pid = begin(&mut spawner, &program, place.as_ref()).unwrap();
            assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
            assert_eq!(wait_for_end(pid).unwrap().status.code(), Some(42));
        }
    }
}

#[test]
fn why_there_is_no_task_is_said() {
    use ErrorKind::{NotFound, PermissionDenied};
    let mut spawner = Spawner::new().unwrap();
    let nowhere = Path::new("/nowhere");
    let programs = [
        (program(&["/etc/passwd"]), PermissionDenied),
        (program(&["/nowhere"]), NotFound),
        (Program { directory: nowhere, ..program(&["/bin/true"]) }, NotFound),
    ];
    for place in places() {
        for (program, kind) in &programs {
            let pid = begin(&mut spawner, program, place.as_ref()).unwrap();
            let (over, outcome) = next_over(&mut spawner);
            assert_eq!((over, outcome.unwrap_err().kind()), (pid, *kind));
            assert!(wait_for_end(pid).is_some());
        }
        let error = begin(&mut spawner, &program(&["no-such-program"]), place.as_ref());
        assert_eq!(error.unwrap_err().kind(), NotFound);
    }
}

#[test]
fn a_birth_that_takes_long_keeps_nobody_waiting() {
    let (Some(frozen), Some(cgroup)) = (Cgroup::make(), Cgroup::make()) else { return };
    frozen.freeze(true);
    let mut spawner = Spawner::new().unwrap();
    let quick = program(&["/bin/true"]);
    let late: Vec<i32> =
        (0..BIRTHS_MAX).map(|_| begin(&mut spawner, &quick, Some(&frozen)).unwrap()).collect();
    for _ in 0..3 {
        let pid = begin(&mut spawner, &quick, Some(&cgroup)).unwrap();
        assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
        assert!(wait_for_end(pid).is_some());
    }
    assert!(spawner.any_left() && !spawner.is_busy());
    frozen.freeze(false);
    for pid in late {
        assert_eq!(wait_for_end(pid).unwrap().status.code(), Some(0));
    }
    assert_eq!(spawner.over().len(), BIRTHS_MAX);
    assert!(!spawner.any_left());
}

#[test]
fn a_signal_before_it_is_a_task_is_not_lost() {
    let Some(cgroup) = Cgroup::make() else { return };
    cgroup.freeze(true);
    let mut spawner = Spawner::new().unwrap();
    let pid = begin(&mut spawner, &program(&["sleep", "60"]), Some(&cgroup)).unwrap();
    kill_process_group(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    cgroup.freeze(false);
    assert_eq!(wait_for_end(pid).unwrap().status.signal(), Some(Signal::TERM.as_raw()));
    assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
}

#[test]
fn what_the_guard_blocks_is_not_blocked_in_a_task() {
    SigSet::from(nix::sys::signal::Signal::SIGTERM).thread_block().unwrap();
    let mut spawner = Spawner::new().unwrap();
    for place in places() {
        let program = program(&["sh", "-c", "kill -TERM $$; exit 3"]);
        let pid = begin(&mut spawner, &program, place.as_ref()).unwrap();
        assert_eq!(wait_for_end(pid).unwrap().status.signal(), Some(Signal::TERM.as_raw()));
    }
}
