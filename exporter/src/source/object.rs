//! Objects of a bucket, or of a directory with the same layout, in; reports out. What is there is listed anew for
//! each poll, with secrets read anew; a report is known again by what the listing says of each of its objects (entity
//! tag, size, time) without being asked for. An object is read on the condition that it is still the one that was
//! listed, streamed, and taken up again where the connection broke (the library does).
//!
//! A manifest decides which objects make a report. Refused: a manifest that names a missing object, or one of another
//! size than it says. An export that is being written over is left alone: its provider writes the manifest last, so
//! objects newer than that are the next one's.
//!
//! Peak memory: the listing, at most [`MAX_SCOPES`] names of a few hundred bytes, and one manifest
//! ([`MAX_MANIFEST_BYTES`]) for each report under way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use costream_common::cloud::{self, Cloud};
use costream_common::http::client::HeaderSource;
use costream_common::record::ScopeName;
use costream_common::secret::ExposeSecret as _;
use futures::{StreamExt as _, TryStreamExt as _};
use glob::{MatchOptions, Pattern};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;
use url::Url;

use super::file::{CLOCK_STEP, READ_BYTES};
use super::layout::{self, Found};
use super::parts::{Bytes, Part, Promise};
use super::{Fetched, Item, MAX_SCOPES, Mark, Parts, SourceError};
use crate::config::Layout;

/// The largest manifest worth reading.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// How long writing an export over may take. After that, objects that are newer than their manifest were copied so.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3_600);

/// A bucket's folder, object or glob; or a directory of some layout.
#[derive(Debug)]
pub(super) struct Bucket {
    place: Place,
    layout: Layout,
}

enum Place {
    Cloud { cloud: Cloud, url: Url, settings: BTreeMap<String, HeaderSource> },
    Directory(String),
}

/// Without settings: their names alone would say little.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloud { url, .. } => f.debug_tuple("Cloud").field(&url.as_str()).finish(),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
        }
    }
}

/// What a listing said of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
    size: u64,
    /// Nanoseconds since the epoch.
    modified: i64,
}

impl From<&ObjectMeta> for Stamp {
    fn from(meta: &ObjectMeta) -> Self {
        Self { e_tag: meta.e_tag.clone(), size: meta.size, modified: nanos(meta.last_modified) }
    }
}

impl Stamp {
    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }
}

fn nanos(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

/// The objects that were read for a report, manifests among them, by their paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    read_at: i64,
    objects: BTreeMap<String, Stamp>,
}

/// What one look at a place found. Shared by its reports.
pub(super) struct Listed {
    store: Arc<dyn ObjectStore>,
    /// What stands before an object's path when it is shown.
    root: String,
    is_local: bool,
    objects: BTreeMap<String, Stamp>,
}

/// A report of a listing.
#[derive(Clone, Debug)]
pub(super) struct Report {
    listed: Arc<Listed>,
    layout: Layout,
    found: Found,
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Bucket {
    pub(super) fn of_cloud(cloud: Cloud, url: Url, layout: Layout, settings: BTreeMap<String, HeaderSource>) -> Self {
        Self { place: Place::Cloud { cloud, url, settings }, layout }
    }

    pub(super) fn of_directory(path: String, layout: Layout) -> Self {
        Self { place: Place::Directory(path), layout }
    }

    /// The bucket's name, to count those who ask it; nothing for a directory.
    pub(super) fn host(&self) -> Option<String> {
        match &self.place {
            Place::Cloud { url, .. } => Some(bucket_of(url)),
            Place::Directory(_) => None,
        }
    }

    /// The reports that are there now, in order of their scopes.
    pub(super) async fn items(&self) -> Result<Vec<Item>, SourceError> {
        let (listed, layout, found) = match &self.place {
            Place::Directory(path) => {
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|source| SourceError::Store { shown: path.clone(), source })?;
                let mut listed = Listed::new(Arc::new(store), path, true);
                listed.list("", Depth::All).await?;
                let (layout, found) = layout::find(self.layout, &listed.objects, "", path);
                (listed, layout, found)
            }
            Place::Cloud { cloud, url, settings } => {
                let root = bucket_of(url);
                let shown = |source| SourceError::Store { shown: url.to_string(), source };
                let bucket = Url::parse(&root).unwrap_or_else(|_| url.clone());
                let settings = resolved(settings).await?;
                let store = cloud.connect(&bucket, cloud::environment().chain(settings)).map_err(shown)?;
                let path = Path::from_url_path(url.path()).map_err(|error| shown(error.into()))?;
                let mut listed = Listed::new(store, &root, false);
                let (layout, found) = self.look(&mut listed, path.as_ref(), url.path().ends_with('/')).await?;
                (listed, layout, found)
            }
        };
        if found.is_empty() {
            let given = self.place.to_string();
            let reason = match listed.objects.len() {
                0 => "there is no object",
                _ if layout == Layout::Plain => "its objects are in folders: `/**` takes what is in them",
                _ => "no object is part of a report in this layout, or none is finished",
            };
            return Err(SourceError::NoFiles { given, reason: reason.to_owned() });
        }
        let listed = Arc::new(listed);
        let item = |found: Found| {
            let shown = listed.shown(&found.shown);
            let scope = ScopeName::new(&found.scope).map_err(|source| SourceError::Name {
                shown: shown.escape_debug().to_string(),
                source: Some(source),
            })?;
            Ok(Item { scope, shown, report: Some(Report { listed: Arc::clone(&listed), layout, found }) })
        };
        found.into_iter().map(item).collect()
    }

