//! Workers that are drained, resumed and forgotten.

use super::*;
use crate::UNTOLD_MAX;
use bistro_common::protocol::api::{ErrorCode, WorkerDrainRequest, WorkerForgetRequest};
use bistro_common::protocol::job::Audit;

const ONE_JOB: &str = r#""bistro_job->a": {"owner": "o"}"#;

fn drain(cell: &mut Cell, worker: &str, on: bool) -> Result<u64, ErrorCode> {
    let request = WorkerDrainRequest { worker: worker.to_owned(), on, audit: Audit::default() };
    let now = cell.now;
    let reply = cell.apply(|core, out| core.worker_drain(now, &request, out));
    reply.map(|reply| reply.attempts).map_err(|error| error.code)
}

fn forget(cell: &mut Cell, worker: &str, fenced: bool) -> Result<u64, ErrorCode> {
    let request =
        WorkerForgetRequest { worker: worker.to_owned(), fenced, audit: Audit::default() };
    let now = cell.now;
    let reply = cell.apply(|core, out| core.worker_forget(now, &request, out));
    reply.map(|reply| reply.attempts).map_err(|error| error.code)
}

#[test]
fn a_drained_worker_gets_no_work_whoever_restarts_until_it_is_resumed() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    assert_eq!(drain(&mut cell, "w1", true), Ok(running.len() as u64));
    cell.done(vec![result(&running[0], Some("done"))]);
    assert_eq!(cell.assigned(), [], "what it runs goes on, and nothing is added");
    cell.restart();
    cell.heartbeat("w1", 2);
    assert_eq!(cell.assigned(), [], "neither by a new scheduler nor to a new process");
    assert_eq!(drain(&mut cell, "w9", true), Err(ErrorCode::NotFound));
    assert!(drain(&mut cell, "w1", false).is_ok());
    assert!(!cell.assigned().is_empty());
}

#[test]
fn a_silent_worker_is_forgotten_at_once_by_somebody_who_vouches_for_it() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    assert_eq!(forget(&mut cell, "w1", true), Err(ErrorCode::Conflict), "it is alive");
    let suspect = LeaseTerms::DEVELOPMENT.scheduler_suspect(cell.now) - cell.now;
    cell.advance(suspect);
    cell.heartbeat("w2", 1);
    assert_eq!(cell.assigned(), [], "what the silent one has may still run");
    assert_eq!(forget(&mut cell, "w1", false), Err(ErrorCode::BadRequest));
    assert_eq!(forget(&mut cell, "w1", true), Ok(running.len() as u64));
    assert!(!cell.assigned().is_empty(), "its slots are free long before its lease is over");
    let refused = cell.heartbeat("w1", 1);
    assert!(matches!(refused, HeartbeatAnswer::Refused { .. }), "it is fenced: {refused:?}");
}

#[test]
fn an_audit_event_is_kept_until_it_is_told() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    assert!(drain(&mut cell, "w1", true).is_ok());
    let untold = fold(&cell.store).audits;
    assert_eq!(
        untold.iter().map(|(_, event)| &*event.kind).collect::<Vec<_>>(),
        ["audit.worker_drain"]
    );
    assert_eq!(untold[0].1.worker.as_deref(), Some("w1"));
    cell.restart();
    cell.step(Input::AuditsTold(vec![untold[0].0]));
    assert_eq!(fold(&cell.store).audits, []);
}

#[test]
fn nothing_is_changed_while_too_many_audit_events_wait() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    for on in (0..UNTOLD_MAX).map(|n| n % 2 == 0) {
        assert!(drain(&mut cell, "w1", on).is_ok());
    }
    assert_eq!(drain(&mut cell, "w1", true), Err(ErrorCode::Unavailable));
    let told: Vec<_> = fold(&cell.store).audits.into_iter().map(|(id, _)| id).collect();
    assert_eq!(told.len(), UNTOLD_MAX);
    cell.step(Input::AuditsTold(told));
    assert!(drain(&mut cell, "w1", true).is_ok());
}

#[test]
fn an_audit_event_is_never_too_large_for_the_stream() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(1, 6));
    cell.heartbeat("w1", 1);
    let (actor, reason) = ("ä".repeat(500_000), "x".repeat(500_000));
    let audit = Audit { actor, reason };
    let request = WorkerDrainRequest { worker: "w1".to_owned(), on: true, audit };
    let now = cell.now;
    assert!(cell.apply(|core, out| core.worker_drain(now, &request, out)).is_ok());
    let (_, event) = fold(&cell.store).audits.remove(0);
    assert!(serde_json::to_vec(&event).unwrap().len() < 10_000);
}
