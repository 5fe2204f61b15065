//! The queries of the original's HTTP API (reference, section 10): one JSON object of named
//! queries in, one of named answers out.
//!
//! Everything is answered from the core but `task_logs`, which only workers can answer.

use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::collections::HashSet;

use bistro_common::Millis;
use bistro_common::protocol::api::ProblemReport;
use bistro_common::status::code;
use bistro_core::{Core, Effect, NodeIx};

mod changes;
pub mod logs;

/// More tasks, nodes and jobs than this are not looked at for one request: everybody else would
/// wait.
const LOOKED_AT_MAX: u64 = 200_000;

/// A request has so many queries at most.
const QUERIES_MAX: usize = 32;

/// At most so many names with each number of a histogram.
const SAMPLES_MAX: u64 = 10;

/// Asked of workers, and by others than this.
pub const TASK_LOGS: &str = "task_logs";

/// Left out of the answers without a word.
const RESERVED: &str = "prefs";

/// What an answer needs beside the core.
pub struct Context<'a> {
    pub now: Millis,
    pub problems: &'a [ProblemReport],
    /// Who asks, for the audit.
    pub actor: &'a str,
    /// Nothing can be written down.
    pub no_room: bool,
    /// What this request has looked at so far.
    looked_at: Cell<u64>,
}

impl<'a> Context<'a> {
    pub fn new(now: Millis, problems: &'a [ProblemReport], actor: &'a str, no_room: bool) -> Self {
        Self { now, problems, actor, no_room, looked_at: Cell::new(0) }
    }

    /// Before so many things are looked at.
    fn spend(&self, count: u64) -> Result<(), String> {
        let all = self.looked_at.get().saturating_add(count);
        if all > LOOKED_AT_MAX {
            return Err(format!(
                "this would look at {all} tasks, nodes and jobs, of which a request may look at {LOOKED_AT_MAX}; ask for fewer by name, or use the verbs of the API, which page"
            ));
        }
        self.looked_at.set(all);
        Ok(())
    }
}

/// The queries of a request, by name; an error is the answer to the whole of it.
pub fn parse(body: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(mut queries)) => {
            queries.shift_remove(RESERVED);
            if queries.len() > QUERIES_MAX {
                return Err(format!("a request has {QUERIES_MAX} queries at most"));
            }
            Ok(queries)
        }
        Ok(_) => Err("the request must be a JSON object of named queries".to_owned()),
        Err(error) => Err(format!("the request is not JSON: {error}")),
    }
}

/// One answer per query; one that fails leaves the others alone.
pub fn answer(
    core: &mut Core,
    context: &Context<'_>,
    queries: Map<String, Value>,
    out: &mut Vec<Effect>,
) -> Map<String, Value> {
    let answer = |(name, query): (String, Value)| {
        let answer = match one(core, context, &query, out) {
            Ok(data) => json!({"data": data}),
            Err(error) => json!({"error": error}),
        };
        (name, answer)
    };
    queries.into_iter().map(answer).collect()
}

fn one(
    core: &mut Core,
    context: &Context<'_>,
    query: &Value,
    out: &mut Vec<Effect>,
) -> Result<Value, String> {
    match text(query, "handler")? {
        "jobs" => {
            let exported = names(core, context, query)?.into_iter().map(|job| {
                let exported = core.export(&job).unwrap_or_default();
                (job, exported)
            });
            Ok(exported.collect::<Map<_, _>>().into())
        }
        "histogram" => histograms(core, context, query),
        "running_tasks" => running(
            core,
            context,
            query,
            |started, worker| json!({"start_time": started / 1_000, "worker_shard": worker}),
        ),
        "job_node_runtime" => running(core, context, query, |started, _| {
            json!(context.now.saturating_sub(started) / 1_000)
        }),
        "sorted_node_names" => node_names(core, context),
        "nodes" => nodes(core, context, query),
        "errors" => {
            let error = |problem: &ProblemReport| {
                let slot = format!("{}:{}:{}", problem.file, problem.line, problem.column);
                (slot, json!(problem.message))
            };
            Ok(context.problems.iter().map(error).collect::<Map<_, _>>().into())
        }
        "refresh_time" => Ok(json!(context.now / 1_000)),
        other => changes::answer(core, context, query, out)
            .unwrap_or_else(|| Err(format!("Unknown handler: {other}"))),
    }
}

fn text<'a>(query: &'a Value, key: &str) -> Result<&'a str, String> {
    query[key].as_str().ok_or_else(|| format!("the query needs the text {key:?}"))
}

/// A list of texts; absent: empty.
pub fn texts(query: &Value, key: &str) -> Result<Vec<String>, String> {
    match &query[key] {
        Value::Null => Ok(Vec::new()),
        list => serde_json::from_value(list.clone())
            .map_err(|_| format!("{key:?} must be a list of names")),
    }
}

