use std::path::Path;

use costream_tests::kubernetes::{Cluster, NAMESPACE};
use serde_json::json;

use super::*;
use crate::report::one_line;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn key(name: &str, key: &str, namespace: Option<&str>) -> KubernetesKey {
    let written = Written { name: name.to_owned(), key: key.to_owned(), namespace: namespace.map(str::to_owned) };
    written.try_into().expect("good names")
}

async fn read(key: &KubernetesKey, kubeconfig: &Path, within: Duration) -> Result<String, KubernetesError> {
    let path = kubeconfig.to_owned();
    let config = move || {
        let config = Kubeconfig::read_from(path).and_then(Config::try_from);
        config.map_err(|error| KubernetesReason::NoCluster(unreadable(&error)))
    };
    key.read_within(within, config).await
}

/// What reading says went wrong: one line, and nothing of the kubeconfig's credentials in it.
async fn refusal(key: &KubernetesKey, kubeconfig: &Path) -> String {
    let line = one_line(&read(key, kubeconfig, PATIENCE).await.expect_err("no secret"));
    assert!(!line.contains("tok-of-") && !line.contains('\n') && !line.contains("hush"), "{line}");
    line
}

#[tokio::test]
async fn a_rotated_secret_is_read_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start().expect("a cluster");
    let kubeconfig = cluster.kubeconfig(dir.path()).expect("a kubeconfig");
    for (namespace, given) in [(NAMESPACE, None), ("elsewhere", Some("elsewhere"))] {
        let key = key("azure-cost", "token", given);
        for token in ["first", "secönd"] {
            cluster.put(namespace, "azure-cost", &[("token", token.as_bytes()), ("other", b"hush")]);
            assert_eq!(read(&key, &kubeconfig, PATIENCE).await.expect("a secret"), token);
        }
    }
    assert_eq!(cluster.times_asked(), 4);
}

#[tokio::test]
async fn what_is_missing_or_forbidden_is_told_apart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start().expect("a cluster");
    let kubeconfig = cluster.kubeconfig(dir.path()).expect("a kubeconfig");
    let key = key("azure-cost", "token", None);
    let of = "Kubernetes Secret finops/azure-cost, key token: ";
    assert_eq!(refusal(&key, &kubeconfig).await, format!("{of}no such secret"));
    cluster.put(NAMESPACE, "azure-cost", &[("password", b"hush"), ("client-id", b"hush")]);
    assert_eq!(refusal(&key, &kubeconfig).await, format!("{of}no such key: it has client-id, password"));
    cluster.put(NAMESPACE, "azure-cost", &[]);
    assert_eq!(refusal(&key, &kubeconfig).await, format!("{of}no such key: it has none"));
    let many: Vec<_> = (0..40).map(|nth| format!("k{nth:02}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), &b"hush"[..])).collect();
    cluster.put(NAMESPACE, "azure-cost", &many);
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.ends_with("k18, k19, more"), "{line}");
    cluster.forbid(NAMESPACE, "azure-cost");
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.starts_with(&format!("{of}forbidden: our role lacks the verb get on secrets")), "{line}");
    assert!(line.contains("User \"system:serviceaccount:finops:costream\" cannot get"), "{line}");
    let stranger = cluster.kubeconfig_with(dir.path(), "tok-of-nobody").expect("a kubeconfig");
    assert_eq!(refusal(&key, &stranger).await, format!("{of}the cluster answers 401 Unauthorized: Unauthorized"));
}

#[tokio::test]
async fn what_is_no_text_is_refused_and_not_shown() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start().expect("a cluster");
    let kubeconfig = cluster.kubeconfig(dir.path()).expect("a kubeconfig");
    let key = key("azure-cost", "token", None);
    cluster.put(NAMESPACE, "azure-cost", &[("token", b"hush\xff")]);
    assert!(refusal(&key, &kubeconfig).await.ends_with(": its value is no text"));
    for data in [json!({"token": "hush!"}), json!({"token": {"hush": 1}}), json!("hush")] {
        cluster.put_as_is(NAMESPACE, "azure-cost", data);
        let line = refusal(&key, &kubeconfig).await;
        assert!(line.contains("the cluster's answer is no Secret (line 1, column "), "{line}");
    }
    cluster.put(NAMESPACE, "azure-cost", &[("token", &vec![b'x'; MAX_ANSWER_BYTES])]);
    assert!(refusal(&key, &kubeconfig).await.ends_with("larger than 4 MiB"));
}

