//! What a statement can fail with, in CrateDB's words: a kind and a code that its clients know.
//! Statuses are `api.rs`'s.

use std::sync::Arc;
use std::time::Duration;

use costream_common::report;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::ident::TableName;
use crate::store::StoreError;

/// Longest message handed to a client, in bytes: an engine's error may quote what it was given.
const MAX_MESSAGE_BYTES: usize = 2048;

/// Why a statement gave no (complete) answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The text is no statement, or more than one.
    #[error("{0}")]
    Syntax(String),
    /// A statement that would write, where there is only reading.
    #[error("only read operations are allowed here, {0} is none")]
    Write(String),
    /// The caller lacks a privilege, as CrateDB names it, that the statement needs.
    #[error("Missing '{0}' privilege for user '{1}'")]
    Privilege(&'static str, Arc<str>),
    /// A form that is not taken here.
    #[error("{0}")]
    Unsupported(String),
    /// What nobody may do by a statement, or this user not.
    #[error("{0}")]
    Unauthorized(String),
    /// The table is kept by others.
    #[error("The relation \"{relation}\" doesn't support or allow {operation} operations")]
    Inaccessible {
        /// The table.
        relation: String,
        /// What was to be done to it.
        operation: &'static str,
    },
    /// No name of a table's.
    #[error("Relation name \"{0}\" is invalid.")]
    RelationName(String),
    /// The table is there already.
    #[error("Relation '{0}' already exists.")]
    RelationExists(String),
    /// No name of a column's.
    #[error("{0}")]
    ColumnName(String),
    /// A column cannot be written like this.
    #[error("Validation failed for {column}: {reason}")]
    Validation {
        /// The column.
        column: String,
        /// Why not.
        reason: String,
    },
    /// A row of the same key is there.
    #[error("A document with the same primary key exists already")]
    Duplicate,
    /// A row to be deleted by its key is not there.
    #[error("[{0}]: document missing")]
    Missing(String),
    /// Values of several types in one array.
    #[error("{0}")]
    Mixed(String),
    /// There is no such table.
    #[error("Relation '{0}' unknown")]
    RelationUnknown(String),
    /// There is no such schema.
    #[error("Schema '{0}' unknown")]
    SchemaUnknown(String),
    /// There is no such column.
    #[error("Column {0} unknown")]
    ColumnUnknown(String),
    /// More than one column goes by that name.
    #[error("Column \"{0}\" is ambiguous")]
    ColumnAmbiguous(String),
    /// There is no such function.
    #[error("Unknown function: {0}")]
    FunctionUnknown(String),
    /// The statement cannot be planned, or a value does not fit it.
    #[error("{0}")]
    Invalid(String),
    /// More rows than are handed out for one statement.
    #[error("Job killed. more than {0} rows (query.max_rows): add a LIMIT or aggregate")]
    Rows(u64),
    /// The statement took too long.
    #[error("Job killed. statement_timeout ({}s/exec)", .0.as_secs_f64())]
    Time(Duration),
    /// The statement wants more memory than one may have.
    #[error("{0}")]
    Memory(String),
    /// Too many statements are running and waiting.
    #[error("rejected execution, {0} statements are running or waiting: try again")]
    Busy(usize),
    /// The store could not be read.
    #[error(transparent)]
    Store(StoreError),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}

impl SqlError {
    /// A table that is not for statements to write.
    pub(super) fn inaccessible(table: &TableName, operation: &'static str) -> Self {
        Self::Inaccessible { relation: format!("{}.{table}", super::SCHEMA), operation }
    }

    /// CrateDB's name for the kind of the error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "ParsingException",
            Self::Write(_) => "ReadOnlyException",
            Self::Privilege(..) => "MissingPrivilegeException",
            Self::Unsupported(_) => "UnsupportedFeatureException",
            Self::Unauthorized(_) => "UnauthorizedException",
            Self::Inaccessible { .. } => "OperationOnInaccessibleRelationException",
            Self::RelationName(_) => "InvalidRelationName",
            Self::RelationExists(_) => "RelationAlreadyExists",
            Self::ColumnName(_) => "InvalidColumnNameException",
            Self::Validation { .. } => "ColumnValidationException",
            Self::Duplicate => "DuplicateKeyException",
            Self::Missing(_) => "DocumentMissingException",
            Self::Mixed(_) => "ClassCastException",
            Self::RelationUnknown(_) => "RelationUnknown",
            Self::SchemaUnknown(_) => "SchemaUnknownException",
            Self::ColumnUnknown(_) => "ColumnUnknownException",
            Self::ColumnAmbiguous(_) => "AmbiguousColumnException",
            Self::FunctionUnknown(_) => "UnsupportedFunctionException",
            Self::Invalid(_) => "SQLParseException",
            Self::Store(error) if error.is_callers() => "SQLParseException",
            Self::Rows(_) | Self::Time(_) => "JobKilledException",
            Self::Memory(_) => "CircuitBreakingException",
            Self::Busy(_) => "EsRejectedExecutionException",
            Self::Store(_) => "StoreException",
            Self::Engine(_) => "SQLException",
        }
    }

    /// CrateDB's code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Syntax(_) | Self::Invalid(_) => 4000,
            Self::Store(error) if error.is_callers() => 4000,
            Self::Unsupported(_) | Self::FunctionUnknown(_) => 4004,
            Self::RelationName(_) => 4002,
            Self::Validation { .. } => 4003,
            Self::ColumnAmbiguous(_) => 4006,
            Self::Inaccessible { .. } => 4007,
            Self::ColumnName(_) => 4008,
            Self::Unauthorized(_) => 4010,
            Self::Privilege(..) => 4011,
            Self::Write(_) => 4031,
            Self::RelationUnknown(_) => 4041,
            Self::ColumnUnknown(_) => 4043,
            Self::SchemaUnknown(_) => 4045,
            Self::Duplicate => 4091,
            Self::RelationExists(_) => 4093,
            Self::Rows(_) | Self::Time(_) => 5005,
            Self::Busy(_) => 5030,
            Self::Missing(_) => 40411,
            Self::Memory(_) | Self::Store(_) | Self::Engine(_) | Self::Mixed(_) => 5000,
        }
    }

    /// The message as CrateDB writes it: `Kind[text]`, on one line and of bounded length.
    pub fn message(&self) -> String {
        let mut text = report::one_line(self);
        if text.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            text.push_str(" ...");
        }
        format!("{}[{text}]", self.kind())
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Query { source } => (*source).into(),
            StoreError::Change { table, source } => match source.downcast::<Self>() {
                Ok(said) => *said,
                Err(source) => Self::Store(StoreError::Change { table, source }),
            },
            other => Self::Store(other),
        }
    }
}

