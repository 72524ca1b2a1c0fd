//! What the registry protocol means, as pure code: digests, names, routes, ranges and manifests. No I/O, no clock.

pub mod digest;
pub mod image;
pub mod manifest;
pub mod range;
pub mod repository;
pub mod route;

pub use digest::Digest;
pub use manifest::Manifest;
pub use repository::{Repository, Tag};
pub use route::{Pass, Route, route};
