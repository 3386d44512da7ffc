//! `POST /upload`: which kind of upload a request is, and how it is answered.
//!
//! | content type | parameters | what |
//! |---|---|---|
//! | [`ARROW_STREAM`] | `table`, `source`, `scope`, `snapshot` | a snapshot in the place of its scope |
//! | [`ARROW_STREAM`] | `table`, `key` | rows in the place of those with the same key columns |
//! | `application/json` | `table`, `type`, `value`, `rejects` | records, as [`upload`](crate::upload) has it |

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use costream_common::record::{NameError, ScopeKey, ScopeName, SnapshotId, SnapshotIdError, SourceName};
use costream_common::report;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::{ARROW_STREAM, Doors, N_UPLOADS, RETRY_AFTER, Shared};
use crate::ident::{ColumnName, TableName, TableNameError};
use crate::ingest::{IngestError, Receipt};
use crate::store::{Delivery, Upsert};
use crate::upload::{self, Incoming, JsonError, Kind, Rejects, Taken, Upload, UploadError};

/// How long an upload waits for its turn.
const UPLOAD_WAIT: Duration = Duration::from_secs(30);
/// What is still read of an upload that has failed, so that its client hears why.
const FORGOTTEN_BYTES: usize = 64 << 20;
/// How long that may take.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);

