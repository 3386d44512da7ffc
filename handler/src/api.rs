//! The handler over HTTP: the route table, and the one place where errors become statuses.
//!
//! | route | what |
//! |---|---|
//! | `POST /_sql` | CrateDB's endpoint; statements, whose rows are streamed |
//! | `POST /upload?table=&source=&scope=&snapshot=` | an Arrow IPC stream in the place of a scope |
//! | `POST /upload?table=&key=` | an Arrow IPC stream whose rows take the place of those with the same key columns (`a,b`) |
//! | `POST /upload?table=&type=&value=&rejects=` | records in JSON, each in the place of the one that it restates |
//! | `GET /upload/committed?table=&source=&scope=` | the snapshot a scope has |
//! | `/compute/...`, `GET /-/capabilities` | notebooks; see [`compute`] |
//! | `GET /` | CrateDB's greeting, or a page for a browser |
//! | `GET /metrics`, `/-/healthy`, `/-/ready` | what the Prometheus family expects |
//!
//! Each route stands with the right it needs ([`needs`]); without it the answer is 403, on `_sql` CrateDB's 4011.
//! Who asks, [`Gate`](crate::auth::Gate) has found out before.
//!
//! Peak memory beside the engine's and the store's: [`MAX_SQL_BODIES_BYTES`] of statements with their arguments, as
//! sent (read, they take several times as much), and per upload (at most [`N_UPLOADS`]) the batch in hand.

mod compute;
pub(crate) mod upload;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{self, Format};
use costream_common::report;
use futures::StreamExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use crate::Handler;
use crate::auth::{Caller, Lacking, Right};
use crate::sql::gateway::{self, Answer};
use crate::sql::{CRATEDB_VERSION, Options, SqlError};

/// The largest body of a statement, as sent and as inflated.
pub const MAX_SQL_BODY_BYTES: usize = 16 << 20;
/// Bodies of the statements that are under way, in all; those that would go beyond it are told to come back.
pub const MAX_SQL_BODIES_BYTES: usize = 64 << 20;
/// What a place among those bodies is counted in.
const BODY_UNIT_BYTES: usize = 64 << 10;
/// Uploads taken at the same time; further ones are told to come back.
pub const N_UPLOADS: usize = 4;
/// How long the store may take to say that it is there.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// When a client that was turned away may come back, in seconds.
const RETRY_AFTER: &str = "2";
/// The media type of an Arrow IPC stream.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// The media type of CrateDB's answers.
const SQL_MEDIA_TYPE: &str = "application/json; charset=UTF-8";

struct Doors {
    handler: Handler,
    bodies: Semaphore,
    uploads: Semaphore,
}

type Shared = State<Arc<Doors>>;

/// The route table.
pub(crate) fn router(handler: &Handler) -> Router {
    let doors = Doors {
        handler: handler.clone(),
        bodies: Semaphore::new(MAX_SQL_BODIES_BYTES / BODY_UNIT_BYTES),
        uploads: Semaphore::new(N_UPLOADS),
    };
    Router::new()
        .route("/", get(greeting))
        .route("/_sql", any(sql))
        .route("/upload", needs(Right::Write, post(upload::upload)))
        .route("/upload/committed", needs(Right::Write, get(upload::committed)))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { "costream handler is healthy\n" }))
        .route("/-/ready", get(ready))
        .fallback(|| async { (StatusCode::NOT_FOUND, Json(json!({"error": "not found"}))) })
        .with_state(Arc::new(doors))
        .merge(compute::routes().with_state(handler.clone()))
}

/// Routes for callers with a right.
fn needs<S: Clone + Send + Sync + 'static>(right: Right, routes: MethodRouter<S>) -> MethodRouter<S> {
    // A request without a caller got past no gate, and the extractor answers it with 500.
    routes.route_layer(from_fn(move |Extension(caller): Extension<Caller>, request: Request, next: Next| async move {
        match caller.require(right) {
            Ok(()) => next.run(request).await,
            Err(lacking) => forbidden(&lacking),
        }
    }))
}

fn forbidden(lacking: &Lacking) -> Response {
    (StatusCode::FORBIDDEN, Json(json!({"error": lacking.to_string()}))).into_response()
}

// -- POST /_sql

