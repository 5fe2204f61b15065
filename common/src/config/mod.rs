//! The config file: what it may say, what it means, and what is wrong with it.
//!
//! [`parse`] reads the text of one file. An error in the settings refuses the whole file; an error
//! in a job disables that job and keeps everything else. Every problem knows its place.
//! Nothing here reads files or the clock.

mod errors;
mod export;
mod filter;
mod job;
mod model;
mod physical;
mod problem;
mod reader;
pub mod reference;
mod schema;
mod settings;
mod sources;
mod subprocess;
mod tree;

pub use filter::Filter;
pub use model::{
    Config, Job, LevelIx, ManualNode, NodeOrder, NodeSource, Placement, Policy, Resource, Settings,
    WorkerSelector, expand_format,
};
pub use physical::{Enforcement, Physical, PhysicalKind, WorkerOverrides};
pub use problem::{Problem, Problems, Source};
pub use schema::schema;
pub use sources::parse_tree;
pub use subprocess::{Cgroups, Subprocess};

use std::sync::Arc;

use reader::Reader;
use tree::Tree;

/// The prefix of the keys that define jobs.
const JOB_PREFIX: &str = "bistro_job->";

/// The outcome of reading a config: the config, if it is usable, and everything to be said about
/// it. A usable config may have problems: broken jobs and warnings.
#[derive(Debug)]
pub struct Parsed {
    pub config: Option<Config>,
    pub problems: Vec<Problem>,
}

/// Reads the text of a config file.
pub fn parse(text: &str) -> Parsed {
    let tree = match Tree::parse(text) {
        Ok(tree) => tree,
        Err(problem) => return Parsed { config: None, problems: vec![problem] },
    };
    let problems = Problems::default();
    let config = read_file(Reader::root(&tree, &problems));
    Parsed { config, problems: problems.into_sorted() }
}

fn read_file(root: Reader<'_>) -> Option<Config> {
    let file = root.object()?;
    let settings = settings::read(&file.required("bistro_settings")?)?;
    let mut jobs = Vec::new();
    for (key, entry) in file.entries() {
        match key.strip_prefix(JOB_PREFIX) {
            Some(name) => jobs.extend(job::read(name, &entry, &settings)),
            None if matches!(key, "bistro_settings" | "$schema") => {}
            None => entry.warn_key(
                format!("unknown key {key:?} is ignored"),
                reader::did_you_mean(key, &["bistro_settings"])
                    .or_else(|| Some(format!("jobs are named \"{JOB_PREFIX}NAME\""))),
            ),
        }
    }
    check_dependencies(&file, &jobs);
    Some(Config { settings, jobs: jobs.into_iter().map(Arc::new).collect() })
}

/// Reads one job that is not in a file, under the settings of one. What is wrong with it is in the
/// job's `errors`; warnings come beside it. `None`: it is no object.
pub fn parse_job(
    name: &str,
    job: &serde_json::Value,
    settings: &Settings,
) -> (Option<Job>, Vec<Problem>) {
    let tree = match Tree::parse(&job.to_string()) {
        Ok(tree) => tree,
        Err(problem) => return (None, vec![problem]),
    };
    let problems = Problems::default();
    let job = job::read(name, &Reader::named(name, &tree, &problems), settings);
    (job, problems.into_sorted())
}

/// Unknown and cyclic dependencies never resolve by themselves: say so early.
fn check_dependencies(file: &reader::ObjectReader<'_>, jobs: &[Job]) {
    let find = |name: &str| jobs.iter().find(|job| job.name == name);
    for job in jobs {
        let Some(entry) = file.entries().find_map(|(key, entry)| {
            (key.strip_prefix(JOB_PREFIX) == Some(&job.name)).then_some(entry)
        }) else {
            continue;
        };
        let place = entry.child("depends_on").unwrap_or(entry);
        for dependency in &job.depends_on {
            if find(dependency).is_none() {
                let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
                place.warn(
                    format!("depends on {dependency:?}, which is not a job: it will never run"),
                    reader::did_you_mean(dependency, &names),
                );
            }
        }
        if depends_on_itself(job, &find) {
            place.warn("depends on itself in a circle: it will never run", None);
        }
    }
}

fn depends_on_itself<'j>(job: &'j Job, find: &impl Fn(&str) -> Option<&'j Job>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    let mut todo: Vec<&str> = job.depends_on.iter().map(String::as_str).collect();
    while let Some(name) = todo.pop() {
        if name == job.name {
            return true;
        }
        if seen.insert(name)
            && let Some(next) = find(name)
        {
            todo.extend(next.depends_on.iter().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests;
