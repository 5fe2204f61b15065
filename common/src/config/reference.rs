//! Every key of the config file, for `docs/reference/config.md`. Where a test reads a key that is
//! not here, it fails.

pub struct Key {
    /// Where it stands: `bistro_settings`, `a job`, ...
    pub place: &'static str,
    pub name: &'static str,
    pub kind: &'static str,
    /// `required`, or what holds without it.
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn key(
    place: &'static str,
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { place, name, kind, default, meaning }
}

pub(super) const FILE: &str = "The file";
pub(super) const SETTINGS: &str = "bistro_settings";
pub(super) const NODES: &str = "bistro_settings.nodes";
pub(super) const SOURCE: &str = "bistro_settings.nodes.node_sources[]";
pub(super) const MANUAL: &str = "prefs of the source manual";
pub(super) const MANUAL_OBJECT: &str = "prefs.NODE of the source manual";
pub(super) const NODE_FILE: &str = "prefs of the source file";
pub(super) const NODE_HTTP: &str = "prefs of the source http";
pub(super) const NODE_KV: &str = "prefs of the source nats_kv";
pub(super) const RANGE: &str = "prefs of the source range_label";
pub(super) const SCRIPT: &str = "prefs of the source script";
pub(super) const ADD_TIME: &str = "prefs of the source add_time";
pub(super) const SCHEDULE: &str = "prefs.schedule[] of the source add_time";
pub(super) const RESOURCE: &str = "bistro_settings.resources.LEVEL.RESOURCE";
pub(super) const KILL: &str = "kill_subprocess";
pub(super) const SUBPROCESS: &str = "task_subprocess";
pub(super) const JOB: &str = "bistro_job->NAME";
pub(super) const FILTER: &str = "bistro_job->NAME.filters.LEVEL";

const NO_EFFECT: &str = "Of the original; read and exported, of no effect here.";
pub(super) const PHYSICAL: &str = "bistro_settings.physical_resources.KIND";
pub(super) const CGROUPS: &str = "task_subprocess.cgroups";
const OBSOLETE: &str =
    "Of the original; has no effect, since the scheduler follows changes at once.";

pub const KEYS: &[Key] = &[
    key(FILE, "bistro_settings", "object", "required", "What is true for all jobs."),
    key(FILE, "$schema", "text", "none", "For editors: where the schema is."),
    key(
        FILE,
        "bistro_job->NAME",
        "object",
        "none",
        "A job. It runs once on every node of its level.",
    ),
    key(SETTINGS, "enabled", "bool", "false", "Nothing is started without it."),
    key(
        SETTINGS,
        "scheduler",
        "roundrobin, ranked_priority, randomized_priority or long_tail",
        "roundrobin",
        "Which job may start a task next.",
    ),
    key(SETTINGS, "nodes", "object", "required", "The forest of nodes."),
    key(
        SETTINGS,
        "resources",
        "object of objects",
        "required",
        "By level: what its nodes have to give.",
    ),
    key(SETTINGS, "level_for_tasks", "level", "the lowest", "The level of jobs that name none."),
    key(
        SETTINGS,
        "backoff",
        "list of seconds, last `repeat` or `fail`",
        "[15, 30, 60, 300, 900, 3600, 7200, 21600, 86400, \"repeat\"]",
        "How long a task waits after its first, second, ... error.",
    ),
    key(SETTINGS, "kill_subprocess", "object", "term, 0 ms", "How a running task is ended."),
    key(SETTINGS, "task_subprocess", "object", "none", "How a task is run."),
    key(SETTINGS, "working_wait", "seconds", "none", OBSOLETE),
    key(SETTINGS, "idle_wait", "seconds", "none", OBSOLETE),
    key(SETTINGS, "CAUTION_exit_initial_wait_before_timestamp", "int", "none", OBSOLETE),
    key(
        SETTINGS,
        "remote_worker_selector",
        "roundrobin, busiest or two_choice",
        "roundrobin",
        "Which worker is chosen among those with room: in turn, the fullest by weight, or the one with fewer tasks of two.",
    ),
    key(
        SETTINGS,
        "worker_resources_override",
        "object of objects of ints",
        "none",
        "By worker (`HOST:PID`, else its host, else its name): slots in place of limits of the level `worker`.",
    ),
    key(
        SETTINGS,
        "physical_resources",
        "object",
        "none",
        "By `ram_mb`, `cpu_core`, `gpu_card` or `disk_mb` (free in its data directory when it started): which slots of a worker come from what it measures.",
    ),
    key(
        SETTINGS,
        "kill_orphan_tasks_after_sec",
        "bool or seconds",
        "false",
        "When running tasks are ended whose job is gone, disabled or broken, or whose node is gone or disabled. `true` is at once, `false` or less than 0 is never.",
    ),
    key(
        SETTINGS,
        "preempt",
        "bool",
        "false",
        "Where a limit is lowered below what runs, the newest tasks over it are ended and run again later; that is no failure.",
    ),
    key(
        NODES,
        "levels",
        "list of texts",
        "required",
        "From the top down. Above them is `instance`, beside them `worker`.",
    ),
    key(
        NODES,
        "node_order",
        "random, original or lexicographic",
        "random",
        "In which order nodes are looked at.",
    ),
    key(NODES, "node_sources", "list of objects", "none", "Where nodes come from; they add up."),
    key(
        SOURCE,
        "source",
        "manual, range_label, script, add_time, file, http, nats_kv or empty",
        "required",
        "Which source.",
    ),
    key(SOURCE, "prefs", "object", "none", "What the source needs, see below."),
    key(
        MANUAL,
        "NODE",
        "text, list of texts, or object",
        "none",
        "A node of the first level and its children.",
    ),
    key(MANUAL_OBJECT, "children", "list of texts", "none", "Its children."),
    key(MANUAL_OBJECT, "disabled", "bool", "false", "Nothing is started on it or below."),
    key(
        NODE_FILE,
        "path",
        "path",
        "required",
        "A file with a name per line, or a JSON array of names, or a JSON object as the prefs of `manual`. Its content is watched.",
    ),
    key(
        NODE_FILE,
        "parent_level",
        "level",
        "instance",
        "For names: each of its nodes gets them as children.",
    ),
    key(NODE_FILE, "period_sec", "seconds", "1", "How often it is looked at."),
    key(
        NODE_HTTP,
        "url",
        "text",
        "required",
        "`http` or `https`: a text as that of a file. Fetched with its ETag.",
    ),
    key(NODE_HTTP, "parent_level", "level", "instance", "As with a file."),
    key(NODE_HTTP, "period_sec", "seconds", "60", "How often it is fetched."),
    key(
        NODE_HTTP,
        "timeout_sec",
        "seconds",
        "10",
        "When a fetch is given up. The last good nodes stay.",
    ),
    key(NODE_KV, "bucket", "text", "required", "A NATS KV bucket."),
    key(NODE_KV, "key", "text", "required", "Its value is a text as that of a file."),
    key(NODE_KV, "parent_level", "level", "instance", "As with a file."),
    key(NODE_KV, "period_sec", "seconds", "1", "How often it is looked at."),
    key(RANGE, "parent_level", "level", "required", "Every node of it gets these children."),
    key(RANGE, "start", "int", "required", "The first number."),
    key(RANGE, "end", "int", "required", "The last number."),
    key(
        RANGE,
        "format",
        "text",
        "{parent}__{i}",
        "Names, with `{parent}`, `{i}`, `{start}` and `{end}`.",
    ),
    key(RANGE, "enabled", "bool", "true", "Whether something may be started on these nodes."),
    key(
        SCRIPT,
        "parent_level",
        "level",
        "required",
        "The program is run for each of its nodes, with the name as its argument; each line that it prints is a child.",
    ),
    key(SCRIPT, "script", "path", "required", "The program."),
    key(SCRIPT, "period_sec", "seconds", "300", "How often it is run."),
    key(SCRIPT, "timeout_sec", "seconds", "60", "When it is killed. The last good nodes stay."),
    key(
        ADD_TIME,
        "parent_level",
        "level",
        "required",
        "Each of its nodes gets a child per event that is alive.",
    ),
    key(
        ADD_TIME,
        "format",
        "text",
        "{parent}:{time}",
        "Names; `{time}` is in seconds since the epoch.",
    ),
    key(ADD_TIME, "time_zone", "IANA name", "the host's", "Whose local time the cron items mean."),
    key(
        ADD_TIME,
        "schedule",
        "list of objects",
        "[]",
        "What happens when. Items that make the same event share its node.",
    ),
    key(
        SCHEDULE,
        "cron",
        "object",
        "required",
        "`epoch` (seconds), or `minute`, `hour`, `day_of_month` or `day_of_week`, `month`, `year` and `dst_fixes`; each a value, a list, or `start`, `end`, `period`.",
    ),
    key(SCHEDULE, "lifetime", "seconds", "required", "How long an event has a node."),
    key(SCHEDULE, "enabled_lifetime", "seconds", "the lifetime", "How long its node is enabled."),
    key(SCHEDULE, "tags", "list of texts", "[]", "Tags of its node."),
    key(RESOURCE, "limit", "int", "required", "How many slots each node of the level has."),
    key(RESOURCE, "default", "int", "required", "How many a task takes if its job does not say."),
    key(RESOURCE, "weight", "int", "0", "How much a slot counts when workers are compared."),
    key(KILL, "method", "term, kill or term_wait_kill", "term", "Which signals are sent."),
    key(KILL, "kill_wait_ms", "milliseconds", "0", "Between TERM and KILL."),
    key(SUBPROCESS, "poll_ms", "milliseconds", "10", "The time that a quota of lines is for."),
    key(
        SUBPROCESS,
        "max_log_lines_per_poll_interval",
        "int",
        "50",
        "How many lines a task may print in that time before it has to wait. 0 or less is no limit; the default is only a word of the original's, and not enforced.",
    ),
    key(
        SUBPROCESS,
        "user",
        "text",
        "the worker's",
        "The user of the worker's host that the task runs as; the worker must be root. Its directory and its status file become that user's.",
    ),
    key(SUBPROCESS, "umask", "octal text", "the worker's", "Such as \"027\"."),
    key(
        SUBPROCESS,
        "rlimits",
        "object of ints",
        "the worker's",
        "Limits of the kernel in its own units: `as`, `core`, `cpu`, `data`, `fsize`, `memlock`, `nofile`, `nproc`, `stack`. Soft and hard at once.",
    ),
    key(SUBPROCESS, "parent_death_signal", "int", "9", NO_EFFECT),
    key(SUBPROCESS, "process_group_leader", "bool", "false", NO_EFFECT),
    key(SUBPROCESS, "use_canary_pipe", "bool", "true", NO_EFFECT),
    key(SUBPROCESS, "cgroups", "object", "none", NO_EFFECT),
    key(CGROUPS, "root", "path", "empty", NO_EFFECT),
    key(CGROUPS, "slice", "path", "empty", NO_EFFECT),
    key(CGROUPS, "subsystems", "list of texts", "[]", NO_EFFECT),
    key(CGROUPS, "kill_without_freezer", "bool", "false", NO_EFFECT),
    key(
        PHYSICAL,
        "logical_resource",
        "resource",
        "required",
        "The resource of the level `worker` whose limit it replaces. One that is named `GPU: ` and the name of a card gets a slot per such card.",
    ),
    key(PHYSICAL, "multiply_logical_by", "number", "1", "Physical units per slot."),
    key(PHYSICAL, "physical_reserve_amount", "number", "0", "Physical units that no task gets."),
    key(
        PHYSICAL,
        "enforcement",
        "none, soft (cpu_core) or hard (ram_mb)",
        "none",
        "Whether the kernel holds tasks to what their slots are, on workers whose cgroups can (see the guide to isolation).",
    ),
    key(JOB, "owner", "text", "required", "Whom to ask."),
    key(JOB, "enabled", "bool", "true", "Whether its tasks may be started."),
    key(
        JOB,
        "level_for_tasks",
        "level",
        "that of the settings",
        "It runs on every node of this level.",
    ),
    key(
        JOB,
        "command",
        "list of texts",
        "the worker's --worker-command",
        "What is run: it gets the node, the path for its status, and a JSON object as three more arguments.",
    ),
    key(
        JOB,
        "plain_command",
        "bool",
        "false",
        "The command gets none of these arguments; it is done if it exits with 0, and in error otherwise, unless it has written a status to the file that `BISTRO_STATUS` names.",
    ),
    key(
        JOB,
        "runner",
        "`process`, `nats` or `noop`",
        "`process`",
        "`nats`: its tasks are done by whoever answers on `subject`. `noop`: nothing is run, and a worker says at once that they are done, which rehearses a config on a real cell.",
    ),
    key(
        JOB,
        "subject",
        "text",
        "none",
        "Where the worker asks for a task to be done, with `runner` `nats`.",
    ),
    key(
        JOB,
        "responder_timeout_sec",
        "seconds",
        "300",
        "Without an answer and without progress for so long, a responder is given up, and the task is in error.",
    ),
    key(JOB, "config", "object", "{}", "Handed to the task as it is."),
    key(JOB, "priority", "number", "1.0", "For the policies that rank jobs."),
    key(
        JOB,
        "resources",
        "object of ints",
        "the defaults",
        "Slots that one task takes, by resource.",
    ),
    key(
        JOB,
        "filters",
        "object of objects",
        "none",
        "By level: on which nodes it runs. At the level `worker`: on workers of which hosts.",
    ),
    key(
        JOB,
        "depends_on",
        "list of jobs",
        "none",
        "On each node it waits until these are done there.",
    ),
    key(
        JOB,
        "backoff",
        "list of seconds, last `repeat` or `fail`",
        "that of the settings",
        "How long a task waits after an error.",
    ),
    key(JOB, "kill_subprocess", "object", "that of the settings", "How a running task is ended."),
    key(JOB, "task_subprocess", "object", "that of the settings", "How a task is run."),
    key(JOB, "host_placement", "host name", "none", "Its tasks run on workers of this host only."),
    key(
        JOB,
        "level_for_host_placement",
        "level",
        "none",
        "Each task runs on workers of the host that is named as the node at this level of its path.",
    ),
    key(
        JOB,
        "run_only_after_all_nodes_are_done_for",
        "list of jobs",
        "none",
        "It starts nothing until every task of these jobs is done, or excluded by their filters.",
    ),
    key(
        JOB,
        "kill_orphan_tasks_after_sec",
        "bool or seconds",
        "that of the settings",
        "As in the settings.",
    ),
    key(
        JOB,
        "errors",
        "object",
        "none",
        "Written by the original's tools: a job that has any cannot run.",
    ),
    key(JOB, "create_time", "int", "none", "For tools that keep jobs; exported, of no effect."),
    key(JOB, "modify_time", "int", "none", "For tools that keep jobs; exported, of no effect."),
    key(JOB, "version_id", "int", "none", "For tools that keep jobs; exported, of no effect."),
    key(FILTER, "whitelist", "list of nodes", "all", "Only these."),
    key(FILTER, "blacklist", "list of nodes", "none", "Not these."),
    key(
        FILTER,
        "whitelist_regex",
        "regular expression",
        "all",
        "Only nodes in whose name it is found.",
    ),
    key(
        FILTER,
        "blacklist_regex",
        "regular expression",
        "none",
        "Not nodes in whose name it is found.",
    ),
    key(FILTER, "tag_whitelist", "list of tags", "all", "Only nodes that have one of these."),
    key(FILTER, "fraction_of_nodes", "number from 0 to 1", "1", "A stable part of them."),
];

/// The reference page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Config file reference\n\n\
         Generated from `common/src/config/reference.rs`; `just docs-update` writes it anew.\n\n\
         The file is JSON; comments and trailing commas are allowed. Unknown keys are reported and \
         ignored. `bistro validate FILE` says what is wrong with a file, and where.\n",
    );
    let mut place = "";
    for key in KEYS {
        if key.place != place {
            place = key.place;
            let title = if place == FILE { place.to_owned() } else { format!("`{place}`") };
            page +=
                &format!("\n## {title}\n\n| key | type | default | meaning |\n|---|---|---|---|\n");
        }
        let Key { name, kind, default, meaning, .. } = key;
        page += &format!("| `{name}` | {kind} | {default} | {meaning} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/config.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, markdown()).expect("docs can be written");
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == markdown(), "docs/reference/config.md is stale; run `just docs-update`");
    }

    #[test]
    fn no_key_is_there_twice() {
        let mut places: Vec<_> = KEYS.iter().map(|key| (key.place, key.name)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), KEYS.len());
    }
}
