//! Admission, the lease and the outbox, by example.

use std::sync::Arc;

use super::*;
use bistro_common::protocol::assign::{AssignAnswer, RejectedReason, TaskSpec};
use bistro_common::protocol::control::{ControlAnswer, Fate, Order};
use bistro_common::protocol::task::{KillMethod, OpenAttempt, Outcome};
use bistro_common::protocol::{Fence, VERSION};
use bistro_common::status::TaskStatus;

struct Worker {
    core: WorkerCore,
    now: Millis,
    epoch: u64,
}

impl Worker {
    fn new() -> Self {
        let core = WorkerCore::new(
            WorkerName::new("w").unwrap(),
            Incarnation::from_parts(1, [1; 10]),
            LedgerId::from_parts(1, [1; 10]),
            None,
            Vec::new(),
        );
        let mut worker = Self { core, now: 1_000, epoch: 1 };
        worker.lease(1_000, Vec::new());
        worker
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.core.step(self.now, input, &mut out);
        out
    }

    fn lease(&mut self, sent: Millis, settled: Vec<AttemptId>) -> Vec<Effect> {
        let answer = HeartbeatAnswer::Lease {
            cell: CellId::from_parts(1, [1; 10]),
            scheduler: SchedulerId::from_parts(self.epoch, [1; 10]),
            epoch: Epoch(self.epoch),
            terms: LeaseTerms::DEVELOPMENT,
            settled,
            full_sync: false,
        };
        self.step(Input::Heartbeat { sent, answer })
    }

    fn fence(&self) -> Fence {
        Fence {
            v: VERSION,
            cell: CellId::from_parts(1, [1; 10]),
            epoch: Epoch(self.epoch),
            scheduler: SchedulerId::from_parts(self.epoch, [1; 10]),
            incarnation: Incarnation::from_parts(1, [1; 10]),
        }
    }

    fn assign(&mut self, fence: Fence, assignment: Assignment) -> Vec<Effect> {
        self.step(Input::Assign { token: 1, assign: Assign { fence, attempts: vec![assignment] } })
    }

    fn answer(&mut self, fence: Fence, assignment: Assignment) -> AssignAnswer {
        let effects = self.assign(fence, assignment);
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::AssignReply { mut reply, .. } => Some(reply.results.remove(0).answer),
            _ => None,
        });
        reply.expect("every assignment is answered")
    }
}

fn assignment(n: u16) -> Assignment {
    Assignment {
        seq: Seq(n.into()),
        open: Arc::new(OpenAttempt {
            attempt: AttemptId::from_parts(n.into(), [n as u8; 10]),
            task: TaskName::new("j", format!("n{n}")),
            attempt_no: 1,
            started_ms: 0,
            path: [].into(),
            worker_slots: Default::default(),
        }),
        spec: Arc::new(TaskSpec {
            command: Vec::new(),
            plain_command: false,
            responder: None,
            noop: false,
            limits: Default::default(),
            confinement: Default::default(),
            config: Default::default(),
            kill: Kill { method: KillMethod::Term, wait_ms: 0 },
            log_lines_per_10_ms: None,
        }),
        prev_status: None,
    }
}

fn ended(assignment: &Assignment) -> TaskResult {
    TaskResult {
        attempt: assignment.open.attempt,
        task: assignment.open.task.clone(),
        attempt_no: 1,
        outcome: Outcome::Reported { status: TaskStatus::parse("done") },
        started_ms: 0,
        ended_ms: 1,
        exit: None,
        usage: None,
    }
}

fn rejected(reason: RejectedReason) -> AssignAnswer {
    AssignAnswer::Rejected { reason }
}

#[test]
fn g1_an_attempt_is_in_the_ledger_before_it_is_accepted_and_before_it_is_spawned() {
    let mut worker = Worker::new();
    let effects = worker.assign(worker.fence(), assignment(1));
    let order: Vec<_> = effects.iter().map(std::mem::discriminant).collect();
    let starting = LedgerRecord::Settled { attempt: assignment(1).open.attempt };
    assert_eq!(order[0], std::mem::discriminant(&Effect::Persist(starting)));
    assert!(matches!(effects[1], Effect::AssignReply { .. }));
    assert!(matches!(effects[2], Effect::Spawn(_)));
}

