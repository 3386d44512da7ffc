//! Families and samples in, exposition text out, into a buffer the caller takes when it is
//! large enough. Values go out as the text they are given as, so that an exact decimal stays
//! one. Holds what was written since the last [`TextWriter::take`]; does not check that a family's samples stand
//! together or that series differ.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::escape::{Name, escape_help, escape_value};
use super::{Format, Kind};

/// Writes one exposition.
#[derive(Debug)]
pub struct TextWriter {
    format: Format,
    out: BytesMut,
    /// What the samples of the family at hand end in, when OpenMetrics says so.
    suffix: &'static str,
}

impl TextWriter {
    /// Starts an exposition.
    pub fn new(format: Format) -> Self {
        Self { format, out: BytesMut::new(), suffix: "" }
    }

    /// The format it is written in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes written and not taken yet.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether everything written was taken.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes what was written: a chunk of the body.
    pub fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// Opens a family: its help and type. A counter may be named with or without its `_total`,
    /// an info with or without its `_info`: each format gets what it wants.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.suffix = match kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        let base = name.strip_suffix(self.suffix).unwrap_or(name);
        // 0.0.4 names a family as its samples.
        let suffix = if self.format == Format::Text004 { self.suffix } else { "" };
        let name = Name::Metric.escape(base);
        for (keyword, text) in [("HELP", None), ("TYPE", Some(kind.as_str(self.format)))] {
            for part in ["# ", keyword, " ", &name, suffix, " "] {
                self.put(part);
            }
            match (text, self.format) {
                (Some(text), _) => self.put(text),
                (None, Format::Text004) => escape_help(help, |bytes| self.out.put_slice(bytes)),
                (None, Format::OpenMetrics100) => escape_value(help, |bytes| self.out.put_slice(bytes)),
            }
            self.put("\n");
        }
    }

    /// Adds a sample of the family at hand. `value` is a number's text (see [`float`]) and goes out as it is; label
    /// names and values may be any text. A label without a value is the same as none, to a
    /// Prometheus: leave it out.
    pub fn sample<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (K, V)>,
        value: &str,
        timestamp_ms: Option<i64>,
    ) {
        let base = name.strip_suffix(self.suffix).unwrap_or(name);
        self.put(&Name::Metric.escape(base));
        self.put(self.suffix);
        let mut before = "{";
        for (name, value) in labels {
            self.put(before);
            self.put(&Name::Label.escape(name.as_ref()));
            self.put("=\"");
            escape_value(value.as_ref(), |bytes| self.out.put_slice(bytes));
            self.put("\"");
            before = ",";
        }
        self.put(if before == "," { "} " } else { " " });
        self.put(value);
        if let Some(ms) = timestamp_ms {
            self.put(" ");
            match self.format {
                Format::Text004 => self.put(&ms.to_string()),
                Format::OpenMetrics100 => self.put(&seconds(ms)),
            }
        }
        self.put("\n");
    }

    /// Ends the exposition: OpenMetrics' `# EOF`. Nothing may be written after it.
    pub fn finish(&mut self) {
        if self.format == Format::OpenMetrics100 {
            self.put("# EOF\n");
        }
    }

    fn put(&mut self, text: &str) {
        self.out.put_slice(text.as_bytes());
    }
}

fn seconds(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
}

/// A double as both formats write it.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LABELS: [(&str, &str); 0] = [];

    #[test]
    fn each_format_is_written_by_its_book() {
        let text = |format| {
            let mut writer = TextWriter::new(format);
            writer.family("billed_cost", Kind::Gauge, "One \"charge\" a sample,\nC:\\ exact.");
            let labels = [("Service Name", "a \"b\" \\ c\nd"), ("x_row", "1")];
            writer.sample("billed_cost", labels, "0.100000000000000001", Some(-1_500));
            writer.family("polls_total", Kind::Counter, "Polls.");
            writer.sample("polls", NO_LABELS, "3", None);
            writer.family("costream_build", Kind::Info, "Version.");
            writer.sample("costream_build_info", [("version", "1")], "1", Some(1_700_000_000_007));
            writer.finish();
            let taken = writer.take();
            assert!(writer.is_empty());
            String::from_utf8(taken.to_vec()).expect("text")
        };
        assert_eq!(
            text(Format::Text004),
            r#"# HELP billed_cost One "charge" a sample,\nC:\\ exact.
# TYPE billed_cost gauge
billed_cost{U__Service_20_Name="a \"b\" \\ c\nd",x_row="1"} 0.100000000000000001 -1500
# HELP polls_total Polls.
# TYPE polls_total counter
polls_total 3
# HELP costream_build_info Version.
# TYPE costream_build_info gauge
costream_build_info{version="1"} 1 1700000000007
"#
        );
        assert_eq!(
            text(Format::OpenMetrics100),
            r#"# HELP billed_cost One \"charge\" a sample,\nC:\\ exact.
# TYPE billed_cost gauge
billed_cost{U__Service_20_Name="a \"b\" \\ c\nd",x_row="1"} 0.100000000000000001 -1.500
# HELP polls Polls.
# TYPE polls counter
polls_total 3
# HELP costream_build Version.
# TYPE costream_build info
costream_build_info{version="1"} 1 1700000000.007
# EOF
"#
        );
    }

    #[test]
    fn doubles_are_written_as_prometheus_reads_them() {
        for (value, text) in
            [(1.5, "1.5"), (f64::NAN, "NaN"), (f64::INFINITY, "+Inf"), (f64::NEG_INFINITY, "-Inf"), (-0.0, "-0")]
        {
            assert_eq!(float(value), text);
        }
    }
}
