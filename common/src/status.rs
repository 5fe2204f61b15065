//! Task statuses as tasks report them, and the backoff between attempts.
//!
//! The bits and the parsing rules are the original's (reference, sections 5.1 to 5.6), with the
//! combinations that used to abort the scheduler refused instead.

mod backoff;

pub use backoff::{Backoff, BackoffError, NextBackoff};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub mod bits {
    //! The status bits that tasks and clients see.
    pub const UNSTARTED: u32 = 1;
    pub const RUNNING: u32 = 2;
    pub const DONE: u32 = 4;
    pub const INCOMPLETE: u32 = 8;
    pub const FAILED: u32 = 16;
    pub const ERROR: u32 = 32;
    pub const USES_BACKOFF: u32 = 64;
    pub const AVOIDED: u32 = 128;
    pub const DISABLED: u32 = 256;
    pub const DOES_NOT_ADVANCE_BACKOFF: u32 = 512;
    pub const OVERWRITEABLE: u32 = 1024;
    pub const HAS_SAVED_BACKOFF: u32 = 2048;

    pub const ERROR_BACKOFF: u32 = ERROR | USES_BACKOFF;
    pub const INCOMPLETE_BACKOFF: u32 = INCOMPLETE | USES_BACKOFF | DOES_NOT_ADVANCE_BACKOFF;
    /// An attempt whose worker was lost: a real result still replaces it.
    pub const WORKER_LOST: u32 = ERROR | USES_BACKOFF | OVERWRITEABLE | HAS_SAVED_BACKOFF;
}

/// Status bits as the original's HTTP API writes them: six bits to a letter of base64url, the low
/// ones first, and no second letter where the high ones are zero.
pub fn code(bits: u32) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |six: u32| char::from(LETTERS[(six & 0x3f) as usize]);
    let high = bits >> 6;
    let high = (high & 0x3f != 0).then(|| letter(high));
    [Some(letter(bits)), high].into_iter().flatten().collect()
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub result_bits: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<Map<String, Value>>>,
}

impl TaskStatus {
    pub fn new(result_bits: u32) -> Self {
        Self { result_bits, data: None }
    }

    /// A status with `exception` as its data.
    pub fn with_exception(result_bits: u32, exception: impl Into<String>) -> Self {
        let mut data = Map::new();
        data.insert("exception".to_owned(), Value::String(exception.into()));
        Self { result_bits, data: Some(Box::new(data)) }
    }

    pub fn has(&self, bits: u32) -> bool {
        self.result_bits & bits != 0
    }

    /// The exception text, if the status carries one.
    pub fn exception(&self) -> Option<&str> {
        self.data.as_ref()?.get("exception")?.as_str()
    }

    /// The same with no more data than so many bytes of JSON: all of it, or else as much of the
    /// exception as fits, and a word about the rest.
    pub fn in_brief(self, bytes_max: usize) -> Self {
        let bytes = |data: &Map<String, Value>| serde_json::to_string(data).map_or(0, |s| s.len());
        let all = self.data.as_deref().map_or(0, bytes);
        if all <= bytes_max {
            return self;
        }
        let note = format!("... ({all} bytes of data in all)");
        let room = bytes_max.saturating_sub(r#"{"exception":""}"#.len() + note.len());
        let mut used = 0;
        let fits = |char: &char| {
            used += json_bytes(*char);
            used <= room
        };
        let said: String = self.exception().unwrap_or_default().chars().take_while(fits).collect();
        Self::with_exception(self.result_bits, said + &note)
    }

    /// The word for people: `done`, `failed`, `incomplete`, `error_backoff`, ...
    pub fn label(&self) -> &'static str {
        match self.result_bits {
            b if b & bits::DONE != 0 => "done",
            b if b & bits::FAILED != 0 => "failed",
            b if b & bits::OVERWRITEABLE != 0 => "lost",
            b if b & bits::ERROR != 0 => "error_backoff",
            b if b & bits::USES_BACKOFF != 0 => "incomplete_backoff",
            b if b & bits::INCOMPLETE != 0 => "incomplete",
            b if b & bits::RUNNING != 0 => "running",
            _ => "unknown",
        }
    }

    /// The status of an attempt whose last status line was `line`, if it wrote one, and that was
    /// sent a signal by us iff `signalled`.
    pub fn of_attempt(line: Option<&str>, signalled: bool) -> Self {
        match line.map(|line| line.strip_suffix('\n').unwrap_or(line)) {
            Some(line) if !line.trim().is_empty() => Self::parse(line),
            _ if signalled => {
                Self::with_exception(bits::INCOMPLETE_BACKOFF, "Task killed, no status returned")
            }
            _ => Self::with_exception(bits::ERROR_BACKOFF, "Failed to read a status"),
        }
    }

    /// Parses a status line as a task wrote it. What cannot be parsed is an error with backoff.
    pub fn parse(line: &str) -> Self {
        parse_line(line).unwrap_or_else(|reason| {
            Self::with_exception(
                bits::ERROR_BACKOFF,
                format!("Cannot parse status: {line}, {reason}"),
            )
        })
    }
}

/// At most so many, within a string.
fn json_bytes(char: char) -> usize {
    match char {
        '"' | '\\' => 2,
        '\0'..' ' => 6,
        char => char.len_utf8(),
    }
}

fn label_bits(label: &str) -> Option<u32> {
    Some(match label {
        "done" => bits::DONE,
        "failed" => bits::FAILED,
        "incomplete" => bits::INCOMPLETE,
        "incomplete_backoff" => bits::INCOMPLETE_BACKOFF,
        "backoff" | "error_backoff" => bits::ERROR_BACKOFF,
        _ => return None,
    })
}

