//! A small disk that gets full: a file system of its own, in memory. It needs the right to mount, of
//! root or by `sudo` without a password.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// A mounted disk. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Whether this user may mount one: tried, with one that is gone at once.
    ///
    /// # Errors
    /// This user may not.
    pub fn may_mount() -> Result<()> {
        Self::mount(1 << 16).map(drop)
    }

    /// Mounts one of so many bytes.
    ///
    /// # Errors
    /// This user may not mount.
    pub fn mount(bytes: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        // World-writable, like /tmp: whoever runs the tests uses it.
        privileged("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=1777"), "tmpfs"], folder.path())
            .context("mount a small disk (as root, or with sudo)")?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes it larger.
    ///
    /// # Errors
    /// This user may not mount.
    pub fn grow_to(&self, bytes: u64) -> Result<()> {
        privileged("mount", &["-o", &format!("remount,size={bytes}")], self.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = privileged("umount", &["--lazy"], self.path()) {
            eprintln!("{} stays mounted: {error:#}", self.path().display());
        }
    }
}

/// Runs a command on a folder as this user, or else as root.
fn privileged(program: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    let run = |command: &mut Command| {
        let status = command.args(arguments).arg(folder).stdin(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if run(&mut Command::new(program)) || run(Command::new("sudo").args(["-n", program])) {
        return Ok(());
    }
    bail!("{program} is not allowed")
}
