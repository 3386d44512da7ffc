//! The gate before the handler's routes: finds out who asks, and turns away who cannot prove it, in
//! the words that the route's clients know.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use costream_common::http::gate::{self, Entry};
use costream_common::http::web::{Login, Verdict};
use serde_json::json;

use super::runs::is_a_runs;
use super::{Caller, DEFAULT_USER, Rights, RunCredentials, UserRights};

/// Stands before the routes; see [`auth`](super). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    users: Arc<UserRights>,
    runs: RunCredentials,
    admits: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Everybody,
    RunsAlone,
}

impl Gate {
    /// A gate for users with these rights, and for runs.
    pub fn new(users: UserRights, runs: RunCredentials) -> Self {
        Self { users: Arc::new(users), runs, admits: Whom::Everybody }
    }

    /// The same for runs alone: at an address of their own a notebook can be nobody else, and needs no
    /// TLS, which its prelude does not speak.
    pub fn for_runs(&self) -> Self {
        Self { admits: Whom::RunsAlone, ..self.clone() }
    }

    /// Who asks, or why nobody can tell.
    async fn caller(&self, head: &Parts, login: Option<&Login>, entry: Entry<'_>) -> Result<Caller, Unknown> {
        if self.admits == Whom::RunsAlone || login.is_some_and(|login| is_a_runs(&login.user)) {
            let login = login.filter(|_| is_for_runs(head)).ok_or(Unknown::Refused)?;
            return self.runs.caller(login).ok_or(Unknown::Refused);
        }
        let web = match entry {
            Entry::ThisMachine => return Ok(Caller::default()),
            Entry::Anybody => return Ok(Caller::new(DEFAULT_USER, Rights::READ_WRITE)),
            Entry::Guarded(web) => web,
        };
        let readings = login.into_iter().flat_map(|login| std::iter::once(login.clone()).chain(login.decoded()));
        match web.verify_any(readings.collect()).await {
            Verdict::User(name) => Ok(Caller::new(&name, self.users.of(&name))),
            // Who is here without a password has shown a certificate.
            Verdict::Open => Ok(Caller::new(DEFAULT_USER, self.users.of(DEFAULT_USER))),
            Verdict::Refused => Err(Unknown::Refused),
            Verdict::Busy => Err(Unknown::Busy),
        }
    }
}

/// Why a caller is not known.
enum Unknown {
    Refused,
    Busy,
}

impl gate::Gate for Gate {
    async fn refusal(&self, head: &mut Parts, entry: Entry<'_>) -> Option<Response<Body>> {
        let login = Login::of(&head.headers);
        match self.caller(head, login.as_ref(), entry).await {
            Ok(caller) => {
                head.extensions.insert(caller);
                None
            }
            Err(Unknown::Refused) => Some(unauthorized(head, login.as_ref())),
            Err(Unknown::Busy) => Some(gate::busy()),
        }
    }
}

/// Whether a request is one that a run may make: a statement, or the greeting its client asks for first.
fn is_for_runs(head: &Parts) -> bool {
    match head.uri.path() {
        "/_sql" => true,
        "/" => head.method == Method::GET || head.method == Method::HEAD,
        _ => false,
    }
}

/// The answer to who did not prove to be anybody, as the route's clients know it.
fn unauthorized(head: &Parts, login: Option<&Login>) -> Response<Body> {
    let path = head.uri.path();
    let (realm, answer) = match (path, login) {
        // CrateDB gives no content type; a browser would then guess one from what somebody chose as their name.
        ("/" | "/_sql", Some(Login { user, .. })) => {
            ("CrateDB Authenticator", format!("password authentication failed for user \"{user}\"\n").into_response())
        }
        ("/" | "/_sql", None) => {
            let host = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
            let host = host.map_or_else(String::new, |host| format!("host \"{host}\", "));
            let text = format!(
                "No valid auth.host_based.config entry found for {host}user \"{DEFAULT_USER}\", protocol \"http\". Did you \
                 enable TLS in your client?\n"
            );
            ("CrateDB Authenticator", text.into_response())
        }
        (path, _) if !(path.starts_with("/upload") || path.starts_with("/compute")) => {
            ("costream", "authentication failed\n".into_response())
        }
        (_, Some(_)) => ("costream", Json(json!({"error": "user and password do not match"})).into_response()),
        (_, None) => {
            let error = "authorization header is missing or not type basic";
            ("costream", Json(json!({"error": error})).into_response())
        }
    };
    let challenge = [(header::WWW_AUTHENTICATE, format!("Basic realm=\"{realm}\""))];
    (StatusCode::UNAUTHORIZED, challenge, answer).into_response()
}
