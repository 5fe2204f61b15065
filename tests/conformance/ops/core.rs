//! What a scheduler's core makes of statuses, nodes, workers and time.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use bistro_common::config::{Config, parse};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::api::{ForgiveRequest, TaskRow, TaskState, TasksRequest};
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::control::Order;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::task::{Outcome, TaskResult};
use bistro_common::status::{TaskStatus, bits};
use bistro_core::{Core, Effect, Forest, Input, Snapshot};
use bistro_scheduler::nodes::{Scripts, fetch};
use bistro_tests::bare_core::{NOW, cell_id, core, heartbeat, incarnation, worker};

use super::{Answer, field};

/// A core that has a plan, and the time.
pub struct Cell {
    pub core: Core,
    now: u64,
    out: Vec<Effect>,
}

pub fn read(settings: &Value, jobs: &Map<String, Value>) -> Result<Config, String> {
    let mut text = json!({"bistro_settings": settings});
    for (name, job) in jobs {
        let mut job = job.clone();
        job["owner"] = json!("o");
        text[format!("bistro_job->{name}")] = job;
    }
    let parsed = parse(&text.to_string());
    let problems: Vec<_> = parsed.problems.iter().map(|p| p.message.clone()).collect();
    parsed.config.ok_or_else(|| problems.join("; "))
}

fn forest(config: &Config) -> Result<Forest, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut scripts = Scripts::default();
    let forest = fetch(&config.settings, "<instance>", 0, &mut scripts);
    runtime.block_on(forest).map_err(|error| error.to_string())
}

pub fn settings(levels: Value, manual: &Value, resources: Value) -> Value {
    json!({
        "enabled": true,
        "nodes": {"levels": levels, "node_sources": [{"source": "manual", "prefs": manual}]},
        "resources": resources,
    })
}

pub fn jobs(of: Value) -> Map<String, Value> {
    of.as_object().cloned().unwrap_or_default()
}

impl Cell {
    pub fn new(config: Config) -> Result<Self, String> {
        Self::with(config, Snapshot::default())
    }

    /// One that knows something already.
    pub fn with(config: Config, snapshot: Snapshot) -> Result<Self, String> {
        let mut cell = Self { core: core(1, snapshot), now: NOW, out: Vec::new() };
        cell.plan(config)?;
        Ok(cell)
    }

    fn plan(&mut self, config: Config) -> Result<(), String> {
        let forest = Arc::new(forest(&config)?);
        self.step(Input::Plan { config: Arc::new(config), forest });
        Ok(())
    }

    fn step(&mut self, input: Input) {
        self.core.step_through(self.now, input, &mut self.out);
    }

    fn join(&mut self, name: &str, host: &str) -> Result<(), String> {
        let mut beat = heartbeat(Default::default());
        beat.worker = bistro_common::ids::WorkerName::new(name).map_err(|e| e.to_string())?;
        beat.host = host.to_owned();
        beat.incarnation = bistro_common::ids::Incarnation::from_parts(1, [name.len() as u8; 10]);
        beat.ledger = bistro_common::ids::LedgerId::from_parts(
            1,
            name.bytes().chain([0; 10]).take(10).collect::<Vec<_>>().try_into().unwrap_or([0; 10]),
        );
        self.step(Input::Heartbeat { token: 1, heartbeat: Box::new(beat) });
        Ok(())
    }

    /// What was assigned since the last call, and to which worker.
    fn assigned(&mut self) -> Vec<(String, Assignment)> {
        let assigned = self.out.drain(..).filter_map(|effect| match effect {
            Effect::Assign { worker, assign } => Some((worker.to_string(), assign.attempts)),
            _ => None,
        });
        let each = |(worker, attempts): (String, Vec<Assignment>)| {
            attempts.into_iter().map(move |attempt| (worker.clone(), attempt))
        };
        assigned.flat_map(each).collect()
    }

    fn report(&mut self, assignment: &Assignment, status: TaskStatus) {
        let result = TaskResult {
            attempt: assignment.open.attempt,
            task: assignment.open.task.clone(),
            attempt_no: assignment.open.attempt_no,
            outcome: Outcome::Reported { status },
            started_ms: self.now,
            ended_ms: self.now,
            exit: None,
            usage: None,
        };
        let (cell, worker, incarnation) = (cell_id(), worker(), incarnation());
        let done = Done { v: VERSION, cell, worker, incarnation, results: vec![result] };
        self.step(Input::Done { token: 1, done });
    }

