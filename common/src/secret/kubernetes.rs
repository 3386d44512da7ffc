//! A key of a Kubernetes Secret, or a whole object: its name in, its text out, by one GET of the cluster's API for
//! each read, over a connection of its own. Who we are and where the cluster is, is read anew
//! too: from the kubeconfig (`KUBECONFIG`, else `~/.kube/config`), or, where there is none,
//! from the pod's service account. The role needs the verb `get` on `secrets` and no other.
//!
//! Holds one answer, at most [`MAX_ANSWER_BYTES`]. Does not list or try again; gives up
//! after [`READ_WITHIN`]. [`changed`] waits for another version of what was read. Nothing of a value, and nothing of a kubeconfig, gets into an error.
//! That is why answers are read here: kube's own way logs the whole body of one that it cannot
//! read, and its errors quote the line.
//!
//! Spec: <https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/>,
//! errors as <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>.

use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::{self, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use k8s_openapi::api::core::v1::Secret;
use kube::api::GetParams;
use kube::client::{AuthError, Body, RustlsTlsError};
use kube::config::{InClusterError, Kubeconfig, KubeconfigError};
use kube::core::{Request, Status};
use kube::{Client, Config, Resource as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::watch::changed;

mod watch;

/// Where the API has the resources of Krateo's FinOps.
const OURS: &str = "/apis/finops.krateo.io/v1";
/// How long a read may take, the program that a kubeconfig may name for its credentials included.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// The largest answer worth reading: a Secret is at most 1 MiB, a third more in base64, and an
/// annotation may have all of it once more.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// As much of a cluster's error text as ours repeats, in characters.
const MAX_SHOWN: usize = 300;
/// As many of a Secret's keys as an error names.
const MAX_SHOWN_KEYS: usize = 20;
/// The longest name of an object, in bytes.
const MAX_NAME: usize = 253;
/// The longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 63;

/// Where in the cluster a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct KubernetesKey {
    /// Its namespace; by default the kubeconfig's, or the pod's own.
    namespace: Option<String>,
    name: String,
    key: String,
}

/// A place as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    key: String,
    namespace: Option<String>,
}

impl TryFrom<Written> for KubernetesKey {
    type Error = String;

    /// Takes what Kubernetes takes, so that no name reaches another part of the API.
    fn try_from(Written { name, key, namespace }: Written) -> Result<Self, String> {
        let lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let dotted = |c: u8| lower(c) || c == b'.';
        let mixed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let is_name = |text: &str, longest, allowed: &dyn Fn(u8) -> bool| {
            (1..=longest).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..")
        };
        if !is_name(&name, MAX_NAME, &dotted) {
            return Err(format!("`name`: {name:?} cannot be a Kubernetes Secret's"));
        }
        if !is_name(&key, MAX_NAME, &mixed) {
            return Err(format!("`key`: {key:?} cannot be a key of a Kubernetes Secret"));
        }
        match namespace {
            Some(namespace) if !is_name(&namespace, MAX_NAMESPACE, &lower) => {
                Err(format!("`namespace`: {namespace:?} cannot be a Kubernetes namespace's"))
            }
            namespace => Ok(Self { namespace, name, key }),
        }
    }
}

impl fmt::Display for KubernetesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}, key {}", self.name, self.key)
    }
}

/// A key of a Kubernetes Secret that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("Kubernetes Secret {of}")]
pub struct KubernetesError {
    /// Which, with its namespace as far as that is known.
    pub of: KubernetesKey,
    /// Why.
    #[source]
    pub reason: KubernetesReason,
}

/// Why a key could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesReason {
    /// Nobody says where a cluster is, or what they say cannot be used.
    #[error("no cluster: {0}")]
    NoCluster(String),
    /// The cluster's API cannot be reached, or broke off.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("the cluster has not answered within {}s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The namespace has no such Secret.
    #[error("no such secret")]
    NoSecret,
    /// The namespace has no such object, which is no Secret.
    #[error("there is none of this name")]
    NoObject,
    /// The Secret has other keys.
    #[error("no such key: it has {0}")]
    NoKey(String),
    /// We may not read it.
    #[error("forbidden: our role lacks the verb get on secrets there (the cluster says: {0})")]
    Forbidden(String),
    /// The cluster says something else than the Secret.
    #[error("the cluster answers {status}: {text}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it said, cut.
        text: String,
    },
    /// The answer is larger than a Secret can be.
    #[error("the cluster's answer is larger than {} MiB", MAX_ANSWER_BYTES >> 20)]
    TooLarge,
    /// The answer is not a Secret: not JSON, or a value that is not base64.
    #[error("the cluster's answer is no Secret (line {line}, column {column})")]
    NotASecret {
        /// Where it stops being one, from 1.
        line: usize,
        /// Where in the line, from 1.
        column: usize,
    },
    /// The value is binary.
    #[error("its value is no text")]
    NotText,
}

