//! How tasks and workers come to their end when nothing has gone wrong.

use nix::sys::signal::Signal;

use bistro_common::protocol::api::{ListRequest, Listing, TaskState, WorkerRow, verb};
use bistro_common::protocol::heartbeat::Isolation;
use bistro_tests::waiting::{CONFIG, Log, waiting_cell};
use bistro_tests::{Cell, Process, bistro, children_of, is_running, wait_until};

/// A worker that gives its tasks ten minutes to finish, and three tasks that it runs.
async fn patient_worker(cell: &Cell, log: &Log) -> Process {
    let mut command = cell.worker_command("w1", &log.0);
    command.args(["--finish-sec", "600"]);
    let worker = Process::spawn(command);
    wait_until("three starts", || log.starts().len() == 3).await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_to_end_lets_its_tasks_finish_and_takes_no_more() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let worker = patient_worker(&cell, &log).await;
    worker.signal(Signal::SIGTERM);
    cell.wait_for_count(TaskState::Running, 3).await;
    for (node, _) in log.starts() {
        std::fs::write(format!("{}.go-{node}", log.0), "").expect("a file can be written");
    }
    cell.wait_for_count(TaskState::Done, 3).await;
    wait_until("the worker to end", || !is_running(worker.pid())).await;
    assert_eq!((log.starts().len(), log.ends()), (3, 3), "{:?}", log.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_twice_ends_its_tasks_at_once() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let worker = patient_worker(&cell, &log).await;
    worker.signal(Signal::SIGTERM);
    let draining = || async {
        let rows: Listing<WorkerRow> =
            cell.ask(verb::WORKERS, &ListRequest::default()).await.expect("the workers");
        rows.items.iter().any(|row| row.closed.is_some())
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !draining().await {
        assert!(std::time::Instant::now() < deadline, "it takes work still");
    }
    assert_eq!(log.running(), 3, "they may finish");
    worker.signal(Signal::SIGTERM);
    wait_until("the worker to end", || !is_running(worker.pid())).await;
    assert_eq!((log.running(), log.ends()), (0, 0), "{:?}", log.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_killed_takes_none_with_it_that_come_after() {
    let cell = Cell::new().await;
    cell.write_config(
        r#"{"bistro_settings": {"enabled": true, "resources": {},
          "nodes": {"levels": [], "node_sources": [{"source": "empty"}]}}}"#,
    );
    let _scheduler = cell.spawn_scheduler();
    let log = Log(cell.script("task", ""));
    let _worker = cell.spawn_worker("w1", &log.0);
    // One that does not end when it is asked to, so that all of it is killed.
    let stubborn = format!("trap '' TERM; echo $$ > {}.log; while :; do sleep 600; done", log.0);
    cell.wait_for("the worker", |status| status.workers_healthy == 1).await;
    for signal in ["kill", "term-wait-kill"] {
        let name = format!("stubborn-{signal}");
        let submit = ["submit", "--name", &name, "--", "/bin/sh", "-c", &stubborn];
        cell.cli(&submit).await.expect("there is room");
        wait_until("it to be deaf", || !log.lines().is_empty()).await;
        let kill =
            ["kill", "--filter", &format!("job={name}"), "--yes", "--signal", signal, "--grace"];
        cell.cli(&[&kill[..], &["0"]].concat()).await.expect("it is ordered");
        cell.cli(&["wait", &name, "--until", "idle"]).await.expect("it ends");
        cell.cli(&["job", "delete", &name]).await.expect("it is not to run again");
        for n in 0..3 {
            let next = format!("next-{signal}-{n}");
            let submit = ["submit", "--wait", "--name", &next, "--", "/bin/true"];
            cell.cli(&submit).await.unwrap_or_else(|said| panic!("{next}: {said:?}"));
        }
        std::fs::remove_file(format!("{}.log", log.0)).expect("it was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_has_closed_everything_is_its_tasks_where_there_are_cgroups() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let log = Log(cell.script(
        "task",
        r#"env -i "$(command -v python3)" -c 'import os, sys, time
os.setsid(); os.closerange(0, 4096)
file = os.open(sys.argv[1] + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(file, b"start %s %d\n" % (sys.argv[2].encode(), os.getpid())); os.close(file)
time.sleep(600)' "$0" "$1" &
        echo done > "$2""#,
    ));
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() >= 3).await;
    let isolation = cell.isolation().await;
    if isolation == Isolation::ProcessGroup {
        // Nobody can know of it, and that is what is reported.
        cell.wait_for_count(TaskState::Done, 4).await;
        log.starts().iter().for_each(|&(_, pid)| kill(pid));
        return;
    }
    let status = cell.wait_for_count(TaskState::Running, 3).await;
    assert_eq!(status.counts.get(&TaskState::Done), None, "they have left something");
    log.starts().iter().for_each(|&(_, pid)| kill(pid));
    wait_until("the last start", || log.starts().len() == 4).await;
    log.starts().iter().for_each(|&(_, pid)| kill(pid));
    cell.wait_for_count(TaskState::Done, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_opens_files_by_numbers_keeps_its_status() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    // As for flock(1). The numbers that a script uses itself are what it must not be told by.
    let task = cell.script(
        "task",
        r#"exec 3>>"$0.lock" 4>>"$0.lock" 5>>"$0.lock" 6>>"$0.lock" 7>>"$0.lock" 8>>"$0.lock" 9>>"$0.lock"
        echo done > "$2""#,
    );
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &task);
    cell.wait_for_count(TaskState::Done, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_is_of_its_workers_build_although_the_program_was_replaced() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let other = std::path::PathBuf::from(cell.script("other", "exit 1"));
    let program = other.with_file_name("bistro");
    std::fs::copy(bistro(), &program).expect("it can be copied");
    let command = cell.worker_command("w1", &log.0);
    let mut copied = std::process::Command::new(&program);
    copied.args(command.get_args());
    copied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let worker = Process::spawn(copied);
    wait_until("three starts", || log.starts().len() == 3).await;
    std::fs::rename(&other, &program).expect("it can be replaced");
    children_of(worker.pid(), "guard").into_iter().for_each(kill);
    wait_until("the next guard's starts", || log.starts().len() == 6).await;
}

fn kill(pid: i32) {
    // It may have ended.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_does_not_say_for_whom_is_the_shells_and_a_program_that_is_not_there_is_said()
{
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let script = cell.script("task", "");
    std::fs::write(&script, "echo done > \"$2\"\n").expect("the script can be written");
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &script);
    cell.wait_for_count(TaskState::Done, 4).await;
    worker.kill();
    cell.write_config(&CONFIG.replace("bistro_job->job", "bistro_job->other"));
    let _worker = cell.spawn_worker("w1", "/is/not/there");
    cell.wait_for_count(TaskState::Backoff, 4).await;
    let tasks = cell.cli(&["tasks", "--filter", "job=other", "-o", "json"]).await.expect("tasks");
    assert!(tasks.concat().contains("No such file or directory"), "{tasks:?}");
}
