//! Lists against the plain way to make them, the grid page by page, and actions on many tasks.

use super::*;
use bistro_common::filter::Filter;
use bistro_common::protocol::api::{
    ApplyReply, ApplyRequest, BulkAction, Counts, ErrorCode, GridRequest, JobRow, ListRequest,
    Listing, Page, PlanRequest, TaskRow, WorkerRow,
};
use bistro_common::protocol::view::GridPlace;

const THREE_JOBS: &str = r#""bistro_job->a": {"owner": "o"},
    "bistro_job->ab": {"owner": "o", "filters": {"db": {"whitelist": ["h0d1", "h1d0"]}}},
    "bistro_job->c": {"owner": "p", "depends_on": ["a"], "priority": 3}"#;

/// Two hosts, of which the second is out of slots for most, with some of everything.
fn busy() -> Cell {
    let mut cell = Cell::new(two_levels(LIMITS, THREE_JOBS), forest(2, 4));
    cell.heartbeat("w1", 1);
    let started = cell.assigned();
    cell.done(vec![result(&started[0], Some("done")), result(&started[1], Some("failed"))]);
    let started = cell.assigned();
    cell.done(vec![result(&started[0], Some("error_backoff"))]);
    cell.now += 5_000;
    cell
}

fn asked(filter: &str, sort: &str, offset: u32, limit: u32) -> TasksRequest {
    let (filter, sort, page) = (filter.to_owned(), sort.to_owned(), Page { offset, limit });
    TasksRequest { list: ListRequest { filter, sort, page }, ..TasksRequest::default() }
}

fn tasks(cell: &Cell, request: &TasksRequest) -> Listing<TaskRow> {
    cell.core.task_rows(cell.now, request).unwrap()
}

/// The plain way.
fn passes(filter: &str, row: &TaskRow, now: Millis) -> bool {
    let filter = Filter::parse(filter, &TaskRow::KEYS).unwrap();
    let worker: Vec<&str> = row.running.iter().map(|running| running.worker.as_str()).collect();
    let age = row.running.as_ref().map(|running| (now - running.started_ms) as f64 / 1e3);
    filter.named(&[&row.job, &row.node])
        && filter.of("job").all(|term| term.holds_for(&row.job))
        && filter.of("node").all(|term| term.holds_for(&row.node))
        && filter.of("state").all(|term| term.holds_for(row.state.as_str()))
        && filter.of("worker").all(|term| term.holds_for_any(&worker))
        && filter.of("age").all(|term| term.holds_for_number(age))
}

#[test]
fn a_filtered_page_is_what_the_plain_way_finds() {
    let cell = busy();
    let all = tasks(&cell, &TasksRequest::default());
    assert_eq!(all.total, 24);
    let states: std::collections::BTreeSet<_> = all.items.iter().map(|row| row.state).collect();
    assert!(states.len() >= 6, "{states:?}");
    for filter in [
        "",
        "a",
        "!a",
        "ab",
        "d1",
        "a d1",
        "!a d1",
        "!ab !d1",
        "job=a",
        "job~a node~h1",
        "!job=a",
        "node~/d[12]$/",
        "state=running",
        "!state=running,avoided",
        "state=failed,backoff",
        "worker=w1",
        "!worker=w1",
        "age>4",
        "age<4s",
        "!age>4",
        "age>4 job=a",
        "h0 d1 !c",
        "state=done d",
        "node=h1d0",
        "state=unsure",
    ] {
        let right: Vec<_> =
            all.items.iter().filter(|row| passes(filter, row, cell.now)).cloned().collect();
        for (offset, limit) in [(0, 0), (0, 3), (2, 5), (7, 1), (30, 2)] {
            let listing = tasks(&cell, &asked(filter, "", offset, limit));
            let page = Page { offset, limit }.range(right.len());
            assert_eq!(listing.total, right.len() as u64, "{filter}");
            assert_eq!(listing.items, right[page], "{filter} {offset} {limit}");
        }
    }
}

