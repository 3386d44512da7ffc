//! What bytes are, by their first ones: names and content types lie. Compression first, then
//! what was compressed. Anything else that is known is named in the refusal.

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
    /// Text that may be CSV.
    Csv,
    /// Text that starts as JSON does.
    Json,
    /// What starts as Parquet does.
    Parquet,
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

/// The bytes of the byte order mark before a text.
pub(super) fn byte_order_mark(start: &[u8]) -> usize {
    if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
}

/// What an uncompressed body that starts with `start` is.
pub(super) fn content(start: &[u8]) -> Content {
    const KNOWN: [(&[u8], &str); 13] = [
        (b"PARE", "encrypted Parquet"),
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
    if start.starts_with(b"PAR1") {
        return Content::Parquet;
    }
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
        // Text may start with these letters; what follows tells.
        let may_be_text = matches!(*name, "ORC" | "compressed with bzip2" | "encrypted Parquet");
        let is_text = may_be_text && !start.iter().any(|b| *b == 0 || *b >= 0x80);
        if !is_text {
            return Content::Other(name);
        }
    }
    let text = &start[byte_order_mark(start)..];
    if text.contains(&0) {
        return Content::Other("binary");
    }
    match text.trim_ascii_start() {
        [b'{' | b'[', ..] => Content::Json,
        [b'<', rest @ ..] => Content::Other(markup(rest)),
        _ => Content::Csv,
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
    fn what_is_no_report_is_named() {
        for (start, name) in [
            (&b"PARE\x15\x00"[..], "encrypted Parquet"),
            (b"PK\x03\x04rest", "a zip archive"),
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
    fn a_report_is_told_by_its_first_bytes() {
        for (start, told, mark) in [
            (&b"\xef\xbb\xbfBilledCost"[..], Content::Csv, 3),
            (b"BilledCost,Tags", Content::Csv, 0),
            (b"ORCHARD,BilledCost", Content::Csv, 0),
            (b"BZhours,BilledCost", Content::Csv, 0),
            (b"PARENT,BilledCost", Content::Csv, 0),
            (b"\"BilledCost\"", Content::Csv, 0),
            (b"", Content::Csv, 0),
            (b" \n{\"a\": 1}", Content::Json, 0),
            (b"\xef\xbb\xbf[1]", Content::Json, 3),
            (b"PAR1\x15\x00", Content::Parquet, 0),
        ] {
            assert_eq!((content(start), byte_order_mark(start)), (told, mark), "{start:?}");
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
