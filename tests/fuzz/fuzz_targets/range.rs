//! See `waylay_fuzz::range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| waylay_fuzz::range(input));
