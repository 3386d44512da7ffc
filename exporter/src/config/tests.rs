use super::*;
use costream_common::config::{self, ConfigError};

fn read(text: &str) -> Result<ExporterConfig, ConfigError> {
    config::parse::<config::File<ExporterConfig>>(text, Path::new("costream.yaml")).map(|file| file.exporter)
}

#[test]
fn an_empty_section_works() {
    let config = read("exporter: {}\n").expect("defaults");
    assert_eq!(config.listen_address, LISTEN_ADDRESS);
    assert!(config.sources.is_empty() && config.spool_max_bytes.is_none());
}

#[test]
fn each_providers_example_is_good() {
    for (provider, layout) in
        [("aws", Layout::Aws), ("azure", Layout::Azure), ("gcp", Layout::Gcp), ("oci", Layout::Oci)]
    {
        let path = format!("{}/../resources/config/{provider}.yaml", env!("CARGO_MANIFEST_DIR"));
        let config = read(&std::fs::read_to_string(path).expect("an example")).expect(provider);
        let [SourceConfig { location, profile, .. }] = &config.sources[..] else { panic!("one source") };
        let (Location::Export { layout: named, .. } | Location::Bucket { layout: named, .. }) = location else {
            panic!("a layout")
        };
        assert_eq!((*named, profile.as_str()), (layout, provider));
    }
}

