//! Births in cgroups of their own. Where the host lets us make none, there are none, and nothing is
//! tested.

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

fn begin(spawner: &mut Spawner, argv: &[&str], pipes: &[OwnedFd], cgroup: &Cgroup) -> i32 {
    let program = Program { argv, env: &[], directory: Path::new("/"), pipes, limited: false };
    spawner.begin(&program, cgroup.open().as_fd()).unwrap()
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
    let Some(cgroup) = Cgroup::make() else { return };
    let mut spawner = Spawner::new().unwrap();
    let (readers, writers): (Vec<_>, Vec<OwnedFd>) = (0..4)
        .map(|_| std::io::pipe().unwrap())
        .map(|(reader, writer)| (reader, writer.into()))
        .unzip();
    let say = format!("echo out; echo err >&2; echo status > {STATUS_PATH}; cat");
    let pid = begin(&mut spawner, &["sh", "-c", &say], &writers, &cgroup);
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

#[test]
fn a_script_that_does_not_say_for_whom_is_the_shells() {
    let Some(cgroup) = Cgroup::make() else { return };
    let directory = tempfile::tempdir().unwrap();
    let script = executable(&directory, "exit $(($1 + $#))");
    let mut spawner = Spawner::new().unwrap();
    let argv = [script.to_str().unwrap(), "40", "x"];
    // With limits the guard waits, and all else is the same.
    for limited in [false, true] {
        let program =
            Program { argv: &argv, env: &[], directory: Path::new("/"), pipes: &[], limited };
        let pid = spawner.begin(&program, cgroup.open().as_fd()).unwrap();
        assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
        assert_eq!(wait_for_end(pid).unwrap().status.code(), Some(42));
    }
}

#[test]
fn why_there_is_no_task_is_said() {
    let Some(cgroup) = Cgroup::make() else { return };
    let mut spawner = Spawner::new().unwrap();
    for (argv, kind) in
        [(["/etc/passwd"], ErrorKind::PermissionDenied), (["/nowhere"], ErrorKind::NotFound)]
    {
        let pid = begin(&mut spawner, &argv, &[], &cgroup);
        let (over, outcome) = next_over(&mut spawner);
        assert_eq!((over, outcome.unwrap_err().kind()), (pid, kind));
        assert!(wait_for_end(pid).is_some());
    }
    let nowhere = Path::new("/nowhere");
    let program =
        Program { argv: &["/bin/true"], env: &[], directory: nowhere, pipes: &[], limited: false };
    let pid = spawner.begin(&program, cgroup.open().as_fd()).unwrap();
    assert_eq!(next_over(&mut spawner).1.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(wait_for_end(pid).is_some());
    let program = Program { argv: &["no-such-program"], directory: Path::new("/"), ..program };
    let error = spawner.begin(&program, cgroup.open().as_fd()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_birth_that_takes_long_keeps_nobody_waiting() {
    let (Some(frozen), Some(cgroup)) = (Cgroup::make(), Cgroup::make()) else { return };
    frozen.freeze(true);
    let mut spawner = Spawner::new().unwrap();
    let late: Vec<i32> =
        (0..BIRTHS_MAX).map(|_| begin(&mut spawner, &["/bin/true"], &[], &frozen)).collect();
    for _ in 0..3 {
        let pid = begin(&mut spawner, &["/bin/true"], &[], &cgroup);
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
    let pid = begin(&mut spawner, &["sleep", "60"], &[], &cgroup);
    kill_process_group(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    cgroup.freeze(false);
    assert_eq!(wait_for_end(pid).unwrap().status.signal(), Some(Signal::TERM.as_raw()));
    assert!(matches!(next_over(&mut spawner), (over, Ok(())) if over == pid));
}

#[test]
fn without_cgroups_it_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let script = executable(&directory, &format!("echo $1 > {STATUS_PATH}; kill -TERM $$; exit 3"));
    // As in the guard.
    SigSet::from(nix::sys::signal::Signal::SIGTERM).thread_block().unwrap();
    let (mut status, writer) = std::io::pipe().unwrap();
    let nothing = || File::open("/dev/null").unwrap().into();
    let argv = [script.to_str().unwrap(), "done"];
    let pipes = [nothing(), nothing(), writer.into()];
    let program = Program {
        argv: &argv,
        env: &[],
        directory: directory.path(),
        pipes: &pipes,
        limited: false,
    };
    let pid = program.spawn_anywhere().unwrap();
    drop(pipes);
    let mut text = String::new();
    status.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    assert_eq!(wait_for_end(pid).unwrap().status.signal(), Some(Signal::TERM.as_raw()));
}
