//! The harness: fleets of nodes on one machine, a real registry, real container runtimes and real images.
//!
//! A scenario reads like a sentence: start a fleet, start the daemon and a runtime on a node, pull, and then ask the
//! three witnesses (what the client got, what the counters say, what the access line says). Everything a scenario starts
//! is a guard: dropping it ends its processes by their ids and removes its namespaces, cgroups and files.
//!
//! What needs root says so through [`privilege::needed`], which skips loudly on a laptop and fails in CI.

pub mod bench;
pub mod demo;
pub mod fleet;
#[cfg(test)]
mod fuzz;
pub mod golden;
pub mod image;
pub mod machine;
pub mod privilege;
pub mod saw;
pub mod scripted;
pub mod wait;
