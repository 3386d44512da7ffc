//! The record: what crosses crates. A batch of charges is an Arrow [`RecordBatch`] whose
//! columns carry their FOCUS names; a [`Snapshot`] says which poll of which scope it belongs
//! to; [`Totals`] are what every reader checks a delivery against.
//!
//! Column types, by kind: text `Dictionary<Int16, Utf8>` (in a report the same few texts stand in row after
//! row; [`Texts`] reads it, and plain `Utf8` too), amounts and quantities `Decimal128(38, 18)`, times
//! `Timestamp(Microsecond, "UTC")`, tags `Map<Utf8, Utf8>`. A null is a null; a CSV's empty
//! field is one. The last column is [`X_ROW`]. Batches that cross a process also say their
//! source, scope and snapshot in columns of their own; the spool and the store keep those
//! once per file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int16Array, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Fields, Int16Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::money::{Amount, PRECISION, SCALE, Sum};

/// The source's name, in every record of ours: what was given, without secrets.
pub const X_SOURCE: &str = "x_source";
/// What the record's snapshot replaces.
pub const X_SCOPE: &str = "x_scope";
/// The record's snapshot.
pub const X_SNAPSHOT: &str = "x_snapshot";
/// The row's ordinal in its report, from 1, rejected rows counted. `Int64`.
pub const X_ROW: &str = "x_row";

/// The key of an Arrow IPC stream's schema metadata under which stand, as JSON, the
/// [`Snapshot`]s whose records it carries, in order.
pub const SNAPSHOTS_METADATA: &str = "costream.snapshots";

/// Most (billing period, currency) pairs one snapshot may have: a bill has one or a few, a
/// hostile file as many as it has rows.
pub const MAX_GROUPS: usize = 10_000;

/// The most rows of a batch, wherever batches are made. A few of them are on their way at any time:
/// with four times as many rows a run takes twice the memory and is no faster.
pub const MAX_BATCH_ROWS: usize = 2_048;
/// About the most bytes of a batch; one row alone may have more.
pub const MAX_BATCH_BYTES: usize = 2 << 20;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// Any text.
    Text,
    /// An amount of money, a price or a quantity.
    Decimal,
    /// A point in time, in UTC.
    Timestamp,
    /// Keys with values: FOCUS's key-value format.
    Tags,
}

impl ColumnKind {
    /// The Arrow type of a table's column of this kind.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Decimal => DataType::Decimal128(PRECISION, SCALE),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Tags => {
                let entries = Fields::from(vec![
                    Field::new("key", DataType::Utf8, false),
                    Field::new("value", DataType::Utf8, true),
                ]);
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
            }
        }
    }

    /// The Arrow type of a report's column of this kind, on its way into a table: texts stand in a dictionary.
    pub fn record_type(self) -> DataType {
        match self {
            Self::Text => DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8)),
            other => other.data_type(),
        }
    }

    /// The kind of a column of this Arrow type; nothing for types that neither a record nor a table has.
    pub fn of(data_type: &DataType) -> Option<Self> {
        let kinds = [Self::Text, Self::Decimal, Self::Timestamp, Self::Tags];
        kinds.into_iter().find(|kind| [kind.data_type(), kind.record_type()].contains(data_type))
    }

    /// A nullable column of a table.
    pub fn field(self, name: &str) -> Field {
        Field::new(name, self.data_type(), true)
    }

    /// A nullable column of a record.
    pub fn record_field(self, name: &str) -> Field {
        Field::new(name, self.record_type(), true)
    }
}

/// A column of text, in whichever of its two types.
#[derive(Clone, Copy, Debug)]
pub enum Texts<'a> {
    /// As a table has it.
    Plain(&'a StringArray),
    /// As a record has it.
    Coded {
        /// For each row, the position of its text.
        keys: &'a Int16Array,
        /// The texts.
        values: &'a StringArray,
    },
}

impl<'a> Texts<'a> {
    /// A column's texts; nothing when it is of another type.
    pub fn of(array: &'a ArrayRef) -> Option<Self> {
        if let Some(plain) = array.as_string_opt::<i32>() {
            return Some(Self::Plain(plain));
        }
        let coded = array.as_dictionary_opt::<Int16Type>()?;
        Some(Self::Coded { keys: coded.keys(), values: coded.values().as_string_opt()? })
    }

