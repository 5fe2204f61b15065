//! Workers that die with their guards, come back at once, or under a name that is not theirs.

use nix::sys::signal::Signal;

use bistro_common::lease::LeaseTerms;
use bistro_tests::waiting::{CONFIG, Log, all_done_once, waiting_cell};
use bistro_tests::{Cell, Process, children_of, is_running, wait_until};

/// Both are stopped first, so that neither sees the other go.
fn kill_with_guard(worker: Process) {
    let guards = children_of(worker.pid(), "guard");
    assert_eq!(guards.len(), 1);
    let signal = |pid: i32, signal| {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, signal).expect("the process exists");
    };
    worker.signal(Signal::SIGSTOP);
    signal(guards[0], Signal::SIGSTOP);
    signal(guards[0], Signal::SIGKILL);
    worker.kill();
}

/// A task that has left its session, so that nothing tells it of the death of its guard.
#[tokio::test(flavor = "multi_thread")]
async fn g2_what_outlives_a_worker_and_its_guard_is_ended_before_anything_starts() {
    let cell = Cell::new().await;
    cell.write_config(CONFIG);
    let log = Log(cell.script(
        "task",
        r#"setsid sh -c 'echo "start $1 $$" >> "$0.log"; exec sleep 600' "$0" "$1" \
            > /dev/null 2>&1 < /dev/null &
        sleep 600"#,
    ));
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    kill_with_guard(worker);
    assert_eq!(log.running(), 3, "nobody is left who could end them");
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("a start", || {
        let starts = log.starts();
        assert!(log.running() <= 3, "never more than the limit: {starts:?}");
        starts.len() > 3
    })
    .await;
    assert!(log.starts()[..3].iter().all(|(_, pid)| !is_running(*pid)), "they were ended before");
    worker.signal(Signal::SIGTERM);
    wait_until("the others to be ended", || log.running() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_waits_for_no_lease_however_long() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::PRODUCTION;
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    kill_with_guard(worker);
    let _worker = cell.spawn_worker("w1", &log.0);
    // Minutes before the lease is over.
    wait_until("three more starts", || log.starts().len() == 6).await;
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused_until_its_lease_is_over() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(6_000);
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let other_disk = || cell.worker_command_on("another-disk", "w1", &log.0);
    let (code, said) = cell.run_to_end(other_disk()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the name w1 is taken"), "{said}");
    assert_eq!(log.running(), 3, "the one who has it goes on");
    worker.kill();
    // Nobody but its guard knows that its tasks are dead.
    let (code, said) = cell.run_to_end(other_disk()).await;
    assert_eq!(code, Some(1), "{said}");
    cell.wait_for("its lease to be over", |status| {
        status.counts.get(&bistro_common::protocol::api::TaskState::Running).is_none_or(|&n| n == 0)
    })
    .await;
    let _second = Process::spawn(other_disk());
    wait_until("three more starts", || log.starts().len() == 6).await;
    all_done_once(&cell, &log).await;
}
