//! Which resources are asked about: those that are named, and those of cost reports, found in the snapshots of their
//! sources. In: spooled charges; out: distinct ids, whatever their case, in the spelling that came first, at most
//! [`MAX_RESOURCES`] a question. Reads batch by batch and blocks; holds the ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use costream_common::record::Texts;

use crate::config::azure_monitor::{FromCosts, Resource};
use crate::snapshot::{Generation, SpoolError};

/// Most resources of cost reports that one question is about; the rest is left out, and that is said.
pub(super) const MAX_RESOURCES: usize = 100_000;

/// A resource that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: Arc<str>,
    pub(super) region: Option<Arc<str>>,
}

impl From<&Resource> for Known {
    fn from(resource: &Resource) -> Self {
        Self { id: resource.id.as_str().into(), region: resource.region.as_deref().map(Arc::from) }
    }
}

/// Whether a snapshot is of the reports that are meant.
pub(super) fn is_meant(generation: &Generation, from: &FromCosts) -> bool {
    let snapshot = generation.snapshot();
    snapshot.kind.is_charges() && from.source.as_ref().is_none_or(|source| *source == snapshot.key.source)
}

/// The resources of one type in snapshots of charges, in order of their ids.
///
/// # Errors
/// A snapshot cannot be read.
pub(super) fn of_costs(generations: &[Arc<Generation>], from: &FromCosts) -> Result<Vec<Known>, SpoolError> {
    let mut found: BTreeMap<String, Known> = BTreeMap::new();
    let mut left_out = 0_u64;
    for generation in generations.iter().filter(|generation| is_meant(generation, from)) {
        for batch in generation.records()? {
            let batch = batch?;
            let texts = |name| batch.column_by_name(name).and_then(Texts::of);
            let (Some(ids), Some(types)) = (texts("ResourceId"), texts("ResourceType")) else { break };
            let regions = texts("RegionId");
            for row in 0..batch.num_rows() {
                let is_of_type = types.get(row).is_some_and(|kind| kind == from.resource_type);
                let Some(id) = ids.get(row).filter(|id| is_of_type && id.starts_with('/')) else { continue };
                let key = id.to_ascii_lowercase();
                if found.contains_key(&key) {
                    continue;
                }
                if found.len() >= MAX_RESOURCES {
                    left_out += 1;
                    continue;
                }
                let region = regions.as_ref().and_then(|regions| regions.get(row)).map(Arc::from);
                found.insert(key, Known { id: id.into(), region });
            }
        }
    }
    if left_out > 0 {
        let resource_type = &from.resource_type;
        tracing::warn!(
            resource_type,
            left_out,
            "more than {MAX_RESOURCES} resources: charges of others are passed over"
        );
    }
    Ok(found.into_values().collect())
}
