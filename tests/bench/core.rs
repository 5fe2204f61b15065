//! The scheduler's core at size: the first full pass, and a finished task and its successor.
//!
//! Next to it, in the same run, a pass over all tasks as the original makes it (the paper's
//! Algorithm 1). It exists only here.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bistro_common::config::{self, Config, NodeOrder};
use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::protocol::VERSION;
use bistro_common::protocol::assign::Assignment;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::OpenDigest;
use bistro_common::protocol::task::{OpenAttempt, Outcome, TaskResult};
use bistro_common::status::{TaskStatus, bits};
use bistro_core::{Core, Effect, Forest, ForestBuilder, Input, Snapshot};
use bistro_tests::bare_core::{NOW, cell_id, core, heartbeat, incarnation, worker};

use crate::{own_rss_kb, percentile, round};

/// A stride that is prime to most sizes visits running tasks in no order.
const STRIDE: usize = 7_919;

#[derive(Args)]
pub struct CoreArgs {
    #[arg(long, default_value_t = 4_000)]
    hosts: usize,
    #[arg(long, default_value_t = 25)]
    databases: usize,
    #[arg(long, default_value_t = 10)]
    jobs: usize,
    /// Tasks at once per host
    #[arg(long, default_value_t = 2)]
    host_limit: usize,
    /// roundrobin, ranked_priority, randomized_priority or long_tail
    #[arg(long, default_value = "roundrobin")]
    policy: String,
    /// A global resource too, that every task holds and every end frees
    #[arg(long)]
    global: bool,
    /// Every job has a filter on databases, and depends on the job before it
    #[arg(long)]
    choosy: bool,
    /// How many tasks to finish one by one
    #[arg(long, default_value_t = 20_000)]
    restarts: usize,
}

impl CoreArgs {
    fn shape(&self) -> Shape {
        Shape { hosts: self.hosts, databases: self.databases }
    }
}

/// What a result has to say; the rest of an assignment is its worker's, and gone once it is sent.
pub struct Started {
    attempt: AttemptId,
    attempt_no: u32,
    task: TaskName,
}

impl Started {
    pub fn of(assignment: Assignment) -> Self {
        let OpenAttempt { attempt, attempt_no, task, .. } = &*assignment.open;
        Self { attempt: *attempt, attempt_no: *attempt_no, task: task.clone() }
    }

    /// It is done.
    pub fn result(self) -> TaskResult {
        TaskResult {
            attempt: self.attempt,
            task: self.task,
            attempt_no: self.attempt_no,
            outcome: Outcome::Reported { status: TaskStatus::new(bits::DONE) },
            started_ms: NOW,
            ended_ms: NOW,
            exit: None,
            usage: None,
        }
    }
}

/// A bare core and what it has started.
pub struct Cell {
    pub core: Core,
    pub running: Vec<Started>,
    pub out: Vec<Effect>,
    /// Spent in the core's steps. What keeps its effects here is not its cost.
    pub in_steps: Duration,
}

impl Cell {
    pub fn new(core: Core) -> Self {
        Self { core, running: Vec::new(), out: Vec::new(), in_steps: Duration::ZERO }
    }

    pub fn step(&mut self, input: Input) {
        let started = Instant::now();
        self.core.step_through(NOW, input, &mut self.out);
        self.in_steps += started.elapsed();
    }

    pub fn take_assignments(&mut self) {
        for effect in self.out.drain(..) {
            if let Effect::Assign { assign, .. } = effect {
                self.running.extend(assign.attempts.into_iter().map(Started::of));
            }
        }
    }

    /// As a stream that takes all audit events at once.
    pub fn tell_audits(&mut self) {
        let ids = self.out.iter().filter_map(|effect| match effect {
            Effect::Audit { id, .. } => Some(*id),
            _ => None,
        });
        let told = Input::AuditsTold(ids.collect());
        self.step(told);
    }

    /// Steps until nothing more can start.
    fn settle(&mut self) {
        while self.core.next_wake().is_some_and(|at| at <= NOW) {
            self.step(Input::Tick);
            self.take_assignments();
        }
    }
}

