//! Small answers, held whole: a request in, its status and a bounded body out, whatever the status says. For
//! questions of many small answers (tokens, metrics), whose errors are told in their bodies. Holds one
//! body, of as many bytes as the caller allows; does not retry, and follows no redirect.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, StatusCode};
use url::Url;

use super::client::{ClientError, public_url, retry_after};

/// An answer, read to its end or to the bound.
#[derive(Debug)]
pub struct Whole {
    /// What became of the request.
    pub status: StatusCode,
    /// The media type in lower case, without its parameters; empty when there is none.
    pub media_type: String,
    /// The wait that was asked for.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether there was more of it than the bound.
    pub is_cut: bool,
}

impl Whole {
    /// Sends a request to `url` and reads at most `max_bytes` of its answer.
    ///
    /// # Errors
    /// There is no answer, or it broke off.
    pub async fn of(url: &Url, request: RequestBuilder, max_bytes: usize) -> Result<Self, ClientError> {
        let mut response = request.send().await.map_err(|error| ClientError::unanswered(url, error))?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        let mut whole = Self {
            status: response.status(),
            media_type: media_type.trim().to_ascii_lowercase(),
            retry_after: retry_after(response.headers()),
            body: Vec::new(),
            is_cut: false,
        };
        let broke_off =
            |source: reqwest::Error| ClientError::Body { url: public_url(url), source: source.without_url() };
        while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
            if whole.body.len() + chunk.len() > max_bytes {
                whole.is_cut = true;
                break;
            }
            whole.body.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// Whether it is a page for people: of a proxy, or of a sign-in in between.
    pub fn is_a_page(&self) -> bool {
        let start: Vec<u8> = self.body.iter().copied().skip_while(u8::is_ascii_whitespace).take(1).collect();
        self.media_type.ends_with("html") || start == b"<"
    }
}
