//! The paper's figures 4a to 4d: throughput against what the resources allow.
//!
//! Tasks only pass virtual time, drawn uniformly from 0 to twice their mean. The core's own time is
//! real, and charged: while it decides, the virtual clock runs, and slots that are free stay free.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use bistro_common::config;
use bistro_common::protocol::VERSION;
use bistro_common::protocol::done::Done;
use bistro_common::protocol::heartbeat::OpenDigest;
use bistro_core::rng::Rng;
use bistro_core::{Effect, Input, Snapshot};
use bistro_tests::bare_core::{NOW, cell_id, core, heartbeat, incarnation, worker};

use crate::core::{Cell, Shape, Started, forest};
use crate::round;

/// So many results at most are handed in at once.
const BATCH: usize = 64;

#[derive(Args)]
pub struct FiguresArgs {
    /// Only this one: 4a, 4b, 4c or 4d
    #[arg(long)]
    figure: Option<String>,
    /// So many times fewer nodes than the paper has
    #[arg(long, default_value_t = 1)]
    smaller: usize,
}

/// Its name, what varies along it, and its points.
type Figure = (&'static str, &'static str, Vec<(Value, Point)>);

/// One point of a figure.
struct Point {
    leaves: usize,
    jobs: usize,
    mean_s: f64,
    /// Slots of a resource at the root that the first job holds; it goes first then.
    global: Option<usize>,
}

pub fn run(args: &FiguresArgs) -> anyhow::Result<Value> {
    let of = |leaves: usize, jobs, mean_s, global| Point {
        leaves: leaves / args.smaller,
        jobs,
        mean_s,
        global,
    };
    let figures: [Figure; 4] = [
        (
            "4a",
            "mean_s",
            [1, 2, 5, 10].map(|d| (json!(d), of(3_000_000, 10, d as f64, None))).into(),
        ),
        (
            "4b",
            "leaves",
            [1, 3, 10].map(|m| (json!(m * 1_000_000), of(m * 1_000_000, 5, 5.0, None))).into(),
        ),
        ("4c", "jobs", [1, 5, 10].map(|j| (json!(j), of(3_000_000, j, 5.0, None))).into()),
        // With one slot of 5 s on average, 12 tasks a minute.
        (
            "4d",
            "global_per_minute",
            [0, 1, 4].map(|g| (json!(g * 12), of(300_000, 5, 5.0, Some(g)))).into(),
        ),
    ];
    let mut results = serde_json::Map::new();
    for (figure, varied, points) in figures {
        if args.figure.as_ref().is_some_and(|wanted| wanted != figure) {
            continue;
        }
        let mut curve = Vec::new();
        for (x, point) in points {
            let normalised = throughput(&point)?;
            curve.push(json!({varied: x, "throughput": round(normalised)}));
        }
        results.insert(figure.to_owned(), curve.into());
    }
    Ok(results.into())
}

/// What runs, and when it ends, in nanoseconds of virtual time.
struct Run {
    cell: Cell,
    rng: Rng,
    mean_s: f64,
    now_ns: u64,
    running: Vec<Option<Started>>,
    free: Vec<usize>,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    /// How long slots have been free since the measurement began: every start adds when it was,
    /// every end takes away when that was.
    idle_ns: i128,
}

/// Of what the resources allow: the share of time for which slots were in use. Tasks last as long
/// either way, so it is also the share of throughput.
fn throughput(point: &Point) -> anyhow::Result<f64> {
    let shape = Shape { hosts: point.leaves / 25, databases: 25 };
    let config = config::parse(&config_text(point)).config.context("the config is sound")?;
    let mut cell = Cell::new(core(1, Snapshot::default()));
    cell.step(Input::Plan { config: Arc::new(config), forest: forest(shape, 0)? });
    let (running, free, ends) = (Vec::new(), Vec::new(), BinaryHeap::new());
    let (rng, mean_s) = (Rng::new(7), point.mean_s);
    let mut run = Run { cell, rng, mean_s, now_ns: 0, running, free, ends, idle_ns: 0 };
    let beat = heartbeat(OpenDigest::default());
    run.step(Input::Heartbeat { token: 1, heartbeat: Box::new(beat) });
    let slots = shape.hosts * 2;
    // The first generation fills the machine, the second is measured.
    run.finish(slots);
    let (began_ns, running) = (run.now_ns, run.ends.len());
    run.idle_ns = 0;
    run.finish(slots);
    anyhow::ensure!(run.ends.len() == running, "every slot is in use again at the end");
    let all_ns = (run.now_ns - began_ns) as f64 * slots as f64;
    Ok(1.0 - run.idle_ns as f64 / all_ns)
}

impl Run {
    /// Takes an input and everything that it leaves to do; what was started runs from then on.
    fn step(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.cell.in_steps = Duration::ZERO;
            self.cell.step(input);
            self.now_ns += self.cell.in_steps.as_nanos() as u64;
            for effect in self.cell.out.drain(..) {
                let Effect::Assign { assign, .. } = effect else { continue };
                for assignment in assign.attempts {
                    let at = self.free.pop().unwrap_or_else(|| {
                        self.running.push(None);
                        self.running.len() - 1
                    });
                    self.running[at] = Some(Started::of(assignment));
                    let lasts_ns = (self.rng.unit() * 2.0 * self.mean_s * 1e9) as u64;
                    self.idle_ns += i128::from(self.now_ns);
                    self.ends.push(Reverse((self.now_ns + lasts_ns, at)));
                }
            }
            next = self.cell.core.next_wake().filter(|&at| at <= NOW).map(|_| Input::Tick);
        }
    }

    /// Goes on until so many tasks have ended; returns how many.
    fn finish(&mut self, tasks: usize) -> usize {
        let mut finished = 0;
        while finished < tasks {
            let Some(&Reverse((end_ns, _))) = self.ends.peek() else { break };
            self.now_ns = self.now_ns.max(end_ns);
            let mut results = Vec::new();
            while results.len() < BATCH
                && let Some(&Reverse((end_ns, at))) = self.ends.peek()
                && end_ns <= self.now_ns
            {
                self.ends.pop();
                self.idle_ns -= i128::from(end_ns);
                self.free.push(at);
                results.extend(self.running[at].take().map(Started::result));
            }
            finished += results.len();
            let (worker, incarnation) = (worker(), incarnation());
            let done = Done { v: VERSION, cell: cell_id(), worker, incarnation, results };
            self.step(Input::Done { token: 1, done });
        }
        finished
    }
}

fn config_text(point: &Point) -> String {
    let policy = if point.global.is_some() { "ranked_priority" } else { "roundrobin" };
    let global = point.global.map_or(String::new(), |limit| {
        format!(r#""instance": {{"all": {{"limit": {limit}, "default": 0}}}},"#)
    });
    let job = |n: usize| {
        let first = n == 0 && point.global.is_some();
        let (priority, resources) = if first { (9, r#"{"all": 1}"#) } else { (1, "{}") };
        format!(
            r#""bistro_job->job{n}": {{"owner": "bench", "priority": {priority}, "resources": {resources}}}"#
        )
    };
    let jobs: Vec<String> = (0..point.jobs).map(job).collect();
    format!(
        r#"{{"bistro_settings": {{
          "enabled": true, "scheduler": "{policy}",
          "nodes": {{"levels": ["host", "db"], "node_sources": [{{"source": "empty"}}]}},
          "resources": {{{global}
            "host": {{"host_slots": {{"limit": 2, "default": 1}}}},
            "db": {{"db_slots": {{"limit": 1, "default": 1}}}}
          }}
        }}, {}}}"#,
        jobs.join(", ")
    )
}
