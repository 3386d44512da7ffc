//! Notebooks, kept in the table `notebooks` of the store: a row for each version, which stays as it is. The latest row
//! of a name is what there is of it; a deletion is a row too. So whoever reads SQL reads who uploaded what and when.
//!
//! A version is added only while there is none of its number: of uploads at the same time, by whichever handlers of a
//! store, one is first, and the others look again at what there is then. None is lost in silence. Holds the notebook in
//! hand, [`MAX_CODE_BYTES`] at most.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono::{DateTime, SubsecRound as _, Utc};
use sha2::{Digest as _, Sha256};

use super::cells::Kind;
use crate::ident::TableName;
use crate::sql::{Arg, Engine, Options, SqlError};
use crate::store::declared::Type;
use crate::store::{BatchError, Change, Declared, Ended, StoreEdit, StoreError, TableInfo};

/// The largest notebook.
pub const MAX_CODE_BYTES: usize = 4 << 20;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Tries at a version before the others are given the field: each is lost to somebody's success.
const MAX_TRIES: u32 = 50;

/// A text that is no notebook's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a notebook's name has 1 to {MAX_NAME_BYTES} bytes, and no control characters")]
pub struct NameError;

/// A notebook's name: any text of one line. It becomes no table's, column's or file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotebookName(String);

impl NotebookName {
    /// Takes a name.
    ///
    /// # Errors
    /// It is empty, too long, or has control characters.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        if fits { Ok(Self(name.to_owned())) } else { Err(NameError) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One version of a notebook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notebook {
    /// From 1; deletions count.
    pub version: i64,
    /// What it is written in.
    pub kind: Kind,
    /// Its text, byte for byte.
    pub code: String,
    /// SHA-256 of the text, in hex.
    pub digest: String,
    /// Who uploaded it.
    pub author: String,
    /// When.
    pub at: DateTime<Utc>,
    /// It is a deletion.
    pub deleted: bool,
}

/// Why a notebook could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotebookError {
    /// The table could not be asked.
    #[error("read the table of notebooks")]
    Read(#[from] SqlError),
    /// The table could not be written.
    #[error("write the table of notebooks")]
    Write(#[from] StoreError),
    /// Others uploaded the same notebook first, time and again.
    #[error("keep a notebook: gave up after {MAX_TRIES} tries, others were faster each time")]
    Contended,
    /// Somebody has made a table of that name with other columns.
    #[error("the table of notebooks has no column {0} as it should")]
    Column(&'static str),
    /// A row could not be made.
    #[error("make a row of the table of notebooks")]
    Row(#[from] ArrowError),
}

/// Whether an upload may take the place of a notebook that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// The notebooks of a store. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Notebooks {
    store: Arc<dyn StoreEdit>,
    engine: Engine,
}

impl std::fmt::Debug for Notebooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notebooks").finish_non_exhaustive()
    }
}

/// What is read of a version, in the order of [`versions`].
const SELECT: &str = "SELECT version, kind, code, digest, author, at, deleted FROM notebooks WHERE name = ?";
/// The names that are there: of those whose latest version is no deletion.
const LIST: &str = "SELECT name FROM (SELECT name, deleted, row_number() OVER (PARTITION BY name ORDER BY version DESC) \
                    AS age FROM notebooks) AS versions WHERE age = 1 AND NOT deleted ORDER BY name";

impl Notebooks {
    /// The notebooks of `store`, which `engine` reads.
    pub fn new(store: Arc<dyn StoreEdit>, engine: Engine) -> Self {
        Self { store, engine }
    }

