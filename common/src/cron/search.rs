//! The first matching time.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, ToSpan};

use super::item::{CronItem, Day, ForwardJump, Rewind, Standard};
use super::{CronError, Selector};

/// An item that has no match after so many steps is taken to have none, ever.
const STEPS_MAX: u32 = 51;
/// Labels that a change of the clock may make us pass over for one match.
const LABELS_MAX: u32 = 10_000;

impl CronItem {
    /// The first match at or after `at` (seconds since the epoch); `None` if there is none.
    pub fn first_match(&self, at: i64, zone: &TimeZone) -> Result<Option<i64>, CronError> {
        match self {
            Self::Epoch(selector) => {
                Ok(selector.find(at).and_then(|(found, carry)| (!carry).then_some(found)))
            }
            Self::Standard(item) => item.first_match(at, zone),
        }
    }
}

/// The local times that come twice around a moment: from when, and until when they do so.
struct Fold {
    first: DateTime,
    end: DateTime,
}

impl Standard {
    fn first_match(&self, mut at: i64, zone: &TimeZone) -> Result<Option<i64>, CronError> {
        for _ in 0..LABELS_MAX {
            let Some(label) = self.label_from(at, zone)? else {
                return Ok(None);
            };
            match zone.to_ambiguous_timestamp(label).offset() {
                AmbiguousOffset::Unambiguous { offset } => return seconds(label, offset).map(Some),
                AmbiguousOffset::Gap { after, before } => {
                    // Taken with the offset before the jump, a skipped time lies after it.
                    let beyond = timestamp(seconds(label, before)?)?;
                    let jump = jump_before(zone, beyond, after)?;
                    match self.forward_jump {
                        ForwardJump::Unskip if jump > at => return Ok(Some(jump - 1)),
                        _ => at = jump,
                    }
                }
                AmbiguousOffset::Fold { before, after } => {
                    let (early, late) = (seconds(label, before)?, seconds(label, after)?);
                    let (wanted, passed) = match self.rewind {
                        Rewind::Both if at <= early => (Some(early), early),
                        Rewind::OnlyEarly if at <= early => (Some(early), early),
                        Rewind::OnlyLate if at <= early => (None, early),
                        Rewind::Both | Rewind::OnlyLate => (Some(late), late),
                        Rewind::OnlyEarly => (None, late),
                    };
                    match wanted {
                        Some(time) => return Ok(Some(time)),
                        None => at = passed + 1,
                    }
                }
            }
        }
        Err(CronError::new("there is no match in any of the times looked at"))
    }

    /// The first matching local time from a moment on. In the first pass through times that come
    /// twice, it may be one of those, in their second pass.
    fn label_from(&self, at: i64, zone: &TimeZone) -> Result<Option<DateTime>, CronError> {
        let now = timestamp(at)?;
        let offset = zone.to_offset(now);
        let minute = at.checked_add(59).ok_or_else(out_of_range)?.div_euclid(60) * 60;
        let rounded = timestamp(minute)?;
        // Rounding up must not step over times that a jump skips.
        let jumped = zone.to_offset(rounded).seconds() > offset.seconds();
        let from = match jumped {
            true => offset.to_datetime(rounded),
            false => zone.to_datetime(rounded),
        };
        let label = self.label(from)?;
        if let Some(fold) = first_pass(zone, now, offset)
            && label.is_none_or(|label| label < fold.first || label >= fold.end)
        {
            return self.label(fold.first);
        }
        Ok(label)
    }

    /// The first matching local time at or after `from`, whether it exists or not.
    fn label(&self, from: DateTime) -> Result<Option<DateTime>, CronError> {
        let mut fields = [
            i64::from(from.year()),
            i64::from(from.month()),
            i64::from(from.day()),
            i64::from(from.hour()),
            i64::from(from.minute()),
        ];
        let mut at = 0;
        for _ in 0..STEPS_MAX {
            let Some(found) = self.find(at, &fields) else {
                // Back to the field before, one further.
                reset(&mut fields[at..], at);
                if at == 0 {
                    return Ok(None);
                }
                at -= 1;
                fields[at] += 1;
                continue;
            };
            if found > fields[at] {
                fields[at] = found;
                reset(&mut fields[at + 1..], at + 1);
            }
            at += 1;
            if at == fields.len() {
                let [year, month, day, hour, minute] = fields;
                let time = DateTime::new(
                    year as i16,
                    month as i8,
                    day as i8,
                    hour as i8,
                    minute as i8,
                    0,
                    0,
                );
                return time.map(Some).map_err(|_| out_of_range());
            }
        }
        Err(CronError::new(format!("no match in {STEPS_MAX} steps; does it ever match?")))
    }

    /// The first matching value of a field at or after the present one; `None`: a carry.
    fn find(&self, at: usize, fields: &[i64; 5]) -> Option<i64> {
        let without_carry = |selector: &Selector| {
            selector.find(fields[at]).and_then(|(value, carry)| (!carry).then_some(value))
        };
        match at {
            0 => without_carry(&self.year),
            1 => without_carry(&self.month),
            2 => self.find_day(fields),
            3 => without_carry(&self.hour),
            _ => without_carry(&self.minute),
        }
    }

    fn find_day(&self, fields: &[i64; 5]) -> Option<i64> {
        let first = Date::new(fields[0] as i16, fields[1] as i8, 1).ok()?;
        let days = i64::from(first.days_in_month());
        let day = match &self.day {
            Day::OfMonth(selector) => {
                selector.find(fields[2]).and_then(|(day, carry)| (!carry).then_some(day))?
            }
            Day::OfWeek(selector) => {
                let date = first.checked_add((fields[2] - 1).days()).ok()?;
                let today = weekday(date.weekday());
                let (wanted, _) = selector.find(today)?;
                fields[2] + (wanted - today).rem_euclid(7)
            }
        };
        (day <= days).then_some(day)
    }
}

fn weekday(day: Weekday) -> i64 {
    i64::from(day.to_sunday_one_offset())
}

/// Sets fields from `first` on to their least values.
fn reset(fields: &mut [i64], first: usize) {
    const LEAST: [i64; 5] = [1969, 1, 1, 0, 0];
    fields.copy_from_slice(&LEAST[first..first + fields.len()]);
}

fn out_of_range() -> CronError {
    CronError::new("the time is out of range")
}

fn timestamp(seconds: i64) -> Result<Timestamp, CronError> {
    Timestamp::from_second(seconds).map_err(|_| out_of_range())
}

fn seconds(label: DateTime, offset: Offset) -> Result<i64, CronError> {
    offset.to_timestamp(label).map(Timestamp::as_second).map_err(|_| out_of_range())
}

/// The moment at which the clock jumped to `after`, at or before `beyond`.
fn jump_before(zone: &TimeZone, beyond: Timestamp, after: Offset) -> Result<i64, CronError> {
    let just_after = beyond.checked_add(1.second()).map_err(|_| out_of_range())?;
    let found = zone.preceding(just_after).find(|change| change.offset() == after);
    found.map(|change| change.timestamp().as_second()).ok_or_else(out_of_range)
}

/// The times that come twice, if `now` lies in their first pass.
fn first_pass(zone: &TimeZone, now: Timestamp, offset: Offset) -> Option<Fold> {
    let change = zone.following(now).next()?;
    let back = i64::from(offset.seconds()) - i64::from(change.offset().seconds());
    if back <= 0 || change.timestamp().as_second() - now.as_second() > back {
        return None;
    }
    let first = change.offset().to_datetime(change.timestamp());
    Some(Fold { first, end: first.checked_add(back.seconds()).ok()? })
}
