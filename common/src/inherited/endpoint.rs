//! A server as a Secret names it: its keys in, whom to ask and with what out. The Secret that `endpointRef` names has
//! `server-url`, and may have `proxy-url`, `token`, `username`, `password`, `certificate-authority-data`,
//! `client-certificate-data`, `client-key-data` (PEM in base64, or PEM), `insecure` and `debug`. Without a Secret
//! it is the cluster's own API, with the pod's service account, or the kubeconfig's token or certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::Config;
use url::Url;

use super::resource::{ResourceError, Resources, SecretKeys};
use super::{CallError, ObjectRef};
use crate::http::client::{Access, BasicAuth, Certificates};
use crate::secret::kubernetes;
use crate::secret::{ExposeSecret as _, Held, KubernetesReason, SecretSource, SecretString};

/// How a Secret's key says yes.
const YES: [&str; 4] = ["true", "True", "TRUE", "1"];
const PEM: &str = "-----BEGIN ";

/// A server, and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// What paths are appended to.
    pub(super) server: String,
    /// Through whom.
    pub(super) proxy: Option<Url>,
    /// With what.
    pub(super) access: Access,
    /// Whether its requests are to be told.
    pub(super) debug: bool,
}

impl Endpoint {
    /// The server that a Secret names, or the cluster's API.
    pub(super) async fn read(of: Option<&ObjectRef>, resources: &Resources) -> Result<Self, CallError> {
        match of {
            Some(of) => Ok(Self::of_secret(&resources.secret(of).await?)?),
            None => Self::of_cluster(kubernetes::cluster().await.map_err(CallError::Cluster)?).await,
        }
    }

    fn of_secret(secret: &SecretKeys) -> Result<Self, ResourceError> {
        let mut access = Access::default();
        let yes = |key| secret.get(key).is_some_and(|text| YES.contains(&text.expose_secret().trim()));
        let pem = |key| secret.get(key).map(|text| pem(secret, key, text)).transpose();
        if let Some(token) = secret.get("token") {
            access.bearer_token = Some(SecretSource::Held(Held(token.clone())));
        } else if let Some(username) = secret.get("username") {
            let password = secret.get("password").cloned();
            access.basic_auth = Some(BasicAuth {
                username: username.expose_secret().to_owned(),
                password: SecretSource::Held(Held(password.unwrap_or_default())),
            });
        }
        let identity = match (pem("client-certificate-data")?, pem("client-key-data")?) {
            (Some(certificate), Some(key)) => Some(joined(&certificate, &key)),
            (None, None) => None,
            _ => return Err(secret.wrong("client-certificate-data and client-key-data go together".to_owned())),
        };
        let authorities = pem("certificate-authority-data")?.map(|pem| pem.expose_secret().to_owned());
        if identity.is_some() || authorities.is_some() {
            access.tls.given = Some(Box::new(Certificates { authorities, identity }));
        }
        access.tls.insecure_skip_verify = yes("insecure");
        let proxy = secret.get("proxy-url").map(|text| text.expose_secret().trim().parse());
        // What a URL that is none holds may be a password.
        let proxy = proxy.transpose().map_err(|error| secret.wrong(format!("proxy-url is no URL: {error}")))?;
        let server = secret.required("server-url")?.expose_secret().trim().to_owned();
        Ok(Self { server, proxy, access, debug: yes("debug") })
    }

    async fn of_cluster(config: Config) -> Result<Self, CallError> {
        let none = |what: &str| CallError::Cluster(KubernetesReason::NoCluster(what.to_owned()));
        let mut access = Access::default();
        let auth = config.auth_info;
        access.bearer_token = match (auth.token_file, auth.token) {
            (Some(file), _) => Some(SecretSource::File(file.into())),
            (None, Some(token)) => Some(SecretSource::Held(Held(token))),
            (None, None) => None,
        };
        let identity = match (auth.client_certificate_data, auth.client_key_data) {
            (Some(certificate), Some(key)) => {
                let decoded = |text: &str| BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let pair = decoded(&certificate).zip(decoded(key.expose_secret()));
                let (certificate, key) = pair.ok_or_else(|| none("the kubeconfig's client certificate is none"))?;
                Some(joined(&certificate.into(), &key.into()))
            }
            _ => None,
        };
        let authorities = config.root_cert.map(|trusted| trusted.iter().map(|der| pem_of(der)).collect::<String>());
        if identity.is_some() || authorities.is_some() {
            access.tls.given = Some(Box::new(Certificates { authorities, identity }));
        }
        access.tls.insecure_skip_verify = config.accept_invalid_certs;
        let proxy = config.proxy_url.map(|proxy| proxy.to_string().parse());
        let proxy = proxy.transpose().map_err(|_| none("the proxy is no URL"))?;
        Ok(Self { server: config.cluster_url.to_string(), proxy, access, debug: false })
    }
}

/// A PEM text, taken out of base64 when it is in it.
fn pem(secret: &SecretKeys, key: &str, text: &SecretString) -> Result<SecretString, ResourceError> {
    let text = text.expose_secret();
    if text.contains(PEM) {
        return Ok(text.into());
    }
    let bytes = BASE64.decode(text.split_whitespace().collect::<String>()).ok();
    let pem = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| text.contains(PEM));
    pem.map(SecretString::from).ok_or_else(|| secret.wrong(format!("{key} is neither PEM nor PEM in base64")))
}

fn joined(certificate: &SecretString, key: &SecretString) -> SecretString {
    format!("{}\n{}\n", certificate.expose_secret().trim_end(), key.expose_secret().trim_end()).into()
}

fn pem_of(der: &[u8]) -> String {
    format!("{PEM}CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der))
}