    /// A notebook as it is now; nothing when it is not there.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn find(&self, name: &NotebookName) -> Result<Option<Notebook>, NotebookError> {
        Ok(self.latest(name).await?.filter(|notebook| !notebook.deleted))
    }

    /// A notebook as it was.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn version(&self, name: &NotebookName, version: i64) -> Result<Option<Notebook>, NotebookError> {
        let args = [Arg::Text(name.0.clone()), Arg::Number(version.to_string())];
        self.one(&format!("{SELECT} AND version = ?"), &args).await
    }

    /// The names of all notebooks, in order.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn list(&self) -> Result<Vec<String>, NotebookError> {
        let mut names = Vec::new();
        for batch in self.rows(LIST, &[]).await? {
            let column = batch.column(0).as_string_opt::<i32>().ok_or(NotebookError::Column("name"))?;
            names.extend(column.iter().flatten().map(str::to_owned));
        }
        Ok(names)
    }

    /// Keeps a notebook; says whether it is there now. It is not when another is, and must not be overwritten.
    ///
    /// # Errors
    /// The store could not be asked, or did not take it.
    pub async fn upload(
        &self,
        name: &NotebookName,
        kind: Kind,
        code: String,
        author: &str,
        overwrite: Overwrite,
    ) -> Result<bool, NotebookError> {
        let digest: String = Sha256::digest(&code).iter().map(|byte| format!("{byte:02x}")).collect();
        for _ in 0..MAX_TRIES {
            let latest = self.latest(name).await?;
            let version = latest.as_ref().map_or(1, |latest| latest.version + 1);
            if let Some(there) = latest.filter(|latest| !latest.deleted) {
                if there.code == code && there.kind == kind {
                    return Ok(true);
                }
                if overwrite == Overwrite::No {
                    return Ok(false);
                }
            }
            let notebook = Notebook { kind, code: code.clone(), digest: digest.clone(), ..row(version, author) };
            if self.add(name, notebook).await? {
                return Ok(true);
            }
        }
        Err(NotebookError::Contended)
    }

    /// Takes a notebook away, whose versions stay; does nothing when it is not there.
    ///
    /// # Errors
    /// The store could not be asked, or did not take it.
    pub async fn delete(&self, name: &NotebookName, author: &str) -> Result<(), NotebookError> {
        for _ in 0..MAX_TRIES {
            let Some(there) = self.find(name).await? else { return Ok(()) };
            if self.add(name, Notebook { deleted: true, ..row(there.version + 1, author) }).await? {
                return Ok(());
            }
        }
        Err(NotebookError::Contended)
    }

    async fn latest(&self, name: &NotebookName) -> Result<Option<Notebook>, NotebookError> {
        self.one(&format!("{SELECT} ORDER BY version DESC LIMIT 1"), &[Arg::Text(name.0.clone())]).await
    }

    async fn one(&self, statement: &str, args: &[Arg]) -> Result<Option<Notebook>, NotebookError> {
        let rows = self.rows(statement, args).await?;
        rows.iter().find(|batch| batch.num_rows() > 0).map(first).transpose()
    }

    /// All rows of a statement; none while there is no table.
    async fn rows(&self, statement: &str, args: &[Arg]) -> Result<Vec<RecordBatch>, NotebookError> {
        let mut rows = match self.engine.execute(statement, args, &Options::default()).await {
            Err(SqlError::RelationUnknown(_)) => return Ok(Vec::new()),
            rows => rows?,
        };
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Adds a version; says whether there was none of its number.
    async fn add(&self, name: &NotebookName, notebook: Notebook) -> Result<bool, NotebookError> {
        let table = TableName::notebooks();
        let row = batch_of(name, &notebook)?;
        self.store.create(&table, &declared()).await?;
        let mut addition = Addition { row, name, version: notebook.version, taken: false };
        self.store.edit(&table, &mut addition).await?;
        Ok(!addition.taken)
    }
}

/// The table, as `CREATE TABLE` would have it.
fn declared() -> Declared {
    let mut declared = Declared { primary_key: ["name", "version"].map(str::to_owned).into(), ..Declared::default() };
    for (name, data_type) in [
        ("name", Type::Text),
        ("version", Type::Bigint),
        ("kind", Type::Text),
        ("code", Type::Text),
        ("digest", Type::Text),
        ("author", Type::Text),
        ("at", Type::TimestampTz),
        ("deleted", Type::Boolean),
    ] {
        declared.add(name, data_type);
    }
    declared
}

/// A row that is added while there is none of its name and version.
struct Addition<'a> {
    row: RecordBatch,
    name: &'a NotebookName,
    version: i64,
    taken: bool,
}

impl Change for Addition<'_> {
    fn begin(&mut self, table: &TableInfo) -> Result<SchemaRef, BatchError> {
        self.taken = false;
        match &table.declared {
            Some(declared) => Ok(declared.stored_schema()),
            None => Err("the table of notebooks was made by a delivery".into()),
        }
    }

    fn looks_at(&self) -> Option<Vec<String>> {
        Some(vec!["name".to_owned(), "version".to_owned()])
    }

    fn touches(&mut self, rows: &RecordBatch) -> Result<bool, BatchError> {
        let names = rows.column_by_name("name").and_then(|column| column.as_string_opt::<i32>());
        let versions = rows.column_by_name("version").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(names), Some(versions)) = (names, versions) else { return Err("it has no name or version".into()) };
        self.taken |= names.iter().zip(versions).any(|row| row == (Some(self.name.as_str()), Some(self.version)));
        Ok(false)
    }

    fn rewrite(&mut self, rows: RecordBatch) -> Result<RecordBatch, BatchError> {
        Ok(rows)
    }

    fn end(&mut self) -> Result<Ended, BatchError> {
        let rows = if self.taken { Vec::new() } else { vec![self.row.clone()] };
        Ok(Ended { rows, ..Ended::default() })
    }
}

/// A version of somebody's, from now, with nothing in it.
fn row(version: i64, author: &str) -> Notebook {
    Notebook {
        version,
        kind: Kind::Python,
        code: String::new(),
        digest: String::new(),
        author: author.to_owned(),
        // What a table keeps of it.
        at: Utc::now().trunc_subsecs(6),
        deleted: false,
    }
}

