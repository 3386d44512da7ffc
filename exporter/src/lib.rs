//! The exporter: sources of cost reports in, snapshots of exact records out.
//!
//! Modules stand in the order in which a report meets them; a module uses only those above it.

pub mod profile;
pub mod decode;
pub mod convert;
pub mod report;
