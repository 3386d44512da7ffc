//! Notebooks through the HTTP API, run by a real Python with CrateDB's own client. The test is its own launcher.

mod contract;
mod hostile;
mod house;
mod published;

use std::path::PathBuf;
use std::process::ExitCode;

use costream_handler::compute::{Tier, launcher};
use costream_tests::parts::{Suite, python};

fn main() -> ExitCode {
    if let Some(code) = launcher::serve_if_asked() {
        return code;
    }
    if let Some(code) = hostile::as_no_root() {
        return code;
    }
    let python = python(&["crate==2.3.0", "pandas==3.1.1"]).map_err(|error| format!("{error:#}"));
    let python = || python.clone().map_err(anyhow::Error::msg);
    // Runs that have users of their own, and no root of their own, must be able to read it.
    let readable = published::readable_by_all().map_err(|error| format!("{error:#}"));
    let readable = || readable.clone().map_err(anyhow::Error::msg);
    let base = || {
        readable()
            .map(|_| PathBuf::from("/usr/bin/python3"))
            .map(|base| if base.exists() { base } else { "python3".into() })
    };
    Suite::new()
        .claim_with("notebooks_are_kept_as_contracts_6_says", python(), contract::kept)
        .claim_with("notebooks_are_run_as_contracts_6_says", python(), contract::run)
        .claim_with("a_run_that_fails_is_never_answered_with_200", python(), contract::fails)
        .claim_with("output_streams_while_the_run_goes_on", python(), contract::streams)
        .claim_with("who_goes_away_ends_their_run", python(), contract::gone)
        .claim_with("more_runs_than_places_are_told_to_come_back", python(), contract::busy)
        .claim_with("published_notebooks_read_unchanged", python(), published::reading)
        .claim_with("published_notebooks_keep_a_table_of_their_own", python(), published::writing)
        .claim_with("a_statement_is_answered_as_json_or_csv", python(), published::statements)
        .claim_with("the_code_cells_of_jupyters_format_are_run", python(), published::jupyter)
        .claim_with("what_pip_installs_is_the_runs_own", python(), published::pip)
        .claim_with("an_environment_is_made_once_for_all_who_ask", base(), published::made)
        .claim_with("a_machine_that_cannot_contain_runs_nothing", python(), published::uncontained)
        .claim_with("a_runs_password_is_seen_nowhere_and_dies_with_it", python(), hostile::secrets)
        .claim_with("hostile_notebooks_are_harmless_when_isolated", python(), |python| {
            hostile::corpus(&python, Tier::Isolated, 60_700)
        })
        .claim_with("hostile_notebooks_are_harmless_when_confined", readable(), |python| {
            hostile::corpus(&python, Tier::Confined, 60_800)
        })
        .claim_with("hostile_notebooks_are_harmless_to_a_handler_that_is_not_root", readable(), |python| {
            hostile::without_root(&python)
        })
        .at_once(2)
        .run()
}
