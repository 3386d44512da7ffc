//! HTTP, both ways: what serves ours, and what fetches others'.

pub mod client;
pub mod serve;
pub mod web;
