//! The text of one field in, its value out, whoever wrote it: tags and times in every form seen. A
//! [`Rule`] is one departure from FOCUS as written that we know how to read; [`Leniency`] says
//! which of them may be applied.

pub mod tags;
pub mod time;

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A departure from FOCUS as written that we know how to read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The rule's name, as it is counted.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

rules! {
    /// A UTF-8 byte order mark stands before the header.
    ByteOrderMark = "byte_order_mark",
    /// Fields are divided by semicolons.
    DelimiterSemicolon = "delimiter_semicolon",
    /// Fields are divided by tabs.
    DelimiterTab = "delimiter_tab",
    /// A FOCUS column's name is in another case.
    HeaderCase = "header_case",
    /// Blanks stand around a column's name.
    HeaderBlanks = "header_blanks",
    /// A column has no name: it is kept as `column_<position>`.
    HeaderUnnamed = "header_unnamed",
    /// A column's name stands twice, or is one of ours: it is kept as `<name>_2`.
    HeaderRenamed = "header_renamed",
    /// The literal `NULL` is a null (in columns that are not text, in any case).
    NullLiteral = "null_literal",
    /// An amount with an exponent.
    Exponent = "exponent",
    /// A time without a zone is in UTC.
    TimeWithoutZone = "time_without_zone",
    /// `2024-09-01T00:00Z`.
    TimeWithoutSeconds = "time_without_seconds",
    /// `09/01/2024`, with or without a time of day: month first, in UTC.
    TimeUsDate = "time_us_date",
    /// `2024-09-01`: midnight UTC.
    TimeDateOnly = "time_date_only",
    /// `2024-09-01T00:00:00.000Z`: kept to the microsecond, refused beyond.
    TimeFraction = "time_fraction",
    /// `2024-09-01T02:00:00+02:00`, or ` UTC` at the end: brought to UTC.
    TimeOffset = "time_offset",
    /// `"a": "1","b": "2"`.
    TagsNoBraces = "tags_no_braces",
    /// `k=v;k=v`.
    TagsEquals = "tags_equals",
    /// `k:v;k:v`.
    TagsColon = "tags_colon",
    /// `k: v; k: v`.
    TagsColonBlank = "tags_colon_blank",
    /// `[{"key": "a", "value": "1"}]`.
    TagsKeyValueList = "tags_key_value_list",
    /// A tag's value is an object or an array: it is kept as its JSON text.
    TagsNested = "tags_nested",
    /// A tag's key stands twice in a row: the last one is kept.
    TagsDuplicateKey = "tags_duplicate_key",
}

impl Rule {
    /// How many rules there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place among [`Rule::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leniency(u32);

impl Leniency {
    /// Every rule.
    pub fn all() -> Self {
        Self::of(&Rule::ALL)
    }

    /// These rules.
    pub fn of(rules: &[Rule]) -> Self {
        Self(rules.iter().fold(0, |set, rule| set | 1 << rule.index()))
    }

    /// The rules of both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the rule may be applied.
    pub fn takes(self, rule: Rule) -> bool {
        self.0 & (1 << rule.index()) != 0
    }
}
