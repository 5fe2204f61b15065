//! The console as its user has it: in a terminal of 120x40, on a cell with a million tasks of which
//! 10,000 change per second.

mod alone;
mod load;
mod measure;
mod pty;

use serde_json::{Value, json};
use std::time::{Duration, Instant};

use bistro_tests::proxy::Proxy;

use crate::round;
use load::Load;

/// Status changes per second.
const CHANGES: u64 = 10_000;
/// A server that nobody runs.
const NOBODY: &str = "nats://127.0.0.1:1";

pub async fn run(kills: usize) -> anyhow::Result<Value> {
    let began = Instant::now();
    let mut results = json!({});
    let mut put = |name: &str, value: f64| results[name] = round(value).into();
    put("first_frame_ms_p95", measure::first_frame_ms(NOBODY)?);
    put("version_ms_p95", measure::version_ms()?);

    let load = Load::start().await?;
    let proxy = Proxy::start(load.cell.nats.url().trim_start_matches("nats://").to_owned()).await;
    // Some of everything, on all rows.
    load.set(CHANGES);
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.set(0);
    let connected = measure::connect(&load, &proxy).await?;
    put("totals_ms", connected.totals_ms);
    put("matrix_ms", connected.matrix_ms);
    put("connect_bytes", connected.bytes as f64);
    let idle = measure::idle(&load)?;
    put("idle_cpu_pct", idle.cpu_pct);
    put("idle_bytes_per_s", idle.bytes_per_s);

    load.set(CHANGES);
    let jobs = measure::under_load(&load, "jobs")?;
    let grid = measure::under_load(&load, "grid")?;
    put("load_cpu_pct", jobs.cpu_pct.max(grid.cpu_pct));
    put("load_bytes_per_s", jobs.bytes_per_s.max(grid.bytes_per_s));
    put("changes_per_s", jobs.changes_per_s.min(grid.changes_per_s));
    let keys = measure::keys(&load)?;
    put("key_ms_p50", keys.p50);
    put("key_ms_p99", keys.p99);
    put("key_ms_max", keys.max);
    put("filter_ms_p99", measure::filters(&load, "n99", 11_000)?.p99);
    put("regex_ms_p99", measure::filters(&load, "node~/^n9[0-9]$/", 10_000)?.p99);
    put("sort_ms_p99", measure::sorts(&load)?.p99);
    let killed = measure::kills(&load, kills).await?;
    put("kills", killed.kills as f64);
    put("wrong_targets", killed.wrong as f64);
    put("truth_ms", measure::truth_ms(&load).await?);
    let lost = measure::resync(&proxy)?;
    put("loss_shown_ms", lost.shown_ms);
    put("resync_ms", lost.resync_ms);
    put("rss_mb", measure::rss_mb(&load)?);
    drop(load);

    let lines = alone::log_lines().await?;
    put("log_lines_sent", lines.sent as f64);
    put("log_lines_wrong", lines.wrong as f64);
    put("log_lines_ms", lines.ms);
    let heatmap = alone::heatmap().await?;
    put("heatmap_cells", heatmap.cells as f64);
    put("heatmap_ms_p99", heatmap.p99);
    put("heatmap_rss_mb", heatmap.rss_mb);
    put("seconds", began.elapsed().as_secs_f64());
    Ok(results)
}
