//! `task_subprocess` and `kill_subprocess`: how a task is run and ended. Both are read field by
//! field over what they inherit.

use serde::Serialize;

use super::reader::{ObjectReader, Reader};
use super::settings::SECONDS_MAX;
use crate::protocol::assign::Confinement;
use crate::protocol::task::{Kill, KillMethod};

pub const DEFAULT_KILL: Kill = Kill { method: KillMethod::Term, wait_ms: 0 };

/// The original's options, under their own names, and what a task is put under. Workers act on the
/// line quota and on that; the rest is kept and exported, and a value that asks for something else
/// than what workers do is a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subprocess {
    pub poll_ms: i64,
    pub max_log_lines_per_poll_interval: i64,
    pub parent_death_signal: i64,
    pub process_group_leader: bool,
    pub use_canary_pipe: bool,
    pub cgroups: Cgroups,
    /// Somebody has asked for the quota of lines. The original's default is exported and not
    /// enforced: it would hold every task to 5,000 lines a second, and logs are bounded anyway.
    #[serde(skip)]
    pub limits_lines: bool,
    #[serde(flatten)]
    pub confinement: Confinement,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cgroups {
    pub root: String,
    pub slice: String,
    pub subsystems: Vec<String>,
    pub kill_without_freezer: bool,
}

impl Default for Subprocess {
    fn default() -> Self {
        Self {
            poll_ms: 10,
            max_log_lines_per_poll_interval: 50,
            parent_death_signal: 9,
            process_group_leader: false,
            use_canary_pipe: true,
            cgroups: Cgroups::default(),
            limits_lines: false,
            confinement: Confinement::default(),
        }
    }
}

impl Subprocess {
    /// How many lines a task may print in 10 ms; `None` is no limit.
    pub fn log_lines_per_10_ms(&self) -> Option<u32> {
        let quota = self.max_log_lines_per_poll_interval;
        if !self.limits_lines || quota <= 0 {
            return None;
        }
        let per_10_ms = quota.saturating_mul(10) / self.poll_ms.max(1);
        Some(per_10_ms.clamp(1, i64::from(u32::MAX)) as u32)
    }
}

const ALWAYS_A_GROUP: &str = "every task has a process group of its own, and dies with its worker";
const NO_CANARY: &str = "every task has a canary pipe";
const NO_CGROUP_V1: &str = "hierarchies of cgroup v1 are not used";

pub fn read_subprocess(reader: &Reader<'_>, base: &Subprocess) -> Subprocess {
    let Some(object) = reader.object() else {
        return base.clone();
    };
    object.obsolete("parent_death_signal", ALWAYS_A_GROUP);
    object.obsolete("process_group_leader", ALWAYS_A_GROUP);
    object.obsolete("use_canary_pipe", NO_CANARY);
    object.obsolete("cgroups", NO_CGROUP_V1);
    let int = |key, base| object.get(key).and_then(|r| r.int()).unwrap_or(base);
    let quota = object.get("max_log_lines_per_poll_interval").and_then(|r| r.int());
    let subprocess = Subprocess {
        limits_lines: quota.is_some() || base.limits_lines,
        poll_ms: int("poll_ms", base.poll_ms).max(1),
        max_log_lines_per_poll_interval: quota.unwrap_or(base.max_log_lines_per_poll_interval),
        parent_death_signal: int("parent_death_signal", base.parent_death_signal),
        process_group_leader: flag(&object, "process_group_leader", base.process_group_leader),
        use_canary_pipe: flag(&object, "use_canary_pipe", base.use_canary_pipe),
        cgroups: match object.get("cgroups") {
            Some(cgroups) => read_cgroups(&cgroups, &base.cgroups),
            None => base.cgroups.clone(),
        },
        confinement: read_confinement(&object, &base.confinement),
    };
    object.finish();
    subprocess
}

