//! A config file, whatever is in it, is read or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = bistro_common::config::parse(text);
});
