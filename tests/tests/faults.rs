//! Processes are killed and stopped, as they are in real life. What happened is read from files
//! that the tasks wrote, not from our own records.

use nix::sys::signal::Signal;

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::{Listing, TaskRow, TaskState, TasksRequest, verb};
use bistro_common::protocol::heartbeat::Isolation;
use bistro_common::protocol::log::{Direction, LineId, LogRead, Stream};
use bistro_common::protocol::task::KillMethod;
use bistro_tests::waiting::{CONFIG, Log, all_done_once, waiting_cell};
use bistro_tests::{Cell, Process, children_of, is_running, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_scheduler_goes_on_where_it_was() {
    let (cell, log) = waiting_cell().await;
    let scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    cell.wait_for_count(TaskState::Running, 3).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    let first = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{first}", log.0), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    wait_until("the fourth start", || log.starts().len() == 4).await;
    let epoch = cell.status().await.epoch;
    scheduler.kill();
    let _scheduler = cell.spawn_scheduler();
    let status = cell.wait_for_count(TaskState::Running, 3).await;
    assert!(status.epoch > epoch);
    assert_eq!(status.counts.get(&TaskState::Done), Some(&1), "what is done stays done");
    assert_eq!(log.running(), 3, "running tasks go on");
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nats_server_costs_nothing_but_time() {
    let (mut cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    cell.wait_for_count(TaskState::Running, 3).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    cell.nats.kill();
    // They end while nobody can be told.
    log.go();
    wait_until("three ends", || log.ends() == 3).await;
    cell.nats.restart();
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_killed_worker_takes_its_tasks_with_it_and_they_run_again() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    worker.kill();
    wait_until("the guard to kill them", || log.running() == 0).await;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three more starts", || log.starts().len() == 6).await;
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g4_a_stopped_worker_loses_its_tasks_with_its_lease_and_another_runs_them() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(2_000);
    let _scheduler = cell.spawn_scheduler();
    let stopped = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    stopped.signal(Signal::SIGSTOP);
    let _other = cell.spawn_worker("w2", &log.0);
    wait_until("its tasks to start elsewhere", || {
        let running = log.running();
        assert!(running <= 3, "never more than the limit: {:?}", log.lines());
        log.starts().len() >= 6
    })
    .await;
    let first = &log.starts()[..3];
    assert!(first.iter().all(|(_, pid)| !is_running(*pid)), "dead before they started elsewhere");
    stopped.signal(Signal::SIGCONT);
    cell.wait_for("it to come back", |status| status.workers_healthy == 2).await;
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_killed_guard_takes_its_tasks_with_it_and_they_run_again() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let first = log.starts();
    let guards = children_of(worker.pid(), "guard");
    assert_eq!(guards.len(), 1);
    let guard = nix::unistd::Pid::from_raw(guards[0]);
    nix::sys::signal::kill(guard, Signal::SIGKILL).expect("the guard exists");
    wait_until("three more starts", || log.starts().len() == 6).await;
    assert!(first.iter().all(|(_, pid)| !is_running(*pid)), "dead before they started again");
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_leaves_behind_keeps_it_running_and_is_killed_with_it() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    // A daemon of its own session that holds none of the three streams, only the canary pipe.
    let log = Log(cell.script(
        "task",
        r#"setsid sh -c 'echo "start $1 $$" >> "$0.log"; exec sleep 600' "$0" "$1" \
            > /dev/null 2>&1 < /dev/null &
        echo done > "$2""#,
    ));
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    assert_eq!(cell.status().await.counts.get(&TaskState::Running), Some(&3));
    worker.signal(Signal::SIGTERM);
    wait_until("the daemons to be killed", || log.running() == 0).await;
}

/// Tried out, without regard to what the worker thinks.
fn cgroups_can_be_made() -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let (Some(mount), Some(own)) = (mount.and_then(|line| line.split(' ').nth(1)), own) else {
        return false;
    };
    let probe = std::path::Path::new(mount).join(own).join(format!("probe-{}", std::process::id()));
    let made = std::fs::create_dir(&probe).is_ok() && probe.join("cgroup.kill").exists();
    // It may not be there.
    let _ = std::fs::remove_dir(&probe);
    made
}

/// A process that nothing leads to any more, except its cgroup: another session, a scrubbed
/// environment, and its parents are gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_hides_from_its_guard_is_killed_with_it_where_there_are_cgroups() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let log = Log(cell.script(
        "task",
        r#"(env -i setsid sh -c 'echo "start $1 $$" >> "$0.log"; exec sleep 600' "$0" "$1" &) &
        sleep 600"#,
    ));
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let isolation = cell.isolation().await;
    let expected = if cgroups_can_be_made() { Isolation::Cgroup } else { Isolation::ProcessGroup };
    assert_eq!(isolation, expected);
    let tasks: Listing<TaskRow> =
        cell.ask(verb::TASKS, &TasksRequest::default()).await.expect("the tasks");
    let task = tasks.items.iter().find(|task| task.running.is_some()).expect("three of them run");
    let running = task.running.as_ref().expect("it was just looked at");
    let starts = log.starts();
    let (_, hidden) = starts.iter().find(|(node, _)| *node == task.node).expect("it has started");
    cell.kill(running.attempt, KillMethod::Kill, 0).await;
    match isolation {
        Isolation::Cgroup => wait_until("its hidden part to end", || !is_running(*hidden)).await,
        // Nothing finds it before the lease or the worker ends, and that is what is reported.
        Isolation::ProcessGroup => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_nothing_of_its_workers_environment_but_what_is_passed() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    // As a whole, since several tasks say it.
    let says = r#"(env; grep NoNewPrivs /proc/self/status) > "$0.$1"; mv "$0.$1" "$0.env""#;
    let task = cell.script("task", says);
    let _scheduler = cell.spawn_scheduler();
    let mut worker = cell.worker_command("w1", &task);
    worker.args(["--pass-env", "PASSED,ALSO"]);
    worker.envs([("PASSED", "yes"), ("SECRET", "token"), ("LC_ALL", "C")]);
    let _worker = Process::spawn(worker);
    let written = || std::fs::read_to_string(format!("{task}.env")).unwrap_or_default();
    wait_until("the task to say", || written().contains("NoNewPrivs")).await;
    let said = written();
    for there in ["PASSED=yes", "LC_ALL=C", "PATH=", "BISTRO_NODE=", "NoNewPrivs:\t1"] {
        assert!(said.contains(there), "{there} is not in {said}");
    }
    for absent in ["SECRET", "BISTRO_NATS_URL"] {
        assert!(!said.contains(absent), "{absent} is in {said}");
    }
}