impl KubernetesReason {
    /// Whether the same question may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

impl KubernetesKey {
    pub(super) async fn read(&self) -> Result<String, KubernetesError> {
        self.read_within(READ_WITHIN, configured).await
    }

    async fn read_within(
        &self,
        within: Duration,
        config: impl FnOnce() -> Result<Config, KubernetesReason> + Send + 'static,
    ) -> Result<String, KubernetesError> {
        let until = Instant::now() + within;
        let late = |_| KubernetesReason::TimedOut(within);
        let failed = |of: &Self, reason| KubernetesError { of: of.clone(), reason };
        let client = timeout_at(until, connect(config)).await.map_err(late).flatten();
        let client = client.map_err(|reason| failed(self, reason))?;
        let namespace = self.namespace.as_deref().unwrap_or(client.default_namespace());
        let path = Secret::url_path(&(), Some(namespace));
        let secret = timeout_at(until, get(&client, path, &self.name)).await.map_err(late).flatten();
        secret
            .and_then(|secret| value(secret, &self.key))
            .map_err(|reason| failed(&Self { namespace: Some(namespace.to_owned()), ..self.clone() }, reason))
    }
}

/// Reads an object of a kind of ours: `plural` of `finops.krateo.io/v1`, or Secrets when there is none.
pub(crate) async fn object<T: DeserializeOwned>(
    plural: Option<&str>,
    namespace: Option<&str>,
    name: &str,
) -> Result<T, KubernetesReason> {
    let late = |_| KubernetesReason::TimedOut(READ_WITHIN);
    let read = async {
        let client = connect(configured).await?;
        let got = get(&client, path(&client, plural, namespace), name).await;
        got.map_err(|reason| match (reason, plural) {
            (KubernetesReason::NoSecret, Some(_)) => KubernetesReason::NoObject,
            (KubernetesReason::Forbidden(text), Some(_)) => {
                KubernetesReason::Refused { status: StatusCode::FORBIDDEN, text }
            }
            (reason, _) => reason,
        })
    };
    timeout_at(Instant::now() + READ_WITHIN, read).await.map_err(late).flatten()
}

/// Where objects are, by default in our own namespace.
fn path(client: &Client, plural: Option<&str>, namespace: Option<&str>) -> String {
    let namespace = namespace.unwrap_or(client.default_namespace());
    match plural {
        None => Secret::url_path(&(), Some(namespace)),
        Some(plural) => format!("{OURS}/namespaces/{namespace}/{plural}"),
    }
}

/// Whether a text can be the name of an object, or of a namespace: it reaches no other part of the API.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..")
}

/// Where the cluster is and who we are: what it takes to ask its API for anything. A kubeconfig's credential
/// program is not run for it.
pub(crate) async fn cluster() -> Result<Config, KubernetesReason> {
    let read = tokio::task::spawn_blocking(configured).await;
    read.map_err(|error| KubernetesReason::NoCluster(error.to_string())).flatten()
}

/// Reads who we are and where the cluster is. Connects with the first question.
async fn connect(
    config: impl FnOnce() -> Result<Config, KubernetesReason> + Send + 'static,
) -> Result<Client, KubernetesReason> {
    let client = || {
        let mut config = config()?;
        // Whoever reads tries again, and knows for how long.
        config.default_retry = false;
        if config.cluster_url.host().is_some_and(is_loopback) {
            config.proxy_url = None;
        }
        Client::try_from(config).map_err(|error| KubernetesReason::NoCluster(unusable(&error)))
    };
    // A kubeconfig may name a program to run for its credentials, and that is waited for.
    let opened = tokio::task::spawn_blocking(client).await;
    opened.map_err(|error| KubernetesReason::NoCluster(error.to_string())).flatten()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn configured() -> Result<Config, KubernetesReason> {
    let kubeconfig = match Kubeconfig::read().and_then(Config::try_from) {
        Ok(config) => return Ok(config),
        Err(error) => unreadable(&error),
    };
    Config::incluster().map_err(|error| {
        let pod = match error {
            InClusterError::ReadEnvironmentVariable(_) => "not in a pod".to_owned(),
            error => error.to_string(),
        };
        KubernetesReason::NoCluster(format!("{kubeconfig}; {pod}"))
    })
}

/// A kubeconfig's error without what stands in the file.
fn unreadable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let line = error.without_snippet().location().map(|at| format!(" (line {})", at.line()));
            format!("the kubeconfig is none{}", line.unwrap_or_default())
        }
        KubeconfigError::ReadConfig(error, path) => format!("no kubeconfig {}: {error}", path.display()),
        error => format!("kubeconfig: {error}"),
    }
}

