//! `bistro doctor`: looks at everything between here and a running task, and says what to do.

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bistro_common::nats::Patience;
use bistro_common::protocol::api::{CellStatus, ProblemKind, Severity, verb};
use bistro_common::subject::Cell;

use super::print::say;
use crate::client::{Client, find_url};
use crate::text::safe;

/// Older servers cannot sync each message to the disk.
const NATS_VERSION: (u64, u64) = (2, 10);
/// Leases do not depend on clocks, but people who read times do.
const SKEW_MS_MAX: u64 = 5_000;

/// One finding: how it is, and what to do about it.
enum Finding {
    Good(String),
    Bad(String, &'static str),
    Doubtful(String, &'static str),
}

pub async fn run(url: Option<&str>, cell: Cell) -> anyhow::Result<ExitCode> {
    let findings = examine(url, cell).await;
    let mut bad = false;
    for finding in &findings {
        match finding {
            Finding::Good(text) => say!("ok    {}", safe(text))?,
            Finding::Doubtful(text, next) => say!("warn  {}\n      next: {next}", safe(text))?,
            Finding::Bad(text, next) => {
                bad = true;
                say!("FAIL  {}\n      next: {next}", safe(text))?;
            }
        }
    }
    Ok(ExitCode::from(u8::from(bad)))
}

async fn examine(url: Option<&str>, cell: Cell) -> Vec<Finding> {
    let mut findings = Vec::new();
    let connected = match find_url(url) {
        Ok(url) => Client::connect(&url, cell, Patience::FailFast).await,
        Err(error) => Err(error),
    };
    let client = match connected {
        Ok(client) => client,
        Err(error) => {
            let next = "start nats-server (or `bistro up`), and check the address and password";
            findings.push(Finding::Bad(error.to_string(), next));
            return findings;
        }
    };
    findings.push(server(&client));
    findings.push(jet_stream(&client).await);
    let asked = Instant::now();
    match client.ask::<CellStatus>(verb::STATUS, &()).await {
        Ok(status) => {
            let took = asked.elapsed().as_millis();
            let text = format!("the scheduler answers in {took} ms (epoch {})", status.epoch);
            findings.push(Finding::Good(text));
            findings.extend(cell_findings(&status));
        }
        Err(error) => {
            let next = "start `bistro scheduler --config FILE` with the same --cell";
            findings.push(Finding::Bad(error.to_string(), next));
        }
    }
    findings
}

fn server(client: &Client) -> Finding {
    let version = client.bus.client().server_info().version;
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = format!("nats-server {version} answers");
    match found >= NATS_VERSION {
        true => Finding::Good(text),
        false => Finding::Doubtful(
            text,
            "use 2.10 or newer with `sync_interval: always`; an older one may lose results that \
             it has acknowledged if its host crashes (they are then sent again)",
        ),
    }
}

async fn jet_stream(client: &Client) -> Finding {
    let context = async_nats::jetstream::new(client.bus.client().clone());
    match context.get_stream(client.cell.done_stream()).await {
        Ok(stream) => {
            let waiting = stream.cached_info().state.messages;
            Finding::Good(format!("JetStream keeps results ({waiting} messages)"))
        }
        Err(error) => Finding::Bad(
            format!("there is no stream of results: {error}"),
            "start nats-server with -js and a store directory, then a scheduler, which makes it",
        ),
    }
}

fn cell_findings(status: &CellStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let skew = now.abs_diff(status.now_ms);
    if skew > SKEW_MS_MAX {
        let text = format!("the scheduler's clock and this one differ by {} s", skew / 1_000);
        findings.push(Finding::Doubtful(text, "let both hosts keep time with NTP"));
    }
    let (healthy, all) = (status.workers_healthy, status.workers);
    findings.push(match (healthy, all) {
        (0, _) => Finding::Bad(
            format!("{healthy} of {all} workers are healthy"),
            "start `bistro worker`, or see `bistro workers` and their logs",
        ),
        (healthy, all) if healthy < all => Finding::Doubtful(
            format!("{healthy} of {all} workers are healthy"),
            "see `bistro workers`; what they run is waited for until their leases are over",
        ),
        _ => Finding::Good(format!("{healthy} of {all} workers are healthy")),
    });
    findings.extend(status.standbys.map(|standbys| match standbys {
        0 => Finding::Doubtful(
            "no other scheduler stands by".to_owned(),
            "start one with --with-standbys and a data directory of its own",
        ),
        standbys => Finding::Good(format!("{standbys} more schedulers stand by")),
    }));
    if !status.enabled {
        let text = "nothing is started: the settings say \"enabled\": false".to_owned();
        findings.push(Finding::Doubtful(text, "set \"enabled\": true in bistro_settings"));
    }
    for problem in &status.problems {
        findings.push(match problem.severity {
            _ if problem.kind == ProblemKind::DiskFull => {
                Finding::Bad(problem.to_string(), "make room; nothing needs a restart")
            }
            Severity::Error => {
                Finding::Bad(problem.to_string(), "mend it; the last good config is in force")
            }
            Severity::Warning => Finding::Doubtful(problem.to_string(), "see docs/ for this key"),
        });
    }
    if status.problems.is_empty() {
        let (jobs, nodes) = (status.jobs, status.nodes);
        findings.push(Finding::Good(format!("the config is sound: {jobs} jobs, {nodes} nodes")));
    }
    for line in &status.stuck {
        let next = "`bistro explain JOB NODE` says more";
        findings.push(Finding::Doubtful(format!("not done: {line}"), next));
    }
    findings
}
