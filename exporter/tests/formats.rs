//! Reports as other programs write them, in every format: the rows that come of them are those of the same report in
//! CSV. Parquet by PyArrow and by DuckDB.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;
use chrono::DateTime;
use costream_common::record::{ColumnKind, Texts};
use costream_exporter::Exporter;
use costream_exporter::config::ExporterConfig;
use costream_exporter::profile::ProfileName;
use costream_exporter::report::{DecodeOptions, Decoded, Report};
use costream_tests::parts::{Suite, python};

fn main() -> ExitCode {
    let arrow = || python(&["duckdb==2.0.0", "pyarrow==26.0.1", "pytz==2025.2"]);
    Suite::new()
        .claim("a_report_in_json_is_polled_kept_and_known_again", polled)
        .claim_with("a_report_is_the_same_in_every_format", arrow(), |python| same_in_every_format(&python))
        .claim_with("every_type_of_parquet_is_read_by_the_rules_of_its_column", arrow(), |python| every_type(&python))
        .claim_with("parquet_that_is_damaged_is_an_error_and_no_panic", arrow(), |python| damaged(&python))
        .claim_with("a_text_in_a_dictionary_is_not_held_for_every_row", arrow(), |python| dictionary(&python))
        .run()
}

/// A poll leaves nothing of the body, counts what it read, and knows the same bytes again.
fn polled() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (report, spool) = (folder.path().join("report"), folder.path().join("spool"));
    let names = || -> anyhow::Result<usize> { Ok(std::fs::read_dir(&spool)?.count()) };
    let config = ExporterConfig::for_run(&[report.display().to_string()], ProfileName::Auto, folder.path())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let exporter = Exporter::start(config).await?;
        for (text, changed, rows) in [
            (r#"[{"BilledCost": 1}, {"BilledCost": "x"}]"#, true, 1),
            (r#"[{"BilledCost": 1}, {"BilledCost": "x"}]"#, false, 1),
            ("{\"BilledCost\": 1}\n{\"BilledCost\": 2}\n", true, 2),
        ] {
            std::fs::write(&report, text)?;
            let outcome = exporter.poll_all().await.pop().context("an outcome")?;
            let polled = outcome.result?;
            ensure!(polled.changed == changed && polled.snapshot.totals.rows() == rows, "{text}: {polled:?}");
            ensure!(polled.read_bytes == text.len() as u64, "{} bytes were read of {text}", polled.read_bytes);
            // A lock, and the four files of a snapshot.
            ensure!(names()? == 5, "{} files in the spool", names()?);
        }
        Ok(())
    })
}

/// Has the script write its reports into a folder.
fn written(python: &Path, what: &str) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("formats.py");
    let output = Command::new(python).arg(script).arg(what).arg(folder.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder)
}

/// Everything that comes of a report: its rows as one batch, and what was refused.
fn read(path: &Path, profile: ProfileName) -> anyhow::Result<(RecordBatch, Vec<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = DecodeOptions { profile, ..DecodeOptions::new(path.display().to_string()) };
        let mut report = Report::open(tokio::fs::File::open(path).await?, options).await?;
        let (mut batches, mut rejected) = (Vec::new(), Vec::new());
        while let Some(decoded) = report.next().await? {
            match decoded {
                Decoded::Batch(batch) => batches.push(batch),
                Decoded::Rejected(row) => {
                    let column = row.column.unwrap_or_default();
                    rejected.push(format!("{} {column} {}: {}", row.row, row.reason, row.text));
                }
            }
        }
        Ok((concat_batches(&report.schema(), &batches)?, rejected))
    })
}

/// Every cell, so that a dictionary's order does not matter.
fn cells(batch: &RecordBatch) -> anyhow::Result<Vec<String>> {
    let mut cells = Vec::new();
    for (column, field) in batch.columns().iter().zip(batch.schema().fields()) {
        for row in 0..batch.num_rows() {
            let name = format!("{} {}", field.name(), row + 1);
            if column.is_null(row) {
                cells.push(format!("{name} is null"));
                continue;
            }
            let text = match ColumnKind::of(column.data_type()) {
                Some(ColumnKind::Text) => format!("{:?}", Texts::of(column).context("texts")?.get(row)),
                Some(ColumnKind::Timestamp) => {
                    let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
                    DateTime::from_timestamp_micros(micros).context("a time")?.to_rfc3339()
                }
                _ => array_value_to_string(column, row)?,
            };
            cells.push(format!("{name}: {text}"));
        }
    }
    Ok(cells)
}

