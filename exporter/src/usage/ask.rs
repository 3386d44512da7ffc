//! One question to Azure Monitor in, its answer whole out: with a good token, within the subscription's budget, and again
//! when that makes sense. A 401 has the token renewed, or its Secret read anew, once; a 429 closes the subscription for as long as it says;
//! what may pass is tried anew for as long as a poll does that. Holds one answer a question.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode, header};
use costream_common::http::client::{Access, Client, ClientError, public_url};
use costream_common::http::whole::Whole;
use costream_common::inherited::{Call, CallError, Resources};
use costream_common::secret::{ExposeSecret as _, SecretString};
use costream_common::stream::backoff::Waits;
use serde::Deserialize;
use url::{Origin, Url};

use super::budget::Budget;
use super::token::{TokenError, Tokens};
use crate::config::azure_monitor::{Auth, AzureMonitor};
use crate::points::report::MAX_ANSWER_BYTES;

/// About the first wait before a second try, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How long a server may ask us to wait within one poll; for longer the poll ends and the schedule waits.
const MAX_PATIENCE: Duration = Duration::from_secs(300);
/// How often a question is throttled before the poll gives up.
const MAX_THROTTLES: u32 = 10;
/// What tokens for `metrics:getBatch` are for.
const BATCH_AUDIENCE: &str = "https://metrics.monitor.azure.com";
/// As much of an error's text as ours repeats, in characters.
const MAX_SHOWN: usize = 300;

/// A question that was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no token to ask with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The server could not be reached, or a secret not be read.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What a Secret says of the server cannot be had any more.
    #[error(transparent)]
    Call(#[from] Box<CallError>),
    /// The server said no.
    #[error("ask {url}: {status}{text}")]
    Refused {
        /// The URL without secrets.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What it said, cut.
        text: String,
        /// The wait it asked for.
        retry_after: Option<Duration>,
    },
    /// The server answered with a page for people.
    #[error("ask {url}: {status} with a web page in place of metrics: is a proxy or a sign-in in between?")]
    Page {
        /// The URL without secrets.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// The answer is too large.
    #[error("ask {url}: the answer is larger than {MAX_ANSWER_BYTES} bytes; a longer `interval` makes it smaller")]
    TooLarge {
        /// The URL without secrets.
        url: String,
    },
    /// The answer is none of Azure Monitor's.
    #[error("ask {url}: the answer has no metrics")]
    Malformed {
        /// The URL without secrets.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The answer says that a metric could not be had.
    #[error("ask {url}: metric {metric}: {code}")]
    Metric {
        /// The URL without secrets.
        url: String,
        /// The metric.
        metric: String,
        /// Azure's word for it.
        code: String,
    },
}

impl AskError {
    /// Whether every other question would fare the same: there is no use in asking on.
    pub(super) fn concerns_all(&self) -> bool {
        match self {
            Self::Token(_) | Self::Client(_) | Self::Call(_) => true,
            Self::Refused { status, .. } => {
                matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
            }
            _ => false,
        }
    }

    /// Whether the same question may be answered another time.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Token(error) => error.is_retryable(),
            Self::Client(error) => error.is_retryable(),
            Self::Call(error) => error.is_retryable(),
            Self::Refused { status, .. } | Self::Page { status, .. } => {
                status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT
            }
            _ => false,
        }
    }

    /// The wait the server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Token(error) => error.retry_after(),
            Self::Client(error) => error.retry_after(),
            _ => None,
        }
    }

    /// How it is counted.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Token(_) | Self::Call(_) => "no_token",
            Self::Client(_) => "unreachable",
            Self::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => "forbidden",
            Self::Refused { status: StatusCode::TOO_MANY_REQUESTS, .. } => "throttled",
            Self::Refused { status: StatusCode::NOT_FOUND, .. } => "not_found",
            Self::Refused { .. } | Self::Metric { .. } => "refused",
            Self::Page { .. } | Self::TooLarge { .. } | Self::Malformed { .. } => "malformed",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) url: Url,
    /// Whose budget it takes.
    pub(super) subscription: String,
    /// The body of a question to many resources at once; nothing for one resource.
    pub(super) batch: Option<String>,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Asker {
    /// Another one when what it asks with was read anew.
    client: Mutex<Client>,
    login: Login,
    budget: Budget,
}

/// Where what is asked with comes from.
#[derive(Debug)]
enum Login {
    /// It is the client's own, which reads its secrets for every request.
    Own,
    /// An application asks for tokens.
    Application(Box<Application>),
    /// A Secret said it when the client was made.
    Endpoint(Box<Endpoint>),
}

#[derive(Debug)]
struct Application {
    one: Tokens,
    batch: Tokens,
}

/// A server of an inherited configuration.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) call: Call,
    pub(super) resources: Resources,
    /// The server that the client was made for.
    pub(super) server: Origin,
}

impl Asker {
    /// # Errors
    /// The certificates to trust cannot be read.
    pub(super) fn new(config: &AzureMonitor, budget: Budget) -> Result<Self, ClientError> {
        let plain = Access { tls: config.tls.clone(), ..Access::default() };
        let access = match &config.auth {
            Auth::BearerToken(token) => Access { bearer_token: Some(token.clone()), ..plain },
            Auth::ClientCredentials(_) => plain,
            Auth::Access(access) => access.as_ref().clone(),
        };
        let client = Client::new(access)?;
        let login = match &config.auth {
            Auth::ClientCredentials(application) => {
                let tokens = |audience: &str| {
                    Tokens::new(client.clone(), application.clone(), application.token_url(), audience.to_owned())
                };
                let (one, batch) = (tokens(&application.resource), tokens(BATCH_AUDIENCE));
                Login::Application(Box::new(Application { one, batch }))
            }
            _ => Login::Own,
        };
        Ok(Self { client: Mutex::new(client), login, budget })
    }

