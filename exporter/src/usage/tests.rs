use std::collections::BTreeMap;
use std::path::Path;

use costream_common::record::RowKind;
use costream_common::secret::SecretSource;
use costream_tests::azure_monitor::{self as stand_in, AzureMonitor as StandIn};

use super::*;
use crate::config::azure_monitor::{
    Auth, AzureMonitor, ClientCredentials, FromCosts, Metric, Question, Resource, Resources, Timespan,
};
use crate::dimensions::Dimensions;
use crate::report::{DecodeOptions, Report};

const VM: &str = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm";
const CPU: &str = "Percentage CPU";

/// A resource, a metric, a time and a value.
type Known = BTreeMap<(String, String, String), String>;

struct House {
    dir: tempfile::TempDir,
    azure: StandIn,
    /// As a program has it for all of its sources.
    subscriptions: Arc<Subscriptions>,
}

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

fn metric(name: &str, timespan: Timespan) -> Metric {
    Metric { name: name.to_owned(), namespace: None, resource_suffix: None, timespan, interval: Default::default() }
}

fn named(ids: &[String]) -> Resources {
    Resources::Named(ids.iter().map(|id| Resource { id: id.clone(), region: Some("westeurope".to_owned()) }).collect())
}

impl House {
    fn new(now: &str) -> Self {
        let (dir, azure) = (tempfile::tempdir().expect("a folder"), StandIn::start(at(now)).expect("a stand-in"));
        Self { dir, azure, subscriptions: Arc::default() }
    }

    fn spool(&self) -> Spool {
        let sources = ["usage", "costs"].map(|name| name.parse().expect("a name")).into();
        Spool::open(&self.dir.path().join("spool"), None, Dimensions::none(), 100, false, &sources).expect("a spool")
    }

    fn secret(&self) -> SecretSource {
        let path = self.dir.path().join("secret");
        std::fs::write(&path, format!("{}\n", stand_in::CLIENT_SECRET)).expect("written");
        SecretSource::File(path)
    }

    fn config(&self, of: Resources, metrics: &[Metric]) -> AzureMonitor {
        let application = ClientCredentials {
            tenant: stand_in::TENANT.to_owned(),
            client_id: stand_in::CLIENT_ID.to_owned(),
            client_secret: self.secret(),
            token_url: Some(self.azure.token_url().parse().expect("a url")),
            resource: "https://management.azure.com/".to_owned(),
        };
        AzureMonitor {
            base_url: self.azure.url().parse().expect("a url"),
            ..AzureMonitor::new(Auth::ClientCredentials(application), vec![Question { of, metrics: metrics.to_vec() }])
        }
    }

    fn usage(&self, config: AzureMonitor) -> Usage {
        let from = UsageFrom::AzureMonitor(Arc::new(config));
        Usage::new("usage".parse().expect("a name"), &from, Arc::clone(&self.subscriptions)).expect("a source")
    }

    fn one(&self) -> Usage {
        self.usage(self.config(named(&[format!("{VM}1")]), &[metric(CPU, Timespan::Day)]))
    }

    /// What the stand-in has of resources from one time to another.
    fn truth(&self, ids: &[String], metrics: &[&str], from: &str, until: &str) -> Known {
        let world = self.azure.world();
        let until = at(until).min(world.now);
        let times = std::iter::successors(Some(at(from)), |time| Some(*time + TimeDelta::minutes(15)));
        let mut known = Known::new();
        for time in times.take_while(|time| *time < until) {
            for (id, metric) in ids.iter().flat_map(|id| metrics.iter().map(move |metric| (id, *metric))) {
                let shown = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                let key = (id.clone(), metric.to_owned(), shown);
                let value = world.values.get(&key).cloned();
                if let Some(value) = value.unwrap_or_else(|| Some(stand_in::average(id, metric, time))) {
                    let exact: costream_common::money::Amount = value.parse().expect("a decimal");
                    known.insert(key, exact.to_string());
                }
            }
        }
        known
    }
}

/// Polls once, as [`crate::poll`] does it, at the stand-in's time: how each day ended.
async fn poll(usage: &Usage, spool: &Spool, now: DateTime<Utc>) -> Result<Vec<(String, Result<bool, String>)>, String> {
    let telemetry = Telemetry::new();
    let items = usage.begin(spool, now).await.map_err(|error| one_line(&error))?;
    let mut ended = Vec::new();
    for item in &items {
        let around = Around { spool, telemetry: &telemetry, retry_for: Duration::from_secs(2) };
        let taken = usage.take(item, around).await;
        let result = taken.map(|taken| taken.changed).map_err(|error| one_line(&error));
        ended.push((item.scope.to_string(), result));
    }
    Ok(ended)
}

