//! The two faces of the exporter, and what belongs around them.
//!
//! | route | what |
//! |---|---|
//! | `/metrics` | sums over dimensions, states, telemetry: what Prometheus should store |
//! | `/records[?source=&scope=]` | every row: text, or an Arrow IPC stream |
//! | `/rejects[?source=&scope=]` | the refused rows, as an Arrow IPC stream |
//! | `/snapshots` | what there is, with its control totals, as JSON |
//! | `/-/healthy`, `/-/ready` | alive; every source polled once, or reloaded |
//!
//! Each body is chosen by `Accept` and `Accept-Encoding` and has a weak entity tag that changes with the snapshots. That of
//! `/metrics` changes with the bill and the sources' states, not with the process's own telemetry.

mod body;
mod chunks;
mod metrics;
mod points;
mod records;
mod rows;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{self, Format};
use futures::{StreamExt as _, stream};
use serde::Deserialize;

use self::body::{Refusal, all, answer, pulled, refused};
use self::chunks::Chunks;
use self::metrics::{Shown, SourceState};
use self::points::PointsText;
use self::records::{Arrow, Rows, Text};
use self::rows::RowsText;
use crate::Inner;
use crate::poll::Polling;
use crate::snapshot::Generation;

/// The media type of an Arrow IPC stream.
pub const ARROW: &str = "application/vnd.apache.arrow.stream";
const JSON: &str = "application/json";
const ROUTES: [&str; 7] = ["/", "/metrics", "/records", "/rejects", "/snapshots", "/-/healthy", "/-/ready"];

pub(crate) use self::records::cell;

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/records", get(records))
        .route("/rejects", get(rejects))
        .route("/snapshots", get(snapshots))
        .route("/-/healthy", get(|| async { "healthy\n" }))
        .route("/-/ready", get(ready))
        .layer(from_fn_with_state(Arc::clone(&inner), counted))
        .with_state(inner)
}

async fn counted(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    let route = ROUTES.into_iter().find(|route| *route == request.uri().path()).unwrap_or("other");
    let response = next.run(request).await;
    inner.polls.telemetry.answered(route, response.status().as_u16());
    response
}

async fn metrics(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    let Some(format) = exposition::negotiate(&all(&headers, header::ACCEPT)) else {
        return refused(Refusal::NotAcceptable);
    };
    let polls = &inner.polls;
    let Ok(telemetry) = polls.telemetry.text(format) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the telemetry cannot be written\n").into_response();
    };
    // An exporter that is replaced had the rows and nothing else, and a scraper of its kind waits until it reads the
    // same twice, and takes every sample for a charge. It says nothing of what it accepts; a Prometheus does.
    let is_bare = polls.spool.has_rows() && !headers.contains_key(header::ACCEPT);
    let tag = inner.tag(&(polls.ready.changes(), format, is_bare));
    let sources =
        inner.sources.iter().map(|polling| SourceState { name: polling.source.name.clone(), status: polling.status() });
    let shown = Shown {
        sums: polls.ready.get(),
        sources: sources.collect(),
        spool_bytes: polls.spool.used_bytes(),
        spool_max_bytes: polls.spool.max_bytes(),
        telemetry,
    };
    let chunks = |chunks: Vec<Bytes>| stream::iter(chunks.into_iter().map(Ok));
    if !polls.spool.has_rows() {
        let chunks = chunks(metrics::chunks(&shown, format));
        return answer(&headers, format.content_type(), &tag, chunks);
    }
    let current = polls.spool.current();
    // Rows say of which source they are where another one's could be the same series.
    let several = |of: fn(&Polling) -> bool| inner.sources.iter().filter(|polling| of(polling)).nth(1).is_some();
    let costs = Chunks::of(RowsText::new(current.clone(), several(Polling::is_of_charges)));
    let rows = costs.chain(Chunks::of(PointsText::new(current, several(Polling::is_of_points))));
    let is_down = |source: &SourceState| source.status.up == Some(false);
    let rest = if is_bare {
        let mut writer = TextWriter::new(format);
        metrics::write_generic(&mut writer, &shown);
        metrics::ups(&mut writer, shown.sources.iter().filter(|source| is_down(source)));
        vec![writer.take()]
    } else {
        metrics::chunks(&shown, format)
    };
    answer(&headers, format.content_type(), &tag, pulled(rows).chain(chunks(rest)))
}

/// Which snapshots a request is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    source: Option<String>,
    scope: Option<String>,
}

impl Selection {
    /// The snapshots selected, in order; an answer when there is none of that name.
    fn of(query: Result<Query<Self>, QueryRejection>, inner: &Inner) -> Result<Vec<Arc<Generation>>, Box<Response>> {
        let Query(selection) =
            query.map_err(|error| (StatusCode::BAD_REQUEST, format!("{}\n", error.body_text())).into_response())?;
        let takes = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        let mut selected = inner.polls.spool.current();
        selected.retain(|generation| {
            takes(&selection.source, generation.key().source.as_str())
                && takes(&selection.scope, generation.key().scope.as_str())
        });
        let everything = selection.source.is_none() && selection.scope.is_none();
        if selected.is_empty() && !everything {
            return Err((StatusCode::NOT_FOUND, "there is no snapshot of that source and scope\n")
                .into_response()
                .into());
        }
        Ok(selected)
    }
}

