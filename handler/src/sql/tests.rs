//! The door over a Delta store in a temporary directory: CrateDB's forms, exactness, errors, limits.

use bytes::Bytes;
use costream_common::config::Span;
use futures::TryStreamExt as _;

use super::gateway::{Answer, Request, answer};
use super::*;
use crate::store::Store;
use crate::store::conformance::{Row, key, next_moment, replace, row};
use crate::store::delta::{DeltaOptions, DeltaStore};

/// Runs for days.
const ENDLESS: &str =
    "SELECT count(*) FROM generate_series(1, 10000000) a(x), generate_series(1, 10000000) b(y) WHERE x + y = 7";

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = DeltaStore::open(DeltaOptions::in_directory(dir.path()).expect("options")).expect("a store");
    (dir, store.into())
}

async fn charges() -> (tempfile::TempDir, Engine) {
    let (dir, store) = store();
    let rows = [
        Row {
            tags: &[("org", "test")],
            ..row("2026-10-01T00:00:00Z", "12345678901234567890.123456789012345678", "compute")
        },
        row("2026-10-01T00:00:00Z", "-0.000000000000000001", "storage"),
        Row { tags: &[("org", "prod"), ("a b", "x")], ..row("2026-11-01T00:00:00Z", "0.1", "compute") },
    ];
    replace(&store, &key("aws", "a.csv"), 1, &rows).await;
    (dir, Engine::new(store.read.clone(), Limits::default()))
}

/// The answer's text without its duration.
async fn text(engine: &Engine, sql: &str, args: &str, options: &Options) -> Result<String, SqlError> {
    let body = format!("{{\"stmt\":{},\"args\":{args}}}", serde_json::Value::from(sql));
    let request = Request::read(body.as_bytes())?;
    let rows = engine.execute(&request.statement, &request.args, options).await?;
    let text = match answer(rows, true, Instant::now()).await? {
        Answer::Whole(text) => text.to_vec(),
        Answer::Pieces(pieces) => pieces.try_collect::<Vec<Bytes>>().await?.concat(),
    };
    let text = String::from_utf8(text).expect("UTF-8");
    let end = text.rfind(",\"duration\":").expect("a duration");
    Ok(text[..end].to_owned())
}

async fn rows(engine: &Engine, sql: &str, args: &str) -> Result<String, SqlError> {
    let text = text(engine, sql, args, &Options::default()).await?;
    let (from, to) = (text.find("\"rows\":").expect("rows"), text.rfind(",\"rowcount\":").expect("a count"));
    Ok(text[from + "\"rows\":".len()..to].to_owned())
}

