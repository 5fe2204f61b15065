//! `bistro simulate`: what would happen, in virtual time.

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bistro_common::config::Config;
use bistro_scheduler::config_files;
use bistro_scheduler::nodes::{Scripts, fetch};
use bistro_scheduler::simulate::{Duration, OfTasks, Report, Setup, TaskModel, Trace, WorkerGroup};

use super::print::{print_document, say};
use crate::args::{Document, SimulateArgs};
use crate::text::safe;

pub async fn run(args: SimulateArgs, instance: String) -> anyhow::Result<ExitCode> {
    let config = Arc::new(read_config(&args.config)?);
    let workers = match &args.worker_file {
        Some(file) => read_json(file)?,
        None => vec![WorkerGroup::alike(args.workers)],
    };
    let model = match &args.model {
        Some(file) => read_json(file)?,
        None => {
            let duration_sec = Duration::Fixed(args.duration);
            let default = OfTasks { duration_sec, failure_rate: 0.0 };
            TaskModel { default, jobs: Default::default() }
        }
    };
    if let Some(job) = model.jobs.keys().find(|job| config.job(job).is_none()) {
        anyhow::bail!("the model is about the job {job:?}, which the config does not have");
    }
    let now = jiff::Timestamp::now().as_second();
    let forest = fetch(&config.settings, &instance, now, &mut Scripts::default()).await?;
    let until_ms = args.until.map(|seconds| seconds.saturating_mul(1_000));
    let forest = Arc::new(forest);
    let setup = Setup { config, forest, workers, model, seed: args.seed, until_ms };
    let mut printed = Ok(());
    let mut trace = |trace: Trace| {
        if args.trace && printed.is_ok() {
            printed = say!("{}", json!(trace));
        }
    };
    let began = Instant::now();
    let report = bistro_scheduler::simulate::run(setup, &mut trace)?;
    printed?;
    match args.output {
        Document::Json => print_document(&json!(report))?,
        Document::Text => print(&report, began.elapsed().as_secs_f64())?,
    }
    Ok(ExitCode::from(u8::from(!report.finished || !report.stuck.is_empty())))
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let files =
        config_files::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parsed = config_files::parse(&files);
    parsed.config.with_context(|| {
        parsed.reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })
}

fn read_json<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}; see `bistro simulate --help`", file.display()))
}

fn print(report: &Report, took_sec: f64) -> std::io::Result<()> {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let makespan = seconds(report.makespan_ms);
    let faster = makespan / took_sec.max(1e-9);
    let end = if report.finished { "all is over after" } else { "stopped after" };
    say!("{end} {makespan:.1} s; simulated in {took_sec:.2} s, {faster:.0} times as fast")?;
    say!(
        "{} attempts, {} errors, {:.2} tasks done per second",
        report.attempts,
        report.errors,
        report.tasks_per_sec
    )?;
    say!("\n{:<30} {:>10} {:>10} {:>12}", "JOB", "DONE", "ATTEMPTS", "OVER AT (S)")?;
    for (name, job) in &report.jobs {
        let at = seconds(job.eta_ms);
        say!("{:<30} {:>10} {:>10} {at:>12.1}", safe(name), job.done, job.attempts)?;
    }
    if !report.resources.is_empty() {
        say!("\n{:<30} {:<16} {:>6} {:>6}", "RESOURCE", "LEVEL", "USED", "FULL")?;
    }
    for of in &report.resources {
        let (used, busy) = (of.used * 100.0, of.busy * 100.0);
        say!("{:<30} {:<16} {used:>5.1}% {busy:>5.1}%", safe(&of.resource), safe(&of.level))?;
    }
    if let Some(bottleneck) = &report.bottleneck {
        say!("\nthe bottleneck is {}: more of it would help first", safe(bottleneck))?;
    }
    for line in &report.stuck {
        say!("stuck: {}", safe(line))?;
    }
    Ok(())
}