fn batch_of(name: &NotebookName, notebook: &Notebook) -> Result<RecordBatch, ArrowError> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let columns: Vec<ArrayRef> = vec![
        text(name.as_str()),
        Arc::new(Int64Array::from(vec![notebook.version])),
        text(notebook.kind.as_str()),
        text(&notebook.code),
        text(&notebook.digest),
        text(&notebook.author),
        Arc::new(TimestampMicrosecondArray::from(vec![notebook.at.timestamp_micros()]).with_timezone("UTC")),
        Arc::new(BooleanArray::from(vec![notebook.deleted])),
    ];
    RecordBatch::try_new(declared().stored_schema(), columns)
}

/// The first row of what [`SELECT`] gives.
fn first(batch: &RecordBatch) -> Result<Notebook, NotebookError> {
    let text = |at: usize, name| {
        let column = batch.column(at).as_string_opt::<i32>().filter(|column| column.is_valid(0));
        column.map(|column| column.value(0).to_owned()).ok_or(NotebookError::Column(name))
    };
    let version = batch.column(0).as_primitive_opt::<Int64Type>().ok_or(NotebookError::Column("version"))?;
    let at = batch.column(5).as_primitive_opt::<TimestampMicrosecondType>();
    let at = at.and_then(|at| DateTime::from_timestamp_micros(at.value(0))).ok_or(NotebookError::Column("at"))?;
    let deleted = batch.column(6).as_boolean_opt().ok_or(NotebookError::Column("deleted"))?;
    Ok(Notebook {
        version: version.value(0),
        kind: Kind::named(&text(1, "kind")?),
        code: text(2, "code")?,
        digest: text(3, "digest")?,
        author: text(4, "author")?,
        at,
        deleted: deleted.value(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::delta::{DeltaOptions, DeltaStore};

    fn notebooks() -> (tempfile::TempDir, Notebooks) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = DeltaOptions::in_directory(dir.path()).expect("a directory");
        let store = Store::from(DeltaStore::open(options).expect("a store"));
        let engine = Engine::new(store.read.clone(), crate::sql::Limits::default());
        (dir, Notebooks::new(store.edit, engine))
    }

    fn name(name: &str) -> NotebookName {
        NotebookName::new(name).expect("a name")
    }

    #[tokio::test]
    async fn every_version_stays_readable() {
        let (_dir, notebooks) = notebooks();
        let (a, b) = (name("a"), name("b'\";--ä"));
        assert_eq!((notebooks.find(&a).await.expect("asked"), notebooks.list().await.expect("asked")), (None, vec![]));
        let upload = async |name, code: &str, overwrite| {
            notebooks.upload(name, Kind::Python, code.to_owned(), "ann", overwrite).await.expect("asked")
        };
        assert!(upload(&a, "one", Overwrite::No).await);
        assert!(upload(&a, "one", Overwrite::No).await, "it is there");
        assert!(!upload(&a, "two", Overwrite::No).await, "another is there");
        assert!(upload(&b, "\u{feff}x = '\r\n'\0", Overwrite::No).await);
        assert!(upload(&a, "two", Overwrite::Yes).await);
        assert_eq!(notebooks.list().await.expect("asked"), ["a", b.as_str()]);
        notebooks.delete(&a, "bob").await.expect("deleted");
        notebooks.delete(&a, "bob").await.expect("it is not there");
        assert_eq!((notebooks.find(&a).await.expect("asked"), notebooks.list().await.expect("asked").len()), (None, 1));
        assert!(upload(&a, "three", Overwrite::No).await, "nothing is there");
        for (version, code, author, deleted) in
            [(1, "one", "ann", false), (2, "two", "ann", false), (3, "", "bob", true), (4, "three", "ann", false)]
        {
            let there = notebooks.version(&a, version).await.expect("asked").expect("a version");
            assert_eq!((there.code.as_str(), there.author.as_str(), there.deleted), (code, author, deleted));
        }
        assert_eq!(notebooks.version(&a, 5).await.expect("asked"), None);
        let there = notebooks.find(&b).await.expect("asked").expect("a notebook");
        assert_eq!(there.code, "\u{feff}x = '\r\n'\0");
        assert_eq!(there.digest.len(), 64);
    }

    #[tokio::test]
    async fn of_uploads_at_the_same_time_none_is_overwritten_unasked() {
        let (_dir, notebooks) = notebooks();
        let (notebooks, a) = (&notebooks, &name("a"));
        let uploads = (0..8).map(|number| async move {
            let code = format!("print({number})");
            notebooks.upload(a, Kind::Python, code, "ann", Overwrite::No).await.expect("asked")
        });
        let taken = futures::future::join_all(uploads).await.into_iter().filter(|taken| *taken).count();
        assert_eq!((taken, notebooks.find(a).await.expect("asked").map(|there| there.version)), (1, Some(1)));
    }

    #[test]
    fn any_text_of_one_line_is_a_name() {
        for good in ["a", "list", "ü; DROP TABLE costs", "a/b", "'\"", &"x".repeat(255)] {
            assert_eq!(NotebookName::new(good).expect("a name").as_str(), good);
        }
        for bad in ["", "a\nb", "a\0", &"x".repeat(256), &"ü".repeat(128)] {
            assert_eq!(NotebookName::new(bad), Err(NameError), "{bad:?}");
        }
    }
}
