//! Orphans, over-use and preemption, and workers whose slots are their own.

use super::*;

const ORPHANS: &str = r#""bistro_job->a": {"owner": "o", "kill_orphan_tasks_after_sec": 2}"#;

fn kills(cell: &mut Cell) -> usize {
    let is_kill = |effect: &Effect| {
        let Effect::Control { control, .. } = effect else { return false };
        matches!(control.order, Order::Kill { .. })
    };
    cell.effects().iter().filter(|effect| is_kill(effect)).count()
}

#[test]
fn a_task_whose_job_is_disabled_is_ended_after_the_delay_again_and_again() {
    let mut cell = Cell::new(two_levels(LIMITS, ORPHANS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    let disabled = ORPHANS.replace("\"owner\"", "\"enabled\": false, \"owner\"");
    cell.plan.0 = two_levels(LIMITS, &disabled);
    cell.replan();
    cell.advance(1_999);
    assert_eq!(kills(&mut cell), 0, "not before its delay");
    cell.advance(1);
    assert_eq!(kills(&mut cell), 1);
    cell.replan();
    cell.advance(2_000);
    assert_eq!(kills(&mut cell), 1, "and again, whatever else has changed");
    cell.done(vec![result(&attempt, None)]);
    cell.advance(60_000);
    assert_eq!(kills(&mut cell), 0);
    assert!(cell.core.condemned.is_empty() && cell.core.executions.is_empty());
}

#[test]
fn who_is_no_orphan_any_more_goes_on() {
    let mut cell = Cell::new(two_levels(LIMITS, ORPHANS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let plan = cell.plan.clone();
    cell.plan.0 = two_levels(LIMITS, r#""bistro_job->b": {"owner": "o", "enabled": false}"#);
    cell.replan();
    cell.advance(10_000);
    assert_eq!(kills(&mut cell), 0, "the settings say nothing of orphans");
    cell.plan.1 = forest(0, 0);
    cell.plan.0 = plan.0.clone();
    cell.replan();
    cell.plan = plan;
    cell.replan();
    cell.advance(10_000);
    assert_eq!(kills(&mut cell), 0, "its node was away for less than the delay");
}

#[test]
fn a_lowered_limit_ends_the_newest_and_that_is_no_failure() {
    let preempt = |limit: &str| {
        let limits = LIMITS.replace("\"limit\": 2", limit);
        let text = format!(
            r#"{{"bistro_settings": {{"enabled": true, "preempt": true, "nodes": {{"levels":
            ["host", "db"], "node_sources": [{{"source": "empty"}}]}}, "resources": {limits}}},
            "bistro_job->a": {{"owner": "o", "backoff": ["fail"]}}}}"#
        );
        config(&text)
    };
    let mut cell = Cell::new(preempt("\"limit\": 1"), forest(1, 3));
    cell.heartbeat("w1", 1);
    let old = cell.assigned().remove(0);
    cell.now += 1_000;
    cell.plan.0 = preempt("\"limit\": 2");
    cell.replan();
    let new = cell.assigned().remove(0);
    cell.plan.0 = preempt("\"limit\": 1");
    cell.replan();
    let killed: Vec<_> = cell
        .effects()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Control { control, .. } => match control.order {
                Order::Kill { attempt, .. } => Some(attempt),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(killed, [new.open.attempt]);
    cell.done(vec![result(&new, Some("failed"))]);
    assert_eq!(cell.states().get(&TaskState::Failed), None);
    cell.done(vec![result(&old, Some("failed"))]);
    assert_eq!(cell.states()[&TaskState::Failed], 1, "a failure of its own counts");
}

#[test]
fn a_worker_has_what_it_measures_or_what_the_config_says_of_it() {
    let text = r#"{"bistro_settings": {"enabled": true,
        "nodes": {"levels": ["db"], "node_sources": [{"source": "empty"}]},
        "resources": {"worker": {"cpu": {"limit": 1, "default": 1}, "gpu": {"limit": 9, "default": 0}}},
        "physical_resources": {"cpu_core": {"logical_resource": "cpu", "physical_reserve_amount": 1}},
        "worker_resources_override": {"h0": {"gpu": 2}, "h0:w2": {"gpu": 3}}},
        "bistro_job->a": {"owner": "o"}}"#;
    let mut builder = ForestBuilder::new(vec!["instance".to_owned(), "db".to_owned()], "root");
    for db in 0..9 {
        builder.add(1, &format!("d{db}"), "root", true).unwrap();
    }
    let forest = Arc::new(builder.build(NodeOrder::Original).unwrap());
    let mut cell = Cell::new(config(text), forest);
    let mut heartbeat = heartbeat("w1", 1, &cell.core);
    heartbeat.capacity = Capacity { cpu_cores: 4, ..Capacity::default() };
    cell.step(Input::Heartbeat { token: 7, heartbeat: Box::new(heartbeat) });
    assert_eq!(cell.assigned().len(), 3, "four cores, one of them reserved");
    cell.heartbeat("w2", 2);
    assert_eq!(cell.assigned().len(), 1, "it did not say what it has");
    let gpus: Vec<_> = cell.core.workers.iter().map(|worker| worker.slots[1]).collect();
    assert_eq!(gpus, [2, 3]);
}

#[test]
fn a_worker_that_has_not_said_what_it_has_is_not_over_used() {
    let text = r#"{"bistro_settings": {"enabled": true, "preempt": true,
        "nodes": {"levels": ["host", "db"], "node_sources": [{"source": "empty"}]},
        "resources": {"worker": {"cpu": {"limit": 1, "default": 1}}},
        "physical_resources": {"cpu_core": {"logical_resource": "cpu"}}},
        "bistro_job->a": {"owner": "o"}}"#;
    let mut cell = Cell::new(config(text), forest(1, 4));
    let with_cores = |cell: &Cell, cpu_cores| {
        let mut heartbeat = heartbeat("w1", 1, &cell.core);
        heartbeat.capacity = Capacity { cpu_cores, ..Capacity::default() };
        Input::Heartbeat { token: 7, heartbeat: Box::new(heartbeat) }
    };
    cell.step(with_cores(&cell, 4));
    assert_eq!(cell.assigned().len(), 4);
    cell.restart();
    cell.advance(2_000);
    assert_eq!(kills(&mut cell), 0, "the store does not know how many cores it has");
    cell.step(with_cores(&cell, 4));
    cell.advance(2_000);
    assert_eq!(kills(&mut cell), 0);
    cell.step(with_cores(&cell, 3));
    cell.advance(0);
    assert_eq!(kills(&mut cell), 1, "it has really less now");
}
