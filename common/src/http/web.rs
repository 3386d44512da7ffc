//! The web configuration file of the Prometheus family (exporter-toolkit's `--web.config.file`):
//! TLS, users with bcrypt hashes, response headers. Keys that we cannot honour are errors, never
//! ignored. Spec: <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>.
//!
//! Passwords are checked on every request. A bcrypt check runs on a blocking thread, at most
//! [`CONCURRENT_CHECKS`] at a time with [`WAITING_CHECKS`] waiting; what was verified is
//! remembered as exporter-toolkit does, here by the digest of user, hash and password, in at
//! most [`REMEMBERED`] entries, so a changed hash forgets the old password. An unknown user
//! costs what a known one does.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_rustls::rustls;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use crate::config::{self, ConfigError};

/// Passwords checked at the same time: bcrypt is meant to be slow, and must not take every core.
const CONCURRENT_CHECKS: usize = 2;
/// Requests that may wait for a password check; the rest are told to come back.
const WAITING_CHECKS: usize = 64;
/// Verified passwords remembered, 32 bytes each.
const REMEMBERED: usize = 1024;
/// The cost of the check for an unknown user when no user says otherwise: bcrypt's default.
const DEFAULT_COST: u32 = 10;
/// The costs that a hash may have: what htpasswd makes. A check takes twice as long with each,
/// some ten seconds with the last.
const COSTS: RangeInclusive<u32> = 4..=17;
/// The largest certificate or key file worth reading, in bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A web configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebConfigError {
    /// The file is missing, is not YAML, or has an unknown key.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key's value cannot be honoured.
    #[error("web configuration {}: {key}: {reason}", path.display())]
    Value {
        /// The file as given.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A certificate or key file cannot be used.
    #[error("web configuration: {key} {}: {reason}", path.display())]
    Pem {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A web configuration: as read, and renewed by [`WebConfig::reload`] when its files change.
#[derive(Debug)]
pub struct WebConfig {
    path: PathBuf,
    read: Read,
    /// The files as they were when last looked at, good or not.
    seen: Mutex<Vec<Stamp>>,
    doors: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    verified: Arc<Mutex<HashSet<[u8; 32]>>>,
}

/// What the files said.
struct Read {
    users: BTreeMap<String, String>,
    unknown_user: String,
    headers: HeaderMap,
    tls: Option<Arc<rustls::ServerConfig>>,
    client_certificates: bool,
    files: Vec<PathBuf>,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let users: Vec<_> = self.users.keys().collect();
        f.debug_struct("Read").field("users", &users).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// When and how large a file was; nothing when it could not be asked.
type Stamp = Option<(SystemTime, u64)>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<Tls>,
    http_server_config: Option<Http>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    cert: Option<String>,
    key: Option<String>,
    client_auth_type: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_allowed_sans: Option<Vec<String>>,
    cipher_suites: Option<Vec<String>>,
    curve_preferences: Option<Vec<String>>,
    /// Go ignores it since 1.17, and so do we.
    prefer_server_cipher_suites: Option<bool>,
    min_version: Option<String>,
    max_version: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    /// Allows HTTP/2; we speak HTTP/1.1 alone, to which every client falls back.
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

/// What a request's password was worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No users are configured: everybody may.
    Open,
    /// The user who proved to be one.
    User(String),
    /// No password, or a wrong one.
    Refused,
    /// Too many checks are waiting: come back later.
    Busy,
}

impl WebConfig {
    /// Reads the file, and the certificates it names (relative to its own directory).
    ///
    /// # Errors
    /// A file is missing or no good; a key is unknown or asks for what we do not do.
    pub fn load(path: &Path) -> Result<Self, WebConfigError> {
        Ok(Self::new(Read::from(path, config::load(path)?)?, path))
    }

    /// Reads a configuration from its text; the certificates it names are looked for beside
    /// `path`, which is what an error names.
    ///
    /// # Errors
    /// As [`WebConfig::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, WebConfigError> {
        Ok(Self::new(Read::from(path, config::parse(text, path)?)?, path))
    }

    fn new(read: Read, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: Mutex::new(read.stamps()),
            read,
            doors: Arc::new(Semaphore::new(CONCURRENT_CHECKS)),
            waiting: Arc::new(Semaphore::new(CONCURRENT_CHECKS + WAITING_CHECKS)),
            verified: Arc::default(),
        }
    }

    /// Reads the files again when one of them changed, and says what came of it: the new
    /// configuration, or nothing when nothing changed. The old one stays good after an error,
    /// which is told once. Blocks on file IO.
    ///
    /// # Errors
    /// As [`WebConfig::load`].
    pub fn reload(&self) -> Result<Option<Self>, WebConfigError> {
        // Taken before the files are read: what changes meanwhile is seen the next time.
        let stamps = self.read.stamps();
        if std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), stamps.clone()) == stamps {
            return Ok(None);
        }
        let read = Read::from(&self.path, config::load(&self.path)?)?;
        Ok(Some(Self {
            path: self.path.clone(),
            seen: Mutex::new(if read.files == self.read.files { stamps } else { read.stamps() }),
            read,
            doors: Arc::clone(&self.doors),
            waiting: Arc::clone(&self.waiting),
            verified: Arc::clone(&self.verified),
        }))
    }

    /// Whether nobody gets in without proving who they are.
    pub fn authenticates(&self) -> bool {
        !self.read.users.is_empty() || self.read.client_certificates
    }

    /// The TLS configuration, when there is one.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.read.tls.clone()
    }

    /// Headers to put on every answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.read.headers
    }

    /// The names of the users.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.read.users.keys().map(String::as_str)
    }

    /// Checks a request's basic authentication. Costs a bcrypt check unless this very password
    /// was verified before.
    pub async fn verify(&self, headers: &HeaderMap) -> Verdict {
        self.verify_any(Login::of(headers).into_iter().collect()).await
    }

    /// Checks readings of one request's login, one after the other; the first that is right
    /// counts. Costs a bcrypt check for each up to that one, whether their users are known or not,
    /// unless one of them was verified before.
    pub async fn verify_any(&self, readings: Vec<Login>) -> Verdict {
        if self.read.users.is_empty() {
            return Verdict::Open;
        }
        if readings.is_empty() {
            return Verdict::Refused;
        }
        let checks: Vec<_> = readings.into_iter().map(|login| self.check(login)).collect();
        {
            let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(check) = checks.iter().find(|check| check.is_known && verified.contains(&check.key)) {
                return Verdict::User(check.login.user.clone());
            }
        }
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { return Verdict::Busy };
        let Ok(door) = Arc::clone(&self.doors).acquire_owned().await else { return Verdict::Busy };
        // The permits go along: a check goes on when its client has gone, and still counts.
        let right = tokio::task::spawn_blocking(move || {
            let right = checks.into_iter().find(Check::is_right);
            drop((place, door));
            right
        });
        let Ok(Some(Check { login, key, .. })) = right.await else { return Verdict::Refused };
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(key);
        Verdict::User(login.user)
    }

    fn check(&self, login: Login) -> Check {
        let known = self.read.users.get(&login.user);
        let hash = known.unwrap_or(&self.read.unknown_user).clone();
        Check { key: digest(&login.user, &hash, &login.password), is_known: known.is_some(), hash, login }
    }
}