/// A limit on the size of files stands for a disk that is full, and then is not any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_while_its_log_cannot_be_written_and_what_is_missing_is_counted() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    const LINES: u64 = 60_000;
    let cell = Cell::new().await;
    cell.write_config(&CONFIG.replace(r#""n1": [], "n2": [], "n3": [], "n4": []"#, r#""n1": []"#));
    // Five million bytes, and one line more when there is room again.
    let prints = format!(
        r#"yes "$(printf %80s x)" | head -n {LINES}; : > "$0.printed"
           while [ ! -e "$0.go" ]; do sleep 0.05; done
           echo at last; echo done > "$2""#
    );
    let script = cell.script("task", &prints);
    cell.start_scheduler().await;
    let worker = cell.worker_command("w1", &script);
    let mut limited = std::process::Command::new("sh");
    // 3 MB, in units of 512 bytes; without the signal that goes with it.
    limited.args(["-c", r#"trap "" XFSZ; ulimit -S -f 6000; exec "$@""#, "sh"]);
    limited.arg(worker.get_program()).args(worker.get_args());
    limited.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let worker = Process::spawn(limited);
    let exists = |path: String| std::fs::exists(path).unwrap_or(false);
    wait_until("all is printed", || exists(format!("{script}.printed"))).await;
    let no_limit = Rlimit { current: None, maximum: None };
    prlimit(Pid::from_raw(worker.pid()), Resource::Fsize, no_limit).expect("a process of ours");
    std::fs::write(format!("{script}.go"), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    let (mut from, mut kept, mut missing) = (LineId::MIN, 0, 0);
    loop {
        let request = LogRead::page(from, Direction::Ascending, 5_000);
        let streams = vec![Stream::Stdout];
        let page = cell.logs("w1", &LogRead { streams, ..request }).await;
        assert_eq!(page.error, None);
        kept += page.lines.iter().filter(|line| line.stream == Stream::Stdout).count() as u64;
        missing += page.lines.iter().map(|line| line.dropped).sum::<u64>();
        if page.at_end {
            assert_eq!(page.lines.last().map(|line| &*line.text), Some("at last"));
            break;
        }
        from = page.next.expect("a page that goes up has a next one");
    }
    assert!(missing > 0 && kept > 10_000, "{kept} are kept, {missing} are missing");
    assert_eq!(kept + missing, LINES + 1);
}
