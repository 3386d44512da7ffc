//! A stand-in for Azure Monitor and the token endpoint before it. It has points of any resource and metric, one at every
//! interval up to its own time, and can be told to throttle, to forget its tokens and to have no such resource.
//!
//! What it answers is as documented: tokens, errors in the form `{"error": {"code", "message"}}` and metrics of one resource
//! (<https://learn.microsoft.com/azure/azure-monitor/essentials/rest-api-walkthrough>,
//! <https://learn.microsoft.com/rest/api/monitor/metrics/list>), metrics of many
//! (<https://learn.microsoft.com/rest/api/monitor/metrics-batch/batch>), and throttling
//! (<https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling>: 429 with
//! `Retry-After` in seconds).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Url;
use serde_json::{Value, json};

use crate::server::{Answer, Asked, Server};

/// The application's directory, name and password.
pub const TENANT: &str = "tenant-1";
/// See [`TENANT`].
pub const CLIENT_ID: &str = "client-1";
/// See [`TENANT`].
pub const CLIENT_SECRET: &str = "s3cret&=+";
/// What tokens are for.
const AUDIENCES: [&str; 2] = ["https://management.azure.com/", "https://metrics.monitor.azure.com"];

/// A running stand-in.
pub struct AzureMonitor {
    server: Server,
    world: Arc<Mutex<World>>,
}

/// How its world is.
#[derive(Debug)]
pub struct World {
    /// Its time: there are points before it.
    pub now: DateTime<Utc>,
    /// Resources that it does not know.
    pub missing: BTreeSet<String>,
    /// Resources at which it fails, with a 500.
    pub failing: BTreeSet<String>,
    /// How many requests it will throttle, and the seconds it asks for.
    pub throttles: (u32, u64),
    /// Whether the token endpoint answers with a page to sign in.
    pub tokens_are_pages: bool,
    /// How long a token lives, in seconds.
    pub token_life: u64,
    /// Texts behind other paths, for whoever has a token.
    pub files: BTreeMap<String, String>,
    /// Values that are other ones, by resource, metric and time; nothing: no value at that time.
    pub values: BTreeMap<(String, String, String), Option<String>>,
    /// Tokens that are good, each with its audience.
    tokens: BTreeMap<String, String>,
    issued: u32,
}

impl AzureMonitor {
    /// Starts one on a free port, at a time of its own.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(now: DateTime<Utc>) -> Result<Self> {
        let world = Arc::new(Mutex::new(World {
            now,
            missing: BTreeSet::new(),
            failing: BTreeSet::new(),
            throttles: (0, 0),
            tokens_are_pages: false,
            token_life: 3_599,
            files: BTreeMap::new(),
            values: BTreeMap::new(),
            tokens: BTreeMap::new(),
            issued: 0,
        }));
        let server = Server::start(None, {
            let world = Arc::clone(&world);
            move |asked| world.lock().unwrap_or_else(PoisonError::into_inner).answer(asked)
        })?;
        Ok(Self { server, world })
    }

    /// Its address, without a path.
    pub fn url(&self) -> String {
        self.server.url("")
    }

    /// Where tokens are had.
    pub fn token_url(&self) -> String {
        self.server.url(&format!("/{TENANT}/oauth2/token"))
    }

    /// The address of regions.
    pub fn batch_url(&self) -> String {
        self.server.url("/{region}")
    }

    /// Its world, to change it.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for metrics so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.server.asked().into_iter().filter(|asked| !asked.target.contains("/oauth2/token")).collect()
    }

    /// How often a token was asked for.
    pub fn asked_for_tokens(&self) -> usize {
        self.server.asked().iter().filter(|asked| asked.target.contains("/oauth2/token")).count()
    }
}

/// The value of a metric of a resource at a time: exact, and another one for another of the three.
pub fn average(resource: &str, metric: &str, time: DateTime<Utc>) -> String {
    let seed = resource.bytes().chain(metric.bytes()).fold(7_u64, |seed, byte| seed * 31 % 9_973 + u64::from(byte));
    let minutes = u64::try_from(time.timestamp() / 60).unwrap_or_default();
    format!("{}.{:018}", (seed + minutes) % 100, 100_000_000_000_000_000 + seed * 1_000_003 + minutes)
}

impl World {
    /// Forgets every token that it has given out.
    pub fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Takes a token as good that it has not given out, for metrics of one resource.
    pub fn trust(&mut self, token: &str) {
        self.tokens.insert(token.to_owned(), AUDIENCES[0].to_owned());
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let Ok(url) = Url::parse(&format!("http://azure{}", asked.target)) else { return Answer::new(400, "") };
        if url.path() == format!("/{TENANT}/oauth2/token") {
            return self.token(asked);
        }
        let is_batch = url.path().ends_with("/metrics:getBatch");
        let token = asked.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if self.tokens.get(token).map(String::as_str) != Some(AUDIENCES[usize::from(is_batch)]) {
            return no(
                401,
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
            );
        }
        if self.throttles.0 > 0 {
            self.throttles.0 -= 1;
            let wait = self.throttles.1.to_string();
            return no(429, "TooManyRequests", "Number of requests exceeded the limit.").with("Retry-After", &wait);
        }
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let path = percent_decoded(url.path());
        if let Some(text) = self.files.get(&path) {
            return Answer::new(200, text.clone());
        }
        if is_batch { self.many(&query, asked) } else { self.one(&path, &query) }
    }

