//! Resources that an inherited configuration refers to: a reference in, what the resource says out, read anew
//! for each use. They stand in the configuration's own file, beside its documents; else in a directory, where
//! one is named; else the cluster's API is asked ([`crate::secret`]).
//!
//! A directory holds YAML or JSON files of the same resources (`*.yaml`, `*.yml`, `*.json`), and mounted Secrets: a folder
//! `NAME` or `NAMESPACE/NAME` with a file for each key, as Kubernetes mounts them. At most [`MAX_FILES`] files of at
//! most 1 MiB each are looked at.
//!
//! They are read for each request, so that what is sent is never older than the request, which no watch can promise; a
//! server that turns a token down has it read once more ([`crate::http::client`] says how it is sent). Who could do nothing with
//! what there was is told when it changes ([`Resources::changed`]).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::document::{self, Document, Spec};
use super::watch::{self, Seen};
use crate::config::{self, ConfigError};
use crate::secret::kubernetes;
use crate::secret::{ExposeSecret as _, KubernetesReason, SecretString};

/// Most files of a directory of resources.
pub(super) const MAX_FILES: usize = 10_000;
/// The largest of them, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Another resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// Its namespace; by default our own.
    #[serde(default)]
    pub namespace: Option<String>,
}

impl ObjectRef {
    /// The same; without a namespace of its own it is in that of the resource which refers to it.
    pub(super) fn beside(self, of: &Self) -> Self {
        Self { namespace: self.namespace.or_else(|| of.namespace.clone()), ..self }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A text that is not shown.
#[derive(Clone, Debug)]
pub(super) struct SecretText(pub(super) SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// The kinds of resources that are referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Secret,
    DatabaseConfig,
    ProviderConfig,
    ResourceConfig,
    MetricConfig,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::DatabaseConfig => "DatabaseConfig",
            Self::ProviderConfig => "ProviderConfig",
            Self::ResourceConfig => "ResourceConfig",
            Self::MetricConfig => "MetricConfig",
        }
    }

    /// What the API calls those of our group.
    pub(super) fn plural(self) -> Option<&'static str> {
        match self {
            Self::Secret => None,
            Self::DatabaseConfig => Some("databaseconfigs"),
            Self::ProviderConfig => Some("providerconfigs"),
            Self::ResourceConfig => Some("resourceconfigs"),
            Self::MetricConfig => Some("metricconfigs"),
        }
    }
}

/// A resource that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// Its name is none that Kubernetes takes.
    #[error("{kind} {of}: its name or namespace cannot be one of Kubernetes'")]
    Name {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
    },
    /// The directory cannot be read.
    #[error("{kind} {of}: read {}", path.display())]
    Read {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file of the directory is no resource.
    #[error("{kind} {of}")]
    Invalid {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
        /// The file, the line and the reason.
        #[source]
        source: Box<ConfigError>,
    },
    /// It is nowhere in the directory.
    #[error("{kind} {of}: there is none in {}", dir.display())]
    Missing {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
        /// The directory.
        dir: PathBuf,
    },
    /// The cluster did not give it.
    #[error("{kind} {of}")]
    Cluster {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
        /// Why.
        #[source]
        source: KubernetesReason,
    },
    /// It lacks something.
    #[error("{kind} {of}: {reason}")]
    Incomplete {
        /// What it is.
        kind: &'static str,
        /// Which.
        of: ObjectRef,
        /// What is missing or wrong.
        reason: String,
    },
}

impl ResourceError {
    /// Whether reading it again may go well a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Cluster { source, .. } if source.is_retryable())
    }
}

/// Where resources are looked for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Those of the configuration's own file.
    pub(super) given: Arc<Vec<Document>>,
    /// Where the others are files.
    pub(super) dir: Option<PathBuf>,
    /// What was read of the directory and of the cluster.
    pub(super) seen: Arc<Mutex<Seen>>,
}

/// The keys of a Secret and their texts, line breaks at their ends left out.
#[derive(Clone, Debug)]
pub(super) struct SecretKeys {
    pub(super) of: ObjectRef,
    keys: BTreeMap<String, SecretString>,
}

impl SecretKeys {
    /// A key's text; nothing when there is none, or nothing in it.
    pub(super) fn get(&self, key: &str) -> Option<&SecretString> {
        self.keys.get(key).filter(|text| !text.expose_secret().is_empty())
    }

