//! Prometheus' own Python client reads what we write, and we read what it writes, in both formats.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use costream_common::exposition::decode::{Decoder, Entry, Limits};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::escape::unescape_name;
use costream_common::exposition::{Format, Kind};
use costream_tests::parts::{Suite, python};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};

const FORMATS: [(Format, &str); 2] = [(Format::Text004, "text"), (Format::OpenMetrics100, "openmetrics")];
const N_SAMPLES: usize = 500;

/// Name, labels, value, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample(String, BTreeMap<String, String>, String, Option<i64>);

fn main() -> ExitCode {
    let python = || python(&["prometheus-client==0.26.0"]);
    Suite::new()
        .claim_with("the_python_client_reads_what_we_write", python(), |python| reads_ours(&python))
        .claim_with("we_read_what_the_python_client_writes", python(), |python| read_by_us(&python))
        .run()
}

fn reads_ours(python: &Path) -> Result<()> {
    for (format, name) in FORMATS {
        let samples = samples(name, any::<String>().boxed())?;
        let mut writer = TextWriter::new(format);
        for Sample(name, labels, value, at) in &samples {
            writer.family(name, Kind::Gauge, "A \"help\"\nwith \\ and é.");
            writer.sample(name, labels, value, *at);
        }
        writer.finish();
        let said = asked(python, "read", name, &writer.take())?;
        let read: Vec<Sample> = serde_json::from_slice(&said).context("read what it says")?;
        let meant = |text: &str| unescape_name(text).into_owned();
        let read = read.into_iter().map(|Sample(name, labels, value, at)| {
            let labels = labels.into_iter().map(|(name, value)| (meant(&name), value));
            Sample(meant(&name), labels.collect(), value, at)
        });
        same(name, &samples, &read.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn read_by_us(python: &Path) -> Result<()> {
    for (format, name) in FORMATS {
        // It escapes no quote in a name.
        let samples = samples(name, "[a-z_.: é\u{1f4b6}-]{1,12}".boxed())?;
        let written = asked(python, "write", name, &serde_json::to_vec(&samples).context("write samples")?)?;
        let (mut decoder, mut left, mut read) = (Decoder::new(format, Limits::default()), &written[..], Vec::new());
        while let Some(entry) = decoder.decode(&mut left).context("read what it wrote")? {
            let Entry::Sample(sample) = entry else { continue };
            let labels = sample.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            read.push(Sample(sample.name.to_owned(), labels.collect(), sample.value.to_owned(), sample.timestamp_ms));
        }
        decoder.finish().context("read its end")?;
        same(name, &samples, &read)?;
    }
    Ok(())
}

fn same(format: &str, expected: &[Sample], read: &[Sample]) -> Result<()> {
    ensure!(expected.len() == read.len(), "{format}: {} samples of {}", read.len(), expected.len());
    for (expected, read) in expected.iter().zip(read) {
        let number = |text: &str| text.parse::<f64>().with_context(|| format!("{text:?} is no number"));
        let (Sample(name, labels, value, at), Sample(read_name, read_labels, read_value, read_at)) = (expected, read);
        let (value, read_value) = (number(value)?, number(read_value)?);
        let same = value == read_value || (value.is_nan() && read_value.is_nan());
        let same = same && (name, labels, at) == (read_name, read_labels, read_at);
        ensure!(same, "{format}: {expected:?} was read as {read:?}");
    }
    Ok(())
}

/// Samples that are hard to carry, the same every time. Each is of a family of its own, so that none is a repetition.
fn samples(purpose: &str, names: BoxedStrategy<String>) -> Result<Vec<Sample>> {
    let values = prop_oneof!["[-+]?[0-9]{1,20}([.][0-9]{1,18})?", any::<f64>().prop_map(|value| value.to_string())];
    let texts = prop_oneof![any::<String>(), r#"[\\"\n\t {}=,#aé]{0,20}"#];
    // Each side has an idea of its own of what a carriage return or a separator is at a line's end.
    let texts = texts.prop_map(|text| text.replace(is_line_end, "\n"));
    let names = names.prop_map(|name| name.replace(is_line_end, ""));
    let labels = proptest::collection::btree_map(names.clone().prop_map(|name| format!("l{name}")), texts, 0..5);
    // It keeps times as doubles, in seconds: eighths of them are exact.
    let times = (0..32_000_000_000_i64).prop_map(|eighths| eighths * 125);
    let strategy = (names, labels, values, proptest::option::of(times));
    let mut runner = TestRunner::deterministic();
    (0..N_SAMPLES)
        .map(|at| {
            let tree = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{purpose}: {reason}"))?;
            let (name, labels, value, time) = tree.current();
            Ok(Sample(format!("m{at}_{name}"), labels, value, time))
        })
        .collect()
}

/// What Python's `StringIO` and `splitlines` may take for the end of a line, and is none in the formats.
fn is_line_end(c: char) -> bool {
    matches!(c, '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn asked(python: &Path, way: &str, format: &str, given: &[u8]) -> Result<Vec<u8>> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python_client.py");
    let mut child = Command::new(python)
        .arg(script)
        .args([way, format])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start Python")?;
    child.stdin.take().context("it reads")?.write_all(given).context("write to it")?;
    let output = child.wait_with_output().context("wait for it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{way} {format}: {said}");
    Ok(output.stdout)
}
