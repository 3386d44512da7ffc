//! Queries: a DataFusion session over the tables, each opened when a statement names it and
//! then fixed at one version. All queries share one memory pool and spill to disk beyond it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList as _, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProvider,
};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Column, DataFusionError, ParamValues};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlanBuilder, UNNAMED_TABLE, cast};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use deltalake::DeltaTable;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};

use super::sum::CheckedSum;
use super::{DeltaOptions, Shared, edit};
use crate::ident::TableName;
use crate::store::{Declared, Query, StoreError, TableInfo, text};

/// The catalog's and the schema's name, as CrateDB calls them.
const CATALOG: &str = "crate";
const SCHEMA: &str = "doc";
/// Memory that a query's partition should have: with less, its sorts and groups have no room to
/// spill from.
const LEAST_PARTITION_BYTES: usize = 32 << 20;
/// Consumers named when memory runs out.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4);

/// What every session starts from.
pub(super) fn base_session(options: &DeltaOptions) -> Result<SessionState, DataFusionError> {
    let disk = match &options.spill_dir {
        Some(dir) if std::fs::create_dir_all(dir).is_ok() => DiskManagerMode::Directories(vec![dir.clone()]),
        _ => DiskManagerMode::OsTmpDirectory,
    };
    let disk = DiskManagerBuilder::default().with_mode(disk).with_max_temp_directory_size(options.max_spill_bytes);
    let pool = TrackConsumersPool::new(FairSpillPool::new(options.query_memory_bytes), NAMED_CONSUMERS);
    let runtime =
        RuntimeEnvBuilder::new().with_disk_manager_builder(disk).with_memory_pool(Arc::new(pool)).build_arc()?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut config = SessionConfig::new()
        .with_target_partitions(cores.min(options.query_memory_bytes / LEAST_PARTITION_BYTES).max(1))
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    let settings = config.options_mut();
    // A literal such as 0.1 is a decimal: an amount compared or multiplied with it stays exact.
    settings.sql_parser.parse_float_as_decimal = true;
    // What a sort sets aside for merging what it spilled: some of them must fit beside each other.
    settings.execution.sort_spill_reservation_bytes =
        (options.query_memory_bytes / 64).min(settings.execution.sort_spill_reservation_bytes);
    // Text is seen where it was read, and copied only into answers.
    settings.execution.parquet.schema_force_view_types = true;
    // deltalake 1.1's scan of partition columns alone takes a limit from this rule and forgets it
    // (`SELECT x_source FROM costs LIMIT 1`); what the logical plan pushes down is enough.
    let rules = PhysicalOptimizer::new().rules.into_iter().filter(|rule| rule.name() != "LimitPushdown").collect();
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(rules)
        .build();
    let context = SessionContext::new_with_state(state);
    context.register_udaf(AggregateUDF::from(CheckedSum::default()));
    Ok(context.state())
}

/// A session for one statement.
pub(super) async fn session(store: &Arc<Shared>, as_of: Option<DateTime<Utc>>) -> Result<SessionContext, StoreError> {
    let names = table_names(store).await?;
    let doc = Doc { store: store.clone(), as_of, names, opened: Mutex::default() };
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(doc))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    let state =
        SessionStateBuilder::new_from_existing(store.session.clone()).with_catalog_list(Arc::new(catalogs)).build();
    Ok(SessionContext::new_with_state(state))
}

pub(super) async fn query(store: &Arc<Shared>, query: Query) -> Result<SendableRecordBatchStream, StoreError> {
    let session = session(store, query.as_of).await?;
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let mut frame = session.sql_with_options(&query.sql, options).await.map_err(ours)?;
    if !query.params.is_empty() {
        frame = frame.with_param_values(ParamValues::from(query.params))?;
    }
    frame.execute_stream().await.map_err(ours).map(text::owned)
}

/// An error of ours that went through DataFusion comes back as itself.
fn ours(error: DataFusionError) -> StoreError {
    match error {
        DataFusionError::External(source) => match source.downcast::<StoreError>() {
            Ok(error) => *error,
            Err(source) => DataFusionError::External(source).into(),
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)
            if matches!(*inner, DataFusionError::External(_)) =>
        {
            ours(*inner)
        }
        other => other.into(),
    }
}

