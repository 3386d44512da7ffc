//! What `/metrics` sums over: names of columns in, dimensions with their labels out. A column is
//! a FOCUS one or the report's own, of text or time; a tag is written `Tags.team`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use costream_common::focus;
use costream_common::record::ColumnKind;
use serde::Deserialize;

/// The dimensions unless configured otherwise.
const DEFAULT: [&str; 6] =
    ["ProviderName", "ServiceCategory", "ServiceName", "ChargeCategory", "SubAccountId", "RegionId"];
/// Columns that FOCUS renamed: where the first is missing, the second stands in.
const RENAMED: [(&str, &str); 1] = [("ProviderName", "ServiceProviderName")];
/// Label names that are always there.
const FIXED: [&str; 3] = ["source", "billing_period", "billing_currency"];

/// What to sum over, in order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Dimensions {
    pub(crate) list: Vec<Dimension>,
}

/// One column, or one tag, to sum over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dimension {
    pub(crate) column: String,
    pub(crate) tag: Option<String>,
    label: String,
}

/// A column that cannot be summed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DimensionError {
    /// An amount or a whole map: nothing to group by.
    #[error("dimension {0}: an amount or a map is none; a tag is written as Tags.<key>")]
    Kind(String),
    /// Two dimensions, or one and a fixed label, would have the same label name.
    #[error("dimension {0}: there is a label {1} already")]
    Twice(String, String),
    /// Not a name.
    #[error("an empty name is no dimension")]
    Empty,
}

impl TryFrom<Vec<String>> for Dimensions {
    type Error = DimensionError;

    fn try_from(names: Vec<String>) -> Result<Self, DimensionError> {
        let mut labels: BTreeSet<String> = FIXED.iter().map(|label| (*label).to_owned()).collect();
        let mut dimensions = Vec::with_capacity(names.len());
        for name in names {
            let dimension = Dimension::parse(&name)?;
            if !labels.insert(dimension.label.clone()) {
                return Err(DimensionError::Twice(name, dimension.label));
            }
            dimensions.push(dimension);
        }
        Ok(Self { list: dimensions })
    }
}

impl Default for Dimensions {
    fn default() -> Self {
        Self { list: DEFAULT.iter().map(|name| Dimension::column(name)).collect() }
    }
}

impl Dimensions {
    /// None: the sums of a source, period and currency.
    pub fn none() -> Self {
        Self { list: Vec::new() }
    }

    /// The label names of a series, in order.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        FIXED.into_iter().chain(self.list.iter().map(|dimension| dimension.label.as_str()))
    }

    /// A text that differs when the sums would.
    pub fn fingerprint(&self) -> String {
        self.list.iter().fold(String::new(), |mut text, dimension| {
            let _ = write!(text, "{}.{};", dimension.column, dimension.tag.as_deref().unwrap_or_default());
            text
        })
    }
}

impl Dimension {
    fn parse(name: &str) -> Result<Self, DimensionError> {
        if name.is_empty() {
            return Err(DimensionError::Empty);
        }
        match name.split_once('.') {
            Some((column, tag)) if focus::kind_of(column) == ColumnKind::Tags && !tag.is_empty() => {
                Ok(Self { tag: Some(tag.to_owned()), label: label(&format!("tag_{tag}")), ..Self::column(column) })
            }
            _ if matches!(focus::kind_of(name), ColumnKind::Decimal | ColumnKind::Tags) => {
                Err(DimensionError::Kind(name.to_owned()))
            }
            _ => Ok(Self::column(name)),
        }
    }

    fn column(name: &str) -> Self {
        let column = focus::canonical(name).unwrap_or(name).to_owned();
        Self { label: label(&column), column, tag: None }
    }
}

/// A column's name as a label's: `ProviderName` is `provider_name`.
fn label(column: &str) -> String {
    let mut label = String::with_capacity(column.len() + 4);
    let mut after_small = false;
    for c in column.chars() {
        if c.is_ascii_uppercase() && after_small {
            label.push('_');
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        label.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    if label.starts_with(|c: char| c.is_ascii_digit()) {
        label.insert(0, '_');
    }
    label
}

/// The column that stands in where a report has none of this name.
pub(crate) fn renamed(column: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _)| *old == column).map(|(_, new)| *new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_named_as_prometheus_names_them() {
        for (column, name) in [
            ("ProviderName", "provider_name"),
            ("x_CostCenter", "x_cost_center"),
            ("SKUId", "skuid"),
            ("a b", "a_b"),
            ("1st", "_1st"),
        ] {
            assert_eq!(label(column), name);
        }
        assert!(Dimensions::try_from(vec!["Source".to_owned()]).is_err(), "a fixed label");
        assert!(Dimensions::try_from(vec!["ListCost".to_owned()]).is_err(), "an amount");
    }
}
