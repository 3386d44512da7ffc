//! The text of a tags field in, keys and values out, with the rules that had to be applied to
//! read it. Holds one field's tags; a value that is no text (a number, a nested object) is its
//! JSON text, digit for digit, and JSON's null is a null. Of a key that stands twice the last value is kept, as
//! JSON readers do.
//!
//! Unquoted pairs: the key ends at the first `=` or `:` of its pair, whichever stands first in
//! the first pair and in every pair; so values may hold both, and keys dots. Keys that start with `aws:` hold a colon.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Leniency, Rule};

/// A field that no form of tags fits.
#[derive(Debug, thiserror::Error)]
#[error("tags in no form that is taken here")]
pub struct BadTags;

/// One field's tags, and the room for them.
#[derive(Debug, Default)]
pub struct Tags {
    text: String,
    entries: Vec<Entry>,
    rules: Vec<Rule>,
    order: Vec<usize>,
    braced: String,
}

#[derive(Debug)]
struct Entry {
    key: Range<usize>,
    value: Option<Range<usize>>,
}

/// Above this many tags of one row, keys that stand twice are looked for by sorting.
const MANY_TAGS: usize = 16;

impl Tags {
    /// The tags read last, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.entries
            .iter()
            .map(|entry| (&self.text[entry.key.clone()], entry.value.clone().map(|value| &self.text[value])))
    }

    /// The rules it took to read them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Reads a field that is not empty.
    ///
    /// # Errors
    /// It is in no form of tags, or in one that is not taken.
    pub fn parse(&mut self, field: &str, leniency: Leniency) -> Result<(), BadTags> {
        self.text.clear();
        self.entries.clear();
        self.rules.clear();
        let text = field.trim_ascii();
        let form = match text.as_bytes() {
            [b'{', ..] => {
                self.parse_object(text)?;
                None
            }
            [b'[', ..] => {
                self.parse_list(text)?;
                Some(Rule::TagsKeyValueList)
            }
            [b'"', ..] => {
                let mut braced = std::mem::take(&mut self.braced);
                braced.clear();
                braced.extend(["{", text, "}"]);
                let parsed = self.parse_object(&braced);
                self.braced = braced;
                parsed?;
                Some(Rule::TagsNoBraces)
            }
            _ => Some(self.parse_pairs(text)?),
        };
        self.rules.extend(form);
        self.drop_duplicates();
        if self.rules.iter().all(|rule| leniency.takes(*rule)) { Ok(()) } else { Err(BadTags) }
    }

    fn parse_object(&mut self, text: &str) -> Result<(), BadTags> {
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(Object(self)).and_then(|()| json.end()).map_err(|_| BadTags)
    }

    fn parse_list(&mut self, text: &str) -> Result<(), BadTags> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Pair<'a> {
            #[serde(borrow)]
            key: Cow<'a, str>,
            #[serde(borrow)]
            value: Option<&'a RawValue>,
        }
        // As many as a field of bounded length holds.
        let pairs: Vec<Pair<'_>> = serde_json::from_str(text).map_err(|_| BadTags)?;
        for pair in pairs {
            let key = self.push(&pair.key);
            self.push_value(key, pair.value.map_or("null", RawValue::get)).map_err(|_| BadTags)?;
        }
        Ok(())
    }

    fn parse_pairs(&mut self, text: &str) -> Result<Rule, BadTags> {
        let pairs = || text.split(';').filter(|pair| !pair.trim_ascii().is_empty());
        let first = pairs().next().ok_or(BadTags)?;
        let place = |separator: char| first.find(separator).unwrap_or(usize::MAX);
        let is_divided_by = |separator: char| {
            pairs().all(|pair| pair.split_once(separator).is_some_and(|(key, _)| !key.trim_ascii().is_empty()))
        };
        let equals_first = place('=') < place(':') || first.trim_ascii_start().starts_with("aws:");
        let by_turns = if equals_first { ['=', ':'] } else { [':', '='] };
        let separator = by_turns.into_iter().find(|separator| is_divided_by(*separator)).ok_or(BadTags)?;

        let mut has_blanks = false;
        for (key, value) in pairs().filter_map(|pair| pair.split_once(separator)) {
            has_blanks |= value.starts_with(' ') || key.starts_with(' ');
            let value = if separator == ':' { value.trim_ascii() } else { value };
            let entry = Entry { key: self.push(key.trim_ascii()), value: Some(self.push(value)) };
            self.entries.push(entry);
        }
        Ok(match (separator, has_blanks) {
            ('=', _) => Rule::TagsEquals,
            (_, true) => Rule::TagsColonBlank,
            (_, false) => Rule::TagsColon,
        })
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    fn push_value(&mut self, key: Range<usize>, json: &str) -> serde_json::Result<()> {
        let value = match json.as_bytes() {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Some(self.push(&json[1..json.len() - 1])),
            [b'"', ..] => Some(self.push(&serde_json::from_str::<String>(json)?)),
            b"null" => None,
            [b'{' | b'[', ..] => {
                self.rules.push(Rule::TagsNested);
                Some(self.push(json))
            }
            _ => Some(self.push(json)),
        };
        self.entries.push(Entry { key, value });
        Ok(())
    }

    fn drop_duplicates(&mut self) {
        let key = |entry: &Entry| &self.text.as_bytes()[entry.key.clone()];
        let n = self.entries.len();
        let has_duplicates = if n <= MANY_TAGS {
            (1..n).any(|at| self.entries[..at].iter().any(|earlier| key(earlier) == key(&self.entries[at])))
        } else {
            true
        };
        if !has_duplicates {
            return;
        }
        // Equal keys side by side, in their order: all but the last of each go.
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..n);
        order.sort_by(|a, b| key(&self.entries[*a]).cmp(key(&self.entries[*b])).then(a.cmp(b)));
        let mut dropped: Vec<usize> = order
            .windows(2)
            .filter(|pair| key(&self.entries[pair[0]]) == key(&self.entries[pair[1]]))
            .map(|pair| pair[0])
            .collect();
        dropped.sort_unstable();
        let mut dropped = dropped.into_iter().peekable();
        let mut at = 0;
        let rules = &mut self.rules;
        self.entries.retain(|_| {
            let drop = dropped.next_if_eq(&at).is_some();
            at += 1;
            if drop {
                rules.push(Rule::TagsDuplicateKey);
            }
            !drop
        });
        self.order = order;
    }
}

