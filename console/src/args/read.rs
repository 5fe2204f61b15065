//! Commands that ask: what there is, what was printed, what has happened; and what is done to tasks.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use bistro_common::ids::{AttemptId, WorkerName};
use bistro_common::protocol::api::TaskState;
use bistro_common::protocol::log::Stream;

use super::{AuditArgs, names};

#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    #[arg(add = names::jobs())]
    pub job: Option<String>,
    #[arg(add = names::nodes())]
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
    #[arg(long, value_name = "REGEX", value_parser = parse_regex)]
    pub grep: Option<String>,
    /// The first of these lines from this time on: -10m, 14:05, 2024-05-01T14:05
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only this attempt
    #[arg(long, value_name = "ID")]
    pub attempt: Option<AttemptId>,
    /// Only this worker's
    #[arg(long)]
    pub worker: Option<WorkerName>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

fn parse_regex(text: &str) -> Result<String, regex::Error> {
    regex::bytes::Regex::new(text).map(|_| text.to_owned())
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
    /// The first of these events from this time on: -10m, 14:05, 2024-05-01T14:05
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only events whose kind starts so: task, task.failed, worker, config, audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub kind: String,
    /// Terms that must all hold: kind~audit actor=ann !job=scrape, or words that occur
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub filter: String,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Commands that ask a scheduler.
#[derive(Debug, Subcommand)]
pub enum ReadCommand {
    /// The cell at a glance
    #[command(after_help = "Example:\n  bistro status -o json")]
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Jobs and how far they are
    #[command(
        after_help = "Examples:\n  bistro jobs -o csv\n  bistro jobs --filter 'failed>0' --sort=-failed"
    )]
    Jobs(ListArgs),
    /// Nodes and their slots
    #[command(after_help = "Example:\n  bistro nodes --filter 'level=host db1' --sort=-used")]
    Nodes(ListArgs),
    /// Workers and their health
    #[command(after_help = "Example:\n  bistro workers --filter '!health=healthy'")]
    Workers(ListArgs),
    /// Tasks, filtered
    #[command(after_help = "Examples:\n  bistro tasks --job scrape --state failed,backoff\n  \
                            bistro tasks --filter 'age>10m node~/db_[0-9]+/' --sort=-age --watch")]
    Tasks {
        #[arg(long, add = names::jobs())]
        job: Option<String>,
        #[arg(long, add = names::nodes())]
        node: Option<String>,
        /// Only what runs on this worker
        #[arg(long, add = names::workers())]
        worker: Option<String>,
        #[arg(long, value_delimiter = ',')]
        state: Vec<TaskState>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// One task: how it is, how it last ended, and what it used
    #[command(subcommand, after_help = "Example:\n  bistro task show scrape db17")]
    Task(TaskCommand),
    /// Why is a task not running?
    #[command(after_help = "Example:\n  bistro explain scrape db17")]
    Explain(TaskArgs),
    /// End the running attempt of a task, or those of all tasks that pass a filter
    #[command(after_help = "Examples:\n  bistro kill scrape db17 --reason 'db17 is on fire'\n  \
                            bistro kill --filter 'job=scrape age>1h'        # says what it would do\n  \
                            bistro kill --filter 'job=scrape age>1h' --yes  # does it")]
    Kill {
        #[command(flatten)]
        what: WhatArgs,
        /// How to ask it to end [default: as the job's config says]
        #[arg(long, value_enum)]
        signal: Option<Signal>,
        /// With term-wait-kill: how long it may take
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86_400))]
        grace: u64,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let failed tasks run again, and waiting ones at once
    #[command(after_help = "Examples:\n  bistro forgive scrape --reason 'the API is back'\n  \
                            bistro forgive --filter 'state=failed node~rack7' --yes")]
    Forgive {
        #[command(flatten)]
        what: WhatArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
}

/// One task, or a filter for many.
#[derive(Debug, ClapArgs)]
pub struct WhatArgs {
    #[arg(required_unless_present = "filter", add = names::jobs())]
    pub job: Option<String>,
    /// To forgive: all nodes if left out
    #[arg(add = names::nodes())]
    pub node: Option<String>,
    /// All tasks that pass, such as 'job=scrape age>10m'; without --yes it is only said which
    #[arg(long, value_name = "FILTER", conflicts_with = "job", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Do it to all that pass the filter
    #[arg(long, requires = "filter")]
    pub yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Signal {
    /// TERM, once
    Term,
    /// KILL, at once
    Kill,
    /// TERM, then KILL if it has not ended by then
    TermWaitKill,
}

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// State, last attempt, CPU and memory, and what it waits for
    #[command(after_help = "Example:\n  bistro task show scrape db17 -o json")]
    Show(TaskArgs),
}

/// One task, and how to print what there is to say of it.
#[derive(Debug, ClapArgs)]
pub struct TaskArgs {
    #[arg(add = names::jobs())]
    pub job: String,
    #[arg(add = names::nodes())]
    pub node: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct OutputArgs {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct QueryArgs {
    /// Terms that must all hold: key=a,b key~text key~/regex/ key>number, !term, or words that names
    /// contain; see docs/guides/operating.md
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub filter: String,
    /// A column, `-` in front turns it around
    #[arg(
        long,
        value_name = "COLUMN",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub sort: String,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct ListArgs {
    #[command(flatten)]
    pub query: QueryArgs,
    /// Rows to leave out at the start
    #[arg(long, default_value_t = 0)]
    pub offset: u32,
    /// Rows at most
    #[arg(long, default_value_t = 1_000)]
    pub limit: u32,
    /// Show it again and again, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub watch: Option<u32>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Ndjson,
    Csv,
    Name,
}
