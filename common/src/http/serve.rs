//! A router in, HTTP/1.1 out: our own accept loop over hyper, with TLS and users from a
//! [`WebConfig`], bounds on everything a client can make us hold, and a drain at the end.
//!
//! Without users only a loopback address is served, and only to requests that name this
//! machine (a page in a browser cannot reach us through a name of its own); any other address
//! wants a web configuration or [`Exposure::Unauthenticated`].
//!
//! Peak memory: per connection [`MAX_BUFFER_BYTES`] each way and what the router holds; at
//! most [`MAX_CONNECTIONS`] at a time, further ones wait in the kernel's queue. Who is slow
//! is waited for, who is still for [`STALLED`] is let go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::web::{Verdict, WebConfig};
use crate::report;

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 1024;
/// The largest request head.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// What a connection holds of what it read, and of what it has still to write.
pub const MAX_BUFFER_BYTES: usize = 128 << 10;
/// How long a request's head may take, and a connection be idle between two requests.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take nothing of an answer, or send nothing of a body, before it is let go.
pub const STALLED: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });
/// How long requests in flight may go on after the shutdown.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How often the web configuration and its certificates are looked at for a change.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// The pause after the system had no file descriptor for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why an address is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is no `host:port`, or its name is unknown.
    #[error("listen address {address:?}")]
    Address {
        /// As given.
        address: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// Others could reach the address, and nobody would be asked for a password.
    #[error(
        "listen address {address:?} is open to others and no password is asked for: give --web.config.file with \
         basic_auth_users, or --web.allow-unauthenticated"
    )]
    Exposed {
        /// As given.
        address: String,
    },
    /// The address is taken, or not ours.
    #[error("listen on {address}")]
    Bind {
        /// As given.
        address: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl ServeError {
    /// Whether the operator has to write something else: the configuration is wrong, not the machine.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Address { .. } | Self::Exposed { .. })
    }
}

/// What may be served to somebody who proved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// This machine only.
    LoopbackOnly,
    /// Any address: the operator said so (`--web.allow-unauthenticated`).
    Unauthenticated,
}

/// The name of the user who proved to be one, in a request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User(pub String);

/// An address that is listened on. Connections wait in the kernel until [`serve`].
#[derive(Debug)]
pub struct Listener {
    socket: Arc<TcpListener>,
    local: SocketAddr,
    guard: Guard,
}

impl Listener {
    /// The address taken: with the port the system chose when it was asked for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The address as a URL to look at.
    pub fn url(&self) -> String {
        let scheme = if self.guard.web().is_some_and(|web| web.tls().is_some()) { "https" } else { "http" };
        let shown = match self.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, self.local.port())),
            IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, self.local.port())),
            _ => self.local,
        };
        format!("{scheme}://{shown}")
    }
}

/// Takes an address: `host:port`, `:port` for every address of the machine, port 0 for a free one.
///
/// # Errors
/// The address is unknown or taken, or open to others without a password.
pub async fn bind(address: &str, web: Option<WebConfig>, exposure: Exposure) -> Result<Listener, ServeError> {
    Door::default().bind(address, web.map(Arc::new), exposure).await
}

/// An address that outlives whoever serves it: connections that come while nobody does wait for the
/// next one who takes it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Door {
    held: Arc<Mutex<Option<Held>>>,
}

/// An address as it was asked for, and what listens there.
type Held = (String, Arc<TcpListener>);

