//! A statement answered by a handler somewhere else: `POST /_sql`, read as it arrives. Numbers
//! are taken as they stand in the JSON, so that no digit goes through a double. One chunk of
//! rows is being read, one is ready; whoever prints slowly slows the handler.

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use costream_common::http::client::{Access, Client, ClientError, public_url};
use futures::{StreamExt as _, stream};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use url::Url;

use super::{Answer, Rows, SqlError};
use costream_handler::sql::cell::{Cell, rfc3339, shortest};

/// Rows handed over at once.
const CHUNK_ROWS: usize = 512;
/// Chunks of rows waiting for whoever prints: one in hand, one ready.
const N_READY_CHUNKS: usize = 1;
/// Pieces of the body waiting to be parsed.
const N_READY_PIECES: usize = 2;
/// Longest error answer worth reading, in bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// CrateDB's numbers for its two timestamp types.
const TIMESTAMPS: [u64; 2] = [11, 15];

/// A handler at a URL.
pub(crate) struct Remote {
    client: Client,
    url: Url,
}

impl Remote {
    /// The handler at `url`, http or https, which may name a user and a password.
    ///
    /// # Errors
    /// The URL is none that can be asked.
    pub(crate) fn new(mut url: Url) -> Result<Self, SqlError> {
        let mut access = Access::default();
        access.take_userinfo(&mut url);
        let client = Client::new(access)?;
        let place = format!("{}/_sql", url.path().trim_end_matches('/'));
        url.set_path(&place);
        Ok(Self { client, url })
    }

    /// Sends a statement.
    ///
    /// # Errors
    /// The handler cannot be reached, or has refused the statement.
    pub(crate) async fn query(&self, statement: &str, as_of: Option<DateTime<Utc>>) -> Result<Answer, SqlError> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_key_only("types");
        if let Some(as_of) = as_of {
            url.query_pairs_mut().append_pair("as_of", &as_of.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        let shown = public_url(&self.url);
        let request = self.client.request(reqwest::Method::POST, &url).await?;
        let body = serde_json::json!({ "stmt": statement }).to_string();
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| ClientError::unanswered(&self.url, error))?;
        if !response.status().is_success() {
            return Err(refused(shown, response).await);
        }

        let (pieces, from_pieces) = mpsc::channel(N_READY_PIECES);
        let broken = shown.clone();
        tokio::spawn(async move {
            let mut body = response.bytes_stream();
            while let Some(piece) = body.next().await {
                let piece =
                    piece.map_err(|source| ClientError::Body { url: broken.clone(), source: source.without_url() });
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
        });
        let (events, mut from_events) = mpsc::channel(N_READY_CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut reader = Pieces { pieces: from_pieces, piece: Bytes::new() };
            let mut json = serde_json::Deserializer::from_reader(&mut reader);
            let events = &events;
            let parsed = AnswerSeed { events }.deserialize(&mut json).and_then(|()| json.end());
            if let Err(source) = parsed {
                // Nobody listens any more: then that is why it ended.
                let _ = events.blocking_send(Err(SqlError::Answer { url: shown, source }));
            }
        });
        let columns = match from_events.recv().await {
            Some(Ok(Event::Columns(columns))) => columns,
            Some(Err(error)) => return Err(error),
            Some(Ok(Event::Rows(_))) | None => Vec::new(),
        };
        let rows = stream::poll_fn(move |context| from_events.poll_recv(context)).map(|event| match event? {
            Event::Rows(rows) => Ok(rows),
            Event::Columns(_) => Ok(Vec::new()),
        });
        Ok(Answer { columns, rows: rows.boxed() })
    }
}

/// What a handler said in place of an answer: CrateDB's form, or the status alone.
async fn refused(url: String, response: reqwest::Response) -> SqlError {
    #[derive(serde::Deserialize)]
    struct Said {
        error: Message,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let status = response.status();
    let mut text = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(Ok(piece)) = body.next().await {
        text.extend_from_slice(&piece);
        if text.len() > MAX_ERROR_BYTES {
            break;
        }
    }
    match serde_json::from_slice::<Said>(&text) {
        Ok(said) => SqlError::Refused { url, message: said.error.message },
        Err(_) => SqlError::Client(ClientError::Status { url, status, retry_after: None }),
    }
}

/// The body as something that a parser on a thread of its own reads from.
struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, ClientError>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

enum Event {
    Columns(Vec<String>),
    Rows(Rows),
}

type Events = mpsc::Sender<Result<Event, SqlError>>;

/// Reads `{"cols": [..], "col_types": [..], "rows": [[..], ..], ..}`.
struct AnswerSeed<'e> {
    events: &'e Events,
}

