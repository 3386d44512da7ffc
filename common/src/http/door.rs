//! An address in, a socket that listens on it out, and who may be let in there.
//!
//! Without users only a loopback address is served, and only to requests that name this
//! machine (a page in a browser cannot reach us through a name of its own); any other address
//! wants a web configuration or [`Exposure::Unauthenticated`]. A [`Door`] outlives whoever
//! serves it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::gate::{Entry, Guard};
use super::web::WebConfig;

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

/// An address that is listened on. Connections wait in the kernel until
/// [`serve`](super::serve::serve).
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Arc<TcpListener>,
    pub(super) local: SocketAddr,
    pub(super) guard: Guard,
}

impl Listener {
    /// A socket that listens already, for this machine alone and without TLS.
    ///
    /// # Errors
    /// It cannot be waited for, or has no address.
    pub fn over(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let socket = Arc::new(TcpListener::from_std(socket)?);
        Ok(Self { socket, local, guard: Guard::new(None, Exposure::LoopbackOnly) })
    }

    /// The address taken: with the port the system chose when it was asked for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// To whom the address is open without a password or certificate; nothing when it asks for one.
    pub fn open_to(&self) -> Option<Exposure> {
        let web = self.guard.web();
        match self.guard.entry(web.as_deref()) {
            Entry::Guarded(_) => None,
            Entry::ThisMachine => Some(Exposure::LoopbackOnly),
            Entry::Anybody => Some(Exposure::Unauthenticated),
        }
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
        if !loopback && !authenticates && exposure == Exposure::LoopbackOnly {
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
        Ok(Listener { socket, local, guard: Guard::new(web, exposure) })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::*;
    use crate::http::serve::serve;
    use crate::http::testing::{exchange, hello, users, web_config};
    use crate::report;

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
    async fn who_comes_while_nobody_serves_waits_at_the_door() {
        let end = CancellationToken::new();
        let door = Door::until(end.clone());
        let at = |address: &'static str| door.bind(address, None, Exposure::LoopbackOnly);
        let first = at("127.0.0.1:0").await.expect("an address");
        let (address, shutdown) = (first.local_addr(), CancellationToken::new());
        shutdown.cancel();
        serve(first, hello(), shutdown).await.expect("served");

        let waiting = tokio::spawn(exchange(address, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
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
}