/// A user's name and password as a client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, as bytes: nobody says which text it is.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// What the `Basic` header of a request says; nothing when there is none, or it is anything else.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let at = decoded.iter().position(|byte| *byte == b':')?;
        let user = std::str::from_utf8(&decoded[..at]).ok()?.to_owned();
        Some(Self { user, password: decoded[at + 1..].to_vec() })
    }

    /// What the login says when it was written in base64 once more, as the systems before ours take
    /// it: the password, then both. Only what is base64 of a text.
    pub fn decoded(&self) -> impl Iterator<Item = Self> {
        let text = |encoded: &[u8]| {
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
            String::from_utf8(decoded).ok().filter(|text| !text.is_empty())
        };
        let password = text(&self.password);
        let user = password.as_ref().and_then(|_| text(self.user.as_bytes()));
        let users = [password.is_some().then(|| self.user.clone()), user].into_iter().flatten();
        users.map(move |user| Self { user, password: password.clone().unwrap_or_default().into_bytes() })
    }
}

/// One bcrypt check to make.
struct Check {
    login: Login,
    hash: String,
    key: [u8; 32],
    is_known: bool,
}

impl Check {
    fn is_right(&self) -> bool {
        // First the check: an unknown user costs what a known one does.
        bcrypt::verify(&self.login.password, &self.hash).unwrap_or(false) && self.is_known
    }
}

