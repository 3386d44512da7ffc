//! What the exporter says of itself beside the bill: polls, bytes, requests, the process. Kept
//! in a prometheus-client registry, which writes OpenMetrics; [`Telemetry::text`] renames
//! counters for the classic format.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use costream_common::exposition::Format;
use costream_common::record::SourceName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    Changed,
    Unchanged,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    source: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: &'static str,
    code: u16,
}

/// The registry and what is counted in it.
#[derive(Debug)]
pub(crate) struct Telemetry {
    registry: Registry,
    polls: Family<ByResult, Counter>,
    durations: Family<BySource, Histogram, fn() -> Histogram>,
    read_bytes: Family<BySource, Counter>,
    retries: Family<BySource, Counter>,
    asked: Family<ByResult, Counter>,
    requests: Family<ByRoute, Counter>,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        // 10 ms to 5 h.
        let durations =
            Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.01, 5.0, 10))) as fn() -> Histogram);
        let telemetry = Self {
            registry: Registry::default(),
            polls: Family::default(),
            durations,
            read_bytes: Family::default(),
            retries: Family::default(),
            asked: Family::default(),
            requests: Family::default(),
        };
        telemetry.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "costream_polls",
            "Polls of a report ended, by result: changed, unchanged, failed",
            self.polls.clone(),
        );
        registry.register(
            "costream_poll_duration_seconds",
            "Time a poll of a report took, with its retries",
            self.durations.clone(),
        );
        registry.register(
            "costream_source_read_bytes",
            "Bytes read from a source, as they came",
            self.read_bytes.clone(),
        );
        registry.register(
            "costream_poll_retries",
            "Times a poll tried anew after a failure that may pass",
            self.retries.clone(),
        );
        registry.register(
            "costream_usage_requests",
            "Requests for usage made, by result: ok, not_found, forbidden, refused, throttled, malformed, unreachable, no_token",
            self.asked.clone(),
        );
        registry.register(
            "costream_exporter_requests",
            "Requests answered, by route and status code",
            self.requests.clone(),
        );
        let build = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("costream_exporter_build_info", "The exporter's version", build);
        registry.register_collector(Box::new(Process { started: SystemTime::now() }));
        self
    }

    pub(crate) fn polled(&self, source: &SourceName, ended: Ended, took: Duration) {
        let result = match ended {
            Ended::Changed => "changed",
            Ended::Unchanged => "unchanged",
            Ended::Failed => "failed",
        };
        self.polls.get_or_create(&ByResult { source: source.to_string(), result }).inc();
        self.durations.get_or_create(&by(source)).observe(took.as_secs_f64());
    }

    pub(crate) fn read(&self, source: &SourceName, bytes: u64) {
        self.read_bytes.get_or_create(&by(source)).inc_by(bytes);
    }

    pub(crate) fn retried(&self, source: &SourceName) {
        self.retries.get_or_create(&by(source)).inc();
    }

    pub(crate) fn asked(&self, source: &SourceName, result: &'static str) {
        self.asked.get_or_create(&ByResult { source: source.to_string(), result }).inc();
    }

    pub(crate) fn answered(&self, route: &'static str, code: u16) {
        self.requests.get_or_create(&ByRoute { route, code }).inc();
    }

    /// The families, without an end mark. A few lines per source.
    pub(crate) fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics100 => text,
            Format::Text004 => classic(&text),
        })
    }
}

fn by(source: &SourceName) -> BySource {
    BySource { source: source.to_string() }
}

/// OpenMetrics names a counter's family without `_total`; the classic format with it.
fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(says)) => help = Some((name, says)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let name: Cow<'_, str> = if kind == "counter" { format!("{name}_total").into() } else { name.into() };
                if let Some((_, says)) = help.take() {
                    text.push_str(&format!("# HELP {name} {says}\n"));
                }
                text.push_str(&format!("# TYPE {name} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// What the Prometheus family says of a process, as far as the system tells.
#[derive(Debug)]
struct Process {
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_start_time_seconds", "When the process began, in seconds since the epoch", started)?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (key, name, help) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory"),
            ("VmSize:", "process_virtual_memory_bytes", "Virtual memory"),
        ] {
            if let Some(kilobytes) =
                status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u32>().ok())
            {
                gauge(name, help, f64::from(kilobytes) * 1024.0)?;
            }
        }
        if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().and_then(|open| u32::try_from(open.count()).ok()) {
            gauge("process_open_fds", "Open file descriptors", f64::from(open))?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "Processor time spent",
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Linux counts it in hundredths of a second, whatever its clock's own step.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, with anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_names_counters_its_way() {
        let telemetry = Telemetry::new();
        let source: SourceName = r#"a "b" \c"#.parse().expect("a name");
        telemetry.polled(&source, Ended::Changed, Duration::from_secs(1));
        telemetry.read(&source, 7);
        let classic = telemetry.text(Format::Text004).expect("text");
        assert!(classic.contains("# TYPE costream_polls_total counter\n"), "{classic}");
        assert!(classic.contains(r#"costream_polls_total{source="a \"b\" \\c",result="changed"} 1"#), "{classic}");
        assert!(classic.contains("costream_source_read_bytes_total{source=\"a \\\"b\\\" \\\\c\"} 7\n"));
        assert!(classic.contains("# HELP costream_exporter_build_info ") && !classic.contains("# EOF"));
        let openmetrics = telemetry.text(Format::OpenMetrics100).expect("text");
        assert!(
            openmetrics.contains("# TYPE costream_polls counter\n") && openmetrics.contains("costream_polls_total{")
        );
        #[cfg(target_os = "linux")]
        assert!(
            classic.contains("# TYPE process_cpu_seconds_total counter\n")
                && classic.contains("process_resident_memory_bytes ")
        );
    }
}
