//! The disk of a scheduler or a worker is full for a while. A limit on the size of files stands for
//! that: a process meets it in every file that it writes, and what it has started does not.

use std::time::{Duration, Instant};

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::{
    CellStatus, ErrorCode, ForgiveRequest, ListRequest, Listing, ProblemKind, TaskState, WorkerRow,
    verb,
};
use bistro_common::protocol::heartbeat::ClosedReason;
use bistro_tests::{Cell, Process, is_running, set_disk_full, wait_until, without_xfsz};

const CONFIG: &str = r#"{
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

/// Notes its start and its process; runs until there is `$0.go` or `$0.go-NODE`.
const WAITS: &str = r#"echo "$1 $$" >> "$0.log"
while [ ! -e "$0.go" ] && [ ! -e "$0.go-$1" ]; do sleep 0.05; done
echo done > "$2""#;

const LEASE: Duration = Duration::from_secs(2);

/// Three tasks run, a fourth has no room. Each start is in the log.
struct Tasks(String);

impl Tasks {
    fn starts(&self) -> Vec<(String, i32)> {
        let text = std::fs::read_to_string(format!("{}.log", self.0)).unwrap_or_default();
        let starts = text.lines().filter_map(|line| line.split_once(' '));
        starts.map(|(node, pid)| (node.to_owned(), pid.parse().expect("a pid"))).collect()
    }

    fn running(&self) -> usize {
        self.starts().iter().filter(|(_, pid)| is_running(*pid)).count()
    }

    /// Ends one of them, and waits until it is gone.
    async fn end_one(&self) {
        let (node, pid) = self.starts().remove(0);
        std::fs::write(format!("{}.go-{node}", self.0), "").expect("a file can be written");
        wait_until("one to end", || !is_running(pid)).await;
    }

    /// For longer than a lease, the other two run and nothing else does.
    async fn go_on(&self) {
        let until = Instant::now() + 2 * LEASE;
        wait_until("more than a lease to pass", || {
            assert_eq!((self.running(), self.starts().len()), (2, 3), "what runs goes on");
            Instant::now() >= until
        })
        .await;
    }

    async fn all_are_done_once(&self, cell: &Cell) {
        wait_until("the fourth start", || self.starts().len() == 4).await;
        std::fs::write(format!("{}.go", self.0), "").expect("a file can be written");
        cell.wait_for_count(TaskState::Done, 4).await;
        assert_eq!(self.starts().len(), 4, "each was started once");
    }
}

async fn cell() -> (Cell, Tasks) {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::for_lease(LEASE.as_millis() as u64);
    cell.write_config(CONFIG);
    let script = cell.script("task", WAITS);
    (cell, Tasks(script))
}

/// With three tasks running, the scheduler's disk is full and one of them ends.
async fn fill_scheduler(cell: &Cell, tasks: &Tasks) -> Process {
    let scheduler =
        Process::spawn(without_xfsz(&cell.scheduler_command(&cell.scheduler_directory())));
    cell.wait_for("the scheduler", |status| status.nodes > 0).await;
    wait_until("three starts", || tasks.starts().len() == 3).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    set_disk_full(scheduler.pid(), true);
    tasks.end_one().await;
    let kind = |status: &CellStatus| status.problems.first().map(|problem| problem.kind);
    cell.wait_for("it to say so", |s| kind(s) == Some(ProblemKind::DiskFull)).await;
    scheduler
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_whose_disk_is_full_starts_nothing_and_goes_on_when_it_has_room() {
    let (cell, tasks) = cell().await;
    let _worker = cell.spawn_worker("w1", &tasks.0);
    let scheduler = fill_scheduler(&cell, &tasks).await;
    let lines = cell.cli(&["status"]).await.expect("the status").join("\n");
    assert!(lines.contains("the disk is full") && lines.contains("make room"), "{lines}");
    let (job, actor) = ("job".to_owned(), "me".to_owned());
    let request = ForgiveRequest { job, node: None, actor, reason: String::new() };
    let refused = cell.ask::<serde_json::Value>(verb::FORGIVE, &request).await;
    let code = refused.err().map(|error| error.code);
    assert_eq!(code, Some(ErrorCode::Unavailable), "nothing is promised");
    tasks.go_on().await;
    assert_eq!(cell.status().await.workers_healthy, 1, "leases are renewed");
    set_disk_full(scheduler.pid(), false);
    cell.wait_for("no problem to be left", |status| status.problems.is_empty()).await;
    tasks.all_are_done_once(&cell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_killed_while_its_disk_is_full_loses_no_result() {
    let (cell, tasks) = cell().await;
    let _worker = cell.spawn_worker("w1", &tasks.0);
    let scheduler = fill_scheduler(&cell, &tasks).await;
    // Heartbeats are answered meanwhile, and must not call the result settled.
    tasks.go_on().await;
    scheduler.kill();
    let _scheduler = cell.spawn_scheduler();
    tasks.all_are_done_once(&cell).await;
}

async fn closed(cell: &Cell) -> Option<ClosedReason> {
    let rows: Listing<WorkerRow> =
        cell.ask(verb::WORKERS, &ListRequest::default()).await.expect("the workers");
    rows.items.first().and_then(|row| row.closed)
}

async fn wait_for_closed(cell: &Cell, wanted: Option<ClosedReason>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let closed = closed(cell).await;
        if closed == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{closed:?} is not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_disk_is_full_closes_and_its_results_wait() {
    let (cell, tasks) = cell().await;
    cell.start_scheduler().await;
    let worker = Process::spawn(without_xfsz(&cell.worker_command("w1", &tasks.0)));
    wait_until("three starts", || tasks.starts().len() == 3).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    set_disk_full(worker.pid(), true);
    tasks.end_one().await;
    wait_for_closed(&cell, Some(ClosedReason::DiskFull)).await;
    tasks.go_on().await;
    let status = cell.status().await;
    assert_eq!((status.counts.get(&TaskState::Done), status.workers_healthy), (None, 1));
    set_disk_full(worker.pid(), false);
    wait_for_closed(&cell, None).await;
    tasks.all_are_done_once(&cell).await;
}