    /// A row's text; nothing for a null.
    pub fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Plain(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::Coded { keys, values } => {
                let at = keys.is_valid(row).then(|| usize::try_from(keys.value(row)).ok()).flatten()?;
                values.is_valid(at).then(|| values.value(at))
            }
        }
    }

    /// Whether two rows have the same text, found out without reading it where that will do: a dictionary may say
    /// one text twice.
    fn same(&self, a: usize, b: usize) -> bool {
        let by_key = match self {
            Self::Coded { keys, .. } => keys.is_valid(a) && keys.is_valid(b) && keys.value(a) == keys.value(b),
            Self::Plain(_) => false,
        };
        by_key || self.get(a) == self.get(b)
    }
}

/// The field of [`X_ROW`].
pub fn row_field() -> Field {
    Field::new(X_ROW, DataType::Int64, false)
}

/// A name that is no name: empty, or with a control character.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: empty, or it has a control character")]
pub struct NameError(String);

/// Longest source or scope name, in bytes: it becomes a folder's name in the store, where a
/// path separator takes three.
pub const MAX_NAME_BYTES: usize = 80;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a name. One longer than [`MAX_NAME_BYTES`] keeps its end, the part that
            /// tells names apart, behind a digest of the whole.
            ///
            /// # Errors
            /// The name is empty or has a control character.
            pub fn new(name: &str) -> Result<Self, NameError> {
                if name.is_empty() || name.chars().any(char::is_control) {
                    return Err(NameError(name.to_owned()));
                }
                Ok(Self(abbreviated(name)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A source's name: what was given, without secrets, or its configured name.
    SourceName
}
name! {
    /// The name of what a snapshot replaces, unique within its source: a file, or an export
    /// and its billing period.
    ScopeName
}

fn abbreviated(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let digest = Sha256::digest(name.as_bytes());
    let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mut from = name.len() - (MAX_NAME_BYTES - digest.len() - "~".len());
    while !name.is_char_boundary(from) {
        from += 1;
    }
    format!("{digest}~{}", &name[from..])
}

/// A source's scope: what one snapshot replaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScopeKey {
    /// The source.
    pub source: SourceName,
    /// The scope within it.
    pub scope: ScopeName,
}

impl fmt::Display for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.scope, self.source)
    }
}

/// A snapshot's number: the millisecond of its poll, and later than its predecessor's even
/// when the clock stepped back. Shown as `20261122T130501123Z`, which sorts as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(i64);

/// A text that is no snapshot's number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no snapshot id such as 20261122T130501123Z")]
pub struct SnapshotIdError(String);

impl SnapshotId {
    /// The number of a snapshot taken now, after `previous`.
    pub fn next(now: DateTime<Utc>, previous: Option<Self>) -> Self {
        let now = now.timestamp_millis();
        Self(previous.map_or(now, |Self(previous)| now.max(previous + 1)))
    }

    /// Milliseconds since the epoch: the version of the store's application transaction.
    pub fn version(self) -> i64 {
        self.0
    }

    /// The snapshot of a store's application transaction version.
    pub fn from_version(version: i64) -> Option<Self> {
        DateTime::from_timestamp_millis(version).map(|_| Self(version))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::from_timestamp_millis(self.0).ok_or(fmt::Error)?;
        write!(f, "{}", time.trunc_subsecs(3).format("%Y%m%dT%H%M%S%3fZ"))
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        chrono::NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%S%3fZ")
            .map(|time| Self(time.and_utc().timestamp_millis()))
            .map_err(|_| SnapshotIdError(text.to_owned()))
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the rows of a snapshot are, and so how a store takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Charges: the snapshot takes the place of its scope's rows in the table of charges.
    #[default]
    Charges,
    /// Points of usage series, with [`POINT_COLUMNS`]: each takes the place of the one with the same [`POINT_KEY`].
    Points {
        /// The table they go to.
        table: String,
    },
    /// Rows of any columns, one of which is a number: the snapshot takes the place of its scope's rows in a table of its own.
    Generic {
        /// The table they go to.
        table: String,
        /// What the number is called in an exposition.
        metric: String,
        /// The column of the number; the others are text.
        value: String,
    },
}

impl RowKind {
    /// Whether the rows are charges.
    pub fn is_charges(&self) -> bool {
        *self == Self::Charges
    }

