//! A scrape's bytes through the exposition decoder, in both formats. Claims:
//!
//! - any bytes are entries and an end or an error, and nothing panics;
//! - any split of the bytes gives the same entries and the same end;
//! - a sample that was read is read again from what is written of it, and is then written the same;
//! - an OpenMetrics text rewritten in either format is one of that format, with as many samples;
//! - memory is bounded by the longest line.
#![no_main]

use std::slice::Chunks;

use bytes::Bytes;
use costream_common::exposition::decode::{DecodeError, Decoder, Entry, Limits, Sample};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::escape::unescape_name;
use costream_common::exposition::{Format, transcode};
use costream_fuzz::{piece_size, within};
use libfuzzer_sys::fuzz_target;

/// Small, so that a small input meets them.
const LIMITS: Limits = Limits { max_line_bytes: 512, max_labels: 8, max_label_value_bytes: 256 };
/// Two lines, what is unescaped of them, their labels' places, and both entries as they are shown.
const HEAP_BYTES: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    for format in [Format::Text004, Format::OpenMetrics100] {
        if within(HEAP_BYTES, || reads_the_same(format, bytes)) {
            let n_samples = samples_survive(format, bytes);
            if let (Format::OpenMetrics100, Ok(text)) = (format, str::from_utf8(bytes)) {
                rewritten(text, n_samples);
            }
        }
    }
});

/// A body on its way through a decoder.
struct Reading<'a> {
    decoder: Decoder,
    pieces: Chunks<'a, u8>,
    piece: &'a [u8],
}

impl<'a> Reading<'a> {
    fn new(format: Format, body: &'a [u8], piece_size: usize) -> Self {
        Self { decoder: Decoder::new(format, LIMITS), pieces: body.chunks(piece_size), piece: &[] }
    }

    /// The next entry as it is shown.
    fn next(&mut self) -> Result<Option<String>, DecodeError> {
        loop {
            if let Some(entry) = self.decoder.decode(&mut self.piece)? {
                return Ok(Some(format!("{entry:?}")));
            }
            match self.pieces.next() {
                Some(piece) => self.piece = piece,
                None => return Ok(self.decoder.finish()?.map(|entry| format!("{entry:?}"))),
            }
        }
    }
}

/// Reads a body whole and in pieces, side by side; whether it ended well.
fn reads_the_same(format: Format, body: &[u8]) -> bool {
    let mut whole = Reading::new(format, body, body.len().max(1));
    let mut split = Reading::new(format, body, piece_size(body));
    loop {
        let said = whole.next();
        assert_eq!(said, split.next());
        match said {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Writes each sample of a good body, and reads it again; how many there were.
fn samples_survive(format: Format, body: &[u8]) -> usize {
    for_each_sample(format, LIMITS, body, |sample| {
        let written = written(format, sample);
        let n_read = for_each_sample(format, Limits::default(), &written, |read| {
            assert_eq!((read.value, read.timestamp_ms), (sample.value, sample.timestamp_ms));
            assert_eq!(unescape_name(read.name), unescape_name(sample.name));
            assert!(read.labels.iter().map(meant).eq(sample.labels.iter().map(meant)), "{read:?} of {sample:?}");
            assert_eq!(self::written(format, read), written);
        });
        assert_eq!(n_read, 1);
    })
}

fn meant<'a>((name, value): (&'a str, &'a str)) -> (String, &'a str) {
    (unescape_name(name).into_owned(), value)
}

fn written(format: Format, sample: Sample<'_>) -> Bytes {
    let mut writer = TextWriter::new(format);
    let labels = sample.labels.iter().map(meant);
    writer.sample(&unescape_name(sample.name), labels, sample.value, sample.timestamp_ms);
    writer.finish();
    writer.take()
}

fn rewritten(text: &str, n_samples: usize) {
    for format in [Format::Text004, Format::OpenMetrics100] {
        let mut writer = TextWriter::new(format);
        transcode(text, &mut writer).expect("a good text");
        writer.finish();
        assert_eq!(for_each_sample(format, Limits::default(), &writer.take(), |_| {}), n_samples);
    }
}

/// The samples of a body that ends well; how many there were.
fn for_each_sample(format: Format, limits: Limits, body: &[u8], mut claim: impl FnMut(Sample<'_>)) -> usize {
    let mut decoder = Decoder::new(format, limits);
    let mut rest = body;
    let mut n_samples = 0;
    let mut take = |entry: Entry<'_>| {
        if let Entry::Sample(sample) = entry {
            n_samples += 1;
            claim(sample);
        }
    };
    while let Some(entry) = decoder.decode(&mut rest).expect("a good body") {
        take(entry);
    }
    while let Some(entry) = decoder.finish().expect("a good body") {
        take(entry);
    }
    n_samples
}
