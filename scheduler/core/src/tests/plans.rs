//! Plans that take their time: what may happen between a draft, its plan, and the end of entering.

use super::*;

const ONE_JOB: &str = r#""bistro_job->a": {"owner": "o"}"#;

fn slow(config: Arc<Config>, forest: Arc<Forest>) -> Cell {
    let mut cell = Cell::new(config, forest);
    cell.heartbeat("w1", 1);
    cell.slow = true;
    cell
}

#[test]
fn a_job_that_the_file_disables_starts_nothing_while_the_plan_is_compiled() {
    let mut cell = slow(two_levels(LIMITS, ONE_JOB), forest(1, 12));
    let running = cell.assigned();
    cell.plan.0 = two_levels(LIMITS, r#""bistro_job->a": {"owner": "o", "enabled": false}"#);
    cell.replan();
    cell.done(vec![result(&running[0], Some("done"))]);
    assert_eq!(cell.assigned(), [], "its slot is free, and the old plan knows nothing of the file");
    cell.compile();
    cell.step(Input::Tick);
    assert_eq!(cell.assigned(), []);
}

#[test]
fn a_job_that_stays_the_same_goes_on_while_a_plan_is_compiled() {
    let mut cell = slow(two_levels(LIMITS, ONE_JOB), forest(1, 12));
    let running = cell.assigned();
    cell.plan.0 = two_levels(LIMITS, &format!(r#"{ONE_JOB}, "bistro_job->b": {{"owner": "o"}}"#));
    cell.replan();
    cell.done(vec![result(&running[0], Some("done"))]);
    assert_eq!(cell.assigned().len(), 1);
}

#[test]
fn heartbeats_are_answered_while_a_plan_is_entered_and_nothing_starts() {
    let mut cell = slow(two_levels(LIMITS, ONE_JOB), forest(4, 12));
    let running = cell.assigned();
    cell.done(running.iter().map(|assignment| result(assignment, Some("done"))).collect());
    cell.assigned();
    cell.plan.1 = forest(4, 13);
    cell.replan();
    cell.compile();
    let mut answered = 0;
    while cell.core.is_entering() {
        let beat = heartbeat("w1", 1, &cell.core);
        cell.step(Input::Heartbeat { token: 9, heartbeat: Box::new(beat) });
        let out = cell.effects();
        let is_answer = |e: &Effect| matches!(e, Effect::Reply { token: 9, .. });
        answered += out.iter().filter(|effect| is_answer(effect)).count();
        let starts = out.iter().any(|effect| matches!(effect, Effect::Assign { .. }));
        assert!(!starts || !cell.core.is_entering());
    }
    assert!(answered > 3, "entering takes several steps here, each with an answer: {answered}");
    assert_eq!(cell.states()[&TaskState::Done], running.len() as u64);
}

#[test]
fn a_job_that_is_narrowed_keeps_what_is_known_of_its_other_nodes() {
    let mut cell = Cell::new(two_levels(LIMITS, ONE_JOB), forest(2, 20));
    cell.heartbeat("w1", 1);
    for _ in 0..8 {
        let running = cell.assigned();
        cell.done(running.iter().map(|assignment| result(assignment, Some("done"))).collect());
    }
    let done = cell.states()[&TaskState::Done];
    let narrow = r#""bistro_job->a": {"owner": "o", "filters": {"db": {"whitelist": ["h1d19"]}}}"#;
    cell.plan.0 = two_levels(LIMITS, narrow);
    cell.replan();
    assert!(cell.states()[&TaskState::Avoided] >= 35, "{:?}", cell.states());
    cell.plan.0 = two_levels(LIMITS, ONE_JOB);
    cell.replan();
    assert_eq!(cell.states()[&TaskState::Done], done);
}
