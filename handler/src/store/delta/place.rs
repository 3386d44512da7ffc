//! Where a store is: its URL in, the object store that holds it out. A directory, or a bucket of
//! S3 (and what speaks it), Azure Blob Storage or Google Cloud Storage.
//!
//! The URL names the place and bears no secret. How a bucket is reached says the environment: see
//! [`costream_common::cloud`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use costream_common::cloud::{BucketUrlError, Cloud};
use object_store::ObjectStore;
use serde::Deserialize;
use url::Url;

use super::durable::DurableFiles;
use crate::ident::TableName;

/// A store's URL: `file:///folder`, `s3://bucket/folder`, `az://container/folder`,
/// `abfss://container@account.dfs.core.windows.net/folder` or `gs://bucket/folder`. Bears no
/// secret, so it can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl {
    url: Url,
    kind: Kind,
}

/// Whose the place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    Bucket(Cloud),
}

/// A text that is no store's URL. Does not repeat the text: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// It cannot be read as a URL.
    #[error("not a URL such as s3://bucket/folder: {0}")]
    Malformed(url::ParseError),
    /// Nobody's place.
    #[error("not a store's URL: those begin with file, s3, s3a, az, abfs, abfss or gs and ://")]
    Scheme,
    /// The bucket, container or path is missing.
    #[error("the URL names no bucket or folder")]
    Nowhere,
    /// A user, a password, a signature or the like.
    #[error("a store's URL bears no credentials and no parameters: they come from the environment")]
    Credentials,
}

impl From<BucketUrlError> for StoreUrlError {
    fn from(error: BucketUrlError) -> Self {
        match error {
            BucketUrlError::Credentials => Self::Credentials,
            _ => Self::Nowhere,
        }
    }
}

impl TryFrom<Url> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(mut url: Url) -> Result<Self, StoreUrlError> {
        let kind = match url.scheme() {
            "file" => Kind::Directory,
            scheme => Kind::Bucket(Cloud::of_scheme(scheme).ok_or(StoreUrlError::Scheme)?),
        };
        match kind {
            Kind::Bucket(cloud) => cloud.check(&url)?,
            Kind::Directory if url.query().is_some() || url.fragment().is_some() => {
                return Err(StoreUrlError::Credentials);
            }
            Kind::Directory if url.host_str().is_some_and(|host| !host.is_empty()) => {
                return Err(StoreUrlError::Nowhere);
            }
            Kind::Directory => {}
        }
        let folders: Vec<&str> = url.path().split('/').filter(|folder| !folder.is_empty()).collect();
        let path = format!("/{}", folders.join("/"));
        url.set_path(&path);
        Ok(Self { url, kind })
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        Url::parse(text).map_err(StoreUrlError::Malformed)?.try_into()
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(text: String) -> Result<Self, StoreUrlError> {
        text.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl StoreUrl {
    pub(super) fn as_url(&self) -> &Url {
        &self.url
    }

    /// A table's folder.
    pub(super) fn folder(&self, table: &TableName) -> Url {
        let mut url = self.url.clone();
        let path = format!("{}/{table}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// The bucket, or the file system, with everything in it. Nothing is asked of it yet.
    ///
    /// `variables`: names and values as the environment has them; those of other places are
    /// passed over, and so is what is empty.
    ///
    /// # Errors
    /// The variables contradict each other, or name a file that cannot be read.
    pub fn connect(
        &self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        match self.kind {
            Kind::Directory => Ok(Arc::new(DurableFiles::new())),
            Kind::Bucket(cloud) => cloud.connect(&self.url, variables),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_url() {
        for (text, shown, costs) in [
            ("file:///srv/store", "file:///srv/store", "file:///srv/store/costs/"),
            ("s3://bucket", "s3://bucket/", "s3://bucket/costs/"),
            ("s3a://bucket/a//b c/", "s3a://bucket/a/b%20c", "s3a://bucket/a/b%20c/costs/"),
            ("az://container/a", "az://container/a", "az://container/a/costs/"),
            (
                "abfss://c@account.dfs.core.windows.net/a",
                "abfss://c@account.dfs.core.windows.net/a",
                "abfss://c@account.dfs.core.windows.net/a/costs/",
            ),
            ("gs://bucket/a", "gs://bucket/a", "gs://bucket/a/costs/"),
        ] {
            let place: StoreUrl = text.parse().expect("a place");
            assert_eq!(place.to_string(), shown, "{text}");
            assert_eq!(place.folder(&TableName::costs()).as_str(), costs, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_and_not_repeated() {
        for (text, says) in [
            ("bucket/verysecret", "not a URL"),
            ("https://account.blob.core.windows.net/container?sig=verysecret", "not a store's URL"),
            ("s3://key:verysecret@bucket/a", "no credentials"),
            ("s3://verysecret@bucket/a", "no credentials"),
            ("az://container/a?sig=verysecret", "no credentials"),
            ("abfss://c:verysecret@account.dfs.core.windows.net/a", "no credentials"),
            ("s3:///a", "names no bucket"),
            ("file://elsewhere/a", "names no bucket"),
        ] {
            let error = text.parse::<StoreUrl>().expect_err("no place").to_string();
            assert!(error.contains(says) && !error.contains("verysecret"), "{text}: {error}");
        }
    }
}
