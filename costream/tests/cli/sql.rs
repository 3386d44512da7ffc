use crate::house::House;

fn house() -> House {
    let house = House::new();
    house.write(
        "a.csv",
        "BilledCost,BillingCurrency,BillingPeriodStart,ServiceName,Tags\n\
         1.50,USD,2026-08-01T00:00:00Z,\"a, \"\"b\"\"\nc\",\"{\"\"org.unit\"\": \"\"x:y\"\"}\"\n\
         0.000000000000000001,EUR,2026-09-01T00:00:00Z,,\n",
    );
    house.run(&["run", "--once", "--source", "a.csv"]).ended(0);
    house
}

const STATEMENT: &str =
    "SELECT billedcost, billingperiodstart, servicename, tags, tags['org.unit'] unit, x_row FROM costs ORDER BY x_row";

#[test]
fn csv_is_rfc_4180_with_empty_nulls() {
    let ran = house().run(&["sql", STATEMENT, "--format", "csv"]).ended(0);
    assert_eq!(
        ran.out,
        "billedcost,billingperiodstart,servicename,tags,unit,x_row\n\
         1.5,2026-08-01T00:00:00Z,\"a, \"\"b\"\"\nc\",\"{\"\"org.unit\"\":\"\"x:y\"\"}\",x:y,1\n\
         0.000000000000000001,2026-09-01T00:00:00Z,,,,2\n"
    );
}

#[test]
fn json_keeps_every_digit() {
    let ran = house().run(&["sql", STATEMENT, "--format", "json"]).ended(0);
    assert_eq!(
        ran.out,
        "[\n{\"billedcost\": 1.5, \"billingperiodstart\": \"2026-08-01T00:00:00Z\", \"servicename\": \"a, \\\"b\\\"\\nc\", \
         \"tags\": {\"org.unit\":\"x:y\"}, \"unit\": \"x:y\", \"x_row\": 1},\n\
         {\"billedcost\": 0.000000000000000001, \"billingperiodstart\": \"2026-09-01T00:00:00Z\", \"servicename\": null, \
         \"tags\": null, \"unit\": null, \"x_row\": 2}\n]\n"
    );
}

#[test]
fn a_table_is_one_line_a_row() {
    let ran = house().run(&["sql", "SELECT billedcost, servicename FROM costs ORDER BY x_row"]).ended(0);
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            "          billedcost  servicename",
            "--------------------  -----------",
            r#"                 1.5  a, \"b\"\nc"#,
            "0.000000000000000001  NULL",
        ]
    );
}

#[test]
fn what_cannot_be_answered_is_said_on_one_line() {
    let house = house();
    for (args, says) in [
        (&["sql", "SELECT nothing FROM costs"][..], "nothing"),
        (&["sql", "SELECT 1 FROM nowhere"], "nowhere"),
        (&["sql", "DELETE FROM costs"], "DELETE"),
        (&["sql", "SELECT 1", "--data-dir", "elsewhere"], "no store in elsewhere"),
        (&["sql", "SELECT * FROM costs", "--as-of", "2001-01-01"], "2001"),
        (&["sql", "SELECT 1", "--url", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (&["sql", "SELECT 1", "--url", "ftp://127.0.0.1/a"], "not a store's URL"),
        (&["sql", "SELECT 1", "--url", "az://c/a?sig=secret"], "bears no credentials"),
    ] {
        let ran = house.run(args).ended(1);
        assert!(ran.complaints().len() == 1 && ran.err.contains(says), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{}", ran.out);
    }
    house.run(&["sql", "SELECT 1", "--as-of", "yesterday"]).ended(2);
}