/// An error in CrateDB's form.
struct Refusal {
    error: SqlError,
    trace: bool,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { error, trace } = self;
        let (message, code) = (error.message(), error.code());
        let mut body = json!({"error": {"message": message, "code": code}});
        if trace {
            body["error_trace"] = message.into();
        }
        let status = match (&error, code) {
            (SqlError::Busy(_), _) => StatusCode::SERVICE_UNAVAILABLE,
            (_, 4010 | 4011) => StatusCode::UNAUTHORIZED,
            (_, 4031) => StatusCode::FORBIDDEN,
            (_, 4091 | 4093) => StatusCode::CONFLICT,
            (_, 4040..=4049) => StatusCode::NOT_FOUND,
            (_, 4000..=4999) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

async fn sql(
    State(doors): Shared,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let began = Instant::now();
    let flag = |name: &str| {
        let pairs =
            query.as_deref().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "true")));
        pairs.into_iter().any(|(key, value)| key == name && value != "false")
    };
    let (types, trace) = (flag("types"), flag("error_trace"));
    let telemetry = &doors.handler.shared.telemetry;
    let mut outcome = telemetry.query(began);
    match answered(&doors, types, query.as_deref(), caller, request, began).await {
        Ok(Some(answer)) => sent(answer, SQL_MEDIA_TYPE, outcome),
        Ok(None) => {
            outcome.ended("refused");
            (StatusCode::PAYLOAD_TOO_LARGE, [(header::CONNECTION, "close")]).into_response()
        }
        Err(error) => {
            outcome.ended(if error.code() < 5000 { "refused" } else { "failed" });
            if error.code() >= 5000 {
                tracing::warn!(error = error.message(), "a statement failed");
            }
            Refusal { error, trace }.into_response()
        }
    }
}

/// Sends an answer, whole or as its pieces come, and counts it.
fn sent(answer: Answer, media_type: &'static str, mut outcome: Outcome) -> Response {
    let head = [(header::CONTENT_TYPE, media_type)];
    match answer {
        Answer::Whole(body) => {
            outcome.ended("ok");
            (head, body).into_response()
        }
        Answer::Pieces(mut pieces) => {
            let body = futures::stream::poll_fn(move |cx| {
                let piece = pieces.poll_next_unpin(cx);
                match &piece {
                    std::task::Poll::Ready(None) => outcome.ended("ok"),
                    std::task::Poll::Ready(Some(Err(error))) => {
                        tracing::warn!(error = error.message(), "an answer was broken off");
                        outcome.ended("broken_off");
                    }
                    _ => {}
                }
                piece
            });
            (head, Body::from_stream(body)).into_response()
        }
    }
}

/// The answer to a request; nothing when its body is too large.
async fn answered(
    doors: &Doors,
    types: bool,
    query: Option<&str>,
    caller: Caller,
    request: Request,
    began: Instant,
) -> Result<Option<Answer>, SqlError> {
    if !matches!(*request.method(), axum::http::Method::POST | axum::http::Method::PUT) {
        return Err(SqlError::Invalid("Missing request body".to_owned()));
    }
    let options = Options {
        schema: request.headers().get("default-schema").and_then(|schema| schema.to_str().ok()).map(str::to_owned),
        as_of: as_of(query)?,
        caller,
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_SQL_BODY_BYTES) {
        return Ok(None);
    }
    // Held until the answer begins: that long the statement's arguments are in memory.
    let Some((body, _places)) = statement_body(&doors.bodies, request).await? else { return Ok(None) };
    let statement = gateway::Request::read(&body)?;
    drop(body);
    statement.answer(doors.handler.engine(), &options, types, began).await.map(Some)
}

/// The query parameter `as_of`, which is ours: a time in RFC 3339.
fn as_of(query: Option<&str>) -> Result<Option<DateTime<Utc>>, SqlError> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, time)) = pairs.find(|(key, _)| key == "as_of") else { return Ok(None) };
    let parsed = DateTime::parse_from_rfc3339(&time);
    parsed
        .map(|time| Some(time.to_utc()))
        .map_err(|_| SqlError::Invalid(format!("as_of: {time:?} is no time such as 2026-01-31T12:00:00Z")))
}

