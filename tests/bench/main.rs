//! `bistro-bench`: what docs/performance.md says, measured on this machine. Build it in release.

mod console;
mod core;
mod e2e;
mod figures;
mod idle;
mod logs;
mod queue;
mod restart;
mod spawn;
mod start;

use clap::{Parser, Subcommand};
use serde_json::Value;

use bistro_scheduler::large_pages::LargePages;

/// As the program that is measured has it.
#[global_allocator]
static ALLOCATOR: LargePages = LargePages;

#[derive(Parser)]
#[command(name = "bistro-bench")]
struct Args {
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// From the start of a scheduler with an empty store to its first assignment
    Start {
        #[arg(long, default_value_t = 5)]
        runs: u32,
    },
    /// What an idle cell costs
    Idle {
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Real processes from end to end, next to a bare spawn loop
    E2e {
        #[arg(long, default_value_t = 10_000)]
        tasks: u32,
    },
    /// The console with a million tasks, in a terminal of its own
    Console {
        /// So many kills are scripted while rows change their order
        #[arg(long, default_value_t = 10_000)]
        kills: usize,
    },
    /// Task logs: one core takes them, and they are found again
    Logs {
        /// Size of the store that pages are read from
        #[arg(long, default_value_t = 10)]
        store_gb: u64,
    },
    /// What it takes the guard to start a process, next to a bare loop
    Spawn,
    /// The scheduler's core alone, next to a pass over all tasks
    Core(core::CoreArgs),
    /// Throughput against what the resources allow, as in the paper's figures 4a to 4d
    Figures(figures::FiguresArgs),
    /// From the restart of a scheduler with a full store to its first new task
    Restart {
        #[arg(long, default_value_t = 1_000_000)]
        finished: usize,
        #[arg(long, default_value_t = 10_000)]
        open: usize,
    },
    /// The core alone with many jobs of one task each
    Queue {
        #[arg(long, default_value_t = 100_000)]
        jobs: usize,
        #[arg(long, default_value = "roundrobin")]
        policy: String,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let results = match args.bench {
        Bench::Start { runs } => runtime.block_on(start::run(runs))?,
        Bench::Idle { seconds } => runtime.block_on(idle::run(seconds))?,
        Bench::E2e { tasks } => runtime.block_on(e2e::run(tasks))?,
        Bench::Console { kills } => runtime.block_on(console::run(kills))?,
        Bench::Logs { store_gb } => logs::run(&runtime, store_gb)?,
        Bench::Spawn => runtime.block_on(spawn::run())?,
        Bench::Core(args) => core::run(&args)?,
        Bench::Figures(args) => figures::run(&args)?,
        Bench::Restart { finished, open } => runtime.block_on(restart::run(finished, open))?,
        Bench::Queue { jobs, policy } => queue::run(jobs, &policy)?,
    };
    print(&results, args.json);
    Ok(())
}

fn print(results: &Value, json: bool) {
    if json {
        println!("{results}");
        return;
    }
    for (name, value) in results.as_object().into_iter().flatten() {
        println!("{name:<28} {value}");
    }
}

/// The value below which this share of the sorted values lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * share).round();
    sorted.get(at as usize).copied().unwrap_or(f64::NAN)
}

/// So many digits are honest.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn own_rss_kb() -> u64 {
    rss_kb(std::process::id() as i32)
}

/// Memory of a process that is in use now.
fn rss_kb(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// CPU time that a process has used so far, in seconds.
fn cpu_seconds(pid: i32) -> f64 {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid));
    let time = clock.and_then(nix::time::clock_gettime);
    time.map_or(f64::NAN, |time| std::time::Duration::from(time).as_secs_f64())
}
