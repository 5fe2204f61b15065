//! The `errors` object of a job, in the original's shape: `error` and `value` at a leaf,
//! `key_errors` for keys that are missing, `nested` for children.

use serde_json::{Map, Value, json};

use super::problem::Problem;

/// What the incoming `errors` of a job come to, when they are all that is wrong.
pub(super) const PRE_EXISTING: &str = "Pre-existing errors";

/// `job` is the job as it was given; problems have paths that begin with the job's own key.
pub(super) fn errors_object(problems: &[Problem], job: &Value) -> Value {
    let own = |problem: &&Problem| problem.message != PRE_EXISTING;
    if let Some(carried) = job.get("errors")
        && !problems.is_empty()
        && problems.iter().filter(own).count() == 0
    {
        return carried.clone();
    }
    let mut root = Value::Object(Map::new());
    for problem in problems {
        let path = problem.path.get(1..).unwrap_or_default();
        enter(&mut root, path, problem, job);
    }
    root
}

fn enter(at: &mut Value, path: &[String], problem: &Problem, value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        match &problem.missing_key {
            Some(key) => at["key_errors"][key] = json!(problem.message),
            None => at["error"] = json!(problem.message),
        }
        at["value"] = value.clone();
        return;
    };
    let child = match value {
        Value::Array(items) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
        value => value.get(key),
    };
    enter(&mut at["nested"][key], rest, problem, child.unwrap_or(&Value::Null));
}