/// `user`, `umask` and `rlimits`, which the original does not have.
fn read_confinement(object: &ObjectReader<'_>, base: &Confinement) -> Confinement {
    let mut confinement = base.clone();
    if let Some(reader) = object.get("user")
        && let Some(user) = reader.string()
    {
        match user.is_empty() || user.contains(char::is_whitespace) {
            true => reader.error("expected the name of a user", None),
            false => confinement.user = Some(user),
        }
    }
    if let Some(reader) = object.get("umask")
        && let Some(text) = reader.string()
    {
        match u32::from_str_radix(&text, 8) {
            Ok(umask) if umask <= 0o777 => confinement.umask = Some(text),
            _ => reader.error("expected an octal number in quotes, such as \"027\"", None),
        }
    }
    if let Some(limits) = object.get("rlimits").as_ref().and_then(Reader::object) {
        for (name, reader) in limits.entries() {
            let known = Confinement::RLIMITS;
            if !known.contains(&name) {
                let text = format!("unknown limit {name:?}; known are {}", known.join(", "));
                reader.error_key(text, super::reader::did_you_mean(name, &known));
                continue;
            }
            match reader.int().map(u64::try_from) {
                Some(Ok(limit)) => drop(confinement.rlimits.insert(name.to_owned(), limit)),
                Some(Err(_)) => reader.error("a limit is not negative", None),
                None => {}
            }
        }
    }
    confinement
}

fn flag(object: &ObjectReader<'_>, key: &'static str, base: bool) -> bool {
    object.get(key).and_then(|r| r.bool()).unwrap_or(base)
}

fn read_cgroups(reader: &Reader<'_>, base: &Cgroups) -> Cgroups {
    let Some(object) = reader.object() else {
        return base.clone();
    };
    let text = |key, base: &String| {
        object.get(key).and_then(|r| r.string()).unwrap_or_else(|| base.clone())
    };
    let cgroups = Cgroups {
        root: text("root", &base.root),
        slice: text("slice", &base.slice),
        subsystems: object
            .get("subsystems")
            .and_then(|r| r.strings())
            .unwrap_or_else(|| base.subsystems.clone()),
        kill_without_freezer: flag(&object, "kill_without_freezer", base.kill_without_freezer),
    };
    object.finish();
    cgroups
}

pub fn read_kill(reader: &Reader<'_>, base: Kill) -> Kill {
    let Some(object) = reader.object() else {
        return base;
    };
    let method = object.get("method").and_then(|r| {
        r.word(&[
            ("term", KillMethod::Term),
            ("kill", KillMethod::Kill),
            ("term_wait_kill", KillMethod::TermWaitKill),
        ])
    });
    let wait_ms = object.get("kill_wait_ms").and_then(|r| {
        let wait_ms = r.int()?;
        match u64::try_from(wait_ms) {
            Ok(wait_ms) if wait_ms as f64 <= SECONDS_MAX * 1_000.0 => Some(wait_ms),
            _ => {
                r.error("the wait must be between 0 and ten years", None);
                None
            }
        }
    });
    object.finish();
    Kill { method: method.unwrap_or(base.method), wait_ms: wait_ms.unwrap_or(base.wait_ms) }
}

/// `kill_orphan_tasks_after_sec`: true is at once, false or less than 0 is never. Seconds become
/// milliseconds; `None` inside is "never", outside "cannot be read".
pub fn read_orphan_delay(reader: &Reader<'_>) -> Option<Option<u64>> {
    match reader.json() {
        serde_json::Value::Bool(at_once) => Some(at_once.then_some(0)),
        serde_json::Value::Number(number) => {
            let seconds = number.as_f64().unwrap_or(f64::MAX);
            if seconds > SECONDS_MAX {
                reader.error("the wait must be at most ten years", None);
                return None;
            }
            Some((seconds >= 0.0).then_some((seconds * 1_000.0) as u64))
        }
        _ => {
            reader.error("Must be a number or a boolean", None);
            None
        }
    }
}
