//! An object of the cluster and the version of it that was read in, the moment that there is another one out. Every watch
//! begins with the object as it is then, so that nothing gets lost between a read and a watch, nor between two watches. The
//! role needs the verb `watch`; who may not watch waits for ever, and is told so. Of an object only its metadata travels.
//! Holds one event, at most [`MAX_ANSWER_BYTES`].
//!
//! Spec: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>, and of a watch
//! without a version, <https://kubernetes.io/docs/reference/using-api/api-concepts/#the-resourceversion-parameter>.

use std::io;
use std::time::Duration;

use axum::http::StatusCode;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use kube::api::WatchParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::{
    KubernetesReason, MAX_ANSWER_BYTES, MAX_SHOWN, READ_WITHIN, configured, connect, parse, path, refused, send, whole,
};
use crate::report::one_line;
use crate::stream::backoff::Waits;

/// How long the cluster is to keep one watch open.
const WATCH_FOR_SECONDS: u32 = 240;
/// About the first wait before the next watch, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An event of a watch.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    #[serde(default)]
    object: Told,
}

/// An object's metadata, or what went wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    metadata: Version,
    code: u16,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Version {
    resource_version: Option<String>,
}

/// Waits until an object is another one than was `seen`: nothing where there was none.
pub(crate) async fn changed(plural: Option<&str>, namespace: Option<&str>, name: &str, seen: Option<&str>) {
    let mut waits = Waits::new(FIRST_WAIT, LONGEST_WAIT, None);
    loop {
        let began = Instant::now();
        match watch(plural, namespace, name, seen).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(KubernetesReason::Forbidden(said)) => {
                tracing::info!(name, said, "may not be watched: a change is noticed with the next poll");
                return std::future::pending().await;
            }
            Err(reason) => tracing::debug!(name, reason = %reason, "the watch ended"),
        }
        if began.elapsed() > LONGEST_WAIT {
            waits.reset();
        }
        tokio::time::sleep(waits.next(None).unwrap_or(LONGEST_WAIT)).await;
    }
}

/// Whether an object became another one, before the cluster ended the watch.
async fn watch(
    plural: Option<&str>,
    namespace: Option<&str>,
    name: &str,
    seen: Option<&str>,
) -> Result<bool, KubernetesReason> {
    let opening = async {
        let client = connect(configured).await?;
        let path = path(&client, plural, namespace);
        let wanted = WatchParams::default().fields(&format!("metadata.name={name}"));
        let wanted = WatchParams { bookmarks: false, ..wanted.timeout(WATCH_FOR_SECONDS) };
        let asked = Request::new(path.as_str()).watch_metadata(&wanted, "");
        let asked = asked.map_err(|error| KubernetesReason::NoCluster(format!("{path}: {error}")))?;
        send(&client, asked).await
    };
    let late = |_| KubernetesReason::TimedOut(READ_WITHIN);
    let answer = timeout_at(Instant::now() + READ_WITHIN, opening).await.map_err(late).flatten()?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(refused(status, &whole(answer.into_body()).await?));
    }
    let bytes = answer.into_body().into_data_stream().map_err(io::Error::other);
    let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(MAX_ANSWER_BYTES));
    let mut lines = std::pin::pin!(lines);
    // A connection that broke without a word is noticed by then.
    let until = Instant::now() + Duration::from_secs(WATCH_FOR_SECONDS.into()) + READ_WITHIN;
    while let Ok(Some(line)) = timeout_at(until, lines.next()).await {
        let line = line.map_err(|error| match error {
            LinesCodecError::MaxLineLengthExceeded => KubernetesReason::TooLarge,
            LinesCodecError::Io(error) => KubernetesReason::Unreachable(one_line(&error)),
        })?;
        if other(parse(line.as_bytes())?, seen)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an event tells of another object than was `seen`.
fn other(Event { r#type, object }: Event, seen: Option<&str>) -> Result<bool, KubernetesReason> {
    match r#type.as_str() {
        "ADDED" | "MODIFIED" => Ok(object.metadata.resource_version.as_deref() != seen),
        "DELETED" => Ok(seen.is_some()),
        "ERROR" => {
            let text = object.message.chars().take(MAX_SHOWN).collect();
            let status = StatusCode::from_u16(object.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(KubernetesReason::Refused { status, text })
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_other(event: &str, seen: Option<&str>) -> Result<bool, String> {
        parse(event.as_bytes()).and_then(|event| other(event, seen)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_object_is_another_one_when_its_version_is() {
        let event = |kind: &str| format!(r#"{{"type":"{kind}","object":{{"metadata":{{"resourceVersion":"7"}}}}}}"#);
        for (kind, seen, expected) in [
            ("ADDED", Some("7"), false),
            ("ADDED", Some("6"), true),
            ("ADDED", None, true),
            ("MODIFIED", Some("6"), true),
            ("DELETED", Some("7"), true),
            ("DELETED", None, false),
            ("BOOKMARK", None, false),
            ("SOMETHING", Some("6"), false),
        ] {
            assert_eq!(is_other(&event(kind), seen), Ok(expected), "{kind} after {seen:?}");
        }
    }

    #[test]
    fn what_the_cluster_says_instead_is_told() {
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","metadata":{},"code":410,"message":"too old"}}"#;
        assert_eq!(is_other(gone, None), Err("the cluster answers 410 Gone: too old".to_owned()));
        let nothing = "the cluster's answer is no Secret (line 1, column 1)";
        assert_eq!(is_other("<html>", None), Err(nothing.to_owned()));
    }
}
