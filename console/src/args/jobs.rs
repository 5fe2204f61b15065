//! Jobs that are made, changed and submitted.

use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

use super::{OutputArgs, names};

/// Jobs of the config file can be enabled, disabled and ranked from here; they are changed there.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Show a job: what was given, what is overridden, and what holds
    #[command(after_help = "Example:\n  bistro job get scrape")]
    Get {
        #[arg(add = names::jobs())]
        job: String,
    },
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
        #[arg(add = names::jobs())]
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
        #[arg(add = names::jobs())]
        job: String,
        patch: String,
        #[command(flatten)]
        at: VersionArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Change a job in $EDITOR; refused if somebody else has changed it meanwhile
    #[command(after_help = "Example:\n  EDITOR=nano bistro job edit scrape")]
    Edit {
        #[arg(add = names::jobs())]
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Delete a job; what runs of it goes on
    #[command(after_help = "Example:\n  bistro job delete scrape")]
    Delete {
        #[arg(add = names::jobs())]
        job: String,
        #[command(flatten)]
        at: VersionArgs,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let a job start tasks
    #[command(after_help = "Example:\n  bistro job enable scrape")]
    Enable {
        #[arg(add = names::jobs())]
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Let a job start nothing more
    #[command(after_help = "Example:\n  bistro job disable scrape")]
    Disable {
        #[arg(add = names::jobs())]
        job: String,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// Rank a job among others
    #[command(after_help = "Example:\n  bistro job set-priority scrape 10")]
    SetPriority {
        #[arg(add = names::jobs())]
        job: String,
        #[arg(allow_negative_numbers = true, value_parser = parse_priority)]
        priority: f64,
        #[command(flatten)]
        audit: AuditArgs,
    },
    /// How far a job is, level by level, how long its tasks take, and who has changed it
    #[command(after_help = "Example:\n  bistro job show scrape")]
    Show {
        #[arg(add = names::jobs())]
        job: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Let go of what was overridden: the file holds again
    #[command(after_help = "Example:\n  bistro job reset scrape")]
    Reset {
        #[arg(add = names::jobs())]
        job: String,
        /// But override this from now on
        #[arg(long, value_name = "BOOL")]
        enabled: Option<bool>,
        /// And this
        #[arg(long, allow_negative_numbers = true, value_parser = parse_priority)]
        priority: Option<f64>,
        #[command(flatten)]
        version: VersionArgs,
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
