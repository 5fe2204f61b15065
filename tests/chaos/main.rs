//! `bistro-chaos`: a real cell with its processes killed, stopped and cut off, on a schedule that a
//! seed makes; then what its tasks have seen is looked at.

mod evidence;
mod parts;
mod wire;

use clap::Parser;
use fastrand::Rng;
use futures_util::StreamExt;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use bistro_common::nats::{Address, Bus, Patience};
use bistro_common::protocol::api::{ApiReply, CellStatus, TaskState, verb};
use bistro_common::protocol::decode;
use bistro_common::protocol::event::Event;
use bistro_common::subject::Cell;

use evidence::{Evidence, HOST_LIMIT};
use parts::{Fault, Parts, WORKERS};

const HOSTS: u64 = 6;
/// Tasks per second of chaos: what a cell that nobody disturbs gets done.
const TASKS_PER_S: u64 = 10;
const JOBS: u64 = 3;
/// An event is received so long after what it tells of, at most.
const ON_ITS_WAY: Duration = Duration::from_secs(15);
/// Until the one fault that is wanted has come up.
const DRAWS_MAX: usize = 10_000;
/// When nothing is wrong any more, some task is done within this, however slow the machine is.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Kills, stops and cuts off the parts of a real cell, and checks its promises")]
struct Args {
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this fault, by its name: for those who look for its reasons.
    #[arg(long)]
    only: Option<String>,
    /// Now and then the scheduler also loses what it wrote last, as by a disk that lies. It cannot
    /// know what runs then before it has heard from the workers, and may start too much.
    #[arg(long, conflicts_with = "standby")]
    lose_writes: bool,
    /// With a second scheduler, which takes over when the first is gone, and the other way round.
    #[arg(long)]
    standby: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let directory = tempfile::tempdir()?;
    let evidence = Evidence::new(directory.path());
    let config = directory.path().join("bistro.json");
    let tasks = write_config(&config, args.seconds)?;
    let mut parts = Parts::start(directory.path(), config, evidence.task(), args.standby).await;
    let cell = Cell::new("chaos")?;
    let bus =
        Bus::connect(&Address::parse(&parts.url())?, &cell, "chaos", Patience::KeepTrying).await?;
    let mut done = bus.client().subscribe(cell.event("task.done")).await?;
    if !parts.have_wires() {
        println!("no network namespaces here: nothing is unplugged");
    }
    let mut rng = Rng::with_seed(args.seed);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut next = Instant::now() + Duration::from_secs(2);
    let (mut faults, mut calm) = (0, false);
    let (mut least_left, mut give_up) = (u64::MAX, end);
    let left = loop {
        tokio::select! {
            Some(message) = done.next() => {
                let event: Event = decode(&message.payload)?;
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(event.time_ms);
                let lost = parts.is_lost(at, ON_ITS_WAY);
                if let (false, Some(job), Some(node)) = (lost, &event.job, &event.node) {
                    evidence.reported_done(job, node);
                }
                continue;
            }
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        if parts.attend() {
            evidence.forget(|at| parts.is_lost(at, Duration::ZERO));
        }
        if Instant::now() < end {
            if Instant::now() >= next {
                inflict(&mut parts, &mut rng, &args);
                faults += 1;
                next = Instant::now() + Duration::from_millis(rng.u64(200..1_500));
            }
            continue;
        }
        if !std::mem::replace(&mut calm, true) {
            parts.mend();
            give_up = Instant::now() + PROGRESS_WITHIN;
        }
        let left = tasks - finished(&bus, &cell).await.unwrap_or(0);
        if left < least_left {
            (least_left, give_up) = (left, Instant::now() + PROGRESS_WITHIN);
        }
        if left == 0 || Instant::now() >= give_up {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let crashes = parts.crashes;
    let broken_stores = parts.end()?;
    broken_stores.iter().for_each(|store| println!("BROKEN: {}", store.display()));
    let found = evidence.findings();
    let (seed, starts) = (args.seed, found.starts);
    println!("seed {seed}: {tasks} tasks, {left} not finished, {starts} starts, {faults} faults");
    if found.untraced > 0 {
        println!("BROKEN: {} tasks are done and have left no trace of it", found.untraced);
    }
    println!(
        "{} double starts, {} overlaps, {} lost results, {} over limit",
        found.double_starts, found.overlaps, found.lost_results, found.over_limit
    );
    let promises = found.double_starts + found.overlaps + found.lost_results + found.over_limit;
    let broken = promises + found.untraced + crashes + broken_stores.len();
    let is_well = broken == 0 && left == 0;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns how many tasks there are.
fn write_config(path: &std::path::Path, seconds: u64) -> anyhow::Result<u64> {
    let per_host = (seconds * TASKS_PER_S).div_ceil(HOSTS * JOBS);
    let host = |h| {
        let databases: Vec<_> = (0..per_host).map(|db| format!("h{h}-{db}")).collect();
        (format!("h{h}"), json!(databases))
    };
    let hosts: serde_json::Map<_, _> = (0..HOSTS).map(host).collect();
    let config = json!({
        "bistro_settings": {
            "enabled": true,
            "nodes": {
                "levels": ["host", "db"],
                "node_sources": [{"source": "manual", "prefs": hosts}]
            },
            "resources": {
                "host": {"slots": {"limit": HOST_LIMIT, "default": 1}},
                "worker": {"cpu": {"limit": 4, "default": 1}}
            },
            "backoff": [1, "repeat"]
        },
        "bistro_job->a": {"owner": "chaos"},
        "bistro_job->b": {"owner": "chaos", "depends_on": ["a"]},
        "bistro_job->c": {"owner": "chaos", "priority": 2}
    });
    std::fs::write(path, serde_json::to_vec_pretty(&config)?)?;
    Ok(HOSTS * per_host * JOBS)
}

/// Which part something happens to, and what.
fn draw(rng: &mut Rng, parts: usize) -> (usize, Fault) {
    let on = rng.usize(0..parts);
    let fault = match rng.u8(0..16) {
        0 | 1 => Fault::Kill,
        2 if on > 0 => Fault::KillWithGuard,
        3 if on > 0 => Fault::KillGuard,
        2..5 => Fault::Stop,
        5 => Fault::Cut { out: true, into: false },
        6 => Fault::Cut { out: false, into: true },
        7 => Fault::Cut { out: true, into: true },
        8 => Fault::Delay { out: true, into: false },
        9 => Fault::Delay { out: false, into: true },
        10 => Fault::Delay { out: true, into: true },
        11 => Fault::KillNats,
        12 => Fault::StopNats,
        13 | 14 => Fault::DiskFull,
        _ => Fault::Unplug,
    };
    // A store of before is only the scheduler's to have.
    match rng.u8(0..20) {
        0 => (0, Fault::LoseWrites),
        _ => (on, fault),
    }
}

fn inflict(parts: &mut Parts, rng: &mut Rng, args: &Args) {
    let is_wanted = |fault: &Fault| match &args.only {
        Some(name) => format!("{fault:?}").starts_with(name),
        None => args.lose_writes || !matches!(fault, Fault::LoseWrites),
    };
    let mut draws = (0..DRAWS_MAX).map(|_| draw(rng, parts.count()));
    let Some((on, fault)) = draws.find(|(_, fault)| is_wanted(fault)) else { return };
    drop(draws);
    // Short ones are blinks, long ones outlast a lease.
    let lasts = match rng.u8(0..3) {
        0 => rng.u64(10..300),
        1 => rng.u64(300..3_000),
        _ => rng.u64(3_000..12_000),
    };
    let lasts = Duration::from_millis(lasts);
    let name = match on {
        0 => "the scheduler".to_owned(),
        1..=WORKERS => format!("w{on}"),
        _ => "the other scheduler".to_owned(),
    };
    println!("{fault:?} on {name} for {lasts:?}");
    parts.inflict(fault, on, lasts);
}

/// How many tasks are done, as the scheduler says; none if it does not.
async fn finished(bus: &Bus, cell: &Cell) -> Option<u64> {
    let answer = bus.request(cell.api(verb::STATUS), b"{}".to_vec(), Duration::from_secs(2)).await;
    let reply: ApiReply<CellStatus> = serde_json::from_slice(&answer.ok()?).ok()?;
    reply.ok?.counts.get(&TaskState::Done).copied()
}
