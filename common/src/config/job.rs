//! `bistro_job->NAME`: an error disables the job and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::errors::{PRE_EXISTING, errors_object};
use super::filter::Filter;
use super::model::{Job, LevelIx, Placement, Settings};
use super::reader::{ObjectReader, Reader};
use super::settings::{find_level, not_negative, read_backoff, unknown_identifier};
use super::subprocess::{read_kill, read_orphan_delay, read_subprocess};
use crate::protocol::assign::{Responder, TaskSpec};
use crate::protocol::run::check_subject;

/// What a worker that does not know the job's runner tries to run.
const TOO_OLD: &str = "this-worker-is-too-old-for-the-runner-of-this-job";

/// Who does a job's tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Process,
    Nats,
    Noop,
}

/// `None` only if the entry is not an object at all.
pub fn read(name: &str, reader: &Reader<'_>, settings: &Settings) -> Option<Job> {
    let errors = reader.problems().error_count();
    let object = reader.object()?;
    let subprocess = match object.get("task_subprocess") {
        Some(reader) => Arc::new(read_subprocess(&reader, &settings.subprocess)),
        None => settings.subprocess.clone(),
    };
    let (runner, responder) = read_runner(&object);
    // In this order problems are told.
    let owner = object.required("owner").and_then(|r| r.string()).unwrap_or_default();
    let enabled = object.get("enabled").and_then(|r| r.bool()).unwrap_or(true);
    let priority = object.get("priority").and_then(|r| r.float()).unwrap_or(1.0);
    let resources = object.get("resources").map(|r| read_slots(&r, settings)).unwrap_or_default();
    let mut job = Job {
        name: name.into(),
        owner,
        enabled,
        level: settings.level_for_tasks,
        priority,
        spec: Arc::new(TaskSpec {
            command: match runner {
                Runner::Process => {
                    object.get("command").and_then(|r| r.strings()).unwrap_or_default()
                }
                Runner::Nats | Runner::Noop => vec![TOO_OLD.to_owned()],
            },
            responder,
            noop: runner == Runner::Noop,
            confinement: subprocess.confinement.clone(),
            limits: settings.limits(&resources),
            plain_command: object.get("plain_command").and_then(|r| r.bool()).unwrap_or(false),
            config: read_config(&object),
            kill: object
                .get("kill_subprocess")
                .map_or(settings.kill, |r| read_kill(&r, settings.kill)),
            log_lines_per_10_ms: subprocess.log_lines_per_10_ms(),
        }),
        resources,
        filters: object.get("filters").map(|r| read_filters(&r, settings)).unwrap_or_default(),
        worker_filter: None,
        placement: Placement::Anywhere,
        after_all: object
            .get("run_only_after_all_nodes_are_done_for")
            .and_then(|r| r.strings())
            .unwrap_or_default(),
        depends_on: object.get("depends_on").and_then(|r| r.strings()).unwrap_or_default(),
        backoff: object
            .get("backoff")
            .and_then(|r| read_backoff(&r))
            .unwrap_or_else(|| settings.backoff.clone()),
        subprocess,
        kill_orphans_after_ms: object
            .get("kill_orphan_tasks_after_sec")
            .and_then(|r| read_orphan_delay(&r))
            .unwrap_or(settings.kill_orphans_after_ms),
        create_time: read_number(&object, "create_time").filter(|&time| time > 0),
        modify_time: read_number(&object, "modify_time").filter(|&time| time > 0),
        version_id: read_number(&object, "version_id").filter(|&version| version >= 0),
        errors: Vec::new(),
        errors_object: None,
    };
    if let Some(level) = object.get("level_for_tasks")
        && let Some(found) = find_level(&settings.levels, &level)
    {
        if found == settings.worker_level() {
            level.error("no nodes live at the level \"worker\"", None);
        } else {
            job.level = found;
        }
    }
    job.worker_filter = job.filters.remove(&settings.worker_level());
    job.placement = read_placement(&object, settings, job.level);
    if let Some(errors) = object.get("errors")
        && !matches!(&errors.json(), serde_json::Value::Object(object) if object.is_empty())
    {
        errors.error_key(PRE_EXISTING, Some("remove \"errors\" when all is mended".into()));
    }
    object.finish();
    job.errors = reader.problems().errors_since(errors);
    if !job.errors.is_empty() {
        job.errors_object = Some(Box::new(errors_object(&job.errors, &reader.json())));
    }
    Some(job)
}

