//! Whose word counts: strangers, twins, and what was open when the last process died.

use bistro_common::protocol::heartbeat::{RefusedReason, Reign};

use super::*;

fn reign(cell: u8, scheduler: u8, epoch: u64) -> Reign {
    Reign {
        cell: CellId::from_parts(cell.into(), [cell; 10]),
        scheduler: SchedulerId::from_parts(scheduler.into(), [scheduler; 10]),
        epoch: Epoch(epoch),
    }
}

fn lease_of(reign: Reign) -> HeartbeatAnswer {
    let Reign { cell, scheduler, epoch } = reign;
    let (terms, settled) = (LeaseTerms::DEVELOPMENT, Vec::new());
    HeartbeatAnswer::Lease { cell, scheduler, epoch, terms, settled, full_sync: false }
}

fn refusal(reason: RefusedReason, by: Option<Reign>) -> HeartbeatAnswer {
    HeartbeatAnswer::Refused { reason, detail: "no".to_owned(), by }
}

impl Worker {
    fn hear(&mut self, answer: HeartbeatAnswer) -> Vec<Effect> {
        self.step(Input::Heartbeat { sent: self.now, answer })
    }
}

fn is_unwanted(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Unwanted { .. }))
}

fn is_told(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Ignored { .. }))
}

#[test]
fn a_stranger_cannot_turn_away_a_worker_that_has_a_lease() {
    let stranger = Some(reign(9, 9, 1));
    for reason in [RefusedReason::ForeignCell, RefusedReason::NameTaken, RefusedReason::Fenced] {
        for by in [stranger, None] {
            if by.is_none() && reason == RefusedReason::Fenced {
                continue;
            }
            let mut worker = Worker::new();
            worker.assign(worker.fence(), assignment(1));
            let effects = worker.hear(refusal(reason, by));
            assert!(!is_unwanted(&effects) && is_told(&effects), "{reason:?}: {effects:?}");
            let effects = worker.hear(refusal(reason, by));
            assert!(effects.is_empty(), "it is told once: {effects:?}");
            assert_eq!(worker.core.running(), 1);
        }
    }
}

#[test]
fn without_a_lease_a_refusal_is_the_end() {
    let mut worker = Worker::new();
    worker.now = LeaseTerms::DEVELOPMENT.worker_hard_end(worker.now);
    let refused = refusal(RefusedReason::ForeignCell, Some(reign(9, 9, 1)));
    assert!(is_unwanted(&worker.hear(refused)), "its own cell has been silent too long");
    let mut worker = Worker::new();
    worker.core.reborn(Incarnation::from_parts(2, [2; 10]));
    assert!(is_unwanted(&worker.hear(refusal(RefusedReason::NameTaken, Some(reign(1, 1, 1))))));
}

#[test]
fn g2_of_two_schedulers_with_one_epoch_the_first_is_followed() {
    let mut worker = Worker::new();
    let twin = reign(1, 7, 1);
    let effects = worker.hear(lease_of(twin));
    assert!(is_told(&effects), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Deadline(_))), "no lease");
    let its_fence = Fence { scheduler: twin.scheduler, ..worker.fence() };
    assert_eq!(worker.answer(its_fence, assignment(1)), rejected(RejectedReason::Foreign));
    assert_eq!(worker.answer(worker.fence(), assignment(1)), AssignAnswer::Accepted);
    worker.hear(refusal(RefusedReason::Fenced, Some(twin)));
    assert_eq!(worker.core.running(), 1, "it is not the twin's to give up");
    // A later reign is followed, whoever it is.
    assert!(!is_told(&worker.hear(lease_of(reign(1, 7, 2)))));
    assert_eq!(worker.core.epoch_seen(), Epoch(2));
    // What its predecessor still says is late, and nothing to tell of.
    assert!(worker.hear(lease_of(reign(1, 1, 1))).is_empty());
}

#[test]
fn a_twin_is_waited_out_for_the_answer_that_counts() {
    let worker = Worker::new();
    let loyalty = worker.core.loyalty();
    assert!(loyalty.is_due(&lease_of(reign(1, 1, 1))));
    assert!(loyalty.is_due(&lease_of(reign(1, 7, 2))));
    assert!(loyalty.is_due(&refusal(RefusedReason::Fenced, None)), "a scheduler of before");
    for stranger in [reign(1, 7, 1), reign(9, 1, 1), reign(1, 1, 0)] {
        assert!(!loyalty.is_due(&lease_of(stranger)), "{stranger:?}");
        assert!(!loyalty.is_due(&refusal(RefusedReason::NameTaken, Some(stranger))));
    }
}

/// After a cut several heartbeats are answered at once, and all are refused.
#[test]
fn a_fence_that_was_for_the_last_process_does_not_end_the_next() {
    let mut worker = Worker::new();
    let fenced = || refusal(RefusedReason::Fenced, Some(reign(1, 1, 1)));
    let is_reborn = |effects: Vec<Effect>| effects.iter().any(|e| matches!(e, Effect::Reborn));
    let sent = worker.now;
    worker.now += 100;
    assert!(is_reborn(worker.step(Input::Heartbeat { sent, answer: fenced() })));
    worker.core.reborn(Incarnation::from_parts(1, [1; 10]));
    worker.lease(worker.now, Vec::new());
    worker.assign(worker.fence(), assignment(1));
    let effects = worker.step(Input::Heartbeat { sent: sent + 50, answer: fenced() });
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(worker.core.running(), 1);
}

#[test]
fn an_attempt_that_was_open_when_the_worker_died_is_lost_and_never_spawned() {
    let open = (*assignment(1).open).clone();
    let mut worker = Worker::new();
    worker.core = WorkerCore::new(
        WorkerName::new("w").unwrap(),
        Incarnation::from_parts(1, [1; 10]),
        LedgerId::from_parts(1, [1; 10]),
        Some(CellId::from_parts(1, [1; 10])),
        vec![lost(open, 1_000)],
    );
    let effects = worker.lease(1_000, Vec::new());
    let published = effects.iter().any(|effect| match effect {
        Effect::Publish(results) => matches!(results[0].outcome, Outcome::Lost { .. }),
        _ => false,
    });
    assert!(published, "{effects:?}");
    assert_eq!(worker.answer(worker.fence(), assignment(1)), rejected(RejectedReason::Known));
    let order = Order::Probe { attempts: vec![assignment(1).open.attempt], floor: Seq(1) };
    let control = Control { fence: worker.fence(), order };
    let effects = worker.step(Input::Control { token: 2, control });
    let Some(Effect::ControlReply { reply, .. }) = effects.into_iter().next() else {
        panic!("probes are answered");
    };
    let ControlAnswer::Probed { attempts } = reply.answer else { panic!("{reply:?}") };
    assert!(matches!(&attempts[0].fate, Fate::Finished { result }
        if matches!(result.outcome, Outcome::Lost { .. })));
}
