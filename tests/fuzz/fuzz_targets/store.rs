//! See `waylay_fuzz::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8], &[u8], &[u8])| waylay_fuzz::store(input));
