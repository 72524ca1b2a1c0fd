//! waylay: every image pull on a node made fast without telling the container runtime.
//!
//! Modules stand in the order in which a connection walks through them; a module uses only what stands
//! below it (`cargo xtask tidy` checks that).

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play clients and servers"))]

pub mod cli;
pub mod archive;
pub mod explain;
pub mod doctor;
pub mod install;
pub mod rehearsal;
pub mod app;
pub mod config;
pub mod admin;
pub mod standin;
pub mod preheat;
// -- way in
pub mod intercept;
pub mod accept;
pub mod http;
pub mod tls;
// -- decision
pub mod pull;
// -- content
pub mod content;
pub mod swarm;
pub mod store;
pub mod upstream;
pub mod dial;
// -- ground
pub mod oci;
pub mod throttle;
pub mod fault;
pub mod metrics;
pub mod journal;
pub mod telemetry;
pub mod lifecycle;
