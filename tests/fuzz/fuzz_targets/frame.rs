//! See `waylay_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waylay_fuzz::frame(input));
