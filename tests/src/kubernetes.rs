//! A stand-in for a Kubernetes cluster's API, as far as reading Secrets and the resources of
//! `finops.krateo.io` goes: TLS with an authority of its own, a bearer token, and the answers of the API reference.
//!
//! Secret: <https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/>
//! (`GET /api/v1/namespaces/{namespace}/secrets/{name}`; `data` is base64). Status:
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>. Kubeconfig:
//! <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::server::{Answer, Asked, Server};

/// The token that the kubeconfig has.
const TOKEN: &str = "tok-of-the-kubeconfig";
/// The namespace that the kubeconfig has.
pub const NAMESPACE: &str = "finops";

/// A cluster with Secrets and nothing else.
pub struct Cluster {
    server: Server,
    authority: Authority,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// By namespace and name.
    secrets: BTreeMap<(String, String), Value>,
    /// By path below the group.
    objects: BTreeMap<String, Value>,
    forbidden: BTreeSet<(String, String)>,
}

impl Cluster {
    /// Starts a cluster without Secrets on a free port.
    ///
    /// # Errors
    /// There is no port.
    pub fn start() -> Result<Self> {
        let authority = Authority::new()?;
        let known = Arc::<Mutex<Known>>::default();
        let server = Server::start(Some(&authority.issue(&["127.0.0.1"])?), {
            let known = Arc::clone(&known);
            move |asked| answer(asked, &known.lock().unwrap_or_else(PoisonError::into_inner))
        })?;
        Ok(Self { server, authority, known })
    }

    /// Makes or replaces a Secret.
    pub fn put(&self, namespace: &str, name: &str, data: &[(&str, &[u8])]) {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (*key, STANDARD.encode(value))).collect();
        self.put_as_is(namespace, name, json!(data));
    }

    /// Makes a Secret of what the API would not take.
    pub fn put_as_is(&self, namespace: &str, name: &str, data: Value) {
        let metadata = json!({"name": name, "namespace": namespace, "resourceVersion": "1"});
        let secret =
            json!({"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data, "type": "Opaque"});
        self.known().secrets.insert((namespace.to_owned(), name.to_owned()), secret);
    }

    /// Makes or replaces a resource of `finops.krateo.io/v1`: its kind's plural, and what it specifies.
    pub fn put_object(&self, plural: &str, namespace: &str, name: &str, spec: &Value) {
        let metadata = json!({"name": name, "namespace": namespace, "resourceVersion": "1"});
        let object = json!({"apiVersion": "finops.krateo.io/v1", "metadata": metadata, "spec": spec});
        self.known().objects.insert(format!("namespaces/{namespace}/{plural}/{name}"), object);
    }

    /// What a path of `finops.krateo.io/v1` says, a list for example.
    pub fn put_answer(&self, path: &str, answer: Value) {
        self.known().objects.insert(path.to_owned(), answer);
    }

    /// Keeps us from a Secret, whether it is there or not.
    pub fn forbid(&self, namespace: &str, name: &str) {
        self.known().forbidden.insert((namespace.to_owned(), name.to_owned()));
    }

    /// Writes a kubeconfig for this cluster into a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        self.kubeconfig_with(folder, TOKEN)
    }

    /// Writes a kubeconfig with a token of the test's.
    ///
    /// # Errors
    /// As [`Cluster::kubeconfig`].
    pub fn kubeconfig_with(&self, folder: &Path, token: &str) -> Result<PathBuf> {
        let (server, authority) = (self.url(), STANDARD.encode(self.authority.certificate()));
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: trial
contexts: [{{name: trial, context: {{cluster: trial, user: costream, namespace: {NAMESPACE}}}}}]
clusters: [{{name: trial, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}]
users: [{{name: costream, user: {{token: {token}}}}}]
"
        );
        let path = folder.join("kubeconfig");
        std::fs::write(&path, text).context("write a kubeconfig")?;
        Ok(path)
    }

    /// Where its API is.
    pub fn url(&self) -> String {
        self.server.url("")
    }

    /// How often it was asked.
    pub fn times_asked(&self) -> usize {
        self.server.asked().len()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(asked: &Asked, known: &Known) -> Answer {
    if asked.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return status(401, "Unauthorized", "Unauthorized", &Value::Null);
    }
    let below = asked.target.trim_end_matches('?').strip_prefix("/apis/finops.krateo.io/v1/");
    if let Some(object) = below.and_then(|path| known.objects.get(path)) {
        return Answer::new(200, object.to_string()).with("Content-Type", "application/json");
    }
    let parts: Vec<&str> = asked.target.trim_end_matches('?').split('/').collect();
    let ("GET", ["", "api", "v1", "namespaces", namespace, "secrets", name]) = (asked.method.as_str(), &parts[..])
    else {
        return status(404, "NotFound", "the server could not find the requested resource", &Value::Null);
    };
    let details = json!({"name": name, "kind": "secrets"});
    let key = ((*namespace).to_owned(), (*name).to_owned());
    if known.forbidden.contains(&key) {
        let message = format!(
            "secrets \"{name}\" is forbidden: User \"system:serviceaccount:finops:costream\" cannot get resource \
             \"secrets\" in API group \"\" in the namespace \"{namespace}\""
        );
        return status(403, "Forbidden", &message, &details);
    }
    match known.secrets.get(&key) {
        Some(secret) => Answer::new(200, secret.to_string()).with("Content-Type", "application/json"),
        None => status(404, "NotFound", &format!("secrets \"{name}\" not found"), &details),
    }
}

fn status(code: u16, reason: &str, message: &str, details: &Value) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code,
    });
    Answer::new(code, status.to_string()).with("Content-Type", "application/json")
}
