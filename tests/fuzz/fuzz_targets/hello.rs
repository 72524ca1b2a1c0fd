//! See `waylay_fuzz::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| waylay_fuzz::hello(input));
