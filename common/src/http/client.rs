//! Asks other people's servers: a request with credentials and conditions in, a body as a stream out,
//! pulled by whoever reads it. Secrets are read anew for every request and sent to the host
//! they are meant for and to no other: a redirect elsewhere is followed without them, one from
//! https to http is refused, and so is one that would carry a payload elsewhere. Never decompresses, never retries (the caller knows what a second
//! try costs: see [`ClientError::is_retryable`]), holds no body. Errors and names show a URL
//! as [`public_url`] does.
//!
//! Proxies are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`, ...), as Go's programs do it: never for loopback.
//! One that is named for a server ([`Client::through`]) is taken in any case.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use hyper_util::client::proxy::matcher::Matcher;
pub use reqwest::Method;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Identity, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio_rustls::rustls::{self, CertificateError};
use tokio_util::io::StreamReader;
use url::{Host, Url};

use crate::secret::{ExposeSecret as _, SecretError, SecretSource, SecretString};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may be silent, before its answer and within it.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;
/// A query value longer than this may be a token, whatever it is called.
const MAX_SHOWN_VALUE: usize = 16;
/// What the name of a query parameter that holds a secret has in it.
const SECRET_NAMES: [&str; 9] = ["sig", "token", "key", "secret", "pass", "pwd", "auth", "cred", "code"];
const USER_AGENT: &str = concat!("costream/", env!("CARGO_PKG_VERSION"));

/// Name and password for HTTP basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The user.
    pub username: String,
    /// Where the password is.
    pub password: SecretSource,
}

/// A request header's value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a header's value is a text, or `file:`, `env:` or `kubernetes:` of a secret")]
pub enum HeaderSource {
    /// As written.
    Plain(String),
    /// A secret.
    Secret(SecretSource),
}

/// How a server proves who it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM certificates to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate. For tests: whoever sits in between reads the credentials.
    pub insecure_skip_verify: bool,
    /// Certificates that were read already, from a resource that holds them.
    #[serde(skip)]
    pub given: Option<Box<Certificates>>,
}

/// Certificates as PEM.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Whom to trust in place of the system's.
    pub authorities: Option<String>,
    /// Our own certificate, and its key.
    pub identity: Option<SecretString>,
}

/// With what a server is asked.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A bearer token.
    pub bearer_token: Option<SecretSource>,
    /// User and password.
    pub basic_auth: Option<BasicAuth>,
    /// User and password that were written in the URL itself; see [`Access::take_userinfo`].
    pub userinfo: Option<(String, SecretString)>,
    /// Further headers.
    pub headers: BTreeMap<String, HeaderSource>,
    /// How the server proves who it is.
    pub tls: Tls,
}

impl Access {
    /// Takes user and password out of a URL, so that it can be shown.
    pub fn take_userinfo(&mut self, url: &mut Url) {
        if url.username().is_empty() && url.password().is_none() {
            return;
        }
        self.userinfo =
            Some((percent_decoded(url.username()), percent_decoded(url.password().unwrap_or_default()).into()));
        strip_userinfo(url);
    }
}

/// What a server said of a body, to ask for it again only when it has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// Its entity tag, quotes and weakness included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its date, as the server wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// What is asked of a server beside the URL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The `Accept` header.
    pub accept: Option<&'a str>,
    /// The `Accept-Encoding` header. Without one a server should not compress for the way; the
    /// body comes as it is in any case.
    pub accept_encoding: Option<&'a str>,
    /// What the asker has already.
    pub validators: Option<&'a Validators>,
    /// What is sent in place of a GET without a body.
    pub request: Option<(&'a Method, &'a str)>,
}

/// A server's answer.
#[derive(Debug)]
pub enum Answer {
    /// 304: the asker has it already.
    Unchanged,
    /// 200: a body.
    Fresh(Fresh),
}

