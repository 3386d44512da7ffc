//! Azure Cost Management exports. Each run of an export writes a folder
//! `<export>/<YYYYMMDD-YYYYMMDD>/[<time>/]<run id>/` of partitions (CSV, CSV with gzip, or Parquet) and, when they are
//! all there, a `manifest.json` that names them in `blobs`, with the rows and bytes of each. An export that overwrites
//! removes the run before; one that does not keeps all of them. The run submitted last is its period's.
//!
//! Rows are held against what was read. Bytes are held against a blob's size only where nothing is compressed: the
//! documentation does not say whose bytes are meant. Files are looked for beside the manifest, so that an export
//! may have been copied.
//!
//! Spec: Microsoft Cost Management, "Create and manage exports", "Manifest file" (version 2024-04-01).

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;

use super::{Folder, Found, Manifest, Named, folder_of};

const MANIFEST: &str = "manifest.json";
/// What the type of an export of FOCUS begins with.
const FOCUS: &str = "focus";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    blobs: Vec<Blob>,
    #[serde(default)]
    export_config: ExportConfig,
    #[serde(default)]
    delivery_config: DeliveryConfig,
    #[serde(default)]
    run_info: RunInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    blob_name: String,
    byte_count: Option<u64>,
    data_row_count: Option<u64>,
}

#[derive(Default, Deserialize)]
struct ExportConfig {
    r#type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryConfig {
    file_format: Option<String>,
    compression_mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunInfo {
    submitted_time: Option<String>,
}

/// Whether a folder is called as a period: `20260901-20260930`.
fn is_period(name: &str) -> bool {
    let is_day = |day: &str| day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('-').is_some_and(|(start, end)| is_day(start) && is_day(end))
}

pub(super) fn find(folder: &Folder<'_>) -> Vec<Found> {
    let mut periods: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for (path, ..) in folder.files() {
        if path.rsplit('/').next() != Some(MANIFEST) {
            continue;
        }
        let Some((scope, period_folder)) = scope(folder, path) else {
            tracing::warn!(path, "a manifest that is in no period's folder, such as 20260901-20260930, is passed over");
            continue;
        };
        periods.entry(scope).or_insert_with(|| (period_folder, Vec::new())).1.push(path.clone());
    }
    let found =
        periods.into_iter().map(|(scope, (shown, manifests))| Found { scope, shown, manifests, ..Found::default() });
    found.collect()
}

/// The export and period of a manifest, and the period's folder.
fn scope(folder: &Folder<'_>, path: &str) -> Option<(String, String)> {
    let mut end = 0;
    let period_folder = path.split('/').find_map(|part| {
        end += part.len() + 1;
        is_period(part).then(|| &path[..end - 1])
    })?;
    let below = period_folder.strip_prefix(folder.prefix).filter(|below| below.contains('/'));
    let scope = below.map_or_else(
        || {
            // The folder that was given is the export's, or lies deeper.
            let (before, period) = period_folder.rsplit_once('/').unwrap_or(("", period_folder));
            let export = before.rsplit('/').next().filter(|name| !name.is_empty());
            format!("{}/{period}", export.unwrap_or(&folder.scope("")))
        },
        str::to_owned,
    );
    Some((scope, period_folder.to_owned()))
}

pub(super) fn manifest(path: &str, text: &[u8]) -> Result<Manifest, String> {
    let Text { blobs, export_config, delivery_config, run_info } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if let Some(kind) = export_config.r#type.filter(|kind| !kind.to_ascii_lowercase().starts_with(FOCUS)) {
        return Err(format!("its export is of {kind}, not of FOCUS costs: name the folder of the FOCUS export"));
    }
    let is = |value: &Option<String>, word: &str| value.as_ref().is_none_or(|value| value.eq_ignore_ascii_case(word));
    let is_plain = is(&delivery_config.compression_mode, "none") && is(&delivery_config.file_format, "csv");
    let named = |blob: Blob| {
        let name = blob.blob_name.rsplit('/').next().unwrap_or_default().trim();
        if name.is_empty() {
            return Err(format!("{:?} is no file", blob.blob_name));
        }
        let bytes = blob.byte_count.filter(|_| is_plain);
        Ok(Named { path: format!("{}{name}", folder_of(path)), bytes, rows: blob.data_row_count })
    };
    let files = blobs.into_iter().map(named).collect::<Result<_, String>>()?;
    let made = run_info.submitted_time.map(|text| time(&text).ok_or_else(|| format!("{text:?} is no time")));
    Ok(Manifest { made: made.transpose()?, files })
}

/// A time of a manifest; one without a zone is UTC.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let zoned = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    zoned.or_else(|_| text.parse::<NaiveDateTime>().map(|time| time.and_utc())).ok()
}
