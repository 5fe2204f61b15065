//! Several schedulers of one cell: one reigns, and another takes over when it is gone, stopped or cut
//! off.

use async_nats::jetstream;
use nix::sys::signal::Signal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bistro_common::ids::Epoch;
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_tests::proxy::{Fault, Proxy};
use bistro_tests::standbys::{command, wait_for_followers};
use bistro_tests::waiting::{Log, all_done_once, waiting_cell};
use bistro_tests::{Cell, Process, is_running, set_disk_full, wait_until, without_xfsz};

/// A cell with one scheduler that reigns, and one that stands by and has all of its records.
async fn pair() -> (Cell, Log, Process, Process) {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(15_000);
    let first = Process::spawn(command(&cell, "a"));
    cell.status().await;
    let second = Process::spawn(command(&cell, "b"));
    wait_for_followers(&cell, 1).await;
    (cell, log, first, second)
}

async fn wait_for_reign_after(cell: &Cell, epoch: Epoch) -> Epoch {
    cell.wait_for("another to reign", |status| status.epoch > epoch).await.epoch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_goes_on_where_a_killed_scheduler_was() {
    let (cell, log, first, _second) = pair().await;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let node = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{node}", log.0), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    wait_until("the fourth start", || log.starts().len() == 4).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let epoch = cell.status().await.epoch;
    first.kill();
    wait_for_reign_after(&cell, epoch).await;
    let status = cell.wait_for_count(TaskState::Running, 3).await;
    assert_eq!(status.counts.get(&TaskState::Done), Some(&1), "what is done stays done");
    assert_eq!(log.running(), 3, "running tasks go on");
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_standby_takes_over_from_a_scheduler_that_is_stopped_and_that_one_stands_by() {
    let (cell, log, first, second) = pair().await;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let epoch = cell.status().await.epoch;
    first.signal(Signal::SIGSTOP);
    let epoch = wait_for_reign_after(&cell, epoch).await;
    first.signal(Signal::SIGCONT);
    wait_for_followers(&cell, 1).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    assert_eq!((log.starts().len(), log.running()), (3, 3), "nothing was started or ended");
    // It has what was recorded meanwhile, and is there when it is needed again.
    let node = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{node}", log.0), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    wait_until("the fourth start", || log.starts().len() == 4).await;
    second.kill();
    wait_for_reign_after(&cell, epoch).await;
    assert!(is_running(first.pid()));
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_told_to_end_hands_over_at_once() {
    let (cell, log, mut first, _second) = pair().await;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let epoch = cell.status().await.epoch;
    first.signal(Signal::SIGTERM);
    wait_until("it to end", || first.ended().is_some_and(|status| status.success())).await;
    wait_for_reign_after(&cell, epoch).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_starts_again_on_its_disk_waits_for_nobody() {
    let (mut cell, log) = waiting_cell().await;
    // Longer than anything here is waited for.
    cell.terms = LeaseTerms::for_lease(600_000);
    let patient = || {
        let mut command = cell.scheduler_command(&cell.directory.path().join("a"));
        command.args(["--with-standbys", "--takeover-sec", "300"]);
        Process::spawn(command)
    };
    // The cell begins with one that is not.
    let first = Process::spawn(command(&cell, "a"));
    cell.status().await;
    first.kill();
    let first = patient();
    let epoch = cell.status().await.epoch;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    first.kill();
    let _second = patient();
    wait_for_reign_after(&cell, epoch).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_whose_disk_is_full_hands_over_and_ends() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(15_000);
    let mut first = Process::spawn(without_xfsz(&command(&cell, "a")));
    let epoch = cell.status().await.epoch;
    let _second = Process::spawn(command(&cell, "b"));
    wait_for_followers(&cell, 1).await;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    set_disk_full(first.pid(), true);
    // What is to be recorded next has no room.
    let node = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{node}", log.0), "").expect("a file can be written");
    wait_until("it to end", || first.ended().is_some_and(|status| status.code() == Some(1))).await;
    wait_for_reign_after(&cell, epoch).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

/// What the stream does not have any more, and what it has lost, comes from the store of the one that
/// reigns.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_records_copies_them_and_takes_over() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(15_000);
    let first = Process::spawn(command(&cell, "a"));
    let epoch = cell.status().await.epoch;
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let node = log.starts().remove(0).0;
    std::fs::write(format!("{}.go-{node}", log.0), "").expect("a file can be written");
    cell.wait_for_count(TaskState::Done, 1).await;
    wait_until("the fourth start", || log.starts().len() == 4).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let job = cell.directory.path().join("more.json");
    std::fs::write(&job, r#"{"owner": "me", "enabled": false}"#).expect("a file can be written");
    let job = job.to_str().expect("a path of ours");
    cell.cli(&["job", "create", "more", job]).await.expect("a job is made");
    let second = Process::spawn(command(&cell, "b"));
    wait_for_followers(&cell, 1).await;
    first.kill();
    let epoch = wait_for_reign_after(&cell, epoch).await;
    let jobs = cell.cli(&["jobs"]).await.expect("the jobs").join("\n");
    assert!(jobs.contains("more"), "{jobs}");
    let status = cell.wait_for_count(TaskState::Running, 3).await;
    assert_eq!(status.counts.get(&TaskState::Done), Some(&1), "what is done stays done");
    // The other way round: the first comes back with records of before, or none.
    std::fs::remove_dir_all(cell.directory.path().join("a")).expect("there is a store");
    let _first = Process::spawn(command(&cell, "a"));
    wait_for_followers(&cell, 1).await;
    second.kill();
    wait_for_reign_after(&cell, epoch).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_lost_is_found_and_the_reign_goes_on() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(30_000);
    let proxy = Proxy::start(cell.nats.address()).await;
    let mut command = cell.scheduler_command(&cell.directory.path().join("a"));
    command.args(["--with-standbys", "--takeover-sec", "6"]);
    command.env("BISTRO_NATS_URL", proxy.url());
    let _scheduler = Process::spawn(command);
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let epoch = cell.status().await.epoch;
    // After a good quarter of that it says that it still reigns, and after another third again.
    proxy.set(Fault { in_cut: true, ..Fault::default() });
    tokio::time::sleep(Duration::from_millis(4_200)).await;
    proxy.set(Fault::default());
    all_done_once(&cell, &log).await;
    assert_eq!(cell.status().await.epoch, epoch);
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

/// The stream is what elects: it may lose its end, or be lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_election_that_goes_back_makes_no_worker_step_down() {
    let (mut cell, log, _first, _second) = pair().await;
    let before = cell.status().await.epoch;
    cell.nats.kill();
    let copy = cell.nats.save();
    cell.nats.restart();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    let unknown = cell.count_events("attempt.unknown").await;
    // What only one of them has cannot outlive the end of the stream.
    wait_for_followers(&cell, 1).await;
    cell.nats.kill();
    cell.nats.put_back(&copy);
    cell.nats.restart();
    let epoch = wait_for_reign_after(&cell, before).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    // And once more, with nothing left of it.
    wait_for_followers(&cell, 1).await;
    let context = jetstream::new(cell.connect("test").await.client().clone());
    context.delete_stream(cell.name().records_stream()).await.expect("there is a stream");
    wait_for_reign_after(&cell, epoch).await;
    cell.wait_for_count(TaskState::Running, 3).await;
    assert_eq!((log.starts().len(), log.running()), (3, 3), "nothing was started or ended");
    assert_eq!(unknown.load(Ordering::Relaxed), 0, "all of it was known");
    wait_for_followers(&cell, 1).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_on_with_the_records_of_one_that_has_gone_on_alone() {
    let (cell, log, mut first, mut second) = pair().await;
    for scheduler in [&mut second, &mut first] {
        scheduler.signal(Signal::SIGTERM);
        wait_until("it to end", || scheduler.ended().is_some()).await;
    }
    let alone = cell.scheduler_command(&cell.directory.path().join("a"));
    let _alone = Process::spawn(alone);
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let epoch = cell.status().await.epoch;
    let said = cell.directory.path().join("said");
    let mut late = command(&cell, "b");
    late.stderr(std::fs::File::create(&said).expect("a file can be made"));
    let _late = Process::spawn(late);
    wait_until("it to say why not", || {
        std::fs::read_to_string(&said).is_ok_and(|said| said.contains("that could be copied"))
    })
    .await;
    all_done_once(&cell, &log).await;
    let status = cell.status().await;
    assert_eq!((status.epoch, status.standbys), (epoch, None));
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_records_of_its_own_is_not_overwritten() {
    let (mut cell, _log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(15_000);
    let alone = Process::spawn(cell.scheduler_command(&cell.directory.path().join("b")));
    cell.status().await;
    alone.kill();
    let _first = Process::spawn(command(&cell, "a"));
    cell.status().await;
    let (code, said) = cell.run_to_end(command(&cell, "b")).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("start with an empty data directory"), "{said}");
}