/// Why an upload was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unstored {
    #[error("query parameter {0} is missing")]
    Missing(&'static str),
    #[error("query parameter {name}: {given:?}: {expected} is taken")]
    Parameter { name: &'static str, given: String, expected: &'static str },
    #[error("Table name not specified")]
    NoTable,
    #[error("query parameter table")]
    Table(#[from] TableNameError),
    #[error("query parameter source or scope")]
    Name(#[from] NameError),
    #[error("query parameter snapshot")]
    Snapshot(#[from] SnapshotIdError),
    #[error("Request must be JSON")]
    MediaType(String),
    #[error("{N_UPLOADS} uploads are under way: try again")]
    Busy,
    #[error(transparent)]
    Body(#[from] UploadError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

impl Unstored {
    fn status_and_retryable(&self) -> (StatusCode, bool) {
        match self {
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, true),
            Self::Ingest(error) | Self::Json(JsonError::Ingest(error)) if error.is_callers() => {
                (StatusCode::BAD_REQUEST, error.is_retryable())
            }
            Self::Ingest(error) | Self::Json(JsonError::Ingest(error)) if error.is_retryable() => {
                (StatusCode::SERVICE_UNAVAILABLE, true)
            }
            Self::Ingest(_) | Self::Json(JsonError::Ingest(_)) => (StatusCode::INTERNAL_SERVER_ERROR, false),
            Self::Body(UploadError::Body(_) | UploadError::Cut) | Self::Json(JsonError::Body(_)) => {
                (StatusCode::BAD_REQUEST, true)
            }
            Self::Json(error) if !error.is_callers() => (StatusCode::SERVICE_UNAVAILABLE, true),
            _ => (StatusCode::BAD_REQUEST, false),
        }
    }

    /// What a client needs beside the error's text.
    fn details(&self) -> Value {
        match self {
            Self::MediaType(media_type) => {
                json!({"reason": format!("content type {media_type:?}: application/json is taken, and {ARROW_STREAM}")})
            }
            Self::Json(JsonError::NotJson { reason }) => json!({"reason": reason}),
            Self::Json(JsonError::Rejected(rejected)) => json!({
                "index": rejected.index,
                "column": rejected.column,
                "reason": rejected.reason.as_str(),
                "text": rejected.text,
            }),
            _ => json!({}),
        }
    }
}

impl IntoResponse for Unstored {
    fn into_response(self) -> Response {
        let (status, retryable) = self.status_and_retryable();
        let error = report::one_line(&self);
        if status.is_server_error() {
            tracing::warn!(error, "an upload was not stored");
        }
        let mut answer = self.details();
        answer["error"] = error.into();
        answer["retryable"] = retryable.into();
        let mut response = (status, Json(answer)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// What became of an upload.
enum Stored {
    Arrow(Receipt),
    Json { taken: Taken, rejects: Rejects, took: Duration },
}

impl IntoResponse for Stored {
    fn into_response(self) -> Response {
        match self {
            Self::Arrow(receipt) => Json(receipt).into_response(),
            Self::Json { taken: Taken { received: 0, .. }, .. } => {
                Json(json!({"result": "No data to process"})).into_response()
            }
            Self::Json { taken, rejects, took } => {
                let mut answer = json!({
                    "message": "Data uploaded successfully",
                    "records_processed": taken.stored,
                    "time_taken": took.as_secs_f64(),
                });
                if rejects == Rejects::Keep {
                    answer["records_rejected"] = taken.rejected.into();
                }
                Json(answer).into_response()
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Place {
    table: Option<String>,
    source: Option<String>,
    scope: Option<String>,
    snapshot: Option<String>,
    /// The columns that make a row's identity, of rows that belong to no snapshot.
    key: Option<String>,
    /// What the records of an upload in JSON are.
    r#type: Option<String>,
    /// The place of the label that holds a generic record's number.
    value: Option<String>,
    /// What becomes of records that cannot be stored.
    rejects: Option<String>,
}

impl Place {
    fn table(&self) -> Result<TableName, Unstored> {
        Ok(self.table.as_deref().filter(|table| !table.is_empty()).ok_or(Unstored::NoTable)?.parse()?)
    }

    fn table_and_key(&self) -> Result<(TableName, ScopeKey), Unstored> {
        let table = self.table()?;
        let source = SourceName::new(self.source.as_deref().ok_or(Unstored::Missing("source"))?)?;
        let scope = ScopeName::new(self.scope.as_deref().ok_or(Unstored::Missing("scope"))?)?;
        Ok((table, ScopeKey { source, scope }))
    }

    fn kind(&self) -> Result<Kind, Unstored> {
        let wrong = |name, given: &str, expected| Unstored::Parameter { name, given: given.to_owned(), expected };
        let value = self.value.as_deref().filter(|value| !value.is_empty());
        let value =
            value.map(|value| value.parse().map_err(|_| wrong("value", value, "the place of a label, from 0,")));
        match self.r#type.as_deref() {
            None | Some("" | "cost") => Ok(Kind::Cost),
            Some("resource") => Ok(Kind::Resource),
            Some("generic") => Ok(Kind::Generic { value: value.transpose()? }),
            Some(other) => Err(wrong("type", other, "cost, resource or generic")),
        }
    }

    fn rejects(&self) -> Result<Rejects, Unstored> {
        match self.rejects.as_deref() {
            None => Ok(Rejects::Refuse),
            Some("keep") => Ok(Rejects::Keep),
            Some(other) => Err(Unstored::Parameter { name: "rejects", given: other.to_owned(), expected: "keep" }),
        }
    }
}

pub(super) async fn upload(
    State(doors): Shared,
    Query(place): Query<Place>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = Incoming::new(body);
    let telemetry = &doors.handler.shared.telemetry;
    let stored = stored(&doors, &place, &headers, body.clone()).await;
    match &stored {
        Ok(Stored::Arrow(receipt)) => {
            telemetry.uploaded(if receipt.already { "already" } else { "stored" }, receipt.stored, receipt.rejected);
        }
        Ok(Stored::Json { taken, .. }) => telemetry.uploaded("stored", taken.stored, taken.rejected),
        Err(_) => telemetry.uploaded("failed", 0, 0),
    }
    let _ = tokio::time::timeout(FORGOTTEN_WITHIN, body.forget(FORGOTTEN_BYTES)).await;
    stored.into_response()
}

async fn stored(doors: &Doors, place: &Place, headers: &HeaderMap, body: Incoming) -> Result<Stored, Unstored> {
    let table = place.table()?;
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence == ARROW_STREAM {
        return Ok(Stored::Arrow(arrow(doors, table, place, body).await?));
    }
    // What the service before ours took for JSON.
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(Unstored::MediaType(media_type.to_owned()));
    }
    let directory = doors.handler.config().data_dir.clone();
    let (kind, rejects) = (place.kind()?, place.rejects()?);
    let _turn = turn(doors).await?;
    let began = Instant::now();
    let request = upload::Request { table, kind, rejects, directory };
    let taken = upload::store(&doors.handler.ingest(), request, &body).await?;
    Ok(Stored::Json { taken, rejects, took: began.elapsed() })
}

async fn arrow(doors: &Doors, table: TableName, place: &Place, body: Incoming) -> Result<Receipt, Unstored> {
    if let Some(key) = &place.key {
        let key = key.split(',').map(ColumnName::of).collect();
        let _turn = turn(doors).await?;
        let upload = Upload::open(body).await?;
        let upsert = Upsert { table, key, schema: upload.schema.clone(), batches: upload.batches() };
        return Ok(doors.handler.ingest().upsert(upsert).await?);
    }
    let (table, key) = place.table_and_key()?;
    let snapshot: SnapshotId = place.snapshot.as_deref().ok_or(Unstored::Missing("snapshot"))?.parse()?;
    let _turn = turn(doors).await?;
    let upload = Upload::open(body).await?;
    let announced = upload.announced(&key, snapshot)?;
    let delivery = Delivery { table, key, snapshot, schema: upload.schema.clone(), batches: upload.batches() };
    Ok(doors.handler.ingest().deliver(delivery, announced).await?)
}

/// Waits for one of the [`N_UPLOADS`].
async fn turn(doors: &Doors) -> Result<SemaphorePermit<'_>, Unstored> {
    let turn = tokio::time::timeout(UPLOAD_WAIT, doors.uploads.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or(Unstored::Busy)
}

pub(super) async fn committed(State(doors): Shared, Query(place): Query<Place>) -> Result<Response, Unstored> {
    let (table, key) = place.table_and_key()?;
    let snapshot = doors.handler.ingest().committed(&table, &key).await?;
    Ok(Json(json!({"snapshot": snapshot})).into_response())
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::ipc::writer::StreamWriter;

    use super::*;
    use crate::api::tests::{ask, handler, request, stmt};
    use crate::store::conformance::{charges, row};

    pub(crate) fn stream_of(services: &[&str]) -> Vec<u8> {
        let rows: Vec<_> = services.iter().map(|service| row("2026-11-01T00:00:00Z", "1.5", service)).collect();
        let batch = charges(&rows);
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
        writer.write(&batch).expect("written");
        writer.into_inner().expect("ended")
    }

    fn upload_uri(snapshot: &str) -> String {
        format!("/upload?table=costs&source=aws&scope=a.csv&snapshot={snapshot}")
    }

    #[tokio::test]
    async fn an_upload_is_stored_once_and_can_be_asked_for() {
        let (_dir, router) = handler().await;
        let arrow = [("content-type", ARROW_STREAM)];
        let committed = "/upload/committed?table=costs&source=aws&scope=a.csv";
        assert_eq!(ask(&router, request("GET", committed, &[], "")).await.2, r#"{"snapshot":null}"#);
        let uri = upload_uri("20261122T130501123Z");
        let (status, _, body) = ask(&router, request("POST", &uri, &arrow, stream_of(&["a", "b"]))).await;
        assert_eq!((status, body.as_str()), (200, r#"{"received":2,"stored":2,"rejected":0,"already":false}"#));
        let (status, _, body) = ask(&router, request("POST", &uri, &arrow, stream_of(&["a", "b"]))).await;
        assert_eq!((status, body.as_str()), (200, r#"{"received":0,"stored":0,"rejected":0,"already":true}"#));
        assert_eq!(ask(&router, request("GET", committed, &[], "")).await.2, r#"{"snapshot":"20261122T130501123Z"}"#);
        let (_, body) = stmt(&router, "select sum(billedcost), count(*) from costs").await;
        assert!(body.contains("[[3.000000000000000000,2]]"), "{body}");
    }

    #[tokio::test]
    async fn what_is_no_delivery_is_refused_and_changes_nothing() {
        let (_dir, router) = handler().await;
        let good = upload_uri("20261122T130501123Z");
        let cut = stream_of(&["a"]).split_last().map(|(_, rest)| rest.to_vec()).expect("bytes");
        for (uri, media_type, body, status, expected) in [
            (good.as_str(), ARROW_STREAM, cut, 400, "no end mark"),
            (&good, ARROW_STREAM, vec![], 400, "no end mark"),
            (&good, ARROW_STREAM, b"nonsense, and more of it".to_vec(), 400, "Arrow IPC"),
            (&good, "text/csv", vec![], 400, "text/csv"),
            ("/upload?source=a&scope=b", ARROW_STREAM, vec![], 400, "Table name not specified"),
            ("/upload?table=a/b&source=a&scope=b&snapshot=c", ARROW_STREAM, vec![], 400, "table"),
            ("/upload?table=t&source=a&scope=b&snapshot=c", ARROW_STREAM, vec![], 400, "snapshot"),
            ("/upload?table=t&source=a", ARROW_STREAM, vec![], 400, "scope"),
        ] {
            let (got, _, text) = ask(&router, request("POST", uri, &[("content-type", media_type)], body)).await;
            assert_eq!(got, status, "{uri} {media_type}: {text}");
            assert!(text.contains(expected), "{uri} {media_type}: {text}");
        }
        assert_eq!(stmt(&router, "select * from costs").await.0, 404, "no table was made");
    }
}