async fn poll_well(house: &House, usage: &Usage, spool: &Spool) -> Vec<(String, bool)> {
    let now = house.azure.world().now;
    let ended = poll(usage, spool, now).await.expect("a poll");
    ended.into_iter().map(|(day, result)| (day, result.expect("a good day"))).collect()
}

/// Every point in the spool; that none is there twice is checked on the way.
fn spooled(spool: &Spool) -> Known {
    let mut known = Known::new();
    for generation in spool.current() {
        assert_eq!(generation.snapshot().kind, RowKind::Points { table: "usage".to_owned() });
        for batch in generation.records().expect("records") {
            for row in points::rows(&batch.expect("a batch")) {
                let time = DateTime::from_timestamp_micros(row.micros).expect("a time");
                let key = (
                    row.resource.to_owned(),
                    row.metric.to_owned(),
                    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
                );
                let twice = known.insert(key.clone(), row.average.to_string());
                assert_eq!(twice, None, "{key:?} is there twice");
            }
        }
    }
    known
}

fn ids(n: std::ops::RangeInclusive<usize>) -> Vec<String> {
    n.map(|n| format!("{VM}{n}")).collect()
}

#[tokio::test]
async fn an_outage_and_a_restart_leave_no_hole_and_no_overlap() {
    let house = House::new("2026-11-20T10:20:00Z");
    let (spool, usage) = (house.spool(), house.one());
    assert_eq!(
        poll_well(&house, &usage, &spool).await,
        [("2026-11-20".to_owned(), true), ("2026-11-19".to_owned(), true)]
    );
    assert_eq!(spooled(&spool), house.truth(&ids(1..=1), &[CPU], "2026-11-19T00:00:00Z", "2026-11-21T00:00:00Z"));
    // Today grows and is replaced; yesterday is asked no more until it settles.
    house.azure.world().now = at("2026-11-20T12:00:00Z");
    assert_eq!(
        poll_well(&house, &usage, &spool).await,
        [("2026-11-20".to_owned(), true), ("2026-11-19".to_owned(), false)]
    );
    assert_eq!(house.azure.asked().len(), 3);
    drop((usage, spool));
    // Four days later, another process.
    house.azure.world().now = at("2026-11-24T09:00:00Z");
    let (spool, usage) = (house.spool(), house.one());
    let days = poll_well(&house, &usage, &spool).await;
    let changed: Vec<_> = days.iter().filter(|(_, changed)| *changed).map(|(day, _)| day.as_str()).collect();
    assert_eq!(changed, ["2026-11-24", "2026-11-23", "2026-11-22", "2026-11-21", "2026-11-20"]);
    assert_eq!(spooled(&spool), house.truth(&ids(1..=1), &[CPU], "2026-11-19T00:00:00Z", "2026-11-25T00:00:00Z"));
    // All but today and what is not settled yet is left alone from now on.
    let asked = house.azure.asked().len();
    poll_well(&house, &usage, &spool).await;
    assert_eq!(house.azure.asked().len(), asked + 1);
    // Nor does an outage that is longer than days are kept.
    house.azure.world().now = at("2027-01-10T09:00:00Z");
    poll_well(&house, &usage, &spool).await;
    let since = house.truth(&ids(1..=1), &[CPU], "2026-11-24T00:00:00Z", "2027-01-11T00:00:00Z");
    assert_eq!(spooled(&spool), since);
}

