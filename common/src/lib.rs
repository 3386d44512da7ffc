//! What two crates of the house must agree on: FOCUS columns, exact money, records, the texts of fields, the
//! exposition text both ways, http client and server, the clouds' buckets, configuration, secrets, telemetry and a
//! program's life.

pub mod cloud;
pub mod config;
pub mod exposition;
pub mod fault;
pub mod field;
pub mod focus;
pub mod http;
pub mod inherited;
pub mod money;
pub mod program;
pub mod record;
pub mod reload;
pub mod report;
pub mod role;
pub mod secret;
pub mod stream;
pub mod telemetry;
