//! Other schedulers, stores that were put back, and what a crash leaves between disk and wire.

use super::*;
use bistro_common::protocol::heartbeat::SchedulerBeacon;

const ONE_JOB: &str = r#""bistro_job->a": {"owner": "o"}"#;

fn identity(cell: u8, scheduler: u64, epoch: u64) -> Identity {
    Identity {
        cell: CellId::from_parts(cell.into(), [cell; 10]),
        scheduler: SchedulerId::from_parts(scheduler, [2; 10]),
        epoch: Epoch(epoch),
    }
}

/// The heartbeat of a worker that follows this scheduler.
fn follower(cell: &Cell, of: Identity) -> Heartbeat {
    Heartbeat {
        cell: Some(of.cell),
        epoch_seen: of.epoch,
        scheduler_seen: Some(of.scheduler),
        ..heartbeat("w1", 1, &cell.core)
    }
}

#[test]
fn a_scheduler_learns_of_its_twin_and_of_its_successor_from_heartbeats() {
    let cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    let ours = identity(1, 5, 5);
    let twin = Rival::Twin { scheduler: identity(1, 6, 5).scheduler, epoch: Epoch(5) };
    let heard = |of| ours.deposed_by(&follower(&cell, of));
    assert_eq!(heard(ours), None);
    assert_eq!(heard(identity(1, 6, 5)), Some(twin));
    assert_eq!(heard(identity(1, 6, 6)), Some(Rival::Later { epoch: Epoch(6) }));
    assert_eq!(heard(identity(1, 6, 4)), None, "that worker has not heard of us yet");
    assert_eq!(heard(identity(9, 6, 9)), None, "a worker of another cell is just refused");
    let old = Heartbeat { scheduler_seen: None, ..follower(&cell, identity(1, 6, 5)) };
    assert_eq!(ours.deposed_by(&old), None, "a worker of before does not say whom it follows");
    let new = Heartbeat { cell: None, ..follower(&cell, identity(1, 6, 9)) };
    assert_eq!(ours.deposed_by(&new), None);
}

#[test]
fn a_beacon_tells_what_another_scheduler_is() {
    let ours = identity(1, 5, 5);
    let heard = |of: Identity| {
        let Identity { cell, scheduler, epoch } = of;
        ours.rival(&SchedulerBeacon { v: VERSION, cell, scheduler, epoch })
    };
    assert_eq!(heard(ours), None);
    assert_eq!(heard(identity(1, 4, 4)), Some(Rival::Former));
    assert_eq!(heard(identity(1, 6, 6)), Some(Rival::Later { epoch: Epoch(6) }));
    let foreign = identity(9, 5, 5);
    assert_eq!(heard(foreign), Some(Rival::Foreign { cell: foreign.cell }));
    let twin = identity(1, 6, 5);
    let rival = heard(twin).expect("it is another");
    let said = rival.to_string();
    assert!(said.contains(&twin.scheduler.to_string()), "{said}");
}

#[test]
fn assignments_are_numbered_above_the_floor_that_a_heartbeat_names() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    let floor = Seq((1 << 40) + 77);
    let beat = Heartbeat { floor, ..heartbeat("w1", 1, &cell.core) };
    cell.step(Input::Heartbeat { token: 7, heartbeat: Box::new(beat) });
    let assigned = cell.assigned();
    assert!(assigned[0].seq > floor, "{:?}", assigned[0].seq);
    // What no scheduler has set must do no harm.
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    let beat = Heartbeat { floor: Seq(u64::MAX), ..heartbeat("w1", 1, &cell.core) };
    cell.step(Input::Heartbeat { token: 7, heartbeat: Box::new(beat) });
    assert_eq!(cell.assigned().len(), 1);
}

