//! Notebooks over HTTP, as contracts 6 has it: routes, and the one place where their errors become statuses.
//!
//! | route | what |
//! |---|---|
//! | `POST /compute/<name>` | runs a notebook; the body is a JSON object of parameters, the answer what it prints |
//! | `POST /compute/<name>/upload?overwrite=true` | keeps a notebook |
//! | `DELETE /compute/<name>` | takes it away |
//! | `GET /compute/list`, `GET /compute/<name>/info[?version=N]` | what there is |
//! | `GET /-/capabilities` | how far runs are kept in on this machine |
//!
//! A run that fails within [`HELD_FOR`] and [`HELD_BYTES`] of its first output is answered with a status that says so,
//! and the end of its standard error. What is longer is streamed; when it fails later its answer is broken off, or, to a
//! client that takes trailers (`TE: trailers`), ended by the trailer [`ERROR_TRAILER`].

use std::collections::HashSet;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use costream_common::report;
use futures::{Stream, stream};
use http_body_util::BodyExt as _;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Outcome as Counted, Refusal, SQL_MEDIA_TYPE, forbidden, sent};
use crate::Handler;
use crate::auth::{Caller, Right};
use crate::compute::cells::{Cells, CellsError, Kind};
use crate::compute::notebook::{MAX_CODE_BYTES, NameError, Notebook, NotebookError, NotebookName, Overwrite};
use crate::compute::run::{FailureKind, Outcome, Run, RunError, RunFailure};
use crate::sql::{Arg, Options, csv, gateway};

/// The largest body of parameters.
const MAX_PARAMETERS_BYTES: usize = 1 << 20;
/// How long the answer to a run that prints is held back, lest it fail.
const HELD_FOR: Duration = Duration::from_secs(1);
/// How much of it is held back.
const HELD_BYTES: usize = 64 << 10;
/// When a client that was turned away may come back, in seconds.
const RETRY_AFTER: &str = "5";
/// Says why a run that had begun to stream has failed.
const ERROR_TRAILER: HeaderName = HeaderName::from_static("costream-error");
/// The longest text of it.
const MAX_TRAILER_BYTES: usize = 1024;

