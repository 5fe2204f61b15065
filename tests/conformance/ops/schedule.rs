//! What a core starts, given jobs, limits and what has happened before.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bistro_common::config::{NodeOrder, parse};
use bistro_common::ids::{AttemptId, Seq, TaskName};
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::task::{OpenAttempt, PathNode};
use bistro_core::{
    AttemptRecord, Effect, ForestBuilder, Input, Phase, Snapshot, TaskRecord, WorkerRecord,
};
use bistro_tests::bare_core::{NOW, core, heartbeat, incarnation, worker};

use super::{Answer, field};

/// Two levels of nodes below the instance: children by parent.
type Tree = BTreeMap<String, Vec<String>>;

/// Starts all that can be started on one worker; returns (job, node) in that order.
fn start_all(
    config: &Value,
    tree: &Tree,
    levels: &[String],
    seed: u64,
    snapshot: Snapshot,
) -> Result<Vec<(String, String)>, String> {
    let parsed = parse(&config.to_string());
    let problems: Vec<_> = parsed.problems.iter().map(|p| p.message.clone()).collect();
    let config = parsed.config.ok_or_else(|| problems.join("; "))?;
    let names = [&["instance".to_owned()], levels].concat();
    let mut builder = ForestBuilder::new(names, "root");
    for (parent, children) in tree {
        builder.add(1, parent, "root", true).map_err(|error| error.to_string())?;
        for child in children {
            builder.add(2, child, parent, true).map_err(|error| error.to_string())?;
        }
    }
    let forest = builder.build(NodeOrder::Random).map_err(|error| error.to_string())?;
    // The worker still runs what a former scheduler had it start.
    let open = snapshot.attempts.iter().map(|attempt| attempt.open.attempt).collect();
    let mut core = core(seed, snapshot);
    let mut out = Vec::new();
    core.step_through(
        NOW,
        Input::Plan { config: Arc::new(config), forest: Arc::new(forest) },
        &mut out,
    );
    core.step_through(
        NOW,
        Input::Heartbeat { token: 1, heartbeat: Box::new(heartbeat(open)) },
        &mut out,
    );
    while core.next_wake().is_some_and(|at| at <= NOW) {
        core.step_through(NOW, Input::Tick, &mut out);
    }
    let assigned = out.into_iter().filter_map(|effect| match effect {
        Effect::Assign { assign, .. } => Some(assign.attempts),
        _ => None,
    });
    let task = |assigned: Assignment| {
        let TaskName { job, node } = &assigned.open.task;
        (job.to_string(), node.to_string())
    };
    Ok(assigned.flatten().map(task).collect())
}

/// The forest and the config of a policy case: hosts give `h`, databases give `d`.
fn policy_case(given: &Value, jobs: &[Value]) -> Result<(Value, Tree), String> {
    let parents: BTreeMap<String, String> = field(given, "parents")?;
    let mut tree = Tree::new();
    for (child, parent) in parents {
        tree.entry(parent).or_default().push(child);
    }
    let available: BTreeMap<String, BTreeMap<String, i64>> = field(given, "available")?;
    let limit = |resource: &str| {
        available.values().filter_map(|of_node| of_node.get(resource)).max().copied().unwrap_or(0)
    };
    let mut config = json!({"bistro_settings": {
        "enabled": true,
        "scheduler": given["policy"],
        "nodes": {"levels": ["host", "db"], "node_sources": [{"source": "empty"}]},
        "resources": {
            "host": {"h": {"limit": limit("h"), "default": 1}},
            "db": {"d": {"limit": limit("d"), "default": 1}},
        },
    }});
    for job in jobs {
        config[format!("bistro_job->{}", job["name"].as_str().unwrap_or_default())] = json!({
            "owner": "o",
            "priority": job["priority"],
            "resources": job["needs"],
            "filters": {"db": {"whitelist": job["nodes"]}},
        });
    }
    Ok((config, tree))
}

fn started_per_job(jobs: &[Value], started: &[(String, String)]) -> Map<String, Value> {
    let count = |job: &Value| {
        let name = job["name"].as_str().unwrap_or_default().to_owned();
        let started = started.iter().filter(|(job, _)| *job == name).count();
        (name, json!(started))
    };
    jobs.iter().map(count).collect()
}

pub fn policy(given: &Value) -> Answer {
    let jobs: Vec<Value> = field(given, "jobs_in_order")?;
    let (config, tree) = policy_case(given, &jobs)?;
    let levels = ["host", "db"].map(str::to_owned);
    let started = start_all(&config, &tree, &levels, 1, Snapshot::default())?;
    let maximal = is_maximal(given, &jobs, &started)?;
    Ok(json!({"started_per_job": started_per_job(&jobs, &started), "maximal": maximal}))
}

