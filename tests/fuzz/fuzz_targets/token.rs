//! See `waylay_fuzz::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waylay_fuzz::token(input));