#[tokio::test]
async fn a_late_point_takes_its_place_and_a_settled_day_is_served_for_as_long_as_it_is_kept() {
    let house = House::new("2026-11-20T10:20:00Z");
    let point = |time: &str| (format!("{VM}1"), CPU.to_owned(), time.to_owned());
    house.azure.world().values.insert(point("2026-11-20T09:00:00Z"), None);
    let (spool, usage) = (house.spool(), house.one());
    poll_well(&house, &usage, &spool).await;
    assert!(!spooled(&spool).contains_key(&point("2026-11-20T09:00:00Z")));
    let counted: BTreeMap<_, _> = spool.current().iter().flat_map(|of| of.manifest.report.rules.clone()).collect();
    assert_eq!(counted, [("point_without_average".to_owned(), 1)].into());
    // It comes late, and another one is corrected.
    house.azure.world().values.insert(point("2026-11-20T09:00:00Z"), Some("1e-12".to_owned()));
    house.azure.world().values.insert(point("2026-11-20T09:15:00Z"), Some("7".to_owned()));
    poll_well(&house, &usage, &spool).await;
    assert_eq!(spooled(&spool)[&point("2026-11-20T09:00:00Z")], "0.000000000001");
    assert_eq!(spooled(&spool)[&point("2026-11-20T09:15:00Z")], "7");
    // The day settles two days after its end: what came until then is there, what comes later is not.
    house.azure.world().now = at("2026-11-23T00:00:00Z");
    house.azure.world().values.insert(point("2026-11-20T09:15:00Z"), Some("8".to_owned()));
    poll_well(&house, &usage, &spool).await;
    assert_eq!(spooled(&spool)[&point("2026-11-20T09:15:00Z")], "8");
    house.azure.world().values.insert(point("2026-11-20T09:15:00Z"), Some("9".to_owned()));
    poll_well(&house, &usage, &spool).await;
    assert_eq!(spooled(&spool)[&point("2026-11-20T09:15:00Z")], "8");
    // And a month later nobody needs it.
    house.azure.world().now = at("2026-12-23T23:00:00Z");
    poll_well(&house, &usage, &spool).await;
    assert!(spooled(&spool).contains_key(&point("2026-11-20T09:15:00Z")), "it may be wanted by who was away");
    house.azure.world().now = at("2026-12-24T01:00:00Z");
    poll_well(&house, &usage, &spool).await;
    let first = spool.current()[0].key().scope.to_string();
    assert!(first.as_str() > "2026-11-20", "{first} is still there");
}

#[tokio::test]
async fn a_resource_that_is_gone_stops_nobody_and_keeps_its_points() {
    let house = House::new("2026-11-20T10:20:00Z");
    let usage = house.usage(house.config(named(&ids(1..=3)), &[metric(CPU, Timespan::Day)]));
    let spool = house.spool();
    house.azure.world().missing.insert(format!("{VM}2"));
    poll_well(&house, &usage, &spool).await;
    let (day, today, now) = ("2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-20T10:20:00Z");
    let known = |of: Vec<String>, from| house.truth(&of, &[CPU], from, now);
    assert_eq!(spooled(&spool), known([ids(1..=1), ids(3..=3)].concat(), day));
    assert_eq!(spool.current()[0].manifest.report.rules, [("question_not_answered".to_owned(), 1)].into());
    // The missing one comes, others go.
    house.azure.world().missing = [format!("{VM}1")].into();
    house.azure.world().failing = [format!("{VM}3")].into();
    poll_well(&house, &usage, &spool).await;
    let mut all = known(ids(1..=3), today);
    all.extend(known([ids(1..=1), ids(3..=3)].concat(), day));
    assert_eq!(spooled(&spool), all);
    // When all are gone, the poll has failed and all is as it was.
    house.azure.world().missing = ids(1..=3).into_iter().collect();
    house.azure.world().failing.clear();
    let ended = poll(&usage, &spool, at(now)).await.expect("a poll");
    let error = ended[0].1.as_ref().expect_err("nobody is there");
    assert!(error.contains("404 Not Found: ResourceNotFound: The Resource"), "{error}");
    assert_eq!(spooled(&spool), all);
    // A day that is over is asked for the missing one when it settles.
    house.azure.world().missing.clear();
    house.azure.world().now = at("2026-11-22T00:00:00Z");
    poll_well(&house, &usage, &spool).await;
    assert_eq!(spooled(&spool), house.truth(&ids(1..=3), &[CPU], day, "2026-11-22T00:00:00Z"));
}

#[tokio::test]
async fn a_token_is_asked_for_once_renewed_before_its_end_and_when_it_is_refused() {
    let house = House::new("2026-11-20T10:20:00Z");
    let usage = house.usage(house.config(named(&ids(1..=5)), &[metric(CPU, Timespan::Day)]));
    let spool = house.spool();
    poll_well(&house, &usage, &spool).await;
    assert_eq!(house.azure.asked_for_tokens(), 1, "ten questions, one token");
    house.azure.world().forget_tokens();
    house.azure.world().now = at("2026-11-20T11:00:00Z");
    poll_well(&house, &usage, &spool).await;
    assert_eq!(house.azure.asked_for_tokens(), 2, "renewed once, whoever was refused");
    // One that ends at once is renewed for every question.
    house.azure.world().token_life = 0;
    house.azure.world().forget_tokens();
    house.azure.world().now = at("2026-11-20T12:00:00Z");
    poll_well(&house, &usage, &spool).await;
    assert!(house.azure.asked_for_tokens() > 3);
    assert_eq!(spooled(&spool), house.truth(&ids(1..=5), &[CPU], "2026-11-19T00:00:00Z", "2026-11-20T12:00:00Z"));
}