/// By hand: does no task that was not started find room on its node and its host?
fn is_maximal(given: &Value, jobs: &[Value], started: &[(String, String)]) -> Result<bool, String> {
    let parents: BTreeMap<String, String> = field(given, "parents")?;
    let mut left: BTreeMap<String, BTreeMap<String, i64>> = field(given, "available")?;
    let needs = |name: &str| -> Result<BTreeMap<String, i64>, String> {
        let job = jobs.iter().find(|job| job["name"] == *name).ok_or("no such job")?;
        field(job, "needs")
    };
    for (job, node) in started {
        for (resource, amount) in needs(job)? {
            for place in [node, &parents[node]] {
                if let Some(room) = left.get_mut(place).and_then(|of| of.get_mut(&resource)) {
                    *room -= amount;
                }
            }
        }
    }
    for job in jobs {
        let name = job["name"].as_str().unwrap_or_default();
        let needs = needs(name)?;
        let nodes: Vec<String> = field(job, "nodes")?;
        for node in
            nodes.iter().filter(|node| !started.contains(&(name.to_owned(), (*node).clone())))
        {
            let fits = [node, &parents[node]].into_iter().all(|place| {
                let room = left.get(place);
                needs.iter().all(|(resource, amount)| {
                    room.and_then(|of| of.get(resource)).is_none_or(|room| room >= amount)
                })
            });
            if fits {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

pub fn policy_stat(given: &Value) -> Answer {
    let jobs: Vec<Value> = field(given, "jobs")?;
    let (config, tree) = policy_case(given, &jobs)?;
    let levels = ["host", "db"].map(str::to_owned);
    let trials: u64 = field(given, "trials")?;
    let (mut totals, mut per_trial) = (BTreeMap::<String, u64>::new(), BTreeSet::new());
    for trial in 0..trials {
        let started = start_all(&config, &tree, &levels, trial, Snapshot::default())?;
        per_trial.insert(started.len());
        for (job, _) in started {
            *totals.entry(job).or_default() += 1;
        }
    }
    if per_trial.len() != 1 {
        return Err(format!("different numbers of tasks per trial: {per_trial:?}"));
    }
    Ok(json!({"tasks_per_trial": per_trial.first(), "totals": totals}))
}

/// An attempt that a former scheduler had opened.
fn open_attempt(task: TaskName, tree: &Tree, resources: &Value) -> AttemptRecord {
    let parent =
        tree.iter().find(|(_, children)| children.iter().any(|child| **child == *task.node));
    let parent = parent.map_or("", |(parent, _)| parent);
    let on = |node: &str, level: &str| {
        let of_level = resources[level].as_object().into_iter().flatten();
        let slots = of_level.filter_map(|(name, r)| Some((name.clone(), r["default"].as_i64()?)));
        PathNode { node: node.into(), slots: Arc::new(slots.collect()) }
    };
    let path = Arc::from([on("root", "instance"), on(parent, "host"), on(&task.node, "db")]);
    let open = OpenAttempt {
        attempt: AttemptId::generate(),
        task,
        attempt_no: 1,
        started_ms: NOW,
        path,
        worker_slots: Default::default(),
    };
    let (worker, incarnation) = (worker(), incarnation());
    AttemptRecord { open: Arc::new(open), worker, incarnation, seq: Seq(1), disowned: false }
}

pub fn schedule(given: &Value) -> Answer {
    let levels: Vec<String> = field(&given["config"], "levels")?;
    let tree: Tree = field(&given["config"], "manual")?;
    let mut config = json!({"bistro_settings": {
        "enabled": true,
        "scheduler": given["config"]["scheduler"],
        "nodes": {"levels": levels, "node_sources": [{"source": "empty"}]},
        "resources": given["config"]["resources"],
    }});
    let jobs: BTreeMap<String, Value> = field(given, "jobs")?;
    for (name, mut job) in jobs {
        job["owner"] = json!("o");
        config[format!("bistro_job->{name}")] = job;
    }
    let statuses: BTreeMap<String, BTreeMap<String, String>> = field(given, "statuses")?;
    // A worker is stored before its first attempt.
    let of_worker = WorkerRecord {
        name: worker(),
        incarnation: incarnation(),
        ledger: heartbeat(Default::default()).ledger,
        host: "host".to_owned(),
        drained: false,
    };
    let mut snapshot = Snapshot { workers: vec![of_worker], ..Snapshot::default() };
    let mut running = BTreeSet::new();
    for (job, of_job) in statuses {
        for (node, status) in of_job {
            let task = TaskName::new(job.as_str(), node.as_str());
            let phase = match status.as_str() {
                "done" => Phase::Done,
                "failed" => Phase::Failed,
                "running" => {
                    running.insert((job.clone(), node));
                    snapshot.attempts.push(open_attempt(
                        task,
                        &tree,
                        &given["config"]["resources"],
                    ));
                    continue;
                }
                other => return Err(format!("the status {other:?} is not known here")),
            };
            snapshot.tasks.push((task, TaskRecord { phase, ..TaskRecord::default() }));
        }
    }
    let started = start_all(&config, &tree, &levels, 1, snapshot)?;
    let are_tasks_running = !(started.is_empty() && running.is_empty());
    let started: BTreeSet<_> = started.into_iter().collect();
    Ok(json!({"started_set": started, "are_tasks_running": are_tasks_running}))
}