fn parse_line(line: &str) -> Result<TaskStatus, String> {
    if let Some(result_bits) = label_bits(line) {
        return Ok(TaskStatus::new(result_bits));
    }
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(mut object) = value else {
        return Err("not a JSON object".to_owned());
    };
    let data = match object.remove("data") {
        None => None,
        Some(Value::Object(mut data)) => {
            data.remove("__bistro_saved_backoff");
            (!data.is_empty()).then(|| Box::new(data))
        }
        Some(_) => return Err("\"data\" must be an object".to_owned()),
    };
    let result_bits = match (object.get("result_bits"), object.get("result")) {
        (Some(value), _) => check_reported_bits(value)?,
        (None, Some(Value::String(label))) => {
            label_bits(label).ok_or_else(|| format!("unknown result {label:?}"))?
        }
        _ => return Err("Need a valid \"result\" or \"result_bits\" key".to_owned()),
    };
    Ok(TaskStatus { result_bits, data })
}

fn check_reported_bits(value: &Value) -> Result<u32, String> {
    use bits::*;
    let reported = value
        .as_u64()
        .and_then(|bits| u32::try_from(bits).ok())
        .ok_or_else(|| "\"result_bits\" must be a non-negative integer".to_owned())?;
    if reported & (UNSTARTED | AVOIDED | DISABLED | HAS_SAVED_BACKOFF) != 0 {
        return Err("Don't report Unstarted, Avoided, Disabled, or HasSavedBackoff bits".to_owned());
    }
    let required = reported & (RUNNING | DONE | INCOMPLETE | FAILED | ERROR);
    if required.count_ones() != 1 {
        return Err("Set exactly one required bit (Running, Done, ...)".to_owned());
    }
    let optional = USES_BACKOFF | DOES_NOT_ADVANCE_BACKOFF | OVERWRITEABLE;
    let unknown = reported & !(required | optional);
    if unknown != 0 {
        return Err(format!("Encountered unknown bit(s): {unknown}"));
    }
    // The original let a task say that it is running for ever, and aborted on the last two.
    if required == RUNNING {
        return Err("a task that has ended cannot report that it is running".to_owned());
    }
    let advances = reported & USES_BACKOFF != 0 && reported & DOES_NOT_ADVANCE_BACKOFF == 0;
    if advances && required != ERROR {
        return Err("only an error can advance the backoff".to_owned());
    }
    Ok(reported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_said_to_be() {
        let short = TaskStatus::with_exception(bits::FAILED, "no");
        assert_eq!(short.clone().in_brief(100), short);
        assert_eq!(TaskStatus::new(bits::DONE).in_brief(0), TaskStatus::new(bits::DONE));
        for unit in ["x", "\u{1}", "\"", "\u{1f600}", "\u{7f}"] {
            let long = TaskStatus::with_exception(bits::FAILED, unit.repeat(1_000)).in_brief(100);
            let json = serde_json::to_string(&long.data).unwrap();
            assert!((90..=100).contains(&json.len()), "{json}");
            let said = long.exception().unwrap();
            assert!(said.starts_with(unit) && said.ends_with("bytes of data in all)"), "{said}");
            assert_eq!(long.result_bits, bits::FAILED);
        }
        let data =
            TaskStatus::parse(&format!(r#"{{"result":"failed","data":{{"a":"{:99}"}}}}"#, 1));
        assert_eq!(data.in_brief(100).exception(), Some("... (107 bytes of data in all)"));
    }

    #[test]
    fn labels_are_exact_words() {
        assert_eq!(TaskStatus::parse("done").result_bits, bits::DONE);
        assert_eq!(TaskStatus::parse("backoff").result_bits, 96);
        assert_eq!(TaskStatus::parse("incomplete_backoff").result_bits, 584);
        for garbage in ["Done", " done", "done ", "x", "{", "[]", "7"] {
            let status = TaskStatus::parse(garbage);
            assert_eq!(status.result_bits, bits::ERROR_BACKOFF, "{garbage}");
            let exception = status.exception().expect("has an exception");
            assert!(exception.starts_with("Cannot parse status: "), "{exception}");
        }
    }

    #[test]
    fn json_statuses_carry_data() {
        let status = TaskStatus::parse(r#"{"result": "done", "data": {"rows": 3}, "time": 7}"#);
        assert_eq!(status.result_bits, bits::DONE);
        assert_eq!(status.data.expect("has data")["rows"], 3);
        assert_eq!(TaskStatus::parse(r#"{"result": "done", "data": {}}"#).data, None);
        let bad = [
            r#"{"result":"done","data":1}"#,
            r#"{"result":"running"}"#,
            r#"{"result_bits":2}"#,
            r#"{"result_bits":12}"#,
            r#"{"result_bits":72}"#,
            r#"{"result_bits":132}"#,
            r#"{"result_bits":4100}"#,
            r#"{"data":{}}"#,
        ];
        for line in bad {
            assert_eq!(TaskStatus::parse(line).result_bits, bits::ERROR_BACKOFF, "{line}");
        }
        assert_eq!(TaskStatus::parse(r#"{"result_bits":584}"#).result_bits, 584);
    }

    #[test]
    fn silence_is_an_error_unless_we_signalled() {
        assert_eq!(TaskStatus::of_attempt(None, false).result_bits, bits::ERROR_BACKOFF);
        assert_eq!(TaskStatus::of_attempt(Some("  \n"), false).result_bits, bits::ERROR_BACKOFF);
        assert_eq!(TaskStatus::of_attempt(None, true).result_bits, bits::INCOMPLETE_BACKOFF);
        assert_eq!(TaskStatus::of_attempt(Some("done\n"), true).result_bits, bits::DONE);
    }
}
