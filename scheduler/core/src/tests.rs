//! The core driven by hand and by chance, with every invariant checked after every step.

use super::*;
use bistro_common::config::WorkerSelector;
use bistro_common::ids::Seq;
use bistro_common::ids::{CellId, Epoch, LedgerId, SchedulerId, TaskName};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::api::{TaskState, TasksRequest, WorkerHealth};
use bistro_common::protocol::assign::{AssignAnswer, AssignReply, AssignResult, RejectedReason};
use bistro_common::protocol::control::{Fate, Order, Probed};
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::{Capacity, Heartbeat, HeartbeatAnswer, RefusedReason};
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::TaskStatus;
use proptest::prelude::*;

fn config(text: &str) -> Arc<Config> {
    let parsed = bistro_common::config::parse(text);
    Arc::new(parsed.config.unwrap_or_else(|| panic!("{:?}", parsed.problems)))
}

fn two_levels(limits: &str, jobs: &str) -> Arc<Config> {
    config(&format!(
        r#"{{"bistro_settings": {{"enabled": true, "nodes": {{"levels": ["host", "db"],
        "node_sources": [{{"source": "empty"}}]}}, "resources": {limits}}}, {jobs}}}"#
    ))
}

/// `hosts` hosts with `dbs` databases each.
fn forest(hosts: usize, dbs: usize) -> Arc<Forest> {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    for host in 0..hosts {
        builder.add(1, &format!("h{host}"), "root", true).unwrap();
        for db in 0..dbs {
            builder.add(2, &format!("h{host}d{db}"), &format!("h{host}"), true).unwrap();
        }
    }
    Arc::new(builder.build(NodeOrder::Original).unwrap())
}

/// Two hosts with three databases each, of which the second host shares two of the first.
fn shared_forest() -> Arc<Forest> {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    for host in ["h0", "h1"] {
        builder.add(1, host, "root", true).unwrap();
    }
    for (db, host) in [("h0d0", "h0"), ("h0d1", "h0"), ("h0d2", "h0"), ("h1d0", "h1")] {
        builder.add(2, db, host, true).unwrap();
    }
    builder.add(2, "h0d0", "h1", true).unwrap();
    builder.add(2, "h0d1", "h1", true).unwrap();
    Arc::new(builder.build(NodeOrder::Original).unwrap())
}

/// A scheduler core, and a store that keeps what it was told to keep.
struct Cell {
    core: Core,
    now: Millis,
    store: Vec<Record>,
    out: Vec<Effect>,
    epoch: u64,
    plan: (Arc<Config>, Arc<Forest>),
    /// Plans are compiled when that is asked for, and entered step by step.
    slow: bool,
    drafts: Vec<Draft>,
}

impl Cell {
    fn new(config: Arc<Config>, forest: Arc<Forest>) -> Self {
        Self::with(config, forest, Snapshot::default())
    }

    /// The scheduler finds something in its store.
    fn with(config: Arc<Config>, forest: Arc<Forest>, snapshot: Snapshot) -> Self {
        let mut cell = Self {
            core: new_core(1, 1_000, snapshot),
            now: 1_000,
            store: Vec::new(),
            out: Vec::new(),
            epoch: 1,
            plan: (config, forest),
            slow: false,
            drafts: Vec::new(),
        };
        cell.replan();
        cell
    }

    fn replan(&mut self) {
        let (config, forest) = self.plan.clone();
        self.step(Input::Plan { config, forest });
    }

    fn step(&mut self, input: Input) {
        let before = self.out.len();
        if self.slow {
            self.core.step(self.now, input, &mut self.out);
            let draft = self.out.iter().position(|e| matches!(e, Effect::Compile(_)));
            if let Some(Effect::Compile(draft)) = draft.map(|at| self.out.remove(at)) {
                self.drafts.push(draft);
            }
        } else {
            self.core.step_through(self.now, input, &mut self.out);
        }
        self.core.check_invariants();
        self.store.extend(self.out[before..].iter().filter_map(|effect| match effect {
            Effect::Persist(record) => Some(record.clone()),
            _ => None,
        }));
    }

    /// Hands in the plan that was asked for.
    fn compile(&mut self) {
        for draft in std::mem::take(&mut self.drafts) {
            self.step(Input::Compiled(draft.compile()));
        }
    }