/// `runner`, `subject` and `responder_timeout_sec`.
fn read_runner(object: &ObjectReader<'_>) -> (Runner, Option<Responder>) {
    let reader = object.get("runner");
    let words = [("process", Runner::Process), ("nats", Runner::Nats), ("noop", Runner::Noop)];
    let runner = reader.as_ref().and_then(|r| r.word(&words)).unwrap_or(Runner::Process);
    let responder = read_responder(object, reader.filter(|_| runner == Runner::Nats));
    for key in ["command", "plain_command"] {
        if let Some(command) = object.get(key).filter(|_| runner != Runner::Process) {
            command.warn_key("it has no effect with a runner that starts no process", None);
        }
    }
    // Without a subject it is in error, and nothing is run for it.
    (runner, responder)
}

/// `runner`: if it is `nats`.
fn read_responder(object: &ObjectReader<'_>, runner: Option<Reader<'_>>) -> Option<Responder> {
    let subject = object.get("subject");
    let timeout = object.get("responder_timeout_sec");
    let seconds = timeout.as_ref().and_then(Reader::float);
    if let (Some(timeout), Some(seconds)) = (&timeout, seconds)
        && !(0.001..=86_400.0).contains(&seconds)
    {
        timeout.error("expected a time from 0.001 to 86400 seconds", None);
    }
    let Some(runner) = runner else {
        for useless in [&subject, &timeout].into_iter().flatten() {
            useless.warn_key("it has no effect without \"runner\": \"nats\"", None);
        }
        return None;
    };
    let Some(subject) = subject else {
        runner.error("the runner \"nats\" needs a \"subject\" to ask on", None);
        return None;
    };
    let name = subject.string()?;
    if let Err(expected) = check_subject(&name) {
        subject.error(format!("expected {expected}"), None);
        return None;
    }
    let silence_ms = seconds.map_or(Responder::SILENCE_MS, |seconds| (seconds * 1_000.0) as u64);
    Some(Responder { subject: name, silence_ms })
}

fn read_number(object: &ObjectReader<'_>, key: &'static str) -> Option<i64> {
    object.get(key).and_then(|r| r.int())
}

/// A fixed host wins over a level; a level that is not on the tasks' paths places nothing.
fn read_placement(object: &ObjectReader<'_>, settings: &Settings, of_job: LevelIx) -> Placement {
    let host = object.get("host_placement").and_then(|r| r.string()).unwrap_or_default();
    let level = object
        .get("level_for_host_placement")
        .and_then(|reader| find_level(&settings.levels, &reader));
    match (host.is_empty(), level) {
        (false, _) => Placement::Host(host),
        (true, Some(level)) if level <= of_job => Placement::HostAtLevel(level),
        (true, _) => Placement::Anywhere,
    }
}

fn read_config(object: &ObjectReader<'_>) -> serde_json::Map<String, serde_json::Value> {
    match object.get("config").map(|reader| (reader.json(), reader)) {
        Some((serde_json::Value::Object(config), _)) => config,
        Some((_, reader)) => {
            reader.error("Must be an object", None);
            Default::default()
        }
        None => Default::default(),
    }
}

fn read_slots(reader: &Reader<'_>, settings: &Settings) -> BTreeMap<String, i64> {
    let mut slots = BTreeMap::new();
    let Some(object) = reader.object() else {
        return slots;
    };
    for (name, entry) in object.entries() {
        if settings.resources.iter().any(|resource| resource.name == name) {
            slots.extend(not_negative(&entry).map(|amount| (name.to_owned(), amount)));
        } else {
            let known: Vec<_> = settings.resources.iter().map(|r| r.name.clone()).collect();
            unknown_identifier(&entry, name, &known);
        }
    }
    slots
}

fn read_filters(reader: &Reader<'_>, settings: &Settings) -> BTreeMap<usize, Arc<Filter>> {
    let mut filters = BTreeMap::new();
    let Some(object) = reader.object() else {
        return filters;
    };
    for (name, entry) in object.entries() {
        match settings.level(name) {
            Some(level) => {
                filters.extend(Filter::read(&entry).map(|filter| (level, Arc::new(filter))))
            }
            None => unknown_identifier(&entry, name, &settings.levels),
        }
    }
    filters
}
