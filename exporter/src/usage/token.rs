//! The tokens of an application: asked for with its password (OAuth 2.0 client credentials), kept, and renewed before they
//! run out. One token is asked for at a time, whoever waits for it. A token whose renewal fails is used to its end.
//!
//! The token endpoint: <https://learn.microsoft.com/azure/azure-monitor/essentials/rest-api-walkthrough>. Its answer has
//! `expires_in` as a number or as text, by version.

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode, header};
use costream_common::http::client::{Client, ClientError, public_url};
use costream_common::http::whole::Whole;
use costream_common::report::one_line;
use costream_common::secret::{ExposeSecret as _, SecretError, SecretString};
use serde::Deserialize;
use url::Url;

use super::ask::shown;
use crate::config::azure_monitor::ClientCredentials;

/// How long before its end a token is renewed; of one that lives shorter, at half its life.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// How long a token lives that does not say.
const LIFE: Duration = Duration::from_secs(3600);
/// The largest answer worth reading, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A token that was not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The application's password cannot be read.
    #[error("the application's password")]
    Secret(#[from] SecretError),
    /// The endpoint gave no answer.
    #[error("ask for a token")]
    Unanswered(#[from] ClientError),
    /// The endpoint answered with a page for people.
    #[error(
        "ask {url} for a token: {status} with a web page in place of a token: is the address right, or is a proxy or a sign-in in between?"
    )]
    Page {
        /// The URL.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// The endpoint said no.
    #[error("ask {url} for a token: {status}{text}")]
    Refused {
        /// The URL.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What it said, cut.
        text: String,
        /// The wait it asked for.
        retry_after: Option<Duration>,
    },
    /// The answer is no token.
    #[error("ask {url} for a token: the answer is none")]
    Malformed {
        /// The URL.
        url: String,
        /// What is wrong with it. Not its text: that may be a token all the same.
        #[source]
        source: serde_json::Error,
    },
}

impl TokenError {
    /// Whether asking again may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Secret(error) => error.is_retryable(),
            Self::Unanswered(error) => error.is_retryable(),
            Self::Page { status, .. } | Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Malformed { .. } => false,
        }
    }

    /// The wait the endpoint asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The tokens for one audience.
#[derive(Debug)]
pub(super) struct Tokens {
    client: Client,
    credentials: ClientCredentials,
    url: Url,
    audience: String,
    current: tokio::sync::Mutex<Option<Token>>,
}

#[derive(Debug)]
struct Token {
    text: SecretString,
    renew_at: Instant,
    ends_at: Instant,
}

impl Tokens {
    pub(super) fn new(client: Client, credentials: ClientCredentials, url: Url, audience: String) -> Self {
        Self { client, credentials, url, audience, current: tokio::sync::Mutex::default() }
    }

    /// A token that is good, and another one than `refused`.
    pub(super) async fn get(&self, refused: Option<&SecretString>) -> Result<SecretString, TokenError> {
        let mut current = self.current.lock().await;
        let is_refused =
            |token: &Token| refused.is_some_and(|refused| refused.expose_secret() == token.text.expose_secret());
        let now = Instant::now();
        if let Some(token) = current.as_ref().filter(|token| !is_refused(token) && now < token.renew_at) {
            return Ok(token.text.clone());
        }
        match (self.ask().await, current.as_ref()) {
            (Ok(token), _) => Ok(current.insert(token).text.clone()),
            (Err(error), Some(token)) if !is_refused(token) && now < token.ends_at => {
                tracing::warn!(error = one_line(&error), "the token is not renewed yet; the old one is still good");
                Ok(token.text.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn ask(&self) -> Result<Token, TokenError> {
        let secret = self.credentials.client_secret.read().await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.credentials.client_id)
            .append_pair("client_secret", secret.expose_secret())
            .append_pair("resource", &self.audience)
            .finish();
        let asked_at = Instant::now();
        let request = self.client.request(Method::POST, &self.url).await?;
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let whole = Whole::of(&self.url, request, MAX_ANSWER_BYTES).await?;
        let url = public_url(&self.url);
        if whole.is_a_page() {
            return Err(TokenError::Page { url, status: whole.status });
        }
        if whole.status != StatusCode::OK {
            let text = serde_json::from_slice(&whole.body).map(|no: No| no.error_description.or(no.error));
            let text = shown(&text.ok().flatten().unwrap_or_default());
            return Err(TokenError::Refused { url, status: whole.status, text, retry_after: whole.retry_after });
        }
        let answer: Yes =
            serde_json::from_slice(&whole.body).map_err(|source| TokenError::Malformed { url, source })?;
        let life = answer.expires_in.and_then(Seconds::duration).unwrap_or(LIFE);
        let renew_at = asked_at + life.saturating_sub(RENEWED_BEFORE).max(life / 2);
        Ok(Token { text: answer.access_token, renew_at, ends_at: asked_at + life })
    }
}

#[derive(Deserialize)]
struct Yes {
    #[serde(deserialize_with = "secret")]
    access_token: SecretString,
    expires_in: Option<Seconds>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u32),
    Text(String),
}

impl Seconds {
    fn duration(self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(seconds) => seconds,
            Self::Text(text) => text.parse().ok()?,
        };
        Some(Duration::from_secs(seconds.into()))
    }
}

#[derive(Deserialize)]
struct No {
    error: Option<String>,
    error_description: Option<String>,
}
