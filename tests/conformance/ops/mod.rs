//! The ops, each by the project's own code.

mod config;
mod core;
mod cron;
mod http;
mod nodes;
mod schedule;
mod status;
mod worker;

use serde_json::{Value, json};

use bistro_common::protocol::log::LineId;

/// What came out: an answer, or a refusal.
pub type Answer = Result<Value, String>;

/// `None`: there is no such op (yet).
pub fn run(op: &str, given: &Value) -> Option<Answer> {
    Some(match op {
        "cron_selector_parse" => cron::selector_parse(given),
        "cron_selector_match" => cron::selector_match(given),
        "cron_parse" => cron::parse(given),
        "cron_first_match" => cron::first_match(given),
        "cron_timezone_dependent" => cron::timezone_dependent(given),
        "nodes_add_time" => nodes::add_time(given),
        "nodes_fetch" => nodes::fetch(given),
        "backoff_parse" => status::backoff_parse(given),
        "backoff_next" => status::backoff_next(given),
        "backoff_default" => status::backoff_default(),
        "status_parse" => status::parse(given),
        "filter_export" => config::filter_export(given),
        "required_host" => config::required_host(given),
        "worker_filter" => config::worker_filter(given),
        "physical_to_logical" => config::physical_to_logical(given),
        "worker_capacity" => config::worker_capacity(given),
        "status_sequence" => core::status_sequence(given),
        "apply_after_running" => core::apply_after_running(given),
        "is_in_backoff" => core::is_in_backoff(given),
        "should_run_on" => core::should_run_on(given),
        "level_for_tasks" => core::level_for_tasks(given),
        "is_orphan" => core::is_orphan(given),
        "kill_orphans_timeline" => core::kill_orphans_timeline(given),
        "select_worker" => core::select_worker(given),
        "task_resources_json" => core::task_resources_json(given),
        "accounting" => core::accounting(given),
        "argv" => worker::argv(given),
        "task_json_keys" => worker::task_json_keys(given),
        "unknown_log_type" => worker::unknown_log_type(given),
        "page" => worker::page(given),
        "page_regex" => worker::page_regex(given),
        "page_multi" => http::page_multi(given),
        "parse_cpu_set" => worker::parse_cpu_set(given),
        "http_nodes" => http::nodes(given),
        "http_dispatch" => http::dispatch(given),
        "histogram" => http::histogram(given),
        "encode_bits" => http::encode_bits(given),
        "filter" => config::filter(given),
        "filter_fraction_stat" => config::fraction_stat(given),
        "config_parse" => config::parse(given),
        "config_file" => config::file(given),
        "job_parse" => config::job(given),
        "policy" => schedule::policy(given),
        "policy_stat" => schedule::policy_stat(given),
        "schedule" => schedule::schedule(given),
        "line_id" => line_id(given),
        "line_id_from_time" => line_id_from_time(given),
        "time_from_line_id" => time_from_line_id(given),
        _ => return None,
    })
}

/// A field as a type; a case without it is a broken case.
fn field<T: serde::de::DeserializeOwned>(given: &Value, name: &str) -> Result<T, String> {
    serde_json::from_value(given[name].clone()).map_err(|error| format!("{name}: {error}"))
}

fn line_id(given: &Value) -> Answer {
    let (time, counter): (u64, u64) = (field(given, "time")?, field(given, "counter")?);
    Ok(json!({"line_id": (LineId::at(time * 1_000).0 + counter).to_string()}))
}

fn line_id_from_time(given: &Value) -> Answer {
    let time: u64 = field(given, "time")?;
    let id = match field(given, "ascending")? {
        true => LineId::at(time * 1_000),
        // The last one that a line of this time can have.
        false => LineId(LineId::at((time + 1) * 1_000).0 - 1),
    };
    Ok(json!({"line_id": id.0.to_string()}))
}

fn time_from_line_id(given: &Value) -> Answer {
    let id: String = field(given, "line_id")?;
    let id = LineId::try_from(id).map_err(|error| error.to_string())?;
    Ok(json!({"time": id.seconds()}))
}
