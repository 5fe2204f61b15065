//! Messages that come when what they say is over. Each was found by the simulation.

use super::*;
use bistro_common::protocol::task::OpenAttempt;

const ONE_JOB: &str = r#""bistro_job->a": {"owner": "o"}"#;

fn opened(assignment: &Assignment) -> OpenAttempt {
    (*assignment.open).clone()
}

/// A heartbeat of `w1` that lists what it runs.
fn listing(cell: &Cell, open: Vec<OpenAttempt>, epoch_seen: u64) -> Heartbeat {
    let heartbeat = heartbeat("w1", 1, &cell.core);
    Heartbeat { open_attempts: Some(open), epoch_seen: Epoch(epoch_seen), ..heartbeat }
}

#[test]
fn a_list_of_open_attempts_that_comes_late_brings_nothing_back() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    cell.done(vec![result(&running[0], Some("done"))]);
    let before = cell.core.counts();
    let late = listing(&cell, vec![opened(&running[0])], 1);
    cell.step(Input::Heartbeat { token: 9, heartbeat: Box::new(late) });
    assert_eq!(cell.core.counts(), before, "it has ended in this reign");

    let inherited = opened(&running[1]);
    cell.restart();
    cell.heartbeat("w1", 1);
    cell.done(vec![result(&running[1], Some("done"))]);
    let before = cell.core.counts();
    let late = listing(&cell, vec![inherited], 2);
    cell.step(Input::Heartbeat { token: 9, heartbeat: Box::new(late) });
    assert_eq!(cell.core.counts(), before, "it was of the reign before, and has ended in this");
}

#[test]
fn a_list_that_another_reign_asked_for_is_not_believed() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    cell.done(vec![result(&running[0], Some("done"))]);
    cell.restart();
    cell.heartbeat("w1", 1);
    let before = cell.core.counts();
    let late = listing(&cell, vec![opened(&running[0])], 1);
    cell.step(Input::Heartbeat { token: 9, heartbeat: Box::new(late) });
    assert_eq!(cell.core.counts(), before);
    let asked_again = cell.effects().into_iter().any(|effect| match effect {
        Effect::Reply { token: 9, reply } => {
            matches!(reply.answer, HeartbeatAnswer::Lease { full_sync: true, .. })
        }
        _ => false,
    });
    assert!(asked_again, "what it runs must be known soon");
}

#[test]
fn a_late_result_of_a_lost_attempt_does_not_replace_that_of_its_successor() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    cell.heartbeat("w1", 1);
    let lost = cell.assigned();
    cell.advance(LeaseTerms::DEVELOPMENT.scheduler_end(0));
    cell.advance(60_000);
    cell.heartbeat("w2", 2);
    let again = cell.assigned();
    assert_eq!(again.len(), 1, "it runs again");
    // The store knows that the first was lost, and that the second is open.
    cell.restart_without_plan();
    cell.done(vec![result(&again[0], Some("done"))]);
    cell.done(vec![result(&lost[0], Some("incomplete"))]);
    cell.replan();
    assert_eq!(cell.core.counts().get(&TaskState::Done), Some(&1), "{:?}", cell.core.counts());
}

/// A clock that is set back takes nodes away that were made for a time, and brings them again.
#[test]
fn a_task_that_is_done_is_not_run_again_when_its_node_goes_and_comes_back() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 2));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    cell.done(running.iter().map(|assignment| result(assignment, Some("done"))).collect());
    assert_eq!(cell.states()[&TaskState::Done], 2);
    for databases in [1, 2] {
        cell.plan.1 = forest(1, databases);
        cell.replan();
        assert_eq!(cell.assigned(), []);
        assert_eq!(cell.states()[&TaskState::Done], databases as u64);
    }
}