    fn tasks(&self) -> Vec<TaskRow> {
        let request = TasksRequest::default();
        self.core.task_rows(NOW, &request).expect("a list without a filter").items
    }
}

/// A job "job" on one node, and its first assignment.
fn one_task(backoff: Value) -> Result<(Cell, Assignment), String> {
    let settings = settings(json!(["l"]), &json!({"n": []}), json!({}));
    let mut cell = Cell::new(read(&settings, &jobs(json!({"job": {"backoff": backoff}})))?)?;
    cell.join("w1", "host")?;
    let first = cell.assigned().pop().ok_or("nothing was started")?;
    Ok((cell, first.1))
}

fn status_named(name: &str) -> TaskStatus {
    match name {
        "killed_without_status" => TaskStatus::of_attempt(None, true),
        "overwriteable_error" => {
            TaskStatus::with_exception(bits::ERROR | bits::OVERWRITEABLE, "lost".to_owned())
        }
        line => TaskStatus::parse(line),
    }
}

/// The core always has an attempt between two results, so both modes are one here: the configured
/// wait is remembered over the attempt.
pub fn status_sequence(given: &Value) -> Answer {
    let (mut cell, mut attempt) = one_task(given["backoff"].clone())?;
    let events: Vec<String> = field(given, "events")?;
    let (mut steps, mut waited) = (Vec::new(), 0);
    for event in &events {
        if event == "forgive" {
            let request = json!({"job": "job", "actor": "a", "reason": ""});
            let request: ForgiveRequest = field(&json!({"r": request}), "r")?;
            let forgiven = cell.core.forgive(cell.now, &request, &mut cell.out);
            forgiven.map_err(|error| error.message)?;
        } else {
            // The task waits, and runs again.
            cell.now += 1_000 * waited;
            cell.step(Input::Tick);
            attempt = cell.assigned().pop().map_or(attempt, |(_, next)| next);
            cell.report(&attempt, status_named(event));
        }
        let record = cell.core.task_record("job", "n").ok_or("the task has no record")?;
        let status = record.status.clone().ok_or("the task has no status")?;
        let failed = status.has(bits::FAILED);
        steps.push(json!({
            "backoff_seconds": record.backoff_seconds,
            "failed": failed,
            "result_bits": status.result_bits,
            "can_run_now": !failed && record.backoff_until_ms() <= cell.now,
        }));
        waited = record.backoff_seconds;
    }
    Ok(json!({"steps": steps}))
}

/// Several results of the same attempt: one counts.
pub fn apply_after_running(given: &Value) -> Answer {
    let (mut cell, attempt) = one_task(json!([1, "fail"]))?;
    let statuses: Vec<String> = field(given, "statuses")?;
    for status in &statuses {
        cell.report(&attempt, status_named(status));
    }
    let record = cell.core.task_record("job", "n").ok_or("the task has no record")?;
    let status = record.status.ok_or("the task has no status")?;
    let stored = statuses.iter().find(|name| status_named(name).result_bits == status.result_bits);
    Ok(json!({"stored": stored}))
}

pub fn is_in_backoff(given: &Value) -> Answer {
    let timestamp: u64 = field(given, "timestamp")?;
    let (mut cell, attempt) = one_task(json!([given["backoff_seconds"]]))?;
    cell.report(&attempt, status_named("error_backoff"));
    let moments: Vec<u64> = field(given, "now")?;
    let mut results = Vec::new();
    for moment in moments {
        cell.now = NOW + (moment - timestamp) * 1_000;
        cell.step(Input::Tick);
        results.push(cell.tasks()[0].state == TaskState::Backoff);
    }
    Ok(json!({"results": results}))
}

pub fn should_run_on(given: &Value) -> Answer {
    let path: Vec<Value> = field(given, "path_from_task_node_up")?;
    let levels = ["l1", "l2", "l3", "l4"];
    let name = |node: &Value| node["name"].as_str().unwrap_or_default().to_owned();
    let mut manual = Map::new();
    // The instance node is above the path.
    for (i, node) in path.iter().enumerate() {
        let child = i.checked_sub(1).map(|child| name(&path[child]));
        let disabled = node["enabled"] == false;
        let children: Vec<String> = child.into_iter().collect();
        manual.insert(name(node), json!({"children": children, "disabled": disabled}));
    }
    let top = path.last().and_then(|node| node["level"].as_u64()).unwrap_or(0);
    let filters: BTreeMap<u64, Value> = field(given, "filters_by_level")?;
    let filters = filters
        .into_iter()
        .map(|(level, filter)| (levels[(level - top) as usize].to_owned(), filter));
    let filters: Map<String, Value> = filters.collect();
    let settings = settings(json!(&levels[..path.len()]), &Value::Object(manual), json!({}));
    let cell = Cell::new(read(&settings, &jobs(json!({"job": {"filters": filters}})))?)?;
    let verdict = match cell.tasks().first().map(|task| task.state) {
        Some(TaskState::Disabled) => "disabled",
        Some(TaskState::Avoided) => "avoided",
        _ => "yes",
    };
    Ok(json!({"verdict": verdict}))
}

