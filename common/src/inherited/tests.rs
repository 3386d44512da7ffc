use super::*;
use crate::report::one_line;
use crate::secret::ExposeSecret as _;

/// As people write it, with all that belongs to it beside it.
const BY_PEOPLE: &str = "apiVersion: finops.krateo.io/v1
kind: ExporterScraperConfig
metadata: {name: azure, namespace: finops}
spec:
  exporterConfig:
    provider: {name: azure, namespace: finops}
    api:
      path: /subscriptions/<subscription_id>/x?year=<year>
      verb: POST
      headers: ['Accept: text/csv', 'X-Key:hush']
      payload: '{\"a\": \"<kept>\"}'
      endpointRef: {name: report-endpoint, namespace: finops}
    metricType: cost
    pollingInterval: 12h30m
    additionalVariables: {subscription_id: SUBSCRIPTION, year: 2024}
  scraperConfig:
    tableName: focus_table
    pollingInterval: 1h
    metricType: cost
    scraperDatabaseConfigRef: {name: db, namespace: finops}
---
apiVersion: v1
kind: Secret
metadata: {name: report-endpoint, namespace: finops}
stringData:
  server-url: \"http://ann:hush@reports.example/base/\\n\"
  token: \"tok-1\\n\"
---
apiVersion: v1
kind: Secret
metadata: {name: db-password, namespace: finops}
data: {password: aHVzaAo=}
---
apiVersion: finops.krateo.io/v1
kind: DatabaseConfig
metadata: {name: db, namespace: finops}
spec: {username: crate, passwordSecretRef: {name: db-password, namespace: finops, key: password}}
---
apiVersion: v1
kind: List
items:
  - kind: ProviderConfig
    metadata: {name: azure, namespace: finops}
    spec: {resourcesRef: [{name: vms, namespace: finops}]}
  - kind: ResourceConfig
    metadata: {name: vms, namespace: finops}
    spec: {resourceFocusName: Virtual machine, metricsRef: [{name: cpu, namespace: finops}, {name: net}]}
  - kind: MetricConfig
    metadata: {name: cpu, namespace: finops}
    spec: {metricName: Percentage CPU, endpoint: {resourceSuffix: /m?api-version=1}, timespan: month, interval: PT15M}
  - kind: MetricConfig
    metadata: {name: net, namespace: finops}
    spec: {metricName: Network, endpoint: {resourceSuffix: /n}, timespan: day, interval: PT1H}
";

/// The same by the operator's hand: what it leaves empty stands there too.
const BY_THE_OPERATOR: &str = "typemeta:
    kind: ExporterScraperConfig
    apiversion: finops.krateo.io/v1
objectmeta:
    name: azure
    generatename: \"\"
    namespace: finops
    creationtimestamp: \"0001-01-01T00:00:00Z\"
    deletiontimestamp: null
    labels: {a: b}
    managedfields: []