#[test]
fn an_attempt_that_was_recorded_and_never_sent_is_made_again_with_the_next_number() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    cell.heartbeat("w1", 1);
    // It is on the disk, and the process dies before the message leaves.
    let unsent = cell.assigned().remove(0);
    cell.restart();
    assert_eq!(cell.states()[&TaskState::Unsure], 1);
    cell.heartbeat("w1", 1);
    let asked = cell.effects().into_iter().find_map(|effect| match effect {
        Effect::Control { control, .. } => match control.order {
            Order::Probe { attempts, .. } => Some(attempts),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(asked, Some(vec![unsent.open.attempt]));
    let reply = Some(vec![Probed { attempt: unsent.open.attempt, fate: Fate::NeverStarted }]);
    cell.step(Input::ProbeReply { worker: name("w1"), incarnation: inc(1), reply });
    let again = cell.assigned().remove(0);
    assert_eq!((unsent.open.attempt_no, again.open.attempt_no), (1, 2));
    assert!(again.seq > unsent.seq, "a copy of the first that turns up is below the floor");
}

#[test]
fn a_result_that_was_applied_and_not_acknowledged_changes_nothing_when_it_comes_again() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 2));
    cell.heartbeat("w1", 1);
    let attempts = cell.assigned();
    cell.done(vec![result(&attempts[0], Some("done"))]);
    cell.restart();
    let (before, stored) = (cell.core.counts(), cell.store.len());
    cell.done(vec![result(&attempts[0], Some("done"))]);
    assert_eq!((cell.core.counts(), cell.store.len()), (before, stored));
    let acked = cell.effects().iter().any(|e| matches!(e, Effect::AckDone { token: 1 }));
    assert!(acked, "or it would come for ever");
    let owes =
        Heartbeat { unsettled: vec![attempts[0].open.attempt], ..heartbeat("w1", 1, &cell.core) };
    cell.step(Input::Heartbeat { token: 8, heartbeat: Box::new(owes) });
    let settled = cell.effects().into_iter().find_map(|effect| match effect {
        Effect::Reply { token: 8, reply } => match reply.answer {
            HeartbeatAnswer::Lease { settled, .. } => Some(settled),
            HeartbeatAnswer::Refused { .. } => None,
        },
        _ => None,
    });
    assert_eq!(settled, Some(vec![attempts[0].open.attempt]));
}

#[test]
fn a_worker_on_a_host_that_was_booted_again_says_so_and_waits_for_no_lease() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    cell.reply("w1", 1, &[attempt.open.attempt], &AssignAnswer::Accepted);
    cell.effects();
    let booted = Heartbeat { boot: "another".to_owned(), ..heartbeat("w1", 2, &cell.core) };
    cell.step(Input::Heartbeat { token: 7, heartbeat: Box::new(booted) });
    let effects = cell.effects();
    let said = effects.iter().find_map(|effect| match effect {
        Effect::Publish(event) if event.kind == "worker.restarted" => Some(event.text.clone()),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("on h0, which was booted again"));
    let probed = effects.iter().any(|effect| matches!(effect, Effect::Control { .. }));
    assert!(probed, "what it ran is settled at once: {effects:?}");
}

#[test]
fn a_worker_that_runs_what_the_store_does_not_know_is_given_nothing_until_it_has_said_what() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 1));
    cell.heartbeat("w1", 1);
    let running = cell.assigned().remove(0);
    // The store is put back to what it was before.
    cell.store.clear();
    cell.restart();
    let open = [running.open.attempt].into_iter().collect();
    let beat = |cell: &Cell, open_attempts| Heartbeat {
        open,
        open_attempts,
        epoch_seen: Epoch(cell.epoch),
        ..heartbeat("w1", 1, &cell.core)
    };
    let first = Box::new(beat(&cell, None));
    cell.step(Input::Heartbeat { token: 7, heartbeat: first });
    assert_eq!(cell.assigned(), [], "it may be running that very task");
    let listing = Box::new(beat(&cell, Some(vec![(*running.open).clone()])));
    cell.step(Input::Heartbeat { token: 8, heartbeat: listing });
    let told = cell
        .effects()
        .into_iter()
        .any(|effect| matches!(effect, Effect::Publish(event) if event.kind == "attempt.unknown"));
    assert!(told && cell.states()[&TaskState::Running] == 1, "{:?}", cell.states());
    cell.done(vec![result(&running, Some("done"))]);
    assert_eq!(cell.states()[&TaskState::Done], 1, "its result counts");
}
