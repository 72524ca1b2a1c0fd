//! Frames of peers, and the four bytes of length before them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| waylay::swarm::fuzz_frame(bytes));
