//! The HTTP server that reports come from. It serves what it was given last, to the byte, unless
//! it was told to fail: then it fails once in that way and is good again. Every connection takes
//! one request.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::programs::runtime;

/// The longest request head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A way to fail, once.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer without a report, and the wait it asks for, in seconds.
    Status(u16, Option<u64>),
    /// The connection is closed in the middle of the body.
    Cut,
    /// The connection is reset in the middle of the body.
    Reset,
    /// More is announced than is sent.
    TooLong,
    /// Another body is sent in the report's place, whole and with its length: a torn gzip, say.
    Instead(Vec<u8>),
    /// The body comes in so many pieces, with such pauses.
    Drip(usize, Duration),
}

/// A running source.
#[derive(Debug)]
pub struct Source {
    address: SocketAddr,
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    body: Arc<Vec<u8>>,
    /// Counts what was put there; the entity tag.
    version: u64,
    faults: VecDeque<Fault>,
    asked: u64,
}

impl Source {
    /// Starts to serve, and has nothing yet.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start() -> Result<Self> {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).context("listen")?;
        let address = listener.local_addr().context("ask for the address")?;
        let pages = Arc::<Mutex<BTreeMap<String, Page>>>::default();
        let serving = runtime().spawn({
            let pages = Arc::clone(&pages);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&pages)));
                }
            }
        });
        Ok(Self { address, pages, serving })
    }

    /// Where a page is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Serves a body from now on.
    pub fn serve(&self, path: &str, body: Vec<u8>) {
        self.with(path, |page| {
            page.body = Arc::new(body);
            page.version += 1;
        });
    }

    /// Fails so, in this order, before it is good again.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.with(path, |page| page.faults.extend(faults));
    }

    /// How often a page was asked for.
    pub fn asked(&self, path: &str) -> u64 {
        self.with(path, |page| page.asked)
    }

    /// Faults that are still to come.
    pub fn faults_left(&self, path: &str) -> usize {
        self.with(path, |page| page.faults.len())
    }

    fn with<T>(&self, path: &str, change: impl FnOnce(&mut Page) -> T) -> T {
        change(locked(&self.pages).entry(format!("/{path}")).or_default())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(mut stream: TcpStream, pages: Arc<Mutex<BTreeMap<String, Page>>>) -> io::Result<()> {
    let head = head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (page, fault) = {
        let mut pages = locked(&pages);
        match pages.get_mut(path) {
            Some(page) => {
                page.asked += 1;
                let fault = page.faults.pop_front();
                (page.clone(), fault)
            }
            None => (Page::default(), Some(Fault::Status(404, None))),
        }
    };
    let tag = format!("\"{}\"", page.version);
    let known = head.lines().any(|line| {
        line.split_once(':')
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("if-none-match") && value.trim() == tag)
    });
    let body = match &fault {
        Some(Fault::Instead(body)) => body.clone(),
        _ => page.body.to_vec(),
    };
    let status = match &fault {
        Some(Fault::Status(status, retry_after)) => {
            let wait = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
            let head = format!("HTTP/1.1 {status} Scripted\r\n{wait}Content-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            return stream.shutdown().await;
        }
        None if known => "304 Not Modified",
        _ => "200 OK",
    };
    let length = if known && fault.is_none() { 0 } else { body.len() };
    let announced = if matches!(fault, Some(Fault::TooLong)) { length + 1000 } else { length };
    // A body that is not the report must not pass for it later.
    let tag = if matches!(fault, Some(Fault::Instead(_))) { String::new() } else { format!("ETag: {tag}\r\n") };
    let head = format!("HTTP/1.1 {status}\r\n{tag}Content-Length: {announced}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let body = &body[..length];
    match fault {
        Some(Fault::Cut) => stream.write_all(&body[..length / 2]).await?,
        Some(Fault::Reset) => {
            stream.write_all(&body[..length / 2]).await?;
            return stream.set_zero_linger();
        }
        Some(Fault::Drip(pieces, pause)) => {
            for piece in body.chunks(length.div_ceil(pieces.max(1)).max(1)) {
                stream.write_all(piece).await?;
                tokio::time::sleep(pause).await;
            }
        }
        _ => stream.write_all(body).await?,
    }
    stream.shutdown().await
}

async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