    /// Looks for what a path in a bucket names.
    async fn look(
        &self,
        listed: &mut Listed,
        path: &str,
        is_folder: bool,
    ) -> Result<(Layout, Vec<Found>), SourceError> {
        if let Some(open) = path.find(['*', '[']) {
            let fixed = path[..open].rfind('/').map_or(0, |at| at + 1);
            let wrong = |source| SourceError::Pattern { given: self.place.to_string(), source };
            let pattern = Pattern::new(path).map_err(wrong)?;
            let options = MatchOptions {
                case_sensitive: true,
                require_literal_separator: true,
                require_literal_leading_dot: true,
            };
            listed.list(&path[..fixed], Depth::All).await?;
            listed.objects.retain(|path, _| pattern.matches_with(path, options));
            let files =
                listed.objects.iter().filter(|(path, stamp)| !layout::marks_folder(&listed.objects, path, stamp));
            let found = files.map(|(path, _)| Found::file(path, &path[fixed..])).collect();
            return Ok((Layout::Plain, found));
        }
        let may_be_object = !is_folder && !path.is_empty() && matches!(self.layout, Layout::Auto | Layout::Plain);
        if may_be_object && let Some(stamp) = listed.head(path).await? {
            let name = path.rsplit('/').next().unwrap_or(path);
            listed.objects.insert(path.to_owned(), stamp);
            return Ok((Layout::Plain, vec![Found::file(path, name)]));
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let depth = if self.layout == Layout::Plain { Depth::One } else { Depth::All };
        listed.list(&prefix, depth).await?;
        let root = format!("{}/{path}", listed.root);
        Ok(layout::find(self.layout, &listed.objects, &prefix, &root))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloud { url, .. } => url.fmt(f),
            Self::Directory(path) => path.fmt(f),
        }
    }
}

/// `s3://bucket`, without the path.
fn bucket_of(url: &Url) -> String {
    url[..url::Position::BeforePath].to_owned()
}

async fn resolved(settings: &BTreeMap<String, HeaderSource>) -> Result<Vec<(String, String)>, SourceError> {
    let mut all = Vec::with_capacity(settings.len());
    for (name, value) in settings {
        let value = match value {
            HeaderSource::Plain(text) => text.clone(),
            HeaderSource::Secret(secret) => {
                let failed = |source| SourceError::Setting { name: name.clone(), source };
                secret.read().await.map_err(failed)?.expose_secret().to_owned()
            }
        };
        all.push((name.clone(), value));
    }
    Ok(all)
}

/// How far a listing goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    One,
    All,
}

impl Listed {
    fn new(store: Arc<dyn ObjectStore>, root: &str, is_local: bool) -> Self {
        Self { store, root: root.trim_end_matches('/').to_owned(), is_local, objects: BTreeMap::new() }
    }

    fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    fn failed(&self, path: &str) -> impl Fn(StoreError) -> SourceError {
        let shown = self.shown(path);
        move |source| match source {
            // Gone or another since it was listed.
            StoreError::NotFound { .. } | StoreError::Precondition { .. } => SourceError::Changed(shown.clone()),
            source => SourceError::Store { shown: shown.clone(), source },
        }
    }

