//! What a run uses, all its processes together, read from `/proc`: limits of the system hold for each process alone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Pid;

use crate::compute::order::{Allowed, Beyond, Order, Tier};

/// Looking at files takes no more than one part in so many of the time.
const FILES_SHARE: u32 = 4;

/// Looks at one run again and again.
pub(super) struct Watch {
    allowed: Allowed,
    /// The run's directory, when nothing else bounds it.
    folder: Option<PathBuf>,
    /// When it is looked at next.
    files_at: Instant,
    /// Time used so far, in [`Watch::ticks_a_second`].
    ticks: u64,
    ticks_a_second: u64,
}

impl Watch {
    pub(super) fn new(order: &Order) -> Self {
        Self {
            allowed: order.allowed,
            folder: (order.tier != Tier::Isolated).then(|| order.folder.clone()),
            files_at: Instant::now(),
            ticks: 0,
            ticks_a_second: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    /// The limit that the run, which began with process `first`, is beyond.
    pub(super) fn look(&mut self, first: Pid) -> Option<Beyond> {
        let mut memory = 0;
        let mut threads = 0;
        let mut ticks = 0;
        let first = first.as_raw_nonzero().get();
        for pid in of_tree(first).into_iter().chain([first]) {
            let place = PathBuf::from(format!("/proc/{pid}"));
            let Some(used) = Used::of(&place) else { continue };
            memory += used.memory_bytes;
            threads += used.threads;
            ticks += used.ticks;
        }
        // Whose parent is gone takes its time along; what was used stays used.
        self.ticks = self.ticks.max(ticks);
        if self.ticks > self.allowed.cpu_seconds.saturating_mul(self.ticks_a_second) {
            return Some(Beyond::CpuTime);
        }
        if memory > self.allowed.memory_bytes {
            return Some(Beyond::Memory);
        }
        if threads > self.allowed.processes {
            return Some(Beyond::Processes);
        }
        let now = Instant::now();
        if now < self.files_at {
            return None;
        }
        let beyond = self.files();
        self.files_at = Instant::now() + now.elapsed() * FILES_SHARE;
        beyond
    }

    /// What the run's directory came to at its end.
    pub(super) fn last_word(&self) -> Option<Beyond> {
        self.files()
    }

    fn files(&self) -> Option<Beyond> {
        let (mut files, mut bytes) = (0, 0);
        let mut folders = vec![self.folder.clone()?];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(folder) {
                // So deep in each other that they have no path any more.
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Some(Beyond::Files),
                entries => entries.into_iter().flatten().flatten(),
            };
            for entry in entries {
                let Ok(found) = entry.metadata() else { continue };
                files += 1;
                bytes += found.len();
                if found.is_dir() {
                    folders.push(entry.path());
                }
                if files > self.allowed.files {
                    return Some(Beyond::Files);
                }
            }
        }
        (bytes > self.allowed.disk_bytes).then_some(Beyond::Disk)
    }
}

/// What one process uses.
struct Used {
    memory_bytes: u64,
    threads: u64,
    /// With those of its children that are no more.
    ticks: u64,
}

impl Used {
    fn of(place: &Path) -> Option<Self> {
        let status = fs::read_to_string(place.join("status")).ok()?;
        let stat = fs::read_to_string(place.join("stat")).ok()?;
        // A page that several have is a part of each: a fork takes nothing before it writes.
        let parts = fs::read_to_string(place.join("smaps_rollup")).unwrap_or_default();
        let memory = number(&parts, "Pss_Anon")
            .zip(number(&parts, "Pss_Shmem"))
            .or_else(|| number(&status, "RssAnon").zip(number(&status, "RssShmem")));
        // utime, stime, cutime and cstime are fields 14 to 17; what follows the name in brackets begins with field 3.
        let fields = stat.rsplit_once(") ")?.1.split_whitespace().skip(11).take(4);
        Some(Self {
            memory_bytes: memory.map_or(0, |(own, shared)| (own + shared) << 10),
            threads: number(&status, "Threads").unwrap_or(1),
            ticks: fields.filter_map(|field| field.parse::<u64>().ok()).sum(),
        })
    }
}

/// The number of a line such as `RssAnon:   1024 kB`.
fn number(lines: &str, name: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every process that we, or one of ours, began, and that is there still.
pub(super) fn descendants() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    of_tree(own).into_iter().filter_map(Pid::from_raw).collect()
}

fn of_tree(ancestor: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in pids() {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            tree.push(child);
            parents.push(child);
        }
    }
    tree
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Processes and threads of our own user.
pub(super) fn tasks_of_this_user() -> u64 {
    let ours = of_user(rustix::process::geteuid().as_raw()).into_iter();
    let ours = ours.filter_map(|pid| Used::of(Path::new(&format!("/proc/{}", pid.as_raw_nonzero()))));
    ours.map(|used| used.threads).sum()
}

/// All processes of a user.
pub(super) fn of_user(uid: u32) -> Vec<Pid> {
    let theirs = pids().filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == uid));
    theirs.filter_map(Pid::from_raw).collect()
}
