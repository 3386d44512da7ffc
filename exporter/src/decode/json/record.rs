//! The text of one record in, its members out, with their values as they are written: numbers keep every digit.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object, in order; of a key that stands twice, both.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

/// Most members of one record, whatever the limits: they are held in memory.
const MAX_MEMBERS: usize = 100_000;

impl<'a> Members<'a> {
    /// Reads the object that a record is: itself, or the `focusSpec` of a `FocusConfig`. Nothing when it is none.
    pub(super) fn of(record: &'a str) -> Option<Self> {
        let members: Self = serde_json::from_str(record).ok()?;
        let inner = members.object("spec").and_then(|spec| spec.object("focusSpec"));
        Some(inner.unwrap_or(members))
    }

    /// Whether a member has this name, in any case.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name.eq_ignore_ascii_case(key))
    }

    /// The value of a member.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }

    /// The members of a member that is an object.
    pub(super) fn object(&self, key: &str) -> Option<Self> {
        self.get(key).filter(|value| value.starts_with('{')).and_then(|value| serde_json::from_str(value).ok())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object).map(Members)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(64);
        while let Some((Key(key), value)) = map.next_entry()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            members.push((key, value));
        }
        Ok(members)
    }
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value as a field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Null,
    Text(Cow<'a, str>),
}

impl<'a> Field<'a> {
    /// The text of a string, and anything else as it is written; nothing when a string is none in Unicode.
    pub(super) fn of(value: &'a str) -> Option<Self> {
        Some(match value.as_bytes() {
            b"null" => Self::Null,
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
                Self::Text(Cow::Borrowed(&value[1..value.len() - 1]))
            }
            [b'"', ..] => Self::Text(Cow::Owned(serde_json::from_str(value).ok()?)),
            _ => Self::Text(Cow::Borrowed(value)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_every_digit_and_escapes_are_undone() {
        for (value, field) in [
            ("null", Field::Null),
            ("0.1000000000000000055", Field::Text("0.1000000000000000055".into())),
            ("1E-3", Field::Text("1E-3".into())),
            ("true", Field::Text("true".into())),
            (r#""""#, Field::Text("".into())),
            (r#""null""#, Field::Text("null".into())),
            (r#""a \"b\" \u00e9 \ud83d\ude00""#, Field::Text("a \"b\" é 😀".into())),
            (r#"{"k": [1.50]}"#, Field::Text(r#"{"k": [1.50]}"#.into())),
        ] {
            assert_eq!(Field::of(value), Some(field), "{value}");
        }
        assert_eq!(Field::of(r#""\ud83d""#), None, "half a character");
    }

    #[test]
    fn a_focus_config_is_what_its_focus_spec_says() {
        let keys =
            |record| Members::of(record).map(|members| members.0.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
        for (record, expected) in [
            (r#"{"a": 1, "b": {"c": 2}, "a": 3}"#, Some(&["a", "b", "a"][..])),
            (r#"{"kind": "FocusConfig", "spec": {"focusSpec": {"billedCost": 1}, "x": 0}}"#, Some(&["billedCost"])),
            (r#"{"spec": {"focusSpec": null}}"#, Some(&["spec"])),
            (r#"{"spec": 1}"#, Some(&["spec"])),
            ("{}", Some(&[])),
            (r#"{"a": NaN}"#, None),
            (r#"{"a": 1,}"#, None),
            (r#"{"a": 1} {"a": 2}"#, None),
            ("[1]", None),
            ("1", None),
        ] {
            let expected = expected.map(|keys| keys.iter().map(|key| Cow::Borrowed(*key)).collect());
            assert_eq!(keys(record), expected, "{record}");
        }
    }
}
