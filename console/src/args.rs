//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use bistro_common::ids::{AttemptId, WorkerName};
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::log::Stream;
use bistro_scheduler::config_files::Location;

/// Runs data-parallel work against live systems.
#[derive(Debug, Parser)]
#[command(
    name = "bistro",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 what was asked for failed, 2 usage, 3 no answer from the cell.\n\
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
    /// Which cell, if several share a NATS
    #[arg(
        long,
        global = true,
        env = "BISTRO_CELL",
        hide_env_values = true,
        default_value = "main"
    )]
    pub cell: String,
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
    #[command(after_help = "Example:\n  bistro console --nats nats://db1:4222")]
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
    #[command(flatten)]
    Read(ReadCommand),
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
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub lease_sec: u64,
    /// Offer the API over HTTP too: its verbs under /api/VERB, and the queries of the original's
    /// HTTP API everywhere else. A loopback address: HTTP knows no identities, so whoever can run a program
    /// on this host can do everything through it, starting commands on workers included
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<std::net::SocketAddr>,
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
    Drain {
        worker: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// A drained worker takes work again
    Resume {
        worker: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// A worker that is silent is dead: its tasks run elsewhere at once, not when its lease is over
    Forget {
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

#[derive(Debug, ClapArgs)]
pub struct ConsoleArgs {
    /// Look, but do not touch
    #[arg(long)]
    pub read_only: bool,
}

#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    pub job: Option<String>,
    pub node: Option<String>,
    /// Go on with the lines that come
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: u32,
    /// stdout, stderr, statuses (what happened to the attempt) [default: stdout,stderr]
    #[arg(long, value_delimiter = ',', value_parser = parse_stream)]
    pub stream: Vec<Stream>,
    /// Only lines in which this regular expression is found
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Only this attempt
    #[arg(long, value_name = "ID")]
    pub attempt: Option<AttemptId>,
    /// Only this worker's
    #[arg(long)]
    pub worker: Option<WorkerName>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

fn parse_stream(text: &str) -> Result<Stream, String> {
    let found = Stream::ALL.into_iter().find(|stream| stream.as_str() == text);
    found.ok_or_else(|| "the streams are stdout, stderr and statuses".to_owned())
}

#[derive(Debug, ClapArgs)]
pub struct EventsArgs {
    /// Go on with the events that come
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last events
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: u64,
    /// Only events whose kind starts so: task, task.failed, worker, config, audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub kind: String,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Jobs of the config file can be enabled, disabled and ranked from here; they are changed there.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Show a job: what was given, what is overridden, and what holds
    #[command(after_help = "Example:\n  bistro job get scrape")]
    Get { job: String },
    /// Make a job of a JSON file (`-`: standard input)
    #[command(after_help = "Example:\n  echo '{\"owner\": \"me\"}' | bistro job create scrape -")]
    Create {
        job: String,
        file: PathBuf,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Put another definition in the place of a job's
    #[command(after_help = "Example:\n  bistro job replace scrape scrape.json --version 3")]
    Replace {
        job: String,
        file: PathBuf,
        #[command(flatten)]
        at: VersionArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Change some keys of a job: a JSON merge patch, in which null removes a key
    #[command(after_help = "Example:\n  bistro job patch scrape '{\"priority\": 2}'")]
    Patch {
        job: String,
        patch: String,
        #[command(flatten)]
        at: VersionArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Delete a job; what runs of it goes on
    #[command(after_help = "Example:\n  bistro job delete scrape")]
    Delete {
        job: String,
        #[command(flatten)]
        at: VersionArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let a job start tasks
    #[command(after_help = "Example:\n  bistro job enable scrape")]
    Enable {
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let a job start nothing more
    #[command(after_help = "Example:\n  bistro job disable scrape")]
    Disable {
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Rank a job among others
    #[command(after_help = "Example:\n  bistro job set-priority scrape 10")]
    SetPriority {
        job: String,
        #[arg(allow_negative_numbers = true, value_parser = parse_priority)]
        priority: f64,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let go of what was overridden: the file holds again
    #[command(after_help = "Example:\n  bistro job reset scrape")]
    Reset {
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
}

#[derive(Debug, ClapArgs)]
pub struct VersionArgs {
    /// Only if the job is at this version, see `bistro job get`
    #[arg(long = "version", value_name = "N")]
    pub version_id: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct AuditArgs {
    /// For the audit
    #[arg(long, default_value = "")]
    pub reason: String,
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

#[derive(Debug, ClapArgs)]
pub struct SubmitArgs {
    /// The job's name [default: the program and a number]
    #[arg(long)]
    pub name: Option<String>,
    /// Slots that it takes; may be given several times
    #[arg(long = "resource", value_name = "NAME=SLOTS", value_parser = parse_slots)]
    pub resources: Vec<(String, i64)>,
    /// For the policies that rank jobs
    #[arg(long, allow_negative_numbers = true, value_parser = parse_priority)]
    pub priority: Option<f64>,
    /// How often it is tried again after an error, after 5, 10, 20, ... seconds
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=20))]
    pub retries: u8,
    /// Jobs that must be done first; may be given several times
    #[arg(long, value_name = "JOB")]
    pub after: Vec<String>,
    /// Only on workers of this host
    #[arg(long)]
    pub host: Option<String>,
    /// Wait until it is over; exit 1 if it has failed
    #[arg(long)]
    pub wait: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

fn parse_priority(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "expected a number".to_owned())
}

fn parse_slots(text: &str) -> Result<(String, i64), String> {
    let parts = text.split_once('=').and_then(|(name, slots)| Some((name, slots.parse().ok()?)));
    parts
        .map(|(name, slots): (&str, i64)| (name.to_owned(), slots))
        .ok_or_else(|| "expected NAME=SLOTS, such as cpu=4".to_owned())
}

/// Commands that ask a scheduler.
#[derive(Debug, Subcommand)]
pub enum ReadCommand {
    /// The cell at a glance
    #[command(after_help = "Example:\n  bistro status -o json")]
    Status(OutputArgs),
    /// Jobs and how far they are
    #[command(after_help = "Example:\n  bistro jobs -o csv")]
    Jobs(OutputArgs),
    /// Nodes and their slots
    #[command(after_help = "Example:\n  bistro nodes --level host --contains db1")]
    Nodes {
        #[arg(long)]
        level: Option<String>,
        /// Only nodes whose name has this text in it
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Workers and their health
    #[command(after_help = "Example:\n  bistro workers")]
    Workers(OutputArgs),
    /// Tasks, filtered
    #[command(after_help = "Example:\n  bistro tasks --job scrape --state failed,backoff")]
    Tasks {
        #[arg(long)]
        job: Option<String>,
        #[arg(long)]
        node: Option<String>,
        /// Only nodes whose name has this text in it
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
        /// Only what runs on this worker
        #[arg(long)]
        worker: Option<String>,
        #[arg(long, value_delimiter = ',')]
        state: Vec<TaskState>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One task: how it is, how it last ended, and what it used
    #[command(subcommand, after_help = "Example:\n  bistro task show scrape db17")]
    Task(TaskCommand),
    /// Why is a task not running?
    #[command(after_help = "Example:\n  bistro explain scrape db17")]
    Explain {
        job: String,
        node: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// End the running attempt of a task
    #[command(after_help = "Example:\n  bistro kill scrape db17 --reason 'db17 is on fire'")]
    Kill {
        job: String,
        node: String,
        /// For the audit
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let failed tasks run again, and waiting ones at once
    #[command(after_help = "Example:\n  bistro forgive scrape --reason 'the API is back'")]
    Forgive {
        job: String,
        /// All nodes if left out
        node: Option<String>,
        /// For the audit
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// State, last attempt, CPU and memory, and what it waits for
    #[command(after_help = "Example:\n  bistro task show scrape db17 -o json")]
    Show {
        job: String,
        node: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct OutputArgs {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Rows to leave out at the start
    #[arg(long, default_value_t = 0)]
    pub offset: u32,
    /// Rows at most
    #[arg(long, default_value_t = 1_000)]
    pub limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Ndjson,
    Csv,
    Name,
}
