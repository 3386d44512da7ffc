//! The fields of a text column in, for each batch an array out that says every text once. Texts are kept from
//! batch to batch while they are few, so that those of most columns are found out, checked and written only
//! once a report.
//!
//! Holds the texts of the open batch, and at most [`MAX_KEPT_VALUES`] of [`MAX_KEPT_BYTES`] of those before.

use std::sync::Arc;

use arrow::array::builder::BinaryDictionaryBuilder;
use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, DictionaryArray, StringArray};
use arrow::datatypes::Int16Type;
use arrow::error::ArrowError;

use costream_common::record::MAX_BATCH_ROWS;

/// With more texts than this the next batch starts anew: each that is new makes all of them be sent again.
const MAX_KEPT_VALUES: usize = 512;
/// The same, in bytes.
const MAX_KEPT_BYTES: usize = 128 << 10;

// A key counts every text that may be there.
const _: () = assert!(MAX_KEPT_VALUES + MAX_BATCH_ROWS <= i16::MAX as usize);

/// Builds the arrays of one column.
#[derive(Default)]
pub(super) struct TextBuilder {
    array: BinaryDictionaryBuilder<Int16Type>,
    /// The texts of the last batch, when they are kept.
    kept: Option<Arc<StringArray>>,
}

impl TextBuilder {
    pub(super) fn append_value(&mut self, field: &[u8]) {
        self.array.append_value(field);
    }

    pub(super) fn append_null(&mut self) {
        self.array.append_null();
    }

    /// The fields since the last time.
    ///
    /// # Errors
    /// One of them is not UTF-8.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let finished = self.array.finish_preserve_values();
        let values: &BinaryArray = finished.values().as_binary();
        let texts = match self.kept.take().filter(|kept| kept.len() == values.len()) {
            // They only ever grow.
            Some(kept) => kept,
            None => Arc::new(StringArray::try_from_binary(values.clone())?),
        };
        if texts.len() <= MAX_KEPT_VALUES && texts.value_data().len() <= MAX_KEPT_BYTES {
            self.kept = Some(Arc::clone(&texts));
        } else {
            self.array = BinaryDictionaryBuilder::new();
        }
        Ok(Arc::new(DictionaryArray::try_new(finished.keys().clone(), texts)?))
    }
}

#[cfg(test)]
mod tests {
    use costream_common::record::Texts;

    use super::*;

    #[test]
    fn every_row_has_its_text_whether_texts_are_kept_or_not() {
        let mut builder = TextBuilder::default();
        // The last text of all is one too many.
        for (first, texts) in [(0, 3), (0, 3), (2, 300), (0, 513), (513, 2), (0, 1_000)] {
            let fields: Vec<Option<String>> =
                (first..first + texts).map(|n| (n % 7 != 5).then(|| format!("text {n}"))).collect();
            for field in &fields {
                match field {
                    Some(field) => builder.append_value(field.as_bytes()),
                    None => builder.append_null(),
                }
            }
            let array = builder.finish().expect("texts");
            let texts = Texts::of(&array).expect("a column of text");
            assert_eq!(array.len(), fields.len());
            let read: Vec<Option<&str>> = (0..fields.len()).map(|row| texts.get(row)).collect();
            assert_eq!(read, fields.iter().map(Option::as_deref).collect::<Vec<_>>());
        }
    }

    #[test]
    fn texts_that_were_all_there_before_are_the_same_array() {
        let mut builder = TextBuilder::default();
        let mut finish = |fields: &[&str]| {
            fields.iter().for_each(|field| builder.append_value(field.as_bytes()));
            let array = builder.finish().expect("texts");
            Arc::clone(array.as_any_dictionary().values())
        };
        let (first, second, third) = (finish(&["a", "b"]), finish(&["b", "b"]), finish(&["c"]));
        assert!(Arc::ptr_eq(&first, &second), "nothing is to be sent again");
        assert_eq!((first.len(), third.len()), (2, 3));
    }

    #[test]
    fn a_text_that_is_not_utf8_is_an_error() {
        let mut builder = TextBuilder::default();
        builder.append_value(b"\xff");
        assert!(builder.finish().is_err());
    }
}
