//! The columns of FOCUS, per version of the specification: a column's name in, its canonical
//! spelling and kind out; a header in, the version it was written for out. The tables are
//! `resources/focus/*.csv`, embedded; what no table knows is text and keeps its own spelling.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::ColumnKind;

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Version {
    /// 0.5, June 2023.
    V0_5,
    /// 1.0-preview, November 2023.
    V1_0Preview,
    /// 1.0, June 2024.
    V1_0,
    /// 1.1, November 2024.
    V1_1,
    /// 1.2, May 2025.
    V1_2,
    /// 1.3, December 2025.
    V1_3,
    /// 1.4, 2026.
    V1_4,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_5, Self::V1_0Preview, Self::V1_0, Self::V1_1, Self::V1_2, Self::V1_3, Self::V1_4];

    /// The version as the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_5 => "0.5",
            Self::V1_0Preview => "1.0-preview",
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
            Self::V1_4 => "1.4",
        }
    }

    /// The columns of this version's Cost and Usage dataset, in the specification's order.
    pub fn columns(self) -> &'static [Column] {
        CATALOG.versions.iter().find(|(version, _)| *version == self).map_or(&[], |(_, columns)| columns)
    }

    fn table(self) -> &'static str {
        match self {
            Self::V0_5 => include_str!("../../resources/focus/0.5.csv"),
            Self::V1_0Preview => include_str!("../../resources/focus/1.0-preview.csv"),
            Self::V1_0 => include_str!("../../resources/focus/1.0.csv"),
            Self::V1_1 => include_str!("../../resources/focus/1.1.csv"),
            Self::V1_2 => include_str!("../../resources/focus/1.2.csv"),
            Self::V1_3 => include_str!("../../resources/focus/1.3.csv"),
            Self::V1_4 => include_str!("../../resources/focus/1.4.csv"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no FOCUS version")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| VersionError(text.to_owned()))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How firmly a version asks for a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeatureLevel {
    /// Always there.
    Mandatory,
    /// There when the provider supports what it describes.
    Conditional,
    /// Better there.
    Recommended,
}

/// A column of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's id, as the specification spells it.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// How firmly the version asks for it; nothing for the names of drafts.
    pub level: Option<FeatureLevel>,
    /// Whether the version lets it be null.
    pub nullable: bool,
}

/// What a column of this name holds, whatever its case: text, when no version knows it.
pub fn kind_of(column_name: &str) -> ColumnKind {
    find(column_name).map_or(ColumnKind::Text, |column| column.kind)
}

/// The specification's spelling of a column's name, ASCII case ignored; nothing when no
/// version knows it.
pub fn canonical(column_name: &str) -> Option<&'static str> {
    find(column_name).map(|column| column.name)
}

/// The version a header was written for: the one that knows most of its columns and misses
/// fewest that it makes mandatory; the oldest of equals. Nothing when the header misses more
/// mandatory columns than it has known ones: then it is a report of another make.
pub fn detect_version<S: AsRef<str>>(header: &[S]) -> Option<Version> {
    let names: HashSet<&str> = header.iter().filter_map(|name| canonical(name.as_ref())).collect();
    let mut best: Option<(isize, Version)> = None;
    for version in Version::ALL {
        let score: isize = version
            .columns()
            .iter()
            .map(|column| match (names.contains(column.name), column.level) {
                (true, _) => 1,
                (false, Some(FeatureLevel::Mandatory)) => -1,
                (false, _) => 0,
            })
            .sum();
        if score > 0 && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, version));
        }
    }
    best.map(|(_, version)| version)
}

struct Catalog {
    versions: Vec<(Version, Vec<Column>)>,
    by_name: HashMap<String, Column>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let versions: Vec<_> = Version::ALL.into_iter().map(|version| (version, parse(version.table()))).collect();
    let drafts = parse(include_str!("../../resources/focus/drafts.csv"));
    let newest_last = drafts.iter().chain(versions.iter().flat_map(|(_, columns)| columns));
    let by_name = newest_last.map(|column| (column.name.to_ascii_lowercase(), *column)).collect();
    Catalog { versions, by_name }
});

fn find(name: &str) -> Option<&'static Column> {
    CATALOG.by_name.get(name.to_ascii_lowercase().as_str())
}

