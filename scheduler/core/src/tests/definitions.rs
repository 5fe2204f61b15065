//! Jobs that are made, changed and deleted from outside.

use super::*;
use bistro_common::protocol::api::{ErrorCode, ListRequest};
use bistro_common::protocol::job::{
    Audit, JobDeleteRequest, JobOverrideRequest, JobPatchRequest, JobPutRequest, Origin, Overrides,
    PutMode,
};
use serde_json::{Map, Value, json};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn put(job: &str, definition: Value) -> JobPutRequest {
    JobPutRequest {
        job: job.to_owned(),
        definition: object(definition),
        mode: PutMode::Create,
        version_id: None,
        audit: Audit { actor: "me".to_owned(), reason: String::new() },
    }
}

fn create(cell: &mut Cell, job: &str, definition: Value) -> Result<u64, ErrorCode> {
    let request = put(job, definition);
    let now = cell.now;
    let answer = cell.apply(|core, out| core.job_put(now, &request, out));
    answer.map(|document| document.version_id).map_err(|error| error.code)
}

fn override_job(cell: &mut Cell, job: &str, enabled: Option<bool>, reset: bool) {
    let request = JobOverrideRequest {
        job: job.to_owned(),
        reset,
        overrides: Overrides { enabled, priority: None },
        version_id: None,
        audit: Audit::default(),
    };
    let now = cell.now;
    cell.apply(|core, out| core.job_override(now, &request, out)).expect("it may be overridden");
}

#[test]
fn a_new_job_starts_at_once_and_survives_a_restart() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 2));
    cell.heartbeat("w1", 1);
    cell.assigned();
    let job = json!({"owner": "me", "level_for_tasks": "instance"});
    assert_eq!(create(&mut cell, "new", job.clone()), Ok(1));
    let started = cell.assigned();
    assert_eq!(started.iter().map(|a| &*a.open.task.job).collect::<Vec<_>>(), ["new"]);
    assert_eq!(create(&mut cell, "new", job), Ok(1), "the same request twice is one");
    let other = json!({"owner": "you", "level_for_tasks": "instance"});
    assert_eq!(create(&mut cell, "new", other), Err(ErrorCode::Conflict));
    cell.restart();
    let rows = cell.core.job_rows(&ListRequest::default()).unwrap().items;
    let origins: Vec<_> = rows.iter().map(|row| (row.job.as_str(), row.origin)).collect();
    assert_eq!(origins, [("a", Origin::File), ("b", Origin::File), ("new", Origin::Store)]);
    assert_eq!(cell.states()[&TaskState::Unsure], 3, "its task belongs to it");
}

#[test]
fn a_job_that_is_not_valid_is_refused_with_everything_that_is_wrong() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    let request = put("new", json!({"priority": [], "resources": {"slts": 1}}));
    let mut out = Vec::new();
    let error = cell.core.job_put(cell.now, &request, &mut out).expect_err("it has no owner");
    for what in ["owner", "priority", "resources.slts", "did you mean \"slots\""] {
        assert!(error.message.contains(what), "{what} in {error}");
    }
    assert!(out.is_empty(), "and nothing is changed");
    assert_eq!(create(&mut cell, "", json!({"owner": "o"})), Err(ErrorCode::BadRequest));
    assert_eq!(create(&mut cell, "a\n", json!({"owner": "o"})), Err(ErrorCode::BadRequest));
}

#[test]
fn jobs_of_the_file_are_overridden_until_that_is_reset() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    assert_eq!(create(&mut cell, "a", json!({"owner": "o"})), Err(ErrorCode::OfTheFile));
    override_job(&mut cell, "a", Some(false), false);
    cell.heartbeat("w1", 1);
    assert_eq!(cell.assigned(), []);
    cell.restart();
    cell.replan();
    let row = cell.core.job_rows(&ListRequest::default()).unwrap().items.remove(0);
    assert_eq!((row.enabled, row.overrides.enabled), (false, Some(false)));
    override_job(&mut cell, "a", None, true);
    cell.heartbeat("w1", 1);
    assert_eq!(cell.assigned().len(), 1, "the file holds again");
}

