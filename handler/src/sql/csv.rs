//! An answer as CSV (RFC 4180): [`Rows`] in, a line with the columns' names and a line for each row out, in pieces.
//! Amounts are plain decimal text, times RFC 3339; a null is nothing at all, an empty text a pair of quotes.
//!
//! As with [`gateway`](super::gateway), the first piece is made before anything is sent, and a later failure ends the
//! pieces with an error. Holds one batch and one piece of text.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use super::cell::{self, csv_field, csv_line};
use super::gateway::{Answer, PIECE_BYTES};
use super::{Rows, SqlError};

/// The media type.
pub const MEDIA_TYPE: &str = "text/csv; charset=utf-8";

/// Makes an answer's text up to its first piece.
///
/// # Errors
/// The statement failed before that.
pub async fn answer(mut rows: Rows) -> Result<Answer, SqlError> {
    let names: Vec<_> = rows.columns().iter().map(|name| csv_field(name)).collect();
    let (first, ended) = piece(&mut rows, names.join(",") + "\r\n").await?;
    if ended {
        return Ok(Answer::Whole(first));
    }
    let rest = stream::unfold(Some(rows), |rows| async move {
        let mut rows = rows?;
        match piece(&mut rows, String::new()).await {
            Ok((text, ended)) => Some((Ok(text), (!ended).then_some(rows))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Answer::Pieces(stream::once(async { Ok(first) }).chain(rest).boxed()))
}

/// The next piece, which begins with `text`, and whether it is the last.
async fn piece(rows: &mut Rows, mut text: String) -> Result<(Bytes, bool), SqlError> {
    while text.len() < PIECE_BYTES {
        let Some(batch) = rows.next().await? else { return Ok((text.into(), true)) };
        for row in cell::rows(&batch).map_err(|error| SqlError::Engine(error.to_string()))? {
            text.push_str(&csv_line(&row));
            text.push_str("\r\n");
        }
    }
    Ok((text.into(), false))
}