impl Door {
    /// A door that is kept until the `shutdown`: then nobody is to wait any more.
    pub fn until(shutdown: CancellationToken) -> Self {
        let door = Self::default();
        let held = Arc::clone(&door.held);
        tokio::spawn(async move {
            shutdown.cancelled().await;
            held.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        door
    }

    /// Takes an address as [`bind`] does; another one than the last time lets that go.
    ///
    /// # Errors
    /// As [`bind`].
    pub async fn bind(
        &self,
        address: &str,
        web: Option<Arc<WebConfig>>,
        exposure: Exposure,
    ) -> Result<Listener, ServeError> {
        let resolved =
            resolve(address).await.map_err(|source| ServeError::Address { address: address.to_owned(), source })?;
        let loopback = resolved.iter().all(|address| address.ip().is_loopback());
        let authenticates = web.as_ref().is_some_and(|web| web.authenticates());
        let open = exposure == Exposure::Unauthenticated;
        if !loopback && !authenticates && !open {
            return Err(ServeError::Exposed { address: address.to_owned() });
        }
        let failed = |source| ServeError::Bind { address: address.to_owned(), source };
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = match held.filter(|(held, _)| held == address) {
            Some((_, socket)) => socket,
            None => Arc::new(TcpListener::bind(resolved.as_slice()).await.map_err(failed)?),
        };
        let local = socket.local_addr().map_err(failed)?;
        let kept = (address.to_owned(), Arc::clone(&socket));
        self.held.lock().unwrap_or_else(PoisonError::into_inner).replace(kept);
        let web = web.map(RwLock::new).map(Arc::new);
        let admits = if authenticates || open { Admits::Any } else { Admits::ThisMachine };
        Ok(Listener { socket, local, guard: Guard { web, admits } })
    }
}

async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Some(port) = address.strip_prefix(':') {
        let port: u16 = port.parse().map_err(|_| io::Error::other("is no host:port"))?;
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]);
    }
    let resolved: Vec<_> = tokio::net::lookup_host(address).await?.collect();
    if resolved.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(resolved)
}

/// Serves a router until `shutdown`, then lets requests in flight end within [`DRAIN_WITHIN`].
///
/// # Errors
/// None so far: a connection's failure is its own.
pub async fn serve(listener: Listener, router: Router, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Listener { socket, local, guard } = listener;
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut reload = tokio::time::interval(RELOAD_EVERY);
    reload.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (socket.accept().await, place)
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = reload.tick(), if guard.web.is_some() => guard.reload().await,
            (accepted, place) = accept => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(stream, guard.clone(), router.clone(), graceful.watcher());
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%local, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!(%local, "requests were still in flight after {DRAIN_WITHIN:?} and are broken off");
    }
    connections.shutdown().await;
    Ok(())
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    guard: Guard,
    router: Router,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Answers are written in large pieces already; waiting for more only delays their ends.
    stream.set_nodelay(true)?;
    let stream = Unstalled::new(stream);
    match guard.web().and_then(|web| web.tls()) {
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(tls).accept(stream)).await??;
            answer(stream, guard, router, watcher).await?;
        }
        None => answer(stream, guard, router, watcher).await?,
    }
    Ok(())
}

async fn answer<S>(stream: S, guard: Guard, router: Router, watcher: Watcher) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (guard, router) = (guard.clone(), router.clone());
        async move { Ok::<_, std::convert::Infallible>(guard.pass(request, router).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await
}

/// Who stands at the door: asks for passwords, or for the machine's own name.
#[derive(Clone, Debug)]
struct Guard {
    web: Option<Arc<RwLock<Arc<WebConfig>>>>,
    admits: Admits,
}

/// Whom an address without a password lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admits {
    /// Who asks for this machine by a name of its own.
    ThisMachine,
    /// Everybody, or everybody with a password.
    Any,
}

