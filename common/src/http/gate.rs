//! A request at the door in; on it goes to the router, or an answer turns it away. Looks at heads
//! alone. What an address asks for is told by [`Entry`], who may come in by a [`Gate`]: the
//! house's own, [`Passwords`], lets in whoever has one; a role that knows of rights brings its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use tower::ServiceExt as _;

use super::door::Exposure;
use super::web::{Verdict, WebConfig};
use crate::report;

/// What an address asks of those who come.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A password or a certificate, of a web configuration that authenticates.
    Guarded(&'a WebConfig),
    /// Nothing; only this machine can reach it.
    ThisMachine,
    /// Nothing, and others can reach it: the operator said so.
    Anybody,
}

/// Decides on every request whether it reaches the router.
pub trait Gate: Clone + Send + Sync + 'static {
    /// The answer that turns a request away; nothing when it may go in, with what was found out of
    /// its sender in its extensions. There already: [`ConnectInfo`] with the client's address.
    fn refusal(&self, head: &mut Parts, entry: Entry<'_>) -> impl Future<Output = Option<Response<Body>>> + Send;
}

/// Lets in whoever has a password, all alike.
#[derive(Clone, Copy, Debug)]
pub struct Passwords;

impl Gate for Passwords {
    async fn refusal(&self, head: &mut Parts, entry: Entry<'_>) -> Option<Response<Body>> {
        let Entry::Guarded(web) = entry else { return None };
        match web.verify(&head.headers).await {
            Verdict::Open | Verdict::User(_) => None,
            Verdict::Refused => {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"costream\"")];
                Some((StatusCode::UNAUTHORIZED, challenge, "authentication failed\n").into_response())
            }
            Verdict::Busy => Some(busy()),
        }
    }
}

/// Tells a client to come back when fewer passwords are being checked.
pub fn busy() -> Response<Body> {
    let later = [(header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, later, "too many logins at a time\n").into_response()
}

/// What stands before a router: the web configuration as it is now, and to whom the address is open without one.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    web: Option<Arc<RwLock<Arc<WebConfig>>>>,
    exposure: Exposure,
}

impl Guard {
    pub(super) fn new(web: Option<Arc<WebConfig>>, exposure: Exposure) -> Self {
        Self { web: web.map(RwLock::new).map(Arc::new), exposure }
    }

    pub(super) fn web(&self) -> Option<Arc<WebConfig>> {
        let web = self.web.as_ref()?;
        Some(Arc::clone(&web.read().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(super) fn entry<'a>(&self, web: Option<&'a WebConfig>) -> Entry<'a> {
        match (web.filter(|web| web.authenticates()), self.exposure) {
            (Some(web), _) => Entry::Guarded(web),
            (None, Exposure::LoopbackOnly) => Entry::ThisMachine,
            (None, Exposure::Unauthenticated) => Entry::Anybody,
        }
    }

    /// Takes the new configuration when the files changed. One that would open the address to
    /// everybody is not taken.
    pub(super) async fn reload(&self) {
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

    /// Answers a request: the router does when the gate lets it in.
    pub(super) async fn pass(
        &self,
        request: Request<Body>,
        peer: SocketAddr,
        gate: &impl Gate,
        router: Router,
    ) -> Response<Body> {
        let web = self.web();
        let entry = self.entry(web.as_deref());
        let (mut head, body) = request.into_parts();
        head.extensions.insert(ConnectInfo(peer));
        let refusal = match entry {
            Entry::ThisMachine if !names_this_machine(&head.headers) => {
                let reason = "without a password this is served to requests for localhost alone\n";
                Some((StatusCode::FORBIDDEN, reason).into_response())
            }
            entry => gate.refusal(&mut head, entry).await,
        };
        let mut response = match refusal {
            Some(refusal) => refusal,
            None => match router.oneshot(Request::from_parts(head, body)).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
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
fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = headers.get(header::ORIGIN).map(|origin| of_origin(origin).is_some_and(is_loopback_name));
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

#[cfg(test)]
mod tests {
    use axum::extract::Extension;
    use axum::routing::get;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::door::bind;
    use crate::http::serve::serve_through;
    use crate::http::testing::{exchange, get_with, hello, serve_at, users, web_config};

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
        let server = serve_at("127.0.0.1:0", Some(web), Exposure::LoopbackOnly, hello()).await;
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
            assert_eq!(answer.ends_with("hello"), status == "200", "{answer}");
        }
        let answer = exchange(server.address, &get_with("Host: any\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
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
    /// Says of every request what it is asked for, and admits those that say please.
    #[derive(Clone)]
    struct Polite;

    impl Gate for Polite {
        async fn refusal(&self, head: &mut Parts, entry: Entry<'_>) -> Option<Response<Body>> {
            let is_local = head.extensions.get::<ConnectInfo<SocketAddr>>()?.ip().is_loopback();
            head.extensions.insert(format!("{entry:?} {is_local}"));
            (!head.headers.contains_key("please")).then(|| StatusCode::IM_A_TEAPOT.into_response())
        }
    }

    #[tokio::test]
    async fn a_gate_is_asked_on_every_request_and_tells_the_router() {
        for (exposure, told) in
            [(Exposure::LoopbackOnly, "ThisMachine true"), (Exposure::Unauthenticated, "Anybody true")]
        {
            let router = Router::new().route("/", get(|told: Extension<String>| async move { told.0 }));
            let listener = bind("127.0.0.1:0", None, exposure).await.expect("an address");
            let address = listener.local_addr();
            tokio::spawn(serve_through(listener, Polite, router, CancellationToken::new()));
            let turned_away = exchange(address, &get_with("Host: localhost\r\n")).await;
            assert!(turned_away.starts_with("HTTP/1.1 418"), "{turned_away}");
            let answer = exchange(address, &get_with("Host: localhost\r\nPlease: yes\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(told), "{answer}");
        }
    }
}
