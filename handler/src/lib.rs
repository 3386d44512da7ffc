//! The handler: stores, the way into them, and the one SQL door. A library first: the
//! all-in-one binary and the scraper call it in process; the server around it is [`api`].
//!
//! A request meets [`auth`]; a row meets [`ident`], [`store`], [`ingest`], [`sql`], [`compute`], [`upload`] and [`api`] in this order; a
//! module uses only those before it.

pub mod api;
pub mod auth;
pub mod compute;
pub mod config;
pub mod ident;
pub mod ingest;
pub mod sql;
pub mod store;
pub mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use costream_common::http::door::{Door, Exposure, Listener, ServeError};
use costream_common::http::serve;
use costream_common::http::web::{WebConfig, WebConfigError};
use costream_common::stream::backoff::jittered;
use tokio_util::sync::CancellationToken;

use self::auth::{Gate, RightsError, RunCredentials};
use self::compute::Compute;
use self::config::HandlerConfig;
use self::ingest::Ingest;
use self::sql::Engine;
use self::store::delta::{DeltaOptions, DeltaStore};
use self::store::{Store, StoreError};

/// Why a handler cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The store cannot be opened.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// The web configuration cannot be used.
    #[error(transparent)]
    Web(#[from] WebConfigError),
    /// Rights are configured that are nobody's.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// An open store and the doors to it. Cheap to clone.
#[derive(Clone)]
pub struct Handler {
    shared: Arc<Shared>,
}

struct Shared {
    config: HandlerConfig,
    store: Store,
    engine: Engine,
    gate: Gate,
    runs: RunCredentials,
    compute: Compute,
    telemetry: api::Telemetry,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Handler {
    /// Opens the store, and finds out whether it can be reached; serves nothing yet.
    ///
    /// # Errors
    /// The store's place cannot be made or reached.
    pub async fn open(config: HandlerConfig) -> Result<Self, HandlerError> {
        let mut options = match &config.store_url {
            Some(url) => DeltaOptions::at(url.clone()),
            None => {
                let directory = config.data_dir.join("store");
                tokio::task::spawn_blocking(move || DeltaOptions::in_directory(&directory))
                    .await
                    .map_err(|error| place("create", &config.data_dir, error.into()))??
            }
        };
        options.retention = config.retention.0;
        options.query_memory_bytes = config.query.max_memory_bytes;
        let store = DeltaStore::open(options)?;
        store.reach().await?;
        Ok(Self::over(config, store.into()))
    }

    /// A handler over a store that is open already, wherever it is.
    pub fn over(config: HandlerConfig, store: Store) -> Self {
        let engine = Engine::writing(&store, config.query);
        let runs = RunCredentials::default();
        let gate = Gate::new(config.users.clone(), runs.clone());
        let compute = config.compute.clone();
        let compute =
            Compute::new(compute, &config.data_dir, store.clone(), engine.clone(), runs.clone(), gate.clone());
        let telemetry = api::Telemetry::new();
        Self { shared: Arc::new(Shared { config, store, engine, gate, runs, compute, telemetry }) }
    }

    /// What it was opened with.
    pub fn config(&self) -> &HandlerConfig {
        &self.shared.config
    }

    /// The way into the store, for a scraper in the same process.
    pub fn ingest(&self) -> Ingest {
        Ingest::new(self.shared.store.write.clone())
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The SQL door, in process.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// What is to stand before the routes, wherever they are served.
    pub fn gate(&self) -> Gate {
        self.shared.gate.clone()
    }

    /// The logins of the notebooks' runs.
    pub fn runs(&self) -> &RunCredentials {
        &self.shared.runs
    }

    /// The notebooks, and their runs.
    pub fn compute(&self) -> &Compute {
        &self.shared.compute
    }

    /// The routes; see [`api`]. They answer requests that came through the [`Gate`], or carry an
    /// [`auth::Caller`] by other means.
    pub fn router(&self) -> axum::Router {
        api::router(self)
    }

    /// Takes the configured address at a door, with the configured users.
    ///
    /// # Errors
    /// The address is taken, or open to others without a password; the web configuration is no good, or
    /// has not the users whose rights are configured.
    pub async fn bind(&self, door: &Door) -> Result<Listener, HandlerError> {
        let config = self.config();
        let web = config.web_config_file.as_deref().map(WebConfig::load).transpose()?.map(Arc::new);
        config.users.check(web.as_deref())?;
        let exposure = if config.allow_unauthenticated { Exposure::Unauthenticated } else { Exposure::LoopbackOnly };
        Ok(door.bind(&config.listen_address, web, exposure).await?)
    }

    /// Serves the routes until `shutdown`, and drains.
    ///
    /// # Errors
    /// As [`serve::serve_through`].
    pub async fn serve(&self, listener: Listener, shutdown: CancellationToken) -> Result<(), HandlerError> {
        Ok(serve::serve_through(listener, self.gate(), self.router(), shutdown).await?)
    }

    /// Keeps house until `shutdown`: merges small files and removes what is beyond the
    /// retention, once in every maintenance interval.
    pub async fn run_maintenance(&self, shutdown: CancellationToken) {
        loop {
            let wait = jittered(self.shared.config.maintenance_interval.0);
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            // Ends by itself between two steps.
            match self.shared.store.write.maintain(shutdown.clone()).await {
                Ok(()) => tracing::debug!("maintenance done"),
                Err(error) => {
                    let error = costream_common::report::one_line(&error);
                    tracing::warn!(error, "maintenance failed; the next round goes on");
                }
            }
        }
    }
}

fn place(attempt: &'static str, place: &std::path::Path, source: store::BatchError) -> StoreError {
    let place: PathBuf = place.to_owned();
    StoreError::Place { attempt, place: place.display().to_string(), source }
}
