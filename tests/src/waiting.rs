//! A cell whose tasks wait until they are told to go on, and note in a file what really happens.

use bistro_common::protocol::api::TaskState;

use crate::{Cell, is_running};

/// Four tasks, of which three may run at a time.
pub const CONFIG: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["host"],
      "node_sources": [{"source": "manual", "prefs": {"n1": [], "n2": [], "n3": [], "n4": []}}]
    },
    "resources": {"instance": {"concurrency": {"limit": 3, "default": 1}}}
  },
  "bistro_job->job": {"owner": "me", "backoff": [1, "repeat"]}
}"#;

/// Notes its start, its process and its end in `$0.log`; runs until there is `$0.go` or
/// `$0.go-NODE`.
pub const WAITS: &str = r#"echo "start $1 $$" >> "$0.log"
while [ ! -e "$0.go" ] && [ ! -e "$0.go-$1" ]; do sleep 0.05; done
echo "end $1" >> "$0.log"; echo done > "$2""#;

/// A script, and what its tasks have noted.
pub struct Log(pub String);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(format!("{}.log", self.0)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Nodes and processes of all starts so far.
    pub fn starts(&self) -> Vec<(String, i32)> {
        let lines = self.lines();
        let starts = lines.iter().filter_map(|line| line.strip_prefix("start ")?.split_once(' '));
        starts.map(|(node, pid)| (node.to_owned(), pid.parse().expect("a pid"))).collect()
    }

    pub fn running(&self) -> usize {
        self.starts().iter().filter(|(_, pid)| is_running(*pid)).count()
    }

    pub fn ends(&self) -> usize {
        self.lines().iter().filter(|line| line.starts_with("end ")).count()
    }

    pub fn go(&self) {
        std::fs::write(format!("{}.go", self.0), "").expect("a file can be written");
    }
}

pub async fn waiting_cell() -> (Cell, Log) {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let script = cell.script("task", WAITS);
    (cell, Log(script))
}

pub async fn all_done_once(cell: &Cell, log: &Log) {
    log.go();
    cell.wait_for_count(TaskState::Done, 4).await;
    assert_eq!(log.ends(), 4, "{:?}", log.lines());
}