    /// Keeps what a request has recorded, and steps.
    fn apply<T>(&mut self, request: impl FnOnce(&mut Core, &mut Vec<Effect>) -> T) -> T {
        let mut out = Vec::new();
        let answer = request(&mut self.core, &mut out);
        self.store.extend(out.iter().filter_map(|effect| match effect {
            Effect::Persist(record) => Some(record.clone()),
            _ => None,
        }));
        self.step(Input::Tick);
        answer
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    fn assigned(&mut self) -> Vec<Assignment> {
        let effects = self.effects().into_iter();
        effects
            .filter_map(|effect| match effect {
                Effect::Assign { assign, .. } => Some(assign.attempts),
                _ => None,
            })
            .flatten()
            .collect()
    }

    fn heartbeat(&mut self, worker: &str, incarnation: u8) -> HeartbeatAnswer {
        let heartbeat = heartbeat(worker, incarnation, &self.core);
        self.step(Input::Heartbeat { token: 7, heartbeat: Box::new(heartbeat) });
        while self.core.is_entering() {
            self.step(Input::Tick);
        }
        let reply = self.out.iter().rev().find_map(|effect| match effect {
            Effect::Reply { token: 7, reply } => Some(reply.answer.clone()),
            _ => None,
        });
        reply.expect("every heartbeat is answered")
    }

    fn reply(&mut self, worker: &str, incarnation: u8, ids: &[AttemptId], answer: &AssignAnswer) {
        let results =
            ids.iter().map(|&attempt| AssignResult { attempt, answer: answer.clone() }).collect();
        self.step(Input::AssignReply {
            worker: name(worker),
            incarnation: inc(incarnation),
            attempts: ids.to_vec(),
            reply: Ok(AssignReply { v: VERSION, results }),
        });
    }

    fn done(&mut self, results: Vec<TaskResult>) {
        let cell = CellId::from_parts(1, [1; 10]);
        let done = Done { v: VERSION, cell, worker: name("w1"), incarnation: inc(1), results };
        self.step(Input::Done { token: 1, done });
    }

    /// A new scheduler process on the same store.
    fn restart(&mut self) {
        self.restart_without_plan();
        self.replan();
        self.compile();
    }

    fn restart_without_plan(&mut self) {
        self.epoch += 1;
        self.core = new_core(self.epoch, self.now, fold(&self.store));
        self.out.clear();
        self.drafts.clear();
    }

    fn states(&self) -> BTreeMap<TaskState, u64> {
        self.core.counts()
    }

    fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.step(Input::Tick);
    }
}

fn new_core(epoch: u64, now: Millis, snapshot: Snapshot) -> Core {
    let identity = Identity {
        cell: CellId::from_parts(1, [1; 10]),
        scheduler: SchedulerId::from_parts(epoch, [2; 10]),
        epoch: Epoch(epoch),
    };
    Core::new(identity, LeaseTerms::DEVELOPMENT, epoch, now, snapshot)
}

/// What a store makes of records.
fn fold(records: &[Record]) -> Snapshot {
    let mut kept = Kept::default();
    records.iter().cloned().for_each(|record| kept.keep(record));
    kept.snapshot()
}

fn name(worker: &str) -> WorkerName {
    WorkerName::new(worker).unwrap()
}

fn inc(n: u8) -> Incarnation {
    Incarnation::from_parts(n.into(), [n; 10])
}

fn heartbeat(worker: &str, incarnation: u8, core: &Core) -> Heartbeat {
    let open = core.worker_names.get(&name(worker)).map(|w| core.worker(*w).digest);
    Heartbeat {
        v: VERSION,
        worker: name(worker),
        incarnation: inc(incarnation),
        ledger: LedgerId::from_parts(1, [worker.len() as u8; 10]),
        cell: None,
        epoch_seen: Epoch(0),
        scheduler_seen: None,
        // "w" and "www" are on h1, "ww" is on h0.
        host: format!("h{}", worker.len() % 2),
        boot: "boot".to_owned(),
        pid: 1,
        build: "test".to_owned(),
        started_ms: 0,
        capacity: Capacity::default(),
        floor: Seq(0),
        open: open.unwrap_or_default(),
        open_attempts: None,
        unsettled: Vec::new(),
        closed: None,
    }
}

fn result(assignment: &Assignment, line: Option<&str>) -> TaskResult {
    TaskResult {
        attempt: assignment.open.attempt,
        task: assignment.open.task.clone(),
        attempt_no: assignment.open.attempt_no,
        outcome: Outcome::Reported { status: TaskStatus::of_attempt(line, false) },
        started_ms: 0,
        ended_ms: 1,
        exit: None,
        usage: None,
    }
}