pub(super) async fn tables(store: &Arc<Shared>) -> Result<Vec<TableInfo>, StoreError> {
    let mut tables = Vec::new();
    for name in table_names(store).await? {
        let table = store.table(&name)?;
        if let Some(state) = table.latest().await? {
            let snapshot = state.snapshot().map_err(|e| table.failed("open", e))?;
            if !edit::is_dropped(snapshot.metadata()) {
                tables.push(edit::info(&table, snapshot.metadata(), &snapshot.schema())?);
            }
        }
    }
    Ok(tables)
}

/// The names of the folders that may be tables, in order.
pub(super) async fn table_names(store: &Arc<Shared>) -> Result<Vec<TableName>, StoreError> {
    let failed = |source: object_store::Error| StoreError::Place {
        attempt: "list",
        place: store.options.place.to_string(),
        source: source.into(),
    };
    let listing = match store.root.list_with_delimiter(None).await {
        Ok(listing) => listing,
        Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let folders = listing.common_prefixes.iter().filter_map(|folder| folder.filename());
    let mut names: Vec<TableName> =
        folders.filter_map(|name| TableName::new(name).ok().filter(|table| table.as_str() == name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The schema `doc` of one statement.
struct Doc {
    store: Arc<Shared>,
    as_of: Option<DateTime<Utc>>,
    names: Vec<TableName>,
    /// A table named twice in a statement is one version of it.
    opened: Mutex<HashMap<TableName, Arc<dyn TableProvider>>>,
}

impl std::fmt::Debug for Doc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doc").field("as_of", &self.as_of).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Doc {
    async fn open(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some(name) = TableName::new(name).ok().filter(|table| table.as_str() == name) else { return Ok(None) };
        if let Some(table) = self.opened().get(&name) {
            return Ok(Some(table.clone()));
        }
        let external = |error: StoreError| DataFusionError::External(Box::new(error));
        let table = self.store.table(&name).map_err(external)?;
        let state = match self.as_of {
            None => table.latest().await,
            Some(time) => table.as_of(time).await,
        };
        let Some(state) = state.map_err(external)? else { return Ok(None) };
        let Some(provider) = provider(&self.store, &state)? else { return Ok(None) };
        Ok(Some(self.opened().entry(name).or_insert(provider).clone()))
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<TableName, Arc<dyn TableProvider>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table as statements see it; nothing when it has been dropped.
fn provider(store: &Shared, state: &DeltaTable) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let metadata = state.snapshot().map_err(DataFusionError::from)?.metadata();
    if edit::is_dropped(metadata) {
        return Ok(None);
    }
    let declared = edit::declared(metadata).map_err(DataFusionError::External)?;
    // All sessions share the runtime in which this makes the table's files known.
    state.update_datafusion_session(&store.session)?;
    let snapshot = state.snapshot().map_err(DataFusionError::from)?.snapshot().clone();
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = true;
    let stored: Arc<dyn TableProvider> = Arc::new(DeltaScanNext::new(snapshot, config)?);
    match declared {
        Some(declared) => Ok(Some(Arc::new(shown(stored, &declared)?))),
        None => Ok(Some(stored)),
    }
}

/// A declared table's columns by the names and types it was given.
fn shown(stored: Arc<dyn TableProvider>, declared: &Declared) -> Result<ViewTable, DataFusionError> {
    let columns = declared.columns.iter().map(|column| {
        let (from, to) = (column.data_type.stored(), column.data_type.shown());
        let value = Expr::Column(Column::new_unqualified(column.stored.as_str()));
        let value = if from == to { value } else { cast(value, to) };
        value.alias_with_metadata(&column.name, Some(FieldMetadata::from(column.data_type.metadata())))
    });
    let scan = LogicalPlanBuilder::scan(UNNAMED_TABLE, provider_as_source(stored), None)?;
    Ok(ViewTable::new(scan.project(columns)?.build()?, None))
}

impl SchemaProvider for Doc {
    fn table_names(&self) -> Vec<String> {
        self.names.iter().map(ToString::to_string).collect()
    }

    fn table<'this, 'name, 'call>(
        &'this self,
        name: &'name str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Arc<dyn TableProvider>>, DataFusionError>> + Send + 'call>>
    where
        'this: 'call,
        'name: 'call,
        Self: 'call,
    {
        Box::pin(self.open(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.names.iter().any(|table| table.as_str() == name)
    }
}
