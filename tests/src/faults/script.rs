//! The reports that are served. A report is a pure function of seed, source and generation, and
//! a later generation restates an earlier one: most charges stay, some change, some are gone, new
//! ones and a new column come. Some charges stand twice, and some rows cannot be read.

use super::random::Random;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exact amount.
    Amount,
    /// A time in UTC.
    Time,
    /// Text, empty for null.
    Text,
    /// A JSON object of texts.
    Tags,
}

/// The columns of a report, in order.
pub const COLUMNS: [(&str, Kind); 14] = [
    ("BillingPeriodStart", Kind::Time),
    ("BillingPeriodEnd", Kind::Time),
    ("ChargePeriodStart", Kind::Time),
    ("BillingCurrency", Kind::Text),
    ("BilledCost", Kind::Amount),
    ("EffectiveCost", Kind::Amount),
    ("ListCost", Kind::Amount),
    ("ContractedCost", Kind::Amount),
    ("ServiceName", Kind::Text),
    ("ResourceId", Kind::Text),
    ("ChargeDescription", Kind::Text),
    ("Tags", Kind::Tags),
    (GENERATION, Kind::Text),
    // Not in the first generation: the table grows.
    ("x_Restated", Kind::Text),
];

/// The column that says which generation a row is of.
pub const GENERATION: &str = "x_Generation";

/// The kind of a column of ours.
pub fn kind_of(column: &str) -> Kind {
    COLUMNS.iter().find(|(name, _)| *name == column).map_or(Kind::Text, |(_, kind)| *kind)
}

const NOTES: [&str; 6] = [
    "plain",
    "a \"quoted\" word, and a comma",
    "two\nlines",
    "zażółć gęślą jaźń 漢字 🧾",
    "'; DROP TABLE costs; --",
    "back\\slash {brace} =",
];

/// A generation of a source's report as CSV: about `rows` rows.
pub fn report(seed: u64, source: &str, generation: u32, rows: u64) -> Vec<u8> {
    let columns = if generation == 0 { &COLUMNS[..COLUMNS.len() - 1] } else { &COLUMNS[..] };
    let mut out = String::new();
    line(&mut out, columns.iter().map(|(name, _)| (*name).to_owned()));
    for charge in 0..rows + u64::from(generation) * (rows / 10) {
        let Some(fields) = fields(seed, source, generation, charge) else { continue };
        line(&mut out, fields.iter().take(columns.len()).cloned());
        if charge % 10 == 9 {
            line(&mut out, fields.into_iter().take(columns.len()));
        }
    }
    out.into_bytes()
}

/// One charge of a generation; nothing where it is left out.
fn fields(seed: u64, source: &str, generation: u32, charge: u64) -> Option<[String; COLUMNS.len()]> {
    let purpose = |what: &str| format!("{source} {charge} {what}");
    let mut same = Random::new(seed, &purpose("always"));
    let mut now = Random::new(seed, &purpose(&format!("in {generation}")));
    if now.chance(5) {
        return None;
    }
    let month = same.between(9, 10);
    let period = |month: u64| format!("2026-{month:02}-01T00:00:00Z");
    let day = format!("2026-{month:02}-{:02}T{:02}:00:00Z", same.between(1, 30), same.between(0, 23));
    let currency = (*same.pick(&["EUR", "USD", "JPY", "CHF"])).to_owned();
    let restated = now.chance(25);
    let mut amount = |least_digits| {
        let random = if restated { &mut now } else { &mut same };
        let (sign, whole) = (if random.chance(10) { "-" } else { "" }, random.between(0, 99_999));
        let digits = u32::try_from(random.between(least_digits, 18)).unwrap_or(18);
        let (width, fraction) = (digits as usize, random.between(1, 10_u64.pow(18)) % 10_u64.pow(digits));
        format!("{sign}{whole}.{fraction:0width$}")
    };
    let costs = [amount(1), amount(1), amount(9), amount(18)];
    let [mut billed, effective, list, contracted] = costs;
    if same.chance(1) {
        billed = "oops".to_owned();
    }
    let tags = match same.between(0, 3) {
        0 => String::new(),
        1 => r#"{"env":"prod"}"#.to_owned(),
        _ => format!(r#"{{"env":"test","team":"a, \"b\" {}"}}"#, same.between(1, 5)),
    };
    Some([
        period(month),
        period(month + 1),
        day,
        currency,
        billed,
        effective,
        list,
        contracted,
        format!("Service {}", same.between(1, 20)),
        if same.chance(20) { String::new() } else { format!("/{source}/resource/{charge}") },
        (*same.pick(&NOTES)).to_owned(),
        tags,
        generation.to_string(),
        if restated { "yes".to_owned() } else { String::new() },
    ])
}

fn line(out: &mut String, fields: impl Iterator<Item = String>) {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            out.push(',');
        }
        if field.contains(['"', ',', '\n']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&field);
        }
    }
    out.push('\n');
}