#[tokio::test]
async fn what_is_wrong_with_the_login_is_said_and_nothing_is_lost() {
    let house = House::new("2026-11-20T10:20:00Z");
    let spool = house.spool();
    poll_well(&house, &house.one(), &spool).await;
    let before = spooled(&spool);
    let said = async |usage: Usage| {
        let ended = poll(&usage, &spool, at("2026-11-20T10:30:00Z")).await.expect("a poll");
        assert_eq!(spooled(&spool), before);
        ended[0].1.clone().expect_err("nobody is let in")
    };
    house.azure.world().tokens_are_pages = true;
    let error = said(house.one()).await;
    assert!(
        error.contains("/tenant-1/oauth2/token for a token: 200 OK with a web page in place of a token"),
        "{error}"
    );
    house.azure.world().tokens_are_pages = false;
    let usage = house.one();
    std::fs::write(house.dir.path().join("secret"), "wrong").expect("written");
    let error = said(usage).await;
    assert!(
        error.contains("401 Unauthorized: AADSTS7000215: Invalid client secret provided.") && !error.contains("wrong"),
        "{error}"
    );
    // A token as it is given, read anew: the first is refused.
    let token = house.dir.path().join("token");
    std::fs::write(&token, "given").expect("written");
    let mut config = house.config(named(&ids(1..=1)), &[metric(CPU, Timespan::Day)]);
    config.auth = Auth::BearerToken(SecretSource::File(token));
    let error = said(house.usage(config.clone())).await;
    assert!(error.contains("401 Unauthorized: ExpiredAuthenticationToken"), "{error}");
    house.azure.world().trust("given");
    poll_well(&house, &house.usage(config), &spool).await;
}

#[tokio::test]
async fn who_is_throttled_waits_as_long_as_it_is_told_and_loses_nothing() {
    let house = House::new("2026-11-20T10:20:00Z");
    let usage = house.usage(house.config(named(&ids(1..=6)), &[metric(CPU, Timespan::Day)]));
    let spool = house.spool();
    house.azure.world().throttles = (3, 1);
    let began = std::time::Instant::now();
    poll_well(&house, &usage, &spool).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "the wait it asked for");
    assert_eq!(spooled(&spool), house.truth(&ids(1..=6), &[CPU], "2026-11-19T00:00:00Z", "2026-11-20T10:20:00Z"));
    // For longer than a poll is patient, the schedule waits.
    house.azure.world().throttles = (100, 3_600);
    let items = usage.begin(&spool, at("2026-11-20T10:30:00Z")).await.expect("days");
    let telemetry = Telemetry::new();
    let around = Around { spool: &spool, telemetry: &telemetry, retry_for: Duration::from_secs(2) };
    let error = usage.take(&items[0], around).await.err().expect("throttled");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3_600)));
}

#[tokio::test]
async fn sources_of_one_subscription_share_its_budget() {
    let house = House::new("2026-11-20T00:00:00Z");
    let one = |id: &str| {
        let mut config = house.config(named(&[id.to_owned()]), &[metric(CPU, Timespan::Day)]);
        config.requests_per_hour = 20.try_into().expect("some");
        house.usage(config)
    };
    let (mine, theirs) = (format!("{VM}1"), format!("{VM}2"));
    let spool = house.spool();
    // Two days are its two requests; the next one's turn is minutes away.
    poll_well(&house, &one(&mine), &spool).await;
    let asked = house.azure.asked().len();
    let of_theirs = one(&theirs);
    let late = tokio::time::timeout(Duration::from_secs(1), poll_well(&house, &of_theirs, &spool)).await;
    assert!(late.is_err(), "{late:?}");
    assert_eq!(house.azure.asked().len(), asked, "a second source asks within the budget of the first");
    let other = theirs.replace("/s1/", "/s2/");
    poll_well(&house, &one(&other), &spool).await;
    assert_eq!(house.azure.asked().len(), asked + 2, "another subscription has its own");
}

