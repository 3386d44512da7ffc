use std::net::TcpListener;

use crate::house::{House, Running, oracle, wait_for};

#[test]
fn a_bare_run_shows_the_sample_and_serves_it_until_it_is_told_to_end() {
    let house = House::new();
    let running = Running::start(&house, &[]);
    let printed = running.printed();
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    let differences: Vec<_> = lines.iter().filter(|line| line.get(3) == Some(&"difference")).collect();
    assert_eq!(differences.len(), 6, "three months in two currencies: {printed}");
    assert!(differences.iter().all(|line| line[0] == "sample" && line[4..] == ["0", "0", "0"]), "{printed}");

    let statement =
        "SELECT providername, count(*) n, sum(billedcost) s FROM costs GROUP BY providername ORDER BY providername";
    let beside = house.run(&["sql", statement, "--format", "csv"]).ended(0);
    assert_eq!(beside.out.lines().count(), 4, "three providers: {}", beside.out);
    let handler = running.url("handler");
    let over_http = house.run(&["sql", statement, "--format", "csv", "--url", &handler]).ended(0);
    assert_eq!(over_http.out, beside.out, "in process and over HTTP are the same");
    let rows = "SELECT * FROM costs ORDER BY x_row LIMIT 700";
    for format in ["csv", "json"] {
        let beside = house.run(&["sql", rows, "--format", format]).ended(0);
        let over_http = house.run(&["sql", rows, "--format", format, "--url", &handler]).ended(0);
        assert!(beside.out == over_http.out, "{format} differs");
    }
    let before = ["sql", "SELECT count(*) FROM costs", "--url", &handler, "--as-of", "2001-01-01"];
    assert!(house.run(&before).ended(1).err.contains("2001"), "the time goes over HTTP too");

    let second = house.run(&["run", "--once"]).ended(1);
    assert!(second.complaints().len() == 1 && second.err.contains("costream-data is in use"), "{}", second.err);
    let agree = house.run(&["reconcile", "--url", &handler, "--exporter.url", &running.url("exporter")]).ended(0);
    assert!(agree.out.contains(" exporter "), "{}", agree.out);
    assert_eq!(running.terminate(), Some(0));
    house.run(&["run", "--once"]).ended(0);
}

#[test]
fn a_report_restated_while_it_runs_is_followed() {
    let house = House::new();
    let report = house.report("a.csv", 100, 1, "strict");
    house.write("costream.yaml", "exporter: {poll_interval: 200ms, sources: [{path: a.csv}]}\n");
    let running = Running::start(&house, &["--config.file", "costream.yaml"]);
    assert_eq!(house.stored(&[]), oracle(&[&report]));
    house.report("a.csv", 150, 2, "strict");
    let restated = oracle(&[&report]);
    wait_for("the restated report", || (house.stored(&[]) == restated).then_some(()));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for role in ["exporter", "handler"] {
        let flag = format!("--{role}.listen-address");
        let ran = House::new().run(&["run", "--once", &flag, &address]).ended(1);
        assert!(ran.complaints().len() == 1 && ran.err.contains(&address), "{}", ran.err);
    }
}

#[test]
fn other_addresses_want_a_password_or_a_word() {
    let ran = House::new().run(&["run", "--once", "--handler.listen-address", "0.0.0.0:0"]).ended(2);
    assert!(ran.err.contains("--web.allow-unauthenticated"), "{}", ran.err);
    House::new()
        .run(&["run", "--once", "--handler.listen-address", "0.0.0.0:0", "--web.allow-unauthenticated"])
        .ended(0);
}

#[test]
fn with_users_everybody_is_asked_and_the_scraper_still_gets_through() {
    let house = House::new();
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    house.write("web.yml", format!("basic_auth_users:\n  ann: {hash}\n"));
    let running = Running::start(&house, &["--web.config.file", "web.yml"]);
    let handler = running.url("handler");
    let refused = house.run(&["sql", "SELECT count(*) n FROM costs", "--url", &handler]).ended(1);
    assert!(refused.err.contains("401"), "{}", refused.err);
    let with_login = handler.replace("http://", "http://ann:secret@");
    let ran = house.run(&["sql", "SELECT count(*) n FROM costs", "--url", &with_login, "--format", "csv"]).ended(0);
    assert_eq!(ran.out, "n\n6000\n");
    let exporter = running.url("exporter");
    let refused = house.run(&["reconcile", "--url", &with_login, "--exporter.url", &exporter]).ended(1);
    assert!(refused.err.contains("401"), "{}", refused.err);
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn the_store_of_the_file_is_asked_unless_a_data_directory_is_given() {
    let house = House::new();
    let report = house.report("a.csv", 100, 1, "aws");
    let store = house.path("elsewhere");
    house.write(
        "costream.yaml",
        format!(
            "exporter: {{spool_dir: spool, sources: [{{path: a.csv}}]}}\nhandler: {{data_dir: kept, store_url: 'file://{}'}}\n",
            store.display()
        ),
    );
    let file = ["--config.file", "costream.yaml"];
    house.run(&[&["run", "--once"], &file[..]].concat()).ended(0);
    assert_eq!(house.stored(&file), oracle(&[&report]));
    house.run(&[&["reconcile"], &file[..]].concat()).ended(0);

    let other = [&file[..], &["--data-dir", "other"]].concat();
    let none = house.run(&[&["sql", "SELECT 1"], &other[..]].concat()).ended(1);
    assert!(none.err.contains("no store in other"), "{}", none.err);
    house.run(&[&["reconcile"], &other[..]].concat()).ended(1);
    std::fs::remove_dir_all(store).expect("removed");
    house.run(&[&["run", "--once"], &other[..]].concat()).ended(0);
    assert_eq!(house.stored(&["--data-dir", "other"]), oracle(&[&report]), "the flag wins");

    house.write("costream.yaml", "handler: {store_ulr: 'file:///a'}\n");
    let wrong = house.run(&[&["sql", "SELECT 1"], &file[..]].concat()).ended(2);
    assert!(wrong.err.contains("line 1") && wrong.err.contains("store_ulr"), "{}", wrong.err);
}

#[test]
fn one_file_configures_all_three_and_flags_win() {
    let house = House::new();
    house.report("a.csv", 100, 1, "aws");
    house.report("b.csv", 200, 2, "azure");
    house.write(
        "costream.yaml",
        "exporter:\n  spool_dir: kept/spool\n  sources: [{path: a.csv, name: bills, profile: aws}]\n\
         scraper:\n  targets: [{url: 'http://127.0.0.1:2112', records: text}]\n\
         handler: {data_dir: kept}\n",
    );
    house.run(&["run", "--once", "--config.file", "costream.yaml"]).ended(0);
    let count = [
        "sql",
        "SELECT x_source, x_scope, count(*) n FROM costs GROUP BY 1, 2 ORDER BY 1",
        "--format",
        "csv",
        "--data-dir",
        "kept",
    ];
    assert_eq!(house.run(&count).ended(0).out, "x_source,x_scope,n\nbills,a.csv,100\n");
    house.run(&["reconcile", "--config.file", "costream.yaml"]).ended(0);
    house.run(&["run", "--once", "--config.file", "costream.yaml", "--source", "b.csv", "--profile", "azure"]).ended(0);
    assert_eq!(house.run(&count).ended(0).out, "x_source,x_scope,n\nb.csv,b.csv,200\nbills,a.csv,100\n");
    let wrong = house.run(&["run", "--once", "--config.file", "costream.yaml", "--profile", "azure"]).ended(2);
    assert!(wrong.err.contains("--profile"), "{}", wrong.err);
}
