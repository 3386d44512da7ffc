use axum::Router;
use serde_json::{Value, json};

use crate::api::tests::{ask, handler, request, stmt};

const BATCH: &str = include_str!("fixtures/scraper_batch.json");

async fn upload(router: &Router, parameters: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let uri = format!("/upload?{parameters}");
    let json = [("content-type", "application/json")];
    let (status, headers, text) = ask(router, request("POST", &uri, &json, body.into())).await;
    assert_eq!(headers["content-type"], "application/json");
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// Stores records, all of them.
async fn store(router: &Router, parameters: &str, records: &Value) {
    let (status, answer) = upload(router, parameters, records.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["records_processed"], records.as_array().expect("a list").len(), "{answer}");
}

async fn rows(router: &Router, statement: &str) -> Value {
    let (status, body) = stmt(router, statement).await;
    assert_eq!(status, 200, "{statement}: {body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    answer["rows"].clone()
}

/// A charge with a name, an amount, and whatever else.
fn charge(name: &str, cost: &str, more: Value) -> Value {
    let mut labels = json!({
        "BilledCost": cost,
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "ChargePeriodStart": "2026-11-02T00:00:00Z",
        "ServiceName": name,
    });
    let more = more.as_object().expect("labels").clone();
    labels.as_object_mut().expect("labels").extend(more);
    json!({"labels": labels, "value": 0, "timestamp": 1_700_000_000})
}

const COSTS: &str = "SELECT servicename, billedcost::text FROM t ORDER BY 1, 2";

#[tokio::test]
async fn answers_are_those_that_scrapers_know() {
    let (_dir, router) = handler().await;
    let (status, answer) = upload(&router, "table=t&type=cost", BATCH).await;
    assert_eq!(
        (status, &answer["message"], &answer["records_processed"]),
        (200, &json!("Data uploaded successfully"), &json!(5))
    );
    assert!(answer["time_taken"].is_f64() && answer.as_object().expect("an object").len() == 3, "{answer}");
    for (parameters, body, status, expected) in [
        ("table=t", "[]", 200, json!({"result": "No data to process"})),
        ("table=t&type=resource", " [ ]\n", 200, json!({"result": "No data to process"})),
        ("type=cost", "[]", 400, json!({"error": "Table name not specified"})),
        ("table=&type=cost", "[]", 400, json!({"error": "Table name not specified"})),
        ("table=t", "{}", 400, json!({"error": "Data must be a list of records"})),
        ("table=t", "\"x\"", 400, json!({"error": "Data must be a list of records"})),
        ("table=t", "", 400, json!({"error": "Data must be a list of records"})),
        (
            "table=t",
            "[{]",
            400,
            json!({"error": "Request must be JSON", "reason": "record 0: key must be a string at line 1 column 2"}),
        ),
        (
            "table=t",
            "[{\"labels\": nope}]",
            400,
            json!({"error": "Request must be JSON", "reason": "record 0: expected ident at line 1 column 13"}),
        ),
        (
            "table=t",
            "[{\"labels\": {\"BilledCost\": \"1\"}}",
            400,
            json!({"error": "Request must be JSON", "reason": "the array has no end: the body was cut after byte 32"}),
        ),
        (
            "table=t",
            "[{\"labels\": {\"BilledCost\": \"1\"}} 2]",
            400,
            json!({"error": "Request must be JSON", "reason": "byte 33: , or ] is expected"}),
        ),
        (
            "table=t&type=costs",
            "[]",
            400,
            json!({"error": "query parameter type: \"costs\": cost, resource or generic is taken"}),
        ),
        (
            "table=t&type=generic&value=x",
            "[]",
            400,
            json!({"error": "query parameter value: \"x\": the place of a label, from 0, is taken"}),
        ),
        ("table=t&rejects=drop", "[]", 400, json!({"error": "query parameter rejects: \"drop\": keep is taken"})),
        ("table=a.b", "[]", 400, json!({})),
        ("table=t%22%3B+drop+table+t%3B--", "[]", 400, json!({})),
    ] {
        let (got, answer) = upload(&router, parameters, body).await;
        assert_eq!(got, status, "{parameters} {body}: {answer}");
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(answer[name], *value, "{parameters} {body}");
        }
        assert!(status == 200 || !answer["error"].as_str().expect("a text").is_empty(), "{answer}");
    }
    for media_type in ["text/plain", "application/octet-stream", ""] {
        let request = request("POST", "/upload?table=t", &[("content-type", media_type)], "[]");
        let (status, _, answer) = ask(&router, request).await;
        assert!(status == 400 && answer.contains(r#""error":"Request must be JSON""#), "{media_type}: {answer}");
    }
    for media_type in ["application/json; charset=utf-8", "application/vnd.api+json"] {
        let request = request("POST", "/upload?table=t", &[("content-type", media_type)], "[]");
        assert_eq!(ask(&router, request).await.0, 200, "{media_type}");
    }
}

#[tokio::test]
async fn a_batch_of_the_old_scraper_is_stored_once_with_its_tags_and_amounts() {
    let (_dir, router) = handler().await;
    for _ in 0..2 {
        upload(&router, "table=Old&type=cost", BATCH).await;
        let all = "SELECT count(*), sum(billedcost)::text, min(listunitprice)::text FROM old";
        assert_eq!(rows(&router, all).await, json!([[5, "2.636300800000000000", "0.000000400000000000"]]));
    }
    let tags = "SELECT tags['CostCenter'], tags['url'], tags['app.kubernetes.io/name'], id, availabilityzone, chargeclass FROM old WHERE tags['org'] = 'test'";
    assert_eq!(rows(&router, tags).await, json!([["1234", "http://a.example:80/b", "web", "2", "", null]]));
    let times = "SELECT DISTINCT billingperiodstart, chargeperiodend, x_source, x_scope FROM old";
    assert_eq!(rows(&router, times).await, json!([[1_725_148_800_000_i64, 1_727_150_400_000_i64, "upload", null]]));
    // Of the three that differ in amounts alone, or not at all, each is a charge.
    let equal = "SELECT billedcost::text, x_row FROM old WHERE id = '3' ORDER BY x_row";
    let (one, other) = ("1.500000000000000000", "2.250000000000000000");
    assert_eq!(rows(&router, equal).await, json!([[one, 1], [one, 2], [other, 3]]));
}

#[tokio::test]
async fn a_restated_charge_replaces_all_of_its_amounts_and_no_other_charge() {
    let (_dir, router) = handler().await;
    let amounts = |cost: &str, effective: &str| json!({"EffectiveCost": effective, "ConsumedQuantity": cost, "x_BilledCostInUsd": cost});
    let first = json!([
        charge("a", "1", amounts("1", "10")),
        charge("b", "2", amounts("2", "20")),
        charge("b", "2", amounts("2", "20"))
    ]);
    store(&router, "table=t", &first).await;
    // The time in another form, a column that is empty: the same charges.
    let again = |name: &str, cost: &str| {
        let mut restated = charge(name, cost, amounts("", "7"));
        restated["labels"]["ChargePeriodStart"] = "2026-11-02 00:00:00".into();
        restated["labels"]["RegionId"] = "".into();
        restated
    };
    store(&router, "table=t", &json!([again("b", "3"), again("c", "4")])).await;
    let all = "SELECT servicename, billedcost::text, effectivecost::text, consumedquantity, x_billedcostinusd, x_row FROM t ORDER BY 1, x_row";
    let decimal = |number: u8| json!(format!("{number}.000000000000000000"));
    assert_eq!(
        rows(&router, all).await,
        json!([
            ["a", decimal(1), json!("10.000000000000000000"), 1.0, "1", 1],
            ["b", decimal(3), decimal(7), null, "", 1],
            ["b", decimal(2), json!("20.000000000000000000"), 2.0, "2", 2],
            ["c", decimal(4), decimal(7), null, "", 1],
        ])
    );
    // Another tag, another charge; the same tags in another form and order, the same.
    let tagged = |tags: Value, cost: &str| charge("tagged", cost, json!({"Tags": tags}));
    store(&router, "table=t", &json!([tagged(json!({"a": "1", "b": "2"}), "1"), tagged(json!("a=1;b=3"), "2")])).await;
    store(&router, "table=t", &json!([tagged(json!("b: 2; a: 1"), "5")])).await;
    let tagged = "SELECT tags['b'], billedcost::text FROM t WHERE servicename = 'tagged' ORDER BY 1";
    assert_eq!(rows(&router, tagged).await, json!([["2", decimal(5)], ["3", decimal(2)]]));
}

#[tokio::test]
async fn records_of_one_request_may_have_different_labels() {
    let (_dir, router) = handler().await;
    let records = json!([
        charge("a", "1", json!({})),
        charge("b", "2", json!({"RegionId": "r", "x_Team": "blue", "ListCost": "3", "Tags": "k=v"})),
        charge("c", "3", json!({"x_other": "z", "RegionId": null})),
    ]);
    store(&router, "table=t", &records).await;
    let all = "SELECT servicename, regionid, x_team, listcost, tags['k'], x_other FROM t ORDER BY 1";
    assert_eq!(
        rows(&router, all).await,
        json!([
            ["a", null, null, null, null, null],
            ["b", "r", "blue", 3.0, "v", null],
            ["c", null, null, null, null, "z"]
        ])
    );
}

#[tokio::test]
async fn tags_in_every_form_become_a_map() {
    let (_dir, router) = handler().await;
    let forms = [
        json!(r#"{"k.x": "a:b"}"#),
        json!({"k.x": "a:b"}),
        json!(r#""k.x": "a:b""#),
        json!("k.x:a:b;l:1"),
        json!("k.x: a:b; l: 1"),
        json!("k.x=a:b;l=1"),
        json!(r#"[{"key": "k.x", "value": "a:b"}]"#),
        json!("NULL"),
        json!(""),
        json!(null),
    ];
    let records =
        forms.iter().enumerate().map(|(at, tags)| charge(&at.to_string(), "1", json!({"Tags": tags}))).collect();
    store(&router, "table=t", &Value::Array(records)).await;
    let found = rows(&router, "SELECT servicename FROM t WHERE tags['k.x'] = 'a:b' ORDER BY 1").await;
    assert_eq!(found, json!([["0"], ["1"], ["2"], ["3"], ["4"], ["5"], ["6"]]));
    assert_eq!(rows(&router, "SELECT count(*) FROM t WHERE tags IS NULL").await, json!([[3]]));
}

#[tokio::test]
async fn a_record_that_cannot_be_stored_is_named_and_nothing_is() {
    let (_dir, router) = handler().await;
    let good = charge("good", "1", json!({}));
    let long = "ü".repeat(10_000);
    for (bad, column, reason, text) in [
        (charge("a", "oops", json!({})), json!("BilledCost"), "not_a_number", "oops"),
        (charge("a", "1e30", json!({})), json!("BilledCost"), "too_many_digits", "1e30"),
        (charge("a", "", json!({})), json!("BilledCost"), "missing_amount", ""),
        (charge("a", "1", json!({"BilledCost": null})), json!("BilledCost"), "missing_amount", ""),
        (charge("a", "1", json!({"ListCost": "NaN"})), json!("ListCost"), "not_a_number", "NaN"),
        (charge("a", "1", json!({"ChargePeriodStart": "soon"})), json!("ChargePeriodStart"), "not_a_time", "soon"),
        (charge("a", "1", json!({"Tags": "untagged"})), json!("Tags"), "bad_tags", "untagged"),
        (charge("a", "1", json!({"x_source": "me"})), json!("x_source"), "bad_name", "x_source"),
        (
            charge("a", "1", json!({"a\"; DROP TABLE t; --": "x"})),
            json!("a\"; DROP TABLE t; --"),
            "bad_name",
            "a\"; DROP TABLE t; --",
        ),
        (charge("a", "1", json!({"": "x"})), json!(""), "bad_name", ""),
        (charge("a", "1", json!({"servicename": "x"})), json!("servicename"), "name_twice", "servicename"),
        (json!({"value": 1}), json!(null), "no_record", r#"{"value":1}"#),
        (json!([1]), json!(null), "no_record", "[1]"),
        (json!(null), json!(null), "no_record", "null"),
    ] {
        let records = json!([good, good, bad, good]);
        let (status, answer) = upload(&router, "table=t", records.to_string()).await;
        assert_eq!(status, 400, "{bad}: {answer}");
        assert_eq!(
            (&answer["index"], &answer["column"], &answer["reason"], &answer["text"]),
            (&json!(2), &column, &json!(reason), &json!(text)),
            "{bad}: {answer}"
        );
        let error = answer["error"].as_str().expect("a text");
        assert!(error.starts_with("record 2") && error.contains(reason), "{error}");
        assert_eq!(stmt(&router, "SELECT * FROM t").await.0, 404, "{bad}: no table was made");
    }
    let (status, answer) =
        upload(&router, "table=t", json!([charge("a", "1", json!({(long.as_str()): "x"}))]).to_string()).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("bad_name")));
    let (status, answer) =
        upload(&router, "table=t", json!([charge(&"x".repeat(super::MAX_ELEMENT_BYTES), "1", json!({}))]).to_string())
            .await;
    assert_eq!((status, &answer["index"], &answer["reason"]), (400, &json!(0), &json!("too_long")));
    let wide = (0..=super::MAX_LABELS).map(|at| (format!("l{at}"), json!("x"))).collect();
    let (status, answer) = upload(&router, "table=t", json!([{"labels": Value::Object(wide)}]).to_string()).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("no_record")));
}

#[tokio::test]
async fn rejects_are_kept_when_they_are_asked_to_be_and_the_rest_is_stored() {
    let (_dir, router) = handler().await;
    let records = json!([
        charge("a", "1", json!({})),
        charge("b", "oops", json!({"x_new": "1"})),
        {"labels": 1},
        charge("c", "2", json!({"ChargePeriodStart": "soon"})),
        charge("d", "3", json!({})),
    ]);
    for _ in 0..2 {
        let (status, answer) = upload(&router, "table=t&rejects=keep", records.to_string()).await;
        assert_eq!((status, &answer["records_processed"], &answer["records_rejected"]), (200, &json!(2), &json!(3)));
        let stored = json!([["a", "1.000000000000000000"], ["d", "3.000000000000000000"]]);
        assert_eq!(rows(&router, COSTS).await, stored);
        let rejects = "SELECT source, file, row, \"column\", reason, text, x_source FROM rejects ORDER BY row";
        assert_eq!(
            rows(&router, rejects).await,
            json!([
                ["upload", "t", 2, "BilledCost", "not_a_number", "oops", "upload"],
                ["upload", "t", 3, null, "no_record", r#"{"labels":1}"#, "upload"],
                ["upload", "t", 4, "ChargePeriodStart", "not_a_time", "soon", "upload"],
            ])
        );
    }
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 't' AND column_name = 'x_new'";
    assert_eq!(rows(&router, columns).await, json!([[0]]), "a refused record leaves no column");
    // A body that breaks off leaves neither rows nor rejects.
    let cut = json!([charge("e", "1", json!({})), charge("f", "oops", json!({}))]).to_string();
    let (status, _) = upload(&router, "table=t&rejects=keep", &cut[..cut.len() - 1]).await;
    assert_eq!(status, 400);
    assert_eq!(rows(&router, "SELECT count(*) FROM t").await, json!([[2]]));
    assert_eq!(rows(&router, "SELECT count(*) FROM rejects").await, json!([[3]]));
}

#[tokio::test]
async fn a_resource_table_has_five_columns_and_one_row_for_a_point() {
    let (_dir, router) = handler().await;
    let point = |time: &str, average: Value, unit: Value| json!({"labels": {"ResourceId": "/vm1", "average": average, "metricName": "Percentage CPU", "timestamp": time, "unit": unit}, "value": 0});
    let (t1, t2) = ("2024-09-18T10:00:00Z", "2024-09-18T10:15:00Z");
    let points = json!([
        point(t1, json!("0.12345678901234"), json!("Percent")),
        point(t2, json!("1"), json!("Percent")),
        point(t2, json!(2.5), json!("Percent")),
    ]);
    for _ in 0..2 {
        store(&router, "table=vm_res&type=resource", &points).await;
        let all = "SELECT * FROM vm_res ORDER BY timestamp";
        let (_, body) = stmt(&router, all).await;
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["cols"], json!(["resourceid", "metricname", "timestamp", "average", "unit"]));
        assert!(body.contains(r#"["/vm1","Percentage CPU",1726653600000,0.123456789012340000,"Percent"],["/vm1","Percentage CPU",1726654500000,2.500000000000000000,"Percent"]"#), "{body}");
    }
    for (bad, column, reason) in [
        (point(t1, json!(null), json!("Percent")), "average", "missing"),
        (point("", json!("1"), json!("Percent")), "timestamp", "missing"),
        (
            json!({"labels": {"ResourceId": "", "metricName": "m", "timestamp": t1, "average": "1"}}),
            "ResourceId",
            "missing",
        ),
        (
            json!({"labels": {"ResourceId": "a", "metricName": "m", "timestamp": t1, "average": "1", "x": "y"}}),
            "x",
            "unexpected_label",
        ),
    ] {
        let (status, answer) = upload(&router, "table=vm_res&type=resource", json!([bad]).to_string()).await;
        assert_eq!((status, &answer["column"], &answer["reason"]), (400, &json!(column), &json!(reason)), "{answer}");
    }
}

#[tokio::test]
async fn generic_records_are_kept_by_all_but_their_value() {
    let (_dir, router) = handler().await;
    let record = |month: &str, note: &str, team: &str, tokens: &str| json!({"labels": {"month": month, "note": note, "team": team, "tokens": tokens}, "value": tokens.parse::<f64>().ok()});
    // The place is that of the sender's table (team, month, tokens, note), and the labels are sorted: the value tells.
    let first = json!([
        record("2024-09", "a \"b\", c", "ml", "12.5"),
        record("2024-09", "a \"b\", c", "ml", "12.5"),
        record("2024-09", "", "web", "3"),
    ]);
    let all = "SELECT month, note, team, tokens, x_row FROM g ORDER BY team, x_row";
    for _ in 0..2 {
        store(&router, "table=g&type=generic&value=2", &first).await;
        let expected = json!([
            ["2024-09", "a \"b\", c", "ml", 12.5, 1],
            ["2024-09", "a \"b\", c", "ml", 12.5, 2],
            ["2024-09", "", "web", 3.0, 1]
        ]);
        assert_eq!(rows(&router, all).await, expected);
    }
    store(
        &router,
        "table=g&type=generic&value=3",
        &json!([record("2024-09", "", "web", "4"), record("2024-10", "", "web", "5")]),
    )
    .await;
    let expected = json!([["web", 4.0], ["web", 5.0]]);
    assert_eq!(rows(&router, "SELECT team, tokens FROM g WHERE team = 'web' ORDER BY 2").await, expected);
    // Without a value every label is text, and part of the key.
    store(&router, "table=h&type=generic", &json!([record("m", "n", "t", "1"), record("m", "n", "t", "2")])).await;
    assert_eq!(rows(&router, "SELECT tokens FROM h ORDER BY 1").await, json!([["1"], ["2"]]));
    for (parameters, body, reason) in [
        ("table=g&type=generic&value=3", json!([record("m", "n", "t", "many")]), "not_a_number"),
        ("table=g&type=generic&value=9", json!([{"labels": {"a": "x"}}]), "no_value"),
    ] {
        let (status, answer) = upload(&router, parameters, body.to_string()).await;
        assert_eq!((status, &answer["reason"]), (400, &json!(reason)), "{answer}");
    }
}

#[tokio::test]
async fn odd_texts_come_back_as_they_were() {
    let (_dir, router) = handler().await;
    let long = "Ä\"';--\u{0}\u{1F600} ".repeat(1_000);
    let texts = [
        "'; DROP TABLE t; --",
        "\"quoted\"",
        "line\nbreak\ttab",
        "ünïcödé \u{1F600}",
        "$1 ? %s",
        long.as_str(),
        " blank ",
    ];
    let records =
        texts.iter().map(|text| charge(text, "1", json!({"Tags": {(*text): *text}, "x_größe/€:é": text}))).collect();
    store(&router, "table=t", &Value::Array(records)).await;
    for text in texts {
        let body =
            json!({"stmt": "SELECT servicename, tags, \"x_größe/€:é\" FROM t WHERE servicename = ?", "args": [text]});
        let (status, _, answer) = ask(&router, request("POST", "/_sql", &[], body.to_string())).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, &answer["rows"]), (200, &json!([[text, {(text): text}, text]])));
    }
}

/// More different records than are counted at a time, equal ones near and far.
#[tokio::test]
async fn a_long_request_keeps_every_charge_and_can_be_repeated() {
    let (_dir, router) = handler().await;
    let records: Vec<_> =
        (0..3_000).map(|at| charge(&(at % 700).to_string(), &format!("0.{at:04}"), json!({}))).collect();
    let sum = (0..3_000).sum::<u32>();
    let expected = json!([[3_000, 700, 5, format!("{}.{:04}{}", sum / 10_000, sum % 10_000, "0".repeat(14))]]);
    let records = Value::Array(records);
    for _ in 0..2 {
        store(&router, "table=t", &records).await;
        let all = "SELECT count(*), count(DISTINCT servicename), max(x_row), sum(billedcost)::text FROM t";
        assert_eq!(rows(&router, all).await, expected);
    }
    let distinct = "SELECT count(*) FROM (SELECT x_key, x_row FROM t GROUP BY 1, 2)";
    assert_eq!(rows(&router, distinct).await, json!([[3_000]]));
}

#[tokio::test]
async fn uploaded_charges_stand_beside_delivered_ones() {
    let (_dir, router) = handler().await;
    store(&router, "table=costs", &json!([charge("uploaded", "1", json!({}))])).await;
    let uri = "/upload?table=costs&source=aws&scope=a.csv&snapshot=20261122T130501123Z";
    let arrow = [("content-type", crate::api::ARROW_STREAM)];
    let body = crate::api::upload::tests::stream_of(&["delivered"]);
    let (status, _, answer) = ask(&router, request("POST", uri, &arrow, body)).await;
    assert_eq!(status, 200, "{answer}");
    store(&router, "table=costs", &json!([charge("uploaded", "2", json!({}))])).await;
    let all = "SELECT servicename, x_source, billedcost FROM costs ORDER BY 1";
    assert_eq!(rows(&router, all).await, json!([["delivered", "aws", 1.5], ["uploaded", "upload", 2.0]]));
    // Rows of another kind do not go there.
    let (status, answer) = upload(&router, "table=costs&type=generic", r#"[{"labels": {"a": "b"}}]"#).await;
    assert!(status == 400 && answer["error"].as_str().expect("a text").contains("x_snapshot"), "{answer}");
}