/// The jobs that a query names, as far as there are such; all if it names none.
fn names(core: &Core, context: &Context<'_>, query: &Value) -> Result<Vec<String>, String> {
    let wanted = texts(query, "jobs")?;
    context.spend(if wanted.is_empty() { core.sizes().0 } else { wanted.len() as u64 })?;
    if wanted.is_empty() {
        return Ok(core.job_names().map(str::to_owned).collect());
    }
    Ok(wanted.into_iter().filter(|job| core.task_count(job).is_some()).collect())
}

fn histograms(core: &Core, context: &Context<'_>, query: &Value) -> Result<Value, String> {
    let samples = query["num_samples"].as_u64().unwrap_or(0).min(SAMPLES_MAX) as usize;
    let jobs = names(core, context, query)?;
    let nodes = core.sizes().1;
    context.spend(jobs.iter().filter_map(|job| core.task_count(job)).map(|n| n + nodes).sum())?;
    let (mut counts, mut names) = (Map::new(), Map::new());
    for job in jobs {
        let histogram = core.histogram(&job, samples).unwrap_or_default();
        let (mut levels, mut samples) = (Map::new(), Map::new());
        for (level, by_bits) in histogram {
            let count = |(bits, (count, _)): (&u32, &(u64, Vec<_>))| (code(*bits), json!(count));
            levels.insert(level.to_owned(), by_bits.iter().map(count).collect());
            let names = |(bits, (_, names)): (u32, (u64, Vec<_>))| (code(bits), json!(names));
            samples.insert(level.to_owned(), by_bits.into_iter().map(names).collect());
        }
        counts.insert(job.clone(), levels.into());
        names.insert(job, samples.into());
    }
    Ok(match samples {
        0 => json!({"histograms": counts}),
        _ => json!({"histograms": counts, "samples": names}),
    })
}

fn running(
    core: &Core,
    context: &Context<'_>,
    query: &Value,
    say: impl Fn(Millis, &str) -> Value,
) -> Result<Value, String> {
    let wanted: HashSet<String> = texts(query, "jobs")?.into_iter().collect();
    context.spend(core.running_count() + wanted.len() as u64)?;
    let mut jobs: Map<String, Value> = Map::new();
    for (task, started, worker) in core.running() {
        if wanted.is_empty() || wanted.contains(&*task.job) {
            let of_job = jobs.entry(&*task.job).or_insert_with(|| json!({}));
            of_job[&*task.node] = say(started, worker);
        }
    }
    Ok(jobs.into())
}

fn node_names(core: &Core, context: &Context<'_>) -> Result<Value, String> {
    let forest = core.forest();
    context.spend(forest.node_count() as u64)?;
    let levels = forest.level_names().iter().enumerate().filter_map(|(level, name)| {
        let nodes = forest.level(level).map(|node| forest.name(NodeIx(node as u32)));
        let nodes: Vec<_> = nodes.collect();
        (!nodes.is_empty()).then(|| (name.clone(), json!(nodes)))
    });
    Ok(levels.collect::<Map<_, _>>().into())
}

fn nodes(core: &Core, context: &Context<'_>, query: &Value) -> Result<Value, String> {
    let (wanted, fields) = (texts(query, "nodes")?, texts(query, "fields")?);
    if let Some(unknown) = fields.iter().find(|f| !matches!(f.as_str(), "resources" | "disabled")) {
        return Err(format!("Unknown field name: {unknown}"));
    }
    let has = |field: &str| fields.is_empty() || fields.iter().any(|f| f == field);
    let forest = core.forest();
    let levels = 0..forest.level_names().len();
    let found: Vec<(usize, NodeIx)> = if wanted.is_empty() {
        context.spend(forest.node_count() as u64)?;
        let on = |level| forest.level(level).map(move |node| (level, NodeIx(node as u32)));
        levels.flat_map(on).collect()
    } else {
        let on =
            |level| wanted.iter().filter_map(move |name| Some((level, forest.find(level, name)?)));
        levels.flat_map(on).collect()
    };
    let mut results = Map::new();
    for (level, node) in found {
        let mut about = Map::new();
        if has("resources") {
            about.insert("resources".to_owned(), resources(core, level));
        }
        if has("disabled") && !forest.is_enabled(node) {
            about.insert("disabled".to_owned(), json!(true));
        }
        let of_level = results
            .entry(&forest.level_names()[level])
            .or_insert_with(|| Value::Object(Map::new()));
        of_level[forest.name(node)] = about.into();
    }
    Ok(json!({"results": results}))
}

/// What every node of a level has, as it is configured.
fn resources(core: &Core, level: usize) -> Value {
    let of_level = core.settings().resources.iter().filter(|resource| resource.level == level);
    let say = of_level.map(|resource| {
        let mut about = json!({"default": resource.default, "limit": resource.limit});
        if resource.weight > 0 {
            about["weight"] = json!(resource.weight);
        }
        (resource.name.clone(), about)
    });
    say.collect::<Map<_, _>>().into()
}
