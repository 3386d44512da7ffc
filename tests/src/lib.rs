//! What tests need beyond the Rust toolchain: other people's programs, found or installed
//! ([`parts`], and [`clouds`] and [`api_server`] from them), ours, built and started as users start them ([`programs`]), stand-ins on
//! this machine for servers that are not to be had ([`server`], [`kubernetes`], [`azure_monitor`]), a program's own view of the
//! machine ([`rooms`]), and what may go wrong around all of them ([`faults`]).

pub mod api_server;
pub mod azure_monitor;
pub mod certificates;
pub mod clouds;
pub mod faults;
pub mod kubernetes;
pub mod parts;
pub mod programs;
pub mod report;
pub mod rooms;
pub mod server;
