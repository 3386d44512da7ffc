use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use base64::Engine as _;
use costream_common::http::door::{Door, Exposure};
use costream_common::http::serve::serve_through;
use costream_common::http::web::WebConfig;
use costream_common::secret::ExposeSecret as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::Handler;
use crate::config::HandlerConfig;

const USERS: [(&str, &str); 4] = [("ann", "annssecret"), ("bob", "bobssecret"), ("scraper", "s"), ("root", "r")];

fn web_config() -> String {
    let users = USERS.map(|(user, password)| format!("  {user}: {}\n", bcrypt::hash(password, 4).expect("a hash")));
    format!("basic_auth_users:\n{}", users.concat())
}

/// A handler on a free port, until the guard is dropped.
async fn served(web: Option<&str>, users: &str, allow_unauthenticated: bool) -> (Handler, SocketAddr, DropGuard) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let web_config_file = web.map(|text| {
        let path = dir.path().join("web.yml");
        std::fs::write(&path, text).expect("written");
        path
    });
    let config = HandlerConfig {
        listen_address: "127.0.0.1:0".to_owned(),
        data_dir: dir.path().to_owned(),
        web_config_file,
        users: costream_common::config::parse(users, Path::new("users")).expect("good rights"),
        allow_unauthenticated,
        ..HandlerConfig::default()
    };
    let handler = Handler::open(config).await.expect("a handler");
    let listener = handler.bind(&Door::default()).await.expect("an address");
    let (address, serving, shutdown) = (listener.local_addr(), handler.clone(), CancellationToken::new());
    let guard = shutdown.clone().drop_guard();
    tokio::spawn(async move {
        let _keep = dir;
        serving.serve(listener, shutdown).await
    });
    (handler, address, guard)
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", encoded(&format!("{user}:{password}")))
}

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The whole answer, head and all.
async fn ask(address: SocketAddr, line: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // A reset after the answer is an end as well.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

const WHO: &str = r#"{"stmt": "select current_user"}"#;

#[tokio::test]
async fn every_route_asks_who_it_is_and_what_they_may() {
    let users = "{ann: [read], scraper: [write], root: [admin]}\n";
    let (_handler, address, _guard) = served(Some(&web_config()), users, false).await;
    let no_login = r#"{"error":"authorization header is missing or not type basic"}"#;
    let wrong = r#"{"error":"user and password do not match"}"#;
    let (ann, scraper, root) = (basic("ann", "annssecret"), basic("scraper", "s"), basic("root", "r"));
    let (other, mixed) = (basic("ann", "other"), basic("ann", "bobssecret"));
    for (line, headers, body, status, expected) in [
        ("POST /upload?table=t", "", "[]", 401, no_login),
        ("POST /upload?table=t", "Authorization: Bearer x\r\n", "[]", 401, no_login),
        ("POST /upload?table=t", "Authorization: Basic !\r\n", "[]", 401, no_login),
        ("POST /upload?table=t", &other, "[]", 401, wrong),
        ("POST /upload?table=t", &mixed, "[]", 401, wrong),
        ("POST /compute/x", "", "{}", 401, no_login),
        ("POST /upload?table=t", &ann, "", 403, r#"user \"ann\" lacks the right \"write\""#),
        ("GET /upload/committed?table=t&source=a&scope=b", &ann, "", 403, "write"),
        ("GET /upload/committed?table=t&source=a&scope=b", &scraper, "", 200, "null"),
        ("POST /upload?table=t", &scraper, "", 400, "Request must be JSON"),
        ("POST /upload?table=t", &root, "", 400, "Request must be JSON"),
        (
            "POST /_sql",
            "",
            WHO,
            401,
            "\r\n\r\nNo valid auth.host_based.config entry found for host \"127.0.0.1\", user \"crate\", protocol \"http\". Did you enable TLS in your client?\n",
        ),
        ("POST /_sql", &other, WHO, 401, "\r\n\r\npassword authentication failed for user \"ann\"\n"),
        (
            "POST /_sql",
            &basic("nobody", "annssecret"),
            WHO,
            401,
            "password authentication failed for user \"nobody\"\n",
        ),
        ("POST /_sql", &ann, WHO, 200, r#"[["ann"]]"#),
        ("POST /_sql", &root, WHO, 200, r#"[["root"]]"#),
        (
            "POST /_sql",
            &scraper,
            WHO,
            401,
            r#"{"error":{"code":4011,"message":"MissingPrivilegeException[Missing 'DQL' privilege for user 'scraper']"}}"#,
        ),
        ("POST /_sql", &basic("bob", "bobssecret"), WHO, 200, r#"[["bob"]]"#),
        ("POST /_sql", &basic("ann", &encoded("annssecret")), WHO, 200, r#"[["ann"]]"#),
        ("POST /_sql", &basic(&encoded("ann"), &encoded("annssecret")), WHO, 200, r#"[["ann"]]"#),
        ("POST /_sql", &basic(&encoded("ann"), "annssecret"), WHO, 401, ""),
        ("POST /_sql", &basic("ann", &encoded("bobssecret")), WHO, 401, ""),
        ("POST /_sql", &basic("ann", ""), WHO, 401, ""),
        ("GET /", "", "", 401, "No valid auth"),
        ("GET /", &scraper, "", 200, "cluster_name"),
        ("GET /metrics", "", "", 401, "authentication failed\n"),
        ("GET /metrics", &scraper, "", 200, "costream_"),
        ("GET /-/healthy", &scraper, "", 200, "healthy"),
        ("GET /-/ready", &scraper, "", 200, "ready"),
        ("GET /nope", &scraper, "", 404, "not found"),
    ] {
        let answer = ask(address, line, headers, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
        assert!(answer.contains(expected), "{line} {headers}: {answer}");
        let is_challenged = answer.contains("www-authenticate: Basic realm=\"");
        assert_eq!(is_challenged, status == 401 && !answer.contains("4011"), "{line} {headers}: {answer}");
    }
}

#[tokio::test]
async fn without_users_everybody_is_crate_and_an_open_address_runs_no_code() {
    for (allow, rights) in [(false, Rights::ALL), (true, Rights::READ_WRITE)] {
        let (handler, address, _guard) = served(None, "{}", allow).await;
        for headers in ["", &basic("ann", "whatever")] {
            let answer = ask(address, "POST /_sql", headers, WHO).await;
            assert!(answer.contains(r#"[["crate"]]"#), "{answer}");
        }
        let exposure = if allow { Exposure::Unauthenticated } else { Exposure::LoopbackOnly };
        let told = echoing(handler.gate(), None, exposure).await;
        assert!(ask(told, "GET /", "", "").await.ends_with(&format!("crate {rights:?} false")));
    }
}

/// Serves a page that says who asked.
async fn echoing(gate: Gate, web: Option<WebConfig>, exposure: Exposure) -> SocketAddr {
    let told = |Extension(Caller { name, rights, run }): Extension<Caller>| async move {
        format!("{name} {rights:?} {}", run.is_some())
    };
    let router = Router::new().route("/", get(told));
    let listener = Door::default().bind("127.0.0.1:0", web.map(Arc::new), exposure).await.expect("an address");
    let address = listener.local_addr();
    tokio::spawn(serve_through(listener, gate, router, CancellationToken::new()));
    address
}

#[tokio::test]
async fn a_runs_login_opens_the_sql_door_alone_and_while_the_run_lives() {
    for web in [Some(web_config()), None] {
        let (handler, address, _guard) = served(web.as_deref(), "{}", false).await;
        let ann = Caller::new("ann", Rights::USUAL);
        let issued = handler.runs().issue(&ann, Rights::READ);
        let run = basic(&issued.user, issued.password.expose_secret());
        let statement = ask(address, "POST /_sql", &run, WHO).await;
        assert!(statement.contains(r#"[["ann"]]"#), "{statement}");
        for (line, status) in [
            ("GET /", 200),
            ("POST /upload?table=t", 401),
            ("GET /upload/committed", 401),
            ("POST /compute/x", 401),
            ("GET /metrics", 401),
            ("GET /-/ready", 401),
            ("DELETE /", 401),
        ] {
            let answer = ask(address, line, &run, "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        }
        let wrong = ask(address, "POST /_sql", &basic(&issued.user, "0"), WHO).await;
        assert!(wrong.starts_with("HTTP/1.1 401 "), "{wrong}");

        let alone = echoing(handler.gate().for_runs(), None, Exposure::LoopbackOnly).await;
        assert!(ask(alone, "GET /", &run, "").await.ends_with("ann {Read} true"));
        for headers in ["", &basic("ann", "annssecret")] {
            let answer = ask(alone, "GET /", headers, "").await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        }
        drop(issued);
        for address in [address, alone] {
            let answer = ask(address, "POST /_sql", &run, WHO).await;
            assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("crate\"]"), "{answer}");
        }
    }
}

/// A connection that stays.
struct Client(BufStream<TcpStream>);

impl Client {
    async fn to(address: SocketAddr) -> Self {
        Self(BufStream::new(TcpStream::connect(address).await.expect("connected")))
    }

    /// Sends a request and does not wait.
    async fn send(&mut self, headers: &str) {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.0.write_all(request.as_bytes()).await.expect("sent");
        self.0.flush().await.expect("sent");
    }

    /// The status and the body of the next answer.
    async fn answer(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.expect("a line");
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(bytes) = line.strip_prefix("content-length: ") {
                length = bytes.parse().expect("a length");
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("a body");
        (status, String::from_utf8(body).expect("text"))
    }
}

/// Two users and a wrong password on three connections, which whoever comes next uses: nobody is ever
/// taken for another, whatever was verified before.
#[tokio::test]
async fn a_thousand_random_interleavings_of_two_users_and_a_wrong_password_never_mix() {
    let web = WebConfig::parse(&web_config(), Path::new("web.yml")).expect("a good web configuration");
    let gate = Gate::new(UserRights::default(), RunCredentials::default());
    let address = echoing(gate, Some(web), Exposure::LoopbackOnly).await;
    let ok = |user: &str| (200, format!("{user} {:?} false", Rights::USUAL));
    let refused = (401, "No valid".to_owned());
    let kinds = [
        (basic("ann", "annssecret"), ok("ann")),
        (basic("bob", "bobssecret"), ok("bob")),
        (basic("ann", &encoded("annssecret")), ok("ann")),
        (basic(&encoded("bob"), &encoded("bobssecret")), ok("bob")),
        (basic("ann", "wrong"), (401, "password authentication failed for user \"ann\"\n".to_owned())),
        (basic("ann", "bobssecret"), (401, "password authentication failed for user \"ann\"\n".to_owned())),
        (basic("bob", &encoded("annssecret")), (401, "password authentication failed for user \"bob\"\n".to_owned())),
        (String::new(), refused),
    ];
    let seed = rand::random::<u64>();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut clients = [Client::to(address).await, Client::to(address).await, Client::to(address).await];
    for round in 0..1000 {
        // A right login of each, a wrong one of one of them, on the three connections in any order.
        let mut turns: Vec<_> = vec![&kinds[0], &kinds[1], &kinds[random.random_range(4..kinds.len())]];
        turns.extend((0..random.random_range(0..3)).filter_map(|_| kinds.choose(&mut random)));
        turns.shuffle(&mut random);
        for turns in turns.chunks(clients.len()) {
            clients.shuffle(&mut random);
            for (client, (headers, _)) in clients.iter_mut().zip(turns) {
                client.send(headers).await;
            }
            for (client, (headers, expected)) in clients.iter_mut().zip(turns) {
                let (status, body) = client.answer().await;
                let is_expected = status == expected.0 && body.starts_with(&expected.1);
                assert!(is_expected, "seed {seed}, round {round}: {headers}: {status} {body}");
            }
        }
    }
}