/// Sorts the engine's errors into the caller's faults and its own.
impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        use DataFusionError as E;
        match error {
            E::Context(_, inner) | E::Diagnostic(_, inner) => (*inner).into(),
            E::Shared(inner) => Self::shared(&inner),
            E::Collection(errors) => {
                errors.into_iter().next().map_or_else(|| Self::Engine("failed".to_owned()), Into::into)
            }
            E::External(inner) => match inner.downcast::<StoreError>() {
                Ok(store) => (*store).into(),
                Err(inner) => match inner.downcast::<E>() {
                    Ok(inner) => (*inner).into(),
                    Err(inner) => match inner.downcast::<Self>() {
                        Ok(ours) => *ours,
                        Err(inner) => Self::Engine(report::one_line(&*inner)),
                    },
                },
            },
            other => Self::shared(&other),
        }
    }
}

impl SqlError {
    fn shared(error: &DataFusionError) -> Self {
        use DataFusionError as E;
        match error {
            E::Context(_, inner) | E::Diagnostic(_, inner) => Self::shared(inner),
            E::Shared(inner) => Self::shared(inner),
            E::SchemaError(schema, _) => Self::schema(schema),
            E::SQL(error, _) => Self::Syntax(error.to_string()),
            E::NotImplemented(text) => Self::Unsupported(first_line(text)),
            E::Plan(text) => match between(text, "Invalid function '", "'") {
                Some(function) => Self::FunctionUnknown(function.to_owned()),
                // A table that was there when its name was looked up.
                None if text.starts_with("table '") && text.ends_with("' not found") => {
                    let name = between(text, "'", "'").unwrap_or_default();
                    Self::RelationUnknown(name.trim_start_matches("crate.").to_owned())
                }
                None => Self::Invalid(first_line(text)),
            },
            E::ArrowError(error, _) => {
                use arrow::error::ArrowError as A;
                match &**error {
                    A::DivideByZero => Self::Invalid("/ by zero".to_owned()),
                    A::CastError(_)
                    | A::ParseError(_)
                    | A::ComputeError(_)
                    | A::ArithmeticOverflow(_)
                    | A::InvalidArgumentError(_)
                    | A::NotYetImplemented(_) => Self::Invalid(error.to_string()),
                    A::ExternalError(inner) => match inner.downcast_ref::<E>() {
                        Some(inner) => Self::shared(inner),
                        None => Self::Engine(error.to_string()),
                    },
                    _ => Self::Engine(error.to_string()),
                }
            }
            E::Execution(text) | E::Configuration(text) => Self::Invalid(first_line(text)),
            E::ResourcesExhausted(text) => Self::Memory(first_line(text)),
            other => Self::Engine(report::one_line(other)),
        }
    }

    fn schema(error: &SchemaError) -> Self {
        match error {
            SchemaError::FieldNotFound { field, .. } => Self::ColumnUnknown(field.name.clone()),
            SchemaError::AmbiguousReference { field } => Self::ColumnAmbiguous(field.name.clone()),
            other => Self::Invalid(other.to_string()),
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(&rest[..rest.find(after)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_cratedb_writes_it() {
        let error = SqlError::RelationUnknown("nope".to_owned());
        assert_eq!((error.message().as_str(), error.code()), ("RelationUnknown[Relation 'nope' unknown]", 4041));
        let error = SqlError::ColumnUnknown("nope".to_owned());
        assert_eq!((error.message().as_str(), error.code()), ("ColumnUnknownException[Column nope unknown]", 4043));
    }

    #[test]
    fn a_message_has_a_bound_and_one_line() {
        let message = SqlError::Invalid("ü\n".repeat(10_000)).message();
        assert!(message.len() < MAX_MESSAGE_BYTES + 100 && !message.contains('\n'), "{}", message.len());
    }
}
