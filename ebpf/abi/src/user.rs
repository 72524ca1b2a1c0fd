//! User space only: permission for aya to copy our types in and out of maps.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait: a promise that every byte pattern is a valid value")]

use crate::{Endpoint, Remembered, Settings, Tuple};

// SAFETY (all): repr(C), integers only, no implicit padding (the sizes are asserted in types.rs), 'static and Copy.
unsafe impl aya::Pod for Endpoint {}
unsafe impl aya::Pod for Remembered {}
unsafe impl aya::Pod for Settings {}
unsafe impl aya::Pod for Tuple {}