    /// One that asks with what a Secret says: `client` with what it said just now.
    pub(super) fn of_endpoint(client: Client, endpoint: Endpoint, budget: Budget) -> Self {
        Self { client: Mutex::new(client), login: Login::Endpoint(Box::new(endpoint)), budget }
    }

    /// The client; after a refusal with what its Secret says now.
    async fn client(&self, is_refused: bool) -> Result<Client, AskError> {
        let renewed = match &self.login {
            Login::Endpoint(endpoint) if is_refused => endpoint.client().await?,
            _ => None,
        };
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(renewed) = renewed {
            *client = renewed;
        }
        Ok(client.clone())
    }

    /// Asks until there is an answer, or until that makes no sense any more; `told` hears of every request.
    pub(super) async fn answer(
        &self,
        ask: &Ask,
        retry_for: Duration,
        told: impl Fn(&'static str),
    ) -> Result<Vec<u8>, AskError> {
        let mut waits = Waits::new(FIRST_WAIT, LONGEST_WAIT, None);
        let (mut failing_since, mut throttles, mut refused) = (None, 0, None);
        loop {
            self.budget.take(&ask.subscription).await;
            let (token, answered) = match self.once(ask, refused.as_ref()).await {
                Ok(body) => {
                    told("ok");
                    return Ok(body);
                }
                Err((token, error)) => (token, error),
            };
            told(answered.result());
            match &answered {
                AskError::Refused { status: StatusCode::UNAUTHORIZED, .. } if refused.is_none() => {
                    // A token as it is given was read anew, and will be again.
                    refused = Some(token.unwrap_or_else(|| SecretString::from(String::new())));
                }
                AskError::Refused { status: StatusCode::TOO_MANY_REQUESTS, retry_after, .. }
                    if throttles < MAX_THROTTLES && retry_after.is_none_or(|wait| wait <= MAX_PATIENCE) =>
                {
                    throttles += 1;
                    let wait = waits.next(*retry_after).unwrap_or(LONGEST_WAIT);
                    tracing::debug!(subscription = ask.subscription, ?wait, "throttled");
                    self.budget.close(&ask.subscription, wait);
                }
                error if error.may_pass() => {
                    let since: Instant = *failing_since.get_or_insert_with(Instant::now);
                    let wait = waits.next(error.retry_after()).unwrap_or(LONGEST_WAIT);
                    if since.elapsed() + wait > retry_for {
                        return Err(answered);
                    }
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(answered),
            }
        }
    }

    /// Asks once; a refusal comes with the token it was asked with.
    async fn once(
        &self,
        ask: &Ask,
        refused: Option<&SecretString>,
    ) -> Result<Vec<u8>, (Option<SecretString>, AskError)> {
        let token = match &self.login {
            Login::Own | Login::Endpoint(_) => None,
            Login::Application(tokens) if ask.batch.is_some() => Some(tokens.batch.get(refused).await),
            Login::Application(tokens) => Some(tokens.one.get(refused).await),
        };
        let token = token.transpose().map_err(|error| (None, error.into()))?;
        let answered = async {
            let method = if ask.batch.is_some() { Method::POST } else { Method::GET };
            let mut request = self.client(refused.is_some()).await?.request(method, &ask.url).await?;
            if let Some(token) = &token {
                request = request.bearer_auth(token.expose_secret());
            }
            if let Some(body) = &ask.batch {
                request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
            }
            let whole = Whole::of(&ask.url, request.header(header::ACCEPT, "application/json"), MAX_ANSWER_BYTES);
            read(whole.await?, public_url(&ask.url))
        };
        answered.await.map_err(|error| (token, error))
    }
}

impl Endpoint {
    /// A client with what the Secret says now; nothing when the server is another one by now, for which that is meant.
    async fn client(&self) -> Result<Option<Client>, AskError> {
        let resolved = self.call.resolve(&self.resources).await.map_err(Box::new)?;
        let is_same = resolved.url.origin() == self.server;
        Ok(is_same.then(|| resolved.client()).transpose()?)
    }
}

fn read(whole: Whole, url: String) -> Result<Vec<u8>, AskError> {
    let status = whole.status;
    if status == StatusCode::OK && whole.is_cut {
        return Err(AskError::TooLarge { url });
    }
    if whole.is_a_page() {
        return Err(AskError::Page { url, status });
    }
    if status == StatusCode::OK {
        return Ok(whole.body);
    }
    let text = serde_json::from_slice(&whole.body).map(No::text);
    Err(AskError::Refused { url, status, text: shown(&text.unwrap_or_default()), retry_after: whole.retry_after })
}

/// How Azure says no: `{"error": {"code", "message"}}`, or without the `error` around it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct No {
    error: Option<Box<No>>,
    code: Option<String>,
    message: Option<String>,
}

impl No {
    fn text(self) -> String {
        match self {
            Self { error: Some(inner), .. } => inner.text(),
            Self { code, message, .. } => [code, message].into_iter().flatten().collect::<Vec<_>>().join(": "),
        }
    }
}

/// The first line of a server's words, cut, behind a colon.
pub(super) fn shown(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().trim().chars().take(MAX_SHOWN).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}