impl Guard {
    fn web(&self) -> Option<Arc<WebConfig>> {
        let web = self.web.as_ref()?;
        Some(Arc::clone(&web.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the new configuration when the files changed. One that would open the address to
    /// everybody is not taken.
    async fn reload(&self) {
        let (Some(slot), Some(web)) = (&self.web, self.web()) else { return };
        let authenticated = web.authenticates();
        let renewed = tokio::task::spawn_blocking(move || web.reload()).await;
        match renewed {
            Ok(Ok(None)) | Err(_) => {}
            Ok(Ok(Some(renewed))) if authenticated && !renewed.authenticates() => {
                tracing::error!("the new web configuration has no users any more; the old one stays");
            }
            Ok(Ok(Some(renewed))) => {
                tracing::info!("web configuration read again");
                *slot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = report::one_line(&error),
                    "web configuration changed and is no good; the old one stays"
                );
            }
        }
    }

    async fn pass(&self, mut request: Request<Incoming>, router: Router) -> Response<Body> {
        let web = self.web();
        let verdict = match &web {
            Some(web) => web.verify(request.headers()).await,
            None => Verdict::Open,
        };
        let mut response = match verdict {
            Verdict::Refused => {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"costream\"")];
                (StatusCode::UNAUTHORIZED, challenge, "authentication failed\n").into_response()
            }
            Verdict::Busy => {
                let later = [(header::RETRY_AFTER, "1")];
                (StatusCode::SERVICE_UNAVAILABLE, later, "too many logins at a time\n").into_response()
            }
            Verdict::Open if self.admits == Admits::ThisMachine && !names_this_machine(&request) => {
                let reason = "without a password this is served to requests for localhost alone\n";
                (StatusCode::FORBIDDEN, reason).into_response()
            }
            Verdict::Open | Verdict::User(_) => {
                if let Verdict::User(name) = verdict {
                    request.extensions_mut().insert(User(name));
                }
                let request = request.map(|body| Body::new(UnstalledBody { body, alarm: Alarm::default() }));
                match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        if let Some(web) = web {
            add_missing(response.headers_mut(), web.headers());
        }
        response
    }
}

fn add_missing(to: &mut HeaderMap, from: &HeaderMap) {
    for (name, value) in from {
        to.entry(name).or_insert_with(|| value.clone());
    }
}

/// Whether the request was made for a loopback name, and not by another site's page.
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = request.headers().get(header::ORIGIN).map(|origin| of_origin(origin).is_some_and(is_loopback_name));
    host.is_none_or(is_loopback_name) && origin.unwrap_or(true)
}

fn of_origin(origin: &HeaderValue) -> Option<&str> {
    origin.to_str().ok()?.split_once("://").map(|(_, host)| host)
}

fn is_loopback_name(host_and_port: &str) -> bool {
    let Ok(authority) = host_and_port.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

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
struct Unstalled {
    stream: TcpStream,
    alarm: Alarm,
}

impl Unstalled {
    fn new(stream: TcpStream) -> Self {
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
struct UnstalledBody {
    body: Incoming,
    alarm: Alarm,
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    const CERTIFICATE: &[u8] = include_bytes!("fixtures/localhost_until_2126.pem");
    const KEY: &[u8] = include_bytes!("fixtures/localhost_until_2126.key.pem");

    struct Server {
        address: SocketAddr,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), ServeError>>,
    }

    async fn serve_at(address: &str, web: Option<WebConfig>, exposure: Exposure, router: Router) -> Server {
        let listener = bind(address, web, exposure).await.expect("an address");
        let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, router, shutdown.clone()));
        Server { address, shutdown, task }
    }

    fn hello() -> Router {
        Router::new().route("/", get(|| async { "hello" }))
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        // A reset after the answer is an end as well.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    fn get_with(headers: &str) -> String {
        format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
    }

    fn web_config(text: &str) -> (tempfile::TempDir, WebConfig) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("cert.pem"), CERTIFICATE).expect("written");
        std::fs::write(dir.path().join("key.pem"), KEY).expect("written");
        let path = dir.path().join("web.yaml");
        std::fs::write(&path, text).expect("written");
        let web = WebConfig::load(&path).expect("a good web configuration");
        (dir, web)
    }

    fn users() -> String {
        format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("secret", 4).expect("a hash"))
    }

    #[tokio::test]
    async fn an_open_address_wants_a_password_or_a_word_from_the_operator() {
        let error = bind("0.0.0.0:0", None, Exposure::LoopbackOnly).await.expect_err("refused");
        assert!(matches!(error, ServeError::Exposed { .. }), "{error}");
        let error = report::one_line(&error);
        assert!(error.contains("--web.config.file") && error.contains("--web.allow-unauthenticated"), "{error}");
        assert!(bind(":0", None, Exposure::LoopbackOnly).await.is_err());
        assert!(bind("0.0.0.0:0", None, Exposure::Unauthenticated).await.is_ok());
        let (_dir, web) = web_config(&users());
        assert!(bind("0.0.0.0:0", Some(web), Exposure::LoopbackOnly).await.is_ok());
        let (_dir, web) = web_config("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n");
        assert!(bind("0.0.0.0:0", Some(web), Exposure::LoopbackOnly).await.is_err(), "TLS alone proves nothing");
        for address in ["nonsense", "127.0.0.1", "127.0.0.1:99999", "no.such.host.invalid:1"] {
            assert!(
                matches!(bind(address, None, Exposure::LoopbackOnly).await, Err(ServeError::Address { .. })),
                "{address}"
            );
        }
        let taken = bind("127.0.0.1:0", None, Exposure::LoopbackOnly).await.expect("a free port");
        let again = bind(&taken.local_addr().to_string(), None, Exposure::LoopbackOnly).await;
        assert!(matches!(again, Err(ServeError::Bind { .. })));
    }

    #[tokio::test]
    async fn without_a_password_only_this_machines_own_names_are_answered() {
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, hello()).await;
        for (headers, status) in [
            ("Host: localhost:1\r\n", "200"),
            ("Host: 127.0.0.1\r\n", "200"),
            ("Host: [::1]:2112\r\n", "200"),
            ("Host: evil.example\r\n", "403"),
            ("Host: localhost\r\nOrigin: http://evil.example\r\n", "403"),
            ("Host: localhost\r\nOrigin: null\r\n", "403"),
            ("Host: localhost\r\nOrigin: http://localhost:3000\r\n", "200"),
        ] {
            let answer = exchange(server.address, &get_with(headers)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn passwords_are_asked_for_on_every_request() {
        let (_dir, web) =
            web_config(&format!("{}http_server_config: {{headers: {{X-Frame-Options: deny}}}}\n", users()));
        let router = Router::new().route("/", get(|user: axum::Extension<User>| async move { user.0.0.clone() }));
        let server = serve_at("127.0.0.1:0", Some(web), Exposure::LoopbackOnly, router).await;
        // ann:secret, ann:wrong
        for (authorization, status) in [
            ("Basic YW5uOnNlY3JldA==", "200"),
            ("Basic YW5uOndyb25n", "401"),
            ("Basic !!!", "401"),
            ("Bearer x", "401"),
        ] {
            let answer =
                exchange(server.address, &get_with(&format!("Host: any\r\nAuthorization: {authorization}\r\n"))).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{authorization}: {answer}");
            assert!(answer.contains("x-frame-options: deny"), "{answer}");
            assert_eq!(answer.contains("www-authenticate: Basic"), status == "401", "{answer}");
            assert_eq!(answer.ends_with("ann"), status == "200", "{answer}");
        }
        let answer = exchange(server.address, &get_with("Host: any\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }

    #[tokio::test]
    async fn tls_is_spoken_with_the_configured_certificate() {
        let text = format!("tls_server_config: {{cert_file: cert.pem, key_file: key.pem}}\n{}", users());
        let (_dir, web) = web_config(&text);
        let listener = bind("127.0.0.1:0", Some(web), Exposure::LoopbackOnly).await.expect("an address");
        assert!(listener.url().starts_with("https://127.0.0.1:"), "{}", listener.url());
        let address = listener.local_addr();
        tokio::spawn(serve(listener, hello(), CancellationToken::new()));

        let mut roots = RootCertStore::empty();
        use rustls_pki_types::pem::PemObject;
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(CERTIFICATE).expect("PEM")).expect("a certificate");
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let client =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = "localhost".try_into().expect("a name");
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("a handshake");
        let request = get_with("Host: localhost\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
        // Plain text to a TLS port gets nothing.
        assert!(!exchange(address, &get_with("Host: localhost\r\n")).await.contains("hello"));
    }

    #[tokio::test]
    async fn a_changed_web_configuration_is_taken_and_a_broken_one_is_not() {
        let (dir, web) = web_config(&users());
        let path = dir.path().join("web.yaml");
        assert!(web.reload().expect("nothing changed").is_none());
        std::fs::write(&path, "basic_auth_users: {ann: broken}\n").expect("written");
        assert!(web.reload().is_err());
        assert!(web.reload().expect("told once").is_none());
        let renewed = format!("basic_auth_users:\n  bob: {}\n", bcrypt::hash("other", 4).expect("a hash"));
        std::fs::write(&path, renewed).expect("written");
        let renewed = web.reload().expect("a good file").expect("a change");
        let headers =
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic YW5uOnNlY3JldA=="))]);
        assert_eq!(renewed.verify(&headers).await, Verdict::Refused, "ann is gone");
    }

    #[tokio::test]
    async fn a_request_in_flight_ends_before_the_server_does() {
        let asked = Arc::new(tokio::sync::Notify::new());
        let go = Arc::new(tokio::sync::Notify::new());
        let router = {
            let (asked, go) = (asked.clone(), go.clone());
            Router::new().route(
                "/",
                get(|| async move {
                    asked.notify_one();
                    go.notified().await;
                    "late"
                }),
            )
        };
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, router).await;
        // An idle connection does not hold the shutdown up.
        let _idle = TcpStream::connect(server.address).await.expect("connected");
        let client = tokio::spawn(exchange_owned(server.address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        asked.notified().await;
        server.shutdown.cancel();
        go.notify_one();
        let answer = client.await.expect("an answer");
        assert!(answer.ends_with("late"), "{answer}");
        let served = tokio::time::timeout(Duration::from_secs(20), server.task).await.expect("drained");
        served.expect("no panic").expect("served");
        assert!(TcpStream::connect(server.address).await.is_err(), "the port is free");
    }

    async fn exchange_owned(address: SocketAddr, request: &'static str) -> String {
        exchange(address, request).await
    }

    #[tokio::test]
    async fn who_comes_while_nobody_serves_waits_at_the_door() {
        let end = CancellationToken::new();
        let door = Door::until(end.clone());
        let at = |address: &'static str| door.bind(address, None, Exposure::LoopbackOnly);
        let first = at("127.0.0.1:0").await.expect("an address");
        let (address, shutdown) = (first.local_addr(), CancellationToken::new());
        shutdown.cancel();
        serve(first, hello(), shutdown).await.expect("served");

        let waiting = tokio::spawn(exchange_owned(address, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
        let second = at("127.0.0.1:0").await.expect("the same address");
        assert_eq!(second.local_addr(), address);
        tokio::spawn(serve(second, hello(), CancellationToken::new()));
        let answer = waiting.await.expect("an answer");
        assert!(answer.ends_with("hello"), "{answer}");

        let elsewhere = at("localhost:0").await.expect("another address");
        assert_ne!(elsewhere.local_addr(), address);
        let address = elsewhere.local_addr();
        drop(elsewhere);
        assert!(TcpStream::connect(address).await.is_ok(), "the door keeps it");
        end.cancel();
        let refused = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), refused).await.expect("nobody is to wait any more");
    }

    #[tokio::test]
    async fn a_head_beyond_its_bound_is_refused() {
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, hello()).await;
        let large = "x".repeat(MAX_HEADER_BYTES);
        let answer = exchange(server.address, &get_with(&format!("Host: localhost\r\nX-Large: {large}\r\n"))).await;
        assert!(!answer.contains("hello"), "{}", &answer[..answer.len().min(100)]);
    }

    /// Set when it is dropped.
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
