//! The promises, under any sequence of events.

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Heartbeat(u8),
    RestartWorker(u8),
    Answer(usize, u8),
    Finish(usize, u8),
    Advance(u64),
    RestartScheduler,
    Replan(u8),
    /// A new plan, or what a changed definition asked for, takes its time.
    Slow(bool),
    Compile,
    /// Makes or deletes a job, from outside.
    Define(usize),
    /// Another limit per host, and perhaps preemption.
    Limit(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => any::<usize>().prop_map(Act::Define),
        2 => any::<usize>().prop_map(Act::Limit),
        4 => (1u8..3).prop_map(Act::Heartbeat),
        1 => (1u8..3).prop_map(Act::RestartWorker),
        6 => (any::<usize>(), 0u8..4).prop_map(|(i, how)| Act::Answer(i, how)),
        8 => (any::<usize>(), 0u8..4).prop_map(|(i, how)| Act::Finish(i, how)),
        3 => (0u64..20_000).prop_map(Act::Advance),
        1 => Just(Act::RestartScheduler),
        1 => (0u8..5).prop_map(Act::Replan),
        1 => any::<bool>().prop_map(Act::Slow),
        3 => Just(Act::Compile),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happens, every invariant holds, no attempt is assigned twice, no task has two open
    /// attempts, and a task reported done is never assigned again.
    #[test]
    fn promises_hold_under_any_sequence(
        large in any::<bool>(),
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let jobs = format!("{JOBS}, {CHOOSY}");
        let first = if large { forest(2, 20) } else { forest(2, 3) };
        let mut cell = Cell::new(two_levels(LIMITS, &jobs), first);
        let mut incarnations = [1u8, 1, 1];
        let mut sent: Vec<Assignment> = Vec::new();
        let mut ids = BTreeSet::new();
        let mut finished = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        let mut disowned = BTreeSet::new();
        for act in acts {
            match act {
                Act::Heartbeat(w) => drop(cell.heartbeat(&"w".repeat(w.into()), incarnations[w as usize])),
                Act::RestartWorker(w) => incarnations[w as usize] += 1,
                Act::Answer(i, how) if !sent.is_empty() => {
                    let id = sent[i % sent.len()].open.attempt;
                    let rejected = |reason| AssignAnswer::Rejected { reason };
                    let answer = match how {
                        0 | 1 => AssignAnswer::Accepted,
                        2 => rejected(RejectedReason::Full),
                        _ => rejected(RejectedReason::Known),
                    };
                    // A worker that has finished a task does not reject its assignment.
                    if how < 2 || !finished.contains(&sent[i % sent.len()].open.task) {
                        for (w, &incarnation) in incarnations.iter().enumerate().skip(1) {
                            cell.reply(&"w".repeat(w), incarnation, &[id], &answer);
                        }
                    }
                }
                Act::Finish(i, how) if !sent.is_empty() => {
                    let assignment = sent[i % sent.len()].clone();
                    let line = [Some("done"), Some("incomplete"), Some("failed"), None][how as usize];
                    let current = cell.core.attempts.contains(assignment.open.attempt);
                    cell.done(vec![result(&assignment, line)]);
                    if current && how == 0 && !disowned.contains(&assignment.open.attempt) {
                        finished.insert(assignment.open.task.clone());
                    }
                }
                Act::Slow(slow) => {
                    cell.compile();
                    cell.slow = slow;
                }
                Act::Compile => cell.compile(),
                Act::Advance(ms) => cell.advance(ms),
                Act::RestartScheduler => cell.restart(),
                Act::Replan(which) => {
                    cell.plan.1 = match which {
                        0 => forest(1, 2),
                        1 => forest(2, 3),
                        2 => forest(3, 17),
                        3 => forest(2, 20),
                        _ => shared_forest(),
                    };
                    cell.replan();
                }
                // One that is made again is another job: nothing of it is done.
                Act::Define(n) => {
                    let (job, made) = definitions::make_or_delete(&mut cell, n);
                    if made {
                        deleted.remove(&job);
                    } else {
                        finished.retain(|task: &TaskName| *task.job != *job);
                        let of_job = sent.iter().filter(|a| *a.open.task.job == *job);
                        disowned.extend(of_job.map(|a| a.open.attempt));
                        deleted.insert(job);
                    }
                }
                Act::Limit(n) => {
                    let limits = LIMITS.replace("\"limit\": 2", &format!("\"limit\": {}", n % 4));
                    let mut config = (*two_levels(&limits, &jobs)).clone();
                    config.settings.preempt = n % 2 == 0;
                    config.settings.policy = [
                        PolicyKind::RoundRobin,
                        PolicyKind::RankedPriority,
                        PolicyKind::RandomizedPriority,
                        PolicyKind::LongTail,
                    ][n / 4 % 4];
                    cell.plan.0 = Arc::new(config);
                    cell.replan();
                }
                _ => {}
            }
            for assignment in cell.assigned() {
                prop_assert!(ids.insert(assignment.open.attempt), "an attempt is assigned once");
                prop_assert!(!finished.contains(&assignment.open.task), "{} is done", assignment.open.task);
                prop_assert!(!deleted.contains(&*assignment.open.task.job), "its job is deleted");
                cell.check_choosy(&assignment);
                sent.push(assignment);
            }
            if cell.core.is_entering() {
                continue;
            }
            let open = cell.core.attempts.iter().map(|a| a.name(&cell.core.plan));
            let tasks: BTreeSet<_> = open.collect();
            prop_assert_eq!(tasks.len(), cell.core.attempts.len(), "one open attempt per task");
        }
        prop_assert!(cell.core.workers.iter().all(|w| w.health != WorkerHealth::Unheard || w.lease_end > 0));
    }
}