async fn records(
    State(inner): State<Arc<Inner>>,
    query: Result<Query<Selection>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let selected = match Selection::of(query, &inner) {
        Ok(selected) => selected,
        Err(answer) => return *answer,
    };
    // Text first: it is what one gets who does not say.
    let formats = [Format::Text004, Format::OpenMetrics100];
    let offers = [formats[0].content_type(), formats[1].content_type(), ARROW];
    match exposition::preferred(&all(&headers, header::ACCEPT), &offers) {
        None => refused(Refusal::NotAcceptable),
        Some(at) => match formats.get(at) {
            Some(format) => answer(
                &headers,
                format.content_type(),
                &inner.tag_of(&selected, format.content_type()),
                pulled(Text::new(selected, *format)),
            ),
            None => arrow(&inner, &headers, selected, Rows::Taken).await,
        },
    }
}

async fn rejects(
    State(inner): State<Arc<Inner>>,
    query: Result<Query<Selection>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let selected = match Selection::of(query, &inner) {
        Ok(selected) => selected,
        Err(answer) => return *answer,
    };
    if exposition::preferred(&all(&headers, header::ACCEPT), &[ARROW]).is_none() {
        return refused(Refusal::NotAcceptable);
    }
    arrow(&inner, &headers, selected, Rows::Refused).await
}

async fn arrow(inner: &Inner, headers: &HeaderMap, selected: Vec<Arc<Generation>>, rows: Rows) -> Response {
    let tag = inner.tag_of(&selected, ARROW);
    match tokio::task::spawn_blocking(move || Arrow::new(selected, rows)).await {
        Ok(Ok(chunks)) => answer(headers, ARROW, &tag, pulled(chunks)),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    let error = costream_common::report::one_line(error);
    tracing::error!(error, "a request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

async fn snapshots(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    if exposition::preferred(&all(&headers, header::ACCEPT), &[JSON]).is_none() {
        return refused(Refusal::NotAcceptable);
    }
    let current = inner.polls.spool.current();
    let tag = inner.tag_of(&current, JSON);
    let listed = current.into_iter().enumerate().map(|(at, generation)| {
        let mut text = Vec::from(if at == 0 { "{\"snapshots\":[" } else { "," });
        serde_json::to_writer(&mut text, generation.snapshot()).map(|()| Bytes::from(text))
    });
    let is_empty = inner.polls.spool.current().is_empty();
    let end = if is_empty { "{\"snapshots\":[]}\n" } else { "]}\n" };
    answer(&headers, JSON, &tag, pulled(listed.chain([Ok(Bytes::from_static(end.as_bytes()))])))
}

async fn ready(State(inner): State<Arc<Inner>>) -> Response {
    match inner.waiting_for() {
        None => "ready\n".into_response(),
        Some(source) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: source {source} has not been polled yet\n"))
                .into_response()
        }
    }
}

async fn landing(State(inner): State<Arc<Inner>>) -> Html<String> {
    let mut rows = String::new();
    for polling in &inner.sources {
        let status = polling.status();
        let state = match (status.up, &status.failure) {
            (None, _) => "not polled yet".to_owned(),
            (Some(_), Some(failure)) => format!("failed: {failure}"),
            (Some(_), None) => "up".to_owned(),
        };
        let source = &polling.source.name;
        let snapshots: Vec<_> =
            inner.polls.spool.current().into_iter().filter(|generation| generation.key().source == *source).collect();
        let charges: u64 = snapshots.iter().map(|generation| generation.snapshot().totals.rows()).sum();
        let rejected: u64 = snapshots.iter().map(|generation| generation.snapshot().rejected).sum();
        let cells = [source.to_string(), state, snapshots.len().to_string(), charges.to_string(), rejected.to_string()];
        rows.push_str(&format!("<tr>{}</tr>\n", cells.map(|cell| format!("<td>{}</td>", escaped(&cell))).concat()));
    }
    let links: String = ROUTES[1..].iter().map(|route| format!("<li><a href=\"{route}\">{route}</a></li>\n")).collect();
    Html(format!(
        "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Costream exporter</title>
<style>body{{font-family:sans-serif;margin:2em}}td,th{{padding:.2em 1em .2em 0;text-align:left}}</style></head>
<body><h1>Costream exporter {}</h1>
<ul>
{links}</ul>
<table><tr><th>source</th><th>state</th><th>reports</th><th>charges</th><th>rejected</th></tr>
{rows}</table></body></html>
",
        env!("CARGO_PKG_VERSION")
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Inner {
    /// An entity tag of something that changes within this process's life.
    fn tag(&self, of: &impl std::hash::Hash) -> String {
        let mut hasher = DefaultHasher::new();
        (self.started_nanos, of).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// An entity tag of snapshots: the same as long as they are, after a restart too.
    fn tag_of(&self, generations: &[Arc<Generation>], content_type: &str) -> String {
        let mut hasher = DefaultHasher::new();
        (env!("CARGO_PKG_VERSION"), content_type).hash(&mut hasher);
        for snapshot in generations.iter().map(|generation| generation.snapshot()) {
            (&snapshot.key, snapshot.snapshot).hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }
}
