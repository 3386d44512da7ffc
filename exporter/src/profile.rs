//! Leniency, by name. A [`Rule`] is one departure from FOCUS as written that we know how to
//! read; a profile ([`ProfileName`]) is the set of rules a provider's reports need. A rule that was
//! applied is counted; an oddity that the profile has no rule for rejects its row.
//!
//! | profile | takes, beyond FOCUS as written |
//! |---|---|
//! | `strict` | nothing: null is the empty field, times are `YYYY-MM-DDTHH:mm:ssZ`, tags are JSON objects of plain values with unique keys |
//! | `sample` | literal `NULL`, times without a zone |
//! | `aws` | literal `NULL`, fractions of a second, times without a zone, all tag forms but the key-value list |
//! | `azure` | times without seconds, `MM/DD/YYYY`, fractions, tags without braces, tags as `k:v;k:v` |
//! | `gcp` | BigQuery's times (fractions, ` UTC`, zones, dates alone), literal `NULL`, tags as a list of `{"key", "value"}` |
//! | `oci` | times without seconds, fractions, literal `NULL`, tags as `k=v;k=v` |
//! | `auto` | every rule, whatever the provider |
//!
//! What changes no meaning is taken by every profile, and counted: a byte order mark, exponents (FOCUS allows
//! them), a header's names in another case, a name that stands twice in a header.
//!
//! `auto` also says what the report looks like ([`recognise`]): by the custom columns only one
//! provider writes (`x_SkuMeterId` is Azure's, `oci_...` Oracle's), else by the literal `NULL`s
//! of the foundation's sample in the first rows, else by the provider's name in them. What it
//! finds is a name to show, not a limit: two providers may stand in one report.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
pub(crate) use costream_common::field::Leniency;
pub use costream_common::field::Rule;
use serde::{Deserialize, Serialize};

/// A profile's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// Every rule; found out by itself what the report looks like.
    #[default]
    Auto,
    /// FOCUS as written.
    Strict,
    /// Amazon Web Services.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Cloud.
    Gcp,
    /// Oracle Cloud Infrastructure.
    Oci,
    /// The FOCUS foundation's sample.
    Sample,
}

impl ProfileName {
    /// Every profile.
    pub const ALL: [Self; 7] = [Self::Auto, Self::Strict, Self::Aws, Self::Azure, Self::Gcp, Self::Oci, Self::Sample];

    /// The name as the command line and the configuration spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Strict => "strict",
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Gcp => "gcp",
            Self::Oci => "oci",
            Self::Sample => "sample",
        }
    }

    /// The rules it takes.
    pub(crate) fn leniency(self) -> Leniency {
        use Rule::*;
        let everywhere = [ByteOrderMark, Exponent, HeaderCase, HeaderUnnamed, HeaderRenamed];
        let lenient = [DelimiterSemicolon, DelimiterTab, HeaderBlanks, TagsNested, TagsDuplicateKey];
        let own: &[Rule] = match self {
            Self::Strict => return Leniency::of(&everywhere),
            Self::Auto => &Rule::ALL,
            Self::Sample => &[NullLiteral, TimeWithoutZone],
            Self::Aws => {
                &[NullLiteral, TimeFraction, TimeWithoutZone, TagsNoBraces, TagsEquals, TagsColon, TagsColonBlank]
            }
            Self::Azure => &[TimeWithoutSeconds, TimeUsDate, TimeFraction, TagsNoBraces, TagsColon, TagsColonBlank],
            Self::Gcp => &[NullLiteral, TimeFraction, TimeWithoutZone, TimeDateOnly, TimeOffset, TagsKeyValueList],
            Self::Oci => &[NullLiteral, TimeWithoutSeconds, TimeFraction, TagsEquals],
        };
        Leniency::of(&everywhere).and(Leniency::of(&lenient)).and(Leniency::of(own))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no profile: it is one of auto, strict, aws, azure, gcp, oci, sample")]
pub struct ProfileError(String);

impl FromStr for ProfileName {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(|| ProfileError(text.to_owned()))
    }
}