fn digest(user: &str, hash: &str, password: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in [user.as_bytes(), hash.as_bytes(), password] {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

impl Read {
    fn from(path: &Path, file: File) -> Result<Self, WebConfigError> {
        let wrong =
            |key: &str, reason: String| WebConfigError::Value { path: path.to_owned(), key: key.to_owned(), reason };
        if file.rate_limit.is_some() {
            return Err(wrong("rate_limit", "is not supported".to_owned()));
        }
        let users = file.basic_auth_users.unwrap_or_default();
        let mut cost = None;
        for (user, hash) in &users {
            let key = || format!("basic_auth_users.{user}");
            if user.contains(':') {
                return Err(wrong(&key(), "a user's name has no colon".to_owned()));
            }
            let parts: bcrypt::HashParts = hash
                .parse()
                .map_err(|_| wrong(&key(), "is no bcrypt hash (htpasswd -nBC 10 NAME makes one)".to_owned()))?;
            if !COSTS.contains(&parts.get_cost()) {
                let reason = format!("is of cost {}: {} to {} are taken", parts.get_cost(), COSTS.start(), COSTS.end());
                return Err(wrong(&key(), reason));
            }
            cost = cost.max(Some(parts.get_cost()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in file.http_server_config.and_then(|http| http.headers).unwrap_or_default() {
            let bad = |_| wrong(&format!("http_server_config.headers.{name}"), "is no header".to_owned());
            let value = HeaderValue::from_str(&value).map_err(|_| bad(()))?;
            headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?, value);
        }
        let mut files = vec![path.to_owned()];
        let mut client_certificates = false;
        let tls = match &file.tls_server_config {
            Some(tls) => {
                client_certificates = tls.client_auth_type.as_deref() == Some("RequireAndVerifyClientCert");
                Some(Arc::new(tls.server_config(path, &mut files)?))
            }
            None => None,
        };
        // A salt and a digest of no password in particular, at the cost the known users have.
        let unknown_user =
            format!("$2y${:02}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi", cost.unwrap_or(DEFAULT_COST));
        Ok(Self { users, unknown_user, headers, tls, client_certificates, files })
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.files.iter().map(stamp).collect()
    }
}

impl Tls {
    fn server_config(&self, path: &Path, files: &mut Vec<PathBuf>) -> Result<rustls::ServerConfig, WebConfigError> {
        let wrong = |key: &str, reason: &str| WebConfigError::Value {
            path: path.to_owned(),
            key: format!("tls_server_config.{key}"),
            reason: reason.to_owned(),
        };
        for (key, given) in [
            ("cipher_suites", self.cipher_suites.is_some()),
            ("curve_preferences", self.curve_preferences.is_some()),
            ("client_allowed_sans", self.client_allowed_sans.is_some()),
        ] {
            if given {
                return Err(wrong(key, "is not supported"));
            }
        }
        let near = |name: &Path| path.parent().unwrap_or(Path::new("")).join(name);
        let mut pem = |key: &'static str, file: &Option<PathBuf>, inline: Option<&String>| match (file, inline) {
            (Some(_), Some(_)) => Err(wrong(key, "is given twice, as a file and as text")),
            (None, None) => Err(wrong(key, "is missing")),
            (None, Some(text)) => Ok((path.to_owned(), text.clone().into_bytes())),
            (Some(file), None) => {
                let file = near(file);
                let failed = |reason: String| WebConfigError::Pem { key, path: file.clone(), reason };
                let bytes = config::read_at_most(&file, MAX_PEM_BYTES).map_err(|error| failed(error.to_string()))?;
                files.push(file.clone());
                Ok((file, bytes))
            }
        };
        let (cert_path, cert) = pem("cert_file", &self.cert_file, self.cert.as_ref())?;
        let (key_path, key) = pem("key_file", &self.key_file, self.key.as_ref())?;
        let client_ca = match &self.client_ca_file {
            Some(_) => Some(pem("client_ca_file", &self.client_ca_file, None)?),
            None => None,
        };

        let chain = certificates("cert_file", &cert_path, &cert)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| WebConfigError::Pem {
            key: "key_file",
            path: key_path.clone(),
            reason: error.to_string(),
        })?;

        let version = |key: &str, text: Option<&str>, default: u8| match text {
            None => Ok(default),
            Some("TLS12") => Ok(2),
            Some("TLS13") => Ok(3),
            Some(_) => Err(wrong(key, "is neither TLS12 nor TLS13")),
        };
        let versions = version("min_version", self.min_version.as_deref(), 2)?
            ..=version("max_version", self.max_version.as_deref(), 3)?;
        let versions: Vec<_> = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)]
            .into_iter()
            .filter_map(|(number, version)| versions.contains(&number).then_some(version))
            .collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|_| wrong("max_version", "is below min_version"))?;

        let verifier = |required: bool| {
            let (ca_path, ca) = client_ca.as_ref().ok_or_else(|| wrong("client_ca_file", "is missing"))?;
            let mut roots = rustls::RootCertStore::empty();
            let failed = |reason: String| WebConfigError::Pem { key: "client_ca_file", path: ca_path.clone(), reason };
            for certificate in certificates("client_ca_file", ca_path, ca)? {
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
            verifier.build().map_err(|error| failed(error.to_string()))
        };
        let builder = match self.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") if client_ca.is_some() => {
                return Err(wrong("client_auth_type", "is needed with client_ca_file"));
            }
            None | Some("" | "NoClientCert") => builder.with_no_client_auth(),
            Some("VerifyClientCertIfGiven") => builder.with_client_cert_verifier(verifier(false)?),
            Some("RequireAndVerifyClientCert") => builder.with_client_cert_verifier(verifier(true)?),
            Some(_) => {
                let known = "is none of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert";
                return Err(wrong("client_auth_type", known));
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| WebConfigError::Pem {
            key: "key_file",
            path: key_path,
            reason: error.to_string(),
        })?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(server)
    }
}

