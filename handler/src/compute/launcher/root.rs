//! A root directory of its own for a run: what it may read, bound read-only at its usual place, a few devices, its own
//! processes, and one directory to write in, of bounded size and number of files, which is gone with the run.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::{Failure, failed};
use crate::compute::order::Order;

/// The devices that programs count on.
pub(super) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What the root itself holds is directories to mount on.
const ROOT_OPTIONS: &str = "mode=0755,size=1m,nr_inodes=8k";

/// Makes the root, and moves into it; says whether there is a `/proc`.
pub(super) fn enter(order: &Order) -> Result<bool, Failure> {
    rustix::thread::unshare(UnshareFlags::NEWNS).map_err(failed("leave the system's mounts"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("keep mounts to itself"))?;
    let root = order.folder.as_path();
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", root, "tmpfs", plain, ROOT_OPTIONS).map_err(failed("mount a root"))?;
    for path in &order.reads {
        bind(root, path, Access::Read).map_err(failed(&format!("bind {}", path.display())))?;
    }
    for device in DEVICES {
        bind(root, Path::new(device), Access::Device).map_err(failed(&format!("bind {device}")))?;
    }
    let work = below(root, &order.work());
    let (uid, gid) = match order.uid {
        Some(uid) => (uid, uid),
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    let options = format!(
        "mode=0700,uid={uid},gid={gid},size={},nr_inodes={}",
        order.allowed.disk_bytes,
        // The directory itself, and what we put into it.
        order.allowed.files.saturating_add(8),
    );
    fs::create_dir_all(&work).map_err(failed("make the run's directory"))?;
    rustix::mount::mount("tmpfs", &work, "tmpfs", plain, options.as_str())
        .map_err(failed("mount the run's directory"))?;
    furnish(root, &work, &order.work(), (uid, gid)).map_err(failed("furnish the root"))?;
    let proc = root.join("proc");
    fs::create_dir_all(&proc).map_err(failed("furnish the root"))?;
    // A container that masks parts of its own /proc may not have another; a run can do without.
    let proc = rustix::mount::mount("proc", &proc, "proc", plain | MountFlags::NOEXEC, "").is_ok();
    rustix::mount::mount_remount(root, plain | MountFlags::RDONLY, "").map_err(failed("make the root read-only"))?;

    // The old root is put beneath the new one, and taken away.
    std::env::set_current_dir(root).map_err(failed("enter the root"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("change the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root"))?;
    std::env::set_current_dir("/").map_err(failed("enter the root"))?;
    Ok(proc)
}

/// Directories for what is temporary, and a user's name.
fn furnish(root: &Path, work: &Path, seen_as: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    for (name, link) in [("tmp", "tmp"), (".shm", "dev/shm")] {
        let directory = work.join(name);
        fs::create_dir(&directory)?;
        std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).or_else(already_ours)?;
        // What may be read can be below a directory of that name: then that one stays as it is.
        match symlink(seen_as.join(name), root.join(link)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    symlink("/proc/self/fd", root.join("dev/fd"))?;
    fs::create_dir_all(root.join("etc"))?;
    let home = seen_as.display();
    fs::write(root.join("etc/passwd"), format!("notebook:x:{uid}:{gid}:notebook:{home}:/usr/sbin/nologin\n"))?;
    fs::write(root.join("etc/group"), format!("notebook:x:{gid}:\n"))
}

/// With a user of the handler's own there is nothing to give away.
fn already_ours(error: io::Error) -> io::Result<()> {
    if rustix::process::geteuid().is_root() { Err(error) } else { Ok(()) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Device,
}

/// Shows a path at its own place beneath the root. What is not there is passed over.
fn bind(root: &Path, path: &Path, access: Access) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let place = below(root, path);
    if place.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if found.is_symlink() && !fs::metadata(path).is_ok_and(|behind| behind.is_file()) {
        return symlink(fs::read_link(path)?, place);
    }
    // A file is shown where it is looked for; what a link to it goes through need not be there.
    if found.is_dir() {
        fs::create_dir(&place)?;
    } else {
        fs::write(&place, [])?;
    }
    rustix::mount::mount_recursive_bind(path, &place)?;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | kept(&place)?;
    if access == Access::Read {
        flags |= MountFlags::RDONLY | MountFlags::NODEV;
    }
    Ok(rustix::mount::mount_remount(&place, flags, "")?)
}

/// The flags that a mount has already, which may not be taken away from it.
fn kept(place: &Path) -> io::Result<MountFlags> {
    let has = rustix::fs::statvfs(place)?.f_flag;
    let flags = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    Ok(flags.into_iter().filter(|(kept, _)| has.contains(*kept)).map(|(_, flag)| flag).collect())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