const LIMITS: &str = r#"{"instance": {"global": {"limit": 5, "default": 1}},
    "host": {"slots": {"limit": 2, "default": 1}}, "worker": {"cpu": {"limit": 4, "default": 1}}}"#;
const JOBS: &str = r#""bistro_job->a": {"owner": "o", "backoff": [1, "fail"]},
    "bistro_job->b": {"owner": "o", "depends_on": ["a"], "backoff": [1, "repeat"]}"#;

#[test]
fn limits_of_every_level_hold_and_slots_come_back() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(2, 3));
    assert_eq!(cell.assigned(), [], "no worker, no start");
    cell.heartbeat("w1", 1);
    let first = cell.assigned();
    assert_eq!(first.len(), 4, "two per host, four per worker, five in all");
    assert_eq!(cell.states()[&TaskState::Blocked], 6, "b waits for a");
    cell.done(vec![result(&first[0], Some("done"))]);
    let next = cell.assigned();
    assert_eq!(next.len(), 1);
    assert_eq!(cell.states()[&TaskState::Done], 1);
}

#[test]
fn a_worker_that_falls_silent_is_given_up_after_its_lease_and_fenced() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    cell.reply("w1", 1, &[attempt.open.attempt], &AssignAnswer::Accepted);
    let end = LeaseTerms::DEVELOPMENT.scheduler_end(cell.now);
    cell.advance(end - cell.now - 1);
    assert_eq!(cell.states()[&TaskState::Running], 1, "not a moment too early");
    cell.advance(1);
    assert_eq!(cell.states()[&TaskState::Backoff], 1);
    let refused = cell.heartbeat("w1", 1);
    assert!(
        matches!(refused, HeartbeatAnswer::Refused { reason: RefusedReason::Fenced, .. }),
        "{refused:?}"
    );
    // Its real result still counts, once.
    cell.done(vec![result(&attempt, Some("done")), result(&attempt, Some("failed"))]);
    assert_eq!(cell.states()[&TaskState::Done], 1);
}

#[test]
fn after_a_restart_open_attempts_are_probed_and_nothing_else_waits() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(2, 3));
    cell.heartbeat("w1", 1);
    let before = cell.assigned();
    cell.done(vec![result(&before[0], Some("done"))]);
    cell.assigned();
    cell.restart();
    assert_eq!(cell.states()[&TaskState::Unsure], 4);
    assert_eq!(cell.states()[&TaskState::Done], 1, "what is done stays done");
    cell.heartbeat("w1", 1);
    let probe = cell.effects().into_iter().find_map(|effect| match effect {
        Effect::Control { control, .. } => Some(control),
        _ => None,
    });
    let Some(Order::Probe { attempts, .. }) = probe.map(|p| p.order) else {
        panic!("the worker is asked");
    };
    assert_eq!(attempts.len(), 4);
    let fates = [
        Fate::Running,
        Fate::Finished { result: result(&before[1], Some("done")) },
        Fate::NeverStarted,
        Fate::Finished { result: result(&before[2], Some("done")) },
    ];
    let mut ordered: Vec<AttemptId> = attempts;
    // Give each attempt a fate that is about itself.
    ordered.sort_by_key(|id| {
        before.iter().position(|a| a.open.attempt == *id).map_or(0, |at| [9, 1, 3, 2][at])
    });
    let reply =
        ordered.into_iter().zip(fates).map(|(attempt, fate)| Probed { attempt, fate }).collect();
    cell.step(Input::ProbeReply { worker: name("w1"), incarnation: inc(1), reply: Some(reply) });
    assert!(cell.states()[&TaskState::Done] >= 2, "{:?}", cell.states());
}

#[test]
fn a_start_is_told_before_its_end_whichever_answer_is_faster() {
    for answered in [true, false] {
        let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
        cell.heartbeat("w1", 1);
        let attempt = cell.assigned().remove(0);
        let accepted = |attempt: &Assignment| {
            let (attempt, answer) = (attempt.open.attempt, AssignAnswer::Accepted);
            let reply = AssignReply { v: VERSION, results: vec![AssignResult { attempt, answer }] };
            let (worker, incarnation) = (name("w1"), inc(1));
            Input::AssignReply { worker, incarnation, attempts: vec![attempt], reply: Ok(reply) }
        };
        if answered {
            cell.step(accepted(&attempt));
        }
        cell.done(vec![result(&attempt, Some("done"))]);
        cell.step(accepted(&attempt));
        let kinds: Vec<_> = cell
            .effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Publish(event) if event.attempt == Some(attempt.open.attempt) => {
                    Some(event.kind.to_string())
                }
                _ => None,
            })
            .collect();
        assert_eq!(kinds, ["task.started", "task.done"], "answered: {answered}");
    }
}

