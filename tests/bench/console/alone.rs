//! What is measured on cells of its own: ten million cells, and every line of a log.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use bistro_common::protocol::api::TaskState;
use bistro_tests::Cell;

use super::load::{self, JOBS, NODES};
use super::measure::{ABOUT, Times, ms};
use super::pty::{Console, row};
use crate::rss_kb;

pub struct Heatmap {
    pub cells: usize,
    pub p99: f64,
    pub rss_mb: f64,
}

/// Ten times as many jobs: ten million cells, moved through and zoomed.
pub async fn heatmap() -> anyhow::Result<Heatmap> {
    let cells = JOBS * 10 * NODES;
    let cell = Cell::new().await;
    cell.write_config(&load::config(JOBS * 10, NODES));
    let _scheduler = cell.spawn_scheduler();
    cell.wait_for_count(TaskState::CanRun, cells as u64).await;
    let mut console = Console::open(&cell.nats.url(), &["grid"])?;
    console.wait("ten million cells", |screen| {
        let heading = row(screen, ABOUT);
        heading.contains(&format!("= {cells}")) && !heading.contains("loading")
    })?;
    let mut times = Vec::new();
    // Out until all is in sight, in to single cells, and back; each of them changes the picture.
    let zooms = [["-"; 9].as_slice(), &["+"; 12], &["-"; 3]].concat();
    let pans = ["j", "\u{1b}[C", "j", "\u{1b}[C"];
    for key in zooms.iter().flat_map(|zoom| [*zoom].into_iter().chain(pans)) {
        let before = console.text();
        let pressed = console.press(key)?;
        let moved = console.wait("another picture", |screen| screen.contents() != before)?;
        times.push(ms(pressed, moved));
    }
    let rss_mb = rss_kb(console.pid()) as f64 / 1024.0;
    Ok(Heatmap { cells, p99: Times::of(times).p99, rss_mb })
}

/// As many as a console keeps.
const LINES: u64 = 5_000;
const BURSTS: u64 = 4;

pub struct LogLines {
    pub sent: u64,
    /// Sent, and neither shown nor counted in a gap; or shown twice, or out of order.
    pub wrong: u64,
    /// From the word to print to the last line on the screen; the longest of the bursts.
    pub ms: f64,
}

/// A task prints as many lines as a console keeps, again and again; each time the console saves what
/// it has, and that is compared line by line.
pub async fn log_lines() -> anyhow::Result<LogLines> {
    let cell = Cell::new().await;
    let config = r#"{
      "bistro_settings": {
        "enabled": true,
        "nodes": {
          "levels": ["node"],
          "node_sources": [{"source": "manual", "prefs": {"n1": []}}]
        },
        "resources": {"instance": {"at_once": {"limit": 1, "default": 1}}}
      },
      "bistro_job->talk": {"owner": "bench"}
    }"#;
    cell.write_config(config);
    let script = format!(
        "k=1; while [ $k -le {BURSTS} ]; do while [ ! -e \"$0.$k\" ]; do sleep 0.02; done; \
         seq $((k * {LINES} - {LINES} + 1)) $((k * {LINES})); k=$((k + 1)); done; sleep 600"
    );
    let script = cell.script("talk", &script);
    let _parts = [cell.spawn_scheduler(), cell.spawn_worker("w1", &script)];
    cell.wait_for_count(TaskState::Running, 1).await;
    let mut console = Console::open(&cell.nats.url(), &["logs?job=talk"])?;
    console.wait_line(ABOUT, "job=talk  following")?;
    console.wait("the log, still empty", |screen| screen.contents().contains("no lines yet"))?;
    let mut lines = LogLines { sent: BURSTS * LINES, wrong: 0, ms: 0.0 };
    for burst in 1..=BURSTS {
        let told = Instant::now();
        std::fs::write(format!("{script}.{burst}"), "")?;
        let last = format!(" {}", burst * LINES);
        let shown = console.wait("the last line", |screen| screen.contents().contains(&last))?;
        lines.ms = lines.ms.max(ms(told, shown));
        let file = format!("{script}.saved.{burst}");
        console.press("o")?;
        console.wait("the file's name", |screen| screen.contents().contains("save to: "))?;
        console.press(&format!("{}{file}\r", "\u{7f}".repeat("bistro.log".len())))?;
        let saved = format!("saved to {file}");
        console.wait("the file", |screen| screen.contents().contains(&saved))?;
        let first = burst * LINES - LINES + 1;
        lines.wrong += wrong_lines(Path::new(&file), first..=burst * LINES)?;
    }
    Ok(lines)
}

/// How many of the numbers are not there exactly once, in order.
fn wrong_lines(file: &Path, numbers: std::ops::RangeInclusive<u64>) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let shown: Vec<u64> =
        text.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    let mut counts: HashMap<u64, u64> = HashMap::new();
    shown.iter().for_each(|number| *counts.entry(*number).or_default() += 1);
    let wrong = numbers.filter(|number| counts.get(number) != Some(&1)).count();
    let out_of_order = shown.windows(2).filter(|pair| pair[0] >= pair[1]).count();
    Ok((wrong + out_of_order) as u64)
}
