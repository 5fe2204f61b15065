//! Cron items and selectors.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use bistro_common::cron::{CronItem, Selector, SelectorKind};

use super::{Answer, field};

/// The zone of all cases that name none.
pub fn zone(given: &Value) -> Result<TimeZone, String> {
    let name = given["tz"].as_str().unwrap_or("PST8PDT,M3.2.0,M11.1.0");
    TimeZone::posix(name).or_else(|_| TimeZone::get(name)).map_err(|error| error.to_string())
}

fn selector(given: &Value) -> Result<Selector, String> {
    let names: BTreeMap<String, i64> = field(given, "names").unwrap_or_default();
    let (min, max) = (field(given, "min")?, field(given, "max")?);
    Selector::parse(&given["spec"], min, max, &|name| names.get(name).copied())
        .map_err(|error| error.to_string())
}

pub fn selector_parse(given: &Value) -> Answer {
    Ok(match selector(given)?.kind {
        SelectorKind::Values(values) => json!({"ok": true, "kind": "values", "values": values}),
        SelectorKind::Range { start, end, period } => {
            json!({"ok": true, "kind": "range", "start": start, "end": end, "period": period})
        }
    })
}

pub fn selector_match(given: &Value) -> Answer {
    let selector = selector(given)?;
    let inputs: Vec<i64> = field(given, "inputs")?;
    let results: Vec<_> = inputs.into_iter().map(|at| selector.find(at)).collect();
    Ok(json!({"results": results}))
}

fn item(given: &Value) -> Result<CronItem, String> {
    CronItem::parse(&given["item"]).map_err(|error| error.to_string())
}

pub fn parse(given: &Value) -> Answer {
    let CronItem::Standard(item) = item(given)? else {
        return Ok(json!({"ok": true}));
    };
    // The case asks for one field, the one that it names values of.
    let fields = [
        ("minute", Some(&item.minute)),
        ("hour", Some(&item.hour)),
        ("month", Some(&item.month)),
        ("year", Some(&item.year)),
        ("day_of_month", item.day_of_month()),
        ("day_of_week", item.day_of_week()),
    ];
    let named = fields.into_iter().find_map(|(name, selector)| match &selector?.kind {
        SelectorKind::Values(values) => Some((name, values.clone())),
        SelectorKind::Range { .. } => None,
    });
    Ok(match named {
        Some((field, values)) => json!({"ok": true, "field": field, "values": values}),
        None => json!({"ok": true}),
    })
}

pub fn first_match(given: &Value) -> Answer {
    let (item, zone) = (item(given)?, zone(given)?);
    let inputs: Vec<i64> = field(given, "inputs")?;
    let results = inputs.into_iter().map(|at| item.first_match(at, &zone));
    let results: Result<Vec<_>, _> = results.collect();
    Ok(json!({"results": results.map_err(|error| error.to_string())?}))
}

pub fn timezone_dependent(given: &Value) -> Answer {
    Ok(json!({"value": item(given)?.depends_on_time_zone()}))
}
