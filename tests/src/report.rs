//! An independent reading of a report, by other people's hands: the `csv` crate for its
//! records and `bigdecimal` for its amounts. The oracle of every total.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result};
use bigdecimal::BigDecimal;

/// Rows and sums of the four costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Charges.
    pub rows: u64,
    /// Sums of `BilledCost`, `EffectiveCost`, `ListCost`, `ContractedCost`.
    pub costs: [BigDecimal; 4],
}

/// The cost columns, in the order of [`Sums::costs`].
pub const COSTS: [&str; 4] = ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"];

/// Sums per (billing period's start as `YYYY-MM`, currency) of an uncompressed CSV report.
///
/// # Errors
/// The file is no CSV, or an amount is no number.
pub fn sums(path: &Path) -> Result<BTreeMap<(String, String), Sums>> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    sums_of(file)
}

/// [`sums`] of bytes.
///
/// # Errors
/// As [`sums`].
pub fn sums_of(bytes: impl Read) -> Result<BTreeMap<(String, String), Sums>> {
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let header = reader.headers().context("read the header")?.clone();
    let at = |name: &str| header.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
    let costs = COSTS.map(at);
    let (period, currency) = (at("BillingPeriodStart"), at("BillingCurrency"));
    let mut sums = BTreeMap::<_, Sums>::new();
    for record in reader.records() {
        let record = record.context("read a record")?;
        let field =
            |at: Option<usize>| at.and_then(|at| record.get(at)).filter(|text| !text.is_empty() && *text != "NULL");
        let key =
            (field(period).map(month).transpose()?.unwrap_or_default(), field(currency).unwrap_or_default().to_owned());
        let group = sums.entry(key).or_default();
        group.rows += 1;
        for (sum, cost) in group.costs.iter_mut().zip(costs) {
            if let Some(text) = field(cost) {
                *sum += text.parse::<BigDecimal>().with_context(|| format!("read amount {text:?}"))?;
            }
        }
    }
    Ok(sums)
}

/// `YYYY-MM` of a time in any of the forms that reports have.
fn month(text: &str) -> Result<String> {
    if let Some((month, rest)) = text.split_once('/') {
        let year = rest.split('/').nth(1).with_context(|| format!("read time {text:?}"))?;
        return Ok(format!("{year}-{month:0>2}"));
    }
    text.get(..7).map(str::to_owned).with_context(|| format!("read time {text:?}"))
}