/// A request that brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The file of trusted certificates cannot be used.
    #[error("read certificates {}", path.display())]
    CaFile {
        /// The file as configured.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The client cannot be made at all.
    #[error("prepare https")]
    Tls(#[source] reqwest::Error),
    /// Certificates that were given, or a key, are none.
    #[error("{what} given for the server cannot be used")]
    Given {
        /// Which of them.
        what: &'static str,
    },
    /// A configured header is none.
    #[error("header {name:?}: its name or value is not allowed in HTTP")]
    Header {
        /// Its name.
        name: String,
    },
    /// A secret could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The server could not be reached, or broke off before it answered.
    #[error("{}{way}", asked(url))]
    Send {
        /// The URL without secrets, after its verb when that is not GET.
        url: String,
        /// By what way, when it is not the direct one.
        way: &'static str,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The server's certificate was signed by nobody we trust.
    #[error("{}: the issuer of its certificate is unknown; `tls.ca_file` can name whom to trust", asked(url))]
    UnknownIssuer {
        /// The URL without secrets, after its verb when that is not GET.
        url: String,
    },
    /// The server answered with something else than a body.
    #[error("{}: {status}", asked(url))]
    Status {
        /// The URL without secrets, after its verb when that is not GET.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The wait it asked for.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{}: {reason}", asked(url))]
    Redirect {
        /// The URL without secrets, after its verb when that is not GET.
        url: String,
        /// Why.
        reason: &'static str,
    },
    /// The body broke off.
    #[error("{}: the body broke off", asked(url))]
    Body {
        /// The URL without secrets, after its verb when that is not GET.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
}

impl ClientError {
    /// What became of a request that was not answered.
    pub fn unanswered(url: &Url, error: reqwest::Error) -> Self {
        Self::not_answered(url, public_url(url), error)
    }

    fn not_answered(url: &Url, shown: String, error: reqwest::Error) -> Self {
        if is_of_an_unknown_issuer(&error) {
            return Self::UnknownIssuer { url: shown };
        }
        let way = if is_proxied(url) { " (through the proxy of the environment)" } else { "" };
        Self::Send { url: shown, way, source: error.without_url() }
    }

    /// Whether the same request may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Send { .. } | Self::Body { .. } => true,
            Self::Secret(error) => error.is_retryable(),
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429)
                    || (status.is_server_error() && !matches!(status.as_u16(), 501 | 505))
            }
            _ => false,
        }
    }

    /// The wait the server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The server's status, when it answered with one that is none of ours.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Asks with one set of credentials. Cheap to clone; keeps connections open.
#[derive(Clone, Debug)]
pub struct Client {
    proxied: reqwest::Client,
    direct: reqwest::Client,
    access: Access,
}

impl Client {
    /// Makes a client. Reads the trusted certificates, and no secret.
    ///
    /// # Errors
    /// The certificates cannot be read, or a header's name is none.
    pub fn new(access: Access) -> Result<Self, ClientError> {
        Self::with(access, Some(SILENT_AT_MOST))
    }

    /// Makes a client for uploads: its servers may be silent while a body takes its time, and
    /// while they store it. The caller watches the progress.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn uploading(access: Access) -> Result<Self, ClientError> {
        Self::with(access, None)
    }

    /// Makes a client whose requests go through a proxy, whatever the environment says. What the proxy's URL
    /// says of user and password is for the proxy alone.
    ///
    /// # Errors
    /// As [`Client::new`], or the proxy is none.
    pub fn through(access: Access, proxy: &Url) -> Result<Self, ClientError> {
        for name in access.headers.keys() {
            header_name(name)?;
        }
        let proxy = reqwest::Proxy::all(proxy.clone()).map_err(ClientError::Tls)?;
        let proxied = build(&access.tls, &Route::Through(Box::new(proxy)), Some(SILENT_AT_MOST))?;
        Ok(Self { direct: proxied.clone(), proxied, access })
    }

    fn with(access: Access, silent_at_most: Option<Duration>) -> Result<Self, ClientError> {
        for name in access.headers.keys() {
            header_name(name)?;
        }
        let build = |route| build(&access.tls, &route, silent_at_most);
        Ok(Self { proxied: build(Route::Environment)?, direct: build(Route::Direct)?, access })
    }

    /// Whether requests carry secrets that are read for each, and may have been renewed since they were.
    pub fn reads_secrets(&self) -> bool {
        let Access { bearer_token, basic_auth, headers, .. } = &self.access;
        let is_secret = |header: &HeaderSource| matches!(header, HeaderSource::Secret(_));
        bearer_token.is_some() || basic_auth.is_some() || headers.values().any(is_secret)
    }

    /// Whether any certificate is trusted.
    pub fn is_insecure(&self) -> bool {
        self.access.tls.insecure_skip_verify
    }

    /// A request with the credentials in it, for methods other than [`Client::get`]'s. Redirects
    /// are answers.
    ///
    /// # Errors
    /// A secret cannot be read, or is no header value.
    pub async fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, ClientError> {
        Ok(self.towards(url).request(method, url.clone()).headers(self.credentials().await?))
    }

    /// Asks once.
    ///
    /// # Errors
    /// There is no body to be had: [`ClientError`] says why, and whether a second try makes sense.
    pub async fn get(&self, url: &Url, ask: Ask<'_>) -> Result<Answer, ClientError> {
        let credentials = self.credentials().await?;
        let mut headers = HeaderMap::new();
        let validators = ask.validators.cloned().unwrap_or_default();
        for (name, value) in [
            (header::ACCEPT, ask.accept),
            (header::ACCEPT_ENCODING, ask.accept_encoding),
            (header::IF_NONE_MATCH, validators.etag.as_deref()),
            (header::IF_MODIFIED_SINCE, validators.last_modified.as_deref()),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        let conditional =
            headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MODIFIED_SINCE);

        let mut at = url.clone();
        let mut sent = ask.request;
        for _ in 0..=MAX_REDIRECTS {
            let method = sent.map_or(&Method::GET, |(method, _)| method);
            let mut request = self.towards(&at).request(method.clone(), at.clone()).headers(headers.clone());
            if at.origin() == url.origin() {
                request = request.headers(credentials.clone());
            }
            if let Some((_, payload)) = sent.filter(|(_, payload)| !payload.is_empty()) {
                request = request.body(payload.to_owned());
            }
            let shown = match method {
                &Method::GET => public_url(&at),
                method => format!("{method} {}", public_url(&at)),
            };
            let response =
                request.send().await.map_err(|error| ClientError::not_answered(&at, shown.clone(), error))?;
            match response.status() {
                StatusCode::OK => return Ok(Answer::Fresh(Fresh { url: shown, response })),
                StatusCode::NOT_MODIFIED if conditional => return Ok(Answer::Unchanged),
                status if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) => {
                    at = redirected(&at, &response)?;
                    // What answers a POST elsewhere is read by a GET, as browsers do it.
                    sent = sent.filter(|_| matches!(status.as_u16(), 307 | 308));
                    if sent.is_some() && at.origin() != url.origin() {
                        return Err(ClientError::Redirect {
                            url: shown,
                            reason: "redirected to another host with what is sent",
                        });
                    }
                }
                status => {
                    return Err(ClientError::Status {
                        url: shown,
                        status,
                        retry_after: retry_after(response.headers()),
                    });
                }
            }
        }
        Err(ClientError::Redirect { url: public_url(url), reason: "redirected more than 10 times" })
    }

    fn towards(&self, url: &Url) -> &reqwest::Client {
        if is_loopback(url) { &self.direct } else { &self.proxied }
    }

    async fn credentials(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        for (name, source) in &self.access.headers {
            let value = match source {
                HeaderSource::Plain(text) => text.clone().into(),
                HeaderSource::Secret(source) => source.read().await?,
            };
            headers.insert(header_name(name)?, header_value(name, &value)?);
        }
        let login = match (&self.access.basic_auth, &self.access.userinfo) {
            (Some(basic), _) => Some((&basic.username, basic.password.read().await?)),
            (None, Some((user, password))) => Some((user, password.clone())),
            (None, None) => None,
        };
        let authorization = match (&self.access.bearer_token, login) {
            (Some(token), _) => Some(format!("Bearer {}", token.read().await?.expose_secret())),
            (None, Some((user, password))) => {
                use base64::Engine as _;
                let login = format!("{user}:{}", password.expose_secret());
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login)))
            }
            (None, None) => None,
        };
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, header_value("authorization", &authorization.into())?);
        }
        Ok(headers)
    }
}

