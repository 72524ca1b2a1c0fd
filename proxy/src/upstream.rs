//! The registry at the other end.

pub mod connect;

pub use connect::{Connected, Verified, connect};
