//! The Prometheus text exposition, both ways: format 0.0.4 and OpenMetrics 1.0.
//!
//! [`encode::TextWriter`] writes families and samples into a buffer that the caller takes
//! whenever it likes; [`decode::Decoder`] is fed bytes as they come and lends out one entry at a
//! time. Neither does any IO, neither holds more than a line, and what one writes the other
//! reads back, names and values unchanged ([`escape`]).
//!
//! Specifications: "Exposition formats" of the Prometheus documentation; OpenMetrics 1.0;
//! Prometheus' UTF-8 proposal for quoted and escaped names.

pub mod decode;
pub mod encode;
pub mod escape;

use std::cmp::Reverse;

use decode::{DecodeError, Decoder, Entry, Limits};
use encode::TextWriter;
use escape::unescape_name;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text004,
    /// OpenMetrics 1.0.0.
    OpenMetrics100,
}

impl Format {
    /// The `Content-Type` of a body in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics100 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format of a body with this `Content-Type`. What is not OpenMetrics is read as 0.0.4,
    /// as exporters that say `text/plain`, or nothing, mean it.
    pub fn of_content_type(content_type: &str) -> Self {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") { Self::OpenMetrics100 } else { Self::Text004 }
    }
}

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only ever grows; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
    /// Buckets that go up and down. OpenMetrics only.
    GaugeHistogram,
    /// Quantiles.
    Summary,
    /// Facts as labels; its samples end in `_info`. OpenMetrics only.
    Info,
    /// Flags. OpenMetrics only.
    StateSet,
    /// Not said.
    Unknown,
}

impl Kind {
    /// The word for it in a `# TYPE` line. What 0.0.4 has no word for is what it looks like there.
    pub fn as_str(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Gauge, _) | (Self::Info | Self::StateSet, Format::Text004) => "gauge",
            (Self::Histogram, _) => "histogram",
            (Self::Summary, _) => "summary",
            (Self::GaugeHistogram, Format::OpenMetrics100) => "gaugehistogram",
            (Self::Info, Format::OpenMetrics100) => "info",
            (Self::StateSet, Format::OpenMetrics100) => "stateset",
            (Self::Unknown, Format::OpenMetrics100) => "unknown",
            (Self::GaugeHistogram | Self::Unknown, Format::Text004) => "untyped",
        }
    }

    /// The kind a word of either format stands for.
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "gaugehistogram" => Self::GaugeHistogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "unknown" | "untyped" => Self::Unknown,
            _ => return None,
        })
    }
}

/// The text format to answer with, by the request's `Accept` header; an empty one takes anything.
/// Nothing when neither format will do (406).
pub fn negotiate(accept: &str) -> Option<Format> {
    const OFFERS: [Format; 2] = [Format::Text004, Format::OpenMetrics100];
    preferred(accept, &OFFERS.map(Format::content_type)).map(|at| OFFERS[at])
}

/// The position of the media type among `offers` that an `Accept` header likes best, by
/// q-values (RFC 9110, section 12.5.1), then by how exactly and how early it names it, then by the order
/// of the offers. An empty header takes anything. A `version` that differs from the offer's is
/// another type; other parameters do not matter.
pub fn preferred(accept: &str, offers: &[&str]) -> Option<usize> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let ranges: Vec<Range<'_>> = accept.split(',').filter_map(Range::parse).collect();
    let liking = |offer: &str| {
        let (offered, version) = media(offer);
        let matching = ranges.iter().enumerate().filter_map(|(at, range)| {
            range.exactness(offered, version).map(|exactness| (exactness, Reverse(at), range.thousandths))
        });
        // The most exact range speaks for the offer, whatever others say.
        matching.max().filter(|(.., thousandths)| *thousandths > 0).map(|(exactness, at, q)| (q, exactness, at))
    };
    let likings = offers.iter().enumerate().filter_map(|(at, offer)| Some((liking(offer)?, Reverse(at))));
    likings.max().map(|(_, Reverse(at))| at)
}

/// Rewrites an OpenMetrics text, such as `prometheus-client` encodes for our own telemetry, in a
/// writer's format. Leaves out exemplars, units and the `# EOF`, which is the writer's to say.
///
/// # Errors
/// The text is no OpenMetrics.
pub fn transcode(openmetrics: &str, writer: &mut TextWriter) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(Format::OpenMetrics100, Limits::default());
    let mut input = openmetrics.as_bytes();
    let mut about = String::new();
    while let Some(entry) = decoder.decode(&mut input)? {
        match entry {
            Entry::Help { text, .. } => text.clone_into(&mut about),
            Entry::Type { family, kind } => writer.family(&unescape_name(family), kind, &std::mem::take(&mut about)),
            Entry::Sample(sample) => {
                let labels = sample.labels.iter().map(|(name, value)| (unescape_name(name), value));
                writer.sample(&unescape_name(sample.name), labels, sample.value, sample.timestamp_ms);
            }
            Entry::Unit { .. } | Entry::Eof => {}
        }
    }
    decoder.finish().map(|_| ())
}

