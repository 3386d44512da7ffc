//! From chunks to an answer: conditions checked, an encoding chosen, the chunks taken one at a time as the
//! reader takes them; those that have to be made are [`pulled`] from a blocking thread. A reader that stalls
//! stops the pulling, one that goes away ends it; neither costs more than the chunk in hand.

use std::error::Error;
use std::io;

use async_compression::Level;
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _, stream};
use tokio_util::io::{ReaderStream, StreamReader};

/// What a compressed body is handed over in.
const ENCODED_CHUNK_BYTES: usize = 64 << 10;

/// An answer that is not a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing we have is acceptable.
    NotAcceptable,
}

/// How a body goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Answers with chunks. `tag` names what they say, whatever the encoding: the entity tag is weak.
pub(super) fn answer(
    request: &HeaderMap,
    content_type: &'static str,
    tag: &str,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let Some(encoding) = encoding(&all(request, header::ACCEPT_ENCODING)) else {
        return refused(Refusal::NotAcceptable);
    };
    let etag = format!("W/\"{tag}\"");
    let known = is_known(&all(request, header::IF_NONE_MATCH), &etag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let reader = |chunks| StreamReader::new(Box::pin(chunks));
        let body = match encoding {
            Encoding::Identity => Body::from_stream(chunks),
            Encoding::Gzip => {
                let encoder = GzipEncoder::with_quality(reader(chunks), Level::Fastest);
                Body::from_stream(ReaderStream::with_capacity(encoder, ENCODED_CHUNK_BYTES))
            }
            Encoding::Zstd => {
                let encoder = ZstdEncoder::with_quality(reader(chunks), Level::Fastest);
                Body::from_stream(ReaderStream::with_capacity(encoder, ENCODED_CHUNK_BYTES))
            }
        };
        body.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let encoding = match encoding {
            Encoding::Identity => None,
            Encoding::Gzip => Some("gzip"),
            Encoding::Zstd => Some("zstd"),
        };
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
    }
    response
}

/// An answer that is no body, and says why.
pub(super) fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::NotAcceptable => {
            (StatusCode::NOT_ACCEPTABLE, "nothing here is acceptable to `Accept` and `Accept-Encoding`\n")
                .into_response()
        }
    }
}

/// Every value of a header that may stand more than once, as one list.
pub(super) fn all(headers: &HeaderMap, name: HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// Whether the reader has it already: weak comparison (RFC 9110, section 13.1.2).
fn is_known(if_none_match: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.trim() == "*" || if_none_match.split(',').any(|tag| opaque(tag) == opaque(etag))
}

/// The encoding an `Accept-Encoding` header likes best (RFC 9110, section 12.5.3); nothing when
/// it will have none of ours. Between equals the smaller body.
fn encoding(accept: &str) -> Option<Encoding> {
    let (mut gzip, mut zstd, mut identity, mut any) = (None, None, None, None);
    for offer in accept.split(',') {
        let mut parts = offer.split(';');
        let coding = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let q =
            parts.find_map(|parameter| parameter.trim().strip_prefix("q=")?.trim().parse::<f32>().ok()).unwrap_or(1.0);
        match coding.as_str() {
            "gzip" | "x-gzip" => gzip = Some(q),
            "zstd" => zstd = Some(q),
            "identity" => identity = Some(q),
            "*" => any = Some(q),
            _ => {}
        }
    }
    // Unnamed, the body as it is will do: but anything named is liked better.
    const BARELY: f32 = f32::MIN_POSITIVE;
    let liked = [
        (Encoding::Zstd, zstd.or(any).unwrap_or(0.0)),
        (Encoding::Gzip, gzip.or(any).unwrap_or(0.0)),
        (Encoding::Identity, identity.or(any).unwrap_or(BARELY)),
    ];
    let best = liked.iter().map(|(_, q)| *q).fold(0.0, f32::max);
    liked.into_iter().find(|(_, q)| *q > 0.0 && *q >= best).map(|(encoding, _)| encoding)
}

/// Chunks, each made on a blocking thread when it is asked for. An error breaks the body off, so that its
/// reader notices.
pub(super) fn pulled<I, E>(chunks: I) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    I: Iterator<Item = Result<Bytes, E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    let next = |mut chunks: I| async move {
        let made = tokio::task::spawn_blocking(move || chunks.next().map(|chunk| (chunk, chunks))).await;
        match made.map_err(io::Error::other)? {
            None => Ok(None),
            Some((chunk, chunks)) => chunk.map(|chunk| Some((chunk, chunks))).map_err(io::Error::other),
        }
    };
    stream::try_unfold(chunks, next)
        .inspect_err(|error| tracing::error!(error = costream_common::report::one_line(error), "a body was broken off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_what_the_reader_likes_best() {
        for (accept, chosen) in [
            ("", Some(Encoding::Identity)),
            ("gzip", Some(Encoding::Gzip)),
            ("deflate, gzip, br, zstd", Some(Encoding::Zstd)),
            ("gzip;q=1.0, zstd;q=0.5", Some(Encoding::Gzip)),
            ("gzip;q=0.5, identity", Some(Encoding::Identity)),
            ("GZIP ; q=0.5", Some(Encoding::Gzip)),
            ("br", Some(Encoding::Identity)),
            ("*", Some(Encoding::Zstd)),
            ("zstd;q=0, *", Some(Encoding::Gzip)),
            ("identity;q=0, br", None),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Encoding::Gzip)),
            ("gzip;q=0", Some(Encoding::Identity)),
        ] {
            assert_eq!(encoding(accept), chosen, "{accept}");
        }
    }

    #[test]
    fn a_known_body_is_known_under_any_of_its_names() {
        for (sent, known) in
            [("W/\"a\"", true), ("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("", false), ("\"b\"", false)]
        {
            assert_eq!(is_known(sent, "W/\"a\""), known, "{sent}");
        }
    }
}
