//! The bytes of a JSON array in, the text of each of its elements out. Push-driven, and any
//! split of the bytes gives the same elements: an element that lies within a chunk is handed out
//! as it lies there, one that is split is put together first. Holds one element, of at most
//! [`MAX_ELEMENT_BYTES`]; a longer one is passed over, and its beginning handed out in its place.
//!
//! Looks at brackets, quotes and commas alone: whether an element is JSON, its reader says.
//! Whatever stands between elements, before or after the array, but blanks, is an error.

use memchr::memchr2;

/// The longest element that is handed out whole.
pub const MAX_ELEMENT_BYTES: usize = 1 << 20;
/// As much of a longer one as is handed out.
const SHOWN_BYTES: usize = 2 << 10;

/// Why a body is no array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementsError {
    /// It begins with something else, that may be JSON.
    #[error("the body is no array")]
    NoArray,
    /// It is none from some byte on.
    #[error("byte {byte}: {expected} is expected")]
    Syntax {
        /// The byte, from 0.
        byte: u64,
        /// What should stand there.
        expected: &'static str,
    },
    /// It ended before the array did.
    #[error("the array has no end: the body was cut after byte {0}")]
    Cut(u64),
}

/// One element of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// Its text.
    Whole(&'a [u8]),
    /// The beginning of one that is too long.
    TooLong(&'a [u8]),
}

/// Divides an array into its elements.
#[derive(Debug, Default)]
pub(super) struct Elements {
    state: State,
    /// Bytes read before the chunk in hand.
    read: u64,
    /// What has come of an element that a chunk's end has split.
    begun: Vec<u8>,
    /// Bytes of the element in hand.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the array.
    #[default]
    Before,
    /// Behind its bracket.
    First,
    /// Behind a comma.
    Next,
    /// Within an element.
    Inside(Scan),
    /// Behind an element.
    Behind,
    /// Behind the array.
    After,
}

/// Where in an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scan {
    /// Brackets open.
    depth: u32,
    in_text: bool,
    /// Behind a backslash.
    escaped: bool,
}

/// The elements that ended in a chunk, whole, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Frame {
    text: Vec<u8>,
    /// Where each ends, and whether it is only the beginning of one that is too long.
    ends: Vec<(usize, bool)>,
}

impl Frame {
    pub(super) fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        let mut begin = 0;
        self.ends.iter().map(move |(end, is_too_long)| {
            let text = &self.text[std::mem::replace(&mut begin, *end)..*end];
            if *is_too_long { Element::TooLong(text) } else { Element::Whole(text) }
        })
    }
}

impl Elements {
    /// The elements that end in a chunk; those before the error, too, when it has one.
    pub(super) fn frame(&mut self, mut chunk: &[u8]) -> (Frame, Result<(), ElementsError>) {
        let mut frame = Frame::default();
        loop {
            match self.next(&mut chunk) {
                Ok(Some(element)) => {
                    let (text, is_too_long) = match element {
                        Element::Whole(text) => (text, false),
                        Element::TooLong(text) => (text, true),
                    };
                    frame.text.extend_from_slice(text);
                    frame.ends.push((frame.text.len(), is_too_long));
                }
                Ok(None) if chunk.is_empty() => return (frame, Ok(())),
                Ok(None) => {}
                Err(error) => return (frame, Err(error)),
            }
        }
    }

    /// Reads on to the end of the next element, and takes from `chunk` what was read. Without one
    /// the chunk is empty.
    ///
    /// # Errors
    /// It is no array.
    fn next<'e, 'c: 'e>(&'e mut self, chunk: &mut &'c [u8]) -> Result<Option<Element<'e>>, ElementsError> {
        if !matches!(self.state, State::Inside(_)) {
            self.begun.clear();
            self.bytes = 0;
        }
        let given = *chunk;
        let mut at = 0;
        while at < given.len() {
            if let State::Inside(scan) = &mut self.state {
                let (end, is_whole) = scan.end_of_element(&given[at..]);
                let part = &given[at..at + end];
                self.bytes += part.len();
                (*chunk, self.read) = (&given[at + end..], self.read + (at + end) as u64);
                if is_whole {
                    self.state = State::Behind;
                    return Ok(Some(self.element(part)));
                }
                self.keep(part);
                return Ok(None);
            }
            let byte = given[at];
            self.state = match (self.state, byte) {
                (state, b' ' | b'\t' | b'\n' | b'\r') => state,
                (State::Before, b'[') => State::First,
                (State::Before, b'{' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                    return Err(ElementsError::NoArray);
                }
                (State::First | State::Behind, b']') => State::After,
                (State::Behind, b',') => State::Next,
                (State::First | State::Next, byte) if !matches!(byte, b',' | b']' | b'}' | b':') => {
                    self.state = State::Inside(Scan::default());
                    continue;
                }
                (state, _) => {
                    let byte = self.read + at as u64;
                    return Err(ElementsError::Syntax { byte, expected: state.expects() });
                }
            };
            at += 1;
        }
        (*chunk, self.read) = (&[], self.read + at as u64);
        Ok(None)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// The array has not.
    pub(super) fn end(&self) -> Result<(), ElementsError> {
        match self.state {
            State::After => Ok(()),
            State::Before => Err(ElementsError::NoArray),
            _ => Err(ElementsError::Cut(self.read)),
        }
    }

    /// The element whose last part this is.
    fn element<'e>(&'e mut self, part: &'e [u8]) -> Element<'e> {
        let is_split = self.bytes > part.len();
        if is_split {
            self.keep(part);
        }
        let text = if is_split { &self.begun } else { part };
        if self.bytes > MAX_ELEMENT_BYTES {
            Element::TooLong(&text[..text.len().min(SHOWN_BYTES)])
        } else {
            Element::Whole(text)
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = MAX_ELEMENT_BYTES.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&part[..part.len().min(room)]);
    }
}

impl State {
    fn expects(self) -> &'static str {
        match self {
            Self::Before => "[",
            Self::First => "an element or ]",
            Self::Next => "an element",
            Self::Inside(_) => "the rest of an element",
            Self::Behind => ", or ]",
            Self::After => "nothing more",
        }
    }
}

