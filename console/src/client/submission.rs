//! A command as a job of one task: what `bistro submit` takes, as a definition.

use clap::Parser;
use serde_json::{Map, Value, json};

use bistro_common::ids::AttemptId;

use super::actions::Action;
use super::actor;
use crate::args::SubmitArgs;

/// The first wait after an error; each one is twice the one before.
const FIRST_RETRY_SEC: u64 = 5;

/// What is typed after `bistro submit`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    args: SubmitArgs,
}

/// What a line asks for, as `bistro submit` takes it; the `--` before a command may be left out.
/// An error says what is wrong with it, in a line.
pub fn parse(line: &str) -> Result<Action, String> {
    let mut words = shell_words::split(line).map_err(|error| error.to_string())?;
    if words.first().is_some_and(|word| !word.starts_with('-')) {
        words.insert(0, "--".to_owned());
    }
    let Line { args } = Line::try_parse_from(&words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.trim_start_matches("error: ").to_owned()
    })?;
    if args.wait {
        return Err("--wait is for shells: here the job can be watched".to_owned());
    }
    let named = |word: &String| word == "--name" || word.starts_with("--name=");
    let at = words.iter().take_while(|word| *word != "--").position(named);
    if let Some(at) = at {
        let count = if words[at] == "--name" { 2 } else { 1 };
        words.drain(at..at + count);
    }
    Ok(Action::Submit { job: job_name(&args), definition: definition(&args), words })
}

pub fn definition(args: &SubmitArgs) -> Map<String, Value> {
    let mut job = Map::from_iter([
        ("owner".to_owned(), json!(actor())),
        ("level_for_tasks".to_owned(), json!("instance")),
        ("command".to_owned(), json!(args.command)),
        ("plain_command".to_owned(), json!(true)),
    ]);
    let waits = (0..u32::from(args.retries)).map(|n| json!(FIRST_RETRY_SEC << n));
    let backoff: Vec<Value> = waits.chain([json!("fail")]).collect();
    job.insert("backoff".to_owned(), json!(backoff));
    if !args.resources.is_empty() {
        let slots = args.resources.iter().map(|(name, slots)| (name.clone(), json!(slots)));
        job.insert("resources".to_owned(), Value::Object(slots.collect()));
    }
    if let Some(priority) = args.priority {
        job.insert("priority".to_owned(), json!(priority));
    }
    if !args.after.is_empty() {
        job.insert("depends_on".to_owned(), json!(args.after));
    }
    if let Some(host) = &args.host {
        job.insert("host_placement".to_owned(), json!(host));
    }
    job
}

/// The name that was given, or one that sorts by time, and that no two submissions share.
pub fn job_name(args: &SubmitArgs) -> String {
    if let Some(name) = &args.name {
        return name.clone();
    }
    let program = args.command.first().map_or("task", String::as_str);
    let program = program.rsplit('/').next().unwrap_or(program);
    // The time in milliseconds, and what makes it unique.
    let id = AttemptId::generate().0.as_u128();
    format!("{program}-{:012x}-{:08x}", id >> 80, id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> (String, Vec<String>) {
        match parse(line).unwrap() {
            Action::Submit { job, words, definition } => {
                assert_eq!(definition["plain_command"], json!(true));
                (job, words)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_is_read_as_the_command_line_would() {
        let (job, given) = words("backup.sh 'db 17'");
        assert!(job.starts_with("backup.sh-"), "{job}");
        assert_eq!(given, ["--", "backup.sh", "db 17"]);
        let (job, given) = words("--name nightly --retries 3 -- sh -c 'a --name b'");
        assert_eq!((job.as_str(), given.len()), ("nightly", 6));
        assert_eq!(words("--name=x -- true").1, ["--", "true"]);
        for wrong in ["", "'", "--retries x -- true", "--colour red -- true", "--wait -- true"] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.is_empty() && !error.contains('\n'), "{wrong}: {error}");
        }
    }
}