#[test]
fn tasks_are_found_by_what_is_above_them() {
    let cell = busy();
    let total = |filter| tasks(&cell, &asked(filter, "", 0, 0)).total;
    assert_eq!(total("under=h1"), total("node~h1"));
    assert_eq!(total("under=root"), 24);
    assert_eq!(total("under=h1d0 job=a"), 1);
    let running = total("state=running under=h0") + total("state=running under=h1");
    assert_eq!(running, total("state=running"));
    assert_eq!(total("worker=w1 under=h0"), total("state=running under=h0"));
}

#[test]
fn a_sorted_page_is_part_of_the_sorted_whole() {
    let cell = busy();
    let key = |sort: &str, row: &TaskRow| match sort {
        "state" => row.state as u64,
        _ => row.running.as_ref().map_or(u64::MAX, |running| cell.now - running.started_ms),
    };
    for sort in ["state", "age"] {
        let whole = tasks(&cell, &asked("", sort, 0, 0)).items;
        assert!(whole.is_sorted_by_key(|row| key(sort, row)), "{sort}");
        let parts: Vec<_> =
            (0..24).step_by(5).flat_map(|at| tasks(&cell, &asked("", sort, at, 5)).items).collect();
        assert_eq!(parts, whole, "{sort}");
    }
    let oldest = tasks(&cell, &asked("state=running", "-age", 0, 0)).items;
    assert!(oldest.is_sorted_by_key(|row| row.running.as_ref().unwrap().started_ms));
    let states = tasks(&cell, &asked("", "-state", 0, 0)).items;
    assert!(states.is_sorted_by(|a, b| a.state >= b.state));
    let error = cell.core.task_rows(cell.now, &asked("", "beauty", 0, 0)).unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(error.message.contains("node, state, age"), "{}", error.message);
}

#[test]
fn jobs_nodes_and_workers_are_filtered_and_sorted() {
    let cell = busy();
    let list = |filter: &str, sort: &str| asked(filter, sort, 0, 0).list;
    let jobs = |filter, sort| -> Vec<String> {
        let rows: Listing<JobRow> = cell.core.job_rows(&list(filter, sort)).unwrap();
        rows.items.into_iter().map(|row| row.job).collect()
    };
    assert_eq!(jobs("", ""), ["a", "ab", "c"]);
    assert_eq!(jobs("", "-job"), ["c", "ab", "a"]);
    assert_eq!(jobs("", "-priority"), ["c", "a", "ab"]);
    let failed = tasks(&cell, &asked("state=failed", "", 0, 0)).items.remove(0).job;
    assert_eq!(jobs("failed>0", ""), [failed.as_str()]);
    assert_eq!(jobs("!failed>0", "").len(), 2);
    assert_eq!(jobs("", "-failed")[0], failed);
    assert_eq!(jobs("", "total")[0], "ab", "what is avoided does not count");
    let nodes = cell.core.node_rows(&list("level=db parent=h1 d3", "")).unwrap();
    assert_eq!((nodes.total, nodes.items[0].node.as_str()), (1, "h1d3"));
    let used = cell.core.node_rows(&list("level=host", "-used")).unwrap().items;
    let of = |at: usize| used[at].slots.values().map(|slots| slots.used).sum::<i64>();
    assert!(of(0) >= of(1));
    let full = cell.core.node_rows(&list("level=host free<1", "")).unwrap();
    assert!(full.items.iter().all(|row| row.slots.values().any(|s| s.used >= s.limit)));
    assert_eq!(cell.core.node_rows(&list("free<0", "")).unwrap().total, 0);
    let workers = |filter| cell.core.worker_rows(&list(filter, "")).unwrap().items;
    let names = |rows: Vec<WorkerRow>| rows.into_iter().map(|row| row.worker).collect::<Vec<_>>();
    assert_eq!(names(workers("health=healthy running>0")), ["w1"]);
    assert!(workers("health=gone").is_empty());
    assert!(cell.core.job_rows(&list("colour=red", "")).is_err());
}