impl Scan {
    /// How many of these bytes belong to the element, and whether that is all of it.
    fn end_of_element(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.escaped) {
                at += 1;
                continue;
            }
            if self.in_text {
                match memchr2(b'"', b'\\', &bytes[at..]) {
                    None => return (bytes.len(), false),
                    Some(found) => {
                        at += found + 1;
                        self.escaped = bytes[at - 1] == b'\\';
                        self.in_text = self.escaped;
                    }
                }
            } else {
                match bytes[at] {
                    b'"' => self.in_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r' if self.depth == 0 => return (at, true),
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
                at += 1;
            }
            let is_closed = self.depth == 0 && !self.in_text && matches!(bytes[at - 1], b'}' | b']' | b'"');
            if is_closed {
                return (at, true);
            }
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The elements of a body that comes in these chunks.
    fn elements<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<String>, ElementsError> {
        let (mut decoder, mut found) = (Elements::default(), Vec::new());
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let Some(element) = decoder.next(&mut chunk)? else { continue };
                found.push(match element {
                    Element::Whole(text) => String::from_utf8_lossy(text).into_owned(),
                    Element::TooLong(text) => format!("too long: {}", text.len()),
                });
            }
        }
        decoder.end().map(|()| found)
    }

    const ODD: &str =
        " \r\n[ {\"a\": [1, {\"b\": \"}]\\\"\\\\\"}] } ,\t1.5e3,\"x,\\\"]\", null ,[],\n[[\"[\"]],{},true]  ";
    const ODD_ELEMENTS: [&str; 8] =
        ["{\"a\": [1, {\"b\": \"}]\\\"\\\\\"}] }", "1.5e3", "\"x,\\\"]\"", "null", "[]", "[[\"[\"]]", "{}", "true"];

    #[test]
    fn any_split_of_the_body_gives_the_same_elements() {
        for size in 1..=ODD.len() {
            assert_eq!(
                elements(ODD.as_bytes().chunks(size)).as_deref(),
                Ok(&ODD_ELEMENTS.map(str::to_owned)[..]),
                "{size}"
            );
        }
        assert_eq!(elements([&b"[]"[..]]), Ok(vec![]));
        assert_eq!(elements([&b" [ "[..], b"\n] "]), Ok(vec![]));
    }

    #[test]
    fn what_is_no_array_is_told_with_its_place() {
        use ElementsError::{Cut, NoArray, Syntax};
        for (body, expected) in [
            ("", NoArray),
            ("  ", NoArray),
            ("{}", NoArray),
            ("1", NoArray),
            (" oops", Syntax { byte: 1, expected: "[" }),
            ("[", Cut(1)),
            ("[1", Cut(2)),
            ("[{\"a\": 1}", Cut(9)),
            ("[\"a]", Cut(4)),
            ("[1,", Cut(3)),
            ("[1,]", Syntax { byte: 3, expected: "an element" }),
            ("[,1]", Syntax { byte: 1, expected: "an element or ]" }),
            ("[1 2]", Syntax { byte: 3, expected: ", or ]" }),
            ("[{}{}]", Syntax { byte: 3, expected: ", or ]" }),
            ("[1}]", Syntax { byte: 2, expected: ", or ]" }),
            ("[]]", Syntax { byte: 2, expected: "nothing more" }),
            ("[] x", Syntax { byte: 3, expected: "nothing more" }),
        ] {
            for size in 1..=body.len().max(1) {
                assert_eq!(elements(body.as_bytes().chunks(size)), Err(expected), "{body} by {size}");
            }
        }
    }

    #[test]
    fn an_element_beyond_the_bound_is_passed_over_and_the_next_one_is_not() {
        let long = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let body = format!("[{}, {},3]", long(MAX_ELEMENT_BYTES), long(MAX_ELEMENT_BYTES + 1));
        for size in [1 << 10, 1 << 19, body.len()] {
            let found = elements(body.as_bytes().chunks(size)).expect("an array");
            assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [MAX_ELEMENT_BYTES, 14, 1], "{size}");
            assert_eq!(found[1], format!("too long: {SHOWN_BYTES}"));
        }
    }

    proptest! {
        /// Whatever serde_json writes and however it is split.
        #[test]
        fn an_arrays_elements_are_serde_jsons(
            texts in proptest::collection::vec(any::<(String, i64, Vec<String>)>(), 0..20),
            size in 1_usize..40,
            pretty: bool,
        ) {
            let write = |value: &serde_json::Value| {
                if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.expect("JSON")
            };
            let values: Vec<_> =
                texts.into_iter().map(|(a, b, c)| serde_json::json!({"labels": {(a.as_str()): c}, "b": b, "a": a})).collect();
            let body = write(&serde_json::Value::Array(values.clone()));
            let found = elements(body.as_bytes().chunks(size)).expect("an array");
            let read: Vec<serde_json::Value> = found.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn no_bytes_make_it_panic(body in "[\\[\\]{},:\"\\\\ a1\n]{0,30}", size in 1_usize..8) {
            let _ = elements(body.as_bytes().chunks(size));
        }
    }
}
