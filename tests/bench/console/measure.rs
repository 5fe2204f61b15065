//! What is measured, one function each. A time ends when the frame that shows it is on the screen.

use anyhow::Context;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bistro_common::protocol::api::{CellStatus, KillRequest, TaskState, verb};
use bistro_tests::Cell;
use bistro_tests::proxy::{Fault, Proxy};

use super::load::{JOBS, Load, NODES};
use super::pty::{COLUMNS, Console, row};
use crate::{cpu_seconds, percentile, rss_kb};

/// How often short things are tried.
const STARTS: usize = 20;
const KEYS: usize = 300;
const FILTERS: usize = 25;
/// How long long things are watched.
const IDLE: Duration = Duration::from_secs(4);
const LOADED: Duration = Duration::from_millis(1_500);
/// The line of the screen that has the counts, and the one about the list.
const COUNTS: u16 = 1;
pub const ABOUT: u16 = 3;

pub fn ms(since: Instant, until: Instant) -> f64 {
    until.saturating_duration_since(since).as_secs_f64() * 1e3
}

/// Of some times in milliseconds.
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Times {
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
        Self { p50, p99, max }
    }
}

fn p95(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    percentile(&times, 0.95)
}

/// From the start of a console to its first frame, with nobody there.
pub fn first_frame_ms(url: &str) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let console = Console::open(url, &[])?;
        let shown = console.wait("the first frame", |screen| screen.contents().contains("Jobs"))?;
        times.push(ms(console.started, shown));
    }
    Ok(p95(times))
}

pub fn version_ms() -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let mut version = Command::new(bistro_tests::bistro());
        let status = version.arg("--version").stdout(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "--version failed");
        times.push(ms(started, Instant::now()));
    }
    Ok(p95(times))
}

pub struct Connected {
    pub totals_ms: f64,
    pub matrix_ms: f64,
    pub bytes: u64,
}

/// What the header says of these counts.
fn counts_text(status: &CellStatus) -> String {
    let count = |state: &TaskState| {
        let count = status.counts.get(state).filter(|count| **count > 0)?;
        Some(format!("{} {} {count}", state.glyph(), state.as_str()))
    };
    TaskState::ALL.iter().filter_map(count).collect::<Vec<_>>().join("  ")
}

/// The scheduler's counts, once nothing changes any more.
async fn settled(cell: &Cell) -> (CellStatus, Instant) {
    let mut before = cell.status().await;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = cell.status().await;
        if now.counts != before.counts {
            (before, since) = (now, Instant::now());
        }
    }
    (before, since)
}

pub async fn connect(load: &Load, proxy: &Proxy) -> anyhow::Result<Connected> {
    let (status, _) = settled(&load.cell).await;
    let counts = counts_text(&status);
    let console = Console::open(&proxy.url(), &[])?;
    let totals = console.wait("the totals and the jobs", |screen| {
        row(screen, COUNTS).contains(&counts)
            && row(screen, ABOUT).contains(&format!("1 of {JOBS}"))
            && row(screen, ABOUT + 2).contains("job-00000")
    })?;
    let totals_ms = ms(console.started, totals);
    drop(console);
    let before = proxy.received();
    let console = Console::open(&proxy.url(), &["grid"])?;
    let whole = format!("{JOBS} x {NODES} = {}", JOBS * NODES);
    let matrix = console.wait("the whole matrix", |screen| {
        let heading = row(screen, ABOUT);
        heading.contains(&whole) && !heading.contains("loading")
    })?;
    let matrix_ms = ms(console.started, matrix);
    Ok(Connected { totals_ms, matrix_ms, bytes: proxy.received() - before })
}

pub struct Used {
    pub cpu_pct: f64,
    pub bytes_per_s: f64,
    pub changes_per_s: f64,
}

fn watch(console: &Console, time: Duration) -> Used {
    let (cpu, bytes, began) = (cpu_seconds(console.pid()), console.bytes(), Instant::now());
    std::thread::sleep(time);
    let seconds = began.elapsed().as_secs_f64();
    let cpu_pct = (cpu_seconds(console.pid()) - cpu) / seconds * 100.0;
    let bytes_per_s = (console.bytes() - bytes) as f64 / seconds;
    Used { cpu_pct, bytes_per_s, changes_per_s: 0.0 }
}

/// Of a console that shows the jobs, with its clock.
pub fn idle(load: &Load) -> anyhow::Result<Used> {
    let console = Console::open(&load.cell.nats.url(), &[])?;
    console.wait_line(ABOUT, &format!("1 of {JOBS}"))?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(watch(&console, IDLE))
}

