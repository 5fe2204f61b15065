//! Whatever a file, a wire or a task says, it is an answer or an error, never a panic.
//! `PROPTEST_CASES=1000000` makes a fuzzer of it.

use bistro_common::config::{Source, parse, parse_job, parse_tree};
use bistro_common::cron::CronItem;
use bistro_common::filter::{self, Filter, Key};
use bistro_common::protocol::view::GridJob;
use bistro_common::status::{Backoff, TaskStatus};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Keys that mean something somewhere, so that values get to where they are looked at.
const KEYS: &[&str] = &[
    "bistro_settings",
    "bistro_job->a",
    "enabled",
    "nodes",
    "levels",
    "node_sources",
    "source",
    "prefs",
    "resources",
    "instance",
    "worker",
    "host",
    "limit",
    "default",
    "weight",
    "owner",
    "filters",
    "whitelist_regex",
    "fraction_of_nodes",
    "backoff",
    "kill_subprocess",
    "method",
    "physical_resources",
    "cpu_core",
    "logical_resource",
    "multiply_logical_by",
    "errors",
    "epoch",
    "minute",
    "hour",
    "day_of_month",
    "month",
    "year",
    "dst_fixes",
    "start",
    "end",
    "period",
    "result",
    "result_bits",
    "data",
    "schedule",
    "cron",
    "lifetime",
    "parent_level",
];

const WORDS: &[&str] = &[
    "manual",
    "range_label",
    "script",
    "add_time",
    "file",
    "http",
    "host",
    "instance",
    "repeat",
    "fail",
    "done",
    "jan",
    "mon",
    "skip",
    "repeat_use_both",
    "1e999",
    "{",
    "(",
    "\u{0}",
    "ü",
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..70).prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        prop::sample::select(WORDS).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS), inner), 0..6).prop_map(|entries| {
                let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
                Value::Object(entries.collect::<Map<_, _>>())
            }),
        ]
    })
}

fn read(text: &str) {
    let parsed = parse(text);
    let source = Source { file: "f", text };
    for problem in &parsed.problems {
        source.report(problem);
        source.excerpt(problem);
    }
    for config in parsed.config.iter() {
        for job in &config.jobs {
            job.export(&config.settings);
        }
    }
}

proptest! {
    #[test]
    fn a_config_of_any_text(text in "\\PC{0,200}") {
        read(&text);
        let _ = parse_tree(&text);
    }

    #[test]
    fn a_config_of_any_json(settings in json_value(), job in json_value()) {
        let mut sound = json!({
            "enabled": true,
            "nodes": {"levels": ["host"], "node_sources": [settings.clone()]},
            "resources": {"host": {"r": {"limit": 1, "default": 1}}},
        });
        read(&json!({"bistro_settings": settings, "bistro_job->a": job}).to_string());
        read(&json!({"bistro_settings": sound, "bistro_job->a": job}).to_string());
        for (key, value) in settings.as_object().into_iter().flatten() {
            sound[key] = value.clone();
        }
        let text = json!({"bistro_settings": sound, "bistro_job->a": job}).to_string();
        if let Some(config) = parse(&text).config {
            let _ = parse_job("b", &job, &config.settings);
        }
    }

    #[test]
    fn a_cron_item_of_any_json(item in json_value(), time in any::<i64>()) {
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap_or(jiff::tz::TimeZone::UTC);
        if let Ok(item) = CronItem::parse(&item) {
            let _ = item.first_match(time, &zone);
        }
    }

    #[test]
    fn a_status_of_any_line(line in "\\PC{0,100}", value in json_value()) {
        for line in [line, value.to_string()] {
            let status = TaskStatus::of_attempt(Some(&line), false);
            prop_assert!(!status.label().is_empty());
        }
        let _ = Backoff::from_json(&value);
    }

    #[test]
    fn any_filter_and_any_cells_are_an_answer_or_an_error(
        text in "(!?(job|node|age|failed)?[=~<>/]?[a-z0-9\\\\\",/ ().*|-]{0,12} ?){0,6}",
        cells in "=?[0-9+>.x~A-Za-z/]{0,40}",
    ) {
        let keys = [Key::text("job"), Key::text("node"), Key::duration("age"), Key::number("failed")];
        if let Ok(filter) = Filter::parse(&text, &keys) {
            filter.named(&["job", "node"]);
            for term in &filter.terms {
                term.holds_for(&text);
                term.holds_for_number(Some(1.0));
            }
        }
        let _ = filter::with(&text, "job", Some("x"));
        let job = GridJob { job: String::new(), level: String::new(), cells };
        let unpacked = job.unpack(1_000);
        prop_assert!(unpacked.is_err() || unpacked.is_ok_and(|states| states.len() <= 1_000));
    }
}
