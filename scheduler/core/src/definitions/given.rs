//! A job as somebody gave it: checked, read, merged.

use serde_json::{Map, Value};
use std::sync::Arc;

use bistro_common::config::{Config, Job, Problem, parse_job};
use bistro_common::protocol::api::{ApiError, ErrorCode, Severity};
use bistro_common::protocol::job::Overrides;

/// The longest name of a job: it becomes a part of messages, file names and log lines.
const JOB_NAME_MAX: usize = 256;

pub fn read(
    name: &str,
    given: &Map<String, Value>,
    config: &Config,
) -> (Option<Job>, Vec<Problem>) {
    parse_job(name, &Value::Object(given.clone()), &config.settings)
}

pub fn overridden(job: &Arc<Job>, overrides: &Overrides) -> Arc<Job> {
    if overrides.is_empty() {
        return job.clone();
    }
    let enabled = overrides.enabled.unwrap_or(job.enabled);
    let priority = overrides.priority.unwrap_or(job.priority);
    Arc::new(Job { enabled, priority, ..(**job).clone() })
}

pub fn say(problem: &Problem) -> String {
    let path = problem.path.get(1..).unwrap_or_default().join(".");
    let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{at}{}{hint}", problem.message)
}

pub fn refusal(problems: &[Problem]) -> ApiError {
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).map(say);
    let message = format!("the job is not valid: {}", errors.collect::<Vec<_>>().join("; "));
    ApiError::new(ErrorCode::BadRequest, message).hint("nothing was changed; mend it and try again")
}

pub fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > JOB_NAME_MAX || name.chars().any(char::is_control) {
        let message =
            format!("a job's name has 1 to {JOB_NAME_MAX} bytes and no control characters");
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    Ok(())
}

/// RFC 7396.
pub fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (value, target.get_mut(key)) {
            (Value::Null, _) => drop(target.shift_remove(key)),
            (Value::Object(patch), Some(Value::Object(target))) => merge(target, patch),
            (Value::Object(patch), _) => {
                let mut fresh = Map::new();
                merge(&mut fresh, patch);
                target.insert(key.clone(), Value::Object(fresh));
            }
            (value, _) => drop(target.insert(key.clone(), value.clone())),
        }
    }
}