/// With the changes that the console itself has shown: what it does not follow, it does not show.
pub fn under_load(load: &Load, view: &str) -> anyhow::Result<Used> {
    let console = Console::open(&load.cell.nats.url(), &[view])?;
    let shown = if view == "grid" { format!("= {}", JOBS * NODES) } else { format!("of {JOBS}") };
    console.wait_line(ABOUT, &shown)?;
    console.wait_line(COUNTS, "+ done ")?;
    std::thread::sleep(Duration::from_millis(500));
    let count = || -> anyhow::Result<u64> {
        let line = console.line(COUNTS);
        let after = line.split("+ done ").nth(1).context("tasks are done")?;
        Ok(after.split_whitespace().next().context("a number")?.parse()?)
    };
    let (before, began) = (count()?, Instant::now());
    let used = watch(&console, LOADED);
    let changes = (count()? - before) * 2;
    Ok(Used { changes_per_s: changes as f64 / began.elapsed().as_secs_f64(), ..used })
}

/// From a key to the frame that has moved the cursor, among a million tasks that change.
pub fn keys(load: &Load) -> anyhow::Result<Times> {
    let mut console = Console::open(&load.cell.nats.url(), &[])?;
    console.wait_line(ABOUT, &format!("1 of {JOBS}"))?;
    let mut times = Vec::new();
    for at in 0..KEYS {
        let down = at < KEYS / 2;
        let place = if down { at + 2 } else { KEYS - at };
        let pressed = console.press(if down { "j" } else { "k" })?;
        let shown = console.wait_line(ABOUT, &format!(" {place} of {JOBS}"))?;
        times.push(ms(pressed, shown));
        // As fast as a key that is held down.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Times::of(times))
}

/// From a filter that is typed to the right total of it, and from its end to that of all tasks.
pub fn filters(load: &Load, filter: &str, total: u64) -> anyhow::Result<Times> {
    let mut console = Console::open(&load.cell.nats.url(), &["tasks"])?;
    let all = format!("all tasks  1 of {}", JOBS * NODES);
    let shown = |screen: &vt100::Screen, wanted: &str| {
        let about = row(screen, ABOUT);
        about.contains(wanted) && !about.contains("...")
    };
    console.wait("all tasks", |screen| shown(screen, &all))?;
    let filtered = format!("{filter}  1 of {total}");
    let mut times = Vec::new();
    for _ in 0..FILTERS {
        console.press("/")?;
        console.wait("the filter line", |screen| screen.contents().contains("filter: _"))?;
        let typed = console.press(filter)?;
        times.push(ms(typed, console.wait(&filtered, |screen| shown(screen, &filtered))?));
        let cleared = console.press("\u{1b}")?;
        times.push(ms(cleared, console.wait(&all, |screen| shown(screen, &all))?));
    }
    Ok(Times::of(times))
}

/// From the key that sorts a million tasks by state to the list that is.
pub fn sorts(load: &Load) -> anyhow::Result<Times> {
    let mut console = Console::open(&load.cell.nats.url(), &["tasks"])?;
    console.wait_line(ABOUT, &format!("of {}", JOBS * NODES))?;
    let mut times = Vec::new();
    for _ in 0..FILTERS / 5 {
        for arrow in ["NODE^", "STATE^", "FOR^"] {
            let pressed = console.press("s")?;
            let sorted = console.wait(arrow, |screen| {
                row(screen, ABOUT + 1).contains(arrow) && !row(screen, ABOUT).contains("...")
            })?;
            times.push(ms(pressed, sorted));
        }
        console.press("s")?;
        console.wait("the order of the config", |screen| {
            !row(screen, ABOUT + 1).contains('^') && !row(screen, ABOUT).contains("...")
        })?;
    }
    Ok(Times::of(times))
}

pub struct Killed {
    pub kills: usize,
    pub wrong: usize,
}

/// Of a console that has shown every view, with all million cells and the logs open.
pub fn rss_mb(load: &Load) -> anyhow::Result<f64> {
    let mut console = Console::open(&load.cell.nats.url(), &["grid"])?;
    console.wait_line(ABOUT, &format!("= {}", JOBS * NODES))?;
    for view in ["1", "3", "4", "5", "7", "8", "2", "6"] {
        console.press(view)?;
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(rss_kb(console.pid()) as f64 / 1024.0)
}

/// Kills whatever the cursor comes to among running tasks, which end and start all the time, and
/// compares what the question said with what was asked of the scheduler.
pub async fn kills(load: &Load, count: usize) -> anyhow::Result<Killed> {
    let bus = load.cell.connect("bench-kills").await;
    let mut requests = bus.client().subscribe(load.cell.name().api(verb::KILL)).await?;
    bus.flush().await;
    let url = load.cell.nats.url();
    let mut console = Console::open(&url, &["tasks", "--filter", "state=running", "--sort=age"])?;
    console.wait("running tasks", |screen| row(screen, ABOUT + 2).contains("running"))?;
    let attempt = |screen: &vt100::Screen| {
        let line = screen.rows(0, COLUMNS).find(|line| line.contains(" attempt  #"))?;
        line.split_whitespace().find(|word| word.len() == 36).map(str::to_owned)
    };
    // Confirmed, and not seen on their way yet. They may overtake each other there.
    let (mut confirmed, mut last) = (HashMap::new(), None);
    let mut keys = "jK";
    let (mut kills, mut wrong) = (0, 0);
    while kills < count {
        console.press(keys)?;
        let mut now = None;
        let asked = console.wait_for("a question", Duration::from_millis(100), |screen| {
            now = attempt(screen);
            now.is_some() && now != last
        });
        // Where there was no row just then, there is no question: press again.
        keys = if kills % 100 == 99 { "gK" } else { "jK" };
        if asked.is_err() {
            // Whatever came of those keys is over before others are pressed: help opens after them.
            console.press("n?")?;
            console.wait("help", |screen| screen.contents().contains("any key closes"))?;
            console.press("n")?;
            console.wait("the list", |screen| !screen.contents().contains("any key closes"))?;
            last = None;
            continue;
        }
        last = now;
        *confirmed.entry(last.clone().unwrap_or_default()).or_insert(0u32) += 1;
        console.press("\t\r")?;
        kills += 1;
        while let Some(Some(request)) = futures_util::FutureExt::now_or_never(requests.next()) {
            wrong += usize::from(!take(&mut confirmed, &request.payload)?);
        }
    }
    while !confirmed.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(5), requests.next()).await;
        let request = next.context("a kill was confirmed and not asked for")?.context("NATS")?;
        wrong += usize::from(!take(&mut confirmed, &request.payload)?);
    }
    Ok(Killed { kills, wrong })
}

