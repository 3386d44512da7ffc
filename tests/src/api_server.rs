//! A real Kubernetes API server on this machine: etcd from Debian, `kube-apiserver` built by Go from its published module
//! (`kube-apiserver/go.mod`), with RBAC, the namespace [`NAMESPACE`], a service account in it that may read its Secrets,
//! and the resources of `finops.krateo.io/v1`. It ends with its handle.
//!
//! Flags: <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/>.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::parts;
use crate::programs::{Program, free_address, runtime, until};

/// The namespace of the service account, and of what it may read.
pub const NAMESPACE: &str = "finops";
/// Another namespace, of which it may read nothing.
pub const ELSEWHERE: &str = "elsewhere";
/// The group of the resources.
const GROUP: &str = "finops.krateo.io";
const KINDS: [(&str, &str); 6] = [
    ("databaseconfigs", "DatabaseConfig"),
    ("exporterscraperconfigs", "ExporterScraperConfig"),
    ("focusconfigs", "FocusConfig"),
    ("metricconfigs", "MetricConfig"),
    ("providerconfigs", "ProviderConfig"),
    ("resourceconfigs", "ResourceConfig"),
];
/// Who made the cluster.
const ADMIN: &str = "tok-of-the-admin";
/// The service account.
const ACCOUNT: &str = "costream";
/// The rights in [`NAMESPACE`].
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/finops";

/// The programs that a cluster takes.
#[derive(Clone, Debug)]
pub struct Part {
    etcd: PathBuf,
    apiserver: PathBuf,
}

/// Finds etcd, and finds or builds the API server.
///
/// # Errors
/// One of them is not to be had.
pub fn part() -> Result<Part> {
    let etcd = parts::on_path("etcd", "etcd-server")?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube-apiserver");
    Ok(Part { etcd, apiserver: parts::go(&module, "k8s.io/kubernetes/cmd/kube-apiserver")? })
}

/// A running cluster.
pub struct ApiServer {
    address: String,
    authority: Authority,
    client: Client,
    token: String,
    apiserver: Program,
    _etcd: Program,
    _folder: TempDir,
}

