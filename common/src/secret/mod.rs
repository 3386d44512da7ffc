//! Secrets: where they come from, read anew for every use so that a rotated one is taken, and
//! never printed. The text itself is a [`SecretString`], which redacts itself.

pub(crate) mod kubernetes;

use std::io;
use std::path::PathBuf;
use std::string::FromUtf8Error;

pub use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncReadExt;

pub use self::kubernetes::{KubernetesError, KubernetesKey, KubernetesReason};

/// The longest secret worth reading, in bytes; a larger file is a mistaken path.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Where a secret is to be found. Never the secret itself, in a configuration file: that is no place
/// for one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretSource {
    /// A file, such as a mounted Kubernetes Secret. Line breaks at its end are not part of it.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A key of a Kubernetes Secret, asked of the cluster. Line breaks at its end are not part of it.
    Kubernetes(KubernetesKey),
    /// One that was read already, with more that stands beside it, and is used soon.
    #[serde(skip)]
    Held(Held),
}

/// A secret in memory.
#[derive(Clone, Debug)]
pub struct Held(pub SecretString);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Held {}

/// A secret that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file is missing, unreadable or no text.
    #[error("read secret file {}", path.display())]
    File {
        /// The file as configured.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than a secret can be.
    #[error("secret file {} is larger than 1 MiB", path.display())]
    TooLarge {
        /// The file as configured.
        path: PathBuf,
    },
    /// The environment variable is unset or no text.
    #[error("environment variable {name} for a secret is not set")]
    Env {
        /// The variable's name.
        name: String,
    },
    /// The cluster did not give it.
    #[error(transparent)]
    Kubernetes(#[from] Box<KubernetesError>),
    /// There is nothing in it.
    #[error("secret {origin} is empty")]
    Empty {
        /// The file, variable or key.
        origin: String,
    },
}

impl SecretError {
    /// Whether reading it again may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kubernetes(error) => error.reason.is_retryable(),
            _ => false,
        }
    }
}

impl SecretSource {
    /// Reads the secret now.
    ///
    /// # Errors
    /// It is not there, is empty, or is larger than 1 MiB.
    pub async fn read(&self) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::File(path) => {
                let failed = |source| SecretError::File { path: path.clone(), source };
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                let mut bytes = Vec::new();
                file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
                if bytes.len() as u64 > MAX_SECRET_BYTES {
                    return Err(SecretError::TooLarge { path: path.clone() });
                }
                // Not the error itself: it holds the bytes.
                let no_text = |error: FromUtf8Error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error());
                String::from_utf8(bytes).map_err(|error| failed(no_text(error)))?
            }
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?,
            Self::Kubernetes(key) => key.read().await.map_err(Box::new)?,
            Self::Held(Held(secret)) => return Ok(secret.clone()),
        };
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() {
            let origin = match self {
                Self::File(path) => path.display().to_string(),
                Self::Env(name) => name.clone(),
                Self::Kubernetes(key) => key.to_string(),
                Self::Held(_) => "in memory".to_owned(),
            };
            return Err(SecretError::Empty { origin });
        }
        Ok(secret.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_device_is_not_read_without_end() {
        let read = SecretSource::File(PathBuf::from("/dev/zero")).read().await;
        assert!(matches!(read, Err(SecretError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_anew_without_its_line_break() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("token");
        let source = SecretSource::File(path.clone());
        for token in ["first", "second"] {
            std::fs::write(&path, format!("{token}\n")).expect("write the token");
            assert_eq!(source.read().await.expect("a secret").expose_secret(), token);
        }
        std::fs::write(&path, "\n").expect("empty the token");
        assert!(matches!(source.read().await, Err(SecretError::Empty { .. })));
    }
}
