//! What bytes are, by their first ones: names and content types lie. Compression first, then
//! what was compressed. Anything that is known and is not CSV is named in the refusal.

/// Bytes that tell one compression or format from another.
pub(super) const MAGIC_BYTES: usize = 512;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What uncompressed bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Text that may be CSV, behind a byte order mark of this many bytes.
    Text { byte_order_mark: usize },
    /// Something else, by its name.
    Other(&'static str),
}

/// How a body that starts with `start` is compressed.
pub(super) fn compression(start: &[u8]) -> Compression {
    // A zstd stream may open with a skippable frame, as pzstd writes it.
    let skippable = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if start.starts_with(b"\x1f\x8b") {
        Compression::Gzip
    } else if start.starts_with(b"\x28\xb5\x2f\xfd") || skippable {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// What an uncompressed body that starts with `start` is.
pub(super) fn content(start: &[u8]) -> Content {
    const KNOWN: [(&[u8], &str); 13] = [
        (b"PAR1", "Parquet"),
        (b"PK\x03\x04", "a zip archive"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"\x1f\x8b", "compressed twice (gzip)"),
        (b"\x28\xb5\x2f\xfd", "compressed twice (zstd)"),
        (b"BZh", "compressed with bzip2"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"ORC", "ORC"),
        (b"Obj\x01", "Avro"),
        (b"ARROW1", "an Arrow file"),
        (b"%PDF-", "PDF"),
        (b"\xff\xfe", "UTF-16 text"),
        (b"\xfe\xff", "UTF-16 text"),
    ];
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
        // Text may start with these letters; what follows tells.
        let is_text = matches!(*name, "ORC" | "compressed with bzip2") && !start.iter().any(|b| *b == 0 || *b >= 0x80);
        if !is_text {
            return Content::Other(name);
        }
    }
    let byte_order_mark = if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = &start[byte_order_mark..];
    if text.contains(&0) {
        return Content::Other("binary");
    }
    match text.trim_ascii_start() {
        [b'{', ..] | [b'[', ..] => Content::Other("JSON"),
        [b'<', rest @ ..] => Content::Other(markup(rest)),
        _ => Content::Text { byte_order_mark },
    }
}

fn markup(after_bracket: &[u8]) -> &'static str {
    let is = |start: &str| after_bracket.get(..start.len()).is_some_and(|b| b.eq_ignore_ascii_case(start.as_bytes()));
    if is("!doctype html") || is("html") { "an HTML page" } else { "XML" }
}

/// The field separator of a header line that a comma does not divide: a semicolon or a tab,
/// when the line divided by it has the column and divided by commas has not.
pub(super) fn delimiter(header_line: &[u8], column: &str) -> u8 {
    let has_column = |delimiter: u8| {
        header_line.split(|b| *b == delimiter).any(|field| {
            let field = field.trim_ascii();
            let unquoted = field.strip_prefix(b"\"").and_then(|f| f.strip_suffix(b"\"")).unwrap_or(field);
            unquoted.trim_ascii().eq_ignore_ascii_case(column.as_bytes())
        })
    };
    if has_column(b',') {
        return b',';
    }
    [b';', b'\t'].into_iter().find(|delimiter| has_column(*delimiter)).unwrap_or(b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_csv_is_named() {
        for (start, name) in [
            (&b"PAR1\x15\x00"[..], "Parquet"),
            (b"PK\x03\x04rest", "a zip archive"),
            (b" \n{\"a\": 1}", "JSON"),
            (b"\xef\xbb\xbf[1]", "JSON"),
            (b"<!DOCTYPE HTML><html>", "an HTML page"),
            (b"<html><body>", "an HTML page"),
            (b"<?xml version=\"1.0\"?>", "XML"),
            (b"\xff\xfeB\x00i\x00", "UTF-16 text"),
            (b"Billed\x00Cost", "binary"),
            (b"BZh91AY&SY\xaa", "compressed with bzip2"),
            (b"\x1f\x8b\x08", "compressed twice (gzip)"),
        ] {
            assert_eq!(content(start), Content::Other(name), "{start:?}");
        }
    }

    #[test]
    fn text_is_let_through_with_its_byte_order_mark() {
        assert_eq!(content(b"\xef\xbb\xbfBilledCost"), Content::Text { byte_order_mark: 3 });
        for text in [&b"BilledCost,Tags"[..], b"ORCHARD,BilledCost", b"BZhours,BilledCost", b"\"BilledCost\"", b""] {
            assert_eq!(content(text), Content::Text { byte_order_mark: 0 }, "{text:?}");
        }
    }

    #[test]
    fn compression_is_told_by_its_magic() {
        assert_eq!(compression(b"\x1f\x8b\x08\x00"), Compression::Gzip);
        assert_eq!(compression(b"\x28\xb5\x2f\xfd\x04"), Compression::Zstd);
        assert_eq!(compression(b"\x50\x2a\x4d\x18\x04"), Compression::Zstd);
        assert_eq!(compression(b"BilledCost"), Compression::None);
        assert_eq!(compression(b""), Compression::None);
    }

    #[test]
    fn another_delimiter_is_taken_only_when_the_header_says_so() {
        for (line, delimiter_found) in [
            (&b"A,BilledCost"[..], b','),
            (b"A;BilledCost;\"B,C\"", b';'),
            (b"A\t\"BilledCost\"\tB", b'\t'),
            (b"A;B\tC", b','),
            (b"A;B,BilledCost", b','),
        ] {
            assert_eq!(delimiter(line, "BilledCost"), delimiter_found, "{line:?}");
        }
    }
}
