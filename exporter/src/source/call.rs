//! One report behind a request of an inherited configuration. Where it goes and with what is read anew for each
//! ([`Call::resolve`]), so that a Secret may come later, and a rotated token, certificate or URL is used without a
//! restart; one that the server turns down (401) is read once more, and then tried once more. The report's
//! scope is the source's name, wherever it comes from: it replaces the one before it.

use std::sync::{Mutex, PoisonError};

use costream_common::http::client::{Answer, Ask, Method, Validators};
use costream_common::inherited::{Call, Resources};
use costream_common::record::{ScopeName, SourceName};
use url::Url;

use super::{Fetched, Item, Mark, Parts, SourceError};

const UNAUTHORIZED: u16 = 401;

#[derive(Debug)]
pub(super) struct Called {
    call: Call,
    resources: Resources,
    shown: String,
    /// Where it was asked for last: what a server said of it holds there alone.
    last: Mutex<Option<Url>>,
}

impl Called {
    pub(super) fn new(call: Call, resources: Resources) -> Self {
        Self { shown: call.shown(), call, resources, last: Mutex::default() }
    }

    /// The server it was last asked for: its name and port.
    pub(super) fn host(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|url| url.authority().to_owned())
    }

    pub(super) fn resources(&self) -> &Resources {
        &self.resources
    }

    pub(super) fn item(&self, source: &SourceName) -> Result<Item, SourceError> {
        let scope = ScopeName::new(source.as_str())
            .map_err(|error| SourceError::Name { shown: self.shown.clone(), source: Some(error) })?;
        Ok(Item::new(scope, self.shown.clone()))
    }

    pub(super) async fn fetch(&self, known: Option<&Validators>) -> Result<Fetched, SourceError> {
        match self.ask(known).await {
            Err(SourceError::Http(error)) if error.status().is_some_and(|status| status == UNAUTHORIZED) => {
                tracing::info!(report = self.shown, "turned down: its credentials are read anew, and tried once more");
                self.ask(known).await
            }
            fetched => fetched,
        }
    }

    async fn ask(&self, known: Option<&Validators>) -> Result<Fetched, SourceError> {
        let resolved = self.call.resolve(&self.resources).await.map_err(Box::new)?;
        let (url, debug, is_proxied) = (resolved.url.clone(), resolved.debug, resolved.proxy.is_some());
        let client = resolved.client()?;
        if client.is_insecure() {
            tracing::warn!(report = self.shown, "insecure: whoever answers is believed");
        }
        let Call { verb, payload, .. } = &self.call;
        if debug {
            tracing::info!(report = self.shown, %verb, payload_bytes = payload.len(), proxy = is_proxied, "asks");
        }
        let is_get = *verb == Method::GET && payload.is_empty();
        let same_place = self.moved_to(&url);
        let ask = Ask {
            validators: known.filter(|_| is_get && same_place),
            request: (!is_get).then_some((verb, payload.as_str())),
            ..Ask::default()
        };
        match client.get(&url, ask).await? {
            Answer::Unchanged => Ok(Fetched::Unchanged),
            Answer::Fresh(fresh) => {
                let mark = Mark::Http(fresh.validators());
                Ok(Fetched::Fresh(Parts::one(fresh.into_reader(), &self.shown, mark)))
            }
        }
    }

    /// Notes where it is asked for, and says whether it was there before.
    fn moved_to(&self, url: &Url) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace(url.clone()).is_some_and(|last| last == *url)
    }
}
