//! What a handler tells its log at the finest level, its libraries included, while a password is sent to
//! it in every way: a process of its own, since there is one log in each.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use costream_common::http::door::Door;
use costream_common::secret::ExposeSecret as _;
use costream_handler::Handler;
use costream_handler::auth::{Caller, Rights};
use costream_handler::config::HandlerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

const CANARY: &str = "canary-5Qh2vX9rTz";

/// Everything that was logged.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_at_its_finest_tells_a_password_or_a_runs_login() {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(move || writer.clone());
    subscriber.with_ansi(false).init();

    let dir = tempfile::tempdir().expect("a temporary directory");
    let web_config_file = dir.path().join("web.yml");
    let hash = bcrypt::hash(CANARY, 4).expect("a hash");
    std::fs::write(&web_config_file, format!("basic_auth_users: {{ann: {hash}}}\n")).expect("written");
    let config = HandlerConfig {
        listen_address: "127.0.0.1:0".to_owned(),
        data_dir: dir.path().to_owned(),
        web_config_file: Some(web_config_file),
        ..HandlerConfig::default()
    };
    let handler = Handler::open(config).await.expect("a handler");
    let listener = handler.bind(&Door::default()).await.expect("an address");
    let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
    let serving = tokio::spawn({
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        async move { handler.serve(listener, shutdown).await }
    });

    let run = handler.runs().issue(&Caller::new("ann", Rights::USUAL), Rights::READ_WRITE);
    tracing::info!(?run, ?handler, "a run begins");
    let of_run = run.password.expose_secret().to_owned();
    let encoded = BASE64.encode(CANARY);
    let record = r#"[{"labels": {"BilledCost": "1", "ServiceName": "s"}}]"#;
    let bad = r#"[{"labels": {"BilledCost": "oops"}}]"#;
    let select = r#"{"stmt": "SELECT current_user"}"#;
    for (path, body, user, password, status) in [
        ("/upload?table=t", record, "ann", CANARY, 200),
        ("/upload?table=t", bad, "ann", &encoded, 400),
        ("/upload?table=t", "{", "ann", CANARY, 400),
        ("/upload?table=t", record, CANARY, CANARY, 401),
        ("/_sql", select, "ann", CANARY, 200),
        ("/_sql", r#"{"stmt": "SELEC"}"#, "ann", CANARY, 400),
        ("/_sql", select, "ann", &format!("{CANARY}!"), 401),
        ("/_sql", select, &run.user, &of_run, 200),
        ("/upload?table=t", record, &run.user, &of_run, 401),
    ] {
        let login = BASE64.encode(format!("{user}:{password}"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic {login}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {body}: {answer}");
        assert!(!answer.contains(password), "{path}: {answer}");
        tracing::trace!(path, "answered");
    }
    shutdown.cancel();
    serving.await.expect("no panic").expect("served");

    let heard = String::from_utf8_lossy(&heard.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert!(heard.contains("TRACE") && heard.contains("a run begins") && heard.contains(&*run.user), "a log was kept");
    for secret in [CANARY, &encoded, &of_run, &BASE64.encode(&of_run), &BASE64.encode(format!("ann:{CANARY}"))] {
        let line = heard.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
