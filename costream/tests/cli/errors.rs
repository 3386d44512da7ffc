use crate::house::{House, oracle, server};

const HEADER: &str = "BilledCost,BillingCurrency,BillingPeriodStart\n";

#[test]
fn a_source_that_is_no_good_is_told_on_one_line_and_the_status_is_1() {
    let house = House::new();
    let whole = std::fs::read(house.report("whole.csv.gz", 2_000, 1, "aws")).expect("a report");
    house.write("cut.csv.gz", &whole[..whole.len() / 2]);
    house.write("page.csv", "<!DOCTYPE html><html><body>Please log in</body></html>");
    house.write("binary.csv", [0_u8, 159, 146, 150, 0, 1, 2, 3]);
    house.write("other.csv", "name,amount\na,1\n");
    let missing = server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let refused = server("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let (missing, refused) = (format!("http://{missing}/a.csv"), format!("http://{refused}/a.csv?sig=verysecret"));
    for (source, says) in [
        ("missing.csv", "missing.csv"),
        ("missing/*.csv", "missing/*.csv"),
        ("cut.csv.gz", "cut.csv.gz"),
        ("page.csv", "page.csv"),
        ("binary.csv", "binary.csv"),
        ("other.csv", "BilledCost"),
        (missing.as_str(), "404"),
        (refused.as_str(), "401"),
    ] {
        let ran = house.run(&["run", "--once", "--source", source]).ended(1);
        let complaints = ran.complaints();
        assert!(complaints.len() == 1 && complaints[0].contains(says), "{source}: {}", ran.err);
        assert!(!ran.err.contains("verysecret"), "{}", ran.err);
    }
}

#[test]
fn a_poll_that_was_tried_again_is_told_once() {
    let house = House::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let file = format!("exporter:\n  retry_for: 2s\n  sources: [{{url: 'http://{nobody}/a.csv'}}]\n");
    house.write("costream.yaml", file);
    let ran = house.run(&["run", "--once", "--config.file", "costream.yaml"]).ended(1);
    let told: Vec<_> = ran.err.lines().filter(|line| line.contains("refused")).collect();
    assert!(told.len() == 1 && told[0].starts_with(&format!("costream: poll of http://{nobody}/a.csv")), "{}", ran.err);
}

#[test]
fn a_failed_poll_loses_nothing_and_the_other_sources_go_on() {
    let house = House::new();
    let good = house.report("good.csv", 300, 1, "strict");
    let report = house.report("report.csv", 300, 2, "strict");
    house.run(&["run", "--once", "--source", "report.csv"]).ended(0);
    let before = oracle(&[&report, &good]);
    house.write("report.csv", "<html>");
    let ran = house.run(&["run", "--once", "--source", "report.csv", "--source", "good.csv"]).ended(1);
    assert!(ran.complaints().len() == 1, "{}", ran.err);
    assert_eq!(house.stored(&[]), before, "the old report is still there, and the good one was stored");
}

#[test]
fn a_wrong_configuration_is_named_with_key_line_and_status_2() {
    let house = House::new();
    house.write("a.csv", HEADER);
    house.write("good.yaml", "exporter:\n  sources:\n    - path: a.csv\nhandler: {}\nscraper: {}\n");
    assert!(house.run(&["check", "--config.file", "good.yaml"]).ended(0).out.contains("good.yaml"));
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/config/costream.yaml");
    house.run(&["check", "--config.file", example]).ended(0);
    for (text, line, key) in [
        ("exporter:\n  sourcs: []\n", "line 2", "sourcs"),
        ("handler:\n  listen_adress: a\n", "line 2", "listen_adress"),
        ("scraper:\n  targets:\n    - url: here\n", "line 3", "url"),
        ("exporter:\n  poll_interval: soon\n", "line 2", "poll_interval"),
        ("exportr: {}\n", "line 1", "exportr"),
    ] {
        house.write("wrong.yaml", text);
        for command in
            [&["check", "--config.file", "wrong.yaml"][..], &["run", "--once", "--config.file", "wrong.yaml"]]
        {
            let ran = house.run(command).ended(2);
            let complaints = ran.complaints();
            assert!(
                complaints.len() == 1 && complaints[0].contains(line) && complaints[0].contains(key),
                "{}",
                ran.err
            );
        }
    }
    house.run(&["check", "--config.file", "missing.yaml"]).ended(2);
    house.run(&["run", "--onse"]).ended(2);
    house.run(&["run", "--once", "--source", "a.csv", "--source", "a.csv"]).ended(2);
}

#[test]
fn a_wrong_token_is_told() {
    let house = House::new();
    let address = server("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    house.write("token", "nonsense");
    house.write(
        "costream.yaml",
        format!("exporter:\n  sources:\n    - name: export\n      url: http://{address}/a.csv\n      bearer_token: {{file: token}}\n"),
    );
    let ran = house.run(&["run", "--once", "--config.file", "costream.yaml"]).ended(1);
    assert!(ran.complaints().len() == 1 && ran.err.contains("403") && ran.err.contains("export"), "{}", ran.err);
    assert!(!ran.err.contains("nonsense"), "{}", ran.err);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let house = House::new();
    house.write("occupied", "a file, no directory");
    let ran = house.run(&["run", "--once", "--data-dir", "occupied"]).ended(1);
    assert!(ran.complaints().len() == 1 && ran.err.contains("occupied"), "{}", ran.err);
    std::fs::create_dir(house.path("data")).expect("a directory");
    house.write("data/store", "a file, no directory");
    let ran = house.run(&["run", "--once", "--data-dir", "data"]).ended(1);
    assert!(ran.complaints().len() == 1 && ran.err.contains("data/store"), "{}", ran.err);
}
