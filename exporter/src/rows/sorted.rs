//! Entries of one size in, the same in order of their bytes out, however many there are. Sorts runs of
//! [`RUN_BYTES`] in memory, writes them one after another into a file without a name, and merges them. Memory: a run,
//! and [`READ_BYTES`] for each run while they are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The entries sorted at once.
const RUN_BYTES: usize = 4 << 20;
/// What is read ahead of each run.
const READ_BYTES: usize = 8 << 10;

/// Takes entries of `N` bytes.
#[derive(Debug)]
pub(super) struct Sorter<const N: usize> {
    run: Vec<[u8; N]>,
    /// The runs written so far, and where each ends, in entries.
    spilled: BufWriter<File>,
    ends: Vec<u64>,
    max_entries: usize,
}

impl<const N: usize> Sorter<N> {
    /// Nothing yet; the file is made under this name, which it loses at once.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Self::with_runs_of(RUN_BYTES, path)
    }

    fn with_runs_of(bytes: usize, path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        fs::remove_file(path)?;
        let max_entries = (bytes / N).max(1);
        Ok(Self { run: Vec::new(), spilled: BufWriter::new(file), ends: Vec::new(), max_entries })
    }

    pub(super) fn push(&mut self, entry: [u8; N]) -> io::Result<()> {
        self.run.push(entry);
        if self.run.len() >= self.max_entries { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.run.sort_unstable();
        for entry in &self.run {
            self.spilled.write_all(entry)?;
        }
        let before = self.ends.last().copied().unwrap_or_default();
        self.ends.push(before + self.run.len() as u64);
        self.run.clear();
        Ok(())
    }

    /// The entries in order.
    pub(super) fn sorted(mut self) -> io::Result<Merged<N>> {
        self.run.sort_unstable();
        let file = self.spilled.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut next = 0;
        let mut runs: Vec<Run<N>> = Vec::with_capacity(self.ends.len() + 1);
        for end in self.ends {
            runs.push(Run { entries: Vec::new(), at: 0, next, end });
            next = end;
        }
        // The last one is in memory still.
        runs.push(Run { entries: self.run, at: 0, next: 0, end: 0 });
        let mut merged = Merged { file, heads: BinaryHeap::with_capacity(runs.len()), runs };
        for run in 0..merged.runs.len() {
            merged.refill(run)?;
        }
        Ok(merged)
    }
}

/// A run that is being read.
#[derive(Debug)]
struct Run<const N: usize> {
    entries: Vec<[u8; N]>,
    at: usize,
    next: u64,
    end: u64,
}

/// Entries in order.
#[derive(Debug)]
pub(super) struct Merged<const N: usize> {
    file: File,
    runs: Vec<Run<N>>,
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
}

impl<const N: usize> Merged<N> {
    /// Puts the next entry of a run among the heads.
    fn refill(&mut self, run: usize) -> io::Result<()> {
        let of = &mut self.runs[run];
        if of.at == of.entries.len() && of.next < of.end {
            let n = (of.end - of.next).min((READ_BYTES / N).max(1) as u64);
            of.entries.resize(usize::try_from(n).unwrap_or_default(), [0; N]);
            self.file.read_exact_at(of.entries.as_flattened_mut(), of.next * N as u64)?;
            (of.at, of.next) = (0, of.next + n);
        }
        if let Some(entry) = of.entries.get(of.at) {
            of.at += 1;
            self.heads.push(Reverse((*entry, run)));
        }
        Ok(())
    }
}

impl<const N: usize> Iterator for Merged<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((entry, run)) = self.heads.pop()?;
        Some(self.refill(run).map(|()| entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_number_of_entries_comes_out_in_order(entries in prop::collection::vec(any::<[u8; 3]>(), 0..2_000), run in 1..500_usize) {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("runs");
            let mut sorter = Sorter::with_runs_of(run, &path).expect("a sorter");
            for entry in &entries {
                sorter.push(*entry).expect("taken");
            }
            let sorted: Vec<_> = sorter.sorted().expect("sorted").collect::<Result<_, _>>().expect("read");
            let mut expected = entries;
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
            prop_assert!(!path.exists());
        }
    }
}