/// A statement's body, inflated, and the places that it takes; nothing when it is too large. Who sends slowly
/// takes no more places than what has come.
async fn statement_body(
    bodies: &Semaphore,
    request: Request,
) -> Result<Option<(Vec<u8>, SemaphorePermit<'_>)>, SqlError> {
    let closed = |_| SqlError::Engine("the door is closed".to_owned());
    let mut places = bodies.acquire().await.map_err(closed)?;
    let (parts, body) = request.into_parts();
    let coding = parts.headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], |coding| coding.as_bytes());
    let sent = body.into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let sent = StreamReader::new(sent);
    let mut body: Pin<Box<dyn AsyncRead + Send>> = match coding {
        b"identity" => Box::pin(sent),
        b"gzip" => Box::pin(GzipDecoder::new(sent)),
        _ => return Err(SqlError::Invalid("Content-Encoding: gzip or none is taken".to_owned())),
    };
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(BODY_UNIT_BYTES);
        let read = body.read_buf(&mut bytes).await;
        let read = read.map_err(|error| SqlError::Invalid(format!("the request's body cannot be read: {error}")))?;
        if read == 0 {
            return Ok(Some((bytes, places)));
        }
        if bytes.len() > MAX_SQL_BODY_BYTES {
            return Ok(None);
        }
        let more = (bytes.len() / BODY_UNIT_BYTES + 1).saturating_sub(places.num_permits());
        let more = bodies.try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX));
        places.merge(more.map_err(|_| {
            let most = MAX_SQL_BODIES_BYTES >> 20;
            SqlError::Memory(format!("the statements under way have {most} MiB of arguments already: try again"))
        })?);
    }
}

// -- what it says of itself

/// CrateDB's greeting, or a page for who asks for one.
async fn greeting(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        return Html(PAGE).into_response();
    }
    Json(json!({
        "ok": true,
        "status": 200,
        "name": crate::sql::NODE,
        "cluster_name": crate::sql::NODE,
        "version": {
            "number": CRATEDB_VERSION,
            "build_hash": "",
            "build_snapshot": false,
            "costream": env!("CARGO_PKG_VERSION"),
        },
    }))
    .into_response()
}

const PAGE: &str = concat!(
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>costream handler</title>",
    "<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:40rem;padding:0 1rem}code{background:#8882;padding:.1em .3em}</style>",
    "<h1>costream handler</h1><p>Version ",
    env!("CARGO_PKG_VERSION"),
    ". It keeps charges and answers SQL.</p><ul>",
    "<li><code>POST /_sql</code> takes <code>{\"stmt\": \"select ...\"}</code>, as CrateDB does</li>",
    "<li><a href=\"/metrics\">/metrics</a></li>",
    "<li><a href=\"/-/healthy\">/-/healthy</a>, <a href=\"/-/ready\">/-/ready</a></li>",
    "</ul></html>\n"
);

async fn ready(State(doors): Shared) -> Response {
    let asked = doors.handler.store().read.session(None);
    let unready =
        |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("the store is not ready: {why}\n")).into_response();
    match tokio::time::timeout(READY_WITHIN, asked).await {
        Ok(Ok(_)) => "costream handler is ready\n".into_response(),
        Ok(Err(error)) => unready(report::one_line(&error)),
        Err(_) => unready(format!("no answer within {READY_WITHIN:?}")),
    }
}

