use super::*;
use axum::Router;
use axum::http::HeaderMap as Headers;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn serve(router: Router) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().expect("a url")
}

/// Answers one request with these bytes, then closes.
async fn answer(bytes: &'static str) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/costs.csv?sig=hush", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(bytes.as_bytes()).await.expect("write the answer");
        stream.shutdown().await.expect("close");
    });
    url.parse().expect("a url")
}

async fn text(answer: Answer) -> Result<String, io::Error> {
    let Answer::Fresh(fresh) = answer else { return Ok("unchanged".to_owned()) };
    let mut text = String::new();
    fresh.into_reader().read_to_string(&mut text).await.map(|_| text)
}

fn client(access: Access) -> Client {
    Client::new(access).expect("a client")
}

async fn echo(headers: Headers) -> String {
    let shown = |name| headers.get(name).map_or("-", |value| value.to_str().expect("text"));
    format!("{} {}", shown("authorization"), shown("x-api-key"))
}

#[tokio::test]
async fn a_rotated_token_is_sent_with_the_next_request() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("token");
    let url = serve(Router::new().route("/", get(echo))).await;
    let headers = [("X-Api-Key".to_owned(), HeaderSource::Plain("k".to_owned()))].into();
    let client = client(Access { bearer_token: Some(SecretSource::File(path.clone())), headers, ..Access::default() });
    for token in ["first", "second"] {
        std::fs::write(&path, token).expect("write the token");
        let answer = client.get(&url, Ask::default()).await.expect("an answer");
        assert_eq!(text(answer).await.expect("a body"), format!("Bearer {token} k"));
    }
    std::fs::remove_file(&path).expect("remove the token");
    let error = client.get(&url, Ask::default()).await.expect_err("no token");
    assert!(!error.is_retryable() && error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_drops_the_credentials() {
    let other = serve(Router::new().route("/", get(echo))).await;
    let away = other.to_string().replace("http://", "http://mallory:pw@");
    let router = Router::new()
        .route("/here", get(|| async { (StatusCode::FOUND, [("location", "/home")]) }))
        .route("/home", get(echo))
        .route("/away", get(move || async move { (StatusCode::TEMPORARY_REDIRECT, [("location", away)]) }))
        .route("/round", get(|| async { (StatusCode::FOUND, [("location", "/round")]) }))
        .route("/odd", get(|| async { (StatusCode::FOUND, [("location", "ftp://host/")]) }));
    let mut url = serve(router).await.join("here").expect("a url");
    url.set_username("ann").expect("a user");
    url.set_password(Some("p%40ss")).expect("a password");
    let mut access = Access::default();
    access.take_userinfo(&mut url);
    access.headers.insert("x-api-key".to_owned(), HeaderSource::Plain("k".to_owned()));
    let client = client(access);
    let get = |path: &str| url.join(path).expect("a url");

    let basic = "Basic YW5uOnBAc3M= k";
    assert_eq!(text(client.get(&get("here"), Ask::default()).await.expect("an answer")).await.expect("a body"), basic);
    assert_eq!(text(client.get(&get("away"), Ask::default()).await.expect("an answer")).await.expect("a body"), "- -");
    for path in ["round", "odd"] {
        let error = client.get(&get(path), Ask::default()).await.expect_err("no end");
        assert!(matches!(error, ClientError::Redirect { .. }), "{error}");
    }
    let down = redirected(
        &"https://host/".parse().expect("a url"),
        &Response::from(
            axum::http::Response::builder().header("location", "http://host/").body("").expect("an answer"),
        ),
    );
    assert!(down.is_err());
}

#[tokio::test]
async fn a_body_that_is_known_is_not_sent_again() {
    async fn tagged(headers: Headers) -> axum::response::Response {
        let known = headers.get("if-none-match").is_some_and(|tag| tag == "W/\"1\"")
            && headers.contains_key("if-modified-since");
        if known {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        ([("etag", "W/\"1\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], "body").into_response()
    }
    let url = serve(Router::new().route("/", get(tagged))).await;
    let client = client(Access::default());
    let Answer::Fresh(fresh) = client.get(&url, Ask::default()).await.expect("an answer") else {
        panic!("nothing is known yet")
    };
    let validators = fresh.validators();
    assert_eq!(fresh.content_length(), Some(4));
    let again = Ask { validators: Some(&validators), ..Ask::default() };
    assert!(matches!(client.get(&url, again).await, Ok(Answer::Unchanged)));
}

#[tokio::test]
async fn statuses_say_whether_to_try_again() {
    for (head, retryable, after) in [
        ("401 Unauthorized\r\n", false, None),
        ("403 Forbidden\r\n", false, None),
        ("404 Not Found\r\n", false, None),
        ("204 No Content\r\n", false, None),
        ("304 Not Modified\r\n", false, None),
        ("500 Internal Server Error\r\n", true, None),
        ("501 Not Implemented\r\n", false, None),
        ("429 Too Many Requests\r\nRetry-After: 7\r\n", true, Some(7)),
        (
            "503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT\r\n",
            true,
            Some(60),
        ),
        ("503 Service Unavailable\r\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT\r\n", true, Some(0)),
        ("503 Service Unavailable\r\nRetry-After: soon\r\n", true, None),
    ] {
        let text: &'static str = format!("HTTP/1.1 {head}Content-Length: 0\r\n\r\n").leak();
        let error = client(Access::default()).get(&answer(text).await, Ask::default()).await.expect_err(head);
        assert_eq!((error.is_retryable(), error.retry_after()), (retryable, after.map(Duration::from_secs)), "{head}");
        let line = crate::report::one_line(&error);
        assert!(line.contains("/costs.csv") && !line.contains("hush") && line.contains(&head[..3]), "{line}");
    }
}

#[tokio::test]
async fn a_body_shorter_than_announced_is_an_error() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let answer = client(Access::default()).get(&answer(cut).await, Ask::default()).await.expect("an answer");
        let error = text(answer).await.expect_err("a cut body");
        let error = error.get_ref().and_then(|error| error.downcast_ref::<ClientError>()).expect("ours");
        assert!(error.is_retryable() && error.to_string().contains("costs.csv?sig=***"), "{error}");
    }
}

#[tokio::test]
async fn nobody_there_is_worth_another_try() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://u:pw@{}/", listener.local_addr().expect("an address")).parse().expect("a url");
    drop(listener);
    let error = client(Access::default()).get(&url, Ask::default()).await.expect_err("nobody there");
    let line = crate::report::one_line(&error);
    assert!(error.is_retryable() && !line.contains("pw"), "{line}");
}

#[test]
fn urls_are_shown_without_secrets() {
    for (url, shown) in [
        ("https://u:p@host/a.csv#frag", "https://host/a.csv"),
        ("https://host/a.csv?month=2024-09&x", "https://host/a.csv?month=2024-09&x"),
        (
            "https://host/a?sv=2022-11-02&sig=a%2Fb&X-Amz-Credential=a",
            "https://host/a?sv=2022-11-02&sig=***&X-Amz-Credential=***",
        ),
        ("https://host/a?d=0123456789abcdef0&eyJhbGciOiJIUzI1NiJ9", "https://host/a?d=***&***"),
    ] {
        assert_eq!(public_url(&url.parse().expect("a url")), shown);
    }
}

#[test]
fn certificates_that_are_none_are_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, "no certificate").expect("write");
    for path in [path, dir.path().join("missing")] {
        let tls = Tls { ca_file: Some(path), ..Tls::default() };
        assert!(matches!(Client::new(Access { tls, ..Access::default() }), Err(ClientError::CaFile { .. })));
    }
}
