//! What tests need beyond the Rust toolchain: other people's programs, found or installed
//! ([`parts`]), and ours, built and started as users start them ([`programs`]).

pub mod parts;
pub mod programs;
pub mod report;
