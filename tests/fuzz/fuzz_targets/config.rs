//! See `waylay_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| waylay_fuzz::config(input));
