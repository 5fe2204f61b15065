//! Is an answer what was expected? What is not named in the expectation does not matter.

use serde_json::Value;

pub fn matches(expect: &Value, answer: &Value, unordered: bool) -> bool {
    match (expect, answer) {
        (Value::Object(expect), answer) => expect.iter().all(|(key, wanted)| match key.as_str() {
            "ok" if wanted == true => true,
            "exception_regex" => is_found(wanted, &answer["data"]["exception"]),
            "abs_diff_from_expected_below" => {
                number(&answer["abs_diff_from_expected"]) < number(wanted)
            }
            key => match key.rsplit_once("_total_") {
                Some((job, "near")) => {
                    let off = number(&answer["totals"][job]) - number(&wanted[0]);
                    off.abs() <= number(&wanted[1])
                }
                Some((job, "above")) => number(&answer["totals"][job]) > number(wanted),
                _ => matches(wanted, &answer[key], unordered),
            },
        }),
        (Value::Array(expect), Value::Array(answer)) => {
            expect.len() == answer.len()
                && match unordered {
                    true => is_permutation(expect, answer),
                    false => expect.iter().zip(answer).all(|(e, a)| matches(e, a, false)),
                }
        }
        (Value::String(any), Value::String(_)) if any == "*" => true,
        (Value::Number(expect), Value::Number(answer)) => expect.as_f64() == answer.as_f64(),
        (expect, answer) => expect == answer,
    }
}

fn is_permutation(expect: &[Value], answer: &[Value]) -> bool {
    let mut left: Vec<&Value> = answer.iter().collect();
    expect.iter().all(|wanted| {
        let found = left.iter().position(|got| matches(wanted, got, true));
        found.map(|at| left.swap_remove(at)).is_some()
    })
}

/// Not a number compares as false with everything.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn is_found(pattern: &Value, text: &Value) -> bool {
    let regex = pattern.as_str().and_then(|pattern| regex::Regex::new(pattern).ok());
    regex.is_some_and(|regex| regex.is_match(text.as_str().unwrap_or_default()))
}
