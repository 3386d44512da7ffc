use super::super::encode::TextWriter;
use super::super::escape::unescape_name;
use super::*;
use proptest::prelude::*;

const OPEN: Format = Format::OpenMetrics100;
const TEXT: Format = Format::Text004;

/// What a body says, one line an entry, as fed in pieces that end at `cuts`.
fn said(format: Format, limits: Limits, body: &[u8], cuts: &[usize]) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder::new(format, limits);
    let mut said = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([body.len()]) {
        let mut piece = &body[from..to.max(from)];
        from = to.max(from);
        while let Some(entry) = decoder.decode(&mut piece)? {
            said.push(format!("{entry:?}"));
        }
    }
    while let Some(entry) = decoder.finish()? {
        said.push(format!("{entry:?}"));
    }
    Ok(said)
}

/// The only sample of a body.
fn sample(format: Format, body: &str, check: impl FnOnce(Sample<'_>)) {
    let mut decoder = Decoder::new(format, Limits::default());
    let body = format!("{body}\n");
    let mut rest = body.as_bytes();
    match decoder.decode(&mut rest) {
        Ok(Some(Entry::Sample(found))) => check(found),
        other => panic!("{body:?} gave {other:?}"),
    }
    assert!(rest.is_empty());
}

#[test]
fn samples_are_read_in_all_their_forms() {
    /// Line; name, labels, value and timestamp.
    type Case =
        (Format, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, Option<i64>);
    let cases: &[Case] = &[
        (TEXT, "up 1", "up", &[], "1", None),
        (TEXT, "up{} NaN", "up", &[], "NaN", None),
        (TEXT, "up{}1", "up", &[], "1", None),
        (TEXT, " \tup \t{ a = \"1\" ,\tb=\"2\", } \t+Inf \t-5 ", "up", &[("a", "1"), ("b", "2")], "+Inf", Some(-5)),
        (
            TEXT,
            "a:b{c=\"\"} 12345678901234567890.123456789012345678 1700000000007",
            "a:b",
            &[("c", "")],
            "12345678901234567890.123456789012345678",
            Some(1_700_000_000_007),
        ),
        (TEXT, r#"up{a="q\" b\\ n\n u\x {},= #"} 1"#, "up", &[("a", "q\" b\\ n\n u\\x {},= #")], "1", None),
        (
            TEXT,
            "up{a=\"\u{e4}\u{1f4b6}\",b=\"\\\\\u{1f4b6}\"} -1e-7\r",
            "up",
            &[("a", "\u{e4}\u{1f4b6}"), ("b", "\\\u{1f4b6}")],
            "-1e-7",
            None,
        ),
        (
            TEXT,
            r#"{"metric.name","label name"="v\"",x="y"} 1"#,
            "metric.name",
            &[("label name", "v\""), ("x", "y")],
            "1",
            None,
        ),
        (TEXT, r#"{x="y","quo\"ted"} 1"#, "quo\"ted", &[("x", "y")], "1", None),
        (TEXT, r#"up{"a b"="c"} 1"#, "up", &[("a b", "c")], "1", None),
        (OPEN, "up 1 1700000000.0071", "up", &[], "1", Some(1_700_000_000_007)),
        (OPEN, "up 1 -1", "up", &[], "1", Some(-1000)),
        (OPEN, r#"a_bucket{le="1"} 11 # {trace_id="K\"5"} 9.8 1520879607.789"#, "a_bucket", &[("le", "1")], "11", None),
        (OPEN, r#"a_bucket{le="1"} 11 1 # {} 9.8"#, "a_bucket", &[("le", "1")], "11", Some(1000)),
    ];
    for (format, line, name, labels, value, timestamp_ms) in cases {
        sample(*format, line, |sample| {
            assert_eq!(
                (sample.name, sample.value, sample.timestamp_ms, sample.line),
                (*name, *value, *timestamp_ms, 1),
                "{line}"
            );
            assert_eq!(sample.labels.iter().collect::<Vec<_>>(), *labels, "{line}");
        });
    }
}

#[test]
fn comments_are_read() {
    let body = "# HELP up Whether\\n\\\\ it \"is\".\r\n#TYPE up gauge\n# TYPE \"a.b\" counter \n# UNIT up seconds\n\n# any EOF\n# HELP\n# EOF";
    let open = said(OPEN, Limits::default(), body.as_bytes(), &[]).expect("a good body");
    assert_eq!(
        open,
        [
            r#"Help { family: "up", text: "Whether\n\\ it \"is\"." }"#,
            r#"Type { family: "up", kind: Gauge }"#,
            r#"Type { family: "a.b", kind: Counter }"#,
            r#"Unit { family: "up", unit: "seconds" }"#,
            "Eof",
        ]
    );
    let text = said(TEXT, Limits::default(), body.as_bytes(), &[]).expect("a good body");
    assert_eq!(text, open[..3]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let limits = Limits { max_line_bytes: 40, max_labels: 2, max_label_value_bytes: 8 };
    let cases: &[(Format, &[u8], &str)] = &[
        (TEXT, b"\nup", "line 2: no blank or brace after the metric name at byte 3"),
        (TEXT, b"up ", "line 1: \"\" is no value"),
        (TEXT, b"up x\n", "line 1: \"x\" is no value"),
        (TEXT, b"up 1 x", "line 1: \"x\" is no timestamp"),
        (TEXT, b"up 1 1.5", "line 1: \"1.5\" is no timestamp"),
        (OPEN, b"up 1 1e30", "line 1: \"1e30\" is no timestamp"),
        (OPEN, b"up 1 NaN", "line 1: \"NaN\" is no timestamp"),
        (TEXT, b"up 1 1 1", "line 1: no end of the line at byte 8"),
        (TEXT, b"up 1 # {} 1", "line 1: no end of the line at byte 6"),
        (TEXT, b"0up 1", "line 1: no metric name at byte 1"),
        (TEXT, b"{} 1", "line 1: no metric name before or within the braces at byte 4"),
        (TEXT, b"up{\"up\"} 1", "line 1: no equals sign after the label name at byte 8"),
        (TEXT, b"up{a} 1", "line 1: no equals sign after the label name at byte 5"),
        (TEXT, b"up{a=1} 1", "line 1: no quote at byte 6"),
        (TEXT, b"up{a=\"1} 1", "line 1: no closing quote at byte 11"),
        (TEXT, b"up{a=\"1\\", "line 1: no closing quote at byte 9"),
        (TEXT, b"up{a=\"1\" b=\"2\"} 1", "line 1: no comma or closing brace at byte 10"),
        (TEXT, b"up{a=\"1\"", "line 1: no comma or closing brace at byte 9"),
        (TEXT, b"up{a:b=\"1\"} 1", "line 1: no equals sign after the label name at byte 5"),
        (TEXT, b"up{,} 1", "line 1: no label name or closing brace at byte 4"),
        (TEXT, b"up{a=\"\xff\"} 1", "line 1: not UTF-8"),
        (TEXT, b"up{a=\"1\",b=\"2\",c=\"3\"} 1", "line 1: more than 2 labels"),
        (TEXT, b"up{a=\"123456789\"} 1", "line 1: a label value longer than 8 bytes"),
        (TEXT, b"# 3456789 123456789 123456789 123456789 1", "line 1: longer than 40 bytes"),
        (TEXT, b"# TYPE up gouge", "line 1: unknown type \"gouge\""),
        (TEXT, b"# TYPE up gauge x", "line 1: no end of the line at byte 17"),
        (TEXT, b"# TYPE 1 gauge", "line 1: no metric name at byte 8"),
        (OPEN, b"up 1\n", "line 1: the body ends without # EOF"),
        (OPEN, b"# EOF\nup 1\n", "line 2: text after # EOF"),
        (OPEN, b"up 1 # 1", "line 1: no brace of the exemplar at byte 8"),
    ];
    for (format, body, error) in cases {
        for cuts in [vec![], (0..body.len()).collect()] {
            let found = said(*format, limits, body, &cuts).expect_err("a bad body").to_string();
            assert_eq!(found, *error, "{:?}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn a_line_without_end_does_not_grow_beyond_its_bound() {
    let limits = Limits { max_line_bytes: 100, ..Limits::default() };
    let mut decoder = Decoder::new(TEXT, limits);
    let error = (0..1000).find_map(|_| decoder.decode(&mut &b"0123456789"[..]).err()).expect("a bound");
    assert_eq!(error.to_string(), "line 1: longer than 100 bytes");
    assert!(decoder.partial.capacity() <= 200);
}

/// Texts that are hard to carry.
fn texts(longest: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        r#"[\\"\n\r\t {}=,#a]*"#,
        (r#"[\\"\na\x{1f4b6}]{1,8}"#, 1..longest).prop_map(|(text, times)| text.repeat(times)),
    ]
}

type Written = (String, Vec<(String, String)>, String, Option<i64>);

fn samples() -> impl Strategy<Value = Vec<Written>> {
    let value =
        prop_oneof!["[-+]?[0-9]{1,20}([.][0-9]{0,18})?", any::<f64>().prop_map(crate::exposition::encode::float),];
    let labels = proptest::collection::vec((any::<String>(), texts(1250)), 0..6);
    let timestamp = proptest::option::of(-1_000_000_000_000_i64..10_000_000_000_000);
    proptest::collection::vec((any::<String>(), labels, value, timestamp), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(samples in samples(), help in texts(10), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        for format in [TEXT, OPEN] {
            let mut writer = TextWriter::new(format);
            writer.family("family", Kind::Gauge, &help);
            for (name, labels, value, timestamp_ms) in &samples {
                writer.sample(name, labels.iter().map(|(k, v)| (k, v)), value, *timestamp_ms);
            }
            writer.finish();
            let body = writer.take();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            cuts.sort_unstable();

            let mut decoder = Decoder::new(format, Limits::default());
            let mut read: Vec<Written> = Vec::new();
            let mut found_help = None;
            let mut from = 0;
            for to in cuts.into_iter().chain([body.len()]) {
                let mut piece = &body[from..to];
                from = to;
                while let Some(entry) = decoder.decode(&mut piece).expect("our own text") {
                    match entry {
                        Entry::Sample(sample) => read.push((
                            unescape_name(sample.name).into_owned(),
                            sample.labels.iter().map(|(k, v)| (unescape_name(k).into_owned(), v.to_owned())).collect(),
                            sample.value.to_owned(),
                            sample.timestamp_ms,
                        )),
                        Entry::Help { text, .. } => found_help = Some(text.to_owned()),
                        _ => {}
                    }
                }
            }
            prop_assert!(decoder.finish().expect("our own text").is_none());
            prop_assert_eq!(&read, &samples);
            // A carriage return before the line's end is taken for a part of it, blanks before the text for none.
            let found_help = found_help.expect("a help line");
            prop_assert!(help.trim_start_matches([' ', '\t']).starts_with(&found_help) || found_help == help);
        }
    }

    #[test]
    fn any_split_decodes_the_same(
        lines in proptest::collection::vec(prop_oneof![
            Just("up{a=\"1\",b=\"\\n\u{1f4b6}\"} 1 2"), Just("{\"m.n\"} NaN"), Just("# TYPE up gauge"), Just(""), Just("# HELP up x\\ny\r"),
            Just("up{"), Just("up 1 x"), Just("# EOF"), Just("up{a=\"12345678901234567890\"} 1"),
        ], 0..12),
        ended: bool,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let body = lines.join("\n") + if ended { "\n" } else { "" };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let limits = Limits { max_line_bytes: 40, max_labels: 2, max_label_value_bytes: 18 };
        for format in [TEXT, OPEN] {
            prop_assert_eq!(said(format, limits, body.as_bytes(), &cuts), said(format, limits, body.as_bytes(), &[]));
        }
    }
}

/// What Prometheus' own reader says of a body; nothing when it is not installed.
fn promtool(body: &str) -> Option<(Option<i32>, String)> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert_ne!(
            std::env::var("COSTREAM_TEST_REQUIRE").as_deref(),
            Ok("all"),
            "promtool is not installed (Debian's package prometheus)"
        );
        eprintln!("skipped: promtool is not installed (Debian's package prometheus)");
        return None;
    };
    child.stdin.take().expect("a pipe").write_all(body.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn promtool_has_nothing_to_say_of_our_text() {
    let mut writer = TextWriter::new(TEXT);
    writer.family("billed_cost", Kind::Gauge, "One \"charge\" a sample,\nexact: C:\\.");
    let long = "\"\\\n\u{e4}\u{1f4b6}\t,={}#".repeat(700);
    for row in 1..4 {
        let row = row.to_string();
        writer.sample(
            "billed_cost",
            [("Service Name", long.as_str()), ("U__a", "b"), ("\u{e4}:", ""), ("x_row", &row)],
            "12345678901234567890.123456789012345678",
            Some(1_700_000_000_007),
        );
    }
    writer.family("polls", Kind::Counter, "Polls.");
    writer.sample("polls", [("", "empty name")], "NaN", None);
    let body = String::from_utf8(writer.take().to_vec()).expect("text");
    let Some(found) = promtool(&body) else { return };
    assert_eq!(found, (Some(0), String::new()), "{body}");
}

#[test]
fn promtool_takes_and_refuses_what_we_do() {
    for body in [
        "up 1\n",
        "up{} NaN\n",
        " \tup \t{ a = \"1\" ,\tb=\"2\", } \t+Inf \t-5\n",
        "up{a=\"q\\\" b\\\\ n\\n {},= #\"} 1\n",
        "up 1e-7\n",
        "up .5\n",
        "up 5.\n",
        "up infinity\n",
        "# any\nup 1\n",
        "#TYPE up gauge\nup 1\n",
        "# TYPE up  counter\nup 1\n",
        "# HELP up\nup 1\n",
        "up\n",
        "up \n",
        "up x\n",
        "up 1 x\n",
        "up 1 1.5\n",
        "up 1 1 1\n",
        "0up 1\n",
        "{} 1\n",
        "up{a} 1\n",
        "up{a=1} 1\n",
        "up{a=\"1} 1\n",
        "up{a=\"1\" b=\"2\"} 1\n",
        "up{a:b=\"1\"} 1\n",
        "up{,} 1\n",
        "up{0=\"1\"} 1\n",
        "# TYPE up gouge\nup 1\n",
        "# TYPE up gauge x\nup 1\n",
        "up 1 # {} 1\n",
    ] {
        let ours = said(TEXT, Limits::default(), body.as_bytes(), &[]);
        let Some((status, said)) = promtool(body) else { return };
        // 3: read, and something said about names or helps.
        assert_eq!(ours.is_ok(), matches!(status, Some(0 | 3)), "{body:?}: {ours:?}, promtool: {said}");
    }
}