impl<'de> DeserializeSeed<'de> for AnswerSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AnswerSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer with `cols` and `rows`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut columns: Option<Vec<String>> = None;
        let mut times = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "cols" => columns = Some(map.next_value()?),
                "col_types" => {
                    let types: Vec<serde_json::Value> = map.next_value()?;
                    times =
                        types.iter().map(|kind| kind.as_u64().is_some_and(|kind| TIMESTAMPS.contains(&kind))).collect();
                }
                "rows" => {
                    let columns =
                        columns.take().ok_or_else(|| serde::de::Error::custom("`rows` stand before `cols`"))?;
                    let _ = self.events.blocking_send(Ok(Event::Columns(columns)));
                    map.next_value_seed(RowsSeed { events: self.events, times: &times })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct RowsSeed<'e> {
    events: &'e Events,
    /// Which columns are timestamps.
    times: &'e [bool],
}

impl<'de> DeserializeSeed<'de> for RowsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RowsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        let mut chunk = Vec::new();
        while let Some(row) = rows.next_element::<Vec<Box<RawValue>>>()? {
            // What a statement that writes answers: a row of nothing.
            if row.is_empty() {
                continue;
            }
            let cells = row.iter().enumerate().map(|(at, value)| cell(value.get(), self.times.get(at) == Some(&true)));
            chunk.push(cells.collect::<Result<Vec<_>, _>>().map_err(serde::de::Error::custom)?);
            if chunk.len() == CHUNK_ROWS
                && self.events.blocking_send(Ok(Event::Rows(std::mem::take(&mut chunk)))).is_err()
            {
                return Err(serde::de::Error::custom("nobody reads the answer any more"));
            }
        }
        if !chunk.is_empty() {
            let _ = self.events.blocking_send(Ok(Event::Rows(chunk)));
        }
        Ok(())
    }
}

fn cell(json: &str, is_time: bool) -> Result<Cell, serde_json::Error> {
    Ok(match json.as_bytes().first() {
        Some(b'n') => Cell::Null,
        Some(b't' | b'f') => Cell::Truth(json == "true"),
        Some(b'"') => Cell::Text(serde_json::from_str(json)?),
        Some(b'{' | b'[') => Cell::Json(json.to_owned()),
        _ if is_time => match json.parse().ok().and_then(DateTime::from_timestamp_millis) {
            Some(time) => Cell::Text(rfc3339(time.naive_utc())),
            None => Cell::Number(json.to_owned()),
        },
        _ => Cell::Number(plain(json)),
    })
}

/// A JSON number without an exponent, with all its digits.
fn plain(number: &str) -> String {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return shortest(number.to_owned());
    };
    let Ok(exponent) = exponent.parse::<i64>() else { return number.to_owned() };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    // Where the point stands among the digits. A double's exponent is small.
    let point = i64::try_from(whole.len()).unwrap_or(0).saturating_add(exponent.clamp(-400, 400));
    let text = match usize::try_from(point) {
        Ok(0) | Err(_) => format!("{sign}0.{}{digits}", "0".repeat(usize::try_from(-point).unwrap_or(0))),
        Ok(point) if point >= digits.len() => format!("{sign}{digits}{}", "0".repeat(point - digits.len())),
        Ok(point) => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
    };
    shortest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        for (json, text) in [
            ("12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
            ("1.500000000000000000", "1.5"),
            ("1e-9", "0.000000001"),
            ("-1.25E+3", "-1250"),
            ("1.2345e2", "123.45"),
            ("5e0", "5"),
            ("0", "0"),
        ] {
            assert_eq!(cell(json, false).expect("a cell"), Cell::Number(text.to_owned()), "{json}");
        }
        assert_eq!(cell("1500", true).expect("a time"), Cell::Text("1970-01-01T00:00:01.500Z".to_owned()));
        assert_eq!(cell("{\"a\": 1}", false).expect("json"), Cell::Json("{\"a\": 1}".to_owned()));
    }

    #[tokio::test]
    async fn an_answer_is_read_in_any_pieces() {
        let json = r#"{"cols": ["a", "b"], "col_types": [4, 11], "rows": [["x", 0], [null, null]], "rowcount": 2, "duration": 0.1}"#;
        for size in [1, 7, json.len()] {
            let (send, pieces) = mpsc::channel(json.len());
            for piece in json.as_bytes().chunks(size) {
                send.try_send(Ok(Bytes::copy_from_slice(piece))).expect("room for all");
            }
            drop(send);
            let (events, mut read) = mpsc::channel(8);
            tokio::task::spawn_blocking(move || {
                let mut reader = Pieces { pieces, piece: Bytes::new() };
                AnswerSeed { events: &events }.deserialize(&mut serde_json::Deserializer::from_reader(&mut reader))
            })
            .await
            .expect("parsed")
            .expect("an answer");
            let Some(Ok(Event::Columns(columns))) = read.recv().await else { panic!("columns first") };
            assert_eq!(columns, ["a", "b"]);
            let Some(Ok(Event::Rows(rows))) = read.recv().await else { panic!("then rows") };
            assert_eq!(
                rows,
                [vec![Cell::Text("x".into()), Cell::Text("1970-01-01T00:00:00Z".into())], vec![Cell::Null, Cell::Null]]
            );
        }
    }
}
