//! A cron item, whatever it says, is refused, or finds its next match or that there is none.
#![no_main]

use bistro_common::cron::CronItem;
use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((at, text)) = <(i32, &str)>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let Ok(item) = serde_json::from_str(text) else { return };
    if let Ok(item) = CronItem::parse(&item) {
        let _ = item.first_match(at.into(), &jiff::tz::TimeZone::UTC);
    }
});