/// One of an `Accept` header's media ranges.
struct Range<'a> {
    media: &'a str,
    version: Option<&'a str>,
    thousandths: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (media, version) = media(text);
        if media.is_empty() {
            return None;
        }
        let q = parameter(text, "q").map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)).clamp(0.0, 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
        let thousandths = (q * 1000.0).round() as u16;
        Some(Self { media, version, thousandths })
    }

    /// How exactly the range names the offer; nothing when it does not.
    fn exactness(&self, offered: &str, version: Option<&str>) -> Option<u8> {
        if self.media == "*/*" {
            return Some(0);
        }
        if let Some(family) = self.media.strip_suffix("/*") {
            let same = offered.split('/').next().is_some_and(|offered| offered.eq_ignore_ascii_case(family));
            return same.then_some(1);
        }
        if !self.media.eq_ignore_ascii_case(offered) {
            return None;
        }
        match (self.version, version) {
            (None, _) => Some(2),
            (Some(asked), Some(offered)) if asked == offered => Some(3),
            (Some(_), _) => None,
        }
    }
}

fn media(text: &str) -> (&str, Option<&str>) {
    (text.split(';').next().unwrap_or_default().trim(), parameter(text, "version"))
}

fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_reader_likes_best() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            ("", Some(Format::Text004)),
            ("*/*", Some(Format::Text004)),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some(Format::Text004)),
            (prometheus_2, Some(Format::OpenMetrics100)),
            (prometheus_3, Some(Format::OpenMetrics100)),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Some(Format::Text004)),
            ("text/plain, application/openmetrics-text", Some(Format::Text004)),
            ("application/openmetrics-text, text/plain", Some(Format::OpenMetrics100)),
            ("application/openmetrics-text; q=0.3, text/plain; q=0.4", Some(Format::Text004)),
            ("application/openmetrics-text;version=0.0.1, text/plain;q=0.1", Some(Format::Text004)),
            ("APPLICATION/OpenMetrics-Text; Version=\"1.0.0\"", Some(Format::OpenMetrics100)),
            ("*/*, text/plain;q=0", Some(Format::OpenMetrics100)),
            ("text/*;q=0.1, application/*;q=0.2", Some(Format::OpenMetrics100)),
            ("application/openmetrics-text;version=0.0.1", None),
            ("application/json", None),
            ("text/plain;q=0", None),
            ("text/plain;q=much", None),
            (",,;", None),
        ] {
            assert_eq!(negotiate(accept), format, "{accept}");
        }
    }

    #[test]
    fn a_registry_is_rewritten_in_either_format() {
        let registry = "# HELP polls Polls.\n# TYPE polls counter\npolls_total{source=\"a\\\"b\"} 3\n# HELP age_seconds Age.\n# TYPE age_seconds gauge\n# UNIT age_seconds seconds\nage_seconds 1.5\n# EOF\n";
        let rewritten = |format| {
            let mut writer = TextWriter::new(format);
            transcode(registry, &mut writer).expect("a good text");
            writer.finish();
            String::from_utf8(writer.take().to_vec()).expect("text")
        };
        assert_eq!(rewritten(Format::OpenMetrics100), registry.replace("# UNIT age_seconds seconds\n", ""));
        assert_eq!(
            rewritten(Format::Text004),
            "# HELP polls_total Polls.\n# TYPE polls_total counter\npolls_total{source=\"a\\\"b\"} 3\n# HELP age_seconds Age.\n# TYPE age_seconds gauge\nage_seconds 1.5\n"
        );
        assert!(transcode("polls 3\n", &mut TextWriter::new(Format::Text004)).is_err(), "no end");
    }

    #[test]
    fn any_offer_can_be_negotiated() {
        let offers = ["application/vnd.apache.arrow.stream", "text/plain; version=0.0.4"];
        assert_eq!(preferred("application/vnd.apache.arrow.stream, text/plain;q=0.5", &offers), Some(0));
        assert_eq!(preferred("text/plain, application/vnd.apache.arrow.stream;q=0.5", &offers), Some(1));
        assert_eq!(preferred("*/*", &offers), Some(0));
        assert_eq!(preferred("image/png", &offers), None);
    }

    #[test]
    fn a_body_is_read_as_it_calls_itself() {
        assert_eq!(Format::of_content_type("application/openmetrics-text; version=0.0.1"), Format::OpenMetrics100);
        for other in ["text/plain; version=0.0.4", "", "text/html"] {
            assert_eq!(Format::of_content_type(other), Format::Text004);
        }
        for format in [Format::Text004, Format::OpenMetrics100] {
            assert_eq!(Format::of_content_type(format.content_type()), format);
        }
    }
}