#[tokio::test]
async fn a_cluster_that_is_not_there_or_not_it_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (cluster, other) = (Cluster::start().expect("a cluster"), Cluster::start().expect("a cluster"));
    let kubeconfig = cluster.kubeconfig(dir.path()).expect("a kubeconfig");
    let text = std::fs::read_to_string(&kubeconfig).expect("read it");
    let pointing_to = |url: &str| {
        std::fs::write(&kubeconfig, text.replace(&cluster.url(), url)).expect("write it");
    };
    let key = key("azure-cost", "token", None);
    pointing_to(&other.url());
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.contains("cannot be reached: ") && line.contains("UnknownIssuer"), "{line}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("https://{}", silent.local_addr().expect("an address"));
    pointing_to(&address);
    let error = read(&key, &kubeconfig, Duration::from_millis(300)).await.expect_err("nobody answers");
    assert!(error.reason.is_retryable());
    let of = "Kubernetes Secret finops/azure-cost, key token: ";
    assert_eq!(one_line(&error), format!("{of}the cluster has not answered within 0.3s"));
    drop(silent);
    let error = read(&key, &kubeconfig, PATIENCE).await.expect_err("nobody there");
    assert!(error.reason.is_retryable());
    assert!(one_line(&error).contains("cannot be reached: ") && one_line(&error).contains("refused"), "{error:?}");

    std::fs::write(&kubeconfig, "users: tok-of-the-kubeconfig").expect("write it");
    let of = "Kubernetes Secret azure-cost, key token: ";
    assert_eq!(refusal(&key, &kubeconfig).await, format!("{of}no cluster: the kubeconfig is none (line 1)"));
    std::fs::remove_file(&kubeconfig).expect("remove it");
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.starts_with(&format!("{of}no cluster: no kubeconfig {}", kubeconfig.display())), "{line}");
}

#[tokio::test]
async fn a_credential_program_is_run_and_its_output_is_not_shown() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start().expect("a cluster");
    cluster.put(NAMESPACE, "azure-cost", &[("token", b"first")]);
    let kubeconfig = cluster.kubeconfig(dir.path()).expect("a kubeconfig");
    let text = std::fs::read_to_string(&kubeconfig).expect("read it");
    let running = |script: &str| {
        let exec = format!(
            "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: [-c, '{script}']}}"
        );
        std::fs::write(&kubeconfig, text.replace("token: tok-of-the-kubeconfig", &exec)).expect("write it");
    };
    let key = key("azure-cost", "token", None);
    running(
        r#"echo "{\"kind\": \"ExecCredential\", \"status\": {\"token\": \"tok-of-the-kubeconfig\", \"expirationTimestamp\": \"2126-01-01T00:00:00Z\"}}""#,
    );
    assert_eq!(read(&key, &kubeconfig, PATIENCE).await.expect("a secret"), "first");
    running("echo tok-of-somebody; exit 3");
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.ends_with("the kubeconfig's credential program failed: exit status: 3"), "{line}");
    running("echo tok-of-somebody");
    let line = refusal(&key, &kubeconfig).await;
    assert!(line.ends_with("the kubeconfig's credential program printed no credential"), "{line}");
}

#[test]
fn names_that_kubernetes_would_not_take_are_refused_with_their_line() {
    let read = |text: &str| crate::config::parse::<super::super::SecretSource>(text, Path::new("costream.yaml"));
    let good = read("kubernetes: {name: azure-cost.v2, key: client_secret.TXT, namespace: finops}\n");
    let expected = key("azure-cost.v2", "client_secret.TXT", Some("finops"));
    assert_eq!(good.expect("good names"), super::super::SecretSource::Kubernetes(expected));
    for (text, says) in [
        ("kubernetes: {name: '../nodes', key: a}\n", "name"),
        ("kubernetes: {name: '', key: a}\n", "name"),
        ("kubernetes: {name: .., key: a}\n", "name"),
        ("kubernetes: {name: a, key: 'a b'}\n", "key"),
        ("kubernetes: {name: a, key: a, namespace: a.b}\n", "namespace"),
        ("kubernetes: {name: a}\n", "key"),
        ("kubernetes: {name: a, key: a, value: hush}\n", "value"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains("line 1") && error.contains(says), "{error}");
    }
}