#[test]
fn g1_duplicates_and_late_assignments_are_refused() {
    let mut worker = Worker::new();
    let fence = worker.fence();
    assert_eq!(worker.answer(fence, assignment(2)), AssignAnswer::Accepted);
    assert_eq!(worker.answer(fence, assignment(2)), rejected(RejectedReason::Known));
    let mut rival = assignment(3);
    Arc::make_mut(&mut rival.open).task = assignment(2).open.task.clone();
    assert_eq!(worker.answer(fence, rival), rejected(RejectedReason::TaskLive));
    // The floor is raised by a probe before it is answered.
    let attempts = vec![assignment(2).open.attempt, assignment(4).open.attempt];
    let order = Order::Probe { attempts, floor: Seq(5) };
    let effects = worker.step(Input::Control { token: 2, control: Control { fence, order } });
    let Some(Effect::ControlReply { reply, .. }) = effects.into_iter().next() else {
        panic!("probes are answered");
    };
    let ControlAnswer::Probed { attempts } = reply.answer else { panic!("{reply:?}") };
    assert_eq!(attempts[0].fate, Fate::Running);
    assert_eq!(attempts[1].fate, Fate::NeverStarted);
    assert_eq!(worker.answer(fence, assignment(4)), rejected(RejectedReason::BelowFloor));
    assert_eq!(worker.answer(fence, assignment(6)), AssignAnswer::Accepted);
}

#[test]
fn messages_of_other_cells_reigns_and_processes_are_refused() {
    let mut worker = Worker::new();
    let fence = worker.fence();
    let cell = CellId::from_parts(9, [9; 10]);
    assert_eq!(
        worker.answer(Fence { cell, ..fence }, assignment(1)),
        rejected(RejectedReason::Foreign)
    );
    let incarnation = Incarnation::from_parts(9, [9; 10]);
    assert_eq!(
        worker.answer(Fence { incarnation, ..fence }, assignment(1)),
        rejected(RejectedReason::WrongIncarnation)
    );
    worker.epoch = 2;
    assert_eq!(
        worker.answer(worker.fence(), assignment(1)),
        rejected(RejectedReason::UnknownEpoch)
    );
    worker.lease(1_000, Vec::new());
    assert_eq!(worker.answer(fence, assignment(1)), rejected(RejectedReason::StaleEpoch));
    assert_eq!(worker.answer(worker.fence(), assignment(1)), AssignAnswer::Accepted);
}

#[test]
fn g2_the_worker_gives_up_before_its_lease_is_over() {
    let mut worker = Worker::new();
    let fence = worker.fence();
    worker.assign(fence, assignment(1));
    let terms = LeaseTerms::DEVELOPMENT;
    worker.now = terms.worker_last_start(1_000);
    assert_eq!(worker.answer(fence, assignment(2)), rejected(RejectedReason::LeaseShort));
    assert_eq!(worker.core.next_wake(), Some(terms.worker_hard_end(1_000)), "TERM was sent");
    worker.now = terms.worker_hard_end(1_000);
    let effects = worker.step(Input::Tick);
    let killed = effects.iter().any(|effect| {
        matches!(effect, Effect::Kill { kill: Kill { method: KillMethod::Kill, .. }, .. })
    });
    assert!(killed, "{effects:?}");
}

#[test]
fn a_result_is_kept_until_it_is_settled_and_sent_again_if_the_stream_lost_it() {
    let mut worker = Worker::new();
    worker.assign(worker.fence(), assignment(1));
    let id = assignment(1).open.attempt;
    let effects = worker.step(Input::Ended { result: ended(&assignment(1)) });
    assert!(matches!(effects[0], Effect::Persist(LedgerRecord::Finished { .. })));
    assert!(matches!(&effects[1], Effect::Publish(results) if results.len() == 1));
    assert!(worker.core.unsettled().is_empty(), "the stream does not have it yet");
    worker.step(Input::Published { attempts: vec![id], stored: false });
    worker.now += 500;
    let again = worker.step(Input::Tick);
    assert!(matches!(&again[0], Effect::Publish(_)), "{again:?}");
    worker.step(Input::Published { attempts: vec![id], stored: true });
    assert_eq!(worker.core.unsettled(), [id]);
    worker.now += 10_000;
    let effects = worker.lease(worker.now, Vec::new());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Publish(_))), "{effects:?}");
    let effects = worker.lease(worker.now, vec![id]);
    let settled = Effect::Persist(LedgerRecord::Settled { attempt: id });
    assert!(effects.iter().any(|e| format!("{e:?}") == format!("{settled:?}")), "{effects:?}");
    assert!(worker.core.unsettled().is_empty());
}

