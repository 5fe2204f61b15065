//! `bistro wait`: until tasks have come so far.

use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bistro_common::filter;
use bistro_common::protocol::api::{
    CellStatus, Counts, JobRow, ListRequest, Listing, TaskState, verb,
};

use super::print::cell_text;
use super::progress;
use crate::POLL;
use crate::args::{Until, WaitArgs};
use crate::client::{Client, Unreachable};

/// As `timeout` of the core utilities says it.
const TOOK_TOO_LONG: u8 = 124;

/// How far the tasks are that are waited for.
struct Progress {
    counts: Counts,
    /// The scheduler knows what there is to do; one that has just started does not.
    planned: bool,
    /// Nothing more will happen by itself.
    over: bool,
}

pub async fn run(client: &Client, args: WaitArgs) -> anyhow::Result<ExitCode> {
    // What is too far away to be a time never comes.
    let deadline =
        args.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let bar = progress();
    loop {
        match look(client, args.job.as_deref()).await {
            Ok(now) => {
                let count = |state| now.counts.get(&state).copied().unwrap_or(0);
                let done = count(TaskState::Done);
                let all = now.counts.values().sum::<u64>() - count(TaskState::Avoided);
                let busy = count(TaskState::Running) + count(TaskState::Unsure);
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(format!("{busy} running"));
                match args.until {
                    Until::Idle if busy == 0 && now.planned => return Ok(ExitCode::SUCCESS),
                    Until::Done if done == all && all > 0 => return Ok(ExitCode::SUCCESS),
                    Until::Done if now.over => {
                        bar.finish_and_clear();
                        let counts = cell_text(&json!(now.counts));
                        anyhow::bail!("not all are done, and no more will be: {counts}");
                    }
                    _ => {}
                }
            }
            // Whoever waits does so through a restart, too.
            Err(error) if error.is::<Unreachable>() => bar.set_message("no answer"),
            Err(error) => return Err(error),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            bar.finish_and_clear();
            eprintln!("error: it takes longer than {} s", args.timeout.unwrap_or(0));
            return Ok(ExitCode::from(TOOK_TOO_LONG));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look(client: &Client, job: Option<&str>) -> anyhow::Result<Progress> {
    let status: CellStatus = client.ask(verb::STATUS, &()).await?;
    let planned = status.nodes > 0;
    let Some(name) = job else {
        return Ok(Progress { counts: status.counts, planned, over: status.finished });
    };
    let filter = filter::exactly("job", name);
    let request = ListRequest { filter, ..ListRequest::default() };
    let rows: Listing<JobRow> = client.ask(verb::JOBS, &request).await?;
    // A scheduler that has just started may not know its jobs yet.
    let Some(row) = rows.items.into_iter().next() else {
        anyhow::ensure!(status.jobs == 0, "there is no job {name:?}; `bistro jobs` lists them");
        return Ok(Progress { counts: Counts::new(), planned: false, over: false });
    };
    let over = |state: &TaskState| {
        matches!(
            state,
            TaskState::Done | TaskState::Avoided | TaskState::Failed | TaskState::Disabled
        )
    };
    let over = status.finished || row.counts.keys().all(over);
    Ok(Progress { counts: row.counts, planned, over })
}