#[test]
fn the_grid_comes_in_pages_and_not_at_all_to_who_has_it() {
    let cell = busy();
    let page = cell.core.grid(&GridRequest::default(), 4);
    assert_eq!((page.seq, page.total, page.jobs.len(), page.next), (4, 3, 3, None));
    assert_eq!(page.levels["db"], 8);
    let from = GridPlace { job: 1, node: 5 };
    let rest = cell.core.grid(&GridRequest { from, ..Default::default() }, 4);
    assert_eq!(rest.jobs.len(), 2);
    let whole = page.jobs[1].unpack(8).unwrap();
    assert_eq!(rest.jobs[0].unpack(8).unwrap(), whole[5..]);
    assert_eq!(rest.jobs[1], page.jobs[2]);
    let none = cell.core.grid(&GridRequest { in_sync: page.layout, ..Default::default() }, 4);
    assert!(none.jobs.is_empty() && none.next.is_none());
    let beyond = GridPlace { job: 9, node: 9 };
    assert!(cell.core.grid(&GridRequest { from: beyond, ..Default::default() }, 4).jobs.is_empty());
}

#[test]
fn a_job_is_as_far_on_a_node_as_what_needs_most_attention_below() {
    let cell = busy();
    let rows = tasks(&cell, &asked("", "", 0, 0)).items;
    let nodes = cell.core.node_rows(&asked("level=db", "", 0, 0).list).unwrap().items;
    let host_of =
        |db: &str| nodes.iter().find(|row| row.node == *db).and_then(|r| r.parent.clone());
    let jobs: BTreeSet<&str> = rows.iter().map(|row| row.job.as_str()).collect();
    let mut seen = 0;
    for job in jobs {
        let of_job: Vec<_> = rows.iter().filter(|row| row.job == *job).collect();
        let stats = cell.core.job_stats(job).unwrap();
        let level = stats.levels.last().unwrap();
        let mut expected = Counts::new();
        of_job.iter().for_each(|row| *expected.entry(row.state).or_default() += 1);
        assert_eq!(level.counts, expected, "{job}");
        if let [above, _] = stats.levels.as_slice() {
            let mut worst: BTreeMap<String, TaskState> = BTreeMap::new();
            for row in &of_job {
                let host = worst.entry(host_of(&row.node).unwrap()).or_insert(row.state);
                if row.state.attention() > host.attention() {
                    *host = row.state;
                }
            }
            let mut expected = Counts::new();
            worst.values().for_each(|state| *expected.entry(*state).or_default() += 1);
            assert_eq!((above.level.as_str(), &above.counts), ("host", &expected), "{job}");
            seen += 1;
        }
        let ended = of_job.iter().filter(|row| row.last.is_some()).count() as u64;
        assert_eq!(stats.ran.map_or(0, |ran| ran.sampled), ended, "{job}");
        assert!(stats.ran.is_none_or(|ran| ran.p50_ms <= ran.p99_ms && ran.p99_ms <= ran.max_ms));
    }
    assert!(seen > 0);
    assert!(cell.core.job_stats("nobody").is_err());
}

#[test]
fn what_is_below_a_node_is_a_span_of_each_level() {
    let cell = busy();
    let below = |node: &str| {
        let request = GridRequest { under: Some(node.to_owned()), ..Default::default() };
        cell.core.grid(&request, 4).below
    };
    let host = &cell.core.node_rows(&asked("level=host", "", 0, 0).list).unwrap().items[1].node;
    let spans = below(host);
    assert_eq!((spans["host"].first, spans["host"].count), (1, 1));
    let all = cell.core.node_rows(&asked("level=db", "", 0, 0).list).unwrap().items;
    let (first, count) = (spans["db"].first as usize, spans["db"].count as usize);
    for (at, db) in all.iter().enumerate() {
        let inside = (first..first + count).contains(&at);
        assert_eq!(db.parent.as_ref() == Some(host), inside, "{}", db.node);
    }
    assert!(count > 0);
    assert_eq!(below(&all[3].node).len(), 1, "nothing is below a leaf");
    assert!(below("nowhere").is_empty());
}

