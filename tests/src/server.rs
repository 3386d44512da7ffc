//! A small HTTP/1.1 server on this machine, with or without TLS: a function answers, and what
//! was asked is remembered. One request a connection, each on a thread of its own, so that it
//! serves sync and async tests alike. It ends with its handle.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::{Authority, Identity};

/// How long a client may be silent.
const SILENT_AT_MOST: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: u64 = 64 << 10;
/// The longest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, say.
    pub method: String,
    /// What stands after the method: a path, or for a proxy a whole URL.
    pub target: String,
    /// What was sent with it.
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Asked {
    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What a server says.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// With a header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running server.
pub struct Server {
    scheme: &'static str,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    answer: Box<dyn Fn(&Asked) -> Answer + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    ended: AtomicBool,
}

impl Server {
    /// Starts a server on a free port of this machine; with an identity it speaks TLS.
    ///
    /// # Errors
    /// There is no port, or the identity is none.
    pub fn start(
        identity: Option<&Identity>,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::over(identity.map(Identity::server_config).transpose()?, answer)
    }

    /// Starts a server that speaks TLS with those alone who show a certificate of the authority's.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn for_known(
        identity: &Identity,
        authority: &Authority,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::over(Some(identity.server_config_for(authority)?), answer)
    }

    fn over(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").context("take a free port")?;
        let shared = Arc::new(Shared {
            address: listener.local_addr().context("ask for the address")?,
            tls,
            answer: Box::new(answer),
            asked: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self { scheme, shared, accepting: Some(accepting) })
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.shared.address)
    }

    /// What was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // The accepting thread waits for somebody to come.
        let _ = TcpStream::connect(self.shared.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        // A connection that fails is its client's to tell.
        std::thread::spawn(move || stream.map_err(anyhow::Error::from).and_then(|stream| connection(stream, &shared)));
    }
}

fn connection(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(SILENT_AT_MOST)).context("bound the wait")?;
    match &shared.tls {
        None => exchange(stream, shared).map(|_| ()),
        Some(tls) => {
            let tls = ServerConnection::new(Arc::clone(tls)).context("begin TLS")?;
            let mut stream = exchange(StreamOwned::new(tls, stream), shared)?;
            stream.conn.send_close_notify();
            stream.flush().context("end TLS")
        }
    }
}

fn exchange<S: Read + Write>(stream: S, shared: &Shared) -> Result<S> {
    let mut stream = BufReader::new(stream);
    let asked = request(&mut stream)?;
    let answer = (shared.answer)(&asked);
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let mut head =
        format!("HTTP/1.1 {} -\r\nContent-Length: {}\r\nConnection: close\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream.into_inner();
    stream.write_all(format!("{head}\r\n").as_bytes()).context("write the head")?;
    stream.write_all(&answer.body).context("write the body")?;
    stream.flush().context("write it all")?;
    Ok(stream)
}

fn request(stream: &mut impl BufRead) -> Result<Asked> {
    let mut head = stream.by_ref().take(MAX_HEAD_BYTES);
    let mut line = || {
        let mut line = String::new();
        head.read_line(&mut line).context("read the head")?;
        ensure!(line.ends_with('\n'), "the head ends early");
        Ok::<_, anyhow::Error>(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().context("a target")?);
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    let length = asked.header("content-length").map_or(Ok(0), str::parse::<usize>).context("read the length")?;
    ensure!(length <= MAX_BODY_BYTES, "the body is too long");
    asked.body.resize(length, 0);
    stream.read_exact(&mut asked.body).context("read the body")?;
    Ok(asked)
}