/// A body that has begun to arrive.
#[derive(Debug)]
pub struct Fresh {
    url: String,
    response: Response,
}

impl Fresh {
    /// Where it came from in the end, without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What to ask with the next time.
    pub fn validators(&self) -> Validators {
        let text = |name| self.header(&name).map(str::to_owned);
        Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) }
    }

    /// A header of the answer, when it is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body's length, when it was announced. A body that turns out shorter is an error.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The body as the network gives it.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ClientError>> + Send + use<> {
        let Self { url, response } = self;
        let failed = move |error: reqwest::Error| ClientError::Body { url: url.clone(), source: error.without_url() };
        response.bytes_stream().map_err(failed)
    }

    /// The body as something to read from; its errors carry a [`ClientError`].
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin + use<> {
        StreamReader::new(self.into_stream().map_err(io::Error::other).boxed())
    }
}

/// What was asked, as an error says it.
fn asked(url: &str) -> Cow<'_, str> {
    // A URL has no blank: there is a verb before it.
    if url.contains(' ') { url.into() } else { format!("GET {url}").into() }
}

/// A URL that can be shown and logged: no user, no password, no fragment, and no value of a
/// query parameter that may be a token, such as `sig` of an Azure SAS. What the names of
/// sources are made of.
pub fn public_url(url: &Url) -> String {
    let mut shown = url.clone();
    strip_userinfo(&mut shown);
    shown.set_fragment(None);
    shown.set_query(None);
    let pairs = url.query().into_iter().flat_map(|query| query.split('&'));
    let pairs: Vec<String> = pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if is_secret(name, value) => format!("{name}=***"),
            None if pair.len() > MAX_SHOWN_VALUE => "***".to_owned(),
            _ => pair.to_owned(),
        })
        .collect();
    if pairs.is_empty() { shown.into() } else { format!("{shown}?{}", pairs.join("&")) }
}

fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    value.len() > MAX_SHOWN_VALUE || SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

fn strip_userinfo(url: &mut Url) {
    // Both fail only for URLs that cannot have a user in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| {
            tail.get(at).and_then(|digit| char::from(*digit).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
        };
        if let (b'%', Some(high), Some(low)) = (first, hex(0), hex(1)) {
            bytes.push(high * 16 + low);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether the environment's proxy is asked in place of the server.
fn is_proxied(url: &Url) -> bool {
    let uri = url.as_str().parse::<axum::http::Uri>();
    !is_loopback(url) && uri.is_ok_and(|uri| Matcher::from_env().intercept(&uri).is_some())
}

/// Whether that is the innermost cause. An I/O error passes over the error it wraps.
fn is_of_an_unknown_issuer(error: &(dyn Error + 'static)) -> bool {
    let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<rustls::Error>().is_some_and(|error| *error == unknown) {
            return true;
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map_or_else(|| error.source(), |wrapped| Some(wrapped));
    }
    false
}

fn header_name(name: &str) -> Result<HeaderName, ClientError> {
    name.parse().map_err(|_| ClientError::Header { name: name.to_owned() })
}

fn header_value(name: &str, value: &SecretString) -> Result<HeaderValue, ClientError> {
    let mut value =
        HeaderValue::from_str(value.expose_secret()).map_err(|_| ClientError::Header { name: name.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

fn redirected(from: &Url, response: &Response) -> Result<Url, ClientError> {
    let refused = |reason| ClientError::Redirect { url: public_url(from), reason };
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let mut to =
        location.and_then(|location| from.join(location).ok()).ok_or_else(|| refused("redirected to nowhere"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {
            strip_userinfo(&mut to);
            Ok(to)
        }
        ("https", "http") => Err(refused("redirected from https to http")),
        _ => Err(refused("redirected to something else than http")),
    }
}

/// `Retry-After`: seconds, or a date by the server's own clock.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let date = |text: &str| DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc());
    let asked = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(header::DATE).and_then(date).unwrap_or_else(Utc::now);
    Some((date(asked)? - now).to_std().unwrap_or_default())
}

enum Route {
    Environment,
    Direct,
    Through(Box<reqwest::Proxy>),
}

fn build(tls: &Tls, route: &Route, silent_at_most: Option<Duration>) -> Result<reqwest::Client, ClientError> {
    let given = tls.given.as_deref();
    let identity = given.and_then(|given| given.identity.as_ref());
    let identity = identity.map(|pem| Identity::from_pem(pem.expose_secret().as_bytes())).transpose();
    let identity = identity.map_err(|_| ClientError::Given { what: "the client certificate and its key" })?;
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_WITHIN)
            .tls_danger_accept_invalid_certs(tls.insecure_skip_verify);
        let builder = silent_at_most.into_iter().fold(builder, reqwest::ClientBuilder::read_timeout);
        let builder = identity.iter().cloned().fold(builder, reqwest::ClientBuilder::identity);
        match route {
            Route::Environment => builder,
            Route::Direct => builder.no_proxy(),
            Route::Through(proxy) => builder.proxy(reqwest::Proxy::clone(proxy)),
        }
    };
    if let Some(pem) = given.and_then(|given| given.authorities.as_ref()) {
        let authorities = Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|trusted| !trusted.is_empty());
        let authorities = authorities.ok_or(ClientError::Given { what: "the certificate authority" })?;
        return builder().tls_certs_only(authorities).build().map_err(ClientError::Tls);
    }
    if let Some(path) = &tls.ca_file {
        return builder().tls_certs_only(certificates(path)?).build().map_err(ClientError::Tls);
    }
    builder().build().or_else(|error| {
        // A bare container has no certificates, and may have no need of them.
        tracing::warn!(
            error = crate::report::one_line(&error),
            "the system trusts nobody: https will fail without tls.ca_file"
        );
        builder().tls_certs_only([]).build().map_err(ClientError::Tls)
    })
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let failed = |source| ClientError::CaFile { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(failed(io::Error::other("no PEM certificate in it"))),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests;
