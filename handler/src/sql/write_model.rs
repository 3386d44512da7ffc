//! A small table that statements change, and the same changes of a plain map beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::write_tests::Door;

/// A change of a small table, and the same of a plain model of it.
#[derive(Clone, Debug)]
enum Step {
    Insert(i64, i64),
    Passed(i64, i64),
    Upsert(Vec<(i64, i64)>),
    Counted(i64, i64),
    Update(i64, i64),
    Delete(i64),
    Bulk(Vec<(i64, i64)>),
    Empty,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 0..6_i64;
    let rows = || prop::collection::vec((id(), -9..9_i64), 0..8);
    let step = prop_oneof![
        3 => (id(), -9..9_i64).prop_map(|(id, n)| Step::Insert(id, n)),
        2 => (id(), -9..9_i64).prop_map(|(id, n)| Step::Passed(id, n)),
        3 => rows().prop_map(Step::Upsert),
        2 => (id(), -9..9_i64).prop_map(|(id, n)| Step::Counted(id, n)),
        2 => (-9..9_i64, -9..9_i64).prop_map(|(from, to)| Step::Update(from, to)),
        2 => id().prop_map(Step::Delete),
        2 => rows().prop_map(Step::Bulk),
        1 => Just(Step::Empty),
    ];
    prop::collection::vec(step, 1..14)
}

impl Step {
    fn request(&self) -> serde_json::Value {
        match self {
            Self::Insert(id, n) => json!({"stmt": "INSERT INTO t (id, n) VALUES (?, ?)", "args": [id, n]}),
            Self::Passed(id, n) => {
                json!({"stmt": "INSERT INTO t (id, n) VALUES (?, ?) ON CONFLICT DO NOTHING", "args": [id, n]})
            }
            Self::Upsert(rows) => json!({
                "stmt": "INSERT INTO t (id, n) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
                "bulk_args": rows,
            }),
            Self::Counted(id, n) => json!({
                "stmt": "INSERT INTO t (id, n) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET n = n + excluded.n",
                "args": [id, n],
            }),
            Self::Update(from, to) => json!({"stmt": "UPDATE t SET n = ? WHERE n > ?", "args": [to, from]}),
            Self::Delete(id) => json!({"stmt": "DELETE FROM t WHERE id >= ?", "args": [id]}),
            Self::Bulk(rows) => json!({"stmt": "INSERT INTO t (id, n) VALUES (?, ?)", "bulk_args": rows}),
            Self::Empty => json!({"stmt": "DELETE FROM t"}),
        }
    }

    /// What the statement says, after the model has changed alike.
    fn model(&self, table: &mut BTreeMap<i64, i64>) -> String {
        let mut count = 0;
        match self {
            Self::Insert(id, n) => {
                if table.contains_key(id) {
                    return "4091".to_owned();
                }
                table.insert(*id, *n);
                count = 1;
            }
            Self::Passed(id, n) => {
                if !table.contains_key(id) {
                    table.insert(*id, *n);
                    count = 1;
                }
            }
            Self::Upsert(rows) => {
                table.extend(rows.iter().copied());
                return format!("[{}]", vec![r#"{"rowcount":1}"#; rows.len()].join(","));
            }
            Self::Counted(id, n) => {
                *table.entry(*id).or_default() += n;
                count = 1;
            }
            Self::Update(from, to) => {
                for value in table.values_mut().filter(|value| **value > *from) {
                    *value = *to;
                    count += 1;
                }
            }
            Self::Delete(id) => {
                let before = table.len();
                table.retain(|known, _| known < id);
                count = before - table.len();
            }
            Self::Bulk(rows) => {
                let results = rows.iter().map(|(id, n)| match table.contains_key(id) {
                    true => r#"{"error":{"code":4091,"message":"DuplicateKeyException[A document with the same primary key exists already]"},"rowcount":-2}"#,
                    false => {
                        table.insert(*id, *n);
                        r#"{"rowcount":1}"#
                    }
                });
                return format!("[{}]", results.collect::<Vec<_>>().join(","));
            }
            Self::Empty => {
                count = table.len();
                table.clear();
            }
        }
        count.to_string()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_table_is_what_a_plain_model_of_it_is(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        runtime.block_on(async {
            let door = Door::new();
            door.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)").await.expect("a table");
            let mut model = BTreeMap::new();
            for step in steps {
                let said = door.says(step.request()).await.unwrap_or_else(|error| error.code().to_string());
                let expected = step.model(&mut model);
                prop_assert_eq!(said, expected, "{:?}", step);
                let rows: Vec<String> = model.iter().map(|(id, n)| format!("[{id},{n}]")).collect();
                let stored = door.sql("SELECT id, n FROM t ORDER BY id").await.expect("rows");
                prop_assert_eq!(stored, format!("[{}]", rows.join(",")), "{:?}", step);
            }
            Ok(())
        })?;
    }
}
