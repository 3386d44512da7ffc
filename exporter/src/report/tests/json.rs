use super::*;

async fn read_json(text: &str) -> Result<Outcome, DecodeError> {
    read(std::io::Cursor::new(text.to_owned().into_bytes()), DecodeOptions::new("costs.json")).await
}

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|cell| (*cell != "-").then(|| (*cell).to_owned())).collect()
}

#[tokio::test]
async fn every_form_of_json_gives_the_same_rows() {
    let first = r#"{"BilledCost": 0.100000000000000005, "Tags": {"a": "1"}, "ServiceName": "s"}"#;
    let second = r#"{"ServiceName": "", "Tags": null, "BilledCost": "-1.5e-3", "x_n": [1.50, {"k": "v"}]}"#;
    let columns = ["BilledCost", "Tags", "ServiceName", "x_n", "x_row"];
    let rows = [
        row(&["0.100000000000000005", "a=1", "s", "-", "1"]),
        row(&["-0.0015", "-", "", r#"[1.50, {"k": "v"}]"#, "2"]),
    ];
    for text in [
        format!("[{first},{second}]"),
        format!("\u{feff} [\n{first} ,\n {second}\n]\n"),
        format!("{first}\n{second}\n"),
        format!("{first}{second}"),
        format!(r#"{{"kind": "List", "none": [], "texts": ["x"], "items": [{first},{second}], "more": [{{}}]}}"#),
    ] {
        for bytes in [text.clone().into_bytes(), gzip(text.as_bytes()).await, zstd(text.as_bytes()).await] {
            let report = Report::open(std::io::Cursor::new(bytes.clone()), DecodeOptions::new("costs.json")).await;
            let schema = report.expect("a report").schema();
            assert_eq!(
                schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
                columns,
                "{text}"
            );
            let outcome = read(std::io::Cursor::new(bytes), DecodeOptions::new("costs.json")).await.expect("a report");
            assert_eq!((&outcome.rows[..], &outcome.rejected[..]), (&rows[..], &[][..]), "{text}");
        }
    }
}

#[tokio::test]
async fn a_list_of_focus_configs_is_a_cost_report_that_keeps_every_digit() {
    let item = |cost: &str, tags: &str| {
        format!(
            r#"{{"apiVersion": "finops.krateo.io/v1", "kind": "FocusConfig",
                "metadata": {{"name": "x", "managedFields": [{{"manager": "kubectl"}}]}},
                "spec": {{"focusSpec": {{"billedCost": {cost}, "billingPeriodStart": "2024-09-01T00:00:00Z",
                    "regionName": "", "tags": {tags}}}, "scraperConfig": {{"tableName": "t"}}}}}}"#
        )
    };
    let one = item(r#""0.0960000000001""#, r#"[{"key": "org", "value": "a;b"}, {"key": "k", "value": ""}]"#);
    let other = item("2", "null");
    for (text, n_rows) in [
        (format!(r#"{{"apiVersion": "v1", "items": [{one},{other}], "kind": "List", "metadata": {{}}}}"#), 2),
        (format!("[{one},{other}]"), 2),
        (one.clone(), 1),
    ] {
        let outcome = read_json(&text).await.expect("a report");
        assert_eq!(outcome.rejected, []);
        let rows = [
            row(&["0.0960000000001", "2024-09-01T00:00:00Z", "", "org=a;b|k=", "1"]),
            row(&["2", "2024-09-01T00:00:00Z", "", "-", "2"]),
        ];
        assert_eq!(outcome.rows, rows[..n_rows], "{text}");
        assert_eq!(outcome.rules.get("header_case"), Some(&4), "camelCase is said");
    }
}

#[tokio::test]
async fn a_bad_record_is_one_rejected_row() {
    let text = r#"[{"BilledCost": 1, "x_a": "ok"},
        {"BilledCost": NaN},
        {"BilledCost": 1, "billedcost": 2},
        {"BilledCost": null},
        {"x_a": "no cost"},
        {"BilledCost": true},
        {"BilledCost": 1e400},
        {"BilledCost": 1, "Tags": "untagged"},
        {"BilledCost": 1, "Tags": [1]},
        {"BilledCost": 1, "x_a": "\ud83d"},
        5, null, [],
        {"BilledCost": 1 "x_a": 2},
        {"BilledCost": 12345678901234567890.1234567890123456789},
        {"BILLEDCOST": "", "x_a": "x"},
        {"BilledCost": 2, "x_a": null, "ChargePeriodStart": ""}]"#;
    let outcome = read_json(text).await.expect("a report");
    assert_eq!(
        outcome.reasons(),
        [
            (2, None, "not_an_object", r#"{"BilledCost": NaN}"#),
            (3, None, "duplicate_column", r#"{"BilledCost": 1, "billedcost": 2}"#),
            (4, Some("BilledCost"), "missing_amount", ""),
            (5, Some("BilledCost"), "missing_amount", ""),
            (6, Some("BilledCost"), "not_a_number", "true"),
            (7, Some("BilledCost"), "too_many_digits", "1e400"),
            (8, Some("Tags"), "bad_tags", "untagged"),
            (9, Some("Tags"), "bad_tags", "[1]"),
            (10, None, "not_an_object", r#"{"BilledCost": 1, "x_a": "\ud83d"}"#),
            (11, None, "not_an_object", "5"),
            (12, None, "not_an_object", "null"),
            (13, None, "not_an_object", "[]"),
            (14, None, "not_an_object", r#"{"BilledCost": 1 "x_a": 2}"#),
            (15, Some("BilledCost"), "too_many_digits", "12345678901234567890.1234567890123456789"),
            (16, Some("BilledCost"), "missing_amount", ""),
        ]
    );
    assert_eq!(outcome.rows, [row(&["1", "ok", "-", "-", "1"]), row(&["2", "-", "-", "-", "17"])]);
}

#[tokio::test]
async fn json_that_cannot_be_read_is_an_error_that_names_the_place() {
    let small = Limits { max_record_bytes: 100, max_columns: 3, ..Limits::default() };
    let whole = r#"[{"BilledCost": 1},"#;
    let long = "x".repeat(200);
    for (text, error) in [
        ("[]".to_owned(), "costs.csv is empty"),
        (r#"{"items": []}"#.to_owned(), "costs.csv has no column BilledCost"),
        ("[{}]".to_owned(), "costs.csv has no column BilledCost"),
        (format!(r#"{{"items": [], "x": "{long}"}}"#), "costs.csv is JSON without an array of objects"),
        (r#"{"error": {"code": "NotFound"}}"#.to_owned(), "costs.csv has no column BilledCost"),
        (whole.to_owned(), "costs.csv is JSON that ends early, after row 1 (line 1)"),
        (format!("{whole}\n{{\"BilledCost\": \"2"), "costs.csv is JSON that ends early, after row 1 (line 2)"),
        (format!("{whole}\n]"), "costs.csv is no JSON after row 1 (line 2): ']' is out of place"),
        (format!("{whole}{{}}]\n\nx"), "costs.csv is no JSON after row 2 (line 3): 'x' is out of place"),
        (
            format!("{whole}\n\n{{\"BilledCost\": 1, \"x\": \"{long}\"}}]"),
            "row 2 of costs.csv (line 3) is longer than 100 bytes: a quote may be missing",
        ),
        (
            r#"[{"BilledCost": 1, "a": 1}, {"b": 1, "c": 1}]"#.to_owned(),
            "the header of costs.csv has 4 columns, and 3 are the most",
        ),
    ] {
        assert_eq!(error_of(text.as_bytes(), small).await, error, "{text}");
    }
    let name = "x".repeat(300);
    assert_eq!(
        error_of(format!(r#"[{{"BilledCost": 1, "{name}": 2}}]"#).as_bytes(), Limits::default()).await,
        "the header of costs.csv has 300 bytes in one name, and 256 are the most"
    );
}

#[tokio::test]
async fn a_record_that_is_not_utf8_is_one_rejected_row() {
    let bytes = b"[{\"BilledCost\": 1}, {\"BilledCost\": 1, \"x\": \"\xff\"}, {\"BilledCost\": 2}]".to_vec();
    let outcome = read(std::io::Cursor::new(bytes), DecodeOptions::new("costs.json")).await.expect("a report");
    assert_eq!(outcome.reasons(), [(2, None, "not_utf8", "{\"BilledCost\": 1, \"x\": \"\u{fffd}\"}")]);
    assert_eq!(outcome.column(1), [Some("1"), Some("3")]);
}

#[tokio::test]
async fn a_json_list_of_any_length_is_read_within_the_same_memory() {
    // More than all the buffers on the way hold: the list is far longer than a record may be.
    let record = format!(r#"{{"BilledCost": 0.1, "x_note": "{}"}}"#, "n".repeat(1_000));
    let text = format!(r#"{{"items": [{}]}}"#, vec![record.as_str(); 5_000].join(",\n"));
    let limits = Limits { max_record_bytes: 2_000, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new("costs.json") };
    let mut report = Report::open(std::io::Cursor::new(text.into_bytes()), options).await.expect("a report");
    let mut rows = 0;
    while let Some(Decoded::Batch(batch)) = report.next().await.expect("every record is good") {
        rows += batch.num_rows();
    }
    assert_eq!(rows, 5_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_serde_json_writes_is_read_as_it_was(
        rows in proptest::collection::vec(
            ("-?(0|[1-9][0-9]{0,14})\\.[0-9]{1,18}", proptest::option::of("\\PC{0,12}"), "[a-z\"\\\\ é]{1,6}"), 1..20
        ),
        sizes in proptest::collection::vec(1..40_usize, 1..4),
        is_lines in any::<bool>(),
    ) {
        let records: Vec<String> = rows.iter().map(|(cost, note, key)| {
            let note = serde_json::to_string(note).expect("JSON");
            let key = serde_json::to_string(key).expect("JSON");
            format!(r#"{{"BilledCost":{cost},"x_note":{note},"Tags":{{{key}:"v"}}}}"#)
        }).collect();
        let text = if is_lines { records.join("\n") } else { format!("[{}]", records.join(",")) };
        let outcome = runtime().block_on(async {
            let options = DecodeOptions { profile: ProfileName::Strict, ..DecodeOptions::new("costs.json") };
            read(Pieces::new(text.as_bytes(), &sizes), options).await.expect("a report")
        });
        prop_assert_eq!(&outcome.rejected, &[]);
        let expected: Vec<_> = rows.iter().enumerate().map(|(at, (cost, note, key))| vec![
            Some(Amount::parse(cost.as_bytes()).expect("an amount").to_string()),
            note.clone(),
            Some(format!("{key}=v")),
            Some((at + 1).to_string()),
        ]).collect();
        prop_assert_eq!(outcome.rows, expected);
    }
}