pub fn level_for_tasks(given: &Value) -> Answer {
    let mut settings = settings(given["levels"].clone(), &given["nodes"], json!({}));
    for (key, value) in given["settings"].as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    let cell = Cell::new(read(&settings, &jobs(json!({"job": given["job"]})))?)?;
    let nodes: Vec<_> = cell.tasks().into_iter().map(|task| task.node).collect();
    Ok(json!({"tasks_on": nodes}))
}

pub fn is_orphan(given: &Value) -> Answer {
    let flag = |value: &Value| value.as_bool().unwrap_or(true);
    let manual = if given["node"].is_null() || given["node"] == "deleted" {
        json!({"p": []})
    } else {
        json!({
            "p": {"children": ["n"], "disabled": !flag(&given["parent_enabled"])},
            "n": {"disabled": !flag(&given["node"]["enabled"])},
        })
    };
    let mut of_job = json!({});
    if given["filtered_out_now"] == true {
        of_job["filters"] = json!({"l2": {"whitelist": ["other"]}});
    }
    let jobs = match given["job"].as_str().unwrap_or_default() {
        "deleted" => Map::new(),
        state => {
            of_job["enabled"] = json!(!state.contains("disabled"));
            if state.contains("invalid") {
                of_job["priority"] = json!([]);
            }
            jobs(json!({"job": of_job}))
        }
    };
    let cell = Cell::new(read(&settings(json!(["l1", "l2"]), &manual, json!({})), &jobs)?)?;
    Ok(json!({"orphan": cell.core.is_orphan("job", "n")}))
}

pub fn kill_orphans_timeline(given: &Value) -> Answer {
    let names: Vec<String> = field(&given["start"], "jobs")?;
    let mut enabled: BTreeMap<String, bool> = names.into_iter().map(|job| (job, true)).collect();
    let mut delay = given["start"]["kill_orphan_tasks_after_sec"].clone();
    let mut settings = settings(json!(["l"]), &json!({"n": []}), json!({}));
    let plan = |settings: &mut Value, enabled: &BTreeMap<String, bool>, delay: &Value| {
        settings["kill_orphan_tasks_after_sec"] = delay.clone();
        let each = enabled.iter().map(|(job, on)| (job.clone(), json!({"enabled": on})));
        read(settings, &each.collect())
    };
    let mut cell = Cell::new(plan(&mut settings, &enabled, &delay)?)?;
    let steps: Vec<Value> = field(given, "steps")?;
    let (mut actions, mut running) = (Vec::new(), BTreeMap::new());
    for (i, step) in steps.iter().enumerate() {
        cell.now = NOW + field::<u64>(step, "t")? * 1_000;
        let job = |key: &str| step[key].as_str().map(str::to_owned);
        job("remove_job").map(|job| enabled.remove(&job));
        job("add_job").map(|job| enabled.insert(job, true));
        job("disable_job").map(|job| enabled.insert(job, false));
        job("enable_job").map(|job| enabled.insert(job, true));
        if !step["kill_orphan_tasks_after_sec"].is_null() {
            delay = step["kill_orphan_tasks_after_sec"].clone();
        }
        if !step["settings_enabled"].is_null() {
            settings["enabled"] = step["settings_enabled"].clone();
        }
        // A config that cannot be read changes nothing.
        if step["config_error"] != true {
            cell.plan(plan(&mut settings, &enabled, &delay)?)?;
        }
        if i == 0 {
            cell.join("w1", "host")?;
        }
        cell.step(Input::Tick);
        let mut action = Value::Null;
        for effect in cell.out.drain(..) {
            match effect {
                Effect::Assign { assign, .. } => {
                    for attempt in assign.attempts {
                        action = json!(format!("run {}", attempt.open.task.job));
                        running.insert(attempt.open.attempt, attempt.open.task.job.clone());
                    }
                }
                Effect::Control { control, .. } => {
                    if let Order::Kill { attempt, .. } = control.order {
                        action = json!(format!("kill {}", running[&attempt]));
                    }
                }
                _ => {}
            }
        }
        actions.push(action);
    }
    Ok(json!({"actions": actions}))
}

