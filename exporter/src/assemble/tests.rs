use super::*;
use arrow::util::display::array_value_to_string;
use tokio::io::AsyncRead;

async fn open(csvs: &[&'static str], columns: Option<SchemaRef>) -> Result<Assembly, AssembleError> {
    let parts = csvs.iter().enumerate().map(|(at, csv)| {
        let bytes: Box<dyn AsyncRead + Send + Unpin> = Box::new(csv.as_bytes());
        (bytes, format!("part-{at}"))
    });
    Assembly::open(Parts::of_all(parts.collect()), DecodeOptions::new("costs"), columns).await
}

/// Everything that comes out, in a line each.
async fn drained(assembly: &mut Assembly) -> Result<Vec<String>, AssembleError> {
    let mut lines = Vec::new();
    while let Some(piece) = assembly.next().await? {
        match piece {
            Piece::Part(file) => lines.push(file),
            Piece::Rejected(rejected) => lines.push(format!("rejected {} {}", rejected.row, rejected.reason)),
            Piece::Batch(batch) => {
                assert_eq!(batch.schema(), assembly.schema());
                lines.extend((0..batch.num_rows()).map(|row| {
                    let cells = batch.columns().iter().map(|cells| array_value_to_string(cells, row).expect("a value"));
                    cells.collect::<Vec<_>>().join("|")
                }));
            }
        }
    }
    Ok(lines)
}

fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

#[tokio::test]
async fn ordinals_go_on_from_part_to_part_and_rejects_keep_their_files() {
    let parts =
        ["BilledCost,x_A\n1,a\nno,b\n", "x_A,BilledCost\nc,3\n", "BilledCost,x_A\n", "BilledCost,x_A\n\n5,e\nno,f\n"];
    let mut assembly = open(&parts, None).await.expect("a report");
    assert_eq!((names(&assembly.schema()), assembly.file()), (vec!["BilledCost", "x_A", "x_row"], "part-0"));
    let lines = drained(&mut assembly).await.expect("all of it");
    let amount = |units: u8| format!("{units}.000000000000000000");
    let expected = [
        "rejected 2 not_a_number".to_owned(),
        format!("{}|a|1", amount(1)),
        "part-1".to_owned(),
        format!("{}|c|3", amount(3)),
        "part-2".to_owned(),
        "part-3".to_owned(),
        "rejected 2 not_a_number".to_owned(),
        format!("{}|e|4", amount(5)),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_part_with_more_columns_has_the_reading_begin_anew_with_those_of_all() {
    let parts =
        ["BilledCost,x_A\n1,a\n", "BilledCost,x_B\n2,b\n", "BilledCost,x_C,Tags\n3,c,\"{\"\"k\"\": \"\"v\"\"}\"\n"];
    let mut first = open(&parts, None).await.expect("a report");
    let Err(AssembleError::Wider(columns)) = drained(&mut first).await else { panic!("more columns") };
    assert_eq!(names(&columns), ["BilledCost", "x_A", "x_B", "x_C", "Tags", "x_row"]);
    let mut again = open(&parts, Some(columns)).await.expect("a report");
    let lines = drained(&mut again).await.expect("all of it");
    assert_eq!(
        lines,
        [
            "1.000000000000000000|a||||1",
            "part-1",
            "2.000000000000000000||b|||2",
            "part-2",
            "3.000000000000000000|||c|{k: v}|3"
        ]
    );
}

#[tokio::test]
async fn columns_over_all_parts_have_a_bound() {
    let parts = ["BilledCost,x_A\n1,a\n", "BilledCost,x_B\n2,b\n"];
    for (max_columns, is_taken) in [(3, true), (2, false)] {
        let mut assembly = open(&parts, None).await.expect("a report");
        assembly.options.limits.max_columns = max_columns;
        let error = drained(&mut assembly).await.expect_err("more columns");
        assert_eq!(matches!(error, AssembleError::Wider(_)), is_taken, "{error}");
    }
}

#[tokio::test]
async fn a_part_that_is_no_report_is_named() {
    for (second, says) in [("EffectiveCost\n1\n", "part-1 has no column BilledCost"), ("", "part-1 is empty")] {
        let mut assembly = open(&["BilledCost\n1\n", second], None).await.expect("a report");
        let error = drained(&mut assembly).await.expect_err(second).to_string();
        assert!(error.contains(says), "{error}");
    }
}
