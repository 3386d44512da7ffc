//! The fault harness: proves that nothing is lost and nothing doubled, whatever is killed or
//! breaks, whenever. Read it in the order in which a trial goes:
//!
//! | file | what |
//! |---|---|
//! | [`random`] | numbers that a seed makes, the same for ever |
//! | [`script`] | the reports that are served: a pure function of seed, source and generation |
//! | [`source`] | the HTTP server they come from, with the faults it was told to have |
//! | [`schedule`] | who is killed when, a pure function of the seed |
//! | [`front`] | a fixed address before a program that comes and goes; can break connections |
//! | [`disk`] | a small disk that gets full |
//! | [`house`] | the three roles as programs, or the all-in-one: started, killed, started again |
//! | [`ledger`] | what must be in the store, read from the very bytes that were served |
//! | [`store`] | what is in the store: rows over SQL, commits from the Delta log |
//! | [`compare`] | the difference, row by row |
//! | [`trial`] | all of that in order |
//!
//! The product's part in it is `costream_common::fault`: named points at which a program built
//! with debug assertions stops dead when the environment variable [`VARIABLE`] names them.

pub mod compare;
pub mod disk;
pub mod front;
pub mod house;
pub mod ledger;
pub mod random;
pub mod schedule;
pub mod script;
pub mod source;
pub mod store;
pub mod trial;

/// Names the point at which a program stops dead.
pub const VARIABLE: &str = "COSTREAM_FAULT";
