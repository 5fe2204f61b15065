//! The command line.

pub mod hints;
mod jobs;
pub mod names;
mod read;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use bistro_common::ids::WorkerName;
use bistro_scheduler::config_files::Location;

use crate::tui::Route;

pub use jobs::*;
pub use read::*;

/// Runs data-parallel work against live systems.
#[derive(Debug, Parser)]
#[command(
    name = "bistro",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 what was asked for failed, 2 usage, 3 no answer from the cell,\n\
                  4 no such thing, 5 refused, 124 it took too long.\n\
                  Start with `bistro up --help`; docs/ has the rest."
)]
pub struct Args {
    /// Where NATS is, such as `nats://user:password@host:4222`
    #[arg(
        long,
        global = true,
        env = "BISTRO_NATS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub nats: Option<String>,
    /// Which cell, if several share a NATS [default: main]
    #[arg(long, global = true, env = "BISTRO_CELL", hide_env_values = true)]
    pub cell: Option<String>,
    /// A cell by the name that `bistro context` gave it
    #[arg(
        long,
        global = true,
        env = "BISTRO_CONTEXT",
        hide_env_values = true,
        value_name = "NAME",
        conflicts_with = "nats"
    )]
    pub context: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cell here: NATS (unless --nats is given), a scheduler and workers
    #[command(
        after_help = "Example:\n  bistro up --config configs/smallest.json \\\n    --worker-command ./task.sh --until-done"
    )]
    Up(UpArgs),
    /// Run a scheduler
    #[command(
        after_help = "Example:\n  bistro scheduler --nats nats://db1:4222 --config bistro.json"
    )]
    Scheduler(SchedulerArgs),
    /// Run a worker
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  bistro worker --nats nats://db1:4222 --name w2\n  \
                      bistro worker drain w2 --reason 'new kernel'"
    )]
    Worker(WorkerArgs),
    /// The parent of a worker's tasks; only a worker starts it
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        allow_setuid: bool,
    },
    /// Becomes a task's command under its limits; only a guard starts it
    #[command(hide = true)]
    Confine {
        confinement: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Say what is wrong with a config file, or a directory of them; exit 1 if it has errors
    #[command(after_help = "Example:\n  bistro validate bistro.json")]
    Validate {
        file: PathBuf,
        /// Warnings count as errors
        #[arg(long)]
        strict: bool,
    },
    /// What would happen: a config with virtual workers in virtual time
    #[command(
        after_help = "Examples:\n  bistro simulate bistro.json --workers 20 --duration 30\n  \
                      bistro simulate bistro.json --worker-file workers.json --model model.json -o json\n\n\
                      A model: {\"default\": {\"duration_sec\": {\"uniform\": [0, 10]}, \"failure_rate\": 0.01},\n  \
                      \"jobs\": {\"scrape\": {\"duration_sec\": {\"exponential\": 5}}}}\n\
                      Workers: [{\"count\": 10, \"cpu_cores\": 8, \"ram_mb\": 32000}]"
    )]
    Simulate(SimulateArgs),
    /// Print the JSON Schema of the config file, for editors
    #[command(after_help = "Example:\n  bistro schema > bistro.schema.json")]
    Schema,
    /// Watch and steer a cell in this terminal
    #[command(after_help = "Examples:\n  bistro console --nats nats://db1:4222\n  \
                            bistro console tasks --filter 'state=failed'\n  \
                            bistro console task/scrape/db17\n  bistro console --once\n\n\
                            Settings: ~/.config/bistro/console.json, such as\n  \
                            {\"theme\": \"dark\", \"keys\": {\"kill\": [\"f9\"]}}")]
    Console(ConsoleArgs),
    /// What tasks have printed, from all workers
    #[command(
        after_help = "Examples:\n  bistro logs scrape db17\n  bistro logs -f --grep 'time ?out'"
    )]
    Logs(LogsArgs),
    /// What has happened, in order
    #[command(after_help = "Example:\n  bistro events -f --kind audit")]
    Events(EventsArgs),
    /// Look at everything between here and a running task, and say what to do
    #[command(after_help = "Example:\n  bistro doctor --nats nats://db1:4222")]
    Doctor,
    /// Names for cells, so that nobody types addresses
    #[command(
        subcommand,
        after_help = "Examples:\n  bistro context set prod --nats nats://ops:secret@nats1:4222 --cell eu\n  \
                      bistro context use prod\n  bistro context list"
    )]
    Context(ContextCommand),
    /// Make, change and delete jobs
    #[command(
        subcommand,
        after_help = "Example:\n  bistro job disable scrape --reason 'db17 is on fire'"
    )]
    Job(JobCommand),
    /// Run a command once, as soon as there is room: done if it exits with 0
    #[command(after_help = "Examples:\n  bistro submit -- backup.sh db17\n  \
                            bistro submit --resource cpu=4 --retries 3 --wait -- make all")]
    Submit(SubmitArgs),
    /// Wait until tasks have come so far; exit 1 if they never will, 124 if it takes too long
    #[command(after_help = "Examples:\n  bistro wait scrape --until done --timeout 600\n  \
                            bistro wait --until idle")]
    Wait(WaitArgs),
    /// List the cells whose schedulers answer on this NATS
    #[command(after_help = "Example:\n  bistro cells --nats nats://nats1:4222")]
    Cells,
    /// Print what a nats-server must allow a user who may look at the cell and not touch it
    #[command(after_help = "Example:\n  bistro permissions eve --cell eu >> viewer.conf")]
    Permissions {
        /// The name with which that user connects
        user: String,
    },
    /// Print what a shell needs to complete commands, jobs, nodes and workers
    #[command(after_help = "Examples:\n  source <(bistro completions bash)\n  \
                            bistro completions fish > ~/.config/fish/completions/bistro.fish")]
    Completions { shell: Shell },
    /// Write manual pages, one per command
    #[command(after_help = "Example:\n  bistro man /usr/local/share/man/man1")]
    Man { directory: PathBuf },
    #[command(flatten)]
    Read(ReadCommand),
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List them, the current one with a `*`
    #[command(after_help = "Example:\n  bistro context list")]
    List,
    /// Commands are about this one from now on
    #[command(after_help = "Example:\n  bistro context use prod")]
    Use { name: String },
    /// Make or change one: --nats and --cell say which cell it is
    #[command(
        after_help = "Example:\n  bistro context set prod --nats nats://nats1:4222 --cell eu"
    )]
    Set { name: String },
    /// Forget one
    #[command(after_help = "Example:\n  bistro context remove prod")]
    Remove { name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, ClapArgs)]
