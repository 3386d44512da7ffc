//! Oracle Cloud Infrastructure. FOCUS cost reports come as `FOCUS Reports/YYYY/MM/DD/<number>.csv.gz`, several a day;
//! one adds to those before it, and what must be corrected is corrected by rows of a later one. So each file is a scope
//! of its own, and none takes another's place. They are written whole, and stand in a bucket of Oracle's own, from
//! which they are copied (to a bucket that is asked as S3, or to a directory) by Oracle's tools.
//!
//! Spec: Oracle Cloud Infrastructure, "Cost and Usage Reports" and "FOCUS Cost Report Schema".

use super::{Folder, Found};

pub(super) fn find(folder: &Folder<'_>) -> Vec<Found> {
    folder.files().map(|(path, below, _)| Found::file(path, below)).collect()
}