async fn metrics(State(doors): Shared, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let Some(format) = exposition::negotiate(accept) else { return StatusCode::NOT_ACCEPTABLE.into_response() };
    match doors.handler.shared.telemetry.text(format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(error, "the handler's own metrics cannot be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

/// What the handler counts of itself.
#[derive(Debug)]
pub(crate) struct Telemetry {
    registry: Registry,
    queries: Family<ByResult, Counter>,
    query_seconds: Histogram,
    running: Gauge,
    uploads: Family<ByResult, Counter>,
    upload_rows: Counter,
    upload_rejects: Counter,
    runs: Family<ByResult, Counter>,
    runs_running: Gauge,
    run_seconds: Histogram,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let queries = Family::default();
        let query_seconds = Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let running = Gauge::default();
        let uploads = Family::default();
        let upload_rows = Counter::default();
        let upload_rejects = Counter::default();
        registry.register("costream_queries", "Statements answered, by result", queries.clone());
        registry.register(
            "costream_query_duration_seconds",
            "Time from a statement to its answer's end",
            query_seconds.clone(),
        );
        registry.register("costream_queries_running", "Statements waiting or being answered", running.clone());
        registry.register("costream_uploads", "Uploads ended, by result", uploads.clone());
        registry.register("costream_upload_rows", "Rows stored from uploads", upload_rows.clone());
        registry.register("costream_upload_rejects", "Records of uploads quarantined", upload_rejects.clone());
        let runs = Family::default();
        let runs_running = Gauge::default();
        let run_seconds = Histogram::new(exponential_buckets(0.1, 4.0, 8));
        registry.register("costream_notebook_runs", "Runs of notebooks ended, by result", runs.clone());
        registry.register(
            "costream_notebook_runs_running",
            "Runs of notebooks waiting or going on",
            runs_running.clone(),
        );
        registry.register(
            "costream_notebook_run_duration_seconds",
            "Time from a run's request to its answer's end",
            run_seconds.clone(),
        );
        let build = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("costream_handler_build_info", "The handler's version", build);
        Self {
            registry,
            queries,
            query_seconds,
            running,
            uploads,
            upload_rows,
            upload_rejects,
            runs,
            runs_running,
            run_seconds,
        }
    }

    /// A statement that has come; counted when it has ended, or when its client has gone.
    fn query(&self, began: Instant) -> Outcome {
        Outcome::begin(began, &self.queries, &self.query_seconds, &self.running)
    }

    /// A run that was asked for; counted when it has ended, or when its client has gone.
    fn run(&self) -> Outcome {
        Outcome::begin(Instant::now(), &self.runs, &self.run_seconds, &self.runs_running)
    }

    fn uploaded(&self, result: &'static str, rows: u64, rejected: u64) {
        self.uploads.get_or_create(&ByResult { result }).inc();
        self.upload_rows.inc_by(rows);
        self.upload_rejects.inc_by(rejected);
    }

    /// What was counted, in a format: the library writes one of them.
    fn text(&self, format: Format) -> Result<Bytes, String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).map_err(|error| error.to_string())?;
        let mut writer = TextWriter::new(format);
        exposition::transcode(&text, &mut writer).map_err(|error| error.to_string())?;
        writer.finish();
        Ok(writer.take())
    }
}

/// Counts a statement or a run when it has ended, or when its client has gone.
struct Outcome {
    began: Instant,
    ended: Family<ByResult, Counter>,
    seconds: Histogram,
    running: Gauge,
    result: Option<&'static str>,
}

impl Outcome {
    fn begin(began: Instant, ended: &Family<ByResult, Counter>, seconds: &Histogram, running: &Gauge) -> Self {
        running.inc();
        Self { began, ended: ended.clone(), seconds: seconds.clone(), running: running.clone(), result: None }
    }

    fn ended(&mut self, result: &'static str) {
        self.result.get_or_insert(result);
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.running.dec();
        self.ended.get_or_create(&ByResult { result: self.result.unwrap_or("cancelled") }).inc();
        self.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::Request as HttpRequest;
    use costream_common::http::door::Door;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::HandlerConfig;

    pub(crate) async fn handler() -> (tempfile::TempDir, Router) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = HandlerConfig { data_dir: dir.path().to_owned(), ..HandlerConfig::default() };
        let handler = Handler::open(config).await.expect("a handler");
        (dir, handler.router().layer(Extension(Caller::default())))
    }

