//! The JSON Schema of the config file, so that editors complete and check it. Made from the same
//! table as the reference page. It takes what `validate` takes without a warning, as far as one
//! key can tell: numbers and booleans may be written as text.

use serde_json::{Map, Value, json};

use super::physical::PhysicalKind;
use super::reference::{self as r, KEYS, Key};

/// The document, for `bistro schema`.
pub fn schema() -> Value {
    let mut file = object(r::FILE);
    file["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    file["title"] = json!("Bistro's config file");
    if let Some(properties) = file["properties"].as_object_mut() {
        properties.shift_remove("bistro_job->NAME");
    }
    file["patternProperties"] = json!({"^bistro_job->": object(r::JOB)});
    file
}

fn keys(place: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.place == place)
}

/// An object with exactly the keys of a place.
fn object(place: &str) -> Value {
    let described = |key: &'static Key| {
        let mut value = value_of(key);
        value["description"] = json!(key.meaning);
        (key.name.to_owned(), value)
    };
    let properties: Map<String, Value> = keys(place).map(described).collect();
    let required: Vec<_> =
        keys(place).filter(|key| key.default == "required").map(|key| key.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn by_name(of: Value) -> Value {
    json!({"type": "object", "additionalProperties": of})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// The value of a key: what is nested is told by its place, all else by its kind.
fn value_of(key: &Key) -> Value {
    let int = || json!({"type": ["integer", "string"]});
    match (key.place, key.name) {
        (r::FILE, "bistro_settings") => object(r::SETTINGS),
        (r::SETTINGS, "nodes") => object(r::NODES),
        (r::NODES, "node_sources") => list(source()),
        (r::SETTINGS, "resources") => by_name(by_name(object(r::RESOURCE))),
        (r::SETTINGS, "worker_resources_override") => by_name(by_name(int())),
        (r::SETTINGS, "physical_resources") => {
            let kinds = PhysicalKind::NAMES.map(|kind| (kind, object(r::PHYSICAL)));
            let kinds = kinds.into_iter().map(|(kind, of)| (kind.to_owned(), of));
            let kinds: Map<String, Value> = kinds.collect();
            json!({"type": "object", "properties": kinds, "additionalProperties": false})
        }
        (r::JOB, "resources") => by_name(int()),
        (r::JOB, "filters") => by_name(object(r::FILTER)),
        (r::ADD_TIME, "schedule") => list(object(r::SCHEDULE)),
        (r::SUBPROCESS, "cgroups") => object(r::CGROUPS),
        (_, "kill_subprocess") => object(r::KILL),
        (_, "task_subprocess") => object(r::SUBPROCESS),
        (_, "backoff") => list(json!({"anyOf": [
            {"type": "integer", "minimum": 1}, {"enum": ["repeat", "fail"]},
        ]})),
        (_, "kill_orphan_tasks_after_sec") => json!({"type": ["boolean", "number"]}),
        _ => of_kind(key.kind),
    }
}

fn of_kind(kind: &str) -> Value {
    match kind {
        "bool" => json!({"type": ["boolean", "string", "integer"]}),
        "int" | "milliseconds" => json!({"type": ["integer", "string"]}),
        "seconds" | "number" | "number from 0 to 1" => json!({"type": ["number", "string"]}),
        kind if kind.starts_with("list of objects") => list(json!({"type": "object"})),
        kind if kind.starts_with("list of") => list(json!({"type": "string"})),
        kind if kind.starts_with("object") => json!({"type": "object"}),
        kind => match words(kind) {
            Some(words) => json!({"enum": words}),
            None => json!({"type": "string"}),
        },
    }
}

/// `a, b (where) or c` as the words that it lists.
fn words(kind: &str) -> Option<Vec<&str>> {
    let (some, last) = kind.rsplit_once(" or ")?;
    let all = some.split(", ").chain([last]);
    Some(all.filter_map(|word| word.split(' ').next()).collect())
}

/// Which keys `prefs` has depends on the source.
fn source() -> Value {
    let manual = by_name(json!({"anyOf": [
        {"type": "string"}, list(json!({"type": "string"})), object(r::MANUAL_OBJECT),
    ]}));
    let of_sources = [
        ("manual", manual),
        ("range_label", object(r::RANGE)),
        ("script", object(r::SCRIPT)),
        ("add_time", object(r::ADD_TIME)),
        ("file", object(r::NODE_FILE)),
        ("http", object(r::NODE_HTTP)),
        ("nats_kv", object(r::NODE_KV)),
    ];
    let rules = of_sources.map(|(source, prefs)| {
        json!({
            "if": {"properties": {"source": {"const": source}}},
            "then": {"properties": {"prefs": prefs}},
        })
    });
    let mut any = object(r::SOURCE);
    any["allOf"] = json!(rules);
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_reference_is_in_it_with_what_it_means() {
        let text = schema().to_string();
        for key in KEYS.iter().filter(|key| key.name != "NODE" && key.name != "bistro_job->NAME") {
            assert!(text.contains(&json!(key.name).to_string()), "{}", key.name);
            assert!(text.contains(&json!(key.meaning).to_string()), "{}: {}", key.place, key.name);
        }
    }

    #[test]
    fn words_are_listed() {
        let kind = "none, soft (cpu_core) or hard (ram_mb)";
        assert_eq!(words(kind), Some(vec!["none", "soft", "hard"]));
        assert_eq!(words("text"), None);
    }
}