pub struct WaitArgs {
    /// Only this job's tasks; all if left out
    #[arg(add = names::jobs())]
    pub job: Option<String>,
    #[arg(long, value_enum, default_value_t = Until::Done)]
    pub until: Until,
    /// Give up then
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Every task is done; a failed one is the end, too
    Done,
    /// Nothing runs
    Idle,
}

#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// A file, or a directory whose .json files are one config together
    #[arg(long, value_name = "PATH")]
    pub config: PathBuf,
    /// How many workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// The program for jobs without a command of their own
    #[arg(long, value_name = "CMD")]
    pub worker_command: Option<String>,
    /// Variables of the environment that tasks get, too (see `bistro worker --help`)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub pass_env: Vec<String>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".bistro/up")]
    pub data_dir: PathBuf,
    /// Exit when nothing can run any more; 0 only if every task is done
    #[arg(long)]
    pub until_done: bool,
    /// Do not open the console, even if there is a terminal
    #[arg(long)]
    pub no_console: bool,
}

#[derive(Debug, ClapArgs)]
pub struct SchedulerArgs {
    /// A file, a directory whose .json files are one config together, a URL (http, https), or
    /// kv:BUCKET, a NATS KV bucket whose values are one config together
    #[arg(long, value_name = "PLACE")]
    pub config: Location,
    #[arg(long, value_name = "DIR", default_value = ".bistro/scheduler")]
    pub data_dir: PathBuf,
    /// The name of the instance node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// How long a worker may go on without its scheduler
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub lease_sec: u64,
    /// Offer the API over HTTP too: its verbs under /api/VERB, and the queries of the original's
    /// HTTP API everywhere else. A loopback address: HTTP knows no identities, so whoever can run a program
    /// on this host can do everything through it, starting commands on workers included
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<std::net::SocketAddr>,
    /// Be one of several schedulers of this cell, each with this flag and a data directory of its
    /// own: one reigns, the others follow its records, and when it is gone one of them takes over.
    /// They have the same --instance, since tasks are named after nodes
    #[arg(long, requires = "instance")]
    pub with_standbys: bool,
    /// After so long without a word from the one that reigns, another does
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "with_standbys",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub takeover_sec: u64,
    /// On how many servers of a NATS cluster streams are kept
    #[arg(long, value_name = "N", default_value_t = 1, requires = "with_standbys",
        value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
}

#[derive(Debug, ClapArgs)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub here: WorkerHere,
    #[command(subcommand)]
    pub command: Option<WorkerCommand>,
}

