//! How a task's record lies in the store. There are millions of them and all are read at a start, so
//! what most of them have is written as numbers, and only the rest as JSON.
//!
//! The task's name is the row's key, and not in the row.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use bistro_common::ids::AttemptId;
use bistro_common::protocol::task::Usage;
use bistro_common::status::TaskStatus;
use bistro_common::varint::{put, take};

use crate::tasks::{Phase, TaskRecord};

/// What follows the numbers.
#[derive(Default, Serialize, Deserialize)]
struct Rest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<Map<String, Value>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<Box<AttemptId>>,
}

/// Which of the fields that a record may lack are there.
const STATUS: u8 = 1;
const USAGE: u8 = 1 << 1;
const MEMORY: u8 = 1 << 2;
const REST: u8 = 1 << 3;

/// By their numbers in a row, which are theirs for good.
const PHASES: [Phase; 6] =
    [Phase::Ready, Phase::Running, Phase::Unsure, Phase::Backoff, Phase::Done, Phase::Failed];

pub fn encode(record: &TaskRecord, out: &mut Vec<u8>) {
    let TaskRecord { attempt_no, phase, status, status_ms, ran_ms, usage, backoff_seconds, lost } =
        record;
    let data = status.as_ref().and_then(|status| status.data.clone());
    let rest = (data.is_some() || lost.is_some()).then(|| Rest { data, lost: lost.clone() });
    let memory = usage.and_then(|usage| usage.memory_peak_kb);
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    let at = PHASES.iter().position(|known| known == phase);
    out.push(at.expect("every phase has a number") as u8);
    out.push(
        flag(status.is_some(), STATUS)
            | flag(usage.is_some(), USAGE)
            | flag(memory.is_some(), MEMORY)
            | flag(rest.is_some(), REST),
    );
    let numbers = [
        Some(u64::from(*attempt_no)),
        Some(*status_ms),
        Some(*ran_ms),
        Some(*backoff_seconds),
        status.as_ref().map(|status| u64::from(status.result_bits)),
        usage.map(|usage| usage.cpu_ms),
        memory,
    ];
    numbers.into_iter().flatten().for_each(|number| put(out, number));
    if let Some(rest) = rest {
        serde_json::to_writer(out, &rest).expect("a vector takes every write");
    }
}

/// What a row begins with.
pub fn phase(row: &[u8]) -> Option<Phase> {
    PHASES.get(usize::from(*row.first()?)).copied()
}

/// The phase of what can be decoded, at less than what that takes; `None`: this is no row.
pub fn check(row: &[u8]) -> Option<Phase> {
    let &[_, flags, ..] = row else { return None };
    if flags & REST != 0 {
        return decode(row).map(|record| record.phase);
    }
    let mut bytes = &row[2..];
    u32::try_from(take(&mut bytes)?).ok()?;
    for _ in 0..3 {
        take(&mut bytes)?;
    }
    if flags & STATUS != 0 {
        u32::try_from(take(&mut bytes)?).ok()?;
    }
    for _ in [USAGE, MEMORY].into_iter().filter(|flag| flags & flag != 0) {
        take(&mut bytes)?;
    }
    phase(row).filter(|_| bytes.is_empty())
}

/// `None`: this is no row.
pub fn decode(mut bytes: &[u8]) -> Option<TaskRecord> {
    let &[_, flags, ..] = bytes else { return None };
    let phase = phase(bytes)?;
    bytes = &bytes[2..];
    let mut next = || take(&mut bytes);
    let attempt_no = u32::try_from(next()?).ok()?;
    let (status_ms, ran_ms, backoff_seconds) = (next()?, next()?, next()?);
    let result_bits = match flags & STATUS {
        0 => None,
        _ => Some(u32::try_from(next()?).ok()?),
    };
    let cpu_ms = if flags & USAGE == 0 { None } else { Some(next()?) };
    let memory_peak_kb = if flags & MEMORY == 0 { None } else { Some(next()?) };
    let Rest { data, lost } = match flags & REST {
        0 => Rest::default(),
        _ => serde_json::from_slice(std::mem::take(&mut bytes)).ok()?,
    };
    bytes.is_empty().then(|| TaskRecord {
        attempt_no,
        phase,
        status: result_bits.map(|result_bits| TaskStatus { result_bits, data }),
        status_ms,
        ran_ms,
        usage: cpu_ms.map(|cpu_ms| Usage { cpu_ms, memory_peak_kb }),
        backoff_seconds,
        lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn records() -> impl Strategy<Value = TaskRecord> {
        let status = (any::<u32>(), prop::option::of("[ -~é]{0,9}")).prop_map(|(bits, why)| {
            why.map_or(TaskStatus::new(bits), |why| TaskStatus::with_exception(bits, why))
        });
        let usage = (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(cpu_ms, memory_peak_kb)| Usage { cpu_ms, memory_peak_kb });
        let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>());
        let (status, usage) = (prop::option::of(status), prop::option::of(usage));
        (numbers, 0..PHASES.len(), status, usage, any::<bool>()).prop_map(
            |((attempt_no, status_ms, ran_ms, backoff_seconds), phase, status, usage, lost)| {
                let lost = lost.then(|| Box::new(AttemptId::generate()));
                let phase = PHASES[phase];
                TaskRecord {
                    attempt_no,
                    phase,
                    status,
                    status_ms,
                    ran_ms,
                    usage,
                    backoff_seconds,
                    lost,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(record in records(), cut in 0usize..99) {
            let mut row = Vec::new();
            encode(&record, &mut row);
            prop_assert_eq!(check(&row), Some(record.phase));
            prop_assert_eq!(decode(&row), Some(record));
            // Neither half of it nor more than it is a row.
            let half = cut % row.len();
            prop_assert_eq!(decode(&row[..half]), None);
            row.push(0);
            prop_assert_eq!(decode(&row), None);
        }

        #[test]
        fn any_bytes_are_a_row_or_none(bytes in prop::collection::vec(0u8..140, 0..14)) {
            prop_assert_eq!(check(&bytes), decode(&bytes).map(|record| record.phase));
        }
    }

    #[test]
    fn what_is_finished_is_short() {
        let usage = Some(Usage { cpu_ms: 1_200, memory_peak_kb: Some(90_000) });
        let record = TaskRecord {
            attempt_no: 1,
            phase: Phase::Done,
            status: Some(TaskStatus::new(8)),
            status_ms: 1_700_000_000_000,
            ran_ms: 3_000,
            usage,
            ..TaskRecord::default()
        };
        let mut row = Vec::new();
        encode(&record, &mut row);
        assert!(row.len() < 20 && json!(record).to_string().len() > 100, "{}", row.len());
    }
}
