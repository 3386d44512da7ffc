//! A program's own view of the file system: this machine's, with folders of a test's at the top, so that a fixed path such as
//! `/config` is the test's and nobody else sees it. It takes Linux with user namespaces, and util-linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// Makes the view in a mount namespace of its own, and becomes the program.
const ENTER: &str = r#"
set -eu
root=$1 own=$2
shift 2
mount -t tmpfs tmpfs "$root"
cp -R "$own/." "$root/"
for entry in /*; do
    name=${entry#/}
    if [ -e "$root/$name" ]; then
        continue
    elif [ -L "$entry" ]; then
        cp -P "$entry" "$root/"
    elif [ -d "$entry" ]; then
        mkdir "$root/$name"
        mount --rbind "$entry" "$root/$name"
    fi
done
exec chroot "$root" "$@"
"#;

/// Folders of a test's, for programs that are to see them.
#[derive(Debug)]
pub struct Room {
    dir: TempDir,
}

impl Room {
    /// A room that has nothing yet.
    ///
    /// # Errors
    /// There is no place for a folder.
    pub fn new() -> Result<Self> {
        let room = Self { dir: tempfile::tempdir().context("make a folder")? };
        for part in ["root", "own"] {
            fs::create_dir(room.path().join(part)).context("make a folder")?;
        }
        Ok(room)
    }

    /// Whether this user may make one: tried.
    ///
    /// # Errors
    /// This user may not.
    pub fn may_be_made() -> Result<()> {
        let output = Self::new()?.command(&["/bin/sh", "-c", "exit 0"]).stdin(Stdio::null()).output();
        let output = output.context("start unshare (util-linux)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no file system of one's own: {}", said.trim());
        Ok(())
    }

    /// Makes a folder of the view, named without the slash before it; what this machine has at the top by the first part of the name is
    /// not seen.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path().join("own").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// A program with its arguments, in a view of the folders as they are when it starts. It starts at `/`, where it may write.
    pub fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", ENTER, "sh"]);
        command.arg(self.path().join("root")).arg(self.path().join("own")).args(program);
        command
    }

    /// A folder of this machine, for the program's log.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}
