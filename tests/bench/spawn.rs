//! What it takes to start a process: by the guard, and by a bare loop of one thread.

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Instant;

use bistro_common::clock::boot_ms;
use bistro_common::ids::{AttemptId, LedgerId};
use bistro_tests::bistro;
use bistro_worker::GuardCommand;
use bistro_worker::guard::{Guard, Report, Start};

use crate::round;

/// So many are started in a row, and then waited for.
const IN_A_ROW: usize = 100;
const TIMES: usize = 20;

pub async fn run() -> anyhow::Result<Value> {
    let before = bare_us()?;
    let guard = guard_us().await?;
    let bare = f64::midpoint(before, bare_us()?);
    Ok(json!({
        "bare_us": round(bare),
        "guard_us": round(guard),
        "of_bare": round(guard / bare),
    }))
}

/// Microseconds per start of a process with pipes for what it prints, by `posix_spawn`.
fn bare_us() -> anyhow::Result<f64> {
    let started = Instant::now();
    for _ in 0..TIMES {
        let spawn = |_| {
            let mut command = Command::new("/bin/true");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        };
        for child in (0..IN_A_ROW).map(spawn).collect::<Vec<_>>() {
            child?.wait()?;
        }
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / (TIMES * IN_A_ROW) as f64)
}

/// The same by a guard, with the four pipes of a task.
async fn guard_us() -> anyhow::Result<f64> {
    let command =
        GuardCommand { program: bistro(), args: vec!["guard".to_owned()], pass_env: Vec::new() };
    let guard = Guard::start(command, LedgerId::generate())?;
    guard.set_deadline(boot_ms() + 600_000);
    // The first one waits for the guard itself, and makes the cgroups.
    starts(&guard).await?;
    let started = Instant::now();
    for _ in 0..TIMES {
        starts(&guard).await?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / (TIMES * IN_A_ROW) as f64)
}

async fn starts(guard: &Guard) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for _ in 0..IN_A_ROW {
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (reader, writer) = std::io::pipe()?;
            readers.push(reader);
            writers.push(writer.into());
        }
        let start = Start {
            attempt: AttemptId::generate(),
            argv: vec!["/bin/true".to_owned()],
            directory: "/".into(),
            env: Vec::new(),
            limits: Default::default(),
            confinement: Default::default(),
        };
        running.push((guard.start_task(start, writers).await?, readers));
    }
    for (mut reports, _readers) in running {
        loop {
            match reports.next().await {
                Some(Report::Exited { .. }) => break,
                Some(Report::NotStarted { error, .. }) => anyhow::bail!("not started: {error}"),
                Some(_) => {}
                None => anyhow::bail!("the guard has ended"),
            }
        }
    }
    Ok(())
}