fn certificates(key: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    let failed = |reason: String| WebConfigError::Pem { key, path: path.to_owned(), reason };
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("holds no certificate".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `secret`, at bcrypt's lowest cost.
    const HASH: &str = "$2y$04$uAgn.QLUcqT9SkWCjvyl7O5W8qhJVELVlsePn4sU1H3RHrO8bZ7RO";

    fn load(text: &str) -> Result<WebConfig, WebConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("web.yaml");
        std::fs::write(&path, text).expect("write the web configuration");
        WebConfig::load(&path)
    }

    fn headers(user: &str, password: &str) -> HeaderMap {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let value = HeaderValue::from_str(&format!("Basic {encoded}")).expect("a header");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[tokio::test]
    async fn a_verified_password_is_remembered_and_a_wrong_one_is_not() {
        let hash = bcrypt::hash("secret", 4).expect("a hash");
        let web = load(&format!("basic_auth_users:\n  ann: {hash}\n")).expect("a good file");
        assert!(web.authenticates());
        for (user, password, verdict) in [
            ("ann", "secret", Verdict::User("ann".to_owned())),
            ("ann", "secret", Verdict::User("ann".to_owned())),
            ("ann", "wrong", Verdict::Refused),
            ("ann", "", Verdict::Refused),
            ("bob", "secret", Verdict::Refused),
            ("", "", Verdict::Refused),
        ] {
            assert_eq!(web.verify(&headers(user, password)).await, verdict, "{user}:{password}");
        }
        assert_eq!(web.verified.lock().expect("not poisoned").len(), 1);
        assert_eq!(web.verify(&HeaderMap::new()).await, Verdict::Refused);
        let bearer = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer abc"))]);
        assert_eq!(web.verify(&bearer).await, Verdict::Refused);
    }

    #[tokio::test]
    async fn a_login_written_in_base64_once_more_is_read_too() {
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let long = base64("c2VjcmV0");
        for (user, password, expected) in [
            ("ann", "secret", vec![]),
            ("ann", "not base64", vec![]),
            // Base64, but of no text.
            ("ann", "/w==", vec![]),
            ("ann", "c2VjcmV0", vec![("ann", "secret")]),
            ("YW5u", "c2VjcmV0", vec![("YW5u", "secret"), ("ann", "secret")]),
            // Once more, not again and again.
            ("ann", &long, vec![("ann", "c2VjcmV0")]),
            ("YW5u", "secret!", vec![]),
            ("", "", vec![]),
            ("", "c2VjcmV0", vec![("", "secret")]),
        ] {
            let login = Login { user: user.to_owned(), password: password.as_bytes().to_vec() };
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(user, password)| Login { user: user.to_owned(), password: password.as_bytes().to_vec() })
                .collect();
            let decoded: Vec<_> = login.decoded().collect();
            assert!(decoded == expected, "{user}:{password}: {decoded:?}");
            assert!(!format!("{login:?}").contains(password) || password.is_empty(), "{login:?}");
        }
        let hash = |password: &str| bcrypt::hash(password, 4).expect("a hash");
        let two = format!("basic_auth_users: {{ann: {}, bob: {}}}\n", hash("secret"), hash("other"));
        let web = load(&two).expect("a good file");
        for (user, password, verdict) in [
            ("ann", "c2VjcmV0", Verdict::User("ann".to_owned())),
            ("YW5u", "c2VjcmV0", Verdict::User("ann".to_owned())),
            ("YW5u", "secret", Verdict::Refused),
            ("bob", "c2VjcmV0", Verdict::Refused),
            ("bob", "b3RoZXI=", Verdict::User("bob".to_owned())),
            ("ann", "b3RoZXI=", Verdict::Refused),
        ] {
            let login = Login::of(&headers(user, password)).expect("a login");
            let readings = std::iter::once(login.clone()).chain(login.decoded()).collect();
            assert_eq!(web.verify_any(readings).await, verdict, "{user}:{password}");
        }
        assert_eq!(web.verified.lock().expect("not poisoned").len(), 2, "what was right, as it was read");
    }

    #[tokio::test]
    async fn checks_beyond_the_bound_are_told_to_come_back() {
        let web = load(&format!("basic_auth_users: {{ann: {HASH}}}\n")).expect("a good file");
        let places = u32::try_from(CONCURRENT_CHECKS + WAITING_CHECKS).expect("a small number");
        let _taken = web.waiting.clone().acquire_many_owned(places).await.expect("places");
        assert_eq!(web.verify(&headers("ann", "secret")).await, Verdict::Busy);
    }

    #[test]
    fn an_unknown_user_is_checked_at_the_known_ones_cost() {
        let web = load(&format!("basic_auth_users: {{ann: {HASH}}}\n")).expect("a good file");
        assert_eq!(bcrypt::verify("secret", &web.read.unknown_user).ok(), Some(false));
        assert!(web.read.unknown_user.starts_with("$2y$04$"), "{}", web.read.unknown_user);
    }

    #[test]
    fn a_hash_is_of_a_cost_that_can_be_paid() {
        for (cost, is_taken) in [("00", false), ("03", false), ("04", true), ("17", true), ("18", false)] {
            let text = format!("basic_auth_users: {{ann: {}}}\n", HASH.replacen("04", cost, 1));
            match load(&text) {
                Ok(_) => assert!(is_taken, "{cost}"),
                Err(error) => assert!(!is_taken && error.to_string().contains("ann: is of cost"), "{error}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (text, named) in [
            ("basic_auth_user: {}\n", "basic_auth_user"),
            ("basic_auth_users: {ann: secret}\n", "basic_auth_users.ann"),
            ("rate_limit: {interval: 1s}\n", "rate_limit"),
            ("tls_server_config: {key_file: k}\n", "cert_file"),
            ("tls_server_config: {cert_file: missing.pem, key_file: k}\n", "missing.pem"),
            ("tls_server_config: {cert_file: /dev/zero, key_file: k}\n", "larger than 1 MiB"),
            ("tls_server_config: {cert_file: c, key_file: k, cipher_suites: [A]}\n", "cipher_suites"),
            ("http_server_config: {headers: {\"a b\": c}}\n", "headers.a b"),
        ] {
            let error = crate::report::one_line(&load(text).expect_err(text));
            assert!(error.contains(named) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(!load("{}\n").expect("an empty file").authenticates());
    }
}