    /// As [`Self::get`], for what has to be there.
    pub(super) fn required(&self, key: &str) -> Result<&SecretString, ResourceError> {
        self.get(key).ok_or_else(|| self.wrong(format!("it has no key {key}, or nothing in it")))
    }

    pub(super) fn wrong(&self, reason: String) -> ResourceError {
        ResourceError::Incomplete { kind: Kind::Secret.name(), of: self.of.clone(), reason }
    }

    fn insert(&mut self, key: &str, text: &str) {
        self.keys.insert(key.to_owned(), text.trim_end_matches(['\n', '\r']).into());
    }
}

/// Who a database's user is.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

impl Resources {
    pub(super) fn new(given: Vec<Document>, dir: Option<PathBuf>) -> Self {
        Self { given: Arc::new(given), dir, seen: Arc::default() }
    }

    /// Where a resource that does not stand in the configuration's own file is looked for.
    pub fn place(&self) -> String {
        match &self.dir {
            Some(dir) => format!("the directory {}", dir.display()),
            None => "the cluster".to_owned(),
        }
    }

    /// A Secret's keys.
    pub(super) async fn secret(&self, of: &ObjectRef) -> Result<SecretKeys, ResourceError> {
        let mut secret = SecretKeys { of: of.clone(), keys: BTreeMap::new() };
        let document = match self.document(Kind::Secret, of).await? {
            Found::Document(document) => document,
            Found::Mounted(keys) => {
                for (key, text) in keys {
                    secret.insert(&key, &text);
                }
                return Ok(secret);
            }
            Found::Nowhere => {
                let read = self.object(Kind::Secret, of, |secret: &Secret| &secret.metadata).await?;
                for (key, bytes) in read.data.unwrap_or_default() {
                    let text = String::from_utf8(bytes.0).map_err(|_| secret.wrong(format!("key {key} is no text")))?;
                    secret.insert(&key, &text);
                }
                return Ok(secret);
            }
        };
        for (key, SecretText(text)) in &document.data {
            let bytes = BASE64.decode(text.expose_secret().split_whitespace().collect::<String>()).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| secret.wrong(format!("key {key} of `data` is no text in base64")))?;
            secret.insert(key, &text);
        }
        for (key, SecretText(text)) in &document.string_data {
            secret.insert(key, text.expose_secret());
        }
        Ok(secret)
    }

    /// One key of a Secret.
    pub(super) async fn secret_key(&self, of: &ObjectRef, key: &str) -> Result<SecretString, ResourceError> {
        self.secret(of).await?.required(key).cloned()
    }

    /// The user of a DatabaseConfig.
    ///
    /// # Errors
    /// It, or the Secret it refers to, cannot be had.
    pub async fn login(&self, of: &ObjectRef) -> Result<Login, ResourceError> {
        let spec = self.spec(Kind::DatabaseConfig, of).await?;
        let missing = |what: &str| incomplete(Kind::DatabaseConfig, of, what);
        let username = spec.username.ok_or_else(|| missing("spec.username is missing"))?;
        let password = spec.password_secret_ref.and_then(|key| key.named());
        let (secret, key) = password.ok_or_else(|| missing("spec.passwordSecretRef names no key of a Secret"))?;
        let password = self.secret_key(&secret.beside(of), &key).await?;
        Ok(Login { username, password })
    }

    pub(super) async fn spec(&self, kind: Kind, of: &ObjectRef) -> Result<Spec, ResourceError> {
        let spec = match self.document(kind, of).await? {
            Found::Document(document) => document.spec,
            Found::Mounted(_) => None,
            Found::Nowhere => {
                #[derive(Deserialize)]
                struct Object {
                    #[serde(default)]
                    metadata: ObjectMeta,
                    spec: Option<Spec>,
                }
                self.object(kind, of, |object: &Object| &object.metadata).await?.spec
            }
        };
        spec.ok_or_else(|| incomplete(kind, of, "`spec` is missing"))
    }

    /// An object of the cluster; notes which version it is.
    async fn object<T: DeserializeOwned>(
        &self,
        kind: Kind,
        of: &ObjectRef,
        metadata: impl FnOnce(&T) -> &ObjectMeta,
    ) -> Result<T, ResourceError> {
        let read = kubernetes::object(kind.plural(), of.namespace.as_deref(), &of.name).await;
        let version = read.as_ref().ok().and_then(|object| metadata(object).resource_version.clone());
        self.seen().objects.insert((kind, of.clone()), version);
        read.map_err(|source| ResourceError::Cluster { kind: kind.name(), of: of.clone(), source })
    }

    async fn document(&self, kind: Kind, of: &ObjectRef) -> Result<Found, ResourceError> {
        if !kubernetes::is_name(&of.name) || of.namespace.as_deref().is_some_and(|name| !kubernetes::is_name(name)) {
            return Err(ResourceError::Name { kind: kind.name(), of: of.clone() });
        }
        if let Some(document) = self.given.iter().find(|document| is(document, kind, of)) {
            return Ok(Found::Document(Box::new(document.clone())));
        }
        let Some(dir) = self.dir.clone() else { return Ok(Found::Nowhere) };
        let (asked, resources) = (of.clone(), self.clone());
        let looking = tokio::task::spawn_blocking(move || {
            if resources.seen().files.is_none() {
                let stamp = watch::stamp(&dir);
                resources.seen().files = Some(stamp);
            }
            look(&dir, kind, &asked)
        });
        looking.await.unwrap_or_else(|error| Err(incomplete(kind, of, &error.to_string())))
    }
}

