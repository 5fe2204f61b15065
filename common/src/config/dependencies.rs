//! Unknown and cyclic dependencies never resolve by themselves: say so early.

use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

use super::model::Job;
use super::reader::{Reader, did_you_mean};

/// At most so many names are looked at for one that is near, and for so many unknown ones.
const CANDIDATES_MAX: usize = 10_000;
const HINTS_MAX: usize = 20;

pub fn check(jobs: &[(Arc<Job>, Reader<'_>)]) {
    let by_name: FxHashMap<&str, &Job> =
        jobs.iter().map(|(job, _)| (&*job.name, job.as_ref())).collect();
    let circular = circular(&by_name);
    let known: Vec<&str> = by_name.keys().copied().take(CANDIDATES_MAX).collect();
    let mut hints = 0;
    for (job, entry) in jobs {
        for (key, names) in [
            ("depends_on", &job.depends_on),
            ("run_only_after_all_nodes_are_done_for", &job.after_all),
        ] {
            let unknown = names.iter().filter(|name| !by_name.contains_key(name.as_str()));
            for name in unknown {
                hints += 1;
                let hint = (hints <= HINTS_MAX).then(|| did_you_mean(name, &known)).flatten();
                entry.child(key).unwrap_or_else(|| entry.clone()).warn(
                    format!("waits for {name:?}, which is not a job of the config: it will not run before there is one"),
                    hint,
                );
            }
        }
        if circular.contains(&*job.name) {
            let place = entry.child("depends_on").unwrap_or_else(|| entry.clone());
            place.warn("depends on itself in a circle: it will never run", None);
        }
    }
}

fn waits_for(job: &Job) -> impl Iterator<Item = &str> {
    job.depends_on.iter().chain(&job.after_all).map(String::as_str)
}

/// The jobs that are in a circle, or wait for one: those that are left when all others, whose
/// dependencies resolve, have been taken away.
fn circular<'j>(by_name: &FxHashMap<&'j str, &'j Job>) -> FxHashSet<&'j str> {
    let known = |name: &&str| by_name.contains_key(name);
    let mut left: FxHashMap<&str, usize> = FxHashMap::default();
    let mut dependents: FxHashMap<&str, Vec<&str>> = FxHashMap::default();
    for (&name, job) in by_name {
        left.insert(name, waits_for(job).filter(known).count());
        for dependency in waits_for(job).filter(known) {
            dependents.entry(dependency).or_default().push(name);
        }
    }
    let mut free: Vec<&str> =
        left.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    while let Some(name) = free.pop() {
        for dependent in dependents.remove(name).unwrap_or_default() {
            if let Some(count) = left.get_mut(dependent) {
                *count -= 1;
                if *count == 0 {
                    free.push(dependent);
                }
            }
        }
    }
    by_name.keys().copied().filter(|name| left[name] > 0).collect()
}
