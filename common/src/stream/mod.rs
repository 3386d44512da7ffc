//! Streams between the stages: whoever is slow slows the source.

pub mod backoff;
pub mod ipc;
