//! A real scheduler, real workers and real processes on a real NATS.

use bistro_common::protocol::api::{
    ErrorCode, KillReply, KillRequest, ListRequest, Listing, NodeRow, TaskRow, TaskState,
    TasksRequest, verb,
};
use bistro_common::protocol::log::{Direction, LineId, LogRead, Stream};
use bistro_common::protocol::task::{Kill, KillMethod};
use bistro_tests::Cell;

/// The smallest config of the original, unmodified but for the job's name.
const SMALLEST: &str = r#"{
  "bistro_settings": {
    "enabled": true,
    "nodes": {
      "levels": ["level1", "level2"],
      "node_sources": [
        {"source": "manual", "prefs": {"node1": ["node11", "node12"], "node2": ["node21", "node22"]}}
      ]
    },
    "resources": {"instance": {"concurrency": {"limit": 3, "default": 1}}}
  },
  "bistro_job->job": {"owner": "me", "backoff": [1, "repeat"]}
}"#;

/// Appends a line to `$0.log`, which the checks read: not our own records.
const LOGGED: &str =
    r#"echo "start $1 $3" >> "$0.log"; sleep 0.1; echo "end $1" >> "$0.log"; echo done > "$2""#;

fn log_of(script: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("{script}.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn starts(log: &[String]) -> Vec<&str> {
    log.iter().filter_map(|line| line.strip_prefix("start ")?.split(' ').next()).collect()
}

async fn running(cell: &Cell) -> Vec<TaskRow> {
    let request = TasksRequest { states: vec![TaskState::Running], ..Default::default() };
    let tasks: Listing<TaskRow> = cell.ask(verb::TASKS, &request).await.expect("the tasks");
    tasks.items
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_config_runs_to_its_end_within_its_limit() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script("task", LOGGED);
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    let status = cell.wait_for("the end", |status| status.finished).await;
    assert_eq!(status.counts, [(TaskState::Done, 4)].into());
    let log = log_of(&script);
    let mut nodes = starts(&log);
    nodes.sort_unstable();
    assert_eq!(nodes, ["node11", "node12", "node21", "node22"]);
    let mut at_once = 0;
    for line in &log {
        at_once += if line.starts_with("start") { 1 } else { -1 };
        assert!(at_once <= 3, "{log:?}");
    }
    let json = log.iter().find_map(|line| line.strip_prefix("start node21 ")).unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["id"], "job");
    assert_eq!(json["path_to_node"], serde_json::json!(["root", "node2", "node21"]));
    assert_eq!(json["resources_by_node"], serde_json::json!({"root": {"concurrency": 1}}));
    assert_eq!(json["worker_node"], "w1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_hands_its_work_to_another() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script(
        "task",
        r#"echo "start $1" >> "$0.log"; while [ ! -e "$0.go" ]; do sleep 0.05; done; echo done > "$2""#,
    );
    cell.start_scheduler().await;
    let first = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let _second = cell.start_worker("w2", &script).await;
    cell.wait_for("two workers", |status| status.workers_healthy == 2).await;
    first.stop().await;
    cell.wait_for_count(TaskState::Running, 3).await;
    std::fs::write(format!("{script}.go"), "").unwrap();
    cell.wait_for_count(TaskState::Done, 4).await;
    assert!(running(&cell).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_hits_the_attempt_it_names_and_no_later_one() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script("task", "trap '' TERM; sleep 600 & sleep 600");
    cell.start_scheduler().await;
    let worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let task = running(&cell).await.remove(0);
    let request = KillRequest {
        attempt: task.running.expect("it runs").attempt,
        kill: Some(Kill { method: KillMethod::TermWaitKill, wait_ms: 100 }),
        actor: "test".to_owned(),
        reason: String::new(),
    };
    let reply: KillReply = cell.ask(verb::KILL, &request).await.unwrap();
    assert_eq!(reply.node, task.node);
    let of_task = TasksRequest { node: Some(task.node.clone()), ..Default::default() };
    let ended = loop {
        let mut tasks: Listing<TaskRow> = cell.ask(verb::TASKS, &of_task).await.unwrap();
        let task = tasks.items.remove(0);
        if task.last.is_some() {
            break task;
        }
    };
    let exception = ended.last.as_ref().and_then(|status| status.exception());
    assert_eq!(exception, Some("Task killed, no status returned"));
    let again = cell.ask::<KillReply>(verb::KILL, &request).await;
    assert_eq!(again.map_err(|error| error.code), Err(ErrorCode::Gone));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_take_effect_while_it_runs_and_broken_ones_are_shown() {
    let cell = Cell::new().await;
    cell.write_config(&SMALLEST.replace("\"owner\"", "\"enabled\": false, \"owner\""));
    let script = cell.script("task", "echo done > \"$2\"");
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Disabled, 4).await;
    cell.write_config(&SMALLEST.replace("\"enabled\": true,", "\"enabled\": true"));
    let status = cell.wait_for("the problem", |status| !status.problems.is_empty()).await;
    let problem = &status.problems[0];
    assert!(problem.line > 0 && problem.file.ends_with("bistro.json"), "{problem}");
    assert_eq!(status.counts.get(&TaskState::Disabled), Some(&4), "the last good one holds");
    cell.write_config(SMALLEST);
    let status = cell.wait_for_count(TaskState::Done, 4).await;
    assert_eq!(status.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_load() {
    let cell = Cell::new().await;
    cell.write_config(&SMALLEST.replace("\"enabled\": true,", "\"enabled\": false,"));
    let script = cell.script("task", LOGGED);
    cell.start_scheduler().await;
    let _workers = (cell.start_worker("w1", &script).await, cell.start_worker("w2", &script).await);
    cell.wait_for("two workers", |status| status.workers_healthy == 2).await;
    cell.write_config(SMALLEST);
    cell.wait_for_count(TaskState::Done, 4).await;
    let log = log_of(&script);
    for worker in ["w1", "w2"] {
        let its = format!("\"worker_node\":\"{worker}\"");
        assert_eq!(log.iter().filter(|line| line.contains(&its)).count(), 2, "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_limit_starts_nothing_until_there_is_room_below_it() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script(
        "task",
        r#"echo "start $1" >> "$0.log"; while [ ! -e "$0.go" ]; do sleep 0.05; done
        echo "end $1" >> "$0.log"; echo done > "$2""#,
    );
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    cell.write_config(&SMALLEST.replace("\"limit\": 3", "\"limit\": 1"));
    wait_for_limit(&cell, 1).await;
    std::fs::write(format!("{script}.go"), "").unwrap();
    cell.wait_for_count(TaskState::Done, 4).await;
    let log = log_of(&script);
    let last_start = log.iter().rposition(|line| line.starts_with("start")).unwrap();
    let ends_before = log[..last_start].iter().filter(|line| line.starts_with("end")).count();
    assert_eq!(ends_before, 3, "{log:?}");
}

async fn wait_for_limit(cell: &Cell, limit: i64) {
    let request = ListRequest { filter: "level=instance".to_owned(), ..Default::default() };
    loop {
        let nodes: Listing<NodeRow> = cell.ask(verb::NODES, &request).await.expect("the nodes");
        if nodes.items[0].slots["concurrency"].limit == limit {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_added_runs_and_one_that_is_disabled_stops_starting() {
    let cell = Cell::new().await;
    let with = |jobs: &str| {
        SMALLEST.replace("\"bistro_job->job\"", &format!("{jobs} \"bistro_job->job\""))
    };
    cell.write_config(SMALLEST);
    let script = cell.script("task", "echo \"start $1\" >> \"$0.log\"; echo done > \"$2\"");
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Done, 4).await;
    let disabled = "\"bistro_job->off\": {\"owner\": \"me\", \"enabled\": false},";
    cell.write_config(&with(&format!("\"bistro_job->new\": {{\"owner\": \"me\"}}, {disabled}")));
    cell.wait_for("the new job", |status| {
        status.counts == [(TaskState::Done, 8), (TaskState::Disabled, 4)].into()
    })
    .await;
    assert_eq!(starts(&log_of(&script)).len(), 8, "what was done did not run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_find_the_cell_as_a_service_and_ask_it_without_our_libraries() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    cell.start_scheduler().await;
    cell.wait_for_count(TaskState::CanRun, 4).await;
    let ping = cell.request("$SRV.PING.bistro").await;
    assert_eq!(ping["metadata"]["cell"], "test");
    let info = cell.request("$SRV.INFO.bistro").await;
    assert_eq!(info["endpoints"][0]["subject"], "bistro.test.api.*");
    let jobs = cell.request("bistro.test.api.jobs").await;
    assert_eq!(jobs["ok"]["items"][0]["job"], "job");
    let stats = cell.request("$SRV.STATS.bistro").await;
    assert!(stats["endpoints"][0]["num_requests"].as_u64() > Some(0), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_garbage_and_exit_codes_mean_what_the_reference_says() {
    let cell = Cell::new().await;
    cell.write_config(
        &SMALLEST.replace("\"backoff\": [1, \"repeat\"]", "\"backoff\": [3600, \"repeat\"]"),
    );
    let script = cell.script(
        "task",
        r#"case $1 in
        node11) exit 0;;
        node12) echo garbage > "$2";;
        node21) printf 'failed\ndone\n' > "$2"; exit 3;;
        node22) (sleep 0.3; echo done > "$2") & exit 0;;
        esac"#,
    );
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for("all to end", |status| {
        status.counts == [(TaskState::Done, 2), (TaskState::Backoff, 2)].into()
    })
    .await;
    let tasks: Listing<TaskRow> = cell.ask(verb::TASKS, &TasksRequest::default()).await.unwrap();
    let last = |node: &str| {
        let task = tasks.items.iter().find(|task| task.node == node).unwrap();
        (task.state, task.last.as_ref().and_then(|l| l.exception()).unwrap_or("").to_owned())
    };
    assert_eq!(last("node11"), (TaskState::Backoff, "Failed to read a status".to_owned()));
    assert!(last("node12").1.starts_with("Cannot parse status: garbage"));
    assert_eq!(last("node21").0, TaskState::Done, "the last line counts, the exit code does not");
    assert_eq!(last("node22").0, TaskState::Done, "a child that holds the pipe keeps it running");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_kept_in_order_and_bounded_and_a_child_that_holds_it_keeps_the_task_running() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script(
        "task",
        r#"case $1 in
        node11) echo out; echo err >&2; printf 'no end';;
        node12) yes 0123456789012345678901234567890123456789012345678 | head -n 2000000;;
        node21) (sleep 0.3; echo late) & ;;
        node22) head -c 200000 /dev/zero | tr '\0' x;;
        esac
        echo done > "$2""#,
    );
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for_count(TaskState::Done, 4).await;
    let of = |node: &str, direction, from| LogRead {
        streams: vec![Stream::Stdout, Stream::Stderr],
        job: Some("job".to_owned()),
        node: Some(node.to_owned()),
        ..LogRead::page(from, direction, 5_000)
    };
    let first = |node| of(node, Direction::Ascending, LineId::MIN);
    let page = cell.logs("w1", &first("node11")).await;
    let mut lines: Vec<_> =
        page.lines.iter().map(|l| (l.stream, l.text.as_str(), l.partial)).collect();
    lines.sort_unstable();
    let want = [
        (Stream::Stdout, "no end", true),
        (Stream::Stdout, "out", false),
        (Stream::Stderr, "err", false),
    ];
    assert_eq!(lines, want);
    assert_eq!(cell.logs("w1", &first("node21")).await.lines[0].text, "late");
    let long = cell.logs("w1", &first("node22")).await.lines;
    assert!(long.iter().all(|line| line.partial && line.text.len() <= 65_000));
    assert_eq!(long.iter().map(|line| line.text.len()).sum::<usize>(), 200_000);

    // 100 MB: every line is there or counted.
    let (mut kept, mut dropped, mut from) = (0, 0, LineId::MIN);
    loop {
        let page = cell.logs("w1", &of("node12", Direction::Ascending, from)).await;
        assert_eq!(page.error, None);
        if page.lines.is_empty() {
            break;
        }
        dropped += page.lines.iter().map(|line| line.dropped).sum::<u64>();
        kept += page.lines.iter().filter(|line| line.dropped == 0).count() as u64;
        from = page.next.unwrap();
    }
    assert!(kept > 100_000 && dropped > 1_000_000, "{kept} kept, {dropped} dropped");
    assert_eq!(kept + dropped, 2_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_to_an_attempt_is_in_its_log_and_a_reader_can_wait_for_it() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let script = cell.script("task", "echo failed > \"$2\"; exit 3");
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for("a worker", |status| status.workers_healthy == 1).await;
    let (mut events, mut from) = (Vec::new(), LineId::MIN);
    while events.len() < 4 {
        let request = LogRead {
            streams: vec![Stream::Statuses],
            node: Some("node11".to_owned()),
            wait_ms: 5_000,
            ..LogRead::page(from, Direction::Ascending, 1)
        };
        let page = cell.logs("w1", &request).await;
        let texts = page.lines.iter().map(|line| serde_json::from_str(&line.text).unwrap());
        events.extend(texts.collect::<Vec<serde_json::Value>>());
        from = page.next.unwrap();
    }
    let mut names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[3]), ("running", "got_status"));
    names.sort_unstable();
    assert_eq!(names, ["got_status", "process_exited", "running", "task_pipes_closed"]);
    assert_eq!(events[0]["command"][1], "node11");
    assert_eq!(events[3]["raw_status"], "failed");
    assert_eq!(events[3]["status"]["result_bits"], 16);
    let exited = events.iter().find(|event| event["event"] == "process_exited").unwrap();
    assert_eq!(exited["message"], "exited with status 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_has_used_is_told_with_its_result() {
    let cell = Cell::new().await;
    cell.write_config(SMALLEST);
    let busy = r#"i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done > "$2""#;
    let script = cell.script("task", busy);
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    cell.wait_for("the end", |status| status.finished).await;
    let request = TasksRequest { node: Some("node11".to_owned()), ..Default::default() };
    let tasks: Listing<TaskRow> = cell.ask(verb::TASKS, &request).await.expect("the task");
    let task = &tasks.items[0];
    let (usage, ran_ms) = (task.usage.expect("it was seen"), task.ran_ms.expect("it ran"));
    assert!(usage.cpu_ms >= 20 && usage.cpu_ms <= ran_ms + 20, "{usage:?} in {ran_ms} ms");
    let shown = cell.cli(&["task", "show", "job", "node11"]).await.expect("it is shown").join("\n");
    assert!(shown.contains("used     ") && shown.contains(" of CPU"), "{shown}");
}

/// What the tasks of a job under these options said, and whether the first to end was done.
async fn confined(options: &str, says: &str) -> (Vec<String>, bool) {
    let cell = Cell::new().await;
    let job = r#""owner": "me""#;
    let config = SMALLEST.replace(job, &format!(r#"{job}, "task_subprocess": {options}"#));
    cell.write_config(&config);
    let script = cell.script("task", &format!(r#"{says}; echo done > "$2""#));
    cell.start_scheduler().await;
    let _worker = cell.start_worker("w1", &script).await;
    let status = cell.wait_for("the first end", |status| {
        let ended = [TaskState::Done, TaskState::Backoff].map(|state| status.counts.get(&state));
        ended.into_iter().flatten().any(|&count| count > 0)
    });
    let done = status.await.counts.contains_key(&TaskState::Done);
    let page = LogRead::page(LineId::MIN, Direction::Ascending, 100);
    let streams = vec![Stream::Stdout, Stream::Stderr];
    let page = cell.logs("w1", &LogRead { streams, ..page }).await;
    (page.lines.into_iter().map(|line| line.text).collect(), done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_under_the_limits_and_the_umask_of_its_job() {
    let options = r#"{"umask": "027", "rlimits": {"nofile": 77, "core": 0}}"#;
    let (said, done) = confined(options, "umask; ulimit -n; ulimit -Hn; ulimit -c").await;
    assert_eq!((&said[..4], done), (&["0027", "77", "77", "0"].map(str::to_owned)[..], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_as_the_user_of_its_job_or_says_why_it_cannot() {
    let says = r#"id -un; : > mine && echo "$USER" > /dev/stderr"#;
    let (said, done) = confined(r#"{"user": "nobody"}"#, says).await;
    match nix::unistd::geteuid().is_root() {
        true => {
            assert_eq!((&said[..2], done), (&["nobody", "nobody"].map(str::to_owned)[..], true))
        }
        false => assert!(said[0].contains("is the worker root?"), "{said:?}"),
    }
    let (said, done) = confined(r#"{"user": "no-such-user"}"#, "echo never").await;
    assert!(!done);
    assert!(said[0].contains(r#"there is no user "no-such-user" on this host"#), "{said:?}");
}
