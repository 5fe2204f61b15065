//! Task logs: how fast one core takes them, and how fast they are found again.
//!
//! Lines go the way that a task's output goes, from bytes to the disk, on one core; what they are
//! made of is made before. Then pages are read from the store as it is on the disk.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

use bistro_common::ids::{AttemptId, TaskName};
use bistro_common::lease::LeaseTerms;
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::log::{Direction, LineId, LogRead, Stream};
use bistro_tests::Cell;
use bistro_worker::logs::{Budget, Capture, Lines, Logs, Source};

use crate::{percentile, round, rss_kb};

/// As much as a pipe gives at once.
const CHUNK: usize = 16 << 10;
/// What all attempts print, from some place on.
const POOL: usize = 64 << 20;
/// Each attempt prints so much; of more, not all would be kept.
const ATTEMPT_BYTES: usize = 4 << 20;
/// So many print by turns.
const ATTEMPTS: usize = 16;
const PAGES: usize = 200;
const SEARCHED: u64 = 1 << 30;
/// For the worker's memory.
const PRINTING: u64 = 1_000;
const PRINTING_FOR: Duration = Duration::from_secs(10);

pub fn run(runtime: &tokio::runtime::Runtime, store_gb: u64) -> anyhow::Result<Value> {
    let directory = tempfile::tempdir()?;
    let filled = std::thread::scope(|scope| {
        let fill = || on_one_core(|| fill(directory.path(), store_gb << 30));
        scope.spawn(fill).join().expect("it does not panic")
    })?;
    let disk_bytes: u64 = std::fs::read_dir(directory.path())?
        .flatten()
        .filter_map(|f| Some(f.metadata().ok()?.len()))
        .sum();
    let started = Instant::now();
    let logs = open(directory.path())?;
    let open_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut pages = pages(&logs, &filled);
    pages.sort_by(f64::total_cmp);
    let search = |regex: &str| search(&logs, &filled, regex);
    let results = json!({
        "store_mb": filled.bytes >> 20,
        "disk_mb": disk_bytes >> 20,
        "lines_per_s": (filled.lines as f64 / filled.seconds).round(),
        "mb_per_s": (filled.bytes as f64 / 1e6 / filled.seconds).round(),
        "open_ms": round(open_ms),
        "first_page_ms_p50": round(percentile(&pages, 0.5)),
        "first_page_ms_p99": round(percentile(&pages, 0.99)),
        "regex_gb_per_s": search("deadline exceeded|connection refused"),
        "regex_class_gb_per_s": search(r"code=5\d\d\b.*retry in [0-9]+ s"),
        "regex_nowhere_gb_per_s": search("segmentation fault"),
    });
    drop((logs, directory));
    let mut results = results;
    results["worker_rss_mb"] = runtime.block_on(memory())?;
    Ok(results)
}

fn open(directory: &Path) -> anyhow::Result<Logs> {
    Ok(Logs::open(directory.to_owned(), Budget { bytes: u64::MAX, age: Duration::MAX })?)
}

/// What is in the store.
struct Filled {
    bytes: u64,
    lines: u64,
    seconds: f64,
    attempts: Vec<AttemptId>,
    /// The first line beyond those that are searched, and how many bytes they have.
    searched_to: LineId,
    searched: u64,
}

/// Runs something, and the threads that it starts, on the first core.
fn on_one_core<T>(run: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("it can be read");
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap_or(0);
    one.set(first);
    sched_setaffinity(None, &one).expect("one of one's own cores");
    run()
}

fn fill(directory: &Path, store_bytes: u64) -> anyhow::Result<Filled> {
    let pool = pool();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let logs = open(directory)?;
        let started = Instant::now();
        let mut filled = Filled {
            bytes: 0,
            lines: 0,
            seconds: 0.0,
            attempts: Vec::new(),
            searched_to: LineId::MAX,
            searched: 0,
        };
        // A second of the log's time is 50,000 lines.
        let time = |lines: u64| 1_700_000_000_000 + lines / 50;
        let mut printers = Vec::new();
        while filled.bytes < store_bytes {
            for number in 0..ATTEMPTS {
                let attempt = AttemptId::generate();
                filled.attempts.push(attempt);
                let task = TaskName::new(format!("job-{}", number % 4), format!("host-{number}"));
                let source = Source { attempt, attempt_no: 1, task };
                printers.push((logs.printer(source), Capture::default()));
            }
            for chunk in 0..ATTEMPT_BYTES / CHUNK {
                for (number, (printer, capture)) in printers.iter_mut().enumerate() {
                    let at = (number * 977 + chunk) * CHUNK % (POOL - CHUNK);
                    let mut lines = Lines::default();
                    let count = capture.push(Stream::Stdout, &pool[at..at + CHUNK], &mut lines);
                    printer.print(time(filled.lines), lines).await;
                    filled.lines += u64::from(count);
                    filled.bytes += CHUNK as u64;
                }
            }
            for (printer, _) in printers.drain(..) {
                printer.end(time(filled.lines), Lines::default()).await;
            }
            if filled.bytes >= SEARCHED && filled.searched == 0 {
                filled.searched = filled.bytes;
                filled.searched_to = LineId::at(time(filled.lines) + 1_000);
            }
        }
        filled.searched = if filled.searched == 0 { filled.bytes } else { filled.searched };
        filled.seconds = started.elapsed().as_secs_f64();
        Ok(filled)
    })
}