pub fn run(args: &CoreArgs) -> anyhow::Result<Value> {
    let (nodes, tasks) =
        (1 + args.hosts * (1 + args.databases), args.hosts * args.databases * args.jobs);
    let empty_kb = own_rss_kb();
    let started = Instant::now();
    let forest = forest(args.shape(), 0)?;
    let load_s = started.elapsed().as_secs_f64();
    let forest_kb = own_rss_kb();
    let config = config::parse(&config_text(args)).config.context("the config is sound")?;
    let config = Arc::new(config);
    let mut cell = Cell::new(core(1, Snapshot::default()));
    let started = Instant::now();
    cell.step(Input::Plan { config: config.clone(), forest: forest.clone() });
    let plan_s = started.elapsed().as_secs_f64();
    let plan_kb = own_rss_kb();

    cell.in_steps = Duration::ZERO;
    cell.step(Input::Heartbeat { token: 1, heartbeat: Box::new(heartbeat(OpenDigest::default())) });
    cell.take_assignments();
    cell.settle();
    let first_pass_s = cell.in_steps.as_secs_f64();
    let starts = cell.running.len();

    let mut restarts = restarts(&mut cell, args.restarts.min(tasks / 2));
    restarts.sort_by(f64::total_cmp);
    // What comes next is another matter.
    let rss_mb = own_rss_kb() / 1_024;
    let choices_per_s = choices_per_s(config, forest);
    let replacement = replace(&mut cell, args)?;
    let started = Instant::now();
    let brute_starts = brute_force_pass(args);
    let brute_s = started.elapsed().as_secs_f64();
    anyhow::ensure!(
        args.global || args.choosy || starts == brute_starts,
        "the core starts {starts}, a pass over all tasks {brute_starts}"
    );
    let per = |kb: u64, things: usize| round(kb as f64 * 1_024.0 / things as f64);
    Ok(json!({
        "nodes": nodes,
        "tasks": tasks,
        "forest_s": round(load_s),
        "plan_s": round(plan_s),
        "first_pass_s": round(first_pass_s),
        "first_pass_starts": starts,
        "starts_per_s": (starts as f64 / first_pass_s).round(),
        "choices_per_s": choices_per_s.round(),
        "restart_us_p50": round(percentile(&restarts, 0.5)),
        "restart_us_p99": round(percentile(&restarts, 0.99)),
        "replace_compile_s": round(replacement.compile_s),
        "replace_enter_s": round(replacement.enter_s),
        "replace_step_ms_max": round(replacement.step_ms_max),
        "brute_force_pass_s": round(brute_s),
        "rss_mb": rss_mb,
        "bytes_per_node": per(forest_kb.saturating_sub(empty_kb), nodes),
        "bytes_per_task": per(plan_kb.saturating_sub(forest_kb), tasks),
    }))
}

/// What the first pass decides, by itself: no attempts, records, messages or events.
fn choices_per_s(config: Arc<Config>, forest: Arc<Forest>) -> f64 {
    let mut cell = Cell::new(core(1, Snapshot::default()));
    cell.step(Input::Plan { config, forest });
    cell.step(Input::Heartbeat { token: 1, heartbeat: Box::new(heartbeat(OpenDigest::default())) });
    let started = Instant::now();
    cell.core.choose_all() as f64 / started.elapsed().as_secs_f64()
}

/// Microseconds from a result to its successor's assignment, each.
pub fn restarts(cell: &mut Cell, count: usize) -> Vec<f64> {
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        if cell.running.is_empty() {
            break;
        }
        let at = n.wrapping_mul(STRIDE) % cell.running.len();
        let done = done(cell.running.swap_remove(at));
        cell.in_steps = Duration::ZERO;
        cell.step(Input::Done { token: 1, done });
        times.push(cell.in_steps.as_secs_f64() * 1e6);
        cell.take_assignments();
        cell.settle();
    }
    times
}

struct Replacement {
    /// Off the loop.
    compile_s: f64,
    /// In steps, with others between them.
    enter_s: f64,
    step_ms_max: f64,
}

