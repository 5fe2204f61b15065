use super::*;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

fn pacific() -> TimeZone {
    TimeZone::posix("PST8PDT,M3.2.0,M11.1.0").unwrap()
}

fn matches(item: Value, inputs: &[i64]) -> Vec<Option<i64>> {
    let item = CronItem::parse(&item).unwrap();
    inputs.iter().map(|&at| item.first_match(at, &pacific()).unwrap()).collect()
}

fn with_fixes(mut item: Value, fixes: [&str; 2]) -> Value {
    item["dst_fixes"] = json!(fixes);
    item
}

#[test]
fn facts_of_the_original_hold() {
    let both = |item| with_fixes(item, ["skip", "repeat_use_both"]);
    let got = matches(json!({"epoch": {"end": 1500, "period": 30}}), &[1471, 1501]);
    assert_eq!(got, [Some(1500), None]);
    let every_7 = both(json!({"minute": {"period": 7}}));
    let got = matches(every_7, &[0, 1, 2941, 3361, 3601, 28_799, 28_801]);
    assert_eq!(got, [0, 420, 3_360, 3_600, 4_020, 28_800, 29_220].map(Some));
    let item = json!({"minute": [37], "hour": 17, "day_of_month": [29], "month": "Feb",
        "year": {"start": 1999, "period": 3}});
    assert_eq!(matches(both(item), &[1_107_214_567]), [Some(1_204_335_420)]);
    let item = both(json!({"minute": {}, "day_of_week": 7}));
    assert_eq!(matches(item, &[1_390_118_400, 1_390_636_800]), [Some(1_390_636_800); 2]);
    let item = json!({"minute": 0, "hour": 0, "day_of_month": 1, "month": 1, "year": [2003, 2005]});
    let got = matches(both(item), &[0, 1_041_408_001, 1_104_566_401]);
    assert_eq!(got, [Some(1_041_408_000), Some(1_104_566_400), None]);
}

#[test]
fn clocks_that_are_set_forward_skip_or_do_not() {
    let skip = |item| with_fixes(item, ["skip", "repeat_use_both"]);
    let unskip = |item| with_fixes(item, ["unskip", "repeat_use_both"]);
    assert_eq!(matches(skip(json!({"minute": 3})), &[1_362_909_540]), [Some(1_362_909_780)]);
    let night = json!({"minute": 30, "hour": 2});
    assert_eq!(matches(skip(night.clone()), &[1_362_909_540]), [Some(1_362_994_200)]);
    // Also from the very last minute, which the original missed; and only once.
    let got = matches(unskip(night), &[1_362_909_540, 1_362_909_541, 1_362_909_599, 1_362_909_600]);
    let once = Some(1_362_909_599);
    assert_eq!(got, [once, once, once, Some(1_362_994_200)]);
}

#[test]
fn clocks_that_are_set_back_repeat_as_is_wanted() {
    let item = |fix| with_fixes(json!({"minute": [3, 7]}), ["skip", fix]);
    let inputs = [1_383_465_510, 1_383_465_600, 1_383_465_781, 1_383_466_021];
    let got = matches(item("repeat_use_only_early"), &inputs);
    assert_eq!(got, [1_383_465_780, 1_383_465_780, 1_383_466_020, 1_383_472_980].map(Some));
    let inputs = [1_383_465_510, 1_383_469_381, 1_383_469_621];
    let got = matches(item("repeat_use_only_late"), &inputs);
    assert_eq!(got, [1_383_469_380, 1_383_469_620, 1_383_472_980].map(Some));
    // Both: every local time of that hour twice, all of the first pass before the second.
    let both = CronItem::parse(&item("repeat_use_both")).unwrap();
    let (mut at, mut found) = (1_383_465_600, Vec::new());
    while found.len() < 5 {
        let next = both.first_match(at, &pacific()).unwrap().unwrap();
        found.push(next);
        at = next + 1;
    }
    let pass = [1_383_465_780, 1_383_466_020];
    assert_eq!(found[..2], pass);
    assert_eq!(found[2..4], pass.map(|at| at + 3_600));
    assert_eq!(found[4], 1_383_472_980);
}

#[test]
fn what_never_matches_is_an_error_and_ends() {
    let item = json!({"minute": 0, "day_of_month": 30, "month": 2,
        "dst_fixes": ["skip", "repeat_use_both"]});
    let item = CronItem::parse(&item).unwrap();
    assert!(item.first_match(0, &pacific()).is_err());
    assert!(item.first_match(i64::MAX, &pacific()).is_err());
}

proptest::proptest! {
    #[test]
    fn a_match_is_its_own_match_and_never_before(at in 0i64..4_000_000_000, minute in 0i64..60,
        hour in 0i64..24) {
        let item = json!({"minute": minute, "hour": hour,
            "dst_fixes": ["skip", "repeat_use_both"]});
        let item = CronItem::parse(&item).unwrap();
        let found = item.first_match(at, &pacific()).unwrap().unwrap();
        proptest::prop_assert!(found >= at);
        proptest::prop_assert_eq!(item.first_match(found, &pacific()).unwrap(), Some(found));
        // A day of at most 25 hours, and one more if that hour was skipped.
        proptest::prop_assert!(found - at <= 49 * 3_600);
    }
}
