//! waylay: every image pull on a node made fast without telling the container runtime.
//!
//! Modules stand in the order in which a connection walks through them; a module uses only what stands
//! below it (`cargo xtask tidy` checks that).

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
// -- way in
pub mod accept;
pub mod http;
pub mod intercept;
pub mod tls;
// -- decision
pub mod pull;
// -- content
pub mod content;
pub mod dial;
pub mod store;
pub mod swarm;
pub mod upstream;
// -- ground
pub mod fault;
pub mod lifecycle;
pub mod metrics;
pub mod oci;
pub mod telemetry;
