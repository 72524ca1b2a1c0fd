//! skeleton

pub mod scripted;
