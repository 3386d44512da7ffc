//! What two crates of the house must agree on: FOCUS columns, exact money, records, the
//! exposition text both ways, http client and server, configuration, secrets and telemetry.
//!
//! Modules stand in the order in which a row meets them; a module uses only those above it.

pub mod report;
pub mod money;
pub mod record;
pub mod exposition;
pub mod focus;
pub mod stream;
pub mod secret;
pub mod config;
pub mod telemetry;
pub mod program;
pub mod http;
