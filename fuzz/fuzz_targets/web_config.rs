//! A web configuration's text through [`WebConfig::parse`]. Claims:
//!
//! - any text is a configuration or an error, and nothing panics;
//! - an error is not much longer than the text;
//! - whoever gives no password is let in only where nobody needs one;
//! - memory is bounded by the text: aliases do not multiply it.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use axum::http::HeaderMap;
use costream_common::http::web::{Verdict, WebConfig};
use costream_common::report;
use costream_fuzz::within;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

/// Files that the text names are looked for where there are none.
const PATH: &str = "/nonexistent/web.yaml";
/// A TLS configuration's tables, and the parsed text.
const HEAP_BYTES: usize = 16 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    within(HEAP_BYTES, || match WebConfig::parse(text, Path::new(PATH)) {
        Ok(web) => match RUNTIME.block_on(web.verify(&HeaderMap::new())) {
            Verdict::Open => assert!(!web.authenticates() || web.tls().is_some()),
            Verdict::Refused => assert!(web.authenticates()),
            verdict => panic!("{verdict:?}"),
        },
        Err(error) => assert!(report::one_line(&error).len() < 1_024 + 4 * text.len(), "{error}"),
    });
});
