//! A source of usage of an inherited configuration: whose resources, and where it stands what is asked of them. Not a matter
//! of our own configuration, which has `azure_monitor` for that.

use costream_common::inherited::{Call, ObjectRef, Resources};
use costream_common::record::SourceName;

/// Usage that a ProviderConfig asks for.
#[derive(Clone, Debug)]
pub struct ProviderUsage {
    /// The ProviderConfig.
    pub provider: ObjectRef,
    /// The source of the cost report that names the resources.
    pub costs: SourceName,
    /// The request for it, whose server is asked where a MetricConfig names no other.
    pub report: Call,
    /// Where the ProviderConfig, and what it refers to, is.
    pub resources: Resources,
    /// The table that the points go to.
    pub table: String,
}