/// Reads one of our own tables; a test holds that every line of each is read.
fn parse(table: &'static str) -> Vec<Column> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &'static str) -> Option<Column> {
    let mut fields = line.split(',');
    let column = Column {
        name: fields.next().filter(|name| !name.is_empty())?,
        kind: match fields.next()? {
            "text" => ColumnKind::Text,
            "decimal" => ColumnKind::Decimal,
            "timestamp" => ColumnKind::Timestamp,
            "tags" => ColumnKind::Tags,
            _ => return None,
        },
        level: match fields.next()? {
            "mandatory" => Some(FeatureLevel::Mandatory),
            "conditional" => Some(FeatureLevel::Conditional),
            "recommended" => Some(FeatureLevel::Recommended),
            "none" => None,
            _ => return None,
        },
        nullable: match fields.next()? {
            "yes" => true,
            "no" => false,
            _ => return None,
        },
    };
    fields.next().is_none().then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: Version) -> Vec<&'static str> {
        version.columns().iter().map(|column| column.name).collect()
    }

    #[test]
    fn every_line_of_every_table_is_read() {
        let counts = [21, 39, 43, 50, 57, 65, 65];
        for (version, count) in Version::ALL.into_iter().zip(counts) {
            assert_eq!(version.table().lines().count() - 1, count, "{version}");
            assert_eq!(version.columns().len(), count, "{version}");
            assert!(version.columns().iter().all(|column| column.level.is_some()), "{version}");
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        let drafts = include_str!("../../resources/focus/drafts.csv");
        assert_eq!(parse(drafts).len(), drafts.lines().count() - 1);
        assert_eq!("2.0".parse::<Version>(), Err(VersionError("2.0".to_owned())));
    }

    #[test]
    fn a_column_is_of_one_kind_and_spelling_in_every_version() {
        let mut seen: HashMap<String, Column> = HashMap::new();
        let drafts = parse(include_str!("../../resources/focus/drafts.csv"));
        for column in Version::ALL.into_iter().flat_map(Version::columns).copied().chain(drafts) {
            let first = *seen.entry(column.name.to_ascii_lowercase()).or_insert(column);
            assert_eq!((first.name, first.kind), (column.name, column.kind));
        }
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        for (name, spelling, kind) in [
            ("BilledCost", Some("BilledCost"), ColumnKind::Decimal),
            ("billedcost", Some("BilledCost"), ColumnKind::Decimal),
            ("CONTRACTEDUNITPRICE", Some("ContractedUnitPrice"), ColumnKind::Decimal),
            ("amortizedCost", Some("AmortizedCost"), ColumnKind::Decimal),
            ("UsageQuantity", Some("UsageQuantity"), ColumnKind::Decimal),
            ("provider", Some("Provider"), ColumnKind::Text),
            ("billingperiodstart", Some("BillingPeriodStart"), ColumnKind::Timestamp),
            ("tags", Some("Tags"), ColumnKind::Tags),
            ("AllocatedTags", Some("AllocatedTags"), ColumnKind::Tags),
            ("SkuPriceDetails", Some("SkuPriceDetails"), ColumnKind::Text),
            ("x_Cost", None, ColumnKind::Text),
            ("", None, ColumnKind::Text),
        ] {
            assert_eq!((canonical(name), kind_of(name)), (spelling, kind), "{name}");
        }
    }

    #[test]
    fn a_header_tells_its_version() {
        for version in Version::ALL {
            assert_eq!(detect_version(&header(version)), Some(version));
            let mandatory = |column: &&Column| column.level == Some(FeatureLevel::Mandatory);
            let least: Vec<_> = version.columns().iter().filter(mandatory).map(|column| column.name).collect();
            let detected = detect_version(&least).expect("a report of the mandatory columns");
            assert!(detected <= version, "{version}: {detected}");
        }
        let mut with_custom = header(Version::V1_2);
        with_custom.extend(["x_SkuMeterName", "x_AccountId"]);
        assert_eq!(detect_version(&with_custom), Some(Version::V1_2));
        assert_eq!(detect_version(&["BilledCost", "BillingCurrency", "x_Team"]), None);
    }
}