spec:
    exporterConfig:
        provider: {name: azure, namespace: finops}
        api:
            path: /subscriptions/<subscription_id>/x?year=<year>
            verb: POST
            headers: ['Accept: text/csv', 'X-Key:hush']
            payload: '{\"a\": \"<kept>\"}'
            endpointref: {name: report-endpoint, namespace: finops}
        metricType: cost
        pollingInterval: {duration: 12h30m0s}
        additionalVariables: {subscription_id: SUBSCRIPTION, year: \"2024\"}
    scraperConfig:
        tableName: focus_table
        pollingInterval: {duration: 1h0m0s}
        api: {path: \"\", verb: \"\", headers: [], payload: \"\", endpointref: null}
        metricType: cost
        scraperDatabaseConfigRef: {name: db, namespace: finops}
status:
    conditionedstatus: {conditions: []}
    activeexporter: {kind: \"\", uid: \"\"}
";

/// As the first releases took it.
const OLD: &str = "apiVersion: finops.krateo.io/v1
kind: ExporterScraperConfig
metadata: {name: old}
spec:
  exporterConfig:
    provider: {name: '', namespace: ''}
    url: http://<host>:<port>/report.csv
    requireAuthentication: true
    authenticationMethod: bearer-token
    bearerToken: {name: report-endpoint, namespace: finops, key: token}
    metricType: cost
    pollingIntervalHours: 6
    additionalVariables: {host: reports.example, port: 8080}
  scraperConfig:
    tableName: t
    url: http://exporter:2112/metrics
    pollingIntervalHours: 1
    scraperDatabaseConfigRef: {name: db, namespace: finops}
";

fn environment(name: &str) -> Option<String> {
    (name == "SUBSCRIPTION").then(|| "sub-1".to_owned())
}

fn read(text: &str) -> Result<Option<Inherited>, ConfigError> {
    parse(text, Path::new("config.yaml"), None, environment)
}

fn inherited(text: &str) -> Inherited {
    read(text).expect("a good file").expect("an inherited one")
}

#[tokio::test]
async fn both_spellings_say_the_same() {
    let secrets = BY_PEOPLE.split_once("---").expect("documents").1;
    for text in [BY_PEOPLE.to_owned(), format!("{BY_THE_OPERATOR}---{secrets}")] {
        let Inherited { exporters, scrapers, resources } = inherited(&text);
        let [exporter] = &exporters[..] else { panic!("one exporter") };
        assert_eq!((exporter.name.as_str(), exporter.metric_type.as_str()), ("azure", "cost"));
        assert_eq!(exporter.interval, Duration::from_secs(45_000));
        assert_eq!((&exporter.call.verb, exporter.call.payload.as_str()), (&Method::POST, r#"{"a": "<kept>"}"#));
        let resolved = exporter.call.resolve(&resources).await.expect("all of it is there");
        assert_eq!(resolved.url.as_str(), "http://reports.example/base/subscriptions/sub-1/x?year=2024");
        let Some(SecretSource::Held(Held(token))) = resolved.access.bearer_token else { panic!("a token") };
        assert_eq!(token.expose_secret(), "tok-1", "without its line break");
        assert_eq!(resolved.access.userinfo.map(|(user, _)| user).as_deref(), Some("ann"));
        assert_eq!(resolved.access.headers.keys().collect::<Vec<_>>(), ["Accept", "X-Key"]);
        assert!(!format!("{exporters:?}{resources:?}").contains("hush"), "a secret is shown");

        let [scraper, of_usage] = &scrapers[..] else { panic!("two tables") };
        assert_eq!((scraper.table.as_str(), scraper.interval), ("focus_table", Duration::from_secs(3600)));
        assert_eq!((of_usage.table.as_str(), &of_usage.metric_type), ("focus_table_res", &MetricType::Resource));
        assert!(scraper.call.is_none(), "the exporter beside it");
        let login = resources.login(scraper.database.as_ref().expect("a database")).await.expect("a login");
        assert_eq!((login.username.as_str(), login.password.expose_secret()), ("crate", "hush"));

        let usage = exporter.usage.as_ref().expect("a provider");
        assert_eq!((usage.name.as_str(), usage.table.as_deref()), ("azure_res", Some("focus_table_res")));
        let servers = metric_servers(&resources, usage, exporter).await.expect("metrics");
        let [MetricServer { call, metrics }] = &servers[..] else { panic!("the report's own server") };
        let names: Vec<_> = metrics.iter().map(|m| (m.resource_type.as_str(), m.metric_name.as_str())).collect();
        assert_eq!(names, [("Virtual machine", "Percentage CPU"), ("Virtual machine", "Network")], "all of them");
        let resolved = call.resolve(&resources).await.expect("all of it is there");
        assert_eq!(resolved.url.as_str(), "http://reports.example/base/");
        assert!(resolved.access.bearer_token.is_some() && resolved.access.userinfo.is_some());
        assert_eq!(resolved.access.headers.keys().collect::<Vec<_>>(), ["X-Key"], "metrics come as JSON");
        assert_eq!((&call.verb, call.payload.as_str()), (&Method::GET, ""));
    }
}

/// Those of a ProviderConfig to which nothing is missing.
async fn metric_servers(
    resources: &Resources,
    usage: &UsagePart,
    of: &ExporterPart,
) -> Result<Vec<MetricServer>, ResourceError> {
    let mut found = resources.provider_metrics(&usage.provider, &of.call).await?;
    found.failures.pop().map_or(Ok(found.servers), Err)
}

#[tokio::test]
async fn a_metric_may_have_a_server_of_its_own() {
    let own = |api: &str| {
        let own = format!("endpoint: {{resourceSuffix: /n, resourcePrefixAPI: {api}}}");
        let Inherited { exporters, resources, .. } =
            inherited(&BY_PEOPLE.replace("endpoint: {resourceSuffix: /n}", &own));
        (exporters[0].clone(), resources)
    };
    let servers = async |api: &str| {
        let (exporter, resources) = own(api);
        let usage = exporter.usage.as_ref().expect("a provider");
        let servers = metric_servers(&resources, usage, &exporter).await;
        let mut shown = Vec::new();
        for server in servers.map_err(|error| one_line(&error))? {
            let resolved = server.call.resolve(&resources).await.map_err(|error| one_line(&error))?;
            shown.push((resolved.url.to_string(), server.metrics.len()));
        }
        Ok::<_, String>(shown)
    };
    let reports = "http://reports.example/base/";
    for (api, expected) in [
        (
            "{path: /metrics/<year>, endpointRef: {name: report-endpoint, namespace: finops}}",
            &[(reports, 1), ("http://reports.example/base/metrics/2024", 1)][..],
        ),
        ("{path: '', verb: '', headers: [], payload: '', endpointRef: null}", &[(reports, 2)]),
        // Beside its MetricConfig, where it does not say.
        ("{endpointRef: {name: report-endpoint}}", &[(reports, 1), (reports, 1)]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(url, n)| ((*url).to_owned(), *n)).collect();
        assert_eq!(servers(api).await, Ok(expected), "{api}");
    }
    for (api, says) in [
        (
            "{path: /x, verb: POST, endpointRef: {name: e}}",
            "MetricConfig finops/net: spec.endpoint.resourcePrefixAPI: metrics are asked for by GET",
        ),
        (
            "{path: '/<who>'}",
            "MetricConfig finops/net: spec.endpoint.resourcePrefixAPI.path: <who> is not among additionalVariables",
        ),
    ] {
        let error = servers(api).await.expect_err(says);
        assert!(error.starts_with(says), "{error}");
    }
}

#[tokio::test]
async fn what_is_missing_of_a_provider_is_named() {
    for (from, to, says) in [
        (
            "kind: ProviderConfig\n    metadata: {name: azure",
            "kind: ProviderConfig\n    metadata: {name: other",
            "ProviderConfig finops/azure",
        ),
        (
            "kind: ResourceConfig\n    metadata: {name: vms",
            "kind: ResourceConfig\n    metadata: {name: other",
            "ResourceConfig finops/vms",
        ),
        (
            "kind: MetricConfig\n    metadata: {name: net",
            "kind: MetricConfig\n    metadata: {name: other",
            "MetricConfig finops/net",
        ),
        ("resourceFocusName: Virtual machine, ", "", "ResourceConfig finops/vms: spec.resourceFocusName is missing"),
        ("metricName: Network, ", "", "MetricConfig finops/net: spec.metricName is missing"),
        ("endpoint: {resourceSuffix: /n}, ", "", "MetricConfig finops/net: spec.endpoint.resourceSuffix is missing"),
        (
            "resourcesRef: [{name: vms, namespace: finops}]",
            "resourcesRef: []",
            "ProviderConfig finops/azure: it names no metric",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let text = BY_PEOPLE.replace(from, to);
        assert_ne!(text, BY_PEOPLE, "{from}");
        let read = parse(&text, Path::new("config.yaml"), Some(dir.path()), environment);
        let Inherited { exporters, resources, .. } = read.expect("good").expect("inherited");
        let usage = exporters[0].usage.as_ref().expect("a provider");
        let error = metric_servers(&resources, usage, &exporters[0]).await.expect_err(says);
        assert!(one_line(&error).starts_with(says), "{}", one_line(&error));
    }
}

#[test]
fn no_two_sources_have_the_same_name() {
    let named = |name: &str| {
        let of = BY_PEOPLE.split("---").next().expect("the first");
        of.replace("{name: azure, namespace: finops}\nspec", &format!("{{name: {name}}}\nspec"))
    };
    let text = [named("azure"), named("azure_res"), named("b")].join("---\n");
    let names: Vec<_> =
        inherited(&text).exporters.into_iter().map(|of| (of.name, of.usage.expect("usage").name)).collect();
    let expected = [("azure", "azure_res_res"), ("azure_res", "azure_res_res_res"), ("b", "b_res")];
    assert_eq!(names, expected.map(|(name, usage)| (name.to_owned(), usage.to_owned())));
    // What is no cost report has no resources.
    let of_points = named("a")
        .replace("metricType: cost\n    pollingInterval: 12h", "metricType: resource\n    pollingInterval: 12h");
    let of_points = of_points.replace("year: 2024", "year: 2024, ResourceId: r");
    assert!(inherited(&of_points).exporters[0].usage.is_none());
}

#[tokio::test]
async fn the_old_keys_are_taken() {
    let secrets = BY_PEOPLE.split_once("---").expect("documents").1;
    let Inherited { exporters, scrapers, resources } = inherited(&format!("{OLD}---{secrets}"));
    assert_eq!(exporters[0].interval, Duration::from_secs(6 * 3600));
    let resolved = exporters[0].call.resolve(&resources).await.expect("a request");
    assert_eq!(resolved.url.as_str(), "http://reports.example:8080/report.csv", "8080 is no variable");
    assert!(resolved.access.bearer_token.is_some());
    assert_eq!(scrapers[0].call.as_ref().map(Call::shown).as_deref(), Some("http://exporter:2112/metrics"));
    let by_file =
        OLD.replace("bearer-token", "cert-file").replace("port: 8080", "port: 8080, certFilePath: /run/token");
    let Inherited { exporters, resources, .. } = inherited(&by_file);
    let access = exporters[0].call.resolve(&resources).await.expect("a request").access;
    assert_eq!(access.bearer_token, Some(SecretSource::File("/run/token".into())));
    let explained = inherited(&by_file).explained();
    assert!(explained.contains(&"  token of the file /run/token: read for each request".to_owned()), "{explained:?}");
    let silent = OLD.replace("    metricType: cost\n", "").replace("port: 8080", "port: 8080, ResourceId: r");
    assert_eq!(inherited(&silent).exporters[0].metric_type, MetricType::Resource, "what they meant by saying nothing");
}

#[tokio::test]
async fn the_example_that_is_shipped_is_good() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/inherited");
    let inherited = super::read(&Path::new(folder).join("config.yaml"), Some(Path::new(folder)));
    let Inherited { exporters, scrapers, resources } = inherited.expect("good").expect("inherited");
    let calls = [Some(&exporters[0].call), scrapers[0].call.as_ref()].into_iter().flatten();
    let mut urls = Vec::new();
    for call in calls {
        urls.push(call.resolve(&resources).await.expect("a request").url.to_string());
    }
    assert_eq!(urls, ["https://reports.example/exports/0000-1111/costs.csv", "http://127.0.0.1:2112/metrics"]);
    let usage = exporters[0].usage.as_ref().expect("a provider");
    let servers = metric_servers(&resources, usage, &exporters[0]).await.expect("metrics");
    assert_eq!(servers[0].metrics[0].metric_name, "Percentage CPU");
}

#[test]
fn what_it_asks_for_is_explained_without_secrets() {
    let people = BY_PEOPLE.replace("year: 2024", "year: 2024, api_key: hush");
    let lines = inherited(&people).explained();
    assert_eq!(
        lines,
        [
            "source azure: a cost report, every 12h30m",
            "  POST /subscriptions/sub-1/x?year=2024 at the server-url of Secret finops/report-endpoint",
            "  variable api_key: ***",
            "  variable subscription_id: from environment variable SUBSCRIPTION, which is set",
            "  variable year: 2024",
            "  header Accept, its value as written",
            "  header X-Key, its value as written",
            "  payload of 15 bytes",
            "  Secret finops/report-endpoint: read from the cluster for each request",
            "  table focus_table",
            "source azure_res: usage of the resources of azure, every 12h30m",
            "  ProviderConfig finops/azure, its ResourceConfigs and MetricConfigs: read from the cluster for each poll",
            "  GET a resource's id and a metric's resourceSuffix at the server-url of Secret finops/report-endpoint, or at the metric's resourcePrefixAPI",
            "  table focus_table_res",
            "table focus_table: cost rows, every 1h",
            "  from the exporter beside it",
            "  uploaded as the user of DatabaseConfig finops/db, read from the cluster each time",
            "table focus_table_res: resource rows, every 1h",
            "  from the exporter beside it",
            "  uploaded as the user of DatabaseConfig finops/db, read from the cluster each time",
        ]
    );
}

#[test]
fn the_scrapers_own_file_is_taken() {
    let Inherited { exporters, scrapers, .. } = inherited(
        "databaseConfigRef: {name: db, namespace: finops}
exporter:
  api: {path: /metrics, verb: GET, endpointref: {name: exporter-endpoint, namespace: finops}}
  pollingInterval: {duration: 24h}
  tableName: focus_table
  metricType: cost
",
    );
    assert!(exporters.is_empty());
    assert_eq!(scrapers[0].interval, Duration::from_secs(86_400));
    let shown = scrapers[0].call.as_ref().map(Call::shown);
    assert_eq!(shown.as_deref(), Some("/metrics at the server-url of Secret finops/exporter-endpoint"));
    assert_eq!(scrapers[0].database.as_ref().map(ToString::to_string).as_deref(), Some("finops/db"));
}

#[test]
fn ours_is_told_apart_from_theirs() {
    for (text, is) in [
        ("exporter: {sources: []}\n", false),
        ("handler: {}\n", false),
        ("", false),
        ("# nothing\n", false),
        ("- kind: Secret\n  metadata: {name: a}\n", true),
        ("# first\n---\n---\nkind: Secret\n", true),
        ("typemeta: {kind: ExporterScraperConfig}\nspec: {}\n", true),
        ("databaseConfigRef: {name: a}\nexporter: {tableName: t}\n", true),
    ] {
        assert_eq!(document::is_inherited(text, Path::new("x")), is, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let part = |text: &str| format!("---\nkind: ExporterScraperConfig\nspec:\n  exporterConfig:\n{text}");
    let api = "    api: {path: /x, endpointRef: {name: e}}\n";
    for (text, says) in [
        (part("    pollingIntervall: 1h\n"), "line 5: unknown field `pollingIntervall`"),
        (part(&format!("{api}    pollingInterval: soon\n")), "line 6: pollingInterval: "),
        (part(&format!("{api}    pollingInterval: {{duration: soon}}\n")), "line 6: \"soon\" is no duration"),
        (part(&format!("{api}    pollingIntervalHours: -1\n")), "line 6"),
        (part(&format!("{api}    metricType: costs\n")), "spec.exporterConfig.metricType: \"costs\" is none of"),
        (part(&format!("{api}    metricType: generic\n")), "generic.metricName is missing"),
        (part(&format!("{api}    metricType: resource\n")), "additionalVariables: ResourceId is missing"),
        (part("    metricType: cost\n"), "has neither `api` nor `url`"),
        (part("    api: {path: '/<who>'}\n"), "api.path: <who> is not among additionalVariables"),
        (
            part(&format!("{api}    additionalVariables: {{who: NOT_THERE}}\n")),
            "additionalVariables.who: environment variable NOT_THERE is not set",
        ),
        (part("    api: {path: /x, verb: 'GO ON'}\n"), "api.verb: \"GO ON\""),
        (part("    api: {path: /x, headers: [hush]}\n"), "written as `Name: value`"),
        (part("    url: 'ftp://hush@h/'\n"), "url: it is neither http nor https"),
        (part("    url: 'http://h/'\n    requireAuthentication: true\n"), "bearerToken names no key of a Secret"),
        (
            part("    url: 'http://h/'\n    requireAuthentication: true\n    authenticationMethod: cert-file\n"),
            "cert-file needs additionalVariables.certFilePath",
        ),
        (
            part(&format!("{api}    requireAuthentication: true\n    authenticationMethod: cert-file\n")),
            "cert-file is for `url`",
        ),
        ("kind: Pod\n".to_owned(), "`kind`: Pod is none that is known"),
        ("kind: ExporterScraperConfig\n".to_owned(), "`spec` is missing"),
        ("databaseConfigRef: {name: a}\nexporter: {}\n".to_owned(), "exporter.tableName is missing"),
    ] {
        let error = one_line(&read(&text).expect_err(&text));
        assert!(error.contains("config.yaml") && error.contains(says) && !error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn resources_are_files_of_a_directory_read_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text = BY_PEOPLE.split("---").next().expect("the first");
    let Inherited { exporters, resources, .. } =
        parse(text, Path::new("config.yaml"), Some(dir.path()), environment).expect("good").expect("inherited");
    let call = &exporters[0].call;
    let missing = one_line(&call.resolve(&resources).await.expect_err("an empty directory"));
    assert!(missing.starts_with("Secret finops/report-endpoint: there is none in "), "{missing}");

    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("written");
    };
    let token = async || match call.resolve(&resources).await.expect("a request").access.bearer_token {
        Some(SecretSource::Held(Held(token))) => token.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    };
    let secret = |token: &str| {
        format!(
            "kind: Secret\nmetadata: {{name: report-endpoint}}\nstringData: {{server-url: 'http://h', token: {token}}}\n"
        )
    };
    write("other.yaml", "kind: Secret\nmetadata: {name: other}\n");
    // One that is none is told to who looks for what is nowhere, and keeps nobody from the others.
    write("broken.yaml", "kind: Secret\nmetadatum: {name: other}\n");
    let broken = one_line(&call.resolve(&resources).await.expect_err("not there"));
    assert!(broken.contains("broken.yaml line 2: unknown field `metadatum`"), "{broken}");
    for rotated in ["first", "second"] {
        write("secrets.yaml", &secret(rotated));
        assert_eq!(token().await, rotated);
    }
    // A Secret as Kubernetes mounts it.
    write("finops/report-endpoint/server-url", "http://h\n");
    write("finops/report-endpoint/token", "mounted\n");
    write("finops/report-endpoint/..data/token", "hush");
    assert_eq!(token().await, "mounted");

    write("finops/report-endpoint/server-url", "hush hush");
    let error = one_line(&call.resolve(&resources).await.expect_err("no url"));
    assert!(error.starts_with("Secret finops/report-endpoint: server-url: it is no URL") && !error.contains("hush"));
    std::fs::remove_file(dir.path().join("finops/report-endpoint/server-url")).expect("removed");
    let error = one_line(&call.resolve(&resources).await.expect_err("no url"));
    assert_eq!(error, "Secret finops/report-endpoint: it has no key server-url, or nothing in it");
}

#[tokio::test]
async fn a_secret_says_all_that_an_endpoint_may_have() {
    let resolved = async |keys: &str| {
        let text = format!(
            "kind: ExporterScraperConfig
metadata: {{name: a}}
spec: {{exporterConfig: {{api: {{path: x, endpointRef: {{name: e}}}}}}}}
---
kind: Secret
metadata: {{name: e}}
stringData:
  server-url: https://h/
{keys}"
        );
        let Inherited { exporters, resources, .. } = inherited(&text);
        exporters[0].call.resolve(&resources).await.map_err(|error| one_line(&error))
    };
    let pem = "LS0tLS1CRUdJTiBYLS0tLS0K";
    let all = format!(
        "  username: ann\n  password: hush\n  proxy-url: http://p:hush@proxy:3128\n  insecure: 'true'\n  debug: 'true'
  certificate-authority-data: {pem}\n  client-certificate-data: {pem}\n  client-key-data: {pem}\n"
    );
    let Resolved { access, proxy, debug, .. } = resolved(&all).await.expect("all of it");
    assert_eq!(access.basic_auth.map(|basic| basic.username).as_deref(), Some("ann"));
    assert!(access.tls.insecure_skip_verify && debug);
    assert_eq!(proxy.and_then(|proxy| proxy.port()), Some(3128));
    let given = access.tls.given.expect("certificates");
    assert!(given.identity.is_some() && given.authorities.is_some_and(|pem| pem.starts_with("-----BEGIN X")));
    for (keys, says) in [
        ("  client-key-data: LS0tLS1CRUdJTiBYLS0tLS0K\n", "go together"),
        ("  certificate-authority-data: hush\n", "certificate-authority-data is neither PEM nor PEM in base64"),
        ("  proxy-url: hush\n", "proxy-url is no URL"),
    ] {
        let error = resolved(keys).await.expect_err(says);
        assert!(error.contains(says) && !error.contains("hush"), "{error}");
    }
}
