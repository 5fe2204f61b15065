//! Jobs from the command line: submitted, made, changed, overridden; and what survives.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use bistro_common::protocol::api::TaskState;
use bistro_tests::{Cell, Worker};

const CONFIG: &str = r#"{"bistro_settings": {
    "enabled": true,
    "nodes": {"levels": ["host"], "node_sources": [{"source": "manual", "prefs": {"h1": [], "h2": []}}]},
    "resources": {"host": {"slots": {"limit": 1, "default": 1}}, "worker": {"cpu": {"limit": 2, "default": 1}}}},
  "bistro_job->from_file": {"owner": "me", "enabled": false}}"#;

/// A cell whose only worker is there.
async fn with_worker() -> (Cell, Worker) {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    cell.start_scheduler().await;
    let worker = cell.start_worker("w1", "/bin/false").await;
    cell.wait_for("the worker", |status| status.workers_healthy == 1).await;
    (cell, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_command_is_done_if_it_exits_well_and_its_error_is_told() {
    let (cell, _worker) = with_worker().await;
    let name = cell.cli(&["submit", "--wait", "--", "sh", "-c", "exit 0", "a"]).await;
    assert!(name.as_ref().is_ok_and(|lines| lines[0].starts_with("sh-")), "{name:?}");
    let failed = cell.cli(&["submit", "--wait", "--", "sh", "-c", "exit 3"]).await;
    assert_eq!(failed, Err(vec!["failed: the command exited with status 3".to_owned()]));
    let unknown = cell.cli(&["submit", "--resource", "cpus=1", "--", "true"]).await;
    let unknown = unknown.expect_err("there is no such resource").join(" ");
    assert!(unknown.contains("did you mean \"cpu\""), "{unknown}");
    // It may also say more than its exit can, as tasks of the original do.
    let more = ["submit", "--wait", "--", "sh", "-c", "echo failed > $BISTRO_STATUS"];
    assert!(cell.cli(&more).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_overrides_outlive_the_scheduler() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let task = cell.script("task", "echo done > $2");
    let scheduler = cell.spawn_scheduler();
    cell.wait_for("the plan", |status| status.nodes == 3).await;
    let definition = cell.directory.path().join("job.json");
    std::fs::write(&definition, r#"{"owner": "me", "depends_on": ["from_file"]}"#).unwrap();
    let definition = definition.to_str().unwrap();
    let said = cell.cli(&["job", "create", "made", definition]).await;
    assert_eq!(said, Ok(vec!["made is enabled with priority 1 (version 1)".to_owned()]));
    let said = cell.cli(&["job", "set-priority", "made", "-2.5"]).await;
    assert_eq!(said, Ok(vec!["made is enabled with priority -2.5 (version 2)".to_owned()]));
    let said = cell.cli(&["job", "enable", "from_file", "--reason", "now"]).await;
    let beside = "from_file is enabled with priority 1 beside what its file says (version 1)";
    assert_eq!(said, Ok(vec![beside.to_owned()]));
    // The change is in the stream of events a moment later.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let shown = cell.cli(&["job", "show", "from_file"]).await.unwrap();
        assert_eq!(shown[0], "host     can_run 2");
        if shown.last().is_some_and(|change| change.ends_with(": enabled true; now")) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{shown:?}");
    }
    let reset = cell.cli(&["job", "reset", "from_file", "--version", "7"]).await;
    assert!(reset.is_err(), "it is at version 1");
    let stale = cell.cli(&["job", "delete", "made", "--version", "1"]).await;
    let stale = stale.expect_err("it is at version 2").join(" ");
    assert!(stale.contains("is at version 2, not 1"), "{stale}");
    let of_file = cell.cli(&["job", "delete", "from_file"]).await;
    assert!(of_file.is_err_and(|lines| lines.join(" ").contains("defined in the config file")));
    scheduler.kill();
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.start_worker("w1", &task).await;
    cell.wait_for_count(TaskState::Done, 4).await;
    let audit = cell.cli(&["events", "--kind", "audit"]).await.expect("events").join("\n");
    for kind in ["audit.job_create", "audit.job_override"] {
        assert!(audit.contains(kind), "{kind} in {audit}");
    }
    let said = cell.cli(&["job", "reset", "from_file"]).await;
    assert!(said.is_ok_and(|lines| lines[0].contains("is disabled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_cannot_start_is_told_why() {
    let (cell, _worker) = with_worker().await;
    cell.cli(&["worker", "drain", "w1"]).await.expect("it drains");
    let mut command = cell.cli_command(&["submit", "--wait", "--", "true"]);
    let mut waiting = command.stderr(Stdio::piped()).spawn().expect("it can be started");
    let mut said = BufReader::new(waiting.stderr.take().expect("it is piped")).lines();
    let patience = Duration::from_secs(30);
    let line = timeout(patience, said.next_line()).await.expect("it says why").expect("UTF-8");
    assert!(line.as_ref().is_some_and(|line| line.contains("draining")), "{line:?}");
    cell.cli(&["worker", "resume", "w1"]).await.expect("it resumes");
    let ended = timeout(patience, waiting.wait()).await.expect("it ends").expect("it was started");
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_drained_and_resumed_from_the_command_line() {
    let (cell, _worker) = with_worker().await;
    let drained = cell.cli(&["worker", "drain", "w1", "--reason", "new kernel"]).await;
    assert_eq!(drained, Ok(vec!["w1 takes no new work; it still runs 0 tasks".to_owned()]));
    let rows = cell.cli(&["workers", "-o", "csv"]).await.expect("it lists them").join(" ");
    assert!(rows.contains("draining"), "{rows}");
    cell.cli(&["submit", "--name", "waits", "--", "true"]).await.expect("it waits");
    let why = cell.cli(&["explain", "waits", "root"]).await.expect("it says why").join(" ");
    assert!(why.contains("draining"), "{why}");
    let resumed = cell.cli(&["worker", "resume", "w1"]).await;
    assert_eq!(resumed, Ok(vec!["w1 takes work again".to_owned()]));
    cell.wait_for_count(TaskState::Done, 1).await;
    let alive = cell.cli(&["worker", "forget", "w1", "--i-have-fenced-it"]).await;
    assert!(alive.expect_err("it is alive").join(" ").contains("drain it, or stop its process"));
    let word = cell.cli(&["worker", "forget", "w1"]).await;
    assert!(word.expect_err("nobody vouches").join(" ").contains("has made sure"));
}
