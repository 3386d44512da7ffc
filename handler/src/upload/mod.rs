//! Uploads: a request's body in, rows of a table out, streamed and in one commit. [`arrow`](MAX_MESSAGE_BYTES) streams are what our own
//! scraper delivers; JSON is what every other sender has: `body` -> `elements` -> `record` -> `rows` -> `number`, and
//! `json` from end to end.

mod arrow;
mod body;
mod elements;
mod json;
mod number;
mod record;
mod reject;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use self::arrow::Upload;
pub use self::arrow::{MAX_MESSAGE_BYTES, UploadError};
pub(crate) use self::body::Incoming;
pub use self::elements::{ElementsError, MAX_ELEMENT_BYTES};
pub use self::json::JsonError;
pub(crate) use self::json::{Rejects, Request, Taken, store};
pub use self::record::MAX_LABELS;
pub use self::reject::{MAX_REJECT_TEXT_BYTES, Reason, Rejected};
pub use self::rows::{Kind, MAX_COLUMNS, UPLOAD, X_KEY};
