//! One report behind a URL: asked for with what the server said last time, so that one that
//! has not changed is not sent again. The body is read as it comes.

use costream_common::http::client::{Access, Answer, Ask, Client, ClientError, Validators, public_url};
use costream_common::record::ScopeName;
use url::Url;

use super::{Fetched, Item, Mark, Parts, SourceError};

#[derive(Debug)]
pub(super) struct Remote {
    url: Url,
    shown: String,
    client: Client,
}

impl Remote {
    pub(super) fn new(url: Url, access: Access) -> Result<Self, ClientError> {
        Ok(Self { shown: public_url(&url), url, client: Client::new(access)? })
    }

    /// The server: its name and port.
    pub(super) fn host(&self) -> String {
        self.url.authority().to_owned()
    }

    /// The report's scope: the last part of the URL's path, as a file's is its name.
    pub(super) fn item(&self) -> Result<Item, SourceError> {
        let last = self.url.path_segments().and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
        let scope = last.or(self.url.host_str()).unwrap_or(&self.shown);
        let scope = ScopeName::new(scope)
            .map_err(|source| SourceError::Name { shown: self.shown.clone(), source: Some(source) })?;
        Ok(Item::new(scope, self.shown.clone()))
    }

    pub(super) async fn fetch(&self, known: Option<&Validators>) -> Result<Fetched, SourceError> {
        if self.client.is_insecure() {
            tracing::warn!(url = self.shown, "tls.insecure_skip_verify: whoever answers is believed");
        }
        let ask = Ask { validators: known, ..Ask::default() };
        let answer = match self.client.get(&self.url, ask).await {
            // A token may have been renewed since it was read.
            Err(error) if error.status().is_some_and(|status| status == 401) && self.client.reads_secrets() => {
                self.client.get(&self.url, ask).await
            }
            answered => answered,
        };
        match answer? {
            Answer::Unchanged => Ok(Fetched::Unchanged),
            Answer::Fresh(fresh) => {
                let mark = Mark::Http(fresh.validators());
                Ok(Fetched::Fresh(Parts::one(fresh.into_reader(), &self.shown, mark)))
            }
        }
    }
}
