//! JSON text in, as it comes; where its records are out. Does no IO and gives the same records for any split of the
//! text: where it stopped is state. Holds the text from the open record on, of which nothing is looked at twice.
//!
//! It only counts brackets outside strings: whether a record is good JSON is found out when it is read, so that one
//! that is not costs its own row alone. What stands around the list of records is skimmed.

use std::ops::Range;

use memchr::{memchr_iter, memchr2};

/// How records are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One array of them.
    Array,
    /// One object after another.
    Lines,
    /// The first array of objects among an object's members, or in `data.result`, as Prometheus answers.
    Envelope,
}

/// Why there are no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    /// A record is longer than it may be.
    TooLong,
    /// Something stands where it cannot.
    Misplaced(char),
    /// The text ended too early.
    Unfinished,
}

/// Finds the records of a text.
pub(super) struct Framer {
    form: Form,
    max_record_bytes: usize,
    /// What has come and is not done with.
    text: Vec<u8>,
    /// How far it has been looked at.
    at: usize,
    /// Where the open record starts.
    record_at: usize,
    place: Place,
    in_string: bool,
    /// Brackets open in the record, or around the list.
    depth: usize,
    /// Brackets open around the list.
    list_depth: usize,
    /// The object at hand is the envelope's `data`.
    in_answer: bool,
    /// Line breaks in what is done with.
    lines: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before everything.
    Start,
    /// In the envelope, before its list.
    Envelope,
    /// Behind the bracket of an array in the envelope, before its first element.
    Candidate,
    /// Behind the list's bracket.
    First,
    /// Behind a comma.
    Next,
    /// In a record.
    Record,
    /// Behind a record.
    Between,
    /// Behind the list, in the envelope.
    Rest,
    /// Behind everything.
    End,
}

/// What is kept before the place looked at, to see whose member an array is.
const LOOK_BACK_BYTES: usize = 64;

impl Framer {
    pub(super) fn new(form: Form, max_record_bytes: usize) -> Self {
        Self {
            form,
            max_record_bytes,
            text: Vec::new(),
            at: 0,
            record_at: 0,
            place: Place::Start,
            in_string: false,
            depth: 0,
            list_depth: 0,
            in_answer: false,
            lines: 0,
        }
    }

