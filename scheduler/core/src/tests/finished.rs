//! What was finished when the process began is packed away. Nobody can tell, whatever happens.

use super::*;
use bistro_common::protocol::api::ForgiveRequest;
use bistro_common::status::bits;
use serde_json::json;

#[derive(Clone, Debug)]
enum Act {
    Heartbeat(u8),
    Finish(usize, u8),
    /// The result of an attempt that was given up before the process began.
    Late(usize),
    Forgive(&'static str),
    Advance(u64),
    /// Other nodes, or other jobs.
    Replan(u8, u8),
    Slow(bool),
    Compile,
    Define(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1u8..3).prop_map(Act::Heartbeat),
        6 => (any::<usize>(), 0u8..4).prop_map(|(i, how)| Act::Finish(i, how)),
        2 => any::<usize>().prop_map(Act::Late),
        1 => prop::sample::select(vec!["a", "b", "last", "extra2"]).prop_map(Act::Forgive),
        1 => (0u64..20_000).prop_map(Act::Advance),
        2 => (0u8..4, 0u8..3).prop_map(|(nodes, jobs)| Act::Replan(nodes, jobs)),
        1 => any::<bool>().prop_map(Act::Slow),
        2 => Just(Act::Compile),
        3 => any::<usize>().prop_map(Act::Define),
    ]
}

const TASK_JOBS: [&str; 6] = ["a", "b", "few", "last", "extra2", "gone"];

fn lost(number: usize) -> AttemptId {
    AttemptId::from_parts(1, [number as u8; 10])
}

/// A task that may be of no job and no node, and what is known of it.
fn known_task() -> impl Strategy<Value = (TaskName, TaskRecord)> {
    let node = (0usize..3, 0usize..4).prop_map(|(host, db)| format!("h{host}d{db}"));
    let phase = prop::sample::select(vec![
        Phase::Done,
        Phase::Done,
        Phase::Failed,
        Phase::Failed,
        Phase::Ready,
        Phase::Backoff,
    ]);
    let task = (prop::sample::select(TASK_JOBS.to_vec()), node);
    (task, phase, 1u32..4, any::<bool>()).prop_map(|((job, node), phase, attempt_no, was_lost)| {
        let status = match phase {
            Phase::Done => TaskStatus::new(bits::DONE),
            Phase::Failed => TaskStatus::with_exception(bits::FAILED, "it is broken"),
            _ => TaskStatus::with_exception(bits::ERROR_BACKOFF, "try again"),
        };
        let is_lost = was_lost && phase != Phase::Done;
        let record = TaskRecord {
            attempt_no,
            phase,
            status: Some(status),
            status_ms: 500,
            ran_ms: 7,
            backoff_seconds: u64::from(phase == Phase::Backoff),
            lost: is_lost.then(|| Box::new(lost(attempt_no as usize))),
            ..TaskRecord::default()
        };
        (TaskName::new(job, node), record)
    })
}

fn jobs(which: u8) -> String {
    match which {
        0 => format!("{JOBS}, {CHOOSY}"),
        1 => JOBS.to_owned(),
        // What was for databases is for hosts, and another way round.
        _ => r#""bistro_job->b": {"owner": "o"},
            "bistro_job->a": {"owner": "o", "depends_on": ["b", "few"]},
            "bistro_job->few": {"owner": "o", "filters": {"db": {"blacklist": ["h0d0"]}}}"#
            .to_owned(),
    }
}

impl Cell {
    fn forgive(&mut self, job: &str) {
        let (job, node) = (job.to_owned(), None);
        let request = ForgiveRequest { job, node, actor: "me".to_owned(), reason: String::new() };
        let now = self.now;
        // There may be no such job.
        let _ = self.apply(|core, out| core.forgive(now, &request, out));
    }

    /// The real result of a lost attempt of one of some tasks.
    fn late(&mut self, task: &TaskName, number: usize) {
        self.done(vec![TaskResult {
            attempt: lost(number),
            task: task.clone(),
            attempt_no: number as u32,
            outcome: Outcome::Reported { status: TaskStatus::new(bits::DONE) },
            started_ms: 0,
            ended_ms: 3,
            exit: None,
            usage: None,
        }]);
    }

