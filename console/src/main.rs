//! The one binary: `bistro up` and its parts, and the commands that ask a scheduler.
//!
//! Exit codes: 0 ok, 1 what was asked for failed, 2 usage, 3 no answer from the cell, 4 no such
//! thing, 5 refused, 124 it took too long.

mod args;
mod cli;
mod client;
#[cfg(test)]
mod reference;
mod text;
mod tui;
mod up;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use tokio::sync::watch;

use bistro_common::lease::LeaseTerms;
use bistro_common::nats::{Address, Bus, Patience};
use bistro_common::protocol::api::{ErrorCode, verb};
use bistro_common::subject::{Cell, Token};
use bistro_scheduler::Standbys;
use bistro_scheduler::large_pages::{self, LargePages};
use bistro_worker::GuardCommand;
use bistro_worker::logs::Budget;

use args::{Args, Command, SchedulerArgs, WorkerArgs, WorkerHere};
use client::{Client, Place, Refused, Unreachable, find_url};

/// A scheduler may hold millions of tasks.
#[global_allocator]
static ALLOCATOR: LargePages = LargePages;

fn main() -> ExitCode {
    // For a shell that wants to know how a command goes on.
    CompleteEnv::with_factory(Args::command).complete();
    let args = Args::try_parse().unwrap_or_else(|error| args::hints::add(error).exit());
    // Before any thread exists.
    match &args.command {
        Command::Guard { allow_setuid } => return bistro_worker::guard::run(*allow_setuid),
        Command::Confine { confinement, command } => {
            return bistro_worker::guard::run_confined(confinement, command);
        }
        _ => {}
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("BISTRO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,async_nats=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        // To standard error, and if that is gone, as a panic.
        .log_internal_errors(false)
        .init();
    let mut builder = match args.command {
        Command::Up(_) | Command::Scheduler(_) | Command::Worker(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        // Who asks or watches has one thing to do at a time.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(run(args)) {
        Ok(code) => code,
        // `bistro tasks | head` has what it wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads, there is nobody to tell.
            let text = text::safe_lines(&format!("{error:#}"));
            let _ = writeln!(std::io::stderr(), "error: {text}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Refused(error)) => match error.code {
            ErrorCode::NotFound => 4,
            ErrorCode::Gone | ErrorCode::Conflict | ErrorCode::OfTheFile | ErrorCode::Denied => 5,
            ErrorCode::BadRequest | ErrorCode::UnknownVerb | ErrorCode::Unavailable => 1,
        },
        None if error.is::<Unreachable>() => 3,
        None => 1,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // What runs a cell says itself where that is; contexts are for who looks at one.
    if let Command::Up(_)
    | Command::Scheduler(_)
    | Command::Worker(WorkerArgs { command: None, .. }) = &args.command
    {
        return run_part(args).await;
    }
    if let Command::Context(context) = args.command {
        let cell = args.cell.as_deref().unwrap_or("main");
        Cell::new(cell).context("--cell")?;
        return cli::context::run(context, args.nats, cell);
    }
    let place = Place::find(args.nats, args.context.as_deref(), args.cell.as_deref())?;
    if let Command::Console(console) = &args.command {
        return cli::console::run(place, console).await;
    }
    let Place { nats, cell, .. } = place;
    let client = || connect(nats.clone(), cell.clone());
    match args.command {
        Command::Worker(WorkerArgs { command: Some(command), .. }) => {
            cli::worker::run(&client().await?, command).await
        }
        Command::Validate { file, strict } => cli::validate::run(&file, strict),
        Command::Simulate(simulate) => cli::simulate::run(simulate, host_name()).await,
        Command::Schema => cli::validate::schema(),
        Command::Logs(logs) => cli::logs::run(client().await?, logs).await,
        Command::Events(events) => cli::events::run(client().await?, events).await,
        Command::Doctor => cli::doctor::run(nats.as_deref(), cell).await,
        Command::Job(job) => cli::job::run(&client().await?, job).await,
        Command::Submit(submit) => cli::submit::run(&client().await?, submit).await,
        Command::Wait(wait) => cli::wait::run(&client().await?, wait).await,
        Command::Cells => {
            for cell in client::find_cells(&client().await?.bus).await? {
                cli::print_line(&text::safe(&cell))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Permissions { user } => {
            cli::print_line(&cell.viewer_permissions(&user, &verb::READS).to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => cli::shell::completions(shell),
        Command::Man { directory } => cli::shell::manual(&directory),
        Command::Read(read) => cli::read::run(&client().await?, read).await,
        Command::Up(_)
        | Command::Scheduler(_)
        | Command::Worker(_)
        | Command::Context(_)
        | Command::Console(_) => unreachable!("it was run before"),
        Command::Guard { .. } | Command::Confine { .. } => {
            unreachable!("it runs before the runtime starts")
        }
    }
}

async fn run_part(args: Args) -> anyhow::Result<ExitCode> {
    let cell = Cell::new(args.cell.as_deref().unwrap_or("main")).context("--cell")?;
    match args.command {
        Command::Up(up) => up::run(&cell, args.nats.as_deref(), up).await,
        Command::Scheduler(scheduler) => {
            let bus = daemon_bus(args.nats.as_deref(), &cell, "scheduler").await?;
            run_scheduler(cell, bus, scheduler).await
        }
        Command::Worker(WorkerArgs { here, command: None }) => {
            run_worker(args.nats.as_deref(), cell, here).await
        }
        _ => unreachable!("it is no part of a cell"),
    }
}

/// For commands that a person waits for.
async fn connect(url: Option<String>, cell: Cell) -> anyhow::Result<Client> {
    Client::connect(&find_url(url.as_deref())?, cell, Patience::FailFast).await
}

/// So long nothing is said of a NATS that is not there yet.
const SILENT: Duration = Duration::from_secs(2);

/// For daemons, which wait for NATS.
async fn daemon_bus(url: Option<&str>, cell: &Cell, role: &str) -> anyhow::Result<Bus> {
    let address = Address::parse(&find_url(url)?)?;
    let bus = Bus::connect(&address, cell, role, Patience::KeepTrying).await?;
    let connecting = bus.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SILENT).await;
        if !connecting.is_connected() {
            tracing::warn!(
                "NATS at {address} cannot be reached; it is tried again until it is there"
            );
        }
    });
    Ok(bus)
}

async fn run_scheduler(cell: Cell, bus: Bus, args: SchedulerArgs) -> anyhow::Result<ExitCode> {
    // Who takes over waits so long, finds its workers, and has a lease for them before theirs is over.
    if args.with_standbys && args.takeover_sec > args.lease_sec / 2 {
        anyhow::bail!(
            "--takeover-sec {} is more than half of --lease-sec {}: tasks would be ended before \
             another scheduler could take over; make the lease longer",
            args.takeover_sec,
            args.lease_sec
        );
    }
    make_private_directory(&args.data_dir)?;
    let options = bistro_scheduler::Options {
        cell,
        config: args.config,
        data_dir: args.data_dir,
        instance: args.instance.unwrap_or_else(host_name),
        terms: LeaseTerms::for_lease(args.lease_sec.saturating_mul(1_000)),
        http: args.http,
        standbys: args.with_standbys.then(|| Standbys {
            ttl_ms: args.takeover_sec * 1_000,
            host: host_name(),
            replicas: args.replicas.into(),
        }),
    };
    bistro_scheduler::run(options, bus, ended_by_signal()).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_worker(url: Option<&str>, cell: Cell, args: WorkerHere) -> anyhow::Result<ExitCode> {
    large_pages::keep_nothing();
    // Its environment has the password of NATS, and tasks may be of the same user.
    nix::sys::prctl::set_dumpable(false).context("this process cannot be closed to others")?;
    let name = match args.name {
        Some(name) => name,
        None => host_name().parse().context("the host's name; give --name")?,
    };
    let token = Token::new(name.as_str());
    let data_dir =
        args.data_dir.unwrap_or_else(|| Path::new(".bistro").join(format!("worker-{token}")));
    make_private_directory(&data_dir)?;
    let bus = daemon_bus(url, &cell, &format!("w_{token}")).await?;
    let options = bistro_worker::Options {
        cell,
        name,
        data_dir: data_dir.canonicalize().context("--data-dir")?,
        command: args.worker_command.into_iter().collect(),
        host: host_name(),
        guard: GuardCommand {
            // The build that this process is of, also when an upgrade has replaced the file.
            program: format!("/proc/{}/exe", std::process::id()).into(),
            args: ["guard"]
                .into_iter()
                .chain(args.allow_setuid.then_some("--allow-setuid"))
                .map(str::to_owned)
                .collect(),
            pass_env: args.pass_env,
        },
        log_budget: Budget {
            bytes: args.log_mb.saturating_mul(1 << 20),
            age: Duration::from_secs(args.log_days.saturating_mul(86_400)),
        },
        finish: Duration::from_secs(args.finish_sec),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            ended_by_signal().await;
            // A worker that has ended by itself needs no signal.
            let _ = stop.send(true);
        }
    });
    bistro_worker::run(options, bus, stopped).await?;
    Ok(ExitCode::SUCCESS)
}

/// Until TERM or INT.
async fn ended_by_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Ledgers, passwords and what tasks leave behind are nobody else's business.
fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Between two looks at a cell that somebody waits for.
const POLL: Duration = Duration::from_millis(100);
