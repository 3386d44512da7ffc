//! HTTP, both ways: what serves ours, and what fetches others'.

pub mod client;
pub mod door;
pub mod gate;
pub mod serve;
pub mod stall;
#[cfg(test)]
mod testing;
pub mod web;
pub mod whole;
