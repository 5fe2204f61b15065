//! What an item may say.

use serde_json::{Map, Value};

use super::{CronError, Selector};

/// When something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronItem {
    /// Seconds since the epoch; no time zone matters.
    Epoch(Selector),
    /// Minutes of local time.
    Standard(Box<Standard>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standard {
    pub minute: Selector,
    pub hour: Selector,
    pub day: Day,
    pub month: Selector,
    pub year: Selector,
    pub forward_jump: ForwardJump,
    pub rewind: Rewind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Day {
    OfMonth(Selector),
    /// Sunday is 1.
    OfWeek(Selector),
}

/// What happens to local times that a clock skips when it is set forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardJump {
    Skip,
    /// They happen once, in the last second before the jump.
    Unskip,
}

/// What happens to local times that come twice when a clock is set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    Both,
    OnlyEarly,
    OnlyLate,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] =
    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// The full name, or its first three letters.
fn named(names: &[&str], text: &str) -> Option<i64> {
    let found = names.iter().position(|name| *name == text || name[..3] == *text)?;
    Some(found as i64 + 1)
}

fn nameless(_: &str) -> Option<i64> {
    None
}

impl CronItem {
    pub fn parse(item: &Value) -> Result<Self, CronError> {
        let Value::Object(object) = item else {
            return Err(CronError::new("a cron item must be an object"));
        };
        match object.get("epoch") {
            Some(_) if object.len() > 1 => {
                Err(CronError::new("an item with \"epoch\" can have no other key"))
            }
            Some(spec) => Ok(Self::Epoch(Selector::parse(spec, 0, i64::MAX, &nameless)?)),
            None => Ok(Self::Standard(Box::new(standard(object)?))),
        }
    }

    pub fn depends_on_time_zone(&self) -> bool {
        matches!(self, Self::Standard(_))
    }
}

impl Standard {
    pub fn day_of_month(&self) -> Option<&Selector> {
        match &self.day {
            Day::OfMonth(selector) => Some(selector),
            Day::OfWeek(_) => None,
        }
    }

    pub fn day_of_week(&self) -> Option<&Selector> {
        match &self.day {
            Day::OfWeek(selector) => Some(selector),
            Day::OfMonth(_) => None,
        }
    }
}

fn standard(object: &Map<String, Value>) -> Result<Standard, CronError> {
    const KEYS: [&str; 7] =
        ["minute", "hour", "day_of_month", "day_of_week", "month", "year", "dst_fixes"];
    if let Some(unknown) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(CronError::new(format!("unknown key {unknown:?} in a cron item")));
    }
    let field = |key: &str, min, max, names: &dyn Fn(&str) -> Option<i64>| match object.get(key) {
        Some(spec) => Selector::parse(spec, min, max, names)
            .map_err(|error| CronError::new(format!("{key}: {error}"))),
        None => Ok(Selector::all(min, max)),
    };
    if !object.contains_key("minute") {
        return Err(CronError::new("a cron item must have \"minute\""));
    }
    let day = match (object.contains_key("day_of_month"), object.contains_key("day_of_week")) {
        (true, true) => {
            return Err(CronError::new("day_of_month and day_of_week exclude each other"));
        }
        (_, true) => Day::OfWeek(field("day_of_week", 1, 7, &|name| named(&DAYS, name))?),
        (_, false) => Day::OfMonth(field("day_of_month", 1, 31, &nameless)?),
    };
    let (forward_jump, rewind) = dst_fixes(object.get("dst_fixes"))?;
    Ok(Standard {
        minute: field("minute", 0, 59, &nameless)?,
        hour: field("hour", 0, 23, &nameless)?,
        day,
        month: field("month", 1, 12, &|name| named(&MONTHS, name))?,
        year: field("year", 1969, 9999, &nameless)?,
        forward_jump,
        rewind,
    })
}

fn dst_fixes(spec: Option<&Value>) -> Result<(ForwardJump, Rewind), CronError> {
    let Some(Value::Array(fixes)) = spec else {
        return Err(CronError::new("\"dst_fixes\" must be a list of two policies"));
    };
    let (mut forward, mut rewind) = (None, None);
    for fix in fixes {
        let twice = match fix.as_str() {
            Some("skip") => forward.replace(ForwardJump::Skip).is_some(),
            Some("unskip") => forward.replace(ForwardJump::Unskip).is_some(),
            Some("repeat_use_both") => rewind.replace(Rewind::Both).is_some(),
            Some("repeat_use_only_early") => rewind.replace(Rewind::OnlyEarly).is_some(),
            Some("repeat_use_only_late") => rewind.replace(Rewind::OnlyLate).is_some(),
            _ => return Err(CronError::new(format!("unknown entry {fix} in \"dst_fixes\""))),
        };
        if twice {
            return Err(CronError::new(format!("{fix} is a second policy for the same change")));
        }
    }
    match (forward, rewind) {
        (Some(forward), Some(rewind)) => Ok((forward, rewind)),
        _ => Err(CronError::new(
            "\"dst_fixes\" needs one of skip, unskip and one of repeat_use_both, \
             repeat_use_only_early, repeat_use_only_late",
        )),
    }
}