    /// Whether each row takes the place of the one with its key, and the snapshot no scope's.
    pub fn is_by_key(&self) -> bool {
        matches!(self, Self::Points { .. })
    }
}

/// The table that points of usage go to unless another is configured.
pub const USAGE_TABLE: &str = "usage";
/// The columns of a point that make its identity.
pub const POINT_KEY: [&str; 3] = ["ResourceId", "metricName", "timestamp"];
/// The columns of a point, in their order: those of its identity, its value, and what that is measured in.
pub const POINT_COLUMNS: [(&str, ColumnKind); 5] = [
    (POINT_KEY[0], ColumnKind::Text),
    (POINT_KEY[1], ColumnKind::Text),
    (POINT_KEY[2], ColumnKind::Timestamp),
    ("average", ColumnKind::Decimal),
    ("unit", ColumnKind::Text),
];

/// One complete, immutable result of a poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it replaces.
    #[serde(flatten)]
    pub key: ScopeKey,
    /// Its number.
    pub snapshot: SnapshotId,
    /// When its poll ended.
    pub taken_at: DateTime<Utc>,
    /// Rows refused, and quarantined.
    pub rejected: u64,
    /// Rows and sums of what was taken.
    pub totals: Totals,
    /// What its rows are. Snapshots of earlier releases, which do not say, are of charges.
    #[serde(default, skip_serializing_if = "RowKind::is_charges")]
    pub kind: RowKind,
}

/// Control totals: rows, and the exact sums per billing period and currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    rows: u64,
    groups: BTreeMap<Group, GroupTotals>,
}

/// What a control total is kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group {
    /// `BillingPeriodStart`.
    pub billing_period: Option<DateTime<Utc>>,
    /// `BillingCurrency`.
    pub currency: Option<String>,
}

/// Rows and exact sums of one [`Group`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTotals {
    /// Charges.
    pub rows: u64,
    /// Sum of `BilledCost`.
    pub billed: Sum,
    /// Sum of `EffectiveCost`, nulls left out.
    pub effective: Sum,
    /// Sum of `ListCost`, nulls left out.
    pub list: Sum,
    /// Sum of `ContractedCost`, nulls left out.
    pub contracted: Sum,
}

impl GroupTotals {
    /// Adds another group's totals.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.billed.add_sum(other.billed);
        self.effective.add_sum(other.effective);
        self.list.add_sum(other.list);
        self.contracted.add_sum(other.contracted);
    }
}

/// Why totals could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TotalsError {
    /// More (billing period, currency) pairs than [`MAX_GROUPS`].
    #[error("more than {MAX_GROUPS} pairs of billing period and currency")]
    TooManyGroups,
    /// A column is not of the type its name calls for.
    #[error("column {0} is not of its kind")]
    WrongType(String),
}

/// Where two deliveries' totals differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control totals differ: {0}")]
pub struct TotalsMismatch(String);

impl Totals {
    /// Charges, in all.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The totals per group, in order of period and currency.
    pub fn groups(&self) -> impl Iterator<Item = (&Group, &GroupTotals)> {
        self.groups.iter()
    }