#[test]
fn an_assignment_without_an_answer_is_probed_and_never_sent_again() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    cell.step(Input::AssignReply {
        worker: name("w1"),
        incarnation: inc(1),
        attempts: vec![attempt.open.attempt],
        reply: Err(SendFailure::Unknown),
    });
    cell.effects();
    cell.advance(1_000);
    let effects = cell.effects();
    assert!(!effects.iter().any(|e| matches!(e, Effect::Assign { .. })), "{effects:?}");
    let floor = effects.iter().find_map(|effect| match effect {
        Effect::Control { control, .. } => match &control.order {
            Order::Probe { floor, .. } => Some(*floor),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(floor, Some(attempt.seq), "whatever is under way is refused");
    let reply = Some(vec![Probed { attempt: attempt.open.attempt, fate: Fate::NeverStarted }]);
    cell.step(Input::ProbeReply { worker: name("w1"), incarnation: inc(1), reply });
    let again = cell.assigned().remove(0);
    assert_eq!(again.open.attempt_no, 2);
    assert!(again.seq > attempt.seq);
}

#[test]
fn exhausted_backoffs_fail_and_forgiving_runs_again() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    cell.done(vec![result(&attempt, None)]);
    assert_eq!(cell.states()[&TaskState::Backoff], 1);
    cell.heartbeat("w1", 1);
    cell.advance(1_000);
    let attempt = cell.assigned().remove(0);
    cell.done(vec![result(&attempt, None)]);
    assert_eq!(cell.states()[&TaskState::Failed], 1);
    assert!(cell.core.is_finished(), "b can never run");
    let request = bistro_common::protocol::api::ForgiveRequest {
        job: "a".to_owned(),
        node: None,
        actor: "test".to_owned(),
        reason: String::new(),
    };
    let mut out = Vec::new();
    let reply = cell.core.forgive(cell.now, &request, &mut out).unwrap();
    assert_eq!(reply.forgiven, 1);
    cell.core.check_invariants();
    cell.heartbeat("w1", 1);
    assert_eq!(cell.assigned().len(), 1);
}

#[test]
fn a_lower_limit_stops_new_starts_and_kills_nothing() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(2, 3));
    cell.heartbeat("w1", 1);
    let running = cell.assigned();
    cell.plan.0 = two_levels(&LIMITS.replace("\"limit\": 5", "\"limit\": 1"), JOBS);
    cell.replan();
    assert_eq!(cell.states()[&TaskState::Running], 4);
    for attempt in &running[..3] {
        cell.done(vec![result(attempt, Some("done"))]);
        assert_eq!(cell.assigned(), [], "still more running than the limit");
    }
    cell.done(vec![result(&running[3], Some("done"))]);
    assert_eq!(cell.assigned().len(), 1);
}

#[test]
fn tasks_of_a_removed_job_keep_their_history() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 1));
    cell.heartbeat("w1", 1);
    let attempt = cell.assigned().remove(0);
    let with_a = std::mem::replace(
        &mut cell.plan.0,
        two_levels(LIMITS, r#""bistro_job->c": {"owner": "o", "enabled": false}"#),
    );
    cell.replan();
    cell.done(vec![result(&attempt, Some("done"))]);
    cell.plan.0 = with_a;
    cell.replan();
    assert_eq!(cell.states()[&TaskState::Done], 1);
}

#[test]
fn explain_names_what_is_missing_and_who_holds_it() {
    let mut cell = Cell::new(two_levels(LIMITS, JOBS), forest(1, 3));
    let explanation = cell.core.explain("a", "h0d0").unwrap();
    assert_eq!(explanation.reasons[0].text, "no worker is connected and healthy");
    cell.heartbeat("w1", 1);
    let ready = cell
        .core
        .task_rows(
            cell.now,
            &TasksRequest { states: vec![TaskState::CanRun], ..Default::default() },
        )
        .unwrap()
        .items;
    let explanation = cell.core.explain("a", &ready[0].node).unwrap();
    assert_eq!(explanation.reasons[0].text, "needs 1 slots on h0, which has 2 of 2 in use");
    assert_eq!(explanation.reasons[0].held_by.len(), 2);
    let explanation = cell.core.explain("b", "h0d0").unwrap();
    assert_eq!(explanation.reasons[0].text, "a is not done on this node");
    assert!(cell.core.explain("nobody", "h0d0").is_err());
    assert!(cell.core.explain("a", "nowhere").is_err());
}

