//! The keys of records in, the number of each among its equals out, in bounded memory: only so many keys
//! ([`MAX_KEYS`]) are counted at a time. The records of any others wait on the disk ([`Aside`]) until
//! those that came before them have been handed out, and then are looked at anew; so an upload of ten
//! million different records is written to the disk some five times over, and one of a million not at all.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::Path;

/// Keys counted at a time, of some 25 bytes each.
const MAX_KEYS: usize = if cfg!(test) { 100 } else { 7 << 17 };

/// Counts records by key.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<[u8; 16], u32>);

impl Numbers {
    /// The number of a record among those with its key, from 1; nothing when it has to wait.
    pub(super) fn number(&mut self, key: [u8; 16]) -> Option<i64> {
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(&key) {
            return None;
        }
        let count = self.0.entry(key).or_default();
        *count += 1;
        Some(i64::from(*count))
    }

    /// Forgets all keys: those of the records that wait are others.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Records that wait, in a file that nobody else sees.
#[derive(Debug)]
pub(super) struct Aside {
    file: BufWriter<File>,
    records: u64,
}

impl Aside {
    /// In a directory, or where the system keeps such files when that cannot be used.
    pub(super) fn in_directory(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory).or_else(|_| tempfile::tempfile())?;
        Ok(Self { file: BufWriter::new(file), records: 0 })
    }

    /// Lays a record aside, with its place in the request.
    pub(super) fn push(&mut self, index: u64, record: &[u8]) -> io::Result<()> {
        self.records += 1;
        self.file.write_all(&index.to_le_bytes())?;
        self.file.write_all(&(record.len() as u64).to_le_bytes())?;
        self.file.write_all(record)
    }

    /// Takes the records up again, in their order.
    pub(super) fn into_records(self) -> io::Result<Records> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Records { file: BufReader::new(file), left: self.records, record: Vec::new() })
    }
}

/// Records taken up again; holds one.
#[derive(Debug)]
pub(super) struct Records {
    file: BufReader<File>,
    left: u64,
    record: Vec<u8>,
}

impl Records {
    /// The next record, with its place in the request.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let mut number = [0; 8];
        self.file.read_exact(&mut number)?;
        let index = u64::from_le_bytes(number);
        self.file.read_exact(&mut number)?;
        // As long as it was when it was laid aside.
        self.record.resize(usize::try_from(u64::from_le_bytes(number)).map_err(io::Error::other)?, 0);
        self.file.read_exact(&mut self.record)?;
        Ok(Some((index, &self.record)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As one map of all keys would have it.
        #[test]
        fn every_record_gets_its_number_whatever_has_to_wait(keys in proptest::collection::vec(0_u16..400, 0..1500)) {
            let mut numbers = Numbers::default();
            let mut found = vec![0; keys.len()];
            let mut input: Vec<(u64, Vec<u8>)> =
                (0_u64..).zip(&keys).map(|(at, key)| (at, key.to_le_bytes().to_vec())).collect();
            let mut rounds = 0;
            while !input.is_empty() {
                rounds += 1;
                let mut aside = Aside::in_directory(Path::new("/no/such/directory")).expect("a file");
                for (at, record) in &input {
                    let mut key = [0; 16];
                    key[..2].copy_from_slice(record);
                    match numbers.number(key) {
                        Some(number) => found[usize::try_from(*at).expect("a place")] = number,
                        None => aside.push(*at, record).expect("written"),
                    }
                }
                numbers.clear();
                let mut records = aside.into_records().expect("read");
                input.clear();
                while let Some((at, record)) = records.next().expect("read") {
                    input.push((at, record.to_vec()));
                }
            }
            let mut counts = HashMap::<u16, i64>::new();
            let expected: Vec<i64> = keys
                .iter()
                .map(|key| {
                    let count = counts.entry(*key).or_default();
                    *count += 1;
                    *count
                })
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert!(rounds <= counts.len().div_ceil(MAX_KEYS));
        }
    }
}
