//! Which integers of a range match.

use serde_json::{Map, Value};

use super::CronError;

/// Integers within `min..=max` that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub min: i64,
    pub max: i64,
    pub kind: SelectorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorKind {
    /// Sorted, without repeats, not empty.
    Values(Vec<i64>),
    /// `start`, `start + period`, ... up to `end`. Nothing if `start > end`.
    Range { start: i64, end: i64, period: i64 },
}

/// Names that stand for values; lower-case.
pub type Names<'a> = &'a dyn Fn(&str) -> Option<i64>;

impl Selector {
    pub fn all(min: i64, max: i64) -> Self {
        Self { min, max, kind: SelectorKind::Range { start: min, end: max, period: 1 } }
    }

    /// Reads an integer, a name, a list of them, or an object with `start`, `end` and `period`.
    pub fn parse(spec: &Value, min: i64, max: i64, names: Names<'_>) -> Result<Self, CronError> {
        let all = Self::all(min, max);
        let kind = match spec {
            Value::Array(items) if items.is_empty() => return Ok(all),
            Value::Array(items) => {
                let values = items.iter().map(|item| value(item, min, max, names));
                let mut values = values.collect::<Result<Vec<_>, _>>()?;
                values.sort_unstable();
                values.dedup();
                SelectorKind::Values(values)
            }
            Value::Object(object) => range(object, min, max, names)?,
            single => SelectorKind::Values(vec![value(single, min, max, names)?]),
        };
        Ok(Self { min, max, kind })
    }

    /// The first match at or after `at`; with `true` if there is none and it is the first of all.
    /// `None` if nothing matches at all.
    pub fn find(&self, at: i64) -> Option<(i64, bool)> {
        match &self.kind {
            SelectorKind::Values(values) => {
                let found = values.iter().find(|&&value| value >= at);
                found.map(|&value| (value, false)).or(Some((*values.first()?, true)))
            }
            &SelectorKind::Range { start, end, period } => {
                let next = match at <= start {
                    true => start,
                    false => {
                        let steps = (i128::from(at) - i128::from(start) + i128::from(period) - 1)
                            / i128::from(period);
                        let next = i128::from(start) + steps * i128::from(period);
                        i64::try_from(next).unwrap_or(i64::MAX)
                    }
                };
                // Not beyond the end, nor, where the sum does not fit, at it.
                let there = next <= end && next >= at;
                if there { Some((next, false)) } else { (start <= end).then_some((start, true)) }
            }
        }
    }
}

fn range(
    object: &Map<String, Value>,
    min: i64,
    max: i64,
    names: Names<'_>,
) -> Result<SelectorKind, CronError> {
    let (mut start, mut end, mut period) = (min, max, 1);
    for (key, spec) in object {
        match key.as_str() {
            "start" => start = value(spec, min, max, names)?,
            "end" => end = value(spec, min, max, names)?,
            "period" => period = read_period(spec, max.saturating_sub(min))?,
            unknown => return Err(CronError::new(format!("unknown key {unknown:?}"))),
        }
    }
    Ok(SelectorKind::Range { start, end, period })
}

fn read_period(spec: &Value, limit: i64) -> Result<i64, CronError> {
    let period = match spec {
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Number(number) => number.as_i64().or_else(|| Some(number.as_f64()? as i64)),
        _ => None,
    };
    match period {
        Some(period) if (1..limit).contains(&period) => Ok(period),
        _ => {
            Err(CronError::new(format!("the period must be from 1 to {}, found {spec}", limit - 1)))
        }
    }
}

fn value(spec: &Value, min: i64, max: i64, names: Names<'_>) -> Result<i64, CronError> {
    let value = match spec {
        Value::Number(number) => number.as_i64(),
        Value::String(name) => names(&name.to_lowercase()),
        _ => None,
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(value) => {
            Err(CronError::new(format!("the value {value} is not between {min} and {max}")))
        }
        None => Err(CronError::new(format!("{spec} is not a value here"))),
    }
}