struct Object<'t>(&'t mut Tags);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(self.0))? {
            let value: &RawValue = map.next_value()?;
            self.0.push_value(key, value.get()).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

struct Key<'t>(&'t mut Tags);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Range<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tag's key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.push(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Read = (Vec<(String, Option<String>)>, Vec<&'static str>);

    fn read(field: &str) -> Option<Read> {
        let mut tags = Tags::default();
        tags.parse(field, Leniency::all()).ok()?;
        let pairs = tags.iter().map(|(key, value)| (key.to_owned(), value.map(str::to_owned))).collect();
        Some((pairs, tags.rules().iter().map(|rule| rule.as_str()).collect()))
    }

    fn tags(pairs: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect()
    }

    #[test]
    fn every_form_is_read_and_named() {
        for (field, pairs, rules) in [
            (r#"{"a": "1", "b": "2"}"#, &[("a", "1"), ("b", "2")][..], &[][..]),
            (" {} ", &[], &[]),
            (r#"{"a":"x\n\"y\" \u00e9","\u00e9\\":""}"#, &[("a", "x\n\"y\" é"), ("é\\", "")], &[]),
            (r#"{"n":1.000000000000000000001,"t":true}"#, &[("n", "1.000000000000000000001"), ("t", "true")], &[]),
            (r#""a": "1","b": "2""#, &[("a", "1"), ("b", "2")], &["tags_no_braces"]),
            ("k=v;app.kubernetes.io/name=web", &[("k", "v"), ("app.kubernetes.io/name", "web")], &["tags_equals"]),
            ("url=http://a?b=c", &[("url", "http://a?b=c")], &["tags_equals"]),
            ("k:v;a.b:http://x:80/", &[("k", "v"), ("a.b", "http://x:80/")], &["tags_colon"]),
            ("k:v=w;l:m", &[("k", "v=w"), ("l", "m")], &["tags_colon"]),
            ("k:;l:m;", &[("k", ""), ("l", "m")], &["tags_colon"]),
            ("k: v; l: m n", &[("k", "v"), ("l", "m n")], &["tags_colon_blank"]),
            ("aws:createdBy=me;env=prod", &[("aws:createdBy", "me"), ("env", "prod")], &["tags_equals"]),
            (r#"[{"key":"a","value":"1"},{"value":2,"key":"b"}]"#, &[("a", "1"), ("b", "2")], &["tags_key_value_list"]),
            (r#"{"o": {"x": [1, 2]}}"#, &[("o", r#"{"x": [1, 2]}"#)], &["tags_nested"]),
            (r#"{"a":"1","b":"2","a":"3"}"#, &[("b", "2"), ("a", "3")], &["tags_duplicate_key"]),
            ("a=1;a=2;a=3", &[("a", "3")], &["tags_equals", "tags_duplicate_key", "tags_duplicate_key"]),
        ] {
            assert_eq!(read(field), Some((tags(pairs), rules.to_vec())), "{field}");
        }
        assert_eq!(read(r#"{"a":null}"#), Some((vec![("a".to_owned(), None)], vec![])));
    }

    #[test]
    fn what_is_no_tags_is_refused() {
        for field in [
            "tag",
            "a=1;b",
            "=1",
            ";",
            r#"{"a":"1""#,
            r#"{"a":1}x"#,
            "{a:1}",
            r#"{"a":"\ud800"}"#,
            r#""a""#,
            r#"["a"]"#,
            "[1",
            r#"{1:"a"}"#,
            r#"[{"key":"a","value":"1","inherited":true}]"#,
        ] {
            assert!(read(field).is_none(), "{field}");
        }
    }

    proptest! {
        #[test]
        fn json_round_trips(pairs in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..40)) {
            let json = serde_json::to_string(&pairs).expect("json");
            let expected: Vec<_> = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
            prop_assert_eq!(read(&json), Some((expected, vec![])));
        }

        #[test]
        fn of_many_equal_keys_the_last_is_kept(keys in proptest::collection::vec(0_u8..30, 1..60)) {
            let field: Vec<_> = keys.iter().enumerate().map(|(at, key)| format!("k{key}={at}")).collect();
            let (pairs, rules) = read(&field.join(";")).expect("pairs");
            let mut kept: Vec<_> = keys.iter().enumerate().filter(|(at, key)| !keys[at + 1..].contains(key)).collect();
            kept.sort_unstable();
            let expected: Vec<_> = kept.iter().map(|(at, key)| (format!("k{key}"), Some(at.to_string()))).collect();
            prop_assert_eq!(rules.len() - 1, keys.len() - kept.len());
            prop_assert_eq!(pairs, expected);
        }

        #[test]
        fn no_text_makes_it_panic(field in "[a\"{}:;=\\[\\], é]{0,20}") {
            let _ = read(&field);
        }
    }
}
