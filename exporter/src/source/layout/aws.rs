//! AWS Data Exports. `<export>/metadata/BILLING_PERIOD=YYYY-MM/<export>-Manifest.json` is written when all files of a
//! delivery are there, and names them in `dataFiles` as `s3://` URIs below `<export>/data/BILLING_PERIOD=YYYY-MM/`.
//! An export that overwrites has the same names each time. One that keeps its versions has a folder
//! `<timestamp>-<execution id>/` of each, in `data` and in `metadata`; a manifest beside them says which is the
//! newest, and without one the last folder's does.
//!
//! An export may be read from another bucket, folder or directory that it was copied to: files are looked for
//! beside the manifest's own `metadata`.
//!
//! Spec: AWS Data Exports User Guide, "Understanding export delivery" and "Data Exports manifest file reference".

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Folder, Found, Manifest, Named};

const DATA: &str = "data";
const METADATA: &str = "metadata";
/// What the name of a manifest ends with.
const MANIFEST: &str = "Manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    data_files: Vec<String>,
}

/// Where in a path a word stands that a partition follows: the partition, and what is before the word and behind the
/// partition.
fn divided<'a>(path: &'a str, word: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let mut end = path.len();
    while let Some(at) = path[..end].rfind(word) {
        let starts = at == 0 || path.as_bytes()[at - 1] == b'/';
        let behind = path[at + word.len()..].strip_prefix('/').and_then(|rest| rest.split_once('/'));
        if let (true, Some((partition, rest))) = (starts, behind)
            && partition.contains('=')
        {
            return Some((&path[..at], partition, rest));
        }
        end = at;
    }
    None
}

pub(super) fn find(folder: &Folder<'_>) -> Vec<Found> {
    // By export and partition: the version's folder (nothing is the newest) and the manifest.
    let mut newest: BTreeMap<(String, String), (bool, String, &String)> = BTreeMap::new();
    for (path, below, _) in folder.files() {
        let Some((export, partition, rest)) = divided(below, METADATA) else { continue };
        let (version, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        if !name.ends_with(MANIFEST) || version.contains('/') {
            continue;
        }
        let candidate = (version.is_empty(), version.to_owned(), path);
        let key = (export.trim_end_matches('/').to_owned(), partition.to_owned());
        let last = newest.entry(key).or_insert_with(|| candidate.clone());
        if *last < candidate {
            *last = candidate;
        }
    }
    let found = newest.into_iter().map(|((export, partition), (_, _, path))| {
        let period = partition.split_once('=').map_or(partition.as_str(), |(_, value)| value);
        Found {
            scope: format!("{}/{period}", folder.scope(&export)),
            shown: path.clone(),
            manifests: vec![path.clone()],
            ..Found::default()
        }
    });
    found.collect()
}

pub(super) fn manifest(path: &str, text: &[u8]) -> Result<Manifest, String> {
    let Text { data_files } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let (export, ..) = divided(path, METADATA).ok_or("it is not below `metadata`")?;
    let named = |uri: &String| {
        let (_, partition, rest) =
            divided(uri, DATA).ok_or_else(|| format!("{uri:?} is not below `{DATA}` and a billing period"))?;
        Ok(Named { path: format!("{export}{DATA}/{partition}/{rest}"), bytes: None, rows: None })
    };
    let files = data_files.iter().map(named).collect::<Result<_, String>>()?;
    Ok(Manifest { made: None, files })
}
