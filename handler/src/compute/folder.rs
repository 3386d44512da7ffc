//! Directories of runs, below one of this handler's: made for a run, and gone with it. What handlers left that were
//! killed is cleared away by the next one; whose handler lives is known by a lock.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// The lock of a handler's directory.
const LOCK: &str = "lock";
/// What other users may do with the directories above theirs: pass through.
const PASS_THROUGH: u32 = 0o711;

/// Where runs have their directories. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    place: Arc<Path>,
    own: Arc<Mutex<Option<Arc<Own>>>>,
}

/// This handler's own, with its lock. Gone when the last run's is.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    _lock: File,
}

impl Drop for Own {
    fn drop(&mut self) {
        let _left_to_the_next = fs::remove_file(self.path.join(LOCK)).and_then(|()| fs::remove_dir(&self.path));
    }
}

impl Folders {
    /// Directories below `place`, which is made with the first of them.
    pub(super) fn new(place: PathBuf) -> Self {
        Self { place: place.into(), own: Arc::default() }
    }

    /// A new directory, of a user when one is given.
    pub(super) fn make(&self, uid: Option<u32>) -> io::Result<Folder> {
        let own = self.own()?;
        let path = own.path.join(Uuid::new_v4().simple().to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Folder { path, _own: own };
        if uid.is_some() {
            chown(&folder.path, uid, uid)?;
        }
        Ok(folder)
    }

    fn own(&self) -> io::Result<Arc<Own>> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = &*own {
            return Ok(Arc::clone(own));
        }
        DirBuilder::new().recursive(true).mode(PASS_THROUGH).create(&self.place)?;
        self.clear();
        let path = self.place.join(Uuid::new_v4().simple().to_string());
        DirBuilder::new().mode(PASS_THROUGH).create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(PASS_THROUGH))?;
        let lock = File::create_new(path.join(LOCK))?;
        lock.try_lock()?;
        let made = Arc::new(Own { path, _lock: lock });
        *own = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Removes the directories of handlers that are no more.
    fn clear(&self) {
        for entry in fs::read_dir(&self.place).into_iter().flatten().flatten() {
            let path = entry.path();
            let unlocked = File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
            if unlocked && let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "what a run left cannot be removed");
            }
        }
    }
}

/// A run's directory. Removed at its end, or when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _own: Arc<Own>,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, with all that is in it.
    pub(super) async fn remove(self) {
        let _panicked = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a run's directory cannot be removed");
            }
            _ => {}
        }
    }
}

/// Removes a directory whose owner wished us ill: however deep its directories stand in each other, and whatever
/// their permissions, it takes two open directories and no path. Follows no link. Nobody is to be at work in it.
#[cfg(target_os = "linux")]
fn remove(top: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
    use rustix::io::Errno;

    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = openat(CWD, top, flags, Mode::empty())?;
    let mut depth: u64 = 0;
    'folders: loop {
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let removed = match unlinkat(&folder, name, AtFlags::empty()) {
                // What a directory answers; it goes when it is empty.
                Err(Errno::ISDIR | Errno::PERM) => unlinkat(&folder, name, AtFlags::REMOVEDIR),
                removed => removed,
            };
            match removed {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    rustix::fs::chmodat(&folder, name, Mode::RWXU, AtFlags::empty())?;
                    folder = openat(&folder, name, flags, Mode::empty())?;
                    depth += 1;
                    continue 'folders;
                }
                removed => removed?,
            }
        }
        if depth == 0 {
            return fs::remove_dir(top);
        }
        folder = openat(&folder, c"..", flags, Mode::empty())?;
        depth -= 1;
    }
}

/// Removes a directory. Where there is no Linux no run has been in it.
#[cfg(not(target_os = "linux"))]
fn remove(top: &Path) -> io::Result<()> {
    fs::remove_dir_all(top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_all_that_was_put_into_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let outside = dir.path().join("outside");
        fs::write(&outside, "kept").expect("written");
        let folders = Folders::new(dir.path().join("runs"));
        let folder = folders.make(None).expect("a directory");
        let path = folder.path().to_owned();
        // Deeper than a path can be long.
        for half in ["a", "b"] {
            let mut deep = path.join(half);
            for _ in 0..300 {
                fs::create_dir(&deep).expect("made");
                deep.push("x".repeat(9));
            }
            fs::write(deep.with_file_name("file"), "").expect("written");
        }
        let deepest = std::iter::repeat_n("x".repeat(9), 299).fold(path.join("a"), |deep, name| deep.join(name));
        fs::rename(path.join("b"), deepest.join("b")).expect("moved");
        std::os::unix::fs::symlink(&outside, path.join("link")).expect("linked");
        fs::create_dir(path.join("closed")).expect("made");
        fs::write(path.join("closed/file"), "").expect("written");
        fs::set_permissions(path.join("closed"), Permissions::from_mode(0o000)).expect("closed");
        drop(folder);
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(&outside).expect("kept"), "kept");
        drop(folders);
        assert_eq!(fs::read_dir(dir.path().join("runs")).expect("the place").count(), 0);
    }

    #[test]
    fn what_a_killed_handler_left_is_cleared_away_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = dir.path().join("runs");
        let living = Folders::new(place.clone());
        let kept = living.make(None).expect("a directory");
        let killed = place.join("killed");
        fs::create_dir_all(killed.join("run/files")).expect("made");
        fs::write(killed.join(LOCK), "").expect("written");
        let _next = Folders::new(place).make(None).expect("a directory");
        assert!(kept.path().exists() && !killed.exists());
    }
}