impl ApiServer {
    /// Starts a cluster, and waits until the service account may read.
    ///
    /// # Errors
    /// A program does not start, or ends.
    pub fn start(part: &Part) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let (etcd, store) = start_etcd(part, folder.path())?;
        let authority = Authority::new()?;
        let address = free_address()?;
        let apiserver = start_apiserver(part, folder.path(), &authority, &address, &store)?;
        let trusted = Certificate::from_pem(authority.certificate().as_bytes()).context("read the authority")?;
        let client = Client::builder().no_proxy().tls_certs_only([trusted]).build().context("make a client")?;
        let token = String::new();
        let mut cluster = Self { address, authority, client, token, apiserver, _etcd: etcd, _folder: folder };
        cluster.until_ready()?;
        cluster.populate()?;
        Ok(cluster)
    }

    /// Makes or replaces a Secret.
    ///
    /// # Errors
    /// The cluster does not take it.
    pub fn put_secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<_, _> = data.iter().map(|(key, text)| (*key, BASE64.encode(text))).collect();
        let secret = named("Secret", name, json!({"data": data}));
        self.put(&format!("/api/v1/namespaces/{namespace}/secrets"), secret)
    }

    /// Makes or replaces a resource of [`NAMESPACE`], as a user would write it.
    ///
    /// # Errors
    /// The cluster does not take it.
    pub fn put_resource(&self, resource: Value) -> Result<()> {
        let known = KINDS.iter().find(|(_, kind)| resource["kind"] == *kind);
        let (plural, _) = known.with_context(|| format!("{} is no kind of ours", resource["kind"]))?;
        self.put(&format!("/apis/{GROUP}/v1/namespaces/{NAMESPACE}/{plural}"), resource)
    }

    /// Removes a Secret.
    ///
    /// # Errors
    /// There is none.
    pub fn delete_secret(&self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let (status, answer) = self.ask(Method::DELETE, &path, None)?;
        ensure!(status == 200, "DELETE {path} answered {status}: {answer}");
        Ok(())
    }

    /// Writes a kubeconfig for the service account into a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        self.kubeconfig_with(folder, &self.token)
    }

    /// Writes a kubeconfig with another token.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn kubeconfig_with(&self, folder: &Path, token: &str) -> Result<PathBuf> {
        let authority = BASE64.encode(self.authority.certificate());
        let cluster = json!({"server": format!("https://{}", self.address), "certificate-authority-data": authority});
        let context = json!({"cluster": "trial", "user": ACCOUNT, "namespace": NAMESPACE});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "trial",
            "clusters": [{"name": "trial", "cluster": cluster}],
            "contexts": [{"name": "trial", "context": context}],
            "users": [{"name": ACCOUNT, "user": {"token": token}}],
        });
        let path = folder.join("kubeconfig");
        fs::write(&path, config.to_string()).context("write a kubeconfig")?;
        Ok(path)
    }

    /// Writes what Kubernetes mounts into every pod of the service account.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn mount_account(&self, folder: &Path) -> Result<()> {
        let authority = self.authority.certificate();
        for (file, text) in [("token", self.token.as_str()), ("ca.crt", &authority), ("namespace", NAMESPACE)] {
            fs::write(folder.join(file), text).with_context(|| format!("write {file}"))?;
        }
        Ok(())
    }

    /// The variables that every pod has.
    pub fn variables(&self) -> [(&'static str, &str); 2] {
        let (host, port) = self.address.split_once(':').unwrap_or((&self.address, "443"));
        [("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)]
    }

    /// What nobody may see of it.
    pub fn token(&self) -> &str {
        &self.token
    }

    fn until_ready(&mut self) -> Result<()> {
        until("the API server is ready", || {
            if let Some(status) = self.apiserver.ended()? {
                anyhow::bail!("the API server ended with {status}: {}", self.apiserver.printed()?);
            }
            Ok(self.ask(Method::GET, "/readyz", None).ok().filter(|(status, _)| *status == 200))
        })?;
        Ok(())
    }

    /// The namespaces, the account and its rights, and the kinds.
    fn populate(&mut self) -> Result<()> {
        for namespace in [NAMESPACE, ELSEWHERE] {
            self.put("/api/v1/namespaces", named("Namespace", namespace, json!({})))?;
        }
        for (plural, kind) in KINDS {
            let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
            let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
            let names = json!({"plural": plural, "kind": kind});
            let spec = json!({"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]});
            let name = format!("{plural}.{GROUP}");
            let definition = named("CustomResourceDefinition", &name, json!({"spec": spec}));
            self.put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)?;
        }
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        self.put(&accounts, named("ServiceAccount", ACCOUNT, json!({})))?;
        let rules = json!([
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch"]},
            {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        ]);
        self.put(&format!("{RBAC}/roles"), named("Role", ACCOUNT, json!({"rules": rules})))?;
        self.grant()?;
        let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}});
        let (status, answer) = self.ask(Method::POST, &format!("{accounts}/{ACCOUNT}/token"), Some(&request))?;
        self.token = answer["status"]["token"].as_str().with_context(|| format!("{status}: {answer}"))?.to_owned();
        for (plural, _) in KINDS {
            until(&format!("{plural} may be read"), || {
                let path = format!("/apis/{GROUP}/v1/namespaces/{NAMESPACE}/{plural}");
                let (status, _) = self.ask_as(&self.token, Method::GET, &path, None)?;
                Ok((status == 200).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Gives the service account its right to read.
    fn grant(&self) -> Result<()> {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT});
        let subject = json!({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE});
        self.put(
            &format!("{RBAC}/rolebindings"),
            named("RoleBinding", ACCOUNT, json!({"roleRef": role, "subjects": [subject]})),
        )
    }

    /// Makes what is not there, and replaces what is: a server-side apply, which takes its version of the API from the path.
    fn put(&self, path: &str, mut object: Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        object["apiVersion"] = match parts[..] {
            ["", "apis", group, version, ..] => json!(format!("{group}/{version}")),
            _ => json!("v1"),
        };
        let path = format!("{path}/{name}?fieldManager=tests&force=true");
        let (status, answer) = self.ask(Method::PATCH, &path, Some(&object))?;
        ensure!(matches!(status, 200 | 201), "{path} answered {status}: {answer}");
        Ok(())
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.ask_as(ADMIN, method, path, body)
    }

    fn ask_as(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        runtime().block_on(async {
            let mut request =
                self.client.request(method.clone(), format!("https://{}{path}", self.address)).bearer_auth(token);
            if let Some(body) = body {
                let is_applied = method == Method::PATCH;
                let content_type = if is_applied { "application/apply-patch+yaml" } else { "application/json" };
                request = request.header("content-type", content_type).body(body.to_string());
            }
            let answer = request.send().await.with_context(|| format!("ask {path}"))?;
            let status = answer.status().as_u16();
            let text = answer.text().await.with_context(|| format!("read {path}"))?;
            Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
        })
    }
}

/// An object of a kind, with a name.
fn named(kind: &str, name: &str, mut object: Value) -> Value {
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": name});
    object
}

/// Starts etcd; where it is.
fn start_etcd(part: &Part, folder: &Path) -> Result<(Program, String)> {
    let (clients, peers) = (format!("http://{}", free_address()?), format!("http://{}", free_address()?));
    let mut command = Command::new(&part.etcd);
    command.args(["--name", "trial", "--data-dir", "etcd", "--listen-client-urls", &clients]);
    command.args(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
    command.args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("trial={peers}")]);
    Ok((Program::spawn("etcd", folder, &mut command)?, clients))
}

fn start_apiserver(part: &Part, folder: &Path, authority: &Authority, address: &str, store: &str) -> Result<Program> {
    let (own, accounts) = (authority.issue(&["127.0.0.1"])?, authority.issue(&["accounts"])?);
    let admin = format!("{ADMIN},admin,admin,system:masters\n");
    let files = [
        ("tls.crt", &own.certificate),
        ("tls.key", &own.key),
        ("accounts.crt", &accounts.certificate),
        ("accounts.key", &accounts.key),
        ("tokens.csv", &admin),
    ];
    for (file, text) in files {
        fs::write(folder.join(file), text).with_context(|| format!("write {file}"))?;
    }
    let (host, port) = address.split_once(':').context("an address")?;
    let mut command = Command::new(&part.apiserver);
    command.args(["--etcd-servers", store, "--bind-address", host, "--secure-port", port]);
    command.args(["--advertise-address", host, "--endpoint-reconciler-type", "none"]);
    command.args(["--tls-cert-file", "tls.crt", "--tls-private-key-file", "tls.key", "--cert-dir", "certificates"]);
    command.args(["--token-auth-file", "tokens.csv", "--authorization-mode", "RBAC"]);
    command.args(["--service-account-issuer", "https://trial", "--service-account-key-file", "accounts.crt"]);
    command.args(["--service-account-signing-key-file", "accounts.key", "--service-cluster-ip-range", "10.0.0.0/24"]);
    Program::spawn("kube-apiserver", folder, &mut command)
}
