//! See `waylay_fuzz::route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &str)| waylay_fuzz::route(input));
