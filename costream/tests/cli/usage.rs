//! Cost and usage of the same machines: the worked example of the README, against a stand-in for Azure Monitor.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;

use bigdecimal::BigDecimal;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use costream_tests::azure_monitor::{self as stand_in, AzureMonitor};

use crate::house::House;

const CPU: &str = "Percentage CPU";

fn vm(n: usize) -> String {
    format!("/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm{n}")
}

/// Three machines, each billed daily for yesterday and today, and a disk.
fn report(today: DateTime<Utc>) -> String {
    let mut csv = String::from(
        "BilledCost,BillingCurrency,BillingPeriodStart,ChargePeriodStart,ResourceId,ResourceType,RegionId\n",
    );
    for (n, cost) in [(1, "1.100000000000000001"), (2, "0.3"), (3, "2")] {
        for day in [today - TimeDelta::days(1), today] {
            // As the provider does it: the id now and then in capitals.
            let id = if day == today { vm(n).to_uppercase() } else { vm(n) };
            let (start, period) = (day.format("%Y-%m-%dT00:00:00Z"), day.format("%Y-%m-01T00:00:00Z"));
            csv.push_str(&format!("{cost},USD,{period},{start},{id},Virtual machine,westeurope\n"));
        }
    }
    let (start, period) = (today.format("%Y-%m-%dT00:00:00Z"), today.format("%Y-%m-01T00:00:00Z"));
    csv + &format!("9,USD,{period},{start},/subscriptions/s1/disk,Disk,westeurope\n")
}

fn config(azure: &AzureMonitor) -> String {
    format!(
        "exporter:
  retry_for: 1s
  sources:
    - {{name: costs, path: costs.csv}}
    - name: usage
      azure_monitor:
        base_url: {}
        auth: {{client_credentials: {{tenant: {}, client_id: {}, client_secret: {{file: secret}}, token_url: '{}'}}}}
        ask:
          - from_costs: {{source: costs, resource_type: Virtual machine}}
            metrics: [{{name: {CPU}}}]
",
        azure.url(),
        stand_in::TENANT,
        stand_in::CLIENT_ID,
        azure.token_url(),
    )
}

#[test]
fn cost_per_cpu_hour_is_what_the_report_and_the_points_say() {
    let now = Utc::now();
    let today = now.duration_trunc(TimeDelta::days(1)).expect("a day");
    let azure = AzureMonitor::start(now).expect("a stand-in");
    azure.world().missing.insert(vm(3));
    let house = House::new();
    house.write("costs.csv", report(today));
    house.write("secret", stand_in::CLIENT_SECRET);
    house.write("costream.yaml", config(&azure));
    let run = ["run", "--once", "--config.file", "costream.yaml", "--data-dir", "data"];
    let ran = house.run(&run).ended(0);
    assert!(ran.err.contains("404 Not Found: ResourceNotFound"), "the machine that is gone is told: {}", ran.err);
    // Once more, with a spool that has lost its memory: the same points, in the same places.
    std::fs::remove_dir_all(house.path("data/spool")).expect("removed");
    house.run(&run).ended(0);

    let csv = |statement: &str| {
        let ran = house.run(&["sql", "--data-dir", "data", "--format", "csv", "--", statement]).ended(0);
        let mut rows = csv::Reader::from_reader(ran.out.as_bytes());
        rows.records().map(|row| row.expect("our own csv")).collect::<Vec<_>>()
    };
    let columns = csv("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'usage'");
    let columns: Vec<&str> = columns.iter().map(|row| &row[0]).collect();
    assert_eq!(columns, ["resourceid", "metricname", "timestamp", "average", "unit"]);

    let decimal = |text: &str| BigDecimal::from_str(text).expect("a decimal").normalized();
    let quarter = TimeDelta::minutes(15);
    let times = || std::iter::successors(Some(today - TimeDelta::days(1)), move |time| Some(*time + quarter));
    let points = |n: usize| {
        let before = times().take_while(|time| *time < now);
        before.map(|time| decimal(&stand_in::average(&vm(n), CPU, time))).collect::<Vec<_>>()
    };
    let stored: BTreeMap<String, (u64, BigDecimal)> =
        csv("SELECT resourceid, COUNT(*), SUM(average) FROM usage GROUP BY 1")
            .iter()
            .map(|row| (row[0].to_owned(), (row[1].parse().expect("a count"), decimal(&row[2]))))
            .collect();
    let sum = |n: usize| points(n).iter().sum::<BigDecimal>().normalized();
    let expected = [1, 2].map(|n| (vm(n), (points(n).len() as u64, sum(n)))).into();
    assert_eq!(stored, expected, "every point once, to the last digit");

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/notebooks/cost_per_cpu_hour.sql");
    let rows = csv(&std::fs::read_to_string(example).expect("the example"));
    let found: BTreeMap<&str, _> = rows.iter().map(|row| (&row[0], row)).collect();
    assert_eq!(found.len(), 2, "{rows:?}");
    for (n, billed) in [(1, "2.200000000000000002"), (2, "0.6")] {
        let row = found[vm(n).to_lowercase().as_str()];
        assert_eq!((&row[1], decimal(&row[2])), ("USD", decimal(billed)));
        let hours = sum(n) / BigDecimal::from(400);
        for (text, exact) in [(&row[3], hours.clone()), (&row[4], decimal(billed) / hours)] {
            let off = (decimal(text) / exact - BigDecimal::from(1)).abs();
            assert!(off < decimal("1e-12"), "{rows:?}");
        }
    }
    // What usage is has no part in what costs are.
    house.run(&["reconcile", "--config.file", "costream.yaml", "--data-dir", "data"]).ended(0);
}
