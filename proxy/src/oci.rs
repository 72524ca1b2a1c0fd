//! What the registry protocol means, as pure code: digests, routes, ranges and manifests. No I/O, no clock.

pub mod digest;
pub mod manifest;
pub mod range;
pub mod route;

pub use digest::Digest;