pub(super) fn incomplete(kind: Kind, of: &ObjectRef, reason: &str) -> ResourceError {
    ResourceError::Incomplete { kind: kind.name(), of: of.clone(), reason: reason.to_owned() }
}

/// What a look brought.
enum Found {
    Document(Box<Document>),
    /// A mounted Secret's files.
    Mounted(Vec<(String, String)>),
    /// Nothing, and only the cluster can know.
    Nowhere,
}

/// Where one of the two does not say its namespace, the name decides.
fn is(document: &Document, kind: Kind, of: &ObjectRef) -> bool {
    let namespaces = document.namespace().zip(of.namespace.as_deref());
    document.kind() == Some(kind.name())
        && document.name() == Some(&of.name)
        && namespaces.is_none_or(|(own, asked)| own == asked)
}

/// Looks through a directory.
fn look(dir: &Path, kind: Kind, of: &ObjectRef) -> Result<Found, ResourceError> {
    let failed =
        |path: &Path, source| ResourceError::Read { kind: kind.name(), of: of.clone(), path: path.to_owned(), source };
    if kind == Kind::Secret {
        let below = of.namespace.as_ref().map(|namespace| dir.join(namespace).join(&of.name));
        for mounted in below.into_iter().chain([dir.join(&of.name)]) {
            if mounted.is_dir() {
                return keys(&mounted).map(Found::Mounted).map_err(|source| failed(&mounted, source));
            }
        }
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|source| failed(dir, source))?.take(MAX_FILES) {
        let path = entry.map_err(|source| failed(dir, source))?.path();
        let is_resource = path.extension().is_some_and(|is| is == "yaml" || is == "yml" || is == "json");
        if is_resource && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    // A file that is none keeps nobody from the others.
    let mut unread = None;
    for path in paths {
        let text = text(&path).map_err(|source| failed(&path, source));
        let documents = text.and_then(|text| {
            document::read(&text, &path).map_err(|source| ResourceError::Invalid {
                kind: kind.name(),
                of: of.clone(),
                source: source.into(),
            })
        });
        match documents.map(|documents| documents.into_iter().find(|document| is(document, kind, of))) {
            Ok(Some(document)) => return Ok(Found::Document(Box::new(document))),
            Ok(None) => {}
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    Err(unread.unwrap_or_else(|| ResourceError::Missing { kind: kind.name(), of: of.clone(), dir: dir.to_owned() }))
}

/// A mounted Secret's keys. Kubernetes keeps the files themselves in folders that begin with two dots.
fn keys(mounted: &Path) -> io::Result<Vec<(String, String)>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(mounted)?.take(MAX_FILES) {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
        if let Some(name) = name.filter(|_| path.is_file()) {
            keys.push((name.to_owned(), text(&path)?));
        }
    }
    Ok(keys)
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = config::read_at_most(path, MAX_FILE_BYTES)?;
    // Not the error itself: it holds the bytes.
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}
