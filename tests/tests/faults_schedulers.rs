//! Schedulers that are away too long, come twice, or come back with what they knew before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_tests::waiting::{all_done_once, waiting_cell};
use bistro_tests::{Cell, Process, copy_directory, is_running, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_scheduler_that_is_away_longer_than_the_lease_finds_its_tasks_ended() {
    let (mut cell, log) = waiting_cell().await;
    cell.terms = LeaseTerms::for_lease(2_000);
    let scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    scheduler.kill();
    wait_until("the lease to end them", || log.running() == 0).await;
    assert_eq!(log.starts().len(), 3, "nothing starts without a scheduler");
    let _scheduler = cell.spawn_scheduler();
    wait_until("three more starts", || log.starts().len() == 6).await;
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_scheduler_on_the_same_data_directory_ends_and_says_why() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let second = cell.scheduler_command(&cell.scheduler_directory());
    let (code, said) = cell.run_to_end(second).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is in use by another scheduler"), "{said}");
    all_done_once(&cell, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_of_two_schedulers_on_copied_data_the_second_ends_and_says_why() {
    let (cell, log) = waiting_cell().await;
    let scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    scheduler.kill();
    let copy = cell.directory.path().join("copy");
    copy_directory(&cell.scheduler_directory(), &copy);
    // Both have the next epoch.
    let _scheduler = cell.spawn_scheduler();
    cell.wait_for_count(TaskState::Running, 3).await;
    let (code, said) = cell.run_to_end(cell.scheduler_command(&copy)).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("reigns in this cell, too, with the same epoch 2"), "{said}");
    assert_eq!((log.starts().len(), log.running()), (3, 3), "nothing was started or ended");
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_came_before_is_told_that_another_reigns_and_ends() {
    let (cell, log) = waiting_cell().await;
    let (store, copy) = (cell.scheduler_directory(), cell.directory.path().join("copy"));
    copy_of_the_store(&cell, &copy).await;
    let before = cell.scheduler_command(&store);
    let cell = Arc::new(cell);
    let ended = tokio::spawn({
        let cell = cell.clone();
        async move { cell.run_to_end(before).await }
    });
    let _worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let (code, said) = cell.run_to_end(cell.scheduler_command(&copy)).await;
    assert_eq!(code, Some(1), "{said}");
    let unknown = cell.count_events("attempt.unknown").await;
    // Its next epoch is above that of the other.
    let _later = Process::spawn(cell.scheduler_command(&copy));
    let (code, said) = ended.await.expect("no panic");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("reigns in this cell since after this one"), "{said}");
    wait_until("what runs to be adopted", || unknown.load(Ordering::Relaxed) == 3).await;
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

/// What a scheduler that has begun and ended leaves on the disk, before it has any worker.
async fn copy_of_the_store(cell: &Cell, copy: &std::path::Path) {
    let scheduler = cell.spawn_scheduler();
    cell.status().await;
    scheduler.kill();
    copy_directory(&cell.scheduler_directory(), copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_the_name_of_the_cell_takes_no_worker_down() {
    let (cell, log) = waiting_cell().await;
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", &log.0);
    wait_until("three starts", || log.starts().len() == 3).await;
    let foreign = cell.count_events("scheduler.foreign").await;
    let fresh = cell.directory.path().join("stranger");
    let stranger = Process::spawn(cell.scheduler_command(&fresh));
    wait_until("somebody to say so", || foreign.load(Ordering::Relaxed) > 0).await;
    // It answers each of them, too.
    let heartbeats = cell.count(&cell.name().heartbeats()).await;
    wait_until("a few heartbeats", || heartbeats.load(Ordering::Relaxed) >= 4).await;
    assert!(is_running(worker.pid()));
    assert_eq!((log.starts().len(), log.running()), (3, 3), "its tasks go on");
    stranger.kill();
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_put_back_finds_what_runs_and_starts_nothing_twice() {
    let (cell, log) = waiting_cell().await;
    let (store, copy) = (cell.scheduler_directory(), cell.directory.path().join("copy"));
    copy_of_the_store(&cell, &copy).await;
    let scheduler = cell.spawn_scheduler();
    let _worker = cell.spawn_worker("w1", &log.0);
    cell.wait_for_count(TaskState::Running, 3).await;
    wait_until("three starts", || log.starts().len() == 3).await;
    scheduler.kill();
    std::fs::remove_dir_all(&store).expect("there is a store");
    copy_directory(&copy, &store);
    let unknown = cell.count_events("attempt.unknown").await;
    // It has an epoch that a worker knows of another: it says so, and the next start is above it.
    let (code, said) = cell.run_to_end(cell.scheduler_command(&store)).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("with the same epoch"), "{said}");
    let _scheduler = cell.spawn_scheduler();
    cell.wait_for_count(TaskState::Running, 3).await;
    wait_until("it to be told", || unknown.load(Ordering::Relaxed) == 3).await;
    assert_eq!((log.starts().len(), log.running()), (3, 3), "nothing was started or ended");
    all_done_once(&cell, &log).await;
    assert_eq!(log.starts().len(), 4, "each task was started once");
}
