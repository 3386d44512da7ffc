//! A router in, HTTP/1.1 out: our own accept loop over hyper, with TLS and users from a
//! [`WebConfig`](super::web::WebConfig), bounds on everything a client can make us hold, and a drain at the end.
//! Who may come in at all, a [`Gate`] says before the router sees the request.
//!
//! Peak memory: per connection [`MAX_BUFFER_BYTES`] each way and what the router holds; at
//! most [`MAX_CONNECTIONS`] at a time, further ones wait in the kernel's queue. Who is slow
//! is waited for, who is still for [`STALLED`](super::stall::STALLED) is let go.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::door::{Listener, ServeError};
use super::gate::{Gate, Guard, Passwords};
use super::stall::{Unstalled, UnstalledBody};

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
/// How long requests in flight may go on after the shutdown.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How often the web configuration and its certificates are looked at for a change.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// The pause after the system had no file descriptor for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router until `shutdown`, then lets requests in flight end within [`DRAIN_WITHIN`].
///
/// # Errors
/// None so far: a connection's failure is its own.
pub async fn serve(listener: Listener, router: Router, shutdown: CancellationToken) -> Result<(), ServeError> {
    serve_through(listener, Passwords, router, shutdown).await
}

/// Serves a router as [`serve`] does, to whom a gate lets in.
///
/// # Errors
/// As [`serve`].
pub async fn serve_through(
    listener: Listener,
    gate: impl Gate,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
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
            _ = reload.tick() => guard.reload().await,
            (accepted, place) = accept => match accepted {
                Ok((stream, peer)) => {
                    let inside = Inside { guard: guard.clone(), gate: gate.clone(), router: router.clone(), peer };
                    let connection = connection(stream, inside, graceful.watcher());
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

/// What a connection's requests meet.
#[derive(Clone)]
struct Inside<G> {
    guard: Guard,
    gate: G,
    router: Router,
    peer: SocketAddr,
}

async fn connection<G: Gate>(
    stream: TcpStream,
    inside: Inside<G>,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Answers are written in large pieces already; waiting for more only delays their ends.
    stream.set_nodelay(true)?;
    let stream = Unstalled::new(stream);
    match inside.guard.web().and_then(|web| web.tls()) {
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(tls).accept(stream)).await??;
            answer(stream, inside, watcher).await?;
        }
        None => answer(stream, inside, watcher).await?,
    }
    Ok(())
}

async fn answer<G, S>(stream: S, inside: Inside<G>, watcher: Watcher) -> Result<(), hyper::Error>
where
    G: Gate,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let Inside { guard, gate, router, peer } = inside.clone();
        let request = request.map(|body| Body::new(UnstalledBody::new(body)));
        async move { Ok::<_, std::convert::Infallible>(guard.pass(request, peer, &gate, router).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::http::door::{Exposure, bind};
    use crate::http::testing::{CERTIFICATE, exchange, get_with, hello, serve_at, users, web_config};

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
        let client = tokio::spawn(exchange(server.address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        asked.notified().await;
        server.shutdown.cancel();
        go.notify_one();
        let answer = client.await.expect("an answer");
        assert!(answer.ends_with("late"), "{answer}");
        let served = tokio::time::timeout(Duration::from_secs(20), server.task).await.expect("drained");
        served.expect("no panic").expect("served");
        assert!(TcpStream::connect(server.address).await.is_err(), "the port is free");
    }

    #[tokio::test]
    async fn a_head_beyond_its_bound_is_refused() {
        let server = serve_at("127.0.0.1:0", None, Exposure::LoopbackOnly, hello()).await;
        let large = "x".repeat(MAX_HEADER_BYTES);
        let answer = exchange(server.address, &get_with(&format!("Host: localhost\r\nX-Large: {large}\r\n"))).await;
        assert!(!answer.contains("hello"), "{}", &answer[..answer.len().min(100)]);
    }
}
