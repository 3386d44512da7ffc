//! A report's bytes: one part after the other, opened when the one before has been read. The bytes are counted and
//! digested on the way by, and [`Parts::seal`] says afterwards what was seen, or that it changed meanwhile.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use costream_common::http::client::ClientError;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use super::object::Rest;
use super::{Mark, Seen, SourceError};

/// Bytes that somebody reads.
pub(super) type Bytes = Box<dyn AsyncRead + Send + Unpin>;

/// The parts of a report, in their order.
#[derive(Debug)]
pub(crate) struct Parts {
    mark: Mark,
    /// What is open already.
    open: VecDeque<Part>,
    /// What is opened later.
    rest: Option<Rest>,
    /// How the part opened last is called.
    shown: String,
    meter: Arc<Mutex<Meter>>,
}

/// One file of a report.
pub(crate) struct Part {
    pub(crate) bytes: Bytes,
    /// How errors and rejects call it: a path, or a URL without secrets.
    pub(crate) shown: String,
    /// Rows that its manifest promises.
    pub(crate) promise: Option<Promise>,
}

/// What a manifest says of a file.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) manifest: String,
    pub(crate) rows: u64,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("shown", &self.shown).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Meter {
    digest: Sha256,
    /// Bytes of all parts, and of the open one.
    bytes: u64,
    part_bytes: u64,
    /// Whether the open part was read to its end, and all those before it.
    ended: bool,
    all_ended: bool,
    failure: Option<io::Error>,
}

impl Parts {
    /// One part, which is open.
    pub(super) fn one(bytes: impl AsyncRead + Send + Unpin + 'static, shown: &str, mark: Mark) -> Self {
        let part = Part { bytes: Box::new(bytes), shown: shown.to_owned(), promise: None };
        Self { mark, open: VecDeque::from([part]), rest: None, shown: String::new(), meter: Arc::default() }
    }

    /// Parts that are open, for tests elsewhere.
    #[cfg(test)]
    pub(crate) fn of_all(parts: Vec<(Bytes, String)>) -> Self {
        let part = |(bytes, shown)| Part { bytes, shown, promise: None };
        let mark = Mark::Http(costream_common::http::client::Validators::default());
        Self {
            open: parts.into_iter().map(part).collect(),
            mark,
            rest: None,
            shown: String::new(),
            meter: Arc::default(),
        }
    }

    /// Parts that are opened one after the other.
    pub(super) fn of(rest: Rest, mark: Mark) -> Self {
        Self { mark, open: VecDeque::new(), rest: Some(rest), shown: String::new(), meter: Arc::default() }
    }

    /// Opens the next part; nothing behind the last. What is left unread of the one before is not looked at.
    ///
    /// # Errors
    /// The part is not what it was when the report was looked at, or cannot be had.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, SourceError> {
        let next = match (self.open.pop_front(), &mut self.rest) {
            (Some(open), _) => Some(open),
            (None, Some(rest)) => rest.open_next().await?,
            (None, None) => None,
        };
        let Some(Part { bytes, shown, promise }) = next else { return Ok(None) };
        locked(&self.meter).begin(self.shown.is_empty());
        self.shown.clone_from(&shown);
        let bytes = Box::new(Metered { inner: bytes, meter: Arc::clone(&self.meter) });
        Ok(Some(Part { bytes, shown, promise }))
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        locked(&self.meter).bytes
    }

    /// The source's own failure, when reading ended with one: the reader was handed a copy.
    pub(crate) fn failure(&self) -> Option<SourceError> {
        let failure = locked(&self.meter).failure.take()?;
        let shown = self.shown.clone();
        Some(match failure.downcast::<ClientError>() {
            Ok(error) => error.into(),
            Err(failure) => match failure.downcast::<object_store::Error>() {
                Ok(source) => SourceError::Store { shown, source },
                Err(source) => SourceError::Read { path: shown, source },
            },
        })
    }

    /// What was seen, once all of it has been read.
    ///
    /// # Errors
    /// It is not what it was when it was opened.
    pub(crate) async fn seal(self) -> Result<Seen, SourceError> {
        match (&self.mark, &self.rest) {
            (Mark::File(stamp), _) => stamp.still(&self.shown, self.bytes()).await?,
            (Mark::Objects(marks), Some(rest)) => rest.still(marks).await?,
            _ => {}
        }
        let meter = locked(&self.meter);
        let whole = meter.ended && meter.all_ended;
        let digest = whole.then(|| format!("{:x}", meter.digest.clone().finalize()));
        Ok(Seen { mark: self.mark.clone(), digest, bytes: meter.bytes })
    }
}

impl Meter {
    fn begin(&mut self, is_first: bool) {
        if is_first {
            self.all_ended = true;
            return;
        }
        // The same bytes in other parts have other headers, and are other rows.
        self.digest.update(self.part_bytes.to_le_bytes());
        self.all_ended &= self.ended;
        self.ended = false;
        self.part_bytes = 0;
    }
}

/// No code panics while it holds the meter; were it to, the counts would still be whole.
fn locked(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes bytes on, counting and digesting them.
struct Metered {
    inner: Bytes,
    meter: Arc<Mutex<Meter>>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let asked = buffer.remaining() > 0;
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        let mut meter = locked(&self.meter);
        let chunk = &buffer.filled()[before..];
        meter.digest.update(chunk);
        let bytes = u64::try_from(chunk.len()).unwrap_or_default();
        meter.bytes += bytes;
        meter.part_bytes += bytes;
        meter.ended |= asked && chunk.is_empty() && read.is_ok();
        Poll::Ready(read.map_err(|failure| {
            let copy = io::Error::new(failure.kind(), failure.to_string());
            meter.failure = Some(failure);
            copy
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn bytes_are_digested_on_the_way_by() {
        for (read_to_end, digest) in
            [(true, Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")), (false, None)]
        {
            let mut parts = Parts::of_all(vec![(Box::new(&b"abc"[..]), "x".to_owned())]);
            let mut part = parts.next().await.expect("no failure").expect("bytes");
            let mut bytes = [0; 3];
            part.bytes.read_exact(&mut bytes).await.expect("three bytes");
            if read_to_end {
                assert_eq!(part.bytes.read(&mut bytes).await.expect("the end"), 0);
            }
            assert!(parts.next().await.expect("no failure").is_none());
            let seen = parts.seal().await.expect("a seal");
            assert_eq!((seen.bytes, seen.digest.as_deref()), (3, digest));
        }
    }

    #[tokio::test]
    async fn the_same_bytes_in_other_parts_are_another_report() {
        let mut digests = std::collections::BTreeSet::new();
        for texts in [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""]] {
            let parts = texts.iter().map(|text| (Box::new(text.as_bytes()) as Bytes, (*text).to_owned() + "."));
            let mut parts = Parts::of_all(parts.collect());
            while let Some(mut part) = parts.next().await.expect("no failure") {
                part.bytes.read_to_end(&mut Vec::new()).await.expect("its bytes");
            }
            digests.insert(parts.seal().await.expect("a seal").digest.expect("read to its end"));
        }
        assert_eq!(digests.len(), 4);
        let mut parts =
            Parts::of_all(vec![(Box::new(&b"a"[..]), "a".to_owned()), (Box::new(&b"b"[..]), "b".to_owned())]);
        for _ in 0..2 {
            let mut part = parts.next().await.expect("no failure").expect("a part");
            assert_eq!(part.bytes.read(&mut [0; 1]).await.expect("a byte"), 1);
        }
        assert_eq!(parts.seal().await.expect("a seal").digest, None, "no part was read to its end");
    }
}