/// How often each rule was applied. A row's own counts are held back until the row is taken.
#[derive(Clone, Debug)]
pub(crate) struct RuleCounts {
    taken: [u64; Rule::COUNT],
    row: [u32; Rule::COUNT],
    /// Whether a rule was applied to the row at hand: seldom.
    row_has_any: bool,
    shown: BTreeMap<&'static str, u64>,
}

impl Default for RuleCounts {
    fn default() -> Self {
        Self { taken: [0; Rule::COUNT], row: [0; Rule::COUNT], row_has_any: false, shown: BTreeMap::new() }
    }
}

impl RuleCounts {
    /// Counts a rule applied to the report as a whole.
    pub(crate) fn count(&mut self, rule: Rule) {
        self.taken[rule.index()] += 1;
    }

    /// Counts a rule applied to the row at hand.
    pub(crate) fn count_in_row(&mut self, rule: Rule) {
        self.row[rule.index()] += 1;
        self.row_has_any = true;
    }

    /// The row at hand was taken: its counts stand.
    pub(crate) fn take_row(&mut self) {
        if std::mem::take(&mut self.row_has_any) {
            for (taken, row) in self.taken.iter_mut().zip(&mut self.row) {
                *taken += u64::from(std::mem::take(row));
            }
        }
    }

    /// The row at hand was rejected: its counts are void.
    pub(crate) fn drop_row(&mut self) {
        self.row = [0; Rule::COUNT];
        self.row_has_any = false;
    }

    /// Brings [`RuleCounts::shown`] up to date.
    pub(crate) fn show(&mut self) {
        for (rule, count) in Rule::ALL.into_iter().zip(self.taken) {
            if count > 0 {
                self.shown.insert(rule.as_str(), count);
            }
        }
    }

    /// The counts by name, as of the last [`RuleCounts::show`].
    pub(crate) fn shown(&self) -> &BTreeMap<&'static str, u64> {
        &self.shown
    }
}

/// Custom columns that only one provider writes; a name that ends in `_` is a prefix.
const FINGERPRINTS: [(ProfileName, &[&str]); 4] = [
    (ProfileName::Oci, &["oci_"]),
    (
        ProfileName::Azure,
        &["x_SkuMeterId", "x_BillingProfileId", "x_InvoiceSectionId", "x_ResourceGroupName", "x_AccountOwnerId"],
    ),
    (ProfileName::Gcp, &["x_ExportTime", "x_CostType", "x_ConsumptionModelId", "x_CurrencyConversionRate"]),
    (ProfileName::Aws, &["x_UsageType", "x_Operation", "x_ServiceCode", "x_CostCategories", "x_Discounts"]),
];

/// The columns that name the provider, newest first.
const PROVIDER_COLUMNS: [&str; 5] =
    ["ServiceProviderName", "ProviderName", "Provider", "InvoiceIssuerName", "PublisherName"];

/// What a report looks like, by its header and the fields of its first rows; [`ProfileName::Auto`]
/// when it looks like none we know.
pub(crate) fn recognise<'a, R>(header: &[&str], first_rows: impl Iterator<Item = R>) -> ProfileName
where
    R: Iterator<Item = &'a [u8]>,
{
    for (profile, columns) in FINGERPRINTS {
        let is_one_of = |name: &&str| {
            columns.iter().any(|column| match column.strip_suffix('_') {
                Some(_) => name.get(..column.len()).is_some_and(|start| start.eq_ignore_ascii_case(column)),
                None => name.eq_ignore_ascii_case(column),
            })
        };
        if header.iter().any(is_one_of) {
            return profile;
        }
    }

    let provider_at =
        PROVIDER_COLUMNS.iter().find_map(|column| header.iter().position(|name| name.eq_ignore_ascii_case(column)));
    let mut provider = None;
    for row in first_rows {
        for (at, field) in row.enumerate() {
            if field == b"NULL" {
                return ProfileName::Sample;
            }
            if Some(at) == provider_at {
                provider = provider.or_else(|| by_provider(field));
            }
        }
    }
    provider.unwrap_or(ProfileName::Auto)
}