#[test]
fn many_results_are_settled_before_the_next_heartbeat_is_due() {
    let mut worker = Worker::new();
    let mut ids = Vec::new();
    let mut hurried = 0;
    for number in 1..=UNSETTLED_MAX as u16 {
        let assignment = assignment(number);
        worker.assign(worker.fence(), assignment.clone());
        worker.step(Input::Ended { result: ended(&assignment) });
        let id = assignment.open.attempt;
        ids.push(id);
        let effects = worker.step(Input::Published { attempts: vec![id], stored: true });
        hurried += effects.iter().filter(|e| matches!(e, Effect::HeartbeatNow)).count();
    }
    assert_eq!((hurried, worker.core.unsettled().len()), (1, ids.len()));
    let effects = worker.lease(worker.now, ids);
    assert!(!effects.iter().any(|e| matches!(e, Effect::HeartbeatNow)), "nothing is left");
    assert!(worker.core.unsettled().is_empty());
}

#[test]
fn a_fenced_worker_ends_its_tasks_and_goes_on_as_another_process() {
    let mut worker = Worker::new();
    worker.assign(worker.fence(), assignment(1));
    let refused = || HeartbeatAnswer::Refused {
        reason: bistro_common::protocol::heartbeat::RefusedReason::Fenced,
        detail: String::new(),
        by: None,
    };
    let effects = worker.step(Input::Heartbeat { sent: 1_000, answer: refused() });
    assert!(matches!(effects[0], Effect::Kill { .. }));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Reborn)), "a task is still alive");
    let effects = worker.step(Input::Ended { result: ended(&assignment(1)) });
    assert!(effects.iter().any(|e| matches!(e, Effect::Reborn)));
    worker.core.reborn(Incarnation::from_parts(2, [2; 10]));
    worker.lease(1_000, Vec::new());
    assert_eq!(
        worker.answer(worker.fence(), assignment(2)),
        rejected(RejectedReason::WrongIncarnation)
    );
}

#[test]
fn without_room_in_the_ledger_nothing_is_started_and_results_wait() {
    let mut worker = Worker::new();
    let (runs, late) = (assignment(1), assignment(2));
    worker.assign(worker.fence(), runs.clone());
    let mut held = worker.assign(worker.fence(), late.clone());
    held.extend(worker.step(Input::Ended { result: ended(&runs) }));
    let now = worker.core.without_ledger(&mut held);
    let [Effect::AssignReply { reply, .. }] = &now[..] else { panic!("{now:?}") };
    assert_eq!(reply.results[0].answer, rejected(RejectedReason::Closed));
    let settled = LedgerRecord::Settled { attempt: late.open.attempt };
    assert_eq!(records(&held), [settled, LedgerRecord::Finished { result: ended(&runs) }]);
    assert!(matches!(held.last(), Some(Effect::Publish(results)) if results.len() == 1));
    assert_eq!((worker.core.running(), worker.core.digest), (0, OpenDigest::default()));
    assert_eq!(worker.core.closed(), Some(ClosedReason::DiskFull));
    assert_eq!(worker.answer(worker.fence(), assignment(3)), rejected(RejectedReason::Closed));
    worker.core.ledger_has_room();
    assert_eq!(worker.core.closed(), None);
    assert_eq!(worker.answer(worker.fence(), late), AssignAnswer::Accepted);
}

#[test]
fn without_room_in_the_ledger_leases_and_kills_go_on() {
    let mut worker = Worker::new();
    worker.assign(worker.fence(), assignment(1));
    worker.core.without_ledger(&mut Vec::new());
    let mut renewed = worker.lease(2_000, Vec::new());
    let now = worker.core.without_ledger(&mut renewed);
    assert!(matches!(now[..], [Effect::Deadline(_)]), "{now:?}");
    worker.now = 1_000_000;
    let mut lapsed = worker.step(Input::Tick);
    let now = worker.core.without_ledger(&mut lapsed);
    assert!(matches!(now[..], [Effect::Kill { .. }]), "{now:?}");
}

mod loyalty;