    /// Adds every row of a batch. Column names are compared without regard to case, so that
    /// the report's batches and the store's give the same totals. A cost column that is not
    /// there adds nothing.
    ///
    /// # Errors
    /// Too many groups, or a column of a wrong type; the totals are then of no use.
    pub fn add_batch(&mut self, batch: &RecordBatch) -> Result<(), TotalsError> {
        let schema = batch.schema();
        let column = |name: &str| {
            let at = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name));
            at.map(|at| batch.column(at))
        };
        let wrong = |name: &str| TotalsError::WrongType(name.to_owned());
        let amounts = |name: &str| match column(name) {
            None => Ok(None),
            Some(array) if *array.data_type() == ColumnKind::Decimal.data_type() => {
                Ok(Some(array.as_primitive::<Decimal128Type>()))
            }
            Some(_) => Err(wrong(name)),
        };
        let costs =
            [amounts("BilledCost")?, amounts("EffectiveCost")?, amounts("ListCost")?, amounts("ContractedCost")?];
        let periods = match column("BillingPeriodStart") {
            None => None,
            Some(array) => {
                Some(array.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| wrong("BillingPeriodStart"))?)
            }
        };
        let currencies = match column("BillingCurrency") {
            None => None,
            Some(array) => Some(Texts::of(array).ok_or_else(|| wrong("BillingCurrency"))?),
        };
        let period_of = |row: usize| periods.filter(|a| a.is_valid(row)).map(|a| a.value(row));
        let same_group = |a: usize, b: usize| {
            period_of(a) == period_of(b) && currencies.is_none_or(|currencies| currencies.same(a, b))
        };

        // Rows of a group tend to stand together: look a group up once per run of it.
        let mut row = 0;
        while row < batch.num_rows() {
            let first = row;
            let group = Group {
                billing_period: period_of(row).and_then(DateTime::from_timestamp_micros),
                currency: currencies.and_then(|currencies| currencies.get(row)).map(str::to_owned),
            };
            if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&group) {
                return Err(TotalsError::TooManyGroups);
            }
            let totals = self.groups.entry(group).or_default();
            while row < batch.num_rows() && same_group(first, row) {
                totals.rows += 1;
                self.rows += 1;
                let sums = [&mut totals.billed, &mut totals.effective, &mut totals.list, &mut totals.contracted];
                for (sum, amounts) in sums.into_iter().zip(&costs) {
                    let amount = amounts.filter(|a| a.is_valid(row)).map(|a| a.value(row));
                    if let Some(amount) = amount.and_then(Amount::from_units) {
                        sum.add(amount);
                    }
                }
                row += 1;
            }
        }
        Ok(())
    }

    /// Adds another's totals.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        for (group, totals) in &other.groups {
            self.groups.entry(group.clone()).or_default().add(totals);
        }
    }

    /// Adds the totals of one group, as read from a text.
    pub fn add_group(&mut self, group: Group, totals: &GroupTotals) {
        self.rows += totals.rows;
        self.groups.entry(group).or_default().add(totals);
    }

    /// Holds what arrived against what was announced.
    ///
    /// # Errors
    /// They differ, and where.
    pub fn check(&self, announced: &Self) -> Result<(), TotalsMismatch> {
        if self.rows != announced.rows {
            return Err(TotalsMismatch(format!("{} rows arrived of {}", self.rows, announced.rows)));
        }
        for (group, expected) in &announced.groups {
            let arrived = self.groups.get(group);
            if arrived != Some(expected) {
                let arrived =
                    arrived.map_or_else(|| "nothing".to_owned(), |a| format!("{} in {} rows", a.billed, a.rows));
                return Err(TotalsMismatch(format!(
                    "billed {} in {} rows were announced for {:?}, {arrived} arrived",
                    expected.billed, expected.rows, group
                )));
            }
        }
        if self.groups.len() != announced.groups.len() {
            return Err(TotalsMismatch("a billing period or currency arrived that was not announced".to_owned()));
        }
        Ok(())
    }
}

/// As a list of groups: JSON's keys are texts.
impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.groups.iter().map(|(group, totals)| GroupLine { group, totals }))
    }
}

#[derive(Serialize)]
struct GroupLine<'a> {
    #[serde(flatten)]
    group: &'a Group,
    #[serde(flatten)]
    totals: &'a GroupTotals,
}

#[derive(Deserialize)]
struct OwnedGroupLine {
    #[serde(flatten)]
    group: Group,
    #[serde(flatten)]
    totals: GroupTotals,
}

impl<'de> Deserialize<'de> for Totals {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut totals = Self::default();
        for line in Vec::<OwnedGroupLine>::deserialize(deserializer)? {
            totals.add_group(line.group, &line.totals);
        }
        Ok(totals)
    }
}

