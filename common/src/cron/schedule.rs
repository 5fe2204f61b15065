//! What `add_time` makes nodes of: the events that are still alive.

use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

use super::{CronError, CronItem};

/// One refresh does not make more events than this.
const EVENTS_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleItem {
    pub cron: CronItem,
    /// How long an event has a node.
    pub lifetime_sec: i64,
    /// How long that node is enabled.
    pub enabled_lifetime_sec: i64,
    pub tags: BTreeSet<String>,
}

/// An event that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub enabled: bool,
    pub tags: BTreeSet<String>,
}

/// The events alive at `now`, by their time. Items that make the same one share it: it has the
/// tags of all, and is enabled only if all say so.
pub fn events(
    schedule: &[ScheduleItem],
    now: i64,
    zone: &TimeZone,
) -> Result<BTreeMap<i64, Event>, CronError> {
    let mut events: BTreeMap<i64, Event> = BTreeMap::new();
    for item in schedule.iter().filter(|item| item.lifetime_sec > 0) {
        let mut at = now.saturating_sub(item.lifetime_sec).saturating_add(1).max(0);
        while let Some(time) = item.cron.first_match(at, zone)?.filter(|&time| time <= now) {
            let enabled = now - time < item.enabled_lifetime_sec;
            let event =
                events.entry(time).or_insert_with(|| Event { enabled, tags: BTreeSet::new() });
            event.enabled &= enabled;
            event.tags.extend(item.tags.iter().cloned());
            if events.len() > EVENTS_MAX {
                return Err(CronError::new(format!("more than {EVENTS_MAX} events are alive")));
            }
            at = time + 1;
        }
    }
    Ok(events)
}

/// When the events alive are, or look, different next; `None`: never again.
pub fn next_change(
    schedule: &[ScheduleItem],
    now: i64,
    zone: &TimeZone,
) -> Result<Option<i64>, CronError> {
    let mut next: Option<i64> = None;
    let mut note = |time: i64| {
        if time > now {
            next = Some(next.map_or(time, |earlier| earlier.min(time)));
        }
    };
    for item in schedule.iter().filter(|item| item.lifetime_sec > 0) {
        if let Some(time) = item.cron.first_match(now.saturating_add(1).max(0), zone)? {
            note(time);
        }
        for &time in events(std::slice::from_ref(item), now, zone)?.keys() {
            note(time.saturating_add(item.lifetime_sec));
            note(time.saturating_add(item.enabled_lifetime_sec));
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(cron: serde_json::Value, lifetime: i64, enabled: i64, tag: &str) -> ScheduleItem {
        ScheduleItem {
            cron: CronItem::parse(&cron).unwrap(),
            lifetime_sec: lifetime,
            enabled_lifetime_sec: enabled,
            tags: BTreeSet::from([tag.to_owned()]),
        }
    }

    fn alive(schedule: &[ScheduleItem], now: i64) -> Vec<(i64, bool)> {
        let events = events(schedule, now, &TimeZone::UTC).unwrap();
        events.into_iter().map(|(time, event)| (time, event.enabled)).collect()
    }

    #[test]
    fn events_live_and_are_enabled_as_long_as_they_should() {
        let schedule = [item(json!({"epoch": {"period": 4}}), 4, 3, "")];
        assert_eq!(alive(&schedule, 7), [(4, false)]);
        assert_eq!(alive(&schedule, 8), [(8, true)]);
        let never = [item(json!({"epoch": {"period": 4}}), -5, 3, "")];
        assert_eq!(alive(&never, 8), []);
    }

    #[test]
    fn the_next_change_is_a_birth_or_a_death_or_the_end_of_being_enabled() {
        let schedule = [item(json!({"epoch": [10, 100]}), 7, 3, "")];
        let next = |now| next_change(&schedule, now, &TimeZone::UTC).unwrap();
        assert_eq!(next(0), Some(10));
        assert_eq!(next(10), Some(13));
        assert_eq!(next(13), Some(17));
        assert_eq!(next(17), Some(100));
        assert_eq!(next(107), None);
    }

    #[test]
    fn items_share_events() {
        let schedule = [
            item(json!({"epoch": {"period": 2, "start": 1}}), 8, 8, "x"),
            item(json!({"epoch": {"period": 3, "start": 2}}), 6, 6, "y"),
        ];
        let events = events(&schedule, 30, &TimeZone::UTC).unwrap();
        let tags = |time| events[&time].tags.iter().cloned().collect::<String>();
        assert_eq!(events.keys().copied().collect::<Vec<_>>(), [23, 25, 26, 27, 29]);
        assert_eq!((tags(23), tags(26), tags(29)), ("x".into(), "y".into(), "xy".into()));
    }
}
