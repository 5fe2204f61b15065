//! A job as it is in effect: what it says itself and what it inherits, under the config file's
//! keys. Who wants to save a job again takes what was given, not this: it would freeze what is
//! inherited.

use serde_json::{Map, Value, json};

use super::model::{Job, Placement, Settings};
use crate::protocol::task::KillMethod;

fn seconds(ms: u64) -> Value {
    match ms % 1_000 {
        0 => json!(ms / 1_000),
        _ => json!(ms as f64 / 1_000.0),
    }
}

impl Job {
    pub fn export(&self, settings: &Settings) -> Map<String, Value> {
        let level = |level: usize| json!(settings.levels[level]);
        let method = match self.spec.kill.method {
            KillMethod::Term => "term",
            KillMethod::Kill => "kill",
            KillMethod::TermWaitKill => "term_wait_kill",
        };
        let mut job = Map::new();
        let mut put = |key: &str, value: Value| {
            job.insert(key.to_owned(), value);
        };
        put("enabled", json!(self.enabled));
        put("owner", json!(self.owner));
        put("level_for_tasks", level(self.level));
        put("priority", json!(self.priority));
        put("config", Value::Object(self.spec.config.clone()));
        put("backoff", self.backoff.to_json());
        let orphans = self.kill_orphans_after_ms.map_or(json!(false), seconds);
        put("kill_orphan_tasks_after_sec", orphans);
        put("task_subprocess", json!(*self.subprocess));
        put("kill_subprocess", json!({"method": method, "kill_wait_ms": self.spec.kill.wait_ms}));
        if !settings.resources.is_empty() {
            let amount = |r: &super::Resource| *self.resources.get(&r.name).unwrap_or(&r.default);
            let resources = settings.resources.iter().map(|r| (r.name.clone(), json!(amount(r))));
            put("resources", Value::Object(resources.collect()));
        }
        let filters = self.filters.iter().map(|(&of, filter)| (of, filter));
        let of_workers = self.worker_filter.iter().map(|filter| (settings.worker_level(), filter));
        let filters: Map<_, _> = filters
            .chain(of_workers)
            .map(|(of, filter)| (settings.levels[of].clone(), filter.export()))
            .filter(|(_, filter)| *filter != json!({}))
            .collect();
        if !filters.is_empty() {
            put("filters", Value::Object(filters));
        }
        match &self.placement {
            Placement::Anywhere => {}
            Placement::Host(host) => put("host_placement", json!(host)),
            Placement::HostAtLevel(of) => put("level_for_host_placement", level(*of)),
        }
        for (key, list) in [
            ("depends_on", &self.depends_on),
            ("run_only_after_all_nodes_are_done_for", &self.after_all),
            ("command", &self.spec.command),
        ] {
            let of_runner = key == "command" && (self.spec.responder.is_some() || self.spec.noop);
            if !list.is_empty() && !of_runner {
                put(key, json!(list));
            }
        }
        if let Some(responder) = &self.spec.responder {
            put("runner", json!("nats"));
            put("subject", json!(responder.subject));
            put("responder_timeout_sec", json!(responder.silence_ms as f64 / 1_000.0));
        }
        if self.spec.noop {
            put("runner", json!("noop"));
        }
        if self.spec.plain_command {
            put("plain_command", json!(true));
        }
        for (key, value) in [
            ("create_time", self.create_time),
            ("modify_time", self.modify_time),
            ("version_id", self.version_id),
        ] {
            if let Some(value) = value {
                put(key, json!(value));
            }
        }
        if let Some(errors) = &self.errors_object {
            put("errors", (**errors).clone());
        }
        job
    }
}
