//! The texts of tags fields in, what they say out. The charges of a resource all bear the same tags, so those read
//! lately are kept and not read again. Holds [`MAX_KNOWN`] fields of [`MAX_KNOWN_BYTES`] together, or one.

use std::collections::HashMap;

use costream_common::field::tags::Tags;

use super::Reject;
use crate::profile::Leniency;

/// Fields kept.
const MAX_KNOWN: usize = 512;
/// Their bytes.
const MAX_KNOWN_BYTES: usize = 256 << 10;

/// Tags read lately, and which of them were read last.
#[derive(Default)]
pub(super) struct KnownTags {
    tags: Vec<Tags>,
    places: HashMap<Box<[u8]>, usize>,
    bytes: usize,
    last: usize,
}

impl KnownTags {
    /// Reads a field that is not empty.
    ///
    /// # Errors
    /// It is not UTF-8, or in no form that the profile takes.
    pub(super) fn read(&mut self, field: &[u8], leniency: Leniency) -> Result<&Tags, Reject> {
        if let Some(place) = self.places.get(field) {
            self.last = *place;
            return Ok(&self.tags[self.last]);
        }
        let text = std::str::from_utf8(field).map_err(|_| Reject::NotUtf8)?;
        let mut tags = Tags::default();
        tags.parse(text, leniency).map_err(|_| Reject::BadTags)?;
        if self.tags.len() == MAX_KNOWN || self.bytes + field.len() > MAX_KNOWN_BYTES {
            *self = Self::default();
        }
        self.bytes += field.len();
        self.last = self.tags.len();
        self.places.insert(field.into(), self.last);
        self.tags.push(tags);
        Ok(&self.tags[self.last])
    }

    /// What was read last, in its order; nothing before.
    pub(super) fn last(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.tags.get(self.last).into_iter().flat_map(Tags::iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProfileName;

    #[test]
    fn tags_say_the_same_whether_they_were_known_or_not() {
        let mut known = KnownTags::default();
        assert_eq!(known.last().count(), 0, "nothing was read yet");
        // Twice as many as are kept, each of them twice in a row and once more later.
        for n in (0..2 * MAX_KNOWN).chain(0..10) {
            for _ in 0..2 {
                let field = format!(r#"{{"n": "{n}", "empty": null}}"#);
                known.read(field.as_bytes(), ProfileName::Strict.leniency()).expect("tags");
                let number = n.to_string();
                assert!(known.last().eq([("n", Some(number.as_str())), ("empty", None)]), "{field}");
            }
            assert!(known.tags.len() <= MAX_KNOWN && known.bytes <= MAX_KNOWN_BYTES);
        }
        let bad = known.read(b"no tags", ProfileName::Strict.leniency());
        assert_eq!(bad.err(), Some(Reject::BadTags));
    }
}