fn plan(cell: &mut Cell, action: BulkAction, filter: &str) -> (String, u64) {
    let request = PlanRequest { action, tasks: asked(filter, "", 0, 0) };
    let now = cell.now;
    let reply = cell.core.plan_bulk(now, &request).unwrap();
    assert_eq!(reply.counts.values().sum::<u64>(), reply.total);
    (reply.plan, reply.total)
}

fn apply(cell: &mut Cell, plan: &str) -> Result<ApplyReply, ErrorCode> {
    let (plan, actor, reason) = (plan.to_owned(), "me".to_owned(), "why not".to_owned());
    let request = ApplyRequest { plan, kill: None, actor, reason };
    let now = cell.now;
    cell.apply(|core, out| core.apply_bulk(now, &request, out)).map_err(|error| error.code)
}

#[test]
fn a_plan_touches_exactly_what_it_was_made_for() {
    let mut cell = busy();
    let running = tasks(&cell, &asked("state=running", "", 0, 0)).total;
    let (kill, total) = plan(&mut cell, BulkAction::Kill, "state=running");
    assert_eq!(total, running);
    // One of them ends before it is applied, and another task starts in its place.
    let victim = tasks(&cell, &asked("state=running", "", 0, 1)).items.remove(0);
    let attempt = victim.running.unwrap().attempt;
    let open = cell.core.attempts.get(attempt).unwrap().open(&cell.core.plan);
    cell.done(vec![TaskResult {
        attempt,
        task: open.task.clone(),
        attempt_no: open.attempt_no,
        outcome: Outcome::Reported { status: TaskStatus::new(bistro_common::status::bits::DONE) },
        started_ms: cell.now,
        ended_ms: cell.now,
        exit: None,
        usage: None,
    }]);
    let reply = apply(&mut cell, &kill).unwrap();
    assert_eq!(reply, ApplyReply { applied: running - 1, gone: 1, left: 0 });
    assert_eq!(apply(&mut cell, &kill), Err(ErrorCode::Gone), "once only");

    let (forgive, total) = plan(&mut cell, BulkAction::Forgive, "");
    assert_eq!(total, 2, "the failed one and the one in backoff");
    let audits = |cell: &Cell| {
        let is_forgive = |r: &&Record| matches!(r, Record::Audit { event: Some(e), .. } if e.kind == "audit.forgive");
        cell.store.iter().filter(is_forgive).count()
    };
    let before = audits(&cell);
    assert_eq!(apply(&mut cell, &forgive).unwrap(), ApplyReply { applied: 2, gone: 0, left: 0 });
    assert_eq!(audits(&cell), before + 1);
    assert_eq!(tasks(&cell, &asked("state=failed,backoff", "", 0, 0)).total, 0);
}

#[test]
fn a_plan_is_forgotten_after_a_while_and_when_the_config_changes() {
    let mut cell = busy();
    let (forgive, _) = plan(&mut cell, BulkAction::Forgive, "");
    cell.replan();
    assert_eq!(apply(&mut cell, &forgive), Err(ErrorCode::Gone));
    let (forgive, _) = plan(&mut cell, BulkAction::Forgive, "");
    cell.now += 600_000;
    assert_eq!(apply(&mut cell, &forgive), Err(ErrorCode::Gone));
    assert_eq!(apply(&mut cell, "1-99"), Err(ErrorCode::Gone));
}

