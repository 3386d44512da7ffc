//! What was read of some resources in, the moment that something of it is another one out: for who could do nothing with
//! what it read, and would otherwise have to ask again and again. An object of the cluster is watched ([`kubernetes`]),
//! a directory looked through every [`LOOKS_EVERY`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::resource::{Kind, MAX_FILES, ObjectRef, Resources};
use crate::secret::kubernetes;

/// How often a directory is looked through.
const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// What changes is given so long to change as a whole: several files, several objects.
const SETTLES_IN: Duration = Duration::from_secs(1);
/// Most objects that are watched at once: each takes a connection.
const MAX_WATCHED: usize = 16;
/// How deep in a directory files are: those of a mounted Secret are in `NAMESPACE/NAME`.
const DEPTH: usize = 2;

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Objects of the cluster, and which version of each; nothing where there was no such object.
    pub(super) objects: BTreeMap<(Kind, ObjectRef), Option<String>>,
    /// The directory's files, before the first of them was read.
    pub(super) files: Option<u64>,
}

impl Resources {
    /// The same resources, for one who is to hear of changes of what it reads itself ([`Self::changed`]).
    pub fn for_one(&self) -> Self {
        Self { seen: Arc::default(), ..self.clone() }
    }

    /// Forgets what was read so far.
    pub fn forget(&self) {
        *self.seen() = Seen::default();
    }

    /// Waits until something that was read is another one, is gone, or is there at last. Waits for ever when nothing was
    /// read but the configuration's own file, or what was read may not be watched.
    pub async fn changed(&self) {
        let Seen { objects, files } = self.seen().clone();
        let mut objects: Vec<_> = objects.iter().collect();
        // What is missing is what is waited for most.
        objects.sort_by_key(|(_, version)| version.is_some());
        let watches = objects.into_iter().take(MAX_WATCHED).map(|((kind, of), version)| {
            kubernetes::changed(kind.plural(), of.namespace.as_deref(), &of.name, version.as_deref())
        });
        let mut watches: FuturesUnordered<_> = watches.collect();
        tokio::select! {
            Some(()) = watches.next() => {}
            () = self.files_changed(files) => {}
        }
        tokio::time::sleep(SETTLES_IN).await;
    }

    async fn files_changed(&self, before: Option<u64>) {
        let Some((dir, before)) = self.dir.as_ref().zip(before) else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOKS_EVERY).await;
            let dir = dir.clone();
            // A look that fails is no change.
            if tokio::task::spawn_blocking(move || stamp(&dir)).await.unwrap_or(before) != before {
                return;
            }
        }
    }

    /// Holders of it only copy values in and out.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a directory's files, and those of the folders in it, look like from outside: names, sizes and times.
pub(super) fn stamp(dir: &Path) -> u64 {
    let mut stamp = DefaultHasher::new();
    let mut folders = vec![(dir.to_owned(), 0)];
    let mut files = BTreeMap::new();
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if files.len() == MAX_FILES {
                break;
            }
            let path = entry.path();
            // Of what a link leads to: Kubernetes mounts links.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth < DEPTH {
                folders.push((path.clone(), depth + 1));
            }
            files.insert(path, (metadata.len(), metadata.modified().ok()));
        }
    }
    files.hash(&mut stamp);
    stamp.finish()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_directory_looks_different_when_anything_in_it_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let mut seen = vec![stamp(dir.path())];
        let mut changed = || {
            let now = stamp(dir.path());
            assert_eq!(now, stamp(dir.path()));
            assert!(!seen.contains(&now), "nothing is different");
            seen.push(now);
        };
        std::fs::write(path("secret.yaml"), "a").expect("written");
        changed();
        std::fs::write(path("secret.yaml"), "ab").expect("written");
        changed();
        // As Kubernetes mounts a Secret, and replaces it.
        let mounted = |folder: &str, text: &str| -> PathBuf {
            std::fs::create_dir_all(path("finops/azure").join(folder)).expect("made");
            let file = path("finops/azure").join(folder).join("token");
            std::fs::write(&file, text).expect("written");
            file
        };
        std::os::unix::fs::symlink(mounted("..1", "first"), path("finops/azure/token")).expect("linked");
        changed();
        std::fs::remove_file(path("finops/azure/token")).expect("removed");
        std::os::unix::fs::symlink(mounted("..2", "another"), path("finops/azure/token")).expect("linked");
        changed();
        std::fs::remove_file(path("secret.yaml")).expect("removed");
        changed();
    }
}