#[tokio::test]
async fn cratedbs_queries_are_answered() {
    let (_dir, engine) = charges().await;
    for (sql, args, expected) in [
        // names and tags
        (
            "SELECT x_row, ServiceName FROM \"doc\".\"costs\" ORDER BY x_row",
            "[]",
            r#"[[1,"compute"],[2,"storage"],[3,"compute"]]"#,
        ),
        ("SELECT x_row FROM costs WHERE tags['org'] = ?", r#"["test"]"#, "[[1]]"),
        ("SELECT c.tags['org'] FROM costs c WHERE c.x_row = 3", "[]", r#"[["prod"]]"#),
        ("SELECT tags['nope'] FROM costs LIMIT 1", "[]", "[[null]]"),
        ("SELECT tags FROM costs WHERE tags['a b'] = 'x'", "[]", r#"[[{"org":"prod","a b":"x"}]]"#),
        (
            "SELECT tags['org'], count(*) FROM costs GROUP BY tags['org'] ORDER BY 1 NULLS LAST",
            "[]",
            r#"[["prod",1],["test",1],[null,1]]"#,
        ),
        ("SELECT x_source, x_scope FROM costs LIMIT 1", "[]", r#"[["aws","a.csv"]]"#),
        // money
        ("SELECT sum(billedcost) FROM costs", "[]", "[[12345678901234567890.223456789012345677]]"),
        ("SELECT x_row FROM costs WHERE billedcost = ?", "[\"0.1\"]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billedcost = ?", "[0.1]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billedcost = $1", "[12345678901234567890.123456789012345678]", "[[1]]"),
        ("SELECT x_row FROM costs WHERE billedcost < 0", "[]", "[[2]]"),
        ("SELECT x_row FROM costs WHERE billedcost >= 0.1 AND billedcost < 1e3", "[]", "[[3]]"),
        ("SELECT 1.10 + 0.05, 0.1 * 3", "[]", "[[1.15,0.3]]"),
        ("SELECT round(sum(billedcost), 2) FROM costs WHERE x_row = 3", "[]", "[[0.10]]"),
        ("SELECT abs(billedcost) FROM costs WHERE x_row = 2", "[]", "[[0.000000000000000001]]"),
        // times
        ("SELECT billingperiodstart FROM costs WHERE x_row = 3", "[]", "[[1793491200000]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart = ?", "[1793491200000]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart >= ?", "[\"2026-11-01T00:00:00Z\"]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart = '2026-11-01'", "[]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart = '2026-11-01 01:00:00+01:00'", "[]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart = '1793491200000'", "[]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart BETWEEN ? AND ?", "[1793491200000, 1793491200001]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart NOT BETWEEN 0 AND 1793491199999", "[]", "[[3]]"),
        (
            "SELECT count(*) FROM costs WHERE billingperiodstart > CURRENT_TIMESTAMP - INTERVAL '200 year'",
            "[]",
            "[[3]]",
        ),
        (
            "SELECT count(*) FROM costs WHERE billingperiodstart < now() + INTERVAL '2 week' - INTERVAL '400 week'",
            "[]",
            "[[0]]",
        ),
        ("SELECT x_row FROM costs WHERE billingperiodstart = TIMESTAMP '2026-11-01'", "[]", "[[3]]"),
        (
            "SELECT DISTINCT date_trunc('month', billingperiodstart) FROM costs ORDER BY 1",
            "[]",
            "[[1790812800000],[1793491200000]]",
        ),
        ("SELECT extract(month FROM billingperiodstart) FROM costs WHERE x_row = 3", "[]", "[[11]]"),
        ("SELECT date_format('%Y-%m', billingperiodstart) FROM costs WHERE x_row = 3", "[]", r#"[["2026-11"]]"#),
        ("SELECT x_row FROM costs WHERE billingperiodstart IN (1793491200000, 5)", "[]", "[[3]]"),
        ("SELECT x_row FROM costs WHERE billingperiodstart = ANY(?)", "[[1793491200000]]", "[[3]]"),
        ("SELECT count(*) FROM costs WHERE servicename = ANY(?)", "[[]]", "[[0]]"),
        (
            "SELECT billingperiodstart::bigint > 0, billingperiodstart::date FROM costs WHERE x_row = 3",
            "[]",
            "[[true,1793491200000]]",
        ),
        (
            "SELECT x_row::int, x_row::text, x_row::double FROM costs WHERE x_row = 3 ORDER BY x_row::int",
            "[]",
            r#"[[3,"3",3.0]]"#,
        ),
        // arguments and casts
        ("SELECT x_row FROM costs WHERE servicename = ANY(?) ORDER BY 1", r#"[["storage", "network"]]"#, "[[2]]"),
        ("SELECT x_row FROM costs WHERE x_row = ANY([1, 3]) ORDER BY 1", "[]", "[[1],[3]]"),
        ("SELECT x_row FROM costs ORDER BY x_row LIMIT ? OFFSET ?", "[1, 1]", "[[2]]"),
        ("SELECT ?, ?, ?, ?", r#"[null, true, "'; --", -5]"#, r#"[[null,true,"'; --",-5]]"#),
        (
            "SELECT '5'::long, 7::string, '2026-11-01'::timestamptz, CAST('1.5' AS numeric(10,2)), 1::double precision",
            "[]",
            r#"[[5,"7",1793491200000,1.50,1.0]]"#,
        ),
        // the rest of SQL
        ("SELECT 1, 1", "[]", "[[1,1]]"),
        ("VALUES (1, 'a'), (2, 'b')", "[]", r#"[[1,"a"],[2,"b"]]"#),
        (
            "WITH t AS (SELECT servicename s, sum(billedcost) b FROM costs GROUP BY 1) SELECT s FROM t ORDER BY b DESC LIMIT 1",
            "[]",
            r#"[["compute"]]"#,
        ),
        (
            "SELECT x_row, row_number() OVER (PARTITION BY servicename ORDER BY x_row) FROM costs ORDER BY 1",
            "[]",
            "[[1,1],[2,1],[3,2]]",
        ),
        ("SELECT COUNT(*) FILTER (WHERE servicename = 'compute') FROM costs", "[]", "[[2]]"),
        (
            "SELECT a.x_row, b.x_row FROM costs a JOIN costs b ON a.x_row = b.x_row + 1 ORDER BY 1",
            "[]",
            "[[2,1],[3,2]]",
        ),
        ("SELECT col FROM generate_series(1, 3) t(col)", "[]", "[[1],[2],[3]]"),
        ("SELECT servicename FROM costs WHERE servicename !~ ? GROUP BY 1", r#"["^comp"]"#, r#"[["storage"]]"#),
        (
            "SELECT servicename FROM costs GROUP BY servicename ORDER BY sum(billedcost) DESC",
            "[]",
            r#"[["compute"],["storage"]]"#,
        ),
        // what clients ask first
        ("SELECT current_user, current_schema, name FROM sys.cluster", "[]", r#"[["crate","doc","costream"]]"#),
        (
            "SELECT description AS \"Failed Check\", count(*) FROM sys.node_checks WHERE passed = false AND acknowledged = false GROUP BY description",
            "[]",
            "[]",
        ),
        ("SELECT version['number'] FROM sys.nodes", "[]", r#"[["6.4.3"]]"#),
        (
            "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
            "[]",
            r#"[["doc"],["information_schema"],["pg_catalog"],["sys"]]"#,
        ),
        (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'BASE TABLE'",
            r#"["doc"]"#,
            r#"[["costs"]]"#,
        ),
        (
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'costs' AND column_name IN ('tags', 'billedcost') ORDER BY 1",
            "[]",
            r#"[["billedcost","numeric"],["tags","object"]]"#,
        ),
        ("SHOW TABLES", "[]", r#"[["costs"]]"#),
        ("SELECT word FROM pg_catalog.pg_get_keywords()", "[]", "[]"),
    ] {
        let answered = rows(&engine, sql, args).await.unwrap_or_else(|error| format!("{error:?}"));
        assert_eq!(answered, expected, "{sql} {args}");
    }
    assert!(rows(&engine, "EXPLAIN SELECT 1", "[]").await.expect("a plan").contains("logical_plan"));
}

#[tokio::test]
async fn an_answer_names_its_columns_and_types() {
    let (_dir, engine) = charges().await;
    let sql = "SELECT x_row, ServiceName AS s, billedcost, billingperiodstart, tags, x_row > 1, SUM(billedcost) OVER (), [1] FROM costs WHERE x_row = 2";
    let text = text(&engine, sql, "[]", &Options::default()).await.expect("an answer");
    let start = r#"{"cols":["x_row","s","billedcost","billingperiodstart","tags","x_row > 1","sum(billedcost) OVER ()","[1]"],"col_types":[10,4,22,11,12,3,22,[100,10]],"rows":[[2,"storage",-0.000000000000000001,1790812800000,{},true,"#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.ends_with(",[1]]],\"rowcount\":1"), "{text}");
    let star = self::text(&engine, "SELECT * FROM costs LIMIT 0", "[]", &Options::default()).await.expect("an answer");
    for column in ["\"billedcost\"", "\"x_source\"", "\"x_snapshot\"", "\"rows\":[],\"rowcount\":0"] {
        assert!(star.contains(column), "{star}");
    }
}

#[tokio::test]
async fn errors_are_those_of_cratedb() {
    let (_dir, engine) = charges().await;
    for (sql, code, message) in [
        ("SELEC 1", 4000, "ParsingException["),
        ("SELECT * FROM nope", 4041, "RelationUnknown[Relation 'nope' unknown]"),
        ("SELECT * FROM doc.nope", 4041, "RelationUnknown[Relation 'doc.nope' unknown]"),
        ("SELECT * FROM \"Costs\"", 4041, "RelationUnknown[Relation 'Costs' unknown]"),
        ("SELECT * FROM nope.t", 4045, "SchemaUnknownException[Schema 'nope' unknown]"),
        ("SELECT * FROM other.doc.costs", 4041, "RelationUnknown["),
        ("SELECT nope FROM costs", 4043, "ColumnUnknownException[Column nope unknown]"),
        ("SELECT a.x_row FROM costs a WHERE x_nope = 1", 4043, "ColumnUnknownException[Column x_nope unknown]"),
        ("SELECT x_row FROM costs a, costs b", 4006, "AmbiguousColumnException["),
        ("SELECT nope(1)", 4004, "UnsupportedFunctionException[Unknown function: nope]"),
        ("SELECT 'abc'::int", 4000, "SQLParseException["),
        ("SELECT x_row / 0 FROM costs", 4000, "SQLParseException["),
        ("SELECT x_row FROM costs WHERE billingperiodstart > 'soon'", 4000, "SQLParseException["),
        ("SELECT ?", 4000, "SQLParseException["),
        ("DELETE FROM costs", 4031, "ReadOnlyException["),
        ("SELECT * FROM read_parquet('/etc')", 4004, "UnsupportedFeatureException["),
        ("SELECT * FROM '/etc/passwd'", 4041, "RelationUnknown["),
        ("SELECT array_repeat(1, 1000000000)", 4004, "UnsupportedFunctionException["),
    ] {
        let error = rows(&engine, sql, "[]").await.expect_err(sql);
        assert_eq!(error.code(), code, "{sql}: {error:?}");
        assert!(error.message().starts_with(message), "{sql}: {}", error.message());
    }
    let options = Options { schema: Some("sys".to_owned()), ..Options::default() };
    let error = text(&engine, "SELECT * FROM costs", "[]", &options).await.expect_err("no such table there");
    assert_eq!(error.code(), 4041, "{error:?}");
}

#[tokio::test]
async fn a_sum_beyond_38_digits_is_an_error_and_never_a_wrong_number() {
    let (_dir, store) = store();
    let largest = "99999999999999999999.999999999999999999";
    let rows_of = [row("2026-10-01T00:00:00Z", largest, "a"), row("2026-10-01T00:00:00Z", largest, "a")];
    replace(&store, &key("aws", "a.csv"), 1, &rows_of).await;
    let engine = Engine::new(store.read.clone(), Limits::default());
    for sql in ["SELECT sum(billedcost) FROM costs", "SELECT sum(billedcost) FROM costs GROUP BY servicename"] {
        match rows(&engine, sql, "[]").await {
            Ok(sum) => assert_eq!(sum, "[[199999999999999999999.999999999999999998]]"),
            Err(error) => assert!(error.message().contains("38 digits"), "{error:?}"),
        }
    }
    assert_eq!(
        rows(&engine, "SELECT max(billedcost) FROM costs", "[]").await.expect("one of them"),
        format!("[[{largest}]]")
    );
}

#[tokio::test]
async fn a_table_is_read_as_it_was() {
    let (_dir, store) = store();
    let scope = key("aws", "a.csv");
    replace(&store, &scope, 1, &[row("2026-10-01T00:00:00Z", "1", "old")]).await;
    let then = next_moment().await;
    replace(&store, &scope, 2, &[row("2026-10-01T00:00:00Z", "2", "new")]).await;
    let engine = Engine::new(store.read.clone(), Limits::default());
    let time = then.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    for (sql, args) in [
        (format!("SELECT c.servicename FROM costs FOR SYSTEM_TIME AS OF TIMESTAMP '{time}' c"), "[]".to_owned()),
        (format!("SELECT costs.servicename FROM doc.costs FOR SYSTEM_TIME AS OF '{time}'"), "[]".to_owned()),
        ("SELECT servicename FROM costs FOR SYSTEM_TIME AS OF ?".to_owned(), format!("[\"{time}\"]")),
    ] {
        assert_eq!(rows(&engine, &sql, &args).await.expect(&sql), "[[\"old\"]]", "{sql}");
    }
    let tomorrow = format!("[{}]", then.timestamp_millis() + 86_400_000);
    let now = rows(&engine, "SELECT servicename FROM costs FOR SYSTEM_TIME AS OF $1", &tomorrow).await;
    assert_eq!(now.expect("the latest"), "[[\"new\"]]");
    let both = format!(
        "SELECT a.servicename, b.servicename FROM costs FOR SYSTEM_TIME AS OF '{time}' a JOIN costs b ON a.x_row = b.x_row"
    );
    assert_eq!(rows(&engine, &both, "[]").await.expect("both"), r#"[["old","new"]]"#);
    let options = Options { as_of: Some(then), ..Options::default() };
    let text = text(&engine, "SELECT servicename FROM costs", "[]", &options).await.expect("the past");
    assert!(text.contains("\"old\""), "{text}");
    let error =
        rows(&engine, "SELECT * FROM costs FOR SYSTEM_TIME AS OF '1999-01-01'", "[]").await.expect_err("no history");
    assert!(error.code() < 5000, "{error:?}");
    assert!(rows(&engine, "SELECT * FROM sys.nodes FOR SYSTEM_TIME AS OF '2026-01-01'", "[]").await.is_err());
}

fn limited(limits: Limits) -> (tempfile::TempDir, Engine) {
    let (dir, store) = store();
    (dir, Engine::new(store.read.clone(), limits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_beyond_its_time_is_killed() {
    let timeout = Span(Duration::from_millis(300));
    let (_dir, engine) = limited(Limits { timeout, ..Limits::default() });
    let error = rows(&engine, ENDLESS, "[]").await.expect_err("killed");
    assert_eq!((error.kind(), error.code()), ("JobKilledException", 5005), "{error:?}");
}

/// No more than a moment of work is done for nobody: the place is given back when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_stop_when_nobody_waits_for_them() {
    let timeout = Span(Duration::from_millis(300));
    for sql in [
        ENDLESS,
        "SELECT count(*) FROM generate_series(1, 10000000) a(x), generate_series(1, 10000000) b(y)",
        "SELECT x, y FROM generate_series(1, 10000000) a(x), generate_series(1, 10000000) b(y) WHERE x < 0 OR y < 0 OR x * y = 7",
        "SELECT count(*) FROM generate_series(1, 10000000) a(x) JOIN generate_series(1, 10000000) b(y) ON x % 2 = y % 2 AND x + y < 0",
        "SELECT count(*) FROM generate_series(1, 10000000) a(x) JOIN generate_series(1, 10000000) b(y) ON x % 2 = y % 2",
        "SELECT count(*) FROM generate_series(1, 100000000000) a(x)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT count(*) FROM t",
        "SELECT x FROM generate_series(1, 100000000000) a(x) ORDER BY x DESC LIMIT 1",
    ] {
        let (_dir, engine) = limited(Limits { timeout, concurrency: 1, ..Limits::default() });
        let error = rows(&engine, sql, "[]").await.expect_err(sql);
        assert_eq!(error.code(), 5005, "{sql}: {error:?}");
        let place = tokio::time::timeout(Duration::from_secs(120), engine.running.clone().acquire_owned()).await;
        assert!(place.is_ok(), "{sql} goes on for nobody");
    }
}

#[tokio::test]
async fn rows_beyond_the_limit_are_an_error() {
    let (_dir, engine) = limited(Limits { max_rows: 100_000, ..Limits::default() });
    assert!(rows(&engine, "SELECT * FROM generate_series(1, 100000)", "[]").await.is_ok());
    let error = rows(&engine, "SELECT * FROM generate_series(1, 100001)", "[]").await.expect_err("one too many");
    assert_eq!(error.code(), 5005, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_statement_gives_its_place_back() {
    let (_dir, engine) = limited(Limits { concurrency: 1, ..Limits::default() });
    let running = engine
        .execute("SELECT * FROM generate_series(1, 1000000000)", &[], &Options::default())
        .await
        .expect("started");
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { rows(&engine, "SELECT 1", "[]").await }
    });
    assert_eq!(engine.running.available_permits(), 0);
    drop(running);
    assert_eq!(waiting.await.expect("no panic").expect("its turn"), "[[1]]");
    let place = tokio::time::timeout(Duration::from_secs(60), engine.running.acquire()).await;
    assert!(place.is_ok(), "the last statement's place is free again");
}

#[tokio::test]
async fn statements_beyond_the_queue_are_turned_away() {
    let (_dir, engine) = limited(Limits { concurrency: 1, ..Limits::default() });
    let places = u32::try_from(engine.present.available_permits()).expect("a small number");
    let _all = engine.present.clone().acquire_many_owned(places).await.expect("all places");
    let error = rows(&engine, "SELECT 1", "[]").await.expect_err("no place");
    assert_eq!(error.kind(), "EsRejectedExecutionException");
}

#[tokio::test]
async fn an_answer_comes_in_pieces_and_breaks_off_when_it_fails() {
    let (_dir, engine) = limited(Limits { max_rows: 150_000, ..Limits::default() });
    let asked =
        engine.execute("SELECT * FROM generate_series(1, 200000)", &[], &Options::default()).await.expect("started");
    let Answer::Pieces(mut pieces) = answer(asked, false, Instant::now()).await.expect("a beginning") else {
        panic!("200,000 rows are not one piece");
    };
    let mut last = Vec::new();
    let error = loop {
        match pieces.next().await.expect("the text has no good end") {
            Ok(piece) => {
                assert!(piece.len() < 1 << 20, "{} bytes at once", piece.len());
                last = piece.to_vec();
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), 5005);
    assert!(!last.ends_with(b"}"));
    assert!(pieces.next().await.is_none());
}