    /// Where text is to be put, behind what is there. What is done with is dropped.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        let kept_from = match self.place {
            Place::Record => self.record_at,
            _ => self.at.saturating_sub(LOOK_BACK_BYTES),
        };
        self.lines += line_breaks(&self.text[..kept_from]);
        self.text.drain(..kept_from);
        self.at -= kept_from;
        self.record_at = self.record_at.saturating_sub(kept_from);
        &mut self.text
    }

    /// A record that was found.
    pub(super) fn record(&self, range: Range<usize>) -> &[u8] {
        &self.text[range]
    }

    /// Whether the records are those of a Prometheus answer.
    pub(super) fn is_answer(&self) -> bool {
        self.list_depth == ANSWER_DEPTH
    }

    /// The line, from 1, of the place looked at.
    pub(super) fn line(&self) -> u64 {
        let from = if self.place == Place::Record { self.record_at } else { self.at };
        1 + self.lines + line_breaks(&self.text[..from])
    }

    /// The next record; nothing when more text is wanted.
    pub(super) fn next(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        loop {
            match self.place {
                Place::Record => return Ok(self.in_record()?.then(|| self.record_at..self.record_end())),
                Place::Envelope | Place::Rest => {
                    if !self.skim() {
                        return Ok(None);
                    }
                }
                _ => {
                    self.at += self.text[self.at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
                    let Some(byte) = self.text.get(self.at).copied() else { return Ok(None) };
                    self.step(byte)?;
                }
            }
        }
    }

    /// Tells that the text has ended.
    pub(super) fn finish(&self) -> Result<(), FrameError> {
        match (self.form, self.place) {
            (_, Place::End) | (Form::Lines, Place::Start | Place::Between) => Ok(()),
            _ => Err(FrameError::Unfinished),
        }
    }

    /// Takes a byte outside records that is not blank, or opens what starts with it.
    fn step(&mut self, byte: u8) -> Result<(), FrameError> {
        let (place, taken) = match (self.form, self.place, byte) {
            (Form::Array, Place::Start, b'[') => (Place::First, 1),
            (Form::Lines, Place::Start | Place::Between, b'{') => (self.open(), 0),
            (Form::Envelope, Place::Start, b'{') => {
                self.depth = 1;
                (Place::Envelope, 1)
            }
            (Form::Envelope, Place::Candidate, b'{') => {
                self.list_depth = self.depth - 1;
                self.depth = 0;
                (self.open(), 0)
            }
            // No list of objects: it is skimmed.
            (Form::Envelope, Place::Candidate, _) => (Place::Envelope, 0),
            (Form::Array | Form::Envelope, Place::Between, b',') => (Place::Next, 1),
            (_, Place::First, b']') | (Form::Array | Form::Envelope, Place::Between, b']') => (self.close(), 1),
            (_, Place::First | Place::Next, first) if !matches!(first, b',' | b']' | b'}') => (self.open(), 0),
            // Of a character of several bytes the first one says nothing.
            _ if !byte.is_ascii() => return Err(FrameError::Misplaced(char::REPLACEMENT_CHARACTER)),
            _ => return Err(FrameError::Misplaced(char::from(byte))),
        };
        self.place = place;
        self.at += taken;
        Ok(())
    }

    fn open(&mut self) -> Place {
        self.record_at = self.at;
        Place::Record
    }

    fn close(&mut self) -> Place {
        self.depth = self.list_depth;
        if self.form == Form::Envelope { Place::Rest } else { Place::End }
    }

    /// Looks for the end of the open record; says whether it was found.
    fn in_record(&mut self) -> Result<bool, FrameError> {
        while let Some(byte) = self.bracket_or_comma() {
            match byte {
                b'{' | b'[' => self.depth += 1,
                // The list goes on, or ends, here: this byte is looked at again.
                b',' | b']' | b'}' if self.depth == 0 => {
                    self.at -= 1;
                    self.place = Place::Between;
                    break;
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 && self.form == Form::Lines {
                        self.place = Place::Between;
                        break;
                    }
                }
                _ => {}
            }
        }
        if self.at - self.record_at > self.max_record_bytes {
            return Err(FrameError::TooLong);
        }
        Ok(self.place == Place::Between)
    }

    /// Where the record that has just ended does so, blanks aside.
    fn record_end(&self) -> usize {
        self.record_at + self.text[self.record_at..self.at].trim_ascii_end().len()
    }

    /// Passes over the envelope until a list may begin or the envelope ends; says whether it has.
    fn skim(&mut self) -> bool {
        while let Some(byte) = self.bracket_or_comma() {
            match byte {
                b'{' => {
                    self.depth += 1;
                    if self.depth == ANSWER_DEPTH {
                        self.in_answer = self.is_member("data");
                    }
                }
                b'[' => {
                    self.depth += 1;
                    let may_hold_records =
                        self.depth == 2 || self.depth == ANSWER_DEPTH + 1 && self.in_answer && self.is_member("result");
                    if may_hold_records && self.place == Place::Envelope {
                        self.place = Place::Candidate;
                        return true;
                    }
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.place = Place::End;
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// Whether the bracket before the place looked at opens the value of this member.
    fn is_member(&self, name: &str) -> bool {
        let before = &self.text[self.at.saturating_sub(LOOK_BACK_BYTES)..self.at - 1];
        let quoted = before.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        let unquoted = quoted.and_then(|key| key.strip_suffix(b"\"")?.strip_suffix(name.as_bytes()));
        unquoted.is_some_and(|rest| rest.ends_with(b"\""))
    }

    /// The next bracket or comma outside strings, behind which it stops; nothing when the text is used up.
    fn bracket_or_comma(&mut self) -> Option<u8> {
        loop {
            if self.in_string {
                let length = memchr2(b'"', b'\\', &self.text[self.at..]);
                match length.map(|length| (length, self.text[self.at + length])) {
                    Some((length, b'"')) => {
                        self.at += length + 1;
                        self.in_string = false;
                    }
                    // What is escaped goes along, when it is there.
                    Some((length, _)) if self.at + length + 1 < self.text.len() => {
                        self.at += length + 2;
                        continue;
                    }
                    Some((length, _)) => {
                        self.at += length;
                        return None;
                    }
                    None => {
                        self.at = self.text.len();
                        return None;
                    }
                }
            }
            let is_one = |b: &u8| matches!(b, b'"' | b'{' | b'}' | b'[' | b']' | b',');
            let Some(length) = self.text[self.at..].iter().position(is_one) else {
                self.at = self.text.len();
                return None;
            };
            let found = self.text[self.at + length];
            self.at += length + 1;
            if found != b'"' {
                return Some(found);
            }
            self.in_string = true;
        }
    }
}

/// Brackets around a Prometheus answer's list.
const ANSWER_DEPTH: usize = 2;

fn line_breaks(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// The records of a text that comes in pieces of these sizes, and how it ended.
    fn frame(form: Form, text: &[u8], pieces: &[usize]) -> (Vec<String>, Result<(), FrameError>) {
        let mut framer = Framer::new(form, 100);
        let (mut records, mut rest) = (Vec::new(), text);
        for size in pieces.iter().cycle() {
            loop {
                match framer.next() {
                    Ok(Some(found)) => records.push(String::from_utf8_lossy(framer.record(found)).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (records, Err(error)),
                }
            }
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            framer.text().extend_from_slice(piece);
            rest = later;
        }
        (records, framer.finish())
    }

    #[test]
    fn records_are_found_wherever_a_form_has_them() {
        use Form::{Array, Envelope, Lines};
        use FrameError::{Misplaced, TooLong, Unfinished};
        let long = format!("[\"{}\"]", "x".repeat(99));
        for (form, text, records, end) in [
            (Array, " [ ] ", &[][..], Ok(())),
            (
                Array,
                r#"[{"a": "]},{"}, {"b": [1, {}]} ,3,null]"#,
                &[r#"{"a": "]},{"}"#, r#"{"b": [1, {}]}"#, "3", "null"],
                Ok(()),
            ),
            (Array, r#"["\\\"", "\u005d"]"#, &[r#""\\\"""#, r#""\u005d""#], Ok(())),
            (Array, "[{} {}]", &["{} {}"], Ok(())),
            (Array, "[{},]", &["{}"], Err(Misplaced(']'))),
            (Array, "[,{}]", &[], Err(Misplaced(','))),
            (Array, "[{}] x", &["{}"], Err(Misplaced('x'))),
            (Array, "[{}}", &["{}"], Err(Misplaced('}'))),
            (Array, "[{}", &[], Err(Unfinished)),
            (Array, "[{},", &["{}"], Err(Unfinished)),
            (Array, "[\"a]", &[], Err(Unfinished)),
            (Array, &long, &[], Err(TooLong)),
            (Lines, "{}\n{\"a\":{}}{}", &["{}", "{\"a\":{}}", "{}"], Ok(())),
            (Lines, "", &[], Ok(())),
            (Lines, "{}\n{\"a", &["{}"], Err(Unfinished)),
            (Lines, "{},{}", &["{}"], Err(Misplaced(','))),
            (Lines, "[1]", &[], Err(Misplaced('['))),
            (Lines, "{}é", &["{}"], Err(Misplaced('\u{fffd}'))),
            (
                Envelope,
                r#"{"a": [[1], "["], "b": {"items": [{"x": 1}]}, "c": [ {"d": 1}, {} ], "e": [{}]}"#,
                &[r#"{"d": 1}"#, "{}"],
                Ok(()),
            ),
            (Envelope, r#"{"data" : {"r": [{}], "result" : [{"m": 1}]}}"#, &[r#"{"m": 1}"#], Ok(())),
            (Envelope, r#"{"other": {"result": [{}]}, "x": [{"m": 1}]}"#, &[r#"{"m": 1}"#], Ok(())),
            (Envelope, r#"{"a": [], "b": 1}"#, &[], Ok(())),
            (Envelope, r#"{"a": [{}]"#, &["{}"], Err(Unfinished)),
            (Envelope, r#"{"a": [{}]} {"#, &["{}"], Err(Misplaced('{'))),
        ] {
            for pieces in [&[1][..], &[2], &[3, 1], &[100]] {
                let expected = (records.iter().map(|record| (*record).to_owned()).collect(), end);
                assert_eq!(frame(form, text.as_bytes(), pieces), expected, "{text} in {pieces:?}");
            }
        }
    }

    #[test]
    fn the_line_is_that_of_the_open_record() {
        let mut framer = Framer::new(Form::Array, 100);
        framer.text().extend_from_slice(b"[\n{},\n\n{\"a\":\n\n");
        while framer.next().expect("no bound").is_some() {}
        assert_eq!(framer.line(), 4);
        framer.text().extend_from_slice(b"1},\n");
        while framer.next().expect("no bound").is_some() {}
        assert_eq!(framer.line(), 7);
    }

    #[test]
    fn what_is_done_with_is_not_held() {
        let filler = format!("\"x\": [{}0],", "1,".repeat(100_000));
        let text =
            format!("{{{filler} \"items\": [{}{{}}], {filler} \"y\": 1}}", r#"{"a": "1234567890"},"#.repeat(10_000));
        let mut framer = Framer::new(Form::Envelope, 100);
        let mut n_records = 0;
        for piece in text.as_bytes().chunks(1_000) {
            framer.text().extend_from_slice(piece);
            assert!(framer.text.len() <= 1_000 + 100 + LOOK_BACK_BYTES, "{} bytes are held", framer.text.len());
            while framer.next().expect("no bound").is_some() {
                n_records += 1;
            }
        }
        assert_eq!((n_records, framer.finish()), (10_001, Ok(())));
    }

    proptest! {
        #[test]
        fn any_split_of_any_text_gives_the_same(
            text in "[\\[\\]{},:\"\\\\ a\n]{0,40}",
            form in prop_oneof![Just(Form::Array), Just(Form::Lines), Just(Form::Envelope)],
            pieces in proptest::collection::vec(1..7_usize, 1..5),
        ) {
            prop_assert_eq!(frame(form, text.as_bytes(), &pieces), frame(form, text.as_bytes(), &[1_000]));
        }

        #[test]
        fn the_elements_of_an_array_are_those_that_serde_json_reads(
            elements in proptest::collection::vec(
                prop_oneof![
                    Just(r#"{"a": [1, "}"], "b": {"c": "\\\""}}"#),
                    Just("{}"), Just("[[],{}]"), Just("null"), Just(r#""[,]""#), Just("-1.5e3"),
                ],
                0..8,
            ),
            blank in prop_oneof![Just(""), Just(" "), Just("\n\t")],
        ) {
            let list = elements.join(&format!("{blank},{blank}"));
            for (form, text) in [
                (Form::Array, format!("{blank}[{blank}{list}{blank}]{blank}")),
                (Form::Envelope, format!(r#"{{"n": 1, "l": [{{}},{list}], "m": [{{}}]}}"#)),
            ] {
                let oracle: Vec<Box<RawValue>> = match form {
                    Form::Envelope if elements.is_empty() => continue,
                    Form::Envelope => serde_json::from_str(&format!("[{{}},{list}]")).expect("JSON"),
                    _ => serde_json::from_str(&text).expect("JSON"),
                };
                let oracle = oracle.iter().map(|record| record.get().to_owned()).collect();
                prop_assert_eq!(frame(form, text.as_bytes(), &[5]), (oracle, Ok(())));
            }
        }
    }
}
