//! Google Cloud. FOCUS is a view in BigQuery; `EXPORT DATA` with a wildcard writes its rows to Cloud Storage as
//! numbered files of one folder (`focus-000000000000.csv.gz`), each with a header, and nothing says which is the last.
//! So a folder is one report, in the order of its files' names, and it is taken when none of its files is younger than
//! [`SETTLES_AFTER`]. One folder per billing period (`billing_period=2026-09/`) makes each period a scope of its own.
//! What begins with `_` (`_SUCCESS`) is no part of it.
//!
//! Spec: Google Cloud, BigQuery, "Export table data to Cloud Storage", "Exporting data into one or more files".

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Folder, Found, folder_of};

/// The files of an export are written within a few minutes of each other; after so long without a new one it is whole.
const SETTLES_AFTER: Duration = Duration::from_secs(300);

pub(super) fn find(folder: &Folder<'_>) -> Vec<Found> {
    let mut folders: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, below, _) in folder.files() {
        if !below.split('/').any(|part| part.starts_with('_')) {
            folders.entry(folder_of(below).trim_end_matches('/')).or_default().push(path.clone());
        }
    }
    let found = folders.into_iter().map(|(below, files)| Found {
        scope: folder.scope(below),
        shown: format!("{}{below}", folder.prefix),
        files,
        settles_after: SETTLES_AFTER,
        ..Found::default()
    });
    found.collect()
}