/// What is wrong with a request, or with what was to answer it.
#[derive(Debug, thiserror::Error)]
enum ComputeError {
    #[error("URL composition incorrect")]
    Path,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no notebook {0:?}")]
    Unknown(String),
    #[error("query parameter version: a number is wanted")]
    Version,
    #[error("a notebook is text in UTF-8")]
    NoText,
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body cannot be read")]
    Body(#[source] axum::Error),
    #[error("parameters: {0}")]
    Parameters(String),
    #[error(transparent)]
    Cells(#[from] CellsError),
    #[error(transparent)]
    Notebook(#[from] NotebookError),
    #[error(transparent)]
    Run(#[from] RunError),
}

impl ComputeError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Path | Self::Name(_) | Self::Version | Self::NoText | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Parameters(_) | Self::Cells(_) => StatusCode::BAD_REQUEST,
            Self::Notebook(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Run(RunError::Busy { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Run(RunError::Python(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Run(RunError::Uncontained { .. }) => StatusCode::NOT_IMPLEMENTED,
            Self::Run(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ComputeError {
    fn into_response(self) -> Response {
        let (status, error) = (self.status(), report::one_line(&self));
        if status.is_server_error() {
            tracing::warn!(error, "a request for a notebook failed");
        }
        let mut response = (status, Json(json!({"error": error}))).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// The routes of notebooks.
pub(super) fn routes() -> Router<Handler> {
    const OTHERS: [&str; 5] = ["", "/", "/{name}/", "/{name}/{action}/", "/{name}/{action}/{*rest}"];
    let routes = Router::new().route("/compute/{name}", any(of_one)).route("/compute/{name}/{action}", any(of_two));
    OTHERS
        .into_iter()
        .fold(routes, |routes, other| routes.route(&format!("/compute{other}"), any(of_none)))
        .route_layer(from_fn(for_compute))
        .route("/-/capabilities", get(capabilities))
}

/// Lets callers pass who may run code.
async fn for_compute(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    match caller.require(Right::Compute) {
        Ok(()) => next.run(request).await,
        Err(lacking) => forbidden(&lacking),
    }
}

/// Paths with one segment below `/compute`. Methods are told apart here, so that what is no route is answered as such.
async fn of_one(
    State(handler): State<Handler>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ComputeError> {
    let Ok(Path(name)) = path else { return Err(ComputeError::Path) };
    match *request.method() {
        Method::GET if name == "list" => list(&handler).await,
        Method::POST => run(&handler, &caller, NotebookName::new(&name)?, request).await,
        Method::DELETE => {
            handler.compute().notebooks().delete(&NotebookName::new(&name)?, &caller.name).await?;
            Ok(Json(json!({"result": "deleted"})).into_response())
        }
        _ => Err(ComputeError::Path),
    }
}

/// Paths with two.
async fn of_two(
    State(handler): State<Handler>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ComputeError> {
    let Ok(Path((name, action))) = path else { return Err(ComputeError::Path) };
    let query = query.unwrap_or_default();
    match (request.method(), action.as_str()) {
        (&Method::POST, "upload") => upload(&handler, &caller, NotebookName::new(&name)?, &query, request).await,
        (&Method::GET, "info") => info(&handler, &name, &query).await,
        _ => Err(ComputeError::Path),
    }
}

/// Whatever else is below `/compute`.
async fn of_none() -> ComputeError {
    ComputeError::Path
}

/// What this machine can do.
async fn capabilities(State(handler): State<Handler>) -> Response {
    Json(json!({"compute": handler.compute().capabilities().await})).into_response()
}

async fn list(handler: &Handler) -> Result<Response, ComputeError> {
    let names = handler.compute().notebooks().list().await?;
    let rows: Vec<[String; 1]> = names.into_iter().map(|name| [name]).collect();
    Ok(Json(rows).into_response())
}

async fn info(handler: &Handler, name: &str, query: &str) -> Result<Response, ComputeError> {
    let notebooks = handler.compute().notebooks();
    let unknown = || (StatusCode::NOT_FOUND, Json(json!({"code": "", "notebook": name}))).into_response();
    // What is no notebook's name is unknown as well.
    let Ok(known) = NotebookName::new(name) else { return Ok(unknown()) };
    let version = parameter(query, "version").map(|version| version.parse().map_err(|_| ComputeError::Version));
    Ok(match version.transpose()? {
        None => match notebooks.find(&known).await? {
            Some(Notebook { code, .. }) => Json(json!({"notebook": name, "code": code})).into_response(),
            None => unknown(),
        },
        Some(version) => match notebooks.version(&known, version).await? {
            Some(there) => Json(json!({
                "notebook": name,
                "code": there.code,
                "version": there.version,
                "kind": there.kind.as_str(),
                "digest": there.digest,
                "author": there.author,
                "at": there.at.to_rfc3339(),
                "deleted": there.deleted,
            }))
            .into_response(),
            None => unknown(),
        },
    })
}

async fn upload(
    handler: &Handler,
    caller: &Caller,
    name: NotebookName,
    query: &str,
    request: Request,
) -> Result<Response, ComputeError> {
    let overwrite = parameter(query, "overwrite").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let overwrite = if overwrite { Overwrite::Yes } else { Overwrite::No };
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let code = body_of(request, MAX_CODE_BYTES).await?;
    let code = String::from_utf8(code.into()).map_err(|_| ComputeError::NoText)?;
    let kind = Kind::of(name.as_str(), &content_type, &code);
    if kind == Kind::Ipynb && !code.is_empty() {
        Cells::of_ipynb(&code)?;
    }
    let kept =
        !code.is_empty() && handler.compute().notebooks().upload(&name, kind, code, &caller.name, overwrite).await?;
    Ok(Json(json!({"result": kept})).into_response())
}

async fn run(
    handler: &Handler,
    caller: &Caller,
    name: NotebookName,
    request: Request,
) -> Result<Response, ComputeError> {
    let headers = request.headers().clone();
    let parameters = parameters(&body_of(request, MAX_PARAMETERS_BYTES).await?)?;
    let notebook = handler.compute().notebooks().find(&name).await?;
    let notebook = notebook.ok_or_else(|| ComputeError::Unknown(name.as_str().to_owned()))?;
    let telemetry = handler.shared.telemetry.run();
    let cells = match notebook.kind {
        Kind::Python => Cells::of_python(notebook.code),
        Kind::Ipynb => Cells::of_ipynb(&notebook.code)?,
        Kind::Sql => {
            let args = statement_args(&parameters)?;
            return Ok(statement(handler, caller, &notebook.code, &args, &headers, telemetry).await);
        }
    };
    let args = parameters.into_iter().map(|(name, value)| Ok(format!("{name}={}", text_of(&value)?)));
    let args = args.collect::<Result<_, ComputeError>>()?;
    let run = handler.compute().run(caller, cells, args, handler.router()).await?;
    answer(run, &headers, telemetry).await
}

/// The parameters of a run, in order.
fn parameters(body: &[u8]) -> Result<Vec<(String, Box<RawValue>)>, ComputeError> {
    struct Object;
    impl<'de> Visitor<'de> for Object {
        type Value = Vec<(String, Box<RawValue>)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object of parameters")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let parameters = json.deserialize_map(Object).map_err(no_json)?;
    json.end().map_err(no_json)?;
    let mut names = HashSet::new();
    for (name, _) in &parameters {
        if name.is_empty() || name.contains('=') {
            return Err(ComputeError::Parameters(format!("{name:?} is no name of a parameter")));
        }
        if !names.insert(name) {
            return Err(ComputeError::Parameters(format!("{name:?} is there twice")));
        }
    }
    Ok(parameters)
}

fn no_json(error: serde_json::Error) -> ComputeError {
    ComputeError::Parameters(error.to_string())
}

/// A parameter's value as a notebook gets it: a text as it is, the rest as its JSON text.
fn text_of(value: &RawValue) -> Result<String, ComputeError> {
    let text = value.get();
    if text.starts_with('"') { serde_json::from_str(text).map_err(no_json) } else { Ok(text.to_owned()) }
}

// -- statements

/// The values of `$1`, `$2` and so on, from parameters of these numbers.
fn statement_args(parameters: &[(String, Box<RawValue>)]) -> Result<Vec<Arg>, ComputeError> {
    let mut args = vec![None; parameters.len()];
    for (name, value) in parameters {
        let number = name.parse::<usize>().ok().filter(|number| number.to_string() == *name);
        let place = number.and_then(|number| args.get_mut(number.checked_sub(1)?));
        let place = place.ok_or_else(|| {
            let all = parameters.len();
            ComputeError::Parameters(format!("{name:?}: those of a statement are called 1 to {all}, as in $1"))
        })?;
        *place = Some(Arg::from_json(value).map_err(|error| ComputeError::Parameters(error.to_string()))?);
    }
    Ok(args.into_iter().flatten().collect())
}

/// Answers a statement as the SQL door does, or in CSV.
async fn statement(
    handler: &Handler,
    caller: &Caller,
    statement: &str,
    args: &[Arg],
    headers: &HeaderMap,
    mut telemetry: Counted,
) -> Response {
    let began = Instant::now();
    let options = Options { caller: caller.clone(), ..Options::default() };
    let as_csv = accepts(headers, "text/csv");
    let answer = async {
        let rows = handler.engine().execute(statement, args, &options).await?;
        if as_csv { csv::answer(rows).await } else { gateway::answer(rows, false, began).await }
    };
    match answer.await {
        Ok(answer) => sent(answer, if as_csv { csv::MEDIA_TYPE } else { SQL_MEDIA_TYPE }, telemetry),
        Err(error) => {
            telemetry.ended("failed");
            Refusal { error, trace: false }.into_response()
        }
    }
}

async fn body_of(request: Request, most: usize) -> Result<Bytes, ComputeError> {
    axum::body::to_bytes(request.into_body(), most).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            ComputeError::TooLarge(most)
        } else {
            ComputeError::Body(error)
        }
    })
}

/// A query's parameter, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

// -- the answer of a run

/// What a run's output is sent as.
fn content_type(headers: &HeaderMap) -> &'static str {
    if accepts(headers, "application/json") { "application/json" } else { "text/html; charset=utf-8" }
}

/// Whether a client names a media type among those it takes.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let accept = headers.get_all(header::ACCEPT).into_iter().filter_map(|accept| accept.to_str().ok());
    let mut ranges =
        accept.flat_map(|accept| accept.split(',')).map(|range| range.split(';').next().unwrap_or_default());
    ranges.any(|range| range.trim().eq_ignore_ascii_case(media_type))
}

async fn answer(mut run: Run, headers: &HeaderMap, mut telemetry: Counted) -> Result<Response, ComputeError> {
    let mut held = Vec::new();
    let mut until: Option<Instant> = None;
    let over = loop {
        let chunk = match until {
            None => run.output.recv().await,
            Some(until) => match tokio::time::timeout_at(until, run.output.recv()).await {
                Ok(chunk) => chunk,
                Err(_) => break false,
            },
        };
        let Some(chunk) = chunk else { break true };
        held.extend_from_slice(&chunk);
        until.get_or_insert_with(|| Instant::now() + HELD_FOR);
        if held.len() >= HELD_BYTES {
            break false;
        }
    };
    let head = [(header::CONTENT_TYPE, content_type(headers))];
    if over {
        let outcome = run.outcome.await;
        telemetry.ended(result_of(&outcome));
        return Ok(match outcome {
            Ok(Outcome::Done) => {
                if held.last() == Some(&b'\n') {
                    held.pop();
                }
                (head, held).into_response()
            }
            Ok(Outcome::Failed(failure)) => failed(&failure, headers),
            Err(_) => failed(&lost(), headers),
        });
    }
    let with_trailers = headers.get_all(header::TE).into_iter().any(|te| {
        te.to_str().is_ok_and(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
    });
    let (tell_failure, hear_failure) = oneshot::channel();
    let pieces = pieces(run, held, telemetry, with_trailers.then_some(tell_failure));
    if !with_trailers {
        return Ok((head, Body::from_stream(pieces)).into_response());
    }
    let trailers = async move {
        let why: String = hear_failure.await.ok()?;
        let value = HeaderValue::try_from(shown(&why)).ok()?;
        Some(Ok::<_, axum::Error>(HeaderMap::from_iter([(ERROR_TRAILER, value)])))
    };
    let body = Body::new(Body::from_stream(pieces).with_trailers(trailers));
    Ok((head, [(header::TRAILER, ERROR_TRAILER.as_str())], body).into_response())
}

/// The output as it comes, without its last line break; an error, or a word to who waits for one, when the run fails.
fn pieces(
    run: Run,
    held: Vec<u8>,
    telemetry: Counted,
    tell: Option<oneshot::Sender<String>>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    struct Rest {
        run: Run,
        telemetry: Counted,
        tell: Option<oneshot::Sender<String>>,
        /// A line break that may be the last.
        broken: bool,
        ready: Option<Bytes>,
    }
    let rest = Rest { run, telemetry, tell, broken: false, ready: Some(held.into()) };
    stream::unfold(Some(rest), async |rest| {
        let mut rest = rest?;
        loop {
            let chunk = match rest.ready.take() {
                Some(chunk) => Some(chunk),
                None => rest.run.output.recv().await,
            };
            let Some(chunk) = chunk else { break };
            if chunk.is_empty() {
                continue;
            }
            let ends = chunk.last() == Some(&b'\n');
            let whole = chunk.slice(..chunk.len() - usize::from(ends));
            let piece = if rest.broken { Bytes::from([b"\n", &whole[..]].concat()) } else { whole };
            rest.broken = ends;
            if !piece.is_empty() {
                return Some((Ok(piece), Some(rest)));
            }
        }
        let outcome = (&mut rest.run.outcome).await;
        rest.telemetry.ended(result_of(&outcome));
        let failure = match outcome {
            Ok(Outcome::Done) => return None,
            Ok(Outcome::Failed(failure)) => failure,
            Err(_) => lost(),
        };
        tracing::info!(why = failure.why, "a notebook failed, and its answer is broken off");
        let last_line = failure.stderr.lines().last().unwrap_or_default();
        let why = if last_line.is_empty() { failure.why } else { format!("{}: {last_line}", failure.why) };
        match rest.tell {
            Some(tell) => {
                let _gone = tell.send(why);
                None
            }
            None => Some((Err(std::io::Error::other(why)), None)),
        }
    })
}

/// What telemetry calls an end.
fn result_of(outcome: &Result<Outcome, oneshot::error::RecvError>) -> &'static str {
    match outcome {
        Ok(Outcome::Done) => "ok",
        Ok(Outcome::Failed(RunFailure { kind: FailureKind::Notebook, .. })) => "failed",
        Ok(Outcome::Failed(RunFailure { kind: FailureKind::Time | FailureKind::Limit, .. })) => "stopped",
        Ok(Outcome::Failed(RunFailure { kind: FailureKind::Gone, .. })) => "cancelled",
        Ok(Outcome::Failed(RunFailure { kind: FailureKind::Handler, .. })) | Err(_) => "broken_off",
    }
}

/// A text as a header's value can hold it.
fn shown(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' });
    plain.take(MAX_TRAILER_BYTES).collect()
}

fn lost() -> RunFailure {
    RunFailure { why: "the run broke off".to_owned(), kind: FailureKind::Handler, stderr: String::new() }
}

fn failed(failure: &RunFailure, headers: &HeaderMap) -> Response {
    let RunFailure { why, kind, stderr } = failure;
    let status = match kind {
        FailureKind::Time => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::Notebook | FailureKind::Limit | FailureKind::Gone | FailureKind::Handler => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    if *kind == FailureKind::Handler {
        tracing::warn!(why, "a notebook was not run to its end");
    }
    if accepts(headers, "application/json") {
        return (status, Json(json!({"error": why, "stderr": stderr}))).into_response();
    }
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    let text = if stderr.is_empty() { format!("{why}\n") } else { format!("{why}\n\n{stderr}\n") };
    (status, head, text).into_response()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::api::Telemetry;

    /// A run that prints these chunks and then ends.
    fn ended(chunks: &[&[u8]], outcome: Outcome) -> Run {
        let (print, output) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            print.try_send(Bytes::copy_from_slice(chunk)).expect("there is room");
        }
        let (tell, hear) = oneshot::channel();
        tell.send(outcome).expect("somebody hears");
        Run { output, outcome: hear }
    }

    fn failure() -> Outcome {
        let stderr = "Traceback\nValueError: \u{e4}".to_owned();
        Outcome::Failed(RunFailure { why: "status 1".to_owned(), kind: FailureKind::Notebook, stderr })
    }

    #[tokio::test]
    async fn output_is_the_same_however_it_is_cut_but_for_its_last_line_break() {
        for text in ["", "\n", "\n\n", "a", "a\n", "a\n\nb", "\na\n\n"] {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let [head, middle, tail] = [&text[..first], &text[first..second], &text[second..]];
                    let run = ended(&[middle.as_bytes(), tail.as_bytes()], Outcome::Done);
                    let sent: Vec<_> = pieces(run, head.into(), Telemetry::new().run(), None).collect().await;
                    let sent: Vec<u8> = sent.into_iter().flat_map(|piece| piece.expect("a piece")).collect();
                    let expected = text.strip_suffix('\n').unwrap_or(text);
                    assert_eq!(String::from_utf8_lossy(&sent), expected, "{head:?} {middle:?} {tail:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_in_words_or_by_breaking_off() {
        let telemetry = Telemetry::new();
        let broken: Vec<_> = pieces(ended(&[], failure()), b"a".into(), telemetry.run(), None).collect().await;
        assert!(broken.len() == 2 && broken[1].is_err(), "{broken:?}");
        let (tell, hear) = oneshot::channel();
        let whole: Vec<_> = pieces(ended(&[], failure()), b"a".into(), telemetry.run(), Some(tell)).collect().await;
        assert!(whole.len() == 1 && whole[0].is_ok(), "{whole:?}");
        let why = hear.await.expect("told");
        assert_eq!((why.as_str(), shown(&why).as_str()), ("status 1: ValueError: \u{e4}", "status 1: ValueError: ?"));
    }
}