#[test]
fn ranked_priority_starts_the_highest_first() {
    let jobs = r#""bistro_job->low": {"owner": "o", "priority": 1},
        "bistro_job->high": {"owner": "o", "priority": 9}"#;
    let text = two_levels(LIMITS, jobs);
    let mut ranked = (*text).clone();
    ranked.settings.policy = PolicyKind::RankedPriority;
    let mut cell = Cell::new(Arc::new(ranked), forest(2, 2));
    cell.heartbeat("w1", 1);
    assert!(cell.assigned().iter().all(|a| &*a.open.task.job == "high"));
}

/// Jobs that do not run just anywhere, or at any time.
const CHOOSY: &str = r#"
    "bistro_job->placed": {"owner": "o", "level_for_host_placement": "host"},
    "bistro_job->pinned": {"owner": "o", "host_placement": "h1"},
    "bistro_job->few": {"owner": "o", "filters": {"db": {"whitelist": ["h1d2", "h0d0"]}}},
    "bistro_job->half": {"owner": "o", "depends_on": ["few"],
        "filters": {"db": {"whitelist_regex": "[02468]$"}, "host": {"blacklist": ["h2"]}}},
    "bistro_job->picky": {"owner": "o", "filters": {"worker": {"blacklist": ["h1"]}}},
    "bistro_job->last": {"owner": "o", "run_only_after_all_nodes_are_done_for": ["a"]}"#;

impl Cell {
    fn check_choosy(&self, assignment: &Assignment) {
        let Some(attempt) = self.core.attempts.get(assignment.open.attempt) else {
            return;
        };
        let host = self.core.worker(attempt.worker).host.as_str();
        match &*assignment.open.task.job {
            "placed" => assert_eq!(host, &*assignment.open.path[1].node),
            "pinned" => assert_eq!(host, "h1"),
            "picky" => assert_ne!(host, "h1"),
            "last" => {
                let counts = self.core.plan.counts(self.core.plan.job("a").unwrap());
                assert_eq!(counts.keys().collect::<Vec<_>>(), [&TaskState::Done]);
            }
            _ => {}
        }
    }
}

#[test]
fn placed_jobs_run_where_they_must_and_a_dead_host_stops_nobody_else() {
    let mut cell = Cell::new(two_levels("{}", CHOOSY), forest(2, 2));
    // On h1 only.
    cell.heartbeat("w", 1);
    let assigned = cell.assigned();
    assigned.iter().for_each(|assignment| cell.check_choosy(assignment));
    let of = |job: &str| assigned.iter().filter(|a| *a.open.task.job == *job).count();
    assert_eq!(["placed", "pinned", "picky", "last"].map(of), [2, 4, 0, 0]);
    let explanation = cell.core.explain("placed", "h0d0").unwrap();
    let texts: Vec<_> = explanation.reasons.iter().map(|r| r.text.as_str()).collect();
    assert!(texts.contains(&"it must run on the host h0, where no worker takes it"), "{texts:?}");
    let explanation = cell.core.explain("last", "h0d0").unwrap();
    assert_eq!(explanation.reasons[0].text, "a is not done on all nodes");
    cell.heartbeat("ww", 1);
    let assigned = cell.assigned();
    assigned.iter().for_each(|assignment| cell.check_choosy(assignment));
    let of = |job: &str| assigned.iter().filter(|a| *a.open.task.job == *job).count();
    assert_eq!(["placed", "pinned", "picky", "last"].map(of), [2, 0, 4, 0]);
}

#[test]
fn the_fullest_worker_is_chosen_if_that_is_wanted() {
    let limits = r#"{"worker": {"cpu": {"limit": 4, "default": 1, "weight": 1}}}"#;
    let jobs = r#""bistro_job->a": {"owner": "o"}"#;
    let mut config = (*two_levels(limits, jobs)).clone();
    config.settings.worker_selector = WorkerSelector::Busiest;
    let mut cell = Cell::new(Arc::new(config), forest(1, 6));
    cell.heartbeat("w", 1);
    cell.heartbeat("ww", 1);
    let running =
        |cell: &Cell| cell.core.workers.iter().map(|w| w.attempts.len()).collect::<Vec<_>>();
    assert_eq!(running(&cell), [4, 2]);
}

mod condemned;
mod definitions;
mod finished;
mod late;
mod lists;
mod maintenance;
mod paths;
mod plans;
mod promises;
mod rivals;
