//! Nodes with several parents: a task takes any path that has room, and gives back what it took.

use super::*;

const ONE_JOB: &str = r#""bistro_job->a": {"owner": "o", "backoff": ["fail"]}"#;
const ONE_SLOT: &str = r#"{"host": {"slots": {"limit": 1, "default": 1}}}"#;

fn hosts(assignments: &[Assignment]) -> Vec<String> {
    let mut hosts: Vec<_> = assignments.iter().map(|a| a.open.path[1].node.to_string()).collect();
    hosts.sort_unstable();
    hosts
}

#[test]
fn a_task_takes_the_path_that_has_room_and_gives_its_slots_back_there() {
    let mut cell = Cell::new(two_levels(ONE_SLOT, ONE_JOB), shared_forest());
    cell.heartbeat("w1", 1);
    let first = cell.assigned();
    assert_eq!(hosts(&first), ["h0", "h1"], "both hosts are full, whoever is there");
    let on_h1 = first.iter().find(|a| &*a.open.path[1].node == "h1").unwrap();
    cell.done(vec![result(on_h1, Some("done"))]);
    let next = cell.assigned();
    let left = ["h0d0", "h0d1", "h1d0"]
        .iter()
        .filter(|db| first.iter().all(|a| *a.open.task.node != ***db));
    // What is left below h1 only may start there; what is left below h0 only may not.
    assert_eq!(next.len(), usize::from(left.count() > 0));
    assert!(next.iter().all(|a| &*a.open.path[1].node == "h1"), "{next:?}");
}

#[test]
fn one_disabled_or_excluded_parent_leaves_the_other_path() {
    for (enabled, filter) in [(false, "none"), (true, "h0")] {
        let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
        let mut builder = ForestBuilder::new(levels, "root");
        builder.add(1, "h0", "root", enabled).unwrap();
        builder.add(1, "h1", "root", true).unwrap();
        builder.add(2, "both", "h0", true).unwrap();
        builder.add(2, "both", "h1", true).unwrap();
        builder.add(2, "one", "h0", true).unwrap();
        let forest = Arc::new(builder.build(NodeOrder::Original).unwrap());
        let job = ONE_JOB.replace(
            "\"owner\"",
            &format!(r#""filters": {{"host": {{"blacklist": ["{filter}"]}}}}, "owner""#),
        );
        let mut cell = Cell::new(two_levels(ONE_SLOT, &job), forest);
        cell.heartbeat("w1", 1);
        let assigned = cell.assigned();
        assert_eq!(hosts(&assigned), ["h1"]);
        assert_eq!(&*assigned[0].open.task.node, "both");
        cell.done(vec![result(&assigned[0], Some("done"))]);
        assert_eq!(cell.assigned(), [], "there is no way to the other one");
    }
}

#[test]
fn explain_says_nothing_of_a_full_parent_if_another_has_room() {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    for host in ["h0", "h1"] {
        builder.add(1, host, "root", true).unwrap();
        for db in ["d0", "d1", "d2"] {
            builder.add(2, db, host, true).unwrap();
        }
    }
    let forest = Arc::new(builder.build(NodeOrder::Original).unwrap());
    let mut cell = Cell::new(two_levels(ONE_SLOT, ONE_JOB), forest);
    let explain = |cell: &Cell, node: &str| {
        let reasons = cell.core.explain("a", node).unwrap().reasons;
        reasons.into_iter().map(|reason| reason.text).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(explain(&cell, "d0"), "no worker is connected and healthy");
    cell.heartbeat("w1", 1);
    let waiting = ["d0", "d1", "d2"].into_iter().find(|db| {
        cell.core.plan.find_task("a", db).is_some_and(|task| cell.core.plan.cell(task).can_run())
    });
    let why = explain(&cell, waiting.expect("two tasks run, three are there"));
    assert!(why.contains("on h0") && why.contains("on h1"), "{why}");
}
