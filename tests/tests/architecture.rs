//! The house's direction, held against what cargo says of it:
//! `common <- exporter, handler, scraper`; `handler <- scraper`; `costream -> all`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::MetadataCommand;

/// Which of our crates each may use, tests and build scripts included.
const EDGES: [(&str, &[&str]); 6] = [
    ("costream-common", &[]),
    ("costream-exporter", &["costream-common"]),
    ("costream-handler", &["costream-common"]),
    ("costream-scraper", &["costream-common", "costream-handler"]),
    ("costream", &["costream-common", "costream-exporter", "costream-handler", "costream-scraper"]),
    ("costream-tests", &[]),
];

#[test]
fn no_crate_uses_one_that_it_may_not() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo describes the workspace");
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let allowed = BTreeMap::from(EDGES);
    assert_eq!(ours, allowed.keys().copied().collect(), "a crate of the house is missing from this test");
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().map(|dependency| dependency.name.as_str()) {
            let parts_for_tests = dependency == "costream-tests";
            assert!(
                !ours.contains(dependency) || parts_for_tests || allowed[package.name.as_str()].contains(&dependency),
                "{} may not use {dependency}",
                package.name
            );
        }
    }
}