/// Lines as services print them, of 60 to 250 bytes.
fn pool() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut pool = String::with_capacity(POOL + 1_000);
    let mut number = 0u64;
    while pool.len() < POOL {
        number += 1;
        let (id, ms, table) = (rng.u64(..), rng.u32(1..90_000), rng.u32(0..500));
        let clock = format!(
            "2026-11-24T03:{:02}:{:02}.{:03}Z",
            number / 60_000 % 60,
            number / 1_000 % 60,
            number % 1_000
        );
        let line = match rng.u32(0..20_000) {
            0 => format!("{clock} ERROR request {id:016x}: deadline exceeded after {ms} ms\n"),
            1 => format!(
                "{clock} ERROR request {id:016x}: code=503 from shard {table}; retry in {} s\n",
                ms % 60
            ),
            2..8_000 => format!("{clock} INFO  copied rows of table_{table:03} in {ms} ms\n"),
            8_000..15_000 => format!(
                "{clock} DEBUG request {id:016x} on shard {table}: code=200 bytes={} path=/v1/objects/{:08x} cache=miss took {ms} us\n",
                id % 100_000,
                id >> 32
            ),
            _ => format!(
                "{clock} INFO  checkpoint {number}: table_{table:03} is at key {:032x}, {} rows are left, the writer is {ms} us behind the reader, and nothing waits\n",
                u128::from(id) * 7_919,
                id % 1_000_000
            ),
        };
        pool.push_str(&line);
    }
    pool.truncate(POOL);
    pool.into_bytes()
}

/// Milliseconds that a first page takes: the newest lines, the oldest, those of some time, of some
/// attempt, of a task.
fn pages(logs: &Logs, filled: &Filled) -> Vec<f64> {
    let newest = LogRead::page(LineId::MAX, Direction::Descending, 1_000);
    let oldest = LogRead::page(LineId::MIN, Direction::Ascending, 1_000);
    let read = |number: usize| {
        let any = &filled.attempts[number * 7_919 % filled.attempts.len()];
        let second = 1_700_000_000 + (number as u64 * 7_919) % (filled.lines / 50_000).max(1);
        let request = match number % 5 {
            0 => newest.clone(),
            1 => oldest.clone(),
            2 => LogRead { from: LineId::at(second * 1_000), ..oldest.clone() },
            3 => LogRead { attempt: Some(*any), ..newest.clone() },
            _ => LogRead { node: Some(format!("host-{}", number % ATTEMPTS)), ..newest.clone() },
        };
        let started = Instant::now();
        let page = logs.read(&request);
        let took = started.elapsed().as_secs_f64() * 1e3;
        assert!(!page.lines.is_empty() && page.error.is_none(), "{request:?}: {:?}", page.error);
        took
    };
    (0..PAGES).map(read).collect()
}

/// GB of lines per second that a regular expression is looked for in; the second time, when the
/// files are in memory.
fn search(logs: &Logs, filled: &Filled, regex: &str) -> f64 {
    let once = || {
        let started = Instant::now();
        let mut request = LogRead {
            regex: Some(regex.to_owned()),
            ..LogRead::page(LineId::MIN, Direction::Ascending, 5_000)
        };
        loop {
            let page = logs.read(&request);
            let next = page.next.expect("a page that goes up has a next one");
            if page.at_end || next > filled.searched_to {
                return started.elapsed().as_secs_f64();
            }
            request.from = next;
        }
    };
    once();
    round(filled.searched as f64 / 1e9 / once())
}

/// The most memory that a worker takes while many tasks print as much as they may.
async fn memory() -> anyhow::Result<Value> {
    let mut cell = Cell::new().await;
    cell.terms = LeaseTerms::PRODUCTION;
    cell.write_config(&format!(
        r#"{{
  "bistro_settings": {{
    "enabled": true,
    "nodes": {{
      "levels": ["node"],
      "node_sources": [{{
        "source": "range_label",
        "prefs": {{"parent_level": "instance", "format": "n{{i}}", "start": 1, "end": {PRINTING}}}
      }}]
    }},
    "resources": {{"instance": {{"at_once": {{"limit": {PRINTING}, "default": 1}}}}}}
  }},
  "bistro_job->job": {{"owner": "bench", "command": ["yes"]}}
}}"#
    ));
    let _scheduler = cell.spawn_scheduler();
    let worker = cell.spawn_worker("w1", "/bin/true");
    cell.wait_for_count(TaskState::Running, PRINTING).await;
    let until = Instant::now() + PRINTING_FOR;
    let mut most_kb = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most_kb = most_kb.max(rss_kb(worker.pid()));
    }
    anyhow::ensure!(cell.status().await.counts.get(&TaskState::Running) == Some(&PRINTING));
    Ok(json!(most_kb >> 10))
}
