//! An object store's errors, told plainly: where, and why, in a few words. A cloud's own errors
//! are pages of XML which may repeat the request with its session token; they would go from
//! here into logs and answers.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// Longest reason that is passed on, in characters.
const MAX_REASON_CHARS: usize = 300;
/// Where the clouds' machines ask for their own identity.
const METADATA_SERVICES: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// How errors of one store are told.
#[derive(Clone)]
pub(super) struct PlainErrors {
    place: Arc<str>,
}

/// What an object store said, in a few words.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
struct Reason {
    place: Arc<str>,
    reason: String,
}

impl PlainErrors {
    /// For the store at `place`, as users know it.
    pub(super) fn of(place: &str) -> Self {
        Self { place: place.into() }
    }

    /// The same store, with its errors told plainly.
    pub(super) fn over(self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(PlainStore { store, errors: self })
    }

    /// The same error, as callers tell errors apart, in other words.
    pub(super) fn tell(&self, error: object_store::Error) -> object_store::Error {
        use object_store::Error as E;
        let reason = reason(&error);
        let source = Box::new(Reason { place: self.place.clone(), reason });
        match error {
            E::NotFound { path, .. } => E::NotFound { path, source },
            E::AlreadyExists { path, .. } => E::AlreadyExists { path, source },
            E::Precondition { path, .. } => E::Precondition { path, source },
            E::NotModified { path, .. } => E::NotModified { path, source },
            E::PermissionDenied { path, .. } => E::PermissionDenied { path, source },
            E::Unauthenticated { path, .. } => E::Unauthenticated { path, source },
            E::NotSupported { .. } => E::NotSupported { source },
            E::Generic { store, .. } => E::Generic { store, source },
            other @ (E::InvalidPath { .. } | E::NotImplemented { .. }) => other,
            _ => E::Generic { store: "object store", source },
        }
    }

    /// An error of a listing: what is not found there is the bucket.
    fn tell_listing(&self, error: object_store::Error) -> object_store::Error {
        match self.tell(error) {
            object_store::Error::NotFound { source, .. } => {
                object_store::Error::Generic { store: "object store", source }
            }
            other => other,
        }
    }
}

/// The first cause in a few words.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let reason = match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text,
    };
    let mut reason: String =
        reason.lines().next().unwrap_or_default().trim_end_matches('.').chars().take(MAX_REASON_CHARS).collect();
    let whole = error.to_string();
    if METADATA_SERVICES.iter().any(|service| whole.contains(service)) {
        reason.insert_str(0, "no credentials in the environment, and none from the machine's metadata service: ");
    }
    reason
}

/// The text of an XML element that has no others in it.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0)
}

struct PlainStore {
    store: Arc<dyn ObjectStore>,
    errors: PlainErrors,
}

impl fmt::Debug for PlainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainStore").field("place", &self.errors.place).finish_non_exhaustive()
    }
}

impl fmt::Display for PlainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.errors.place)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for PlainStore {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(to, payload, options).await.map_err(|e| self.errors.tell(e))
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.store.put_multipart_opts(to, options).await.map_err(|e| self.errors.tell(e))?;
        Ok(Box::new(PlainUpload { upload, errors: self.errors.clone() }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let mut got = self.store.get_opts(from, options).await.map_err(|e| self.errors.tell(e))?;
        let errors = self.errors.clone();
        got.payload = match got.payload {
            GetResultPayload::Stream(body) => GetResultPayload::Stream(body.map_err(move |e| errors.tell(e)).boxed()),
            file => file,
        };
        Ok(got)
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(from, ranges).await.map_err(|e| self.errors.tell(e))
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let errors = self.errors.clone();
        self.store.delete_stream(paths).map_err(move |e| errors.tell(e)).boxed()
    }

    fn list(&self, below: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let errors = self.errors.clone();
        self.store.list(below).map_err(move |e| errors.tell_listing(e)).boxed()
    }

    fn list_with_offset(&self, below: Option<&Path>, after: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let errors = self.errors.clone();
        self.store.list_with_offset(below, after).map_err(move |e| errors.tell_listing(e)).boxed()
    }

    async fn list_with_delimiter(&self, below: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(below).await.map_err(|e| self.errors.tell_listing(e))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await.map_err(|e| self.errors.tell(e))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await.map_err(|e| self.errors.tell(e))
    }
}

struct PlainUpload {
    upload: Box<dyn MultipartUpload>,
    errors: PlainErrors,
}

impl fmt::Debug for PlainUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainUpload").field("place", &self.errors.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for PlainUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, errors) = (self.upload.put_part(data), self.errors.clone());
        async move { part.await.map_err(|e| errors.tell(e)) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.upload.complete().await.map_err(|e| self.errors.tell(e))
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await.map_err(|e| self.errors.tell(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(source: &'static str) -> String {
        let errors = PlainErrors::of("s3://bucket/a");
        errors.tell(object_store::Error::NotFound { path: "b".to_owned(), source: source.into() }).to_string()
    }

    #[test]
    fn a_clouds_page_of_xml_is_its_code_and_its_message() {
        let page = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error>\
                    <Code>SignatureDoesNotMatch</Code><Message>The signature does not match.\nCheck your key.</Message>\
                    <CanonicalRequest>GET\nx-amz-security-token:verysecret\n</CanonicalRequest></Error>";
        assert_eq!(
            told(page),
            "Object at location b not found: s3://bucket/a: SignatureDoesNotMatch: The signature does not match"
        );
        assert_eq!(told("no route\nto it"), "Object at location b not found: s3://bucket/a: no route");
        assert_eq!(told(&"x".repeat(9000).leak()[..]).chars().filter(|c| *c == 'x').count(), MAX_REASON_CHARS);
    }

    #[test]
    fn a_machine_without_an_identity_is_told() {
        let line = told("Error performing PUT http://169.254.169.254/latest/api/token in 1s - timed out");
        assert!(line.contains("no credentials in the environment"), "{line}");
    }
}
