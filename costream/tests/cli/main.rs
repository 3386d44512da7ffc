//! The command line as users' scripts rely on it: the built binary, its statuses, what it
//! prints and where, and what it leaves in the store, held against sums by another hand.

mod errors;
mod generate;
mod house;
mod once;
mod serve;
mod sql;
mod usage;
