//! What the tasks themselves have seen. A task holds a lock for as long as anything of it lives,
//! and notes in one file what it finds: none of it is in our own records.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Tasks below a host that may run at once.
pub const HOST_LIMIT: usize = 2;

/// `$0` lies beside `log`, `locks/` and `done/`. A tenth of all runs is not done yet.
const TASK: &str = r#"#!/bin/sh
# A guard that was started on a full disk hands that on; what is seen must be written all the same.
ulimit -S -f unlimited
here=$(dirname "$0"); me="$BISTRO_ATTEMPT_ID $BISTRO_JOB/$1"
note() { echo "$1 $me" >> "$here/log"; }
exec 9>>"$here/locks/task-$BISTRO_JOB-$1"
flock -n 9 || note overlap
room=
for slot in 1 2; do
  exec 8>>"$here/locks/host-${1%%-*}-$slot"
  if flock -n 8; then room=yes; break; fi
done
[ -n "$room" ] || note over
[ ! -e "$here/done/$BISTRO_JOB-$1" ] || note again
note start
case $(($$ % 40)) in 0) sleep 6;; *) sleep 0.$(($$ % 9 + 1));; esac
note end
if [ $(($$ % 10)) = 3 ]; then echo incomplete > "$2"; else echo done > "$2"; fi
"#;

pub struct Evidence {
    directory: PathBuf,
}

/// How often the promises were broken.
#[derive(Debug, Default)]
pub struct Findings {
    pub starts: usize,
    pub double_starts: usize,
    pub overlaps: usize,
    /// Tasks that were started again after they had been reported done.
    pub lost_results: usize,
    pub over_limit: usize,
    /// Tasks that were reported done and have not noted their end: then nothing is known of them.
    pub untraced: usize,
}

impl Evidence {
    /// Writes the task's script.
    pub fn new(directory: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        for below in ["locks", "done"] {
            std::fs::create_dir_all(directory.join(below)).expect("a directory can be made");
        }
        let task = directory.join("task");
        std::fs::write(&task, TASK).expect("a file can be written");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&task, executable).expect("it can be made executable");
        Self { directory: directory.to_owned() }
    }

    pub fn task(&self) -> String {
        self.directory.join("task").to_str().expect("a temporary path is UTF-8").to_owned()
    }

    /// The scheduler has said that this is done: from now on a start of it is noted as wrong.
    pub fn reported_done(&self, job: &str, node: &str) {
        let marker = self.directory.join("done").join(format!("{job}-{node}"));
        std::fs::write(marker, "").expect("a file can be written");
    }

    /// What the scheduler said may be on no disk any more: then it may do it again.
    pub fn forget(&self, is_lost: impl Fn(SystemTime) -> bool) {
        for marker in self.done() {
            let reported = marker.metadata().and_then(|about| about.modified());
            if reported.is_ok_and(&is_lost) {
                std::fs::remove_file(marker.path()).expect("a file can be removed");
            }
        }
    }

    pub fn findings(&self) -> Findings {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let mut findings = Findings::default();
        let (mut started, mut ended) = (HashSet::new(), HashSet::new());
        for line in log.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or("");
            let (what, attempt, task) = (word(), word(), word());
            match what {
                "start" => {
                    findings.starts += 1;
                    findings.double_starts += usize::from(!started.insert(attempt));
                }
                "end" => drop(ended.insert(task.replacen('/', "-", 1))),
                "overlap" => findings.overlaps += 1,
                "again" => findings.lost_results += 1,
                "over" => findings.over_limit += 1,
                _ => continue,
            }
            if !matches!(what, "start" | "end") {
                println!("BROKEN: {line}");
            }
        }
        let done = self.done().filter_map(|marker| marker.file_name().into_string().ok());
        findings.untraced = done.filter(|task| !ended.contains(task)).count();
        findings
    }

    /// A file for each task that was reported done.
    fn done(&self) -> impl Iterator<Item = std::fs::DirEntry> {
        std::fs::read_dir(self.directory.join("done")).expect("it was made").flatten()
    }
}