    pub(crate) async fn ask(router: &Router, request: HttpRequest<Body>) -> (u16, HeaderMap, String) {
        let response = router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 16 << 20).await.expect("a whole body");
        (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    pub(crate) fn request(
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> HttpRequest<Body> {
        let builder = HttpRequest::builder().method(method).uri(uri);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(body.into()).expect("a request")
    }

    pub(crate) async fn stmt(router: &Router, stmt: &str) -> (u16, String) {
        let body = json!({"stmt": stmt}).to_string();
        let (status, _, body) = ask(router, request("POST", "/_sql", &[], body)).await;
        (status, body)
    }

    #[tokio::test]
    async fn statements_are_answered_as_cratedb_answers_them() {
        let (_dir, router) = handler().await;
        let select = r#"{"stmt": "select 1 as a"}"#;
        let gzip = gzip_of(select.as_bytes());
        for (method, uri, headers, body, status, expected) in [
            (
                "POST",
                "/_sql",
                vec![],
                select.as_bytes().to_vec(),
                200,
                r#"{"cols":["a"],"rows":[[1]],"rowcount":1,"duration":"#,
            ),
            (
                "PUT",
                "/_sql?types",
                vec![],
                select.as_bytes().to_vec(),
                200,
                r#"{"cols":["a"],"col_types":[10],"rows":[[1]]"#,
            ),
            ("POST", "/_sql", vec![("content-encoding", "gzip")], gzip, 200, r#"{"cols":["a"],"rows":[[1]]"#),
            ("POST", "/_sql", vec![("content-encoding", "br")], vec![1], 400, "Content-Encoding"),
            (
                "POST",
                "/_sql",
                vec![("default-schema", "sys")],
                br#"{"stmt": "select name from cluster"}"#.to_vec(),
                200,
                "costream",
            ),
            (
                "GET",
                "/_sql",
                vec![],
                vec![],
                400,
                r#"{"error":{"code":4000,"message":"SQLParseException[Missing request body]"}}"#,
            ),
            ("POST", "/_sql", vec![], b"{".to_vec(), 400, "4000"),
            ("POST", "/_sql?error_trace=true", vec![], br#"{"stmt": "nope"}"#.to_vec(), 400, "error_trace"),
            ("POST", "/_sql", vec![("content-length", "999999999")], vec![], 413, ""),
            ("POST", "/_sql", vec![], vec![b' '; MAX_SQL_BODY_BYTES + 1], 413, ""),
        ] {
            let (got, _, text) = ask(&router, request(method, uri, &headers, body)).await;
            assert_eq!(got, status, "{method} {uri} {headers:?}: {text}");
            assert!(text.contains(expected), "{method} {uri}: {text}");
        }
        assert_eq!(stmt(&router, "select * from nope").await.0, 404);
        for (text, status) in [
            ("create table t (a int primary key)", 200),
            ("create table t (a int)", 409),
            ("insert into t values (1)", 200),
            ("insert into t values (1)", 409),
            ("copy t to directory '/tmp'", 401),
            ("drop table t", 200),
            ("drop table t", 404),
        ] {
            assert_eq!(stmt(&router, text).await.0, status, "{text}");
        }
    }

    /// A gzip member of one stored block.
    fn gzip_of(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).expect("a short text");
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(bytes);
        out.extend((!crc).to_le_bytes());
        out.extend(u32::from(length).to_le_bytes());
        out
    }

    #[tokio::test]
    async fn it_greets_clients_and_browsers() {
        let (_dir, router) = handler().await;
        let (status, _, body) = ask(&router, request("GET", "/", &[], "")).await;
        let greeting: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &greeting["ok"], &greeting["status"]), (200, &json!(true), &json!(200)));
        assert_eq!((&greeting["version"]["number"], &greeting["cluster_name"]), (&json!("6.4.3"), &json!("costream")));
        let (_, headers, body) = ask(&router, request("GET", "/", &[("accept", "text/html,*/*")], "")).await;
        assert!(
            headers[header::CONTENT_TYPE].to_str().expect("text").starts_with("text/html") && body.contains("/metrics")
        );
        for (path, status) in [("/-/healthy", 200), ("/-/ready", 200), ("/nope", 404), ("/compute/x", 400)] {
            assert_eq!(ask(&router, request("GET", path, &[], "")).await.0, status, "{path}");
        }
        stmt(&router, "select 1").await;
        for (accept, end) in [("", "\n"), ("application/openmetrics-text", "# EOF\n")] {
            let (_, _, text) = ask(&router, request("GET", "/metrics", &[("accept", accept)], "")).await;
            assert!(text.contains("costream_queries_total{result=\"ok\"} 1") && text.ends_with(end), "{text}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_fails_midway_is_broken_off() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = HandlerConfig {
            data_dir: dir.path().to_owned(),
            listen_address: "127.0.0.1:0".to_owned(),
            query: crate::sql::Limits { max_rows: 50_000, ..Default::default() },
            ..HandlerConfig::default()
        };
        let handler = Handler::open(config).await.expect("a handler");
        let listener = handler.bind(&Door::default()).await.expect("an address");
        let address = listener.local_addr();
        let serving = handler.clone();
        tokio::spawn(async move { serving.serve(listener, Default::default()).await });
        for (rows, whole) in [(50_000, true), (60_000, false)] {
            let body = format!(r#"{{"stmt": "select * from generate_series(1, {rows})"}}"#);
            let head = format!(
                "POST /_sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
            stream.write_all((head + &body).as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 200") && answer.len() > 200_000, "{}", answer.len());
            assert_eq!(answer.ends_with("0\r\n\r\n"), whole, "the last chunk of {rows} rows");
        }
    }
}