#[test]
fn every_key_is_read() {
    let config = read(
        "exporter:
  listen_address: 0.0.0.0:1
  web_config_file: web.yml
  spool_dir: /spool
  spool_max_bytes: 20GiB
  poll_interval: 1h
  retry_for: 1m
  concurrent_polls: 3
  limits: {max_columns: 99}
  metrics: {dimensions: [ServiceName, x_Team, Tags.org], max_series: 500}
  sources:
    - {path: /reports, profile: aws, poll_interval: 1d}
    - name: azure
      url: https://ann:secret@host/a.csv?sig=abc
      bearer_token: {file: /token}
      headers: {x-version: '1', x-key: {env: KEY}}
      tls: {ca_file: /ca.pem, insecure_skip_verify: true}
    - url: https://host/b.csv?sig=abc
      basic_auth: {username: bob, password: {env: PASSWORD}}
    - {path: /exports, layout: azure}
    - url: abfss://costs@account.dfs.core.windows.net/daily/
      layout: azure
      object_store: {AZURE_STORAGE_CLIENT_ID: me, AZURE_STORAGE_CLIENT_SECRET: {env: PASSWORD}}
",
    )
    .expect("a good section");
    assert_eq!((config.spool_max_bytes, config.limits.max_columns), (Some(20 << 30), 99));
    assert_eq!(
        config.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        [
            "/reports",
            "azure",
            "https://host/b.csv?sig=***",
            "/exports",
            "abfss://costs@account.dfs.core.windows.net/daily/"
        ]
    );
    assert!(matches!(config.sources[3].location, Location::Export { layout: Layout::Azure, .. }));
    let Location::Bucket { cloud: Cloud::Azure, settings, .. } = &config.sources[4].location else {
        panic!("a bucket")
    };
    assert_eq!(settings.len(), 2);
    let Location::Url { url, access } = &config.sources[1].location else { panic!("a url") };
    assert!(url.as_str().ends_with("sig=abc") && access.headers.len() == 2 && access.tls.insecure_skip_verify);
    assert!(!format!("{config:?}").contains("secret@") && !format!("{config:?}").contains("abc"));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (section, line, says) in [
        ("  sources:\n    - {path: a, url: 'http://b/'}\n", 3, "either `path` or `url`"),
        ("  sources:\n    - {name: a}\n", 3, "either `path` or `url`"),
        ("  sources:\n    - path: a\n      tls: {}\n", 3, "`tls`"),
        ("  sources:\n    - url: 'ftp://u:pw@b/'\n", 3, "neither http nor https"),
        (
            "  sources:\n    - {url: 'http://b/', bearer_token: {env: A}, basic_auth: {username: a, password: {env: B}}}\n",
            3,
            "exclude",
        ),
        ("  sources:\n    - {path: a}\n    - {path: a}\n", 3, "two sources are called a"),
        ("  sources:\n    - {pat: a}\n", 3, "pat"),
        ("  sources:\n    - {path: a, layout: awz}\n", 3, "awz"),
        ("  sources:\n    - {path: a, object_store: {AWS_REGION: b}}\n", 3, "`object_store` is for"),
        ("  sources:\n    - {url: 'http://b/', layout: aws}\n", 3, "one report"),
        ("  sources:\n    - {url: 's3://b/', tls: {}}\n", 3, "`tls` is for http"),
        ("  sources:\n    - {url: 's3://u:pw@b/'}\n", 3, "no credentials"),
        ("  sources:\n    - {url: 's3:///a'}\n", 3, "no bucket"),
        ("  sources:\n    - {url: 's3://b/a?.csv'}\n", 3, "`?`"),
        ("  sources:\n    - {url: 's3://b/', object_store: {AWS_REGIO: b}}\n", 3, "AWS_REGIO is no setting"),
        ("  sources:\n    - {url: 's3://b/', object_store: {AZURE_STORAGE_KEY: {env: A}}}\n", 3, "AZURE_STORAGE_KEY"),
        ("  sources:\n    - {url: 's3://b/', object_store: {AWS_SECRET_ACCESS_KEY: pw}}\n", 3, "is a secret"),
        ("  sources:\n    - {path: a, points: {}}\n", 3, "resource_id"),
        (
            "  sources:\n    - {path: a, points: {resource_id: /a}, generic: {value_column: 0, metric: m, table: t}}\n",
            3,
            "exclude each other",
        ),
        (
            "  sources:\n    - azure_monitor: {auth: {bearer_token: {env: T}}, ask: [{resources: [/s], metrics: [{name: a}]}]}\n",
            3,
            "has a `name`",
        ),
        (
            "  sources:\n    - {name: u, profile: aws, azure_monitor: {auth: {bearer_token: {env: T}}, ask: [{resources: [/s], metrics: [{name: a}]}]}}\n",
            3,
            "`profile` is for sources with `path` or `url`",
        ),
        ("  poll_interval: 0s\n", 2, "nought"),
        ("  spool_max_bytes: much\n", 2, "much"),
        ("  metrics:\n    max_series: 1\n", 3, "at least 100"),
        ("  metrics:\n    dimensions: [BilledCost]\n", 3, "BilledCost"),
        ("  metrics:\n    dimensions: [ServiceName, serviceName]\n", 3, "service_name"),
    ] {
        let error = read(&format!("exporter:\n{section}")).expect_err(section).to_string();
        assert!(error.contains(says) && error.contains(&format!("line {line}")), "{section}{error}");
        assert!(!error.contains("pw"), "{error}");
    }
}

#[test]
fn sources_of_the_command_line_are_told_apart() {
    let dir = Path::new("data");
    let given = ["costs.csv", "HTTPS://u:p@host/x.csv", "S3://bucket/exports/"].map(str::to_owned);
    let config = ExporterConfig::for_run(&given, ProfileName::Auto, dir).expect("two sources");
    assert_eq!(config.spool_dir, dir.join("spool"));
    assert!(matches!(config.sources[0].location, Location::Files(_)));
    assert_eq!(config.sources[1].name.as_str(), "https://host/x.csv");
    assert!(matches!(config.sources[2].location, Location::Bucket { cloud: Cloud::S3, .. }));
    let twice = ["a".to_owned(), "a".to_owned()];
    assert!(matches!(ExporterConfig::for_run(&twice, ProfileName::Auto, dir), Err(InvalidSource::Twice(_))));
}