/// Of workers that run already.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// No new work for a worker, until it is resumed; what it runs goes on
    #[command(after_help = "Example:\n  bistro worker drain w2 --reason 'new kernel'")]
    Drain {
        #[arg(add = names::workers())]
        worker: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// A drained worker takes work again
    #[command(after_help = "Example:\n  bistro worker resume w2")]
    Resume {
        #[arg(add = names::workers())]
        worker: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// A worker that is silent is dead: its tasks run elsewhere at once, not when its lease is over
    #[command(after_help = "Example:\n  bistro worker forget w2 --i-have-fenced-it")]
    Forget {
        #[arg(add = names::workers())]
        worker: String,
        /// Its host is off, or cut off from everything that its tasks could touch. If something of
        /// it still runs, tasks run twice
        #[arg(long)]
        i_have_fenced_it: bool,
        #[command(flatten)]
        audit: AuditArgs,
    },
}

/// A worker on this host.
#[derive(Debug, ClapArgs)]
pub struct WorkerHere {
    /// Unique in the cell, and the same after a restart [default: the host's name]
    #[arg(long)]
    pub name: Option<WorkerName>,
    /// Where its ledger, its task logs and its tasks' directories are
    /// [default: `.bistro/worker-NAME`]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How much of task logs to keep on the disk, where they are packed
    #[arg(long, value_name = "MB", default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(64..))]
    pub log_mb: u64,
    /// How long to keep task logs
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub log_days: u64,
    /// How long tasks may go on after SIGTERM, before they are ended; a second SIGTERM ends them at
    /// once
    #[arg(long, value_name = "SEC", default_value_t = 0)]
    pub finish_sec: u64,
    /// Variables of the worker's environment that tasks get, too; by itself they get HOME, LANG,
    /// LC_*, LOGNAME, PATH, SHELL, TMPDIR, TZ and USER
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub pass_env: Vec<String>,
    /// Tasks may gain privileges, by sudo for one
    #[arg(long)]
    pub allow_setuid: bool,
    /// The program for jobs without a command of their own
    #[arg(long, value_name = "CMD")]
    pub worker_command: Option<String>,
}

/// Half of what a slow link carries, so that keys have the other half.
const MAX_KBPS: u32 = 16;

#[derive(Debug, ClapArgs)]
pub struct ConsoleArgs {
    /// What to show first: jobs, grid, nodes, workers, tasks, logs, events, health, job/NAME,
    /// task/JOB/NODE, or a link that `Y` has copied [default: where it was left]
    pub place: Option<Route>,
    #[command(flatten)]
    pub query: QueryArgs,
    /// Look, but do not touch
    #[arg(long)]
    pub read_only: bool,
    /// terminal, dark, light, high-contrast, colour-blind or mono; NO_COLOR means mono
    #[arg(long, env = "BISTRO_THEME", hide_env_values = true)]
    pub theme: Option<String>,
    /// The most that news may send to the terminal, in KB per second; keys are answered at once
    #[arg(long, value_name = "N", default_value_t = MAX_KBPS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_kbps: u32,
    /// Follow the mouse, too; most terminals select text with shift then
    #[arg(long)]
    pub mouse: bool,
    /// Print the view once, as text, and leave
    #[arg(long)]
    pub once: bool,
    /// Say what changes, line by line: for screen readers and pipes
    #[arg(long, conflicts_with = "once")]
    pub plain: bool,
    /// List keys and the commands that they mean, and leave
    #[arg(long)]
    pub keys: bool,
}

/// What `bistro up` opens.
impl Default for ConsoleArgs {
    fn default() -> Self {
        Self {
            place: Some(Route::start()),
            query: QueryArgs { filter: String::new(), sort: String::new() },
            read_only: false,
            theme: std::env::var("BISTRO_THEME").ok(),
            max_kbps: MAX_KBPS,
            mouse: false,
            once: false,
            plain: false,
            keys: false,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct SimulateArgs {
    pub config: PathBuf,
    /// How many workers, all alike
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub workers: u32,
    /// A JSON list of groups of workers, in place of --workers
    #[arg(long, value_name = "FILE", conflicts_with = "workers")]
    pub worker_file: Option<PathBuf>,
    /// How long each task takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub duration: f64,
    /// A JSON file with durations and failure rates by job, in place of --duration
    #[arg(long, value_name = "FILE", conflicts_with = "duration")]
    pub model: Option<PathBuf>,
    /// The same seed gives the same run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Stop at this time, whatever is left
    #[arg(long, value_name = "SECONDS")]
    pub until: Option<u64>,
    /// Print every start and every finish as a line of JSON, too
    #[arg(long)]
    pub trace: bool,
    #[arg(short, long, value_enum, default_value_t = Document::Text)]
    pub output: Document,
}

/// For answers that are one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    Text,
    Json,
}