/// Takes the target of a request from those that were confirmed; was it one?
fn take(confirmed: &mut HashMap<String, u32>, payload: &[u8]) -> anyhow::Result<bool> {
    let request: KillRequest = serde_json::from_slice(payload)?;
    let target = request.attempt.to_string();
    let Some(count) = confirmed.get_mut(&target) else { return Ok(false) };
    *count -= 1;
    if *count == 0 {
        confirmed.remove(&target);
    }
    Ok(true)
}

/// From the last change to counts that are all the scheduler's.
pub async fn truth_ms(load: &Load) -> anyhow::Result<f64> {
    let console = Console::open(&load.cell.nats.url(), &[])?;
    console.wait_line(ABOUT, &format!("of {JOBS}"))?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    load.set(0);
    let (status, since) = settled(&load.cell).await;
    let counts = counts_text(&status);
    let right = console.wait_line(COUNTS, &counts)?;
    load.set(super::CHANGES);
    Ok(ms(since, right))
}

pub struct Lost {
    pub shown_ms: f64,
    pub resync_ms: f64,
}

/// The server goes away for a while, and the console comes back with its filter and its cursor.
pub fn resync(proxy: &Proxy) -> anyhow::Result<Lost> {
    let mut console = Console::open(&proxy.url(), &["tasks", "--filter", "n99"])?;
    console.wait_line(ABOUT, "n99  1 of 11000")?;
    console.press("jjj")?;
    console.wait_line(ABOUT, "n99  4 of 11000")?;
    let down = Instant::now();
    proxy.set(Fault { down: true, ..Fault::default() });
    let shown = console.wait_line(0, "no connection for")?;
    std::thread::sleep(Duration::from_secs(3));
    let before = console.line(COUNTS);
    let up = Instant::now();
    proxy.set(Fault::default());
    // News again, and all as it was.
    let back = console.wait("the console to be in step", |screen| {
        !row(screen, 0).contains("no connection")
            && row(screen, COUNTS) != before
            && row(screen, ABOUT).contains("n99  4 of 11000")
    })?;
    Ok(Lost { shown_ms: ms(down, shown), resync_ms: ms(up, back) })
}