#[test]
fn a_change_of_another_version_is_refused() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    create(&mut cell, "new", json!({"owner": "o", "config": {"a": 1, "b": 2}})).unwrap();
    let mut patch = |version_id, patch| {
        let patch = object(patch);
        let job = "new".to_owned();
        let request = JobPatchRequest { job, patch, version_id, audit: Audit::default() };
        let now = cell.now;
        let answer = cell.apply(|core, out| core.job_patch(now, &request, out));
        answer.map(|document| (document.version_id, document.given)).map_err(|e| e.code)
    };
    let (version, given) = patch(Some(1), json!({"config": {"a": null, "c": 3}})).unwrap();
    assert_eq!(version, 2);
    assert_eq!(given, Some(object(json!({"owner": "o", "config": {"b": 2, "c": 3}}))));
    assert_eq!(patch(Some(1), json!({"priority": 2})), Err(ErrorCode::Conflict));
    assert!(patch(None, json!({"priority": 2})).is_ok());
    let request =
        JobDeleteRequest { job: "new".to_owned(), version_id: Some(3), audit: Audit::default() };
    let now = cell.now;
    cell.apply(|core, out| core.job_delete(now, &request, out)).expect("that is its version");
    assert_eq!(cell.core.job_document("new").unwrap_err().code, ErrorCode::NotFound);
    cell.restart();
    assert_eq!(cell.core.job_rows(&ListRequest::default()).unwrap().items.len(), 2);
}

#[test]
fn a_job_that_others_wait_for_lets_them_go_on_when_it_comes() {
    let jobs = r#""bistro_job->a": {"owner": "o", "depends_on": ["late"]},
        "bistro_job->b": {"owner": "o", "run_only_after_all_nodes_are_done_for": ["late"]}"#;
    let mut cell = Cell::new(two_levels(LIMITS, jobs), forest(1, 1));
    cell.heartbeat("w1", 1);
    assert_eq!(cell.assigned(), []);
    create(&mut cell, "late", json!({"owner": "o"})).unwrap();
    let late = cell.assigned();
    assert_eq!(late.len(), 1);
    cell.done(vec![result(&late[0], Some("done"))]);
    assert_eq!(cell.assigned().len(), 2);
}

#[test]
fn new_jobs_one_by_one_are_as_good_as_a_plan_with_all_of_them() {
    for policy in ["roundrobin", "ranked_priority", "randomized_priority", "long_tail"] {
        let text = format!(
            r#"{{"bistro_settings": {{"enabled": true, "scheduler": "{policy}",
            "nodes": {{"levels": ["host", "db"], "node_sources": [{{"source": "empty"}}]}},
            "resources": {LIMITS}}}}}"#
        );
        let mut cell = Cell::new(config(&text), forest(2, 2));
        cell.heartbeat("w", 1);
        cell.heartbeat("ww", 2);
        for (i, more) in [
            json!({}),
            json!({"level_for_tasks": "instance", "priority": 5}),
            json!({"host_placement": "h0", "priority": -1}),
            json!({"level_for_host_placement": "host", "resources": {"slots": 2}}),
            json!({"filters": {"worker": {"whitelist": ["h1"]}, "db": {"blacklist": ["h0d0"]}}}),
            json!({"depends_on": ["job0"]}),
        ]
        .into_iter()
        .enumerate()
        {
            let mut job = object(json!({"owner": "o"}));
            job.extend(object(more));
            create(&mut cell, &format!("job{i}"), Value::Object(job)).unwrap();
        }
        let started = cell.assigned().len();
        assert_eq!(started, 5, "two per host and one above, under {policy}");
        cell.replan();
        assert_eq!(cell.assigned(), [], "and a new plan finds nothing that was overlooked");
    }
}

/// For the property test: one of a few jobs, made if it is not there and deleted if it is. Its name,
/// and whether it was made.
pub(super) fn make_or_delete(cell: &mut Cell, n: usize) -> (String, bool) {
    let job = format!("extra{}", n % 5);
    let request = JobDeleteRequest { job: job.clone(), version_id: None, audit: Audit::default() };
    let now = cell.now;
    if cell.apply(|core, out| core.job_delete(now, &request, out)).is_ok() {
        return (job, false);
    }
    let definition = match n % 5 {
        0 => json!({"owner": "o", "level_for_tasks": "instance"}),
        1 => json!({"owner": "o", "depends_on": ["extra0"], "level_for_tasks": "host"}),
        2 => json!({"owner": "o", "filters": {"host": {"blacklist": ["h0"]}}}),
        3 => json!({"owner": "o", "filters": {"db": {"whitelist": ["h1d2"]}}}),
        _ => json!({"owner": "o", "resources": {"slots": 2}, "kill_orphan_tasks_after_sec": 0}),
    };
    create(cell, &job, definition).expect("it is valid and not there");
    (job, true)
}

