//! Sources over https, from the configuration file to the snapshot: whom to trust, what to
//! prove ourselves with, and to whom that is not told.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use costream_common::config;
use costream_common::report::one_line;
use costream_exporter::config::ExporterConfig;
use costream_exporter::{Exporter, Polled};
use costream_tests::certificates::Authority;
use costream_tests::server::{Answer, Server};
use tempfile::TempDir;

const REPORT: &str = "BilledCost,BillingCurrency\n1.25,USD\n";

/// A folder with an authority's certificate in it.
struct House {
    dir: TempDir,
    authority: Authority,
}

impl House {
    fn new() -> Self {
        let house =
            Self { dir: tempfile::tempdir().expect("a folder"), authority: Authority::new().expect("an authority") };
        house.write("ca.pem", &house.authority.certificate());
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn serve(&self, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Server {
        let identity = self.authority.issue(&["127.0.0.1"]).expect("a certificate");
        Server::start(Some(&identity), move |_| answer()).expect("a server")
    }

    /// An exporter of one source, whose further keys have `DIR` where the folder is meant.
    async fn exporter(&self, url: &str, keys: &str) -> Exporter {
        let dir = self.dir.path().to_str().expect("text");
        let keys = keys.replace("DIR", dir);
        let text = format!(
            "exporter:\n  spool_dir: {dir}/spool\n  retry_for: 0s\n  sources:\n    - name: azure\n      url: {url}\n{keys}"
        );
        let config = config::parse::<config::File<ExporterConfig>>(&text, Path::new("costream.yaml"));
        Exporter::start(config.expect("a good section").exporter).await.expect("an exporter")
    }
}

async fn poll(exporter: &Exporter) -> Result<Polled, String> {
    let outcome = exporter.poll_all().await.pop().expect("one source");
    outcome.result.map_err(|error| one_line(&error))
}

#[tokio::test]
async fn a_servers_own_authority_is_trusted_where_it_is_configured_and_there_alone() {
    let house = House::new();
    let server = house.serve(|| Answer::new(200, REPORT));
    let url = server.url("/costs.csv");
    let trusting = house.exporter(&url, "      tls: {ca_file: DIR/ca.pem}\n").await;
    assert_eq!(poll(&trusting).await.expect("a good poll").snapshot.totals.rows(), 1);
    drop(trusting);

    house.write("ca.pem", &Authority::new().expect("an authority").certificate());
    for keys in ["", "      tls: {ca_file: DIR/ca.pem}\n"] {
        let error = poll(&house.exporter(&url, keys).await).await.expect_err("an unknown issuer");
        let says = format!("GET {url}: the issuer of its certificate is unknown; ");
        assert!(error.starts_with(&says) && !error.contains('\n'), "{error}");
    }
    assert_eq!(server.asked().len(), 1, "nothing is said to a server that is not known");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let house = House::new();
    let identity = house.authority.issue(&["reports.example"]).expect("a certificate");
    let server = Server::start(Some(&identity), |_| Answer::new(200, REPORT)).expect("a server");
    let exporter = house.exporter(&server.url("/costs.csv"), "      tls: {ca_file: DIR/ca.pem}\n").await;
    let error = poll(&exporter).await.expect_err("another's certificate");
    assert!(error.contains(&server.url("/costs.csv")) && error.contains("not valid for name"), "{error}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn credentials_are_sent_as_configured_and_read_anew_for_each_poll() {
    let house = House::new();
    let server = house.serve(|| Answer::new(200, REPORT));
    let sent = |header: &str| {
        let asked = server.asked().pop().expect("it was asked");
        asked.header(header).map(str::to_owned)
    };
    let bearer = "      bearer_token: {file: DIR/token}\n      headers: {X-Version: '2', X-Api-Key: {file: DIR/key}}\n      tls: {ca_file: DIR/ca.pem}\n";
    house.write("token", "first\n");
    house.write("key", "k-1");
    let exporter = house.exporter(&server.url("/costs.csv"), bearer).await;
    for (token, key) in [("first", "k-1"), ("second", "k-2")] {
        house.write("token", &format!("{token}\n"));
        house.write("key", key);
        poll(&exporter).await.expect("a good poll");
        assert_eq!(sent("authorization"), Some(format!("Bearer {token}")));
        assert_eq!((sent("x-version").as_deref(), sent("x-api-key").as_deref()), (Some("2"), Some(key)));
    }
    drop(exporter);

    let basic = "      basic_auth: {username: ann, password: {file: DIR/password}}\n      tls: {ca_file: DIR/ca.pem}\n";
    house.write("password", "p:ss\n");
    let exporter = house.exporter(&server.url("/costs.csv"), basic).await;
    for password in ["p:ss", "wörd"] {
        house.write("password", &format!("{password}\n"));
        poll(&exporter).await.expect("a good poll");
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
        assert_eq!(sent("authorization"), Some(format!("Basic {login}")));
    }
    std::fs::remove_file(house.path("password")).expect("removed");
    let before = server.asked().len();
    let error = poll(&exporter).await.expect_err("no password");
    assert!(error.starts_with("read secret file ") && error.contains("password: No such file"), "{error}");
    assert_eq!(server.asked().len(), before, "without its password it is not asked");
}

#[tokio::test]
async fn a_redirect_to_another_server_is_followed_without_credentials() {
    let house = House::new();
    let elsewhere = house.serve(|| Answer::new(200, REPORT));
    let location = elsewhere.url("/store/costs.csv?sig=hush");
    let server = house.serve(move || Answer::new(307, "").with("Location", &location));
    house.write("token", "first\n");
    let keys = "      bearer_token: {file: DIR/token}\n      headers: {X-Api-Key: {file: DIR/token}}\n      tls: {ca_file: DIR/ca.pem}\n";
    let exporter = house.exporter(&server.url("/costs.csv"), keys).await;
    assert_eq!(poll(&exporter).await.expect("a good poll").snapshot.totals.rows(), 1);
    let (first, then) = (server.asked(), elsewhere.asked());
    assert_eq!(first[0].header("authorization"), Some("Bearer first"));
    assert_eq!((first.len(), then.len(), then[0].target.as_str()), (1, 1, "/store/costs.csv?sig=hush"));
    assert_eq!((then[0].header("authorization"), then[0].header("x-api-key")), (None, None));

    let stranger = Server::start(None, |_| Answer::new(200, REPORT)).expect("a server");
    let location = stranger.url("/costs.csv");
    let downgrading = house.serve(move || Answer::new(302, "").with("Location", &location));
    drop(exporter);
    let exporter = house.exporter(&downgrading.url("/costs.csv"), keys).await;
    let error = poll(&exporter).await.expect_err("https to http");
    assert!(error.contains("redirected from https to http") && stranger.asked().is_empty(), "{error}");
}