/// Another node list, with one database in fifty new, under what runs.
fn replace(cell: &mut Cell, args: &CoreArgs) -> anyhow::Result<Replacement> {
    let config = config::parse(&config_text(args)).config.context("the config is sound")?;
    let plan = Input::Plan { config: Arc::new(config), forest: forest(args.shape(), 50)? };
    cell.core.step(NOW, plan, &mut cell.out);
    let draft = cell.out.drain(..).find_map(|effect| match effect {
        Effect::Compile(draft) => Some(draft),
        _ => None,
    });
    let started = Instant::now();
    let plan = draft.context("a new node list is compiled")?.compile();
    let compile_s = started.elapsed().as_secs_f64();
    let (entered, mut step_ms_max) = (Instant::now(), 0f64);
    let mut input = Input::Compiled(plan);
    loop {
        let started = Instant::now();
        cell.core.step(NOW, input, &mut cell.out);
        step_ms_max = step_ms_max.max(started.elapsed().as_secs_f64() * 1e3);
        cell.take_assignments();
        if !cell.core.is_entering() {
            break;
        }
        input = Input::Tick;
    }
    Ok(Replacement { compile_s, enter_s: entered.elapsed().as_secs_f64(), step_ms_max })
}

/// A result as it comes from the wire: its names are its own, and have just been written.
fn done(mut started: Started) -> Done {
    let TaskName { job, node } = &started.task;
    started.task = TaskName { job: (**job).into(), node: (**node).into() };
    let (worker, incarnation) = (worker(), incarnation());
    Done { v: VERSION, cell: cell_id(), worker, incarnation, results: vec![started.result()] }
}

/// The paper's Algorithm 1: look at every task, and start it if every node on its path has room.
fn brute_force_pass(args: &CoreArgs) -> usize {
    let databases = args.hosts * args.databases;
    let mut hosts = vec![args.host_limit; args.hosts];
    let mut free = vec![true; databases];
    let mut done = vec![0u8; databases * args.jobs];
    let mut starts = 0;
    for job in 0..args.jobs {
        for (database, free) in free.iter_mut().enumerate() {
            let host = database / args.databases;
            let task = job * databases + database;
            if done[task] == 0 && *free && hosts[host] > 0 {
                *free = false;
                hosts[host] -= 1;
                done[task] = 1;
                starts += 1;
            }
        }
    }
    std::hint::black_box(done);
    starts
}

/// How large a forest is.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hosts: usize,
    /// Per host.
    pub databases: usize,
}

/// `other`: one database in so many has another name than usual; 0: none.
pub fn forest(shape: Shape, other: usize) -> anyhow::Result<Arc<Forest>> {
    let levels = ["instance", "host", "db"].map(str::to_owned).to_vec();
    let mut builder = ForestBuilder::new(levels, "root");
    for host in 0..shape.hosts {
        let name = format!("host{host}");
        builder.add(1, &name, "root", true)?;
        for database in 0..shape.databases {
            let is_other = other > 0 && (host * shape.databases + database).is_multiple_of(other);
            let prefix = if is_other { "new_" } else { "" };
            builder.add(2, &format!("{prefix}{name}__{database}"), &name, true)?;
        }
    }
    Ok(Arc::new(builder.build(NodeOrder::Random)?))
}

fn config_text(args: &CoreArgs) -> String {
    let choosy = |n: usize| match (args.choosy, n) {
        (false, _) => String::new(),
        (true, 0) => r#", "filters": {"db": {"blacklist_regex": "__7$"}}"#.to_owned(),
        (true, _) => format!(
            r#", "filters": {{"db": {{"blacklist_regex": "__7$"}}}}, "depends_on": ["job{}"]"#,
            n - 1
        ),
    };
    let jobs: Vec<String> = (0..args.jobs)
        .map(|n| {
            let (priority, choosy) = (n + 1, choosy(n));
            format!(r#""bistro_job->job{n}": {{"owner": "bench", "priority": {priority}{choosy}}}"#)
        })
        .collect();
    let global = match args.global {
        true => format!(r#""instance": {{"all": {{"limit": {}, "default": 1}}}},"#, args.hosts),
        false => String::new(),
    };
    format!(
        r#"{{"bistro_settings": {{
          "enabled": true, "scheduler": "{}",
          "nodes": {{"levels": ["host", "db"], "node_sources": [{{"source": "empty"}}]}},
          "resources": {{{global}
            "host": {{"host_slots": {{"limit": {}, "default": 1}}}},
            "db": {{"db_slots": {{"limit": 1, "default": 1}}}}
          }}
        }}, {}}}"#,
        args.policy,
        args.host_limit,
        jobs.join(", ")
    )
}
