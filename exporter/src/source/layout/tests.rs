use super::*;

fn listed(paths: &[&str]) -> Objects {
    let stamp = |size: u64| -> Stamp {
        serde_json::from_value(serde_json::json!({"size": size, "modified": 0})).expect("a stamp")
    };
    paths.iter().map(|path| ((*path).to_owned(), stamp(if path.ends_with("marker") { 0 } else { 1 }))).collect()
}

/// Scopes, each with its manifests or files.
fn scopes(layout: Layout, paths: &[&str], prefix: &str, root: &str) -> Vec<(String, Vec<String>)> {
    let (_, found) = find(layout, &listed(paths), prefix, root);
    found.into_iter().map(|found| (found.scope, [found.manifests, found.files].concat())).collect()
}

fn is(scope: &str, files: &[&str]) -> (String, Vec<String>) {
    (scope.to_owned(), files.iter().map(|file| (*file).to_owned()).collect())
}

#[test]
fn an_aws_export_is_what_its_newest_manifest_names() {
    const SEPTEMBER: &str = "p/focus/metadata/BILLING_PERIOD=2026-09/focus-Manifest.json";
    const FIRST: &str = "p/kept/metadata/BILLING_PERIOD=2026-09/20260901T000000Z-a/kept-Manifest.json";
    const SECOND: &str = "p/kept/metadata/BILLING_PERIOD=2026-09/20260902T000000Z-b/kept-Manifest.json";
    const TOP: &str = "p/kept/metadata/BILLING_PERIOD=2026-08/kept-Manifest.json";
    let paths = [
        "p/aws-programmatic-access-test-object",
        "p/focus/data/BILLING_PERIOD=2026-09/focus-00001.csv.gz",
        "p/focus/data/BILLING_PERIOD=2026-10/focus-00001.csv.gz",
        SEPTEMBER,
        "p/focus/metadata/BILLING_PERIOD=2026-09/focus-Metadata.json",
        FIRST,
        SECOND,
        "p/kept/metadata/BILLING_PERIOD=2026-08/20260801T000000Z-c/kept-Manifest.json",
        TOP,
    ];
    let all = [is("focus/2026-09", &[SEPTEMBER]), is("kept/2026-08", &[TOP]), is("kept/2026-09", &[SECOND])];
    assert_eq!(scopes(Layout::Aws, &paths, "p/", "s3://b/p"), all);
    assert_eq!(scopes(Layout::Auto, &paths, "p/", "s3://b/p"), all);
    assert_eq!(scopes(Layout::Aws, &paths[..4], "p/focus/", "s3://b/p/focus"), [is("focus/2026-09", &[SEPTEMBER])]);
    assert_eq!(scopes(Layout::Aws, &paths[4..8], "", "s3://b").len(), 2, "a folder of nothing but versions");

    for (at, uri, path) in [
        (
            SEPTEMBER,
            "s3://b/p/focus/data/BILLING_PERIOD=2026-09/focus-00001.csv.gz",
            Some("p/focus/data/BILLING_PERIOD=2026-09/focus-00001.csv.gz"),
        ),
        // Copied elsewhere.
        (
            "metadata/BILLING_PERIOD=2026-09/x-Manifest.json",
            "s3://b/data/x/data/BILLING_PERIOD=2026-09/v/x-1.parquet",
            Some("data/BILLING_PERIOD=2026-09/v/x-1.parquet"),
        ),
        (SEPTEMBER, "s3://b/elsewhere/focus-00001.csv.gz", None),
    ] {
        let text = serde_json::json!({"executionId": "e", "columns": [{"name": "BilledCost"}], "dataFiles": [uri]});
        let read = manifest(Layout::Aws, at, text.to_string().as_bytes());
        assert_eq!(
            read.ok().map(|manifest| manifest.files.into_iter().map(|file| file.path).collect()),
            path.map(|path| vec![path.to_owned()]),
            "{uri}"
        );
    }
    for (text, says) in [("{\"reportKeys\": []}", "dataFiles"), ("<html>", "expected value"), ("{", "EOF")] {
        let error = manifest(Layout::Aws, SEPTEMBER, text.as_bytes()).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn an_azure_export_is_what_the_manifest_of_its_newest_run_names() {
    const OLD: &str = "c/daily/20260901-20260930/202609100300/11111111-aaaa/manifest.json";
    const NEW: &str = "c/daily/20260901-20260930/202609110300/22222222-bbbb/manifest.json";
    const PLAIN: &str = "c/daily/20260801-20260831/33333333-cccc/manifest.json";
    let paths = [
        PLAIN,
        "c/daily/20260801-20260831/33333333-cccc/part_0_0001.csv",
        OLD,
        NEW,
        "c/daily/20260901-20260930/202609120300/44444444-dddd/part_0_0001.csv",
        "c/daily/20261001-20261031/55555555-eeee/part_0_0001.csv",
        "c/notes/manifest.json",
    ];
    let all = [is("daily/20260801-20260831", &[PLAIN]), is("daily/20260901-20260930", &[OLD, NEW])];
    assert_eq!(scopes(Layout::Azure, &paths, "c/", "az://b/c"), all);
    assert_eq!(scopes(Layout::Auto, &paths, "c/", "az://b/c"), all);
    assert_eq!(scopes(Layout::Azure, &paths, "c/daily/", "az://b/c/daily"), all, "whatever folder is given");
    assert_eq!(
        scopes(Layout::Azure, &paths, "c/daily/20260801-20260831/", "az://b/c/daily/20260801-20260831"),
        all[..1]
    );
    let of_directory = scopes(Layout::Azure, &["20260801-20260831/33333333-cccc/manifest.json"], "", "/exports/daily");
    assert_eq!(of_directory, [is("daily/20260801-20260831", &["20260801-20260831/33333333-cccc/manifest.json"])]);

    let text = |compression: &str| {
        serde_json::json!({
            "manifestVersion": "2024-04-01", "byteCount": 9, "blobCount": 1, "dataRowCount": 2,
            "exportConfig": {"exportName": "daily", "type": "FocusCost"},
            "deliveryConfig": {"fileFormat": "Csv", "compressionMode": compression},
            "runInfo": {"submittedTime": "2026-09-11T03:00:06.5234447Z"},
            "blobs": [{"blobName": " costs/daily/20260901-20260930/22222222-bbbb/part_0_0001.csv", "byteCount": 9, "dataRowCount": 2}],
        })
    };
    for (compression, bytes) in [("None", Some(9)), ("Gzip", None)] {
        let read = manifest(Layout::Azure, NEW, text(compression).to_string().as_bytes()).expect("a manifest");
        let path = "c/daily/20260901-20260930/202609110300/22222222-bbbb/part_0_0001.csv".to_owned();
        assert_eq!(read.files, [Named { path, bytes, rows: Some(2) }]);
        assert_eq!(read.made.expect("a time").timestamp(), 1_789_095_606);
    }
    let mut prices = text("None");
    prices["exportConfig"]["type"] = "PriceSheet".into();
    assert!(manifest(Layout::Azure, NEW, prices.to_string().as_bytes()).expect_err("prices").contains("PriceSheet"));
    let mut never = text("None");
    never["runInfo"]["submittedTime"] = "soon".into();
    assert!(manifest(Layout::Azure, NEW, never.to_string().as_bytes()).expect_err("no time").contains("\"soon\""));
}

#[test]
fn files_without_a_manifest_are_one_report_a_folder_or_one_each() {
    let paths = [
        "e/.hidden/a.csv",
        "e/billing_period=2026-08/focus-000000000000.csv.gz",
        "e/billing_period=2026-08/focus-000000000001.csv.gz",
        "e/billing_period=2026-08/_SUCCESS",
        "e/billing_period=2026-09/focus-000000000000.csv.gz",
        "e/lone marker",
        "e/marker",
        "e/marker/deep/b.csv",
        "e/marker/deep/empty.csv, no marker",
        "e/top.csv",
    ];
    assert_eq!(
        scopes(Layout::Gcp, &paths, "e/", "gs://b/e"),
        [
            is("e", &["e/top.csv"]),
            is("billing_period=2026-08", &paths[1..3]),
            is("billing_period=2026-09", &paths[4..5]),
            is("marker/deep", &paths[7..9]),
        ]
    );
    let each: Vec<_> = scopes(Layout::Oci, &paths, "e/", "s3://b/e").into_iter().map(|(scope, _)| scope).collect();
    assert_eq!((each.len(), each[0].as_str()), (7, "billing_period=2026-08/_SUCCESS"));
    for layout in [Layout::Plain, Layout::Auto] {
        assert_eq!(scopes(layout, &paths, "e/", "gs://b/e"), [is("top.csv", &["e/top.csv"])]);
    }
}