    async fn list(&mut self, prefix: &str, depth: Depth) -> Result<(), SourceError> {
        let failed = |source| SourceError::Store { shown: self.shown(prefix), source };
        let below = Path::parse(prefix.trim_end_matches('/')).map_err(|error| failed(error.into()))?;
        let below = Some(&below).filter(|path| !path.is_root());
        let mut objects = match depth {
            Depth::All => self.store.list(below),
            Depth::One => {
                let listed = self.store.list_with_delimiter(below).await.map_err(failed)?;
                futures::stream::iter(listed.objects.into_iter().map(Ok)).boxed()
            }
        };
        let mut found = BTreeMap::new();
        while let Some(meta) = objects.try_next().await.map_err(failed)? {
            found.insert(meta.location.to_string(), Stamp::from(&meta));
            if found.len() > MAX_SCOPES {
                return Err(SourceError::TooMany(self.shown(prefix)));
            }
        }
        drop(objects);
        self.objects = found;
        Ok(())
    }

    /// What is said of one object; nothing when it is not there.
    async fn head(&self, path: &str) -> Result<Option<Stamp>, SourceError> {
        let failed = |source| SourceError::Store { shown: self.shown(path), source };
        let location = Path::parse(path).map_err(|error| failed(error.into()))?;
        match self.store.head(&location).await {
            Ok(meta) => Ok(Some(Stamp::from(&meta))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Opens an object that is still the one that was listed.
    async fn open(&self, path: &str, stamp: &Stamp) -> Result<Bytes, SourceError> {
        let failed = self.failed(path);
        let location = Path::parse(path).map_err(|error| failed(error.into()))?;
        let options = GetOptions::new().with_if_match(self.condition(stamp));
        let got = self.store.get_opts(&location, options).await.map_err(&failed)?;
        if got.meta.size != stamp.size {
            return Err(SourceError::Changed(self.shown(path)));
        }
        Ok(match got.payload {
            GetResultPayload::File(file, _) => {
                let mut file = tokio::fs::File::from_std(file);
                file.set_max_buf_size(READ_BYTES);
                Box::new(file)
            }
            GetResultPayload::Stream(body) => Box::new(StreamReader::new(body.map_err(io::Error::other))),
        })
    }

    /// The tag by which an object is asked for: in quotes, which Azure's listing leaves out. A weak one matches nothing.
    fn condition(&self, stamp: &Stamp) -> Option<String> {
        let tag = stamp.e_tag.as_ref().filter(|tag| !tag.starts_with("W/"))?;
        Some(if self.is_local || tag.starts_with('"') { tag.clone() } else { format!("\"{tag}\"") })
    }

    /// A manifest's text.
    async fn read_manifest(&self, path: &str, stamp: &Stamp) -> Result<Vec<u8>, SourceError> {
        use tokio::io::AsyncReadExt as _;
        if stamp.size > MAX_MANIFEST_BYTES {
            let reason = format!("it has {} bytes, and {MAX_MANIFEST_BYTES} are the most", stamp.size);
            return Err(SourceError::Manifest { manifest: self.shown(path), reason });
        }
        let mut text = Vec::new();
        let bytes = self.open(path, stamp).await?;
        let read = bytes.take(MAX_MANIFEST_BYTES).read_to_end(&mut text).await;
        read.map_err(|source| SourceError::Read { path: self.shown(path), source })?;
        Ok(text)
    }

    /// Whether an object that bears this stamp is certainly the one that was read with it: a tag of its contents says
    /// so, and a time when it is well before the reading.
    fn vouches(&self, stamp: &Stamp, read_at: i64) -> bool {
        let step = i64::try_from(CLOCK_STEP.as_nanos()).unwrap_or(i64::MAX);
        (stamp.e_tag.is_some() && !self.is_local) || stamp.modified < read_at.saturating_sub(step)
    }

    /// Whether a report that was read as `marks` say is the one that is there now.
    fn is_known(&self, found: &Found, marks: &Marks) -> bool {
        let decides = if found.manifests.is_empty() { &found.files } else { &found.manifests };
        decides.iter().all(|path| marks.objects.contains_key(path))
            && marks.objects.iter().all(|(path, seen)| {
                self.objects.get(path).is_some_and(|now| now == seen) && self.vouches(seen, marks.read_at)
            })
    }
}

impl Report {
    /// Opens a report, unless it is known to be what was read last.
    pub(super) async fn fetch(&self, known: Option<&Marks>) -> Result<Fetched, SourceError> {
        let Self { listed, layout, found } = self;
        if known.is_some_and(|marks| listed.is_known(found, marks)) {
            return Ok(Fetched::Unchanged);
        }
        let mut marks = Marks { read_at: nanos(Utc::now()), objects: BTreeMap::new() };
        let mut waiting = VecDeque::new();
        if found.manifests.is_empty() {
            for path in &found.files {
                let stamp = self.listed_stamp(path)?;
                if is_younger(&stamp, found.settles_after) {
                    return Ok(Fetched::Unfinished);
                }
                marks.objects.insert(path.clone(), stamp.clone());
                waiting.push_back(Waiting { path: path.clone(), stamp, promise: None });
            }
            return Ok(Fetched::Fresh(Parts::of(Rest { listed: Arc::clone(listed), waiting }, Mark::Objects(marks))));
        }
        let mut newest: Option<(layout::Manifest, &String)> = None;
        for path in &found.manifests {
            let stamp = self.listed_stamp(path)?;
            let text = listed.read_manifest(path, &stamp).await?;
            let wrong = |reason| SourceError::Manifest { manifest: listed.shown(path), reason };
            let manifest = layout::manifest(*layout, path, &text).map_err(wrong)?;
            marks.objects.insert(path.clone(), stamp);
            if newest.as_ref().is_none_or(|(last, _)| last.made <= manifest.made) {
                newest = Some((manifest, path));
            }
        }
        let Some((manifest, path)) = newest else { return Ok(Fetched::Unchanged) };
        let written = marks.objects[path].modified;
        let shown = listed.shown(path);
        for file in manifest.files {
            let stamp = match listed.objects.get(&file.path) {
                Some(stamp) => stamp.clone(),
                // Written since the listing went by its name?
                None if listed.head(&file.path).await?.is_some() => return Err(SourceError::Changed(shown)),
                None => return Err(SourceError::MissingFile { manifest: shown, file: listed.shown(&file.path) }),
            };
            if self.is_being_written(&stamp, written) {
                return Ok(Fetched::Unfinished);
            }
            if let Some(said) = file.bytes.filter(|said| *said != stamp.size) {
                let (file, found) = (listed.shown(&file.path), stamp.size);
                return Err(SourceError::NotAsSaid { file, found, unit: "bytes", manifest: shown, said });
            }
            let promise = file.rows.map(|rows| Promise { manifest: shown.clone(), rows });
            marks.objects.insert(file.path.clone(), stamp.clone());
            waiting.push_back(Waiting { path: file.path, stamp, promise });
        }
        if waiting.is_empty() {
            return Err(SourceError::Manifest { manifest: shown, reason: "it names no file".to_owned() });
        }
        Ok(Fetched::Fresh(Parts::of(Rest { listed: Arc::clone(listed), waiting }, Mark::Objects(marks))))
    }

    fn listed_stamp(&self, path: &str) -> Result<Stamp, SourceError> {
        let stamp = self.listed.objects.get(path).cloned();
        stamp.ok_or_else(|| SourceError::Changed(self.listed.shown(path)))
    }

    /// Whether a file belongs to the export that will take this one's place. Times of a directory's files are those of
    /// a copy, and say nothing.
    fn is_being_written(&self, file: &Stamp, manifest_written: i64) -> bool {
        !self.listed.is_local && file.modified > manifest_written && is_younger(file, WRITTEN_WITHIN)
    }
}

fn is_younger(stamp: &Stamp, than: Duration) -> bool {
    let age = Utc::now().signed_duration_since(DateTime::from_timestamp_nanos(stamp.modified));
    // A clock ahead of ours makes it younger than any.
    !than.is_zero() && age.to_std().map_or(true, |age| age < than)
}

/// What a report's objects wait as, until they are opened.
#[derive(Debug)]
struct Waiting {
    path: String,
    stamp: Stamp,
    promise: Option<Promise>,
}

/// The parts of a report that are not open yet.
#[derive(Debug)]
pub(super) struct Rest {
    listed: Arc<Listed>,
    waiting: VecDeque<Waiting>,
}

impl Rest {
    pub(super) async fn open_next(&mut self) -> Result<Option<Part>, SourceError> {
        let Some(Waiting { path, stamp, promise }) = self.waiting.pop_front() else { return Ok(None) };
        let bytes = self.listed.open(&path, &stamp).await?;
        Ok(Some(Part { bytes, shown: self.listed.shown(&path), promise }))
    }

    /// Holds what has been read against what is there now. A bucket's objects are whole in themselves, and were asked
    /// for as they were listed; a directory's files can change while they are read.
    pub(super) async fn still(&self, marks: &Marks) -> Result<(), SourceError> {
        if !self.listed.is_local {
            return Ok(());
        }
        for (path, stamp) in &marks.objects {
            if self.listed.head(path).await?.as_ref() != Some(stamp) {
                return Err(SourceError::Changed(self.listed.shown(path)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::io::AsyncReadExt as _;

    const MANIFEST: &str = "focus/metadata/BILLING_PERIOD=2026-09/focus-Manifest.json";
    const FIRST: &str = "focus/data/BILLING_PERIOD=2026-09/focus-00001.csv";
    const SECOND: &str = "focus/data/BILLING_PERIOD=2026-09/focus-00002.csv";

    /// A directory with an export of two files in it.
    fn export() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let manifest = format!("{{\"dataFiles\": [\"s3://b/{FIRST}\", \"s3://b/{SECOND}\"]}}");
        for (path, text) in [(FIRST, "first"), (SECOND, "second"), (MANIFEST, manifest.as_str())] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("write");
        }
        dir
    }

    async fn report(dir: &tempfile::TempDir) -> Report {
        let path = dir.path().to_str().expect("text").to_owned();
        let items = Bucket::of_directory(path, Layout::Aws).items().await.expect("reports");
        items.into_iter().next().and_then(|item| item.report).expect("one")
    }

    /// Reads a report, and does something to the directory on the way, before or after the second part is open.
    async fn read(dir: &tempfile::TempDir, when: usize, change: fn(&std::path::Path)) -> Result<Marks, SourceError> {
        let Fetched::Fresh(mut parts) = report(dir).await.fetch(None).await? else { panic!("a report") };
        for at in 0..2 {
            if at == when {
                change(dir.path());
            }
            let mut part = parts.next().await?.expect("a part");
            if when == at + 2 {
                change(dir.path());
            }
            part.bytes.read_to_end(&mut Vec::new()).await.expect("its bytes");
        }
        let Mark::Objects(marks) = parts.seal().await?.mark else { panic!("marks") };
        Ok(marks)
    }

    #[tokio::test]
    async fn an_export_that_changes_while_it_is_read_is_an_error() {
        let changes: [fn(&std::path::Path); 3] = [
            |dir| fs::write(dir.join(SECOND), "longer than it was").expect("write"),
            |dir| fs::remove_file(dir.join(SECOND)).expect("remove"),
            |dir| {
                fs::write(dir.join("new"), "SECOND").expect("write");
                fs::rename(dir.join("new"), dir.join(SECOND)).expect("rename");
            },
        ];
        assert!(read(&export(), usize::MAX, |_| {}).await.is_ok());
        for change in changes {
            for when in 0..4 {
                let error = read(&export(), when, change).await.expect_err("a change");
                assert!(matches!(&error, SourceError::Changed(_)) && error.is_retryable(), "{when}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_copy_is_known_by_its_times_only_when_they_are_well_before_the_reading() {
        let dir = export();
        let marks = read(&dir, usize::MAX, |_| {}).await.expect("all of it");
        let is_known =
            async |marks: &Marks| matches!(report(&dir).await.fetch(Some(marks)).await, Ok(Fetched::Unchanged));
        assert!(!is_known(&marks).await, "it was written a moment ago: its times cannot vouch for it");
        let aged = Marks { read_at: marks.read_at + 10_000_000_000, ..marks };
        assert!(is_known(&aged).await);
        fs::write(dir.path().join(FIRST), "FIRST").expect("write");
        assert!(!is_known(&aged).await);
        let without = Marks { objects: BTreeMap::new(), ..aged };
        assert!(!is_known(&without).await, "another manifest decides");
    }
}
