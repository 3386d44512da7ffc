//! CrateDB's `POST /_sql`, without the HTTP around it: a request's JSON in, [`Rows`] or what a bulk
//! request has done out, as the text of CrateDB's answer, in pieces.
//!
//! The first piece is made before anything is sent, so that a statement that fails early fails
//! as CrateDB's does. A failure after that ends the stream with an error: the body is broken
//! off, and never a well-formed short answer. Holds one batch and one piece of text.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Arg, Engine, Options, Rows, SqlError, encode};

/// How much text is made before it is handed on.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// Rows turned into text at a time.
const PIECE_ROWS: usize = 256;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The statement.
    pub statement: String,
    /// Its arguments.
    pub args: Vec<Arg>,
    /// Several sets of arguments in their place, one for each time the statement is carried out.
    pub bulk: Option<Bulk>,
}

/// The sets of arguments of a bulk request: an array of arrays, read when it is carried out.
#[derive(Clone, Debug)]
pub struct Bulk(Box<RawValue>);

impl From<Bulk> for Arc<RawValue> {
    fn from(bulk: Bulk) -> Self {
        bulk.0.into()
    }
}

impl Request {
    /// Reads a request's body.
    ///
    /// # Errors
    /// It is not of CrateDB's form.
    pub fn read(body: &[u8]) -> Result<Self, SqlError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Json<'a> {
            stmt: Option<String>,
            #[serde(borrow)]
            args: Option<&'a RawValue>,
            #[serde(borrow)]
            bulk_args: Option<&'a RawValue>,
        }
        let given = |raw: Option<&RawValue>| raw.is_some_and(|raw| raw.get() != "null");
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(source("Missing request body"));
        }
        let json: Json<'_> =
            serde_json::from_slice(body).map_err(|error| source(&format!("Can't parse the request: {error}")))?;
        let statement = json.stmt.ok_or_else(|| source("Field [stmt] was not defined"))?;
        if given(json.args) && given(json.bulk_args) {
            return Err(source("request body contains args and bulk_args. It's forbidden to provide both"));
        }
        let bulk = match json.bulk_args {
            Some(raw) if given(Some(raw)) => {
                serde_json::from_str::<Vec<&RawValue>>(raw.get())
                    .map_err(|_| source("Field [bulk_args] has no array"))?;
                Some(Bulk(raw.to_owned()))
            }
            _ => None,
        };
        let args = match json.args {
            Some(raw) if given(Some(raw)) => {
                let args: Vec<&RawValue> =
                    serde_json::from_str(raw.get()).map_err(|_| source("Field [args] has no array"))?;
                args.into_iter().map(Arg::from_json).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        Ok(Self { statement, args, bulk })
    }

    /// Carries out the request, and makes its answer up to the first piece.
    ///
    /// # Errors
    /// It failed before that.
    pub async fn answer(
        self,
        engine: &Engine,
        options: &Options,
        types: bool,
        began: Instant,
    ) -> Result<Answer, SqlError> {
        let Self { statement, args, bulk } = self;
        match bulk {
            None => answer(engine.execute(&statement, &args, options).await?, types, began).await,
            Some(bulk) => {
                let results = engine.execute_bulk(&statement, bulk, options).await?;
                Ok(Answer::Whole(results_of(&results, types, began)))
            }
        }
    }
}

