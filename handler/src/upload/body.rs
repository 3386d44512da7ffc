//! An upload's body: read chunk by chunk by whoever decodes it, and to some length after that.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::Mutex;

/// A body that may be read on after its delivery has failed, so that the client hears why.
#[derive(Clone)]
pub(crate) struct Incoming(Arc<Mutex<BodyDataStream>>);

impl Incoming {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream())))
    }

    pub(super) async fn next(&self) -> Option<Result<Bytes, axum::Error>> {
        self.0.lock().await.next().await
    }

    /// Reads and forgets up to `bytes`; an HTTP/1 client that is still sending does not see an
    /// answer to a connection that is closed on it.
    pub(crate) async fn forget(&self, bytes: usize) {
        let mut read = 0;
        while let Some(Ok(chunk)) = self.next().await {
            read += chunk.len();
            if read > bytes {
                return;
            }
        }
    }
}