    fn token(&mut self, asked: &Asked) -> Answer {
        if self.tokens_are_pages {
            return Answer::new(200, "<!DOCTYPE html><html><body>Sign in to your account</body></html>")
                .with("Content-Type", "text/html; charset=utf-8");
        }
        let form = Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(&asked.body)));
        let form: BTreeMap<String, String> =
            form.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let is_known = field("grant_type") == "client_credentials"
            && field("client_id") == CLIENT_ID
            && field("client_secret") == CLIENT_SECRET
            && AUDIENCES.contains(&field("resource"));
        if asked.method != "POST" || !is_known {
            let text = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 0";
            return json_answer(401, &json!({"error": "invalid_client", "error_description": text}));
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        self.tokens.insert(token.clone(), field("resource").to_owned());
        let life = self.token_life.to_string();
        json_answer(
            200,
            &json!({"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "resource": field("resource"), "access_token": token}),
        )
    }

    fn one(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let Some(resource) = path.strip_suffix("/providers/microsoft.insights/metrics") else {
            return no(404, "InvalidResourceType", "The resource type could not be found.");
        };
        if self.missing.contains(resource) {
            return no(404, "ResourceNotFound", &format!("The Resource '{resource}' was not found."));
        }
        if self.failing.contains(resource) {
            return no(500, "InternalServerError", "Encountered internal server error.");
        }
        let timespan = query.get("timespan").map(String::as_str).unwrap_or_default();
        let Some(((from, until), metrics)) = timespan.split_once('/').zip(query.get("metricnames")) else {
            return no(400, "BadRequest", "timespan and metricnames are required.");
        };
        let body = self.metrics(resource, metrics, from, until, query);
        body.map_or_else(|| no(400, "BadRequest", "Detected invalid time interval input."), |body| json_text(&body))
    }

    fn many(&self, query: &BTreeMap<String, String>, asked: &Asked) -> Answer {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let ids: Vec<&str> = body["resourceids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (Some(from), Some(until), Some(metrics)) =
            (query.get("starttime"), query.get("endtime"), query.get("metricnames"))
        else {
            return no(400, "BadRequest", "starttime, endtime and metricnames are required.");
        };
        if ids.is_empty() || ids.len() > 50 || !query.contains_key("metricnamespace") {
            return no(400, "BadRequest", "Between 1 and 50 resources and a metricnamespace are required.");
        }
        let values = ids.iter().filter(|id| !self.missing.contains(**id)).filter_map(|id| {
            let metrics = self.metrics(id, metrics, from, until, query)?;
            // As the service does it: the ids come back in lower case.
            Some(format!("{{\"resourceid\":{},{}", json!(id.to_lowercase()), metrics.strip_prefix('{')?))
        });
        json_text(&format!("{{\"values\":[{}]}}", values.collect::<Vec<_>>().join(",")))
    }

    /// One resource's metrics, as text: no digit of a value may be lost on the way.
    fn metrics(
        &self,
        resource: &str,
        metrics: &str,
        from: &str,
        until: &str,
        query: &BTreeMap<String, String>,
    ) -> Option<String> {
        let interval = query.get("interval").map_or("PT1M", String::as_str);
        let step = match interval {
            "PT1M" => TimeDelta::minutes(1),
            "PT15M" => TimeDelta::minutes(15),
            "PT1H" => TimeDelta::hours(1),
            _ => return None,
        };
        let (from, until) = (time(from)?, time(until)?.min(self.now));
        let metrics = metrics.split(',').map(|metric| {
            let times = std::iter::successors(Some(from), |time| Some(*time + step)).take_while(|time| *time < until);
            let points = times.map(|time| {
                let shown = time.to_rfc3339_opts(SecondsFormat::Secs, true);
                let known = self.values.get(&(resource.to_owned(), metric.to_owned(), shown.clone()));
                match known.cloned().unwrap_or_else(|| Some(average(resource, metric, time))) {
                    Some(value) => format!("{{\"timeStamp\":\"{shown}\",\"average\":{value}}}"),
                    None => format!("{{\"timeStamp\":\"{shown}\"}}"),
                }
            });
            let points = points.collect::<Vec<_>>().join(",");
            let name = json!({"value": metric, "localizedValue": metric});
            format!(
                "{{\"id\":\"{resource}/providers/Microsoft.Insights/metrics/{metric}\",\"type\":\"Microsoft.Insights/metrics\",\"name\":{name},\"displayDescription\":\"\",\"unit\":\"Percent\",\"timeseries\":[{{\"metadatavalues\":[],\"data\":[{points}]}}],\"errorCode\":\"Success\"}}"
            )
        });
        let metrics = metrics.collect::<Vec<_>>().join(",");
        Some(format!(
            "{{\"cost\":59,\"timespan\":\"{from:?}/{until:?}\",\"interval\":\"{interval}\",\"namespace\":\"Microsoft.Compute/virtualMachines\",\"resourceregion\":\"westeurope\",\"value\":[{metrics}]}}"
        ))
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let day = |text: &str| text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()).or_else(|| day(text))
}

fn percent_decoded(path: &str) -> String {
    path.replace("%20", " ")
}

fn no(status: u16, code: &str, message: &str) -> Answer {
    json_answer(status, &json!({"error": {"code": code, "message": message}}))
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::new(status, body.to_string()).with("Content-Type", "application/json; charset=utf-8")
}

fn json_text(body: &str) -> Answer {
    Answer::new(200, body).with("Content-Type", "application/json; charset=utf-8")
}