    fn act(&mut self, act: &Act, sent: &[Assignment], tasks: &[TaskName]) {
        match *act {
            Act::Heartbeat(worker) => drop(self.heartbeat(&"w".repeat(worker.into()), 1)),
            Act::Finish(at, how) if !sent.is_empty() => {
                let line = [Some("done"), Some("incomplete"), Some("failed"), None][how as usize];
                self.done(vec![result(&sent[at % sent.len()], line)]);
            }
            Act::Late(at) => self.late(&tasks[at % tasks.len()], 1 + at / tasks.len() % 3),
            Act::Forgive(job) => self.forgive(job),
            Act::Advance(ms) => self.advance(ms),
            Act::Replan(nodes, which) => {
                self.plan.1 = match nodes {
                    0 => forest(1, 2),
                    1 => forest(2, 3),
                    2 => forest(3, 17),
                    _ => shared_forest(),
                };
                self.plan.0 = two_levels(LIMITS, &jobs(which));
                self.replan();
            }
            Act::Slow(slow) => {
                self.compile();
                self.slow = slow;
            }
            Act::Compile => self.compile(),
            Act::Define(n) => drop(definitions::make_or_delete(self, n)),
            Act::Finish(..) => {}
        }
        while self.core.is_entering() {
            self.step(Input::Tick);
        }
    }

    fn rows(&self) -> Vec<bistro_common::protocol::api::TaskRow> {
        self.core.task_rows(self.now, &TasksRequest::default()).unwrap().items
    }
}

/// A job that was made from outside.
fn extra() -> (String, Definition) {
    let given = json!({"owner": "o", "filters": {"host": {"blacklist": ["h0"]}}});
    let definition = Definition {
        given: given.as_object().cloned(),
        overrides: Default::default(),
        version_id: 1,
        created_ms: 1,
        modified_ms: 1,
        modified_by: "me".to_owned(),
    };
    ("extra2".to_owned(), definition)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nobody_can_tell_rows_from_records(
        mut tasks in prop::collection::vec(known_task(), 1..60),
        large in any::<bool>(),
        acts in prop::collection::vec(act(), 1..40),
    ) {
        tasks.sort_by(|(a, _), (b, _)| a.cmp(b));
        tasks.dedup_by(|(a, _), (b, _)| a == b);
        let definitions = vec![extra()];
        let records = Snapshot { tasks: tasks.clone(), definitions, ..Snapshot::default() };
        let mut packed = Snapshot { tasks: Vec::new(), ..records.clone() };
        tasks.iter().for_each(|(task, record)| packed.add_task(task.clone(), record.clone()));
        prop_assert!(packed.tasks.iter().all(|(_, record)| !record.phase.is_over()));
        let nodes = if large { forest(2, 20) } else { forest(2, 3) };
        let mut cells = [records, packed].map(|snapshot| {
            Cell::with(two_levels(LIMITS, &jobs(0)), nodes.clone(), snapshot)
        });
        let tasks: Vec<TaskName> = tasks.into_iter().map(|(task, _)| task).collect();
        let mut sent: Vec<Assignment> = Vec::new();
        for act in &acts {
            let [expected, found] = cells.each_mut().map(|cell| {
                cell.act(act, &sent, &tasks);
                (cell.assigned(), cell.states(), cell.rows())
            });
            prop_assert_eq!(&expected, &found);
            for job in TASK_JOBS {
                let [expected, found] = cells.each_ref().map(|cell| cell.core.histogram(job, 9));
                prop_assert_eq!(expected, found);
            }
            sent.extend(found.0);
        }
        let [expected, found] = cells.each_ref().map(|cell| fold(&cell.store));
        prop_assert_eq!(expected, found);
    }
}

#[test]
fn what_is_finished_takes_no_record_until_it_changes() {
    let done = |node: &str| {
        let phase = Phase::Done;
        (TaskName::new("a", node), TaskRecord { attempt_no: 4, phase, ..Default::default() })
    };
    let mut snapshot = Snapshot::default();
    for node in ["h0d0", "h0d1", "h9d9"] {
        let (task, record) = done(node);
        snapshot.add_task(task, record);
    }
    let mut cell = Cell::with(two_levels(LIMITS, JOBS), forest(1, 3), snapshot);
    assert_eq!((cell.core.records.len(), cell.core.parked.len()), (0, 0));
    assert_eq!(cell.states()[&TaskState::Done], 2);
    cell.heartbeat("w1", 1);
    let started: BTreeSet<String> =
        cell.assigned().iter().map(|a| a.open.task.to_string()).collect();
    assert!(
        !started.iter().any(|task| task.contains("a") && !task.contains("h0d2")),
        "{started:?}"
    );
    // A node that comes back is done, too.
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    builder.add(1, "h9", "root", true).unwrap();
    builder.add(2, "h9d9", "h9", true).unwrap();
    cell.plan.1 = Arc::new(builder.build(NodeOrder::Original).unwrap());
    cell.replan();
    assert_eq!(cell.core.task_record("a", "h9d9"), Some(done("h9d9").1));
}