fn same_in_every_format(python: &Path) -> anyhow::Result<()> {
    let folder = written(python, "same")?;
    let (csv, rejected) = read(&folder.path().join("report.csv"), ProfileName::Auto)?;
    ensure!(csv.num_rows() == 5_000 && rejected.is_empty(), "{} rows, refused: {rejected:?}", csv.num_rows());
    let expected = cells(&csv)?;
    let mut n_reports = 0;
    for entry in std::fs::read_dir(folder.path())? {
        let path = entry?.path();
        let (rows, rejected) = read(&path, ProfileName::Auto).with_context(|| path.display().to_string())?;
        ensure!(rejected.is_empty(), "{}: refused {rejected:?}", path.display());
        let differs = cells(&rows)?.into_iter().zip(&expected).find(|(cell, expected)| cell != *expected);
        ensure!(differs.is_none() && rows.num_rows() == 5_000, "{}: {differs:?}", path.display());
        n_reports += 1;
    }
    ensure!(n_reports == 15, "{n_reports} reports");
    Ok(())
}

/// What is expected stands in a file: by column, then what was refused.
fn every_type(python: &Path) -> anyhow::Result<()> {
    let folder = written(python, "types")?;
    let mut found = String::new();
    for file in ["amounts.parquet", "times.parquet", "tags.parquet", "texts.parquet", "duckdb.parquet"] {
        let (rows, rejected) = read(&folder.path().join(file), ProfileName::Auto).context(file)?;
        found += &format!("== {file}\n");
        for line in cells(&rows)?.into_iter().filter(|cell| !cell.starts_with("x_row ")).chain(rejected) {
            found += &line;
            found += "\n";
        }
    }
    ensure!(found == include_str!("formats_types.txt"), "{found}");
    Ok(())
}

fn damaged(python: &Path) -> anyhow::Result<()> {
    let folder = written(python, "same")?;
    let whole = std::fs::read(folder.path().join("pyarrow-snappy.parquet"))?;
    let damaged = folder.path().join("damaged.parquet");
    let footer_at = whole.len() - 8;
    let said = |bytes: &[u8]| -> anyhow::Result<String> {
        std::fs::write(&damaged, bytes)?;
        match read(&damaged, ProfileName::Auto) {
            Ok((rows, _)) => Ok(format!("{} rows", rows.num_rows())),
            Err(error) => Ok(format!("{error:#}")),
        }
    };
    // Cut off at any place.
    for length in [4, 11, 12, 100, whole.len() / 2, whole.len() - 1] {
        let error = said(&whole[..length])?;
        ensure!(error.contains("damaged.parquet") && error.contains("it is cut off"), "{length} bytes: {error}");
    }
    // A footer that says how long it is, and lies.
    for length in [0, 1, u32::MAX, 33 << 20, u32::try_from(whole.len())?] {
        let mut bytes = whole.clone();
        bytes[footer_at..footer_at + 4].copy_from_slice(&length.to_le_bytes());
        let error = said(&bytes)?;
        ensure!(error.contains("read the Parquet file") && error.contains("damaged.parquet"), "{length}: {error}");
    }
    // Any byte of a small one turned round: rows or an error, and no panic that is not caught.
    let folder = written(python, "types")?;
    let whole = std::fs::read(folder.path().join("tags.parquet"))?;
    let mut errors = String::new();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let said = said(&bytes)?;
        ensure!(said.ends_with(" rows") || said.contains("damaged.parquet"), "byte {at}: {said}");
        errors += &format!("byte {at}: {said}\n");
    }
    ensure!(errors.contains("of row group 0 is outside the file"), "{errors}");
    Ok(())
}

/// 400 rows of one text of 900 kB, which is in the file once.
fn dictionary(python: &Path) -> anyhow::Result<()> {
    let folder = written(python, "dictionary")?;
    let path = folder.path().join("dictionary.parquet");
    let file_bytes = std::fs::metadata(&path)?.len();
    ensure!(file_bytes < 2 << 20, "the file has {file_bytes} bytes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let n_rows = runtime.block_on(async {
        let mut report = Report::open(tokio::fs::File::open(&path).await?, DecodeOptions::new("dictionary")).await?;
        let mut n_rows = 0;
        while let Some(decoded) = report.next().await? {
            match decoded {
                Decoded::Batch(batch) => n_rows += batch.num_rows(),
                Decoded::Rejected(row) => anyhow::bail!("{row:?}"),
            }
        }
        Ok(n_rows)
    })?;
    ensure!(n_rows == 400, "{n_rows} rows");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    ensure!(kib < 200 << 10, "{kib} KiB at the most, for 360 MB of text");
    Ok(())
}
