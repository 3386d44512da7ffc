//! Names and values as the text formats can carry them, and back.
//!
//! A value is escaped by a backslash. A name that is not legal is written with Prometheus'
//! *values* escaping: `U__`, then every character that is not legal as its code point in hex
//! between underscores, and an underscore as two. It loses nothing. A legal name that a reader
//! would take for an escaped one, or for one of Prometheus' own (`__name__`), is escaped as well, so that
//! [`unescape_name`] of what was written is always the name that was meant.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

const ESCAPED: &str = "U__";

/// Where a name stands: metric names may hold colons, label names may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A metric's or family's name.
    Metric,
    /// A label's name.
    Label,
}

impl Name {
    /// Whether the name can be written as it is, and read back as it is.
    pub fn is_plain(self, name: &str) -> bool {
        self.is_legal(name) && !name.starts_with(ESCAPED) && !(self == Self::Label && name.starts_with("__"))
    }

    /// Whether the name is legal without quotes: `[a-zA-Z_:][a-zA-Z0-9_:]*`, without the colons
    /// for a label.
    pub fn is_legal(self, name: &str) -> bool {
        let bytes = name.as_bytes();
        bytes.first().is_some_and(|first| !first.is_ascii_digit()) && bytes.iter().all(|byte| self.takes(*byte))
    }

    /// Whether the byte can be part of such a name, after its first.
    pub(super) fn takes(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || byte == b'_' || (byte == b':' && self == Self::Metric)
    }

    /// The name as it can be written.
    pub fn escape(self, name: &str) -> Cow<'_, str> {
        if self.is_plain(name) {
            return Cow::Borrowed(name);
        }
        let mut escaped = String::with_capacity(name.len() + 16);
        escaped.push_str(ESCAPED);
        for (at, c) in name.char_indices() {
            match u8::try_from(c) {
                Ok(b'_') => escaped.push_str("__"),
                Ok(byte) if byte.is_ascii() && self.takes(byte) && !(at == 0 && byte.is_ascii_digit()) => {
                    escaped.push(c);
                }
                _ => escaped.push_str(&format!("_{:x}_", u32::from(c))),
            }
        }
        Cow::Owned(escaped)
    }
}

/// The name that was meant: the inverse of [`Name::escape`]. A name that is not escaped, or
/// not well, is itself.
pub fn unescape_name(name: &str) -> Cow<'_, str> {
    match name.strip_prefix(ESCAPED).and_then(unescaped) {
        Some(meant) => Cow::Owned(meant),
        None => Cow::Borrowed(name),
    }
}

fn unescaped(mut rest: &str) -> Option<String> {
    let mut meant = String::with_capacity(rest.len());
    while let Some(at) = rest.find('_') {
        meant.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (code, tail) = rest.split_once('_')?;
        if code.is_empty() {
            meant.push('_');
        } else if code.len() <= 6 && code.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            meant.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        } else {
            return None;
        }
        rest = tail;
    }
    meant.push_str(rest);
    Some(meant)
}

/// Appends a label's value, escaped, without its quotes.
pub fn escape_value(value: &str, mut push: impl FnMut(&[u8])) {
    let mut rest = value.as_bytes();
    while let Some(at) = memchr3(b'\\', b'"', b'\n', rest) {
        push(&rest[..at]);
        push(match rest[at] {
            b'\\' => br"\\",
            b'"' => br#"\""#,
            _ => br"\n",
        });
        rest = &rest[at + 1..];
    }
    push(rest);
}

/// Appends a help text, escaped as 0.0.4 has it: a quote is itself.
pub fn escape_help(help: &str, mut push: impl FnMut(&[u8])) {
    let mut rest = help.as_bytes();
    while let Some(at) = memchr2(b'\\', b'\n', rest) {
        push(&rest[..at]);
        push(if rest[at] == b'\\' { br"\\" } else { br"\n" });
        rest = &rest[at + 1..];
    }
    push(rest);
}

/// Appends what an escaped value or help text means. A backslash before anything but a
/// backslash, a quote or an `n` is itself, as Prometheus reads it.
pub fn unescape_value(escaped: &str, meant: &mut String) {
    let mut rest = escaped;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        meant.push_str(&rest[..at]);
        let (c, taken) = match rest.as_bytes().get(at + 1) {
            Some(b'\\') => ('\\', 2),
            Some(b'"') => ('"', 2),
            Some(b'n') => ('\n', 2),
            _ => ('\\', 1),
        };
        meant.push(c);
        rest = &rest[at + taken..];
    }
    meant.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_escaped_as_prometheus_does() {
        for (kind, name, escaped) in [
            (Name::Label, "BilledCost", "BilledCost"),
            (Name::Label, "x_row", "x_row"),
            (Name::Label, "label name", "U__label_20_name"),
            (Name::Label, "a_b c", "U__a__b_20_c"),
            (Name::Label, "0a", "U___30_a"),
            (Name::Label, "größe", "U__gr_f6__df_e"),
            (Name::Label, "💶", "U___1f4b6_"),
            (Name::Label, "", "U__"),
            (Name::Label, "a:b", "U__a_3a_b"),
            (Name::Metric, "a:b", "a:b"),
            (Name::Metric, "mysystem.prod.west.cpu.load", "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load"),
            (Name::Label, "U__a", "U__U____a"),
            (Name::Label, "__name__", "U______name____"),
        ] {
            assert_eq!(kind.escape(name), escaped);
            assert_eq!(unescape_name(escaped), name);
        }
    }

    #[test]
    fn what_is_not_well_escaped_is_itself() {
        for name in ["plain", "U_a", "U__a_", "U__a_zz_", "U__a_110000_", "U__a_d800_", "U__a_0000041_", "U__a_+41_"] {
            assert_eq!(unescape_name(name), name);
        }
    }

    proptest! {
        #[test]
        fn every_name_survives(name in any::<String>()) {
            for kind in [Name::Metric, Name::Label] {
                let escaped = kind.escape(&name);
                prop_assert!(kind.is_legal(&escaped));
                let meant = unescape_name(&escaped);
                prop_assert_eq!(meant.as_ref(), name.as_str());
            }
        }

        #[test]
        fn every_value_survives(value in r#"(\PC|["\\\nn])*"#) {
            let mut escaped = Vec::new();
            escape_value(&value, |bytes| escaped.extend_from_slice(bytes));
            prop_assert!(!escaped.contains(&b'\n'));
            let mut meant = String::new();
            unescape_value(std::str::from_utf8(&escaped).expect("text"), &mut meant);
            prop_assert_eq!(&meant, &value);
        }
    }
}
