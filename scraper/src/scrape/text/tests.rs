use proptest::prelude::*;

use super::*;
use crate::testing::{batch, charges, snapshot, text_body};

fn read(format: Format, body: &str, cuts: &[usize]) -> Result<Vec<RecordBatch>, TextError> {
    let (body, mut chunks, mut from) = (body.as_bytes(), Vec::new(), 0);
    for to in cuts.iter().copied().chain([body.len()]) {
        chunks.push(Ok(Bytes::copy_from_slice(&body[from..to])));
        from = to;
    }
    let asked = snapshot("a.csv", 1, &[], 0);
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
        let mut reader = TextReader::open(format, futures::stream::iter(chunks).boxed(), &asked).await?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next().await? {
            assert_eq!(batch.schema(), reader.schema());
            batches.push(batch);
        }
        Ok(batches)
    })
}

fn body(format: Format) -> String {
    let batches = [batch(&charges(), 1)];
    text_body(format, &snapshot("a.csv", 1, &batches, 0), &batches)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn text_reads_as_the_batch_it_was_written_from(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20), open_metrics: bool) {
        let format = if open_metrics { Format::OpenMetrics100 } else { Format::Text004 };
        let body = body(format);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(read(format, &body, &cuts).expect("a whole body"), [batch(&charges(), 1)]);
    }
}

#[test]
fn batches_are_bounded_and_in_order() {
    let many: Vec<_> = std::iter::repeat_n(charges(), MAX_BATCH_ROWS / 3).flatten().collect();
    let batches = [batch(&many, 1)];
    let body = text_body(Format::Text004, &snapshot("a.csv", 1, &batches, 0), &batches);
    let read = read(Format::Text004, &body, &[]).expect("a whole body");
    assert_eq!(
        read.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(),
        [MAX_BATCH_ROWS, many.len() - MAX_BATCH_ROWS]
    );
    assert_eq!(arrow::compute::concat_batches(&read[0].schema(), &read).expect("one batch"), batches[0]);
}

#[test]
fn a_report_without_rows_has_its_columns() {
    let batches = [batch(&[], 1)];
    let body = text_body(Format::Text004, &snapshot("a.csv", 1, &batches, 0), &batches);
    assert!(read(Format::Text004, &body, &[]).expect("a whole body").is_empty());
}

#[test]
fn quoted_and_reordered_labels_are_the_same_columns() {
    let body = body(Format::Text004);
    let quoted = body
        .replace("U__x__Cost_20_Note=", "\"x_Cost Note\"=")
        .replace("{BillingPeriodStart=\"2024-09-01T00:00:00+00:00\",", "{");
    let reordered = quoted.replace(",x_row=", ",BillingPeriodStart=\"2024-09-01T00:00:00+00:00\",x_row=");
    assert!(reordered.contains("\"x_Cost Note\"=") && reordered.matches(",BillingPeriodStart=").count() == 4);
    assert_eq!(read(Format::Text004, &reordered, &[]).expect("a whole body"), [batch(&charges(), 1)]);
}

#[test]
fn what_is_not_the_snapshot_asked_for_is_refused() {
    let good = body(Format::Text004);
    let totals = good.find("# HELP costream_records_rows").expect("totals");
    let rows = good.find("# HELP billed_cost").expect("rows");
    for (bad, error) in [
        (good.replace("column=\"BilledCost\"", "column=\"billed\""), "label BilledCost was not announced as a column"),
        (
            good.replace("column=\"EffectiveCost\"", "column=\"BilledCost\""),
            "label column names a column that is there already",
        ),
        (
            good.replace("column=\"EffectiveCost\"", "column=\"x_row\""),
            "label column names a column that is there already",
        ),
        (good.replacen(",x_row=\"2\"", "", 1), "label x_row is missing"),
        (good.replacen("x_row=\"2\"", "x_row=\"two\"", 1), "x_row: \"two\" is no ordinal"),
        (good.replacen("x_row=\"2\"", "x_row=\"2\",BilledCost=\"1\"", 1), "label BilledCost comes twice"),
        (good.replace("reports/*.csv", "other.csv"), "x_source is \"other.csv\", not \"reports/*.csv\""),
        (
            good.replacen("BilledCost=\"-0.5\"", "BilledCost=\"-0.6\"", 1),
            "BilledCost: \"-0.6\" is no amount like the sample's value",
        ),
        (good.replace("} -0.5\n", "} NaN\n"), "billed_cost: \"NaN\" is no exact amount"),
        (good.replace("BillingPeriodStart=\"2024-09-01T", "BillingPeriodStart=\"2024-13-01T"), "is no time"),
        (good.replacen("Tags=\"{", "Tags=\"[", 1), "is no JSON object of texts"),
        (good.replacen("x_row=\"2\"", "x_row=\"2\",extra=\"1\"", 1), "label extra was not announced as a column"),
        (good[..totals].to_owned(), "the text ends without its end mark"),
        (
            good[..good.find("# HELP costream_records_snapshots").expect("the end")].to_owned(),
            "the text ends without its end mark",
        ),
        (format!("{}{}", &good[..rows], &good[totals..]), "control totals differ: 0 rows arrived of 4"),
        (format!("{}{}", &good[totals..], &good[..totals]), "out of its place"),
        (
            good.replace("costream_records_snapshots 1", "costream_records_snapshots 2"),
            "\"2\" is no count of the one snapshot asked for",
        ),
        (good.replace("\ncostream_records_list_cost{", "\nother{"), "are not complete"),
    ] {
        assert_ne!(bad, good, "{error}");
        let found = read(Format::Text004, &bad, &[]).expect_err(error).to_string();
        assert!(found.contains(error), "{found}, not {error}");
    }
    let billed = good
        .lines()
        .find(|line| line.starts_with("costream_records_billed_cost{") && line.contains("EUR"))
        .expect("a total");
    let (name, amount) = billed.rsplit_once(' ').expect("a value");
    assert_eq!(amount, "-1");
    let found = read(Format::Text004, &good.replace(billed, &format!("{name} -1.000000000000000001")), &[])
        .expect_err("a digit off");
    assert!(matches!(found, TextError::Totals(_)), "{found}");
}