/// What became of each set of arguments.
fn results_of(results: &[Result<u64, SqlError>], types: bool, began: Instant) -> Bytes {
    let results: Vec<String> = results
        .iter()
        .map(|result| match result {
            Ok(count) => format!("{{\"rowcount\":{count}}}"),
            Err(error) => {
                let message = serde_json::Value::from(error.message());
                format!("{{\"rowcount\":-2,\"error\":{{\"code\":{},\"message\":{message}}}}}", error.code())
            }
        })
        .collect();
    let types = if types { "\"col_types\":[]," } else { "" };
    let duration = milliseconds(began);
    format!("{{\"cols\":[],{types}\"duration\":{duration},\"results\":[{}]}}", results.join(",")).into()
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn source(text: &str) -> SqlError {
    SqlError::Invalid(text.to_owned())
}

/// The pieces of an answer. An error ends them, and the answer is of no use.
pub type Pieces = BoxStream<'static, Result<Bytes, SqlError>>;

/// What is sent.
pub enum Answer {
    /// The whole of it: it was short.
    Whole(Bytes),
    /// Its pieces, the first of which is made already.
    Pieces(Pieces),
}

/// Makes an answer's text up to its first piece.
///
/// # Errors
/// The statement failed before that.
pub async fn answer(rows: Rows, types: bool, began: Instant) -> Result<Answer, SqlError> {
    if let Some(affected) = rows.affected() {
        let types = if types { "\"col_types\":[]," } else { "" };
        let duration = milliseconds(began);
        let text = format!("{{\"cols\":[],{types}\"rows\":[[]],\"rowcount\":{affected},\"duration\":{duration}}}");
        return Ok(Answer::Whole(text.into()));
    }
    let mut text = Text::new(rows, types, began);
    let first = text.piece().await?;
    if text.ended {
        return Ok(Answer::Whole(first));
    }
    let rest = stream::unfold(Some(text), |state| async move {
        let mut text = state?;
        match text.piece().await {
            Ok(piece) if text.ended => Some((Ok(piece), None)),
            Ok(piece) => Some((Ok(piece), Some(text))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Answer::Pieces(stream::once(async { Ok(first) }).chain(rest).boxed()))
}

struct Text {
    rows: Rows,
    began: Instant,
    written: Vec<u8>,
    /// The batch in hand, and its first row that is not written.
    batch: Option<(arrow::array::RecordBatch, usize)>,
    count: usize,
    ended: bool,
}

impl Text {
    fn new(rows: Rows, types: bool, began: Instant) -> Self {
        let list = |items: Vec<String>| items.join(",");
        let names = rows.columns().iter().map(|name| serde_json::Value::from(name.as_str()).to_string());
        let mut written = format!("{{\"cols\":[{}],", list(names.collect()));
        if types {
            let types = rows.schema().fields().iter().map(|field| encode::type_code(field.data_type()));
            written.push_str(&format!("\"col_types\":[{}],", list(types.collect())));
        }
        written.push_str("\"rows\":[");
        Self { rows, began, written: written.into_bytes(), batch: None, count: 0, ended: false }
    }

    /// The next piece; with the last one the text has `ended`.
    async fn piece(&mut self) -> Result<Bytes, SqlError> {
        while self.written.len() < PIECE_BYTES {
            let (batch, from) = match self.batch.take() {
                Some(held) => held,
                None => match self.rows.next().await? {
                    Some(batch) => (batch, 0),
                    None => {
                        let duration = milliseconds(self.began);
                        let end = format!("],\"rowcount\":{},\"duration\":{duration}}}", self.count);
                        self.written.extend_from_slice(end.as_bytes());
                        self.ended = true;
                        break;
                    }
                },
            };
            let rows = PIECE_ROWS.min(batch.num_rows() - from);
            let shown = encode::rows(&batch.slice(from, rows), self.count == 0, &mut self.written);
            shown.map_err(|error| SqlError::Engine(error.to_string()))?;
            self.count += rows;
            if from + rows < batch.num_rows() {
                self.batch = Some((batch, from + rows));
            }
        }
        Ok(Bytes::from(std::mem::take(&mut self.written)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_cratedb_reads_it() {
        let request = Request::read(br#"{"stmt": "select ?", "args": [1.10, "a", null, [true]]}"#).expect("a request");
        assert_eq!(request.statement, "select ?");
        let args = [
            Arg::Number("1.10".to_owned()),
            Arg::Text("a".to_owned()),
            Arg::Null,
            Arg::Array(vec![Arg::Boolean(true)]),
        ];
        assert_eq!(request.args, args);
        assert_eq!(Request::read(br#"{"stmt": "select 1", "args": null}"#).expect("no arguments").args, []);
    }

    #[test]
    fn what_is_no_request_is_named() {
        for (body, code, text) in [
            (&b""[..], 4000, "Missing request body"),
            (b"nonsense", 4000, "Can't parse"),
            (br#"{"stmt": "select 1", "what": 1}"#, 4000, "what"),
            (br#"{"args": []}"#, 4000, "stmt"),
            (br#"{"stmt": "select 1", "args": {}}"#, 4000, "args"),
            (br#"{"stmt": "select 1", "args": [1], "bulk_args": [[1]]}"#, 4000, "both"),
            (br#"{"stmt": "select 1", "bulk_args": {}}"#, 4000, "bulk_args"),
        ] {
            let error = Request::read(body).expect_err("no request");
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(text), "{}", error.message());
        }
    }
}
