//! How providers lay out their exports: what a listing holds in, reports out, each with the manifests or the files
//! that make it. Pure: looks at paths and at manifests' texts, asks for nothing.
//!
//! | layout | scope | which files |
//! |---|---|---|
//! | plain | each file directly in the folder | itself |
//! | [`aws`] | export and billing period | what the newest manifest names |
//! | [`azure`] | export and period | what the manifest of the newest run names |
//! | [`gcp`] | folder | all in it, once they have settled |
//! | [`oci`] | each file below the folder | itself |

mod aws;
mod azure;
mod gcp;
mod oci;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::object::Stamp;
use crate::config::Layout;

/// A report that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What a snapshot of it replaces.
    pub(super) scope: String,
    /// The path that errors call it by.
    pub(super) shown: String,
    /// The manifests of which the newest says what belongs to it.
    pub(super) manifests: Vec<String>,
    /// Its files, where no manifest names them.
    pub(super) files: Vec<String>,
    /// Where nothing says that all files are there: how old the youngest must be.
    pub(super) settles_after: Duration,
}

impl Found {
    /// A report of one file.
    pub(super) fn file(path: &str, scope: &str) -> Self {
        Self { scope: scope.to_owned(), shown: path.to_owned(), files: vec![path.to_owned()], ..Self::default() }
    }
}

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Manifest {
    /// When its export was asked for; the later one counts. What does not say comes first.
    pub(super) made: Option<DateTime<Utc>>,
    /// The files, in their order.
    pub(super) files: Vec<Named>,
}

/// A file that a manifest names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Its path, as the listing has it.
    pub(super) path: String,
    /// Its size.
    pub(super) bytes: Option<u64>,
    /// Its rows.
    pub(super) rows: Option<u64>,
}

/// What was listed, by path.
pub(super) type Objects = BTreeMap<String, Stamp>;

/// The reports below a folder: `prefix` is its path with a slash behind (or nothing), `root` how it is called. Says
/// which layout they are in, where that was left to us.
pub(super) fn find(layout: Layout, objects: &Objects, prefix: &str, root: &str) -> (Layout, Vec<Found>) {
    let name = root.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let folder = Folder { objects, prefix, name };
    match layout {
        Layout::Auto => {
            for layout in [Layout::Aws, Layout::Azure] {
                let (layout, found) = find(layout, objects, prefix, root);
                if !found.is_empty() {
                    return (layout, found);
                }
            }
            find(Layout::Plain, objects, prefix, root)
        }
        Layout::Plain => (layout, plain(&folder)),
        Layout::Aws => (layout, aws::find(&folder)),
        Layout::Azure => (layout, azure::find(&folder)),
        Layout::Gcp => (layout, gcp::find(&folder)),
        Layout::Oci => (layout, oci::find(&folder)),
    }
}

/// Reads a manifest.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn manifest(layout: Layout, path: &str, text: &[u8]) -> Result<Manifest, String> {
    match layout {
        Layout::Aws => aws::manifest(path, text),
        Layout::Azure => azure::manifest(path, text),
        _ => Err("this layout has no manifests".to_owned()),
    }
}

/// A folder as it was listed.
struct Folder<'a> {
    objects: &'a Objects,
    prefix: &'a str,
    /// Its own name.
    name: &'a str,
}

impl<'a> Folder<'a> {
    /// Every file: its path, what of that lies below the folder, and its stamp. Hidden ones are left out, and what
    /// marks a folder.
    fn files(&self) -> impl Iterator<Item = (&'a String, &'a str, &'a Stamp)> + use<'a, '_> {
        self.objects.iter().filter_map(|(path, stamp)| {
            let below = path.strip_prefix(self.prefix)?;
            let is_hidden = below.split('/').any(|part| part.starts_with('.'));
            let is_left_out = is_hidden || below.is_empty() || marks_folder(self.objects, path, stamp);
            (!is_left_out).then_some((path, below, stamp))
        })
    }

    /// A scope's name below the folder: that of the folder itself for what lies directly in it.
    fn scope(&self, below: &str) -> String {
        let named = if below.is_empty() { self.name } else { below };
        if named.is_empty() { "root".to_owned() } else { named.to_owned() }
    }
}

/// Whether an object is one of those by which some tools mark a folder: empty, and called as one, or with files below it.
pub(super) fn marks_folder(objects: &Objects, path: &str, stamp: &Stamp) -> bool {
    let has_files = || {
        let folder = format!("{path}/");
        let next = objects.range(folder.clone()..).next();
        next.is_some_and(|(next, _)| next.starts_with(&folder))
    };
    stamp.is_empty() && (!path[folder_of(path).len()..].contains('.') || has_files())
}

fn plain(folder: &Folder<'_>) -> Vec<Found> {
    let direct = folder.files().filter(|(_, below, _)| !below.contains('/'));
    direct.map(|(path, below, _)| Found::file(path, below)).collect()
}

/// The folder that a path is in, with a slash behind; nothing for the topmost.
fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

#[cfg(test)]
mod tests;
