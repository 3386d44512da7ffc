//! What the tests of this folder share: a server on a free port, and requests written by hand.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::door::{Exposure, ServeError, bind};
use super::serve::serve;
use super::web::WebConfig;

pub(super) const CERTIFICATE: &[u8] = include_bytes!("fixtures/localhost_until_2126.pem");
pub(super) const KEY: &[u8] = include_bytes!("fixtures/localhost_until_2126.key.pem");

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<Result<(), ServeError>>,
}

pub(super) async fn serve_at(address: &str, web: Option<WebConfig>, exposure: Exposure, router: Router) -> Server {
    let listener = bind(address, web, exposure).await.expect("an address");
    let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
    let task = tokio::spawn(serve(listener, router, shutdown.clone()));
    Server { address, shutdown, task }
}

pub(super) fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

pub(super) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // A reset after the answer is an end as well.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

pub(super) fn get_with(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
}

pub(super) fn web_config(text: &str) -> (tempfile::TempDir, WebConfig) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("cert.pem"), CERTIFICATE).expect("written");
    std::fs::write(dir.path().join("key.pem"), KEY).expect("written");
    let path = dir.path().join("web.yaml");
    std::fs::write(&path, text).expect("written");
    let web = WebConfig::load(&path).expect("a good web configuration");
    (dir, web)
}

pub(super) fn users() -> String {
    format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("secret", 4).expect("a hash"))
}
