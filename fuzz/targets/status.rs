//! A status line, whatever a task wrote, is a status.
#![no_main]

use bistro_common::status::TaskStatus;

libfuzzer_sys::fuzz_target!(|line: &str| {
    let status = TaskStatus::parse(line);
    let _ = (status.label(), status.exception());
});