/// Why there is no client, without credentials of the cluster or a proxy.
fn unusable(error: &kube::Error) -> String {
    match error {
        kube::Error::InferKubeconfig(error) => unreadable(error),
        kube::Error::Auth(error) => match error {
            AuthError::AuthExecRun { out, .. } => format!("the kubeconfig's credential program failed: {}", out.status),
            AuthError::AuthExecParse(_) => "the kubeconfig's credential program printed no credential".to_owned(),
            error => error.to_string(),
        },
        kube::Error::RustlsTls(RustlsTlsError::AddRootCertificate(error)) => {
            format!("the cluster's certificate authority: {error}")
        }
        kube::Error::RustlsTls(_) => "the client certificate or its key is none".to_owned(),
        kube::Error::ProxyProtocolDisabled { .. } | kube::Error::ProxyProtocolUnsupported { .. } => {
            "the proxy is neither http nor https".to_owned()
        }
        error => error.to_string(),
    }
}

async fn get<T: DeserializeOwned>(client: &Client, path: String, name: &str) -> Result<T, KubernetesReason> {
    let asked = Request::new(path.as_str()).get(name, &GetParams::default());
    let asked = asked.map_err(|error| KubernetesReason::NoCluster(format!("{path}/{name}: {error}")))?;
    let answer = send(client, asked).await?;
    let status = answer.status();
    let body = whole(answer.into_body()).await?;
    if status != StatusCode::OK {
        return Err(refused(status, &body));
    }
    parse(&body)
}

async fn send(client: &Client, asked: http::Request<Vec<u8>>) -> Result<http::Response<Body>, KubernetesReason> {
    client.send(asked.map(Body::from)).await.map_err(|error| unreachable(&error))
}

async fn whole(body: Body) -> Result<Bytes, KubernetesReason> {
    let whole = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            KubernetesReason::TooLarge
        } else {
            KubernetesReason::Unreachable(crate::report::one_line(error.as_ref()))
        }
    })?;
    Ok(whole.to_bytes())
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, KubernetesReason> {
    serde_json::from_slice(json)
        .map_err(|error| KubernetesReason::NotASecret { line: error.line(), column: error.column() })
}

fn unreachable(error: &kube::Error) -> KubernetesReason {
    // kube's own text is its cause's, said again.
    KubernetesReason::Unreachable(crate::report::one_line(error.source().unwrap_or(error)))
}

fn refused(status: StatusCode, body: &Bytes) -> KubernetesReason {
    // Any JSON object reads as a status without a reason; the cluster's have one.
    let said = serde_json::from_slice::<Status>(body).ok().filter(|said| !said.reason.is_empty());
    let Some(said) = said else {
        return KubernetesReason::Refused { status, text: "not the Kubernetes API's way of saying so".to_owned() };
    };
    let text = said.message.chars().take(MAX_SHOWN).collect();
    match status {
        StatusCode::NOT_FOUND => KubernetesReason::NoSecret,
        StatusCode::FORBIDDEN => KubernetesReason::Forbidden(text),
        status => KubernetesReason::Refused { status, text },
    }
}

fn value(secret: Secret, key: &str) -> Result<String, KubernetesReason> {
    let mut data = secret.data.unwrap_or_default();
    match data.remove(key) {
        Some(value) => String::from_utf8(value.0).map_err(|_| KubernetesReason::NotText),
        None => {
            let mut keys: Vec<_> = data.into_keys().take(MAX_SHOWN_KEYS + 1).collect();
            if let Some(last) = keys.get_mut(MAX_SHOWN_KEYS) {
                "more".clone_into(last);
            }
            let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            Err(KubernetesReason::NoKey(keys))
        }
    }
}

#[cfg(test)]
mod tests;
