//! A connection or a body in, the same out, but one that ends when its client stays still for
//! [`STALLED`]: who is slow is waited for, who is gone without a word is let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How long a client may take nothing of an answer, or send nothing of a body, before it is let go.
pub const STALLED: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// Rings when nothing has moved for [`STALLED`].
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Passes on what the other side did; an error once it was still for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, moved: Poll<T>) -> Poll<Result<T, io::Error>> {
        if let Poll::Ready(moved) = moved {
            self.0 = None;
            return Poll::Ready(Ok(moved));
        }
        let alarm = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALLED)));
        match alarm.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stalled"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A connection whose writes fail once the client has taken nothing for [`STALLED`].
pub(super) struct Unstalled {
    stream: TcpStream,
    alarm: Alarm,
}

impl Unstalled {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, alarm: Alarm::default() }
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.alarm.watch(cx, moved).map(Result::flatten)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.alarm.watch(cx, moved).map(Result::flatten)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A request's body that fails once the client has sent nothing for [`STALLED`] while asked.
pub(super) struct UnstalledBody {
    body: Incoming,
    alarm: Alarm,
}

impl UnstalledBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, alarm: Alarm::default() }
    }
}

impl HttpBody for UnstalledBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let moved = Pin::new(&mut self.body).poll_frame(cx);
        self.alarm.watch(cx, moved).map(|moved| match moved {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(stalled) => Some(Err(stalled.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::Router;
    use axum::body::Body;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::http::door::Exposure;
    use crate::http::testing::serve_at;

    struct Dropped(Arc<AtomicBool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    async fn until(what: &AtomicBool) {
        let waited = async {
            while !what.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("in time");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_its_answer() {
        let gone = Arc::new(AtomicBool::new(false));
        let router = {
            let gone = gone.clone();
            Router::new().route(
                "/",
                get(|| async move {
                    let dropped = Dropped(gone);
                    let piece = Bytes::from_static(&[b'x'; 1024]);
                    Body::from_stream(futures::stream::unfold(dropped, move |dropped| {
                        let piece = piece.clone();
                        async move {
                            tokio::task::yield_now().await;
                            Some((Ok::<_, io::Error>(piece), dropped))
                        }
                    }))
                }),
            )
        };
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, router).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
        stream.read_exact(&mut [0; 64]).await.expect("a beginning");
        drop(stream);
        until(&gone).await;
    }

    #[tokio::test]
    async fn a_reader_that_stalls_is_let_go() {
        let gone = Arc::new(AtomicBool::new(false));
        let router = {
            let gone = gone.clone();
            Router::new().route(
                "/",
                get(|| async move {
                    Body::from_stream(futures::stream::unfold(Dropped(gone), |dropped| async {
                        Some((Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 4096])), dropped))
                    }))
                }),
            )
        };
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, router).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
        stream.read_exact(&mut [0; 64]).await.expect("a beginning");
        until(&gone).await;
        drop(stream);
    }

    #[tokio::test]
    async fn a_stalled_client_is_let_go() {
        let ended = Arc::new(AtomicBool::new(false));
        let router = {
            let ended = ended.clone();
            Router::new().route(
                "/",
                post(|body: Body| async move {
                    let _dropped = Dropped(ended);
                    match axum::body::to_bytes(body, usize::MAX).await {
                        Ok(_) => "whole",
                        Err(_) => "cut",
                    }
                }),
            )
        };
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, router).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n";
        stream.write_all(head).await.expect("sent");
        stream.write_all(b"some").await.expect("sent");
        until(&ended).await;
    }
}