#[test]
fn what_a_task_said_at_length_is_told_in_full_to_who_asks_for_that_task() {
    let mut cell =
        Cell::new(two_levels(LIMITS, r#""bistro_job->a": {"owner": "o"}"#), forest(1, 1));
    cell.heartbeat("w1", 1);
    let started = cell.assigned();
    let said = "\u{1b}".repeat(60_000);
    let line = serde_json::json!({"result": "incomplete", "data": {"exception": said}});
    cell.done(vec![result(&started[0], Some(&line.to_string()))]);
    let bytes = |status: &TaskStatus| serde_json::to_string(status).unwrap().len();
    // The next attempt is told in its command line, which has an end.
    // The next attempt is told in its command line, which has an end.
    let effects = cell.effects();
    let next = effects.iter().find_map(|effect| match effect {
        Effect::Assign { assign, .. } => assign.attempts[0].prev_status.as_ref(),
        _ => None,
    });
    assert!((65_000..67_000).contains(&next.unwrap().to_string().len()));
    let event = effects.iter().find_map(|effect| match effect {
        Effect::Publish(event) if event.text.starts_with("incomplete") => Some(event.text.len()),
        _ => None,
    });
    assert!(event.unwrap() < 2_100, "{event:?}");
    let listed = tasks(&cell, &TasksRequest::default()).items.remove(0);
    assert!(bytes(&listed.last.unwrap()) < 500);
    let explained = cell.core.explain("a", "h0d0").unwrap();
    assert_eq!(explained.task.last.unwrap().exception(), Some(&*said));
}

#[test]
fn what_runs_without_a_place_in_the_config_is_seen_and_ended() {
    let mut cell = busy();
    let before = tasks(&cell, &asked("state=running", "", 0, 0)).items;
    let of_job = |rows: &[TaskRow], job: &str| rows.iter().filter(|row| row.job == job).count();
    assert!(of_job(&before, "a") > 0 && before.len() > of_job(&before, "a"), "{before:?}");
    // One job is gone, and all nodes of the others.
    cell.plan = (two_levels(LIMITS, r#""bistro_job->ab": {"owner": "o"}"#), forest(0, 0));
    cell.replan();
    let counts = cell.core.counts();
    assert_eq!(counts, Counts::from([(TaskState::Running, before.len() as u64)]));
    let mut all = tasks(&cell, &TasksRequest::default()).items;
    assert_eq!(all.len(), before.len());
    for (at, row) in all.iter().enumerate() {
        let page = tasks(&cell, &asked("", "age", at as u32, 1));
        assert_eq!((page.total, &page.items[..]), (all.len() as u64, std::slice::from_ref(row)));
        let explained = cell.core.explain(&row.job, &row.node).unwrap();
        assert_eq!((&explained.task, explained.path.len()), (row, 3));
        let missing = if row.job == "ab" { "its node" } else { "its job" };
        assert!(explained.reasons[0].text.contains(missing), "{:?}", explained.reasons);
        let attempt = row.running.as_ref().unwrap().attempt;
        assert_eq!(cell.core.attempt_on(&row.job, &row.node), Some(attempt));
    }
    for filter in
        ["job=a", "!job=a", "a", "node~h0", "under=h0", "worker=w1", "!worker=w1", "age>4"]
    {
        let found = tasks(&cell, &asked(filter, "", 0, 0)).items;
        let wanted = |row: &&TaskRow| match filter {
            "under=h0" => row.node.starts_with("h0"),
            _ => passes(filter, row, cell.now),
        };
        let expected: Vec<_> = all.iter().filter(wanted).cloned().collect();
        assert_eq!(found, expected, "{filter}");
    }
    assert_eq!(cell.core.explain("a", "h9").unwrap_err().code, ErrorCode::NotFound);

    let (kill, total) = plan(&mut cell, BulkAction::Kill, "job=a");
    assert_eq!(total, of_job(&all, "a") as u64);
    assert_eq!(apply(&mut cell, &kill).unwrap(), ApplyReply { applied: total, gone: 0, left: 0 });
    assert_eq!(plan(&mut cell, BulkAction::Forgive, "").1, 0);
    all.retain(|row| row.job != "a");
    for row in tasks(&cell, &asked("job=a", "", 0, 0)).items {
        let attempt = row.running.unwrap().attempt;
        let task = TaskName { job: row.job.into(), node: row.node.into() };
        cell.done(vec![TaskResult {
            attempt,
            task,
            attempt_no: row.attempt_no,
            outcome: Outcome::Reported {
                status: TaskStatus::new(bistro_common::status::bits::DONE),
            },
            started_ms: cell.now,
            ended_ms: cell.now,
            exit: None,
            usage: None,
        }]);
    }
    assert_eq!(tasks(&cell, &TasksRequest::default()).items, all);
}