fn by_provider(name: &[u8]) -> Option<ProfileName> {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let names = [
        ("amazon", ProfileName::Aws),
        ("aws", ProfileName::Aws),
        ("microsoft", ProfileName::Azure),
        ("azure", ProfileName::Azure),
        ("google", ProfileName::Gcp),
        ("gcp", ProfileName::Gcp),
        ("oracle", ProfileName::Oci),
        ("oci", ProfileName::Oci),
    ];
    names.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, profile)| profile)
}

#[cfg(test)]
mod tests {
    use costream_common::field::tags::Tags;

    use super::*;

    fn recognised(header: &str, rows: &[&str]) -> ProfileName {
        let header: Vec<_> = header.split(',').collect();
        recognise(&header, rows.iter().map(|row| row.split(',').map(str::as_bytes)))
    }

    #[test]
    fn a_report_is_recognised_by_header_then_nulls_then_provider() {
        for (header, rows, profile) in [
            ("BilledCost,oci_ReferenceNumber", &["1,AWS"][..], ProfileName::Oci),
            ("BilledCost,x_SkuMeterId", &["NULL,a"], ProfileName::Azure),
            ("BilledCost,x_UsageType", &[], ProfileName::Aws),
            ("BilledCost,x_CostType", &[], ProfileName::Gcp),
            ("BilledCost,ProviderName", &["1,AWS", "NULL,AWS"], ProfileName::Sample),
            ("BilledCost,ProviderName", &["1,", "1,Microsoft"], ProfileName::Azure),
            ("BilledCost,ProviderName", &["1,Google Cloud"], ProfileName::Gcp),
            ("BilledCost,ServiceProviderName", &["1,Amazon Web Services"], ProfileName::Aws),
            ("BilledCost,Provider", &["1,Oracle"], ProfileName::Oci),
            ("BilledCost,ProviderName", &["1,Hetzner"], ProfileName::Auto),
            ("BilledCost", &["1"], ProfileName::Auto),
        ] {
            assert_eq!(recognised(header, rows), profile, "{header} {rows:?}");
        }
    }

    #[test]
    fn names_are_one_and_the_same_everywhere() {
        for profile in ProfileName::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_string(&profile).expect("json"), format!("{:?}", profile.as_str()));
            assert_eq!(profile.to_possible_value().expect("shown").get_name(), profile.as_str());
        }
        assert!("AWS".parse::<ProfileName>().is_err());
    }

    #[test]
    fn auto_takes_every_rule_and_strict_next_to_none() {
        let taken =
            |profile: ProfileName| Rule::ALL.into_iter().filter(move |rule| profile.leniency().takes(*rule)).count();
        assert_eq!(taken(ProfileName::Auto), Rule::COUNT);
        assert_eq!(taken(ProfileName::Strict), 5);
        for profile in ProfileName::ALL {
            assert!(taken(profile) >= 5 && (profile == ProfileName::Strict || taken(profile) > 8), "{profile}");
        }
    }

    #[test]
    fn a_profile_takes_its_own_forms_of_tags_only() {
        let mut tags = Tags::default();
        let mut takes = |profile: ProfileName, field| tags.parse(field, profile.leniency()).is_ok();
        let azure = r#""a": "1""#;
        assert!(takes(ProfileName::Azure, azure) && !takes(ProfileName::Strict, azure));
        assert!(takes(ProfileName::Oci, "k=v") && !takes(ProfileName::Sample, "k=v"));
        for unlike_focus in [r#"{"a":{}}"#, r#"{"a":1,"a":1}"#] {
            assert!(!takes(ProfileName::Strict, unlike_focus) && takes(ProfileName::Aws, unlike_focus));
        }
    }

    #[test]
    fn a_rejected_rows_rules_are_not_counted() {
        let mut counts = RuleCounts::default();
        counts.count_in_row(Rule::Exponent);
        counts.drop_row();
        counts.count_in_row(Rule::NullLiteral);
        counts.take_row();
        counts.count(Rule::ByteOrderMark);
        counts.show();
        assert_eq!(*counts.shown(), BTreeMap::from([("byte_order_mark", 1), ("null_literal", 1)]));
    }
}
