//! The config file: what it may say, what it means, and what is wrong with it.
//!
//! [`parse`] reads the text of one file, [`parse_files`] those of several. An error in the settings refuses the whole file; an error
//! in a job disables that job and keeps everything else. Every problem knows its place.
//! Nothing here reads files or the clock.

mod dependencies;
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
    Config, DocumentPlace, Job, LevelIx, ManualNode, NodeOrder, NodeSource, Placement, Policy,
    Resource, Settings, WorkerSelector, expand_format,
};
pub use physical::{Enforcement, Physical, PhysicalKind, WorkerOverrides};
pub use problem::{Problem, Problems, Source};
pub use schema::schema;
pub use sources::parse_tree;
pub use subprocess::{Cgroups, Subprocess};

use rustc_hash::FxHashSet;
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
    let mut parsed = parse_files(&[text]);
    Parsed { config: parsed.config, problems: parsed.problems.pop().unwrap_or_default() }
}

/// What several files come to that are one config together.
#[derive(Debug)]
pub struct ParsedFiles {
    pub config: Option<Config>,
    /// Per file.
    pub problems: Vec<Vec<Problem>>,
}

/// Reads the texts of files that are one config together: one has the settings, all may have jobs.
/// A file that cannot be read as JSON refuses them all, since nobody knows what it would say.
pub fn parse_files(texts: &[&str]) -> ParsedFiles {
    let trees: Vec<_> = texts.iter().map(|text| Tree::parse(text)).collect();
    let problems: Vec<Problems> = trees
        .iter()
        .map(|tree| {
            let problems = Problems::default();
            tree.as_ref().err().into_iter().for_each(|problem| problems.push(problem.clone()));
            problems
        })
        .collect();
    let trees: Result<Vec<_>, _> = trees.iter().map(Result::as_ref).collect();
    let config = trees.ok().and_then(|trees| {
        let files =
            trees.iter().zip(&problems).map(|(tree, problems)| Reader::root(tree, problems));
        read_files(&files.collect::<Vec<_>>())
    });
    let problems = problems.into_iter().map(Problems::into_sorted).collect();
    ParsedFiles { config, problems }
}

const SETTINGS: &str = "bistro_settings";

fn read_files(roots: &[Reader<'_>]) -> Option<Config> {
    let files: Vec<_> = roots.iter().map(Reader::object).collect::<Option<_>>()?;
    let mut settings = files.iter().filter_map(|file| file.get(SETTINGS));
    let Some(first) = settings.next() else {
        // Says that it is missing.
        files.first()?.required(SETTINGS);
        return None;
    };
    if let Some(second) = settings.next() {
        second.error_key("the settings are in another file already", None);
        return None;
    }
    let settings = settings::read(&first)?;
    let mut jobs: Vec<(Arc<Job>, Reader<'_>)> = Vec::new();
    let mut names = FxHashSet::default();
    for (key, entry) in files.iter().flat_map(reader::ObjectReader::entries) {
        match key.strip_prefix(JOB_PREFIX) {
            Some(name) if !names.insert(name) => {
                entry.error_key(format!("the job {name:?} is in another file already"), None);
            }
            Some(name) => {
                let job = job::read(name, &entry, &settings);
                jobs.extend(job.map(|job| (Arc::new(job), entry)));
            }
            None if matches!(key, SETTINGS | "$schema") => {}
            None => entry.warn_key(
                format!("unknown key {key:?} is ignored"),
                reader::did_you_mean(key, &[SETTINGS])
                    .or_else(|| Some(format!("jobs are named \"{JOB_PREFIX}NAME\""))),
            ),
        }
    }
    dependencies::check(&jobs);
    Some(Config { settings, jobs: jobs.into_iter().map(|(job, _)| job).collect() })
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

#[cfg(test)]
mod tests;