pub fn select_worker(given: &Value) -> Answer {
    let available: BTreeMap<String, BTreeMap<String, i64>> = field(given, "available")?;
    let needs: BTreeMap<String, i64> = field(given, "task_needs")?;
    let weight = |name: &str| given["weights"][name].as_i64().unwrap_or(0);
    let resources = needs.iter().map(|(name, need)| {
        (name.clone(), json!({"limit": 0, "default": need, "weight": weight(name)}))
    });
    let mut settings = settings(json!(["l"]), &json!({"n": []}), json!({}));
    settings["resources"] = json!({"worker": resources.collect::<Map<_, _>>()});
    settings["remote_worker_selector"] = given["selector"].clone();
    settings["worker_resources_override"] = json!(available);
    // Nothing starts before all workers are there.
    let job = |enabled: bool| jobs(json!({"job": {"enabled": enabled}}));
    let mut cell = Cell::new(read(&settings, &job(false))?)?;
    for name in available.keys() {
        cell.join(name, &format!("host of {name}"))?;
    }
    cell.plan(read(&settings, &job(true))?)?;
    let chosen = cell.assigned().pop().map(|(worker, _)| worker);
    let rows = cell.core.worker_rows(&Default::default()).expect("a list without a filter").items;
    let after: BTreeMap<_, BTreeMap<_, _>> = rows
        .into_iter()
        .map(|row| {
            let left = row.slots.into_iter().map(|(name, slots)| (name, slots.limit - slots.used));
            (row.worker, left.collect())
        })
        .collect();
    Ok(json!({"worker": chosen, "available_after": after}))
}

pub fn task_resources_json(given: &Value) -> Answer {
    let path: Vec<(String, String)> = field(given, "path")?;
    let mut manual = Map::new();
    for pair in path.windows(2).filter(|pair| pair[1].1 != "instance") {
        manual.insert(pair[1].0.clone(), json!([pair[0].0]));
    }
    let settings =
        settings(given["levels"].clone(), &Value::Object(manual), given["resources"].clone());
    let mut cell = Cell::new(read(&settings, &jobs(json!({"job": given["job"]})))?)?;
    cell.join("w1", "host")?;
    let (_, assignment) = cell.assigned().pop().ok_or("nothing was started")?;
    let taken = assignment.open.path.iter().filter(|on| !on.slots.is_empty());
    let taken: BTreeMap<_, _> = taken.map(|on| (on.node.clone(), on.slots.clone())).collect();
    Ok(json!({"resources_by_node": taken}))
}

pub fn accounting(given: &Value) -> Answer {
    let of_settings =
        settings(given["levels"].clone(), &given["manual"], given["resources"].clone());
    let config = read(&of_settings, &jobs(given["jobs"].clone()))?;
    let mut cell = Cell::new(config)?;
    let running: Vec<(String, String)> = field(given, "running")?;
    if !running.is_empty() {
        cell.join("w1", "host")?;
        let started: Vec<_> =
            cell.assigned().into_iter().map(|(_, a)| a.open.task.clone()).collect();
        if started.len() != running.len() {
            return Err(format!("{started:?} run, not {running:?}"));
        }
    }
    let mut candidates = BTreeMap::<String, Vec<String>>::new();
    let tasks = cell.tasks();
    for task in &tasks {
        let of_job = candidates.entry(task.job.clone()).or_default();
        if task.state == TaskState::CanRun {
            of_job.push(task.node.clone());
        }
    }
    let orphans: Vec<_> =
        running.iter().filter(|(job, node)| cell.core.is_orphan(job, node)).collect();
    let mut remaining = BTreeMap::<String, BTreeMap<String, i64>>::new();
    let rows = cell.core.node_rows(&Default::default()).expect("a list without a filter").items;
    for row in rows.into_iter().filter(|row| !row.slots.is_empty()) {
        let left = row.slots.into_iter().map(|(name, slots)| (name, slots.limit - slots.used));
        remaining.insert(row.node, left.collect());
    }
    Ok(json!({
        "remaining": remaining,
        "candidates": candidates,
        "orphans": orphans,
        "are_tasks_running": !running.is_empty(),
    }))
}