#[test]
fn a_job_that_is_made_again_is_another_one() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(0, 0));
    cell.heartbeat("w1", 1);
    let job = json!({"owner": "me", "level_for_tasks": "instance"});
    create(&mut cell, "once", job.clone()).unwrap();
    let first = cell.assigned().remove(0);
    cell.done(vec![result(&first, Some("done"))]);
    let request =
        JobDeleteRequest { job: "once".to_owned(), version_id: None, audit: Audit::default() };
    let now = cell.now;
    cell.apply(|core, out| core.job_delete(now, &request, out)).unwrap();
    cell.restart();
    cell.heartbeat("w1", 1);
    create(&mut cell, "once", job).unwrap();
    let second = cell.assigned();
    assert_eq!(second.len(), 1, "what is done of the first is not done of the second");
    assert_eq!(second[0].open.attempt_no, 2, "and no number comes twice");
}

#[test]
fn what_still_runs_of_a_deleted_job_says_nothing_of_one_that_is_made_again() {
    for restarts in [false, true] {
        let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(0, 0));
        cell.heartbeat("w1", 1);
        let job = json!({"owner": "me", "level_for_tasks": "instance"});
        create(&mut cell, "again", job.clone()).unwrap();
        let old = cell.assigned().remove(0);
        let request =
            JobDeleteRequest { job: "again".to_owned(), version_id: None, audit: Audit::default() };
        let now = cell.now;
        let deleted = cell.apply(|core, out| core.job_delete(now, &request, out)).unwrap();
        assert_eq!(deleted.running, 1);
        if restarts {
            cell.restart();
            cell.heartbeat("w1", 1);
        }
        create(&mut cell, "again", job).unwrap();
        assert_eq!(cell.assigned(), [], "the old attempt may still run");
        cell.done(vec![result(&old, Some("done"))]);
        let new = cell.assigned();
        assert_eq!(new.len(), 1, "the end of the old one is not the end of the new one");
        assert_eq!(new[0].open.attempt_no, 2);
    }
}

#[test]
fn nobody_changes_a_job_by_what_he_knew_of_one_of_its_name_that_was_deleted() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(0, 0));
    let job = json!({"owner": "me", "level_for_tasks": "instance"});
    assert_eq!(create(&mut cell, "twice", job.clone()), Ok(1));
    let request =
        JobDeleteRequest { job: "twice".to_owned(), version_id: None, audit: Audit::default() };
    let now = cell.now;
    cell.apply(|core, out| core.job_delete(now, &request, out)).unwrap();
    cell.restart();
    assert_eq!(create(&mut cell, "twice", job), Ok(2));
    let request = JobDeleteRequest { version_id: Some(1), ..request };
    let now = cell.now;
    let answer = cell.apply(|core, out| core.job_delete(now, &request, out));
    assert_eq!(answer.unwrap_err().code, ErrorCode::Conflict);
}

#[test]
fn what_was_overridden_of_a_job_that_left_the_file_can_be_dropped() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    override_job(&mut cell, "b", Some(false), false);
    cell.plan.0 = two_levels(LIMITS, r#""bistro_job->a": {"owner": "o"}"#);
    cell.replan();
    let reset = JobOverrideRequest {
        job: "b".to_owned(),
        reset: true,
        overrides: Overrides::default(),
        version_id: None,
        audit: Audit::default(),
    };
    let now = cell.now;
    let error = cell.apply(|core, out| core.job_override(now, &reset, out)).unwrap_err();
    assert!(error.hint.as_deref().unwrap_or_default().contains("job delete"), "{error:?}");
    let request =
        JobDeleteRequest { job: "b".to_owned(), version_id: Some(1), audit: Audit::default() };
    let now = cell.now;
    cell.apply(|core, out| core.job_delete(now, &request, out)).unwrap();
    cell.plan.0 = two_levels(LIMITS, JOBS);
    cell.replan();
    let document = cell.core.job_document("b").unwrap();
    assert_eq!((document.overrides, document.version_id), (Overrides::default(), 0));
}