/// The position of [`X_ROW`] in a schema, with its type checked.
pub fn row_ordinals(batch: &RecordBatch) -> Option<&arrow::array::Int64Array> {
    batch.column_by_name(X_ROW)?.as_primitive_opt::<Int64Type>()
}

/// The snapshots an Arrow stream announces in its schema; nothing when it is not one of ours.
///
/// # Errors
/// The announcement is there and cannot be read.
pub fn announced_snapshots(schema: &SchemaRef) -> Result<Option<Vec<Snapshot>>, serde_json::Error> {
    schema.metadata().get(SNAPSHOTS_METADATA).map(|json| serde_json::from_str(json)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Schema;

    fn batch(rows: &[(i64, &str, i128)]) -> RecordBatch {
        let schema = Schema::new(vec![
            ColumnKind::Timestamp.field("BillingPeriodStart"),
            ColumnKind::Text.field("BillingCurrency"),
            ColumnKind::Decimal.field("BilledCost"),
        ]);
        let periods: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.0)).collect();
        let currencies: StringArray = rows.iter().map(|row| Some(row.1)).collect();
        let amounts: Decimal128Array = rows.iter().map(|row| Some(row.2)).collect();
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(periods.with_timezone("UTC")),
                Arc::new(currencies),
                Arc::new(amounts.with_precision_and_scale(PRECISION, SCALE).expect("our own precision")),
            ],
        )
        .expect("a batch")
    }

    #[test]
    fn totals_are_exact_and_survive_json() {
        let mut totals = Totals::default();
        totals.add_batch(&batch(&[(0, "USD", 1), (0, "EUR", -5), (0, "USD", 2)])).expect("totals");
        totals.add_batch(&batch(&[(0, "USD", 10)])).expect("totals");
        assert_eq!(totals.rows(), 4);
        let sums: Vec<_> = totals.groups().map(|(g, t)| (g.currency.clone(), t.billed.to_string())).collect();
        assert_eq!(
            sums,
            [(Some("EUR".into()), "-0.000000000000000005".into()), (Some("USD".into()), "0.000000000000000013".into())]
        );
        let json = serde_json::to_string(&totals).expect("json");
        assert_eq!(serde_json::from_str::<Totals>(&json).expect("our own json"), totals);
    }

    #[test]
    fn a_row_too_few_or_a_digit_off_is_told() {
        let mut announced = Totals::default();
        announced.add_batch(&batch(&[(0, "USD", 1), (0, "USD", 2)])).expect("totals");
        let mut arrived = Totals::default();
        arrived.add_batch(&batch(&[(0, "USD", 1)])).expect("totals");
        assert!(arrived.check(&announced).is_err());
        arrived.add_batch(&batch(&[(0, "USD", 3)])).expect("totals");
        assert!(arrived.check(&announced).is_err());
        assert!(announced.check(&announced.clone()).is_ok());
    }

    #[test]
    fn too_many_periods_are_refused() {
        let rows: Vec<_> = (0..=10_000).map(|n| (n, "USD", 1)).collect();
        assert_eq!(Totals::default().add_batch(&batch(&rows)), Err(TotalsError::TooManyGroups));
    }

    #[test]
    fn a_snapshot_is_later_than_its_predecessor_though_the_clock_steps_back() {
        let now = DateTime::from_timestamp_millis(1_793_365_501_123).expect("a time");
        let first = SnapshotId::next(now, None);
        let second = SnapshotId::next(now - chrono::Duration::days(1), Some(first));
        assert!(second > first);
        assert!(second.to_string() > first.to_string());
        assert_eq!(first.to_string().parse(), Ok(first));
        assert!("2026".parse::<SnapshotId>().is_err());
    }

    #[test]
    fn long_names_stay_apart() {
        let (a, b) = (format!("{}a", "ü".repeat(99)), format!("b{}a", "ü".repeat(99)));
        let (a, b) = (SourceName::new(&a).expect("a name"), SourceName::new(&b).expect("a name"));
        assert_ne!(a, b);
        assert!(a.as_str().len() <= MAX_NAME_BYTES && a.as_str().ends_with("üa"));
        assert!(SourceName::new("").is_err() && SourceName::new("a\nb").is_err());
    }
}
