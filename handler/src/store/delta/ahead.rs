//! A stream in, the same items out, read in a task of their own: whoever makes them and whoever
//! encodes them have a core each. Holds [`N_READY_ITEMS`] more, and one in the maker's hand;
//! dropped, it ends the reading.

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// Items that wait for their reader.
const N_READY_ITEMS: usize = 1;

/// The items of a stream, read ahead.
pub(super) struct Ahead<T> {
    items: mpsc::Receiver<T>,
    reading: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Reads a stream ahead.
    pub(super) fn of(mut stream: impl Stream<Item = T> + Send + Unpin + 'static) -> Self {
        let (sender, items) = mpsc::channel(N_READY_ITEMS);
        let reading = tokio::spawn(async move {
            while let Some(item) = stream.next().await {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        });
        Self { items, reading: AbortOnDropHandle::new(reading) }
    }

    /// The next item; nothing at the stream's end. Not to be called again after that.
    ///
    /// # Errors
    /// The stream's maker panicked: what came before is not all.
    pub(super) async fn next(&mut self) -> Result<Option<T>, JoinError> {
        match self.items.recv().await {
            Some(item) => Ok(Some(item)),
            None => (&mut self.reading).await.map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn all_items_come_in_their_order_and_then_the_end() {
        let mut ahead = Ahead::of(stream::iter(0..100));
        for item in 0..100 {
            assert_eq!(ahead.next().await.expect("no panic"), Some(item));
        }
        assert_eq!(ahead.next().await.expect("no panic"), None);
    }

    #[tokio::test]
    async fn a_stream_that_panics_has_not_ended() {
        let mut ahead = Ahead::of(stream::iter(0..2).inspect(|item| assert_eq!(*item, 0, "on purpose")));
        assert_eq!(ahead.next().await.expect("no panic yet"), Some(0));
        assert!(ahead.next().await.expect_err("a panic").is_panic());
    }
}