#[tokio::test]
async fn resources_of_a_region_are_asked_together() {
    let house = House::new("2026-11-20T10:20:00Z");
    let metrics = [metric(CPU, Timespan::Day), metric("Network In Total", Timespan::Day)];
    let mut config = house.config(named(&ids(1..=51)), &metrics);
    config.batch_url = Some(house.azure.batch_url().try_into().expect("a url"));
    let (usage, spool) = (house.usage(config), house.spool());
    poll_well(&house, &usage, &spool).await;
    assert_eq!(house.azure.asked().len(), 4, "two days, 51 resources by 50");
    let names = [CPU, "Network In Total"];
    assert_eq!(spooled(&spool), house.truth(&ids(1..=51), &names, "2026-11-19T00:00:00Z", "2026-11-20T10:20:00Z"));
}

#[tokio::test]
async fn resources_are_found_in_the_cost_report_once_each() {
    let house = House::new("2026-11-20T10:20:00Z");
    let of = FromCosts { source: Some("costs".parse().expect("a name")), resource_type: "Virtual machine".to_owned() };
    let usage = house.usage(house.config(Resources::FromCosts(of), &[metric(CPU, Timespan::Day)]));
    let spool = house.spool();
    let error = poll(&usage, &spool, at("2026-11-20T10:20:00Z")).await.expect_err("no report yet");
    assert!(error.contains("no cost report of source costs has been read yet"), "{error}");

    let csv = format!(
        "BilledCost,ResourceId,ResourceType,RegionId\n1,{VM}1,Virtual machine,westeurope\n2,{},Virtual machine,westeurope\n3,{VM}2,Disk,westeurope\n4,,Virtual machine,\n5,vm9,Virtual machine,\n6,{VM}3,Virtual machine,\n",
        format!("{VM}1").to_uppercase()
    );
    keep_costs(&spool, &csv).await;
    poll_well(&house, &usage, &spool).await;
    let of_usage = || {
        let generations = spool.current();
        let of_usage = generations.iter().filter(|generation| generation.key().source.as_str() == "usage");
        of_usage.map(|generation| generation.snapshot().totals.rows()).sum::<u64>()
    };
    let all = house.truth(&[ids(1..=1), ids(3..=3)].concat(), &[CPU], "2026-11-19T00:00:00Z", "2026-11-20T10:20:00Z");
    assert_eq!(of_usage(), all.len() as u64);
    assert_eq!(house.azure.asked().len(), 4);
    // A resource that is new in the report is asked for the days that are not settled, too.
    keep_costs(&spool, &format!("{csv}7,{VM}4,Virtual machine,\n")).await;
    poll_well(&house, &usage, &spool).await;
    assert_eq!(of_usage(), all.len() as u64 * 3 / 2);
}

async fn keep_costs(spool: &Spool, csv: &str) {
    let bytes = std::io::Cursor::new(csv.as_bytes().to_vec());
    let mut report = Report::open(bytes, DecodeOptions::new("costs.csv")).await.expect("a report");
    let key = ScopeKey { source: "costs".parse().expect("a name"), scope: "costs.csv".parse().expect("a name") };
    let intake = Intake::begin(spool, key, "costs.csv".to_owned(), report.schema(), RowKind::Charges);
    while let Some(decoded) = report.next().await.expect("a good report") {
        intake.add_all([decoded]).await;
    }
    let asked = AskedUsage { at: Utc::now(), plan: String::new(), open: 0, is_partial: false };
    let facts = ReportFacts {
        seen: Seen::of_usage(asked, csv.to_owned(), 0),
        conversion: String::new(),
        profile: ProfileName::Strict,
        focus_version: None,
        rules: BTreeMap::new(),
    };
    intake.commit(facts, None).await.expect("a snapshot");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_for_as_long_as_a_poll_does_that() {
    let house = House::new("2026-11-20T10:20:00Z");
    let mut config = house.config(named(&ids(1..=100)), &[metric(CPU, Timespan::Day)]);
    // A port that nobody listens at.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    config.base_url = format!("http://{free}").parse().expect("a url");
    let (usage, spool) = (house.usage(config), house.spool());
    let began = std::time::Instant::now();
    let ended = poll(&usage, &spool, at("2026-11-20T10:20:00Z")).await.expect("a poll");
    assert!(ended.iter().all(|(_, result)| result.is_err()) && spooled(&spool).is_empty());
    assert!(began.elapsed() < Duration::from_secs(30), "not once for each of a hundred");
    assert!(std::fs::read_dir(Path::new(&house.dir.path().join("spool"))).expect("the spool").count() <= 1);
}
