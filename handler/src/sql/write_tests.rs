//! The door for writing over a Delta store in a temporary directory: CrateDB's forms, statuses and
//! types; objects; hostile statements; and two handlers on one directory.

use std::sync::Arc;

use serde_json::json;

use super::gateway::{Answer, Request};
use super::*;
use crate::auth::Rights;
use crate::store::conformance::{key, next_moment, replace, row};
use crate::store::delta::{DeltaOptions, DeltaStore};

pub(super) struct Door {
    engine: Engine,
    options: Options,
    store: Store,
    _dir: Arc<tempfile::TempDir>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self::on(&Arc::new(tempfile::tempdir().expect("a temporary directory")))
    }

    /// Another handler on the same directory.
    fn on(dir: &Arc<tempfile::TempDir>) -> Self {
        let options = DeltaOptions::in_directory(dir.path()).expect("options");
        let store: Store = DeltaStore::open(options).expect("a store").into();
        let engine = Engine::writing(&store, Limits::default());
        let options = Options { caller: Caller::new("crate", Rights::READ_WRITE), ..Options::default() };
        Self { engine, options, store, _dir: dir.clone() }
    }

    async fn send(&self, body: serde_json::Value) -> Result<String, SqlError> {
        let request = Request::read(body.to_string().as_bytes())?;
        let answer = request.answer(&self.engine, &self.options, true, Instant::now()).await?;
        let Answer::Whole(text) = answer else { panic!("a short answer") };
        Ok(String::from_utf8(text.to_vec()).expect("UTF-8"))
    }

    /// `rowcount` of a statement that writes, `rows` of one that reads, `results` of a bulk request.
    pub(super) async fn says(&self, body: serde_json::Value) -> Result<String, SqlError> {
        let text = self.send(body).await?;
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        if let Some(results) = json.get("results") {
            return Ok(results.to_string());
        }
        if json["cols"] == json!([]) {
            assert_eq!((&json["rows"], &json["col_types"]), (&json!([[]]), &json!([])), "{text}");
            return Ok(json["rowcount"].to_string());
        }
        // As text: a number's digits count.
        let (from, to) = (text.find("\"rows\":").expect("rows"), text.rfind(",\"rowcount\":").expect("a count"));
        Ok(text[from + "\"rows\":".len()..to].to_owned())
    }

    pub(super) async fn sql(&self, stmt: &str) -> Result<String, SqlError> {
        self.says(json!({"stmt": stmt})).await
    }

    /// Statements in order, with what each says, or how its error begins.
    async fn all(&self, cases: &[(&str, serde_json::Value, &str)]) {
        for (stmt, args, expected) in cases {
            let bulk = args.as_array().is_some_and(|args| !args.is_empty() && args.iter().all(|arg| arg.is_array()));
            let name = if bulk { "bulk_args" } else { "args" };
            let said = self.says(json!({"stmt": stmt, name: args})).await;
            let said = said.unwrap_or_else(|error| format!("{} {}", error.code(), error.message()));
            if expected.starts_with(['4', '5']) && expected.len() > 4 {
                assert!(said.starts_with(expected), "{stmt} {args}: {said}, not {expected}");
            } else {
                assert_eq!(said, *expected, "{stmt} {args}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_annotation_table_is_kept_as_cratedb_keeps_it() {
    let none = || json!([]);
    Door::new()
        .all(&[
            (
                "CREATE TABLE IF NOT EXISTS notes (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')",
                none(),
                "1",
            ),
            (
                "CREATE TABLE IF NOT EXISTS notes (id string, keys object, PRIMARY KEY (id)) WITH (column_policy = 'dynamic')",
                none(),
                "0",
            ),
            ("CREATE TABLE notes (id string)", none(), "4093 RelationAlreadyExists[Relation 'doc.notes' already exists.]"),
            (
                "INSERT INTO notes (id, keys) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys",
                json!(["a", {"team": "blue", "n": 1, "nested": {"x": [1, 2]}}]),
                "1",
            ),
            ("INSERT INTO notes (id, keys) VALUES ($1, $2)", json!(["b", "{\"team\": \"red\", \"n\": 2}"]), "1"),
            ("INSERT INTO notes (id, keys) VALUES ('c', {team = 'blue', \"N\" = 1.50})", none(), "1"),
            ("SELECT id, keys FROM notes ORDER BY id", none(), r#"[["a",{"n":1,"nested":{"x":[1,2]},"team":"blue"}],["b",{"n":2,"team":"red"}],["c",{"N":1.50,"team":"blue"}]]"#),
            ("SELECT keys['team'], count(*) FROM notes GROUP BY keys['team'] ORDER BY 1", none(), r#"[["blue",2],["red",1]]"#),
            ("SELECT id FROM doc.notes n WHERE n.keys['n'] >= ? ORDER BY 1", json!([2]), r#"[["b"]]"#),
            ("SELECT sum(keys['n']), max(keys['N']) FROM notes", none(), "[[3,1.5]]"),
            ("SELECT keys['nope'], keys['nested']['x'], keys['nested']['y'] FROM notes WHERE id = 'a'", none(), "[[null,[1,2],null]]"),
            ("SELECT object_keys(keys) FROM notes WHERE id = 'b'", none(), r#"[[["n","team"]]]"#),
            ("INSERT INTO notes (id, keys) VALUES ('a', {})", none(), "4091 DuplicateKeyException[A document with the same primary key exists already]"),
            ("INSERT INTO notes (id, keys) VALUES ('a', {}) ON CONFLICT DO NOTHING", none(), "0"),
            ("INSERT INTO notes (id, keys) VALUES ('a', {team = 'green'}) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys", none(), "1"),
            ("SELECT keys FROM notes WHERE id = 'a'", none(), r#"[[{"team":"green"}]]"#),
            ("INSERT INTO notes (id, weight, seen) VALUES ('d', 7, ?)", json!([true]), "1"),
            ("SELECT id, weight, seen FROM notes WHERE weight > 5", none(), r#"[["d",7,true]]"#),
            ("UPDATE notes SET keys['team'] = ?, weight = weight + 1 WHERE id = ?", json!(["violet", "d"]), "1"),
            ("SELECT keys, weight FROM notes WHERE id = 'd'", none(), r#"[[{"team":"violet"},8]]"#),
            ("REFRESH TABLE notes", none(), "1"),
            ("DELETE FROM notes WHERE id IN (SELECT id FROM notes WHERE keys['team'] = 'red')", none(), "1"),
            ("DELETE FROM notes WHERE id = 'nobody'", none(), "0"),
            ("SELECT id FROM notes ORDER BY id", none(), r#"[["a"],["c"],["d"]]"#),
            ("ALTER TABLE notes ADD COLUMN extra text", none(), "-1"),
            ("ALTER TABLE notes ADD COLUMN extra text", none(), "4000 SQLParseException[The table doc.notes already has a column named extra]"),
            ("UPDATE notes SET extra = 'x'", none(), "3"),
            ("DELETE FROM notes", none(), "3"),
            ("SELECT count(*) FROM notes", none(), "[[0]]"),
            ("DROP TABLE notes", none(), "1"),
            ("DROP TABLE IF EXISTS notes", none(), "0"),
            ("DROP TABLE notes", none(), "4041 RelationUnknown[Relation 'notes' unknown]"),
            ("SELECT * FROM notes", none(), "4041 RelationUnknown["),
            ("CREATE TABLE notes (n bigint)", none(), "1"),
            ("INSERT INTO notes VALUES (1), (-2)", none(), "2"),
            ("SELECT n FROM notes ORDER BY n", none(), "[[-2],[1]]"),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_cast_by_cratedbs_rules() {
    let door = Door::new();
    door.sql(
        "CREATE TABLE t (b boolean, y byte, s short, i integer, l long, r real, d double precision, \
         n numeric(38, 18), m numeric(20, 2), t text, v varchar(3), p ip, z timestamp with time zone, w timestamp, \
         o object(ignored), a array(text), x bigint[], c character varying)",
    )
    .await
    .expect("a table");
    for (column, value, out) in [
        ("b", json!(true), "true"),
        ("b", json!("f"), "false"),
        ("y", json!(-128), "-128"),
        ("y", json!(128), "!Cannot cast value `128` to type `byte`"),
        ("s", json!("32767"), "32767"),
        ("i", json!(2_147_483_648_i64), "!Cannot cast value `2147483648` to type `integer`"),
        ("l", json!(9_223_372_036_854_775_807_i64), "9223372036854775807"),
        ("l", json!(1.0), "1"),
        ("l", json!(1.5), "!Cannot cast value `1.5` to type `bigint`"),
        ("l", json!("12345678901234567890"), "!Cannot cast value"),
        ("r", json!(1.5), "1.5"),
        ("d", json!("1.2345678901234567E19"), "1.2345678901234567e+19"),
        ("d", json!("NaN"), "\"NaN\""),
        ("n", json!("12345678901234567890.123456789012345678"), "12345678901234567890.123456789012345678"),
        ("n", json!("1e-5"), "0.000010000000000000"),
        ("n", json!("123456789012345678901"), "!Cannot cast value `123456789012345678901` to type `numeric(38,18)`"),
        ("n", json!("0.1234567890123456789"), "0.123456789012345679"),
        ("m", json!("1.005"), "1.01"),
        ("m", json!("-1.005"), "-1.01"),
        ("n", json!("NaN"), "!Cannot cast value `NaN`"),
        ("n", json!(""), "!Cannot cast value"),
        ("t", json!(5), "\"5\""),
        ("t", json!("a\u{0}\u{1F600}'\";--"), "\"a\\u0000\u{1F600}'\\\";--\""),
        ("v", json!("abc"), "\"abc\""),
        ("v", json!("abcd"), "!The text `abcd` is longer than 3 characters"),
        ("p", json!("::1"), "\"::1\""),
        ("p", json!("1.2.3"), "!Cannot cast value `1.2.3` to type `ip`"),
        ("z", json!("2026-11-01T00:00:00Z"), "1793491200000"),
        ("z", json!("2026-11-01 01:00:00.123456+01:00"), "1793491200123"),
        ("z", json!("2026-11-01T01:00:00+0100"), "1793491200000"),
        ("z", json!("2026-11-01"), "1793491200000"),
        ("z", json!(1_793_491_200_000_i64), "1793491200000"),
        ("z", json!("1793491200000"), "1793491200000"),
        ("z", json!("20261101"), "20261101"),
        ("z", json!(1_793_491_200.5), "1793491200500"),
        ("z", json!("2026-11"), "!Cannot cast value `2026-11` to type `timestamp with time zone`"),
        ("z", json!("2026-11-01 UTC"), "!Cannot cast value"),
        ("z", json!("2026-11-01T24:00:00Z"), "!Cannot cast value"),
        ("z", json!(""), "!Cannot cast value"),
        ("z", json!("notadate"), "!Cannot cast value `notadate` to type `timestamp with time zone`"),
        ("w", json!("2026-11-01T01:00:00+01:00"), "1793494800000"),
        ("o", json!({"dot.ted": [1, "a", {"x": null}]}), "{\"dot.ted\":[1,\"a\",{\"x\":null}]}"),
        ("o", json!("[1]"), "!Cannot cast value `[1]` to type `object`"),
        ("a", json!(["x", null, 5]), "[\"x\",null,\"5\"]"),
        ("x", json!([1, "2"]), "[1,2]"),
        ("x", json!(["z"]), "!Cannot cast value `z` to type `bigint`"),
        ("c", json!(null), "null"),
    ] {
        door.sql("DELETE FROM t").await.expect("an empty table");
        let insert = json!({"stmt": format!("INSERT INTO t ({column}) VALUES (?)"), "args": [value]});
        match (door.says(insert).await, out.strip_prefix('!')) {
            (Ok(count), None) => {
                assert_eq!(count, "1");
                let rows = door.sql(&format!("SELECT {column} FROM t")).await.expect("rows");
                assert_eq!(rows, format!("[[{out}]]"), "{column} {value}");
            }
            (Err(error), Some(text)) => {
                assert_eq!(error.code(), 4000, "{column} {value}: {error}");
                assert!(error.to_string().starts_with(text), "{column} {value}: {error}");
                assert_eq!(door.sql("SELECT count(*) FROM t").await.expect("a count"), "[[0]]");
            }
            (said, _) => panic!("{column} {value}: {said:?}"),
        }
    }
    let types = door.send(json!({"stmt": "SELECT * FROM t LIMIT 0"})).await.expect("types");
    let expected = "\"col_types\":[3,2,8,9,10,7,6,22,22,4,4,4,11,15,12,[100,4],[100,10],4]";
    assert!(types.contains(expected), "{types}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_keep_the_digits_they_were_sent_with() {
    let door = Door::new();
    door.sql("CREATE TABLE t (n numeric(38, 18), o object)").await.expect("a table");
    // A client's own text: serde_json's numbers would be doubles.
    let body = r#"{"stmt": "INSERT INTO t VALUES (?, ?)", "args": [12345678901234567890.123456789012345678, {"a": 0.10000000000000000005}]}"#;
    let request = Request::read(body.as_bytes()).expect("a request");
    request.answer(&door.engine, &door.options, false, Instant::now()).await.expect("stored");
    let rows = door.sql("SELECT n, o FROM t").await.expect("rows");
    assert_eq!(rows, r#"[[12345678901234567890.123456789012345678,{"a":0.10000000000000000005}]]"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_request_is_told_row_by_row() {
    let door = Door::new();
    door.sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(3) NOT NULL, o object)").await.expect("a table");
    let none = || json!([]);
    let duplicate = r#"{"error":{"code":4091,"message":"DuplicateKeyException[A document with the same primary key exists already]"},"rowcount":-2}"#;
    let null = r#"{"error":{"code":4000,"message":"SQLParseException[\"v\" must not be null]"},"rowcount":-2}"#;
    let long = r#"{"error":{"code":4000,"message":"SQLParseException[The text `long` is longer than 3 characters]"},"rowcount":-2}"#;
    let typed = r#"{"error":{"code":4000,"message":"SQLParseException[Cannot cast value `x` to type `bigint`]"},"rowcount":-2}"#;
    let one = r#"{"rowcount":1}"#;
    door.all(&[
        ("INSERT INTO t (id, v) VALUES (?, ?)", json!([[1, "a"], [1, "b"], [2, null], [3, "long"], [4, "d"]]), &format!("[{one},{duplicate},{null},{long},{one}]")),
        ("SELECT id, v FROM t ORDER BY id", none(), r#"[[1,"a"],[4,"d"]]"#),
        ("INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT DO NOTHING", json!([[1, "x"], [5, "e"], [5, "f"]]), r#"[{"rowcount":0},{"rowcount":1},{"rowcount":0}]"#),
        ("INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v", json!([[1, "y"], [6, "g"], [6, "h"]]), r#"[{"rowcount":1},{"rowcount":1},{"rowcount":1}]"#),
        ("SELECT id, v FROM t ORDER BY id", none(), r#"[[1,"y"],[4,"d"],[5,"e"],[6,"h"]]"#),
        // What is of another type spoils the request, and nothing of it is stored.
        ("INSERT INTO t (id, v) VALUES (?, ?)", json!([[7, "i"], ["no", "j"]]), "4000 SQLParseException[Cannot cast value `no` to type `integer`]"),
        ("INSERT INTO t (id, v) VALUES (?, ?)", json!([[7, "i"], [null, "j"]]), "4000 SQLParseException[\"id\" must not be null]"),
        ("INSERT INTO t (id, v) VALUES (?, ?)", json!([[7, "i"], [8]]), "4000 SQLParseException[the statement wants argument 2, and args holds 1]"),
        ("SELECT count(*) FROM t", none(), "[[4]]"),
        // A row with too many values is stored without a word.
        ("INSERT INTO t (id, v) VALUES (?, ?)", json!([[7, "i", "more"]]), r#"[{"rowcount":1}]"#),
        // A key of an object that is new in the request, and one that is known.
        ("INSERT INTO t (id, v, o) VALUES (?, 'o', ?)", json!([[8, {"k": 1}], [9, {"k": "x"}]]), &format!("[{one},{typed}]")),
        ("INSERT INTO t (id, v, o) VALUES (?, 'o', ?)", json!([[10, {"k": 2}], [11, {"k": "x"}]]), "4000 SQLParseException[Cannot cast value `x` to type `bigint`]"),
        ("UPDATE t SET v = ? WHERE id = ?", json!([["p", 1], ["q", 99], ["r", 1]]), r#"[{"rowcount":1},{"rowcount":0},{"rowcount":1}]"#),
        ("SELECT v FROM t WHERE id = 1", none(), r#"[["r"]]"#),
        ("DELETE FROM t WHERE id = ?", json!([[1], [99]]), r#"[{"rowcount":1},{"error":{"code":40411,"message":"DocumentMissingException[[99]: document missing]"},"rowcount":-2}]"#),
        (
                "INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = ?",
                json!([[1, "a", "b"]]),
                "4004 UnsupportedFeatureException[DO UPDATE SET of a bulk request",
            ),
            ("SELECT 1", json!([[1]]), "4004 UnsupportedFeatureException[Bulk operations for statements that return result sets is not supported]"),
    ])
    .await;
    assert_eq!(door.says(json!({"stmt": "DELETE FROM t WHERE id = ?", "bulk_args": []})).await.expect("nothing"), "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_cannot_be_are_told_in_cratedbs_words() {
    let door = Door::new();
    replace(&door.store, &key("aws", "a.csv"), 1, &[row("2026-10-01T00:00:00Z", "1", "a")]).await;
    let none = || json!([]);
    door.all(&[
        ("CREATE TABLE s (id int PRIMARY KEY, v text, o object(strict) AS (a int))", none(), "1"),
        ("CREATE TABLE d (id int, v text, PRIMARY KEY (id, v))", none(), "1"),
        ("INSERT INTO nope (a) VALUES (1)", none(), "4041 RelationUnknown[Relation 'nope' unknown]"),
        ("INSERT INTO other.t (a) VALUES (1)", none(), "4045 SchemaUnknownException[Schema 'other' unknown]"),
        ("INSERT INTO sys.nodes (a) VALUES (1)", none(), "4007 OperationOnInaccessibleRelationException[The relation \"sys.nodes\" doesn't support or allow INSERT operations]"),
        ("CREATE TABLE \"No Name\" (a int)", none(), "4002 InvalidRelationName[Relation name \"doc.No Name\" is invalid.]"),
        ("CREATE TABLE t (\"a.b\" int)", none(), "4008 InvalidColumnNameException["),
        ("CREATE TABLE t (a numeric)", none(), "4004 UnsupportedFeatureException[NUMERIC storage is only supported if precision and scale are specified]"),
        ("CREATE TABLE t (a date)", none(), "4000 SQLParseException[Type `date` does not support storage]"),
        ("CREATE TABLE t (a geo_shape)", none(), "4004 UnsupportedFeatureException["),
        ("CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a + 1))", none(), "4004 UnsupportedFeatureException["),
        ("CREATE TABLE t (a int CHECK (a > 1))", none(), "4004 UnsupportedFeatureException["),
        ("CREATE TABLE t (a int DEFAULT 'x')", none(), "4000 SQLParseException[Cannot cast value `x` to type `integer`]"),
        ("CREATE TABLE t (a int DEFAULT random())", none(), "4004 UnsupportedFeatureException["),
        ("CREATE TABLE t (a int, a text)", none(), "4000 SQLParseException["),
        ("CREATE TABLE t (a int, b int, PRIMARY KEY (a)) PARTITIONED BY (b)", none(), "4000 SQLParseException[Cannot use non primary key column 'b'"),
        ("CREATE TABLE t (a object, PRIMARY KEY (a))", none(), "4004 UnsupportedFeatureException[Cannot use columns of type \"object\" as primary key]"),
        ("CREATE TABLE t (a int) WITH (nonsense = 1)", none(), "4000 SQLParseException[Setting 'nonsense' is not supported]"),
        ("CREATE TABLE t AS SELECT 1", none(), "4004 UnsupportedFeatureException["),
        ("CREATE VIEW v AS SELECT 1", none(), "4004 UnsupportedFeatureException["),
        ("INSERT INTO s (id, w) VALUES (1, 2)", none(), "4043 ColumnUnknownException[Column w unknown]"),
        ("INSERT INTO s (id, v) VALUES (1)", none(), "4000 SQLParseException[Invalid number of values: Got 2 columns specified but 1 values]"),
        ("INSERT INTO s VALUES (1, 'a', {}, 4)", none(), "4000 SQLParseException[INSERT statement contains a VALUES clause with too many elements (4), expected (3)]"),
        ("INSERT INTO s (id, o) VALUES (1, {b = 1})", none(), "4043 ColumnUnknownException[Column o['b'] unknown]"),
        ("SELECT o['b'] FROM s", none(), "4043 ColumnUnknownException[Column o['b'] unknown]"),
        ("INSERT INTO d (id, v) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET v = 'b'", none(), "4000 SQLParseException[Number of conflict targets ([id]) did not match the number of primary key columns ([id, v])]"),
        ("INSERT INTO s (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2", none(), "4003 ColumnValidationException[Validation failed for id: Updating a primary key is not supported]"),
        ("UPDATE s SET id = 2", none(), "4003 ColumnValidationException["),
        ("UPDATE s SET nope = 2", none(), "4043 ColumnUnknownException[Column nope unknown]"),
        ("UPDATE s SET v = 'a' WHERE nope = 1", none(), "4043 ColumnUnknownException[Column nope unknown]"),
        ("UPDATE s SET v = s.nope", none(), "4043 ColumnUnknownException["),
        ("DELETE FROM s WHERE v", none(), "4000 SQLParseException["),
        ("DELETE FROM s WHERE id = (SELECT 1 UNION ALL SELECT 2)", none(), "4000 SQLParseException[Subquery returned more than 1 row"),
        ("ALTER TABLE s DROP COLUMN v", none(), "4004 UnsupportedFeatureException["),
        ("UPDATE s SET v = 'a' RETURNING nope", none(), "4043 ColumnUnknownException["),
        ("SHOW CREATE TABLE nope", none(), "4041 RelationUnknown["),
        ("SHOW CREATE TABLE costs", none(), "4004 UnsupportedFeatureException["),
        ("REFRESH TABLE nope", none(), "4041 RelationUnknown[Relation 'nope' unknown]"),
        ("INSERT INTO s (id) SELECT 1 RETURNING id", none(), "4004 UnsupportedFeatureException["),
        ("INSERT INTO s (id) VALUES (1); SELECT 1", none(), "4000 ParsingException["),
        ("COPY s FROM 'file:///etc/passwd'", none(), "4010 UnauthorizedException["),
        ("COPY s TO DIRECTORY '/tmp'", none(), "4010 UnauthorizedException["),
        ("INSERT INTO s (v) SELECT * FROM read_csv('/etc/passwd')", none(), "4004 UnsupportedFeatureException["),
        ("UPDATE s SET v = (SELECT x FROM read_csv('/etc/passwd'))", none(), "4004 UnsupportedFeatureException["),
        // what deliveries have made
        ("INSERT INTO costs (billedcost) VALUES (1)", none(), "4007 OperationOnInaccessibleRelationException["),
        ("UPDATE costs SET billedcost = 1", none(), "4007 OperationOnInaccessibleRelationException["),
        ("ALTER TABLE costs ADD COLUMN a int", none(), "4007 OperationOnInaccessibleRelationException["),
        ("DELETE FROM costs", none(), "4011 MissingPrivilegeException[Missing 'AL' privilege for user 'crate']"),
        ("DROP TABLE costs", none(), "4011 MissingPrivilegeException["),
        ("SELECT count(*) FROM s", none(), "[[0]]"),
        ("SELECT count(*) FROM costs", none(), "[[1]]"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_asked_for() {
    let mut door = Door::new();
    let rows: Vec<_> = ["a", "b", "c"].map(|service| row("2026-10-01T00:00:00Z", "1", service)).to_vec();
    replace(&door.store, &key("aws", "a.csv"), 1, &rows).await;
    replace(&door.store, &key("aws", "b.csv"), 1, &[row("2026-11-01T00:00:00Z", "5", "d")]).await;
    door.options.caller = Caller::new("ro", Rights::READ);
    for (stmt, verb) in [
        ("CREATE TABLE t (a int)", "DDL"),
        ("DROP TABLE costs", "DDL"),
        ("INSERT INTO costs (x_row) VALUES (1)", "DML"),
        ("DELETE FROM costs", "DML"),
    ] {
        let error = door.sql(stmt).await.expect_err(stmt);
        assert_eq!(error.message(), format!("MissingPrivilegeException[Missing '{verb}' privilege for user 'ro']"));
        assert_eq!(error.code(), 4011);
    }
    door.options.caller = Caller::default();
    assert_eq!(door.sql("DELETE FROM costs WHERE servicename = 'b'").await.expect("deleted"), "1");
    assert_eq!(door.sql("DELETE FROM costs WHERE x_scope = 'b.csv'").await.expect("deleted"), "1");
    let left = door.sql("SELECT servicename, x_source, x_scope, x_row, billedcost FROM costs ORDER BY 1").await;
    assert_eq!(
        left.expect("rows"),
        r#"[["a","aws","a.csv",1,1.000000000000000000],["c","aws","a.csv",3,1.000000000000000000]]"#
    );
    let error = door.sql("DROP TABLE costs").await.expect_err("its scopes' snapshots would stay");
    assert_eq!(error.code(), 4000, "{error}");
    // What was deleted by hand comes back with the next snapshot.
    replace(&door.store, &key("aws", "a.csv"), 2, &rows).await;
    assert_eq!(door.sql("SELECT count(*) FROM costs").await.expect("a count"), "[[3]]");

    let reader = Engine::new(door.store.read.clone(), Limits::default());
    let error = reader.execute("DELETE FROM costs", &[], &door.options).await.expect_err("it reads");
    assert_eq!((error.kind(), error.code()), ("ReadOnlyException", 4031));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_knows_what_was_declared() {
    let door = Door::new();
    let none = || json!([]);
    door.all(&[
        (
            "CREATE TABLE t (id int, day timestamp with time zone, \"Service Name\" varchar(10) DEFAULT 'none' NOT NULL, \
             o object(dynamic) AS (a text), n numeric(20, 2) INDEX OFF STORAGE WITH (columnstore = false), \
             CONSTRAINT pk PRIMARY KEY (id, day)) \
             PARTITIONED BY (day) CLUSTERED BY (id) INTO 4 SHARDS WITH (number_of_replicas = '0-1', \"translog.durability\" = 'ASYNC', column_policy = 'strict')",
            none(),
            "1",
        ),
        ("INSERT INTO t (id, day, o) VALUES (1, '2026-11-01', {b = [1]})", none(), "1"),
        ("SELECT \"Service Name\" FROM t", none(), r#"[["none"]]"#),
        (
            "SELECT column_name, data_type, is_nullable, column_default, character_maximum_length FROM information_schema.columns \
             WHERE table_name = 't' ORDER BY ordinal_position",
            none(),
            r#"[["id","integer","NO",null,null],["day","timestamp with time zone","NO",null,null],["Service Name","text","NO","'none'",10],["o","object","YES",null,null],["o['a']","text","YES",null,null],["o['b']","bigint_array","YES",null,null],["n","numeric","YES",null,null]]"#,
        ),
        ("SELECT column_name FROM information_schema.key_column_usage WHERE table_name = 't' ORDER BY ordinal_position", none(), r#"[["id"],["day"]]"#),
        ("SELECT constraint_type FROM information_schema.table_constraints WHERE table_name = 't'", none(), r#"[["PRIMARY KEY"]]"#),
        ("SELECT column_policy, partitioned_by FROM information_schema.tables WHERE table_name = 't'", none(), r#"[["strict",["day"]]]"#),
        ("SHOW COLUMNS FROM t", none(), r#"[["Service Name","text"],["day","timestamp with time zone"],["id","integer"],["n","numeric"],["o","object"],["o['a']","text"],["o['b']","bigint_array"]]"#),
        ("DROP TABLE t", none(), "1"),
        ("SHOW TABLES", none(), "[]"),
    ])
    .await;
    door.sql("CREATE TABLE u (id int PRIMARY KEY, o object)").await.expect("a table");
    let shown = door.send(json!({"stmt": "SHOW CREATE TABLE doc.u"})).await.expect("a statement");
    let expected = "CREATE TABLE IF NOT EXISTS \"doc\".\"u\" (\n   \"id\" INTEGER NOT NULL,\n   \"o\" OBJECT(DYNAMIC),\n   \
                    PRIMARY KEY (\"id\")\n)\nWITH (\n   column_policy = 'strict'\n)";
    let json: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&json["cols"], &json["rows"]), (&json!(["SHOW CREATE TABLE doc.u"]), &json!([[expected]])));
    // What it shows makes the same table.
    door.sql("DROP TABLE u").await.expect("dropped");
    door.sql(expected).await.expect("made");
    let again = door.send(json!({"stmt": "SHOW CREATE TABLE u"})).await.expect("a statement");
    assert!(again.contains("OBJECT(DYNAMIC)"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_answer_as_what_they_hold() {
    let door = Door::new();
    let none = || json!([]);
    door.all(&[
        ("CREATE TABLE t (id int, o object, i object(ignored), l array(object))", none(), "1"),
        (
            "INSERT INTO t VALUES (?, ?, ?, ?)",
            json!([
                [1, {"s": "x", "n": 5, "f": 1.5, "b": true, "d": {"e": "deep"}, "app.kubernetes.io/name": "k"}, {"a": 1, "a.b": "v"}, [{"p": 1}, {"p": 2}]],
                [2, {"s": "y", "n": 7}, {"a": "text", "a.b": "w"}, []],
                [3, null, null, null],
            ]),
            r#"[{"rowcount":1},{"rowcount":1},{"rowcount":1}]"#,
        ),
        ("SELECT o['s'], o['n'], o['f'], o['b'], o['d'], o['d']['e'] FROM t WHERE id = 1", none(), r#"[["x",5,1.5,true,{"e":"deep"},"deep"]]"#),
        ("SELECT id FROM t WHERE o['n'] > 5", none(), "[[2]]"),
        ("SELECT id FROM t WHERE o['s'] LIKE 'x%'", none(), "[[1]]"),
        ("SELECT id FROM t WHERE o['app.kubernetes.io/name'] = 'k'", none(), "[[1]]"),
        ("SELECT id FROM t WHERE o['b'] ORDER BY 1", none(), "[[1]]"),
        ("SELECT o['n'], count(*) FROM t GROUP BY o['n'] ORDER BY 1 NULLS LAST", none(), "[[5,1],[7,1],[null,1]]"),
        ("SELECT id FROM t WHERE o['never'] IS NULL ORDER BY id", none(), "[[1],[2],[3]]"),
        ("SELECT id FROM t WHERE o['never'] = 5", none(), "[]"),
        ("SELECT i['a'], i['a.b'], i['nope'] FROM t ORDER BY id", none(), r#"[[1,"v",null],["text","w",null],[null,null,null]]"#),
        ("SELECT id FROM t WHERE i['a.b'] = 'w'", none(), "[[2]]"),
        ("SELECT id FROM t WHERE i['a'] = 1", none(), "[[1]]"),
        ("SELECT i['a.b'], count(*) FROM t GROUP BY i['a.b'] ORDER BY 2, 1 NULLS LAST", none(), r#"[["v",1],["w",1],[null,1]]"#),
        ("SELECT l FROM t ORDER BY id", none(), r#"[[[{"p":1},{"p":2}]],[[]],[null]]"#),
        ("SELECT o FROM t WHERE o = {s = 'y', n = 7}", none(), r#"[[{"n":7,"s":"y"}]]"#),
        ("SELECT o::text FROM t WHERE id = 2", none(), r#"[["{\"n\":7,\"s\":\"y\"}"]]"#),
        ("SELECT coalesce(o, {a = 1}) FROM t WHERE id = 3", none(), r#"[[{"a":1}]]"#),
        ("SELECT count(DISTINCT o) FROM t", none(), "[[2]]"),
        ("SELECT a.id FROM t a JOIN t b ON a.o['n'] = b.o['n'] + 2", none(), "[[2]]"),
        ("UPDATE t SET o['d']['e'] = 'new', o['fresh'] = 1 WHERE id = 1", none(), "1"),
        ("SELECT o['d']['e'], o['fresh'] FROM t WHERE id = 1", none(), r#"[["new",1]]"#),
        ("UPDATE t SET o = {s = 5} WHERE id = 3", none(), "1"),
        ("SELECT o FROM t WHERE id = 3", none(), r#"[[{"s":"5"}]]"#),
        ("CREATE TABLE k (id int PRIMARY KEY, o object, n int)", none(), "1"),
        ("INSERT INTO k VALUES (1, {a = 1, b = 'x'}, 1)", none(), "1"),
        (
            "INSERT INTO k VALUES (1, {a = 5}, 7), (1, {a = 6}, 8) ON CONFLICT (id) DO UPDATE SET o['a'] = excluded.o['a'], n = k.n + excluded.n",
            none(),
            "2",
        ),
        ("SELECT o, n FROM k", none(), r#"[[{"a":6,"b":"x"},16]]"#),
        ("INSERT INTO t (id, o) VALUES (4, {big = 12345678901234567890})", none(), "4000 SQLParseException[Cannot detect the type of the value 12345678901234567890]"),
        ("INSERT INTO t (id, o) VALUES (4, {mixed = [1, 'a']})", none(), "5000 ClassCastException["),
        ("ALTER TABLE t ADD COLUMN o['typed'] timestamp with time zone", none(), "-1"),
        ("INSERT INTO t (id, o) VALUES (4, {typed = '2026-11-01'})", none(), "1"),
        ("SELECT o, o['typed'] FROM t WHERE o['typed'] > '2026-10-01'", none(), r#"[[{"typed":1793491200000},1793491200000]]"#),
    ])
    .await;
    let types = door.send(json!({"stmt": "SELECT o, o['s'], o['n'], o['typed'], l FROM t LIMIT 0"})).await;
    assert!(types.expect("types").contains("\"col_types\":[12,4,10,11,[100,12]]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_from_queries_and_expressions() {
    let door = Door::new();
    let none = || json!([]);
    let charge = |cost: &str, service: &str| row("2026-10-01T00:00:00Z", cost, service);
    replace(&door.store, &key("aws", "a.csv"), 1, &[charge("1.5", "a"), charge("2", "b"), charge("0.5", "a")]).await;
    door.all(&[
        (
            "CREATE TABLE sums (service text PRIMARY KEY, billed numeric(38, 18), rows bigint, at timestamp DEFAULT CURRENT_TIMESTAMP, who text DEFAULT 'me')",
            none(),
            "1",
        ),
        ("INSERT INTO sums (service, billed, rows) SELECT servicename, sum(billedcost), count(*) FROM costs GROUP BY 1", none(), "2"),
        ("SELECT service, billed, rows, who, at > '2026-01-01' FROM sums ORDER BY 1", none(), r#"[["a",2.000000000000000000,2,"me",true],["b",2.000000000000000000,1,"me",true]]"#),
        ("INSERT INTO sums (service, billed) (SELECT service, billed + ? FROM sums) ON CONFLICT (service) DO UPDATE SET billed = excluded.billed, rows = rows + 10", json!([0.25]), "2"),
        ("SELECT billed, rows FROM sums ORDER BY service", none(), "[[2.250000000000000000,12],[2.250000000000000000,11]]"),
        ("INSERT INTO sums (service, billed, who) VALUES (upper(?), 1 + 0.5, concat('x', ?))", json!(["c", 5]), "1"),
        ("SELECT billed, who FROM sums WHERE service = 'C'", none(), r#"[[1.500000000000000000,"x5"]]"#),
        ("INSERT INTO sums (service) VALUES (lower(?))", json!([["D"], ["E"]]), r#"[{"rowcount":1},{"rowcount":1}]"#),
        ("INSERT INTO sums (service) SELECT 'd'", none(), "4091 DuplicateKeyException["),
        ("INSERT INTO sums (service) VALUES ('f'), ('d')", none(), "4091 DuplicateKeyException["),
        ("UPDATE sums SET billed = billed * 2, at = '2026-11-01' WHERE rows IN (SELECT max(rows) FROM sums) AND EXISTS (SELECT 1 FROM costs)", none(), "1"),
        ("SELECT service, billed FROM sums WHERE at = '2026-11-01T00:00:00'", none(), r#"[["a",4.500000000000000000]]"#),
        ("UPDATE sums SET who = (SELECT max(servicename) FROM costs) WHERE service = 'd'", none(), "1"),
        ("DELETE FROM sums AS s WHERE s.at IN (SELECT at FROM sums WHERE service = 'a')", none(), "1"),
        ("DELETE FROM sums WHERE at < now() - INTERVAL '1 week'", none(), "0"),
        ("SELECT service, who FROM sums ORDER BY 1", none(), r#"[["C","x5"],["b","me"],["d","b"],["e","me"]]"#),
        ("INSERT INTO sums (service, billed) VALUES ('y', 1), (?, 2) RETURNING sums.service AS s, billed * 2, sums.at IS NULL", json!(["x"]), r#"[["y",2.000000000000000000,false],["x",4.000000000000000000,false]]"#),
        ("UPDATE sums SET rows = 5 WHERE service IN ('x', 'y') RETURNING rows + 1", none(), "[[6],[6]]"),
        ("CREATE TABLE wide (a int) WITH (column_policy = 'dynamic')", none(), "1"),
        ("INSERT INTO wide (a, t, n, m) SELECT 1, billingperiodstart, billedcost, tags FROM costs LIMIT 1", none(), "1"),
        ("SELECT t FROM wide", none(), "[[1790812800000]]"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_changes_leave_few_files_and_the_past() {
    let door = Door::new();
    door.sql("CREATE TABLE t (id int PRIMARY KEY, n int)").await.expect("a table");
    for id in 0..30 {
        door.says(json!({"stmt": "INSERT INTO t VALUES (?, 0)", "args": [id]})).await.expect("stored");
    }
    let then = next_moment().await;
    for n in 1..=10 {
        let stmt = "INSERT INTO t VALUES (7, ?) ON CONFLICT (id) DO UPDATE SET n = excluded.n";
        door.says(json!({"stmt": stmt, "args": [n]})).await.expect("stored");
    }
    assert_eq!(door.sql("SELECT count(*), sum(n) FROM t").await.expect("sums"), "[[30,10]]");
    let plan = door.sql("EXPLAIN SELECT * FROM t").await.expect("a plan");
    assert!(plan.matches(".parquet").count() <= 9, "{plan}");
    let past =
        door.says(json!({"stmt": format!("SELECT sum(n) FROM t FOR SYSTEM_TIME AS OF '{}'", then.to_rfc3339())}));
    assert_eq!(past.await.expect("the past"), "[[0]]");
    door.sql("DROP TABLE t").await.expect("dropped");
    let past =
        door.says(json!({"stmt": format!("SELECT count(*) FROM t FOR SYSTEM_TIME AS OF '{}'", then.to_rfc3339())}));
    assert_eq!(past.await.expect("what it was"), "[[30]]");
    assert!(door.store.read.tables().await.expect("tables").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handlers_lose_no_change() {
    const TIMES: usize = 12;
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let doors: Vec<Arc<Door>> = (0..2).map(|_| Arc::new(Door::on(&dir))).collect();
    doors[0].sql("CREATE TABLE t (id int PRIMARY KEY, n int, o object)").await.expect("a table");
    let changes = doors.iter().enumerate().flat_map(|(handler, door)| {
        (0..TIMES).map(move |time| {
            let door = door.clone();
            tokio::spawn(async move {
                let stmt = "INSERT INTO t (id, n, o) VALUES (?, 1, ?) ON CONFLICT (id) DO UPDATE SET n = n + 1, o = excluded.o";
                // Keys of objects are declared by whoever comes first, and by all.
                let key = format!("k{handler}_{time}");
                door.says(json!({"stmt": stmt, "args": [time % 3, {key: time}]})).await
            })
        })
    });
    for done in futures::future::join_all(changes.collect::<Vec<_>>()).await {
        assert_eq!(done.expect("no panic").expect("stored"), "1");
    }
    for door in &doors {
        assert_eq!(door.sql("SELECT count(*), sum(n) FROM t").await.expect("sums"), format!("[[3,{}]]", 2 * TIMES));
        let keys = "SELECT count(*) FROM information_schema.columns WHERE table_name = 't' AND column_name LIKE 'o[%'";
        assert_eq!(door.sql(keys).await.expect("keys"), format!("[[{}]]", 2 * TIMES));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_statements_are_refused_and_change_nothing() {
    let door = Door::new();
    door.sql("CREATE TABLE t (id int, o object)").await.expect("a table");
    let depth = 100_000;
    for stmt in [
        format!("INSERT INTO t (id) VALUES ({}1{})", "(".repeat(depth), ")".repeat(depth)),
        format!("INSERT INTO t (id) VALUES ({})", vec!["1"; depth].join(" + ")),
        format!("INSERT INTO t (o) VALUES ({}1{})", "{a = ".repeat(depth), "}".repeat(depth)),
        format!("UPDATE t SET o{} = 1", "['a']".repeat(depth)),
        format!("DELETE FROM t WHERE {} id = 1", "NOT ".repeat(depth)),
        format!("CREATE TABLE u (a {}int{})", "array(".repeat(depth), ")".repeat(depth)),
        format!("CREATE TABLE u (a {}int{})", "object as (a ".repeat(depth), ")".repeat(depth)),
        format!("CREATE TABLE u (a int{})", "[]".repeat(depth)),
        format!("INSERT INTO t (id) VALUES ({})", "-".repeat(depth)),
        format!("INSERT INTO t (id) VALUES {}", vec!["(1)"; 400_000].join(",")),
    ] {
        let error = door.sql(&stmt).await.expect_err(&stmt[..60]);
        assert!(matches!(error.code(), 4000 | 4004), "{}: {error}", &stmt[..60]);
    }
    let error = door.says(json!({"stmt": "UPDATE t SET o = (SELECT repeat('x', 1000000000))"})).await;
    assert_eq!(error.expect_err("too long").code(), 4004);
    let many: Vec<String> = (0..1500).map(|column| format!("c{column} int")).collect();
    let error = door.sql(&format!("CREATE TABLE u ({})", many.join(", "))).await.expect_err("too wide");
    assert!(error.to_string().contains("Limit of total columns [1000]"), "{error}");
    let keys: serde_json::Map<String, serde_json::Value> = (0..1500).map(|key| (format!("k{key}"), json!(1))).collect();
    let error = door.says(json!({"stmt": "INSERT INTO t (o) VALUES (?)", "args": [keys]})).await.expect_err("too wide");
    assert!(error.to_string().contains("Limit of total columns [1000]"), "{error}");
    // A list of as many negative numbers as a statement holds is no tree.
    let long = vec!["(-1)"; 10_000].join(",");
    assert_eq!(door.sql(&format!("INSERT INTO t (id) VALUES {long}")).await.expect("stored"), "10000");
}
