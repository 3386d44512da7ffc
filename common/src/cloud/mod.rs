//! The clouds' buckets: a URL and settings in, the object store that is there out. S3 (and what
//! speaks it), Azure Blob Storage, Google Cloud Storage.
//!
//! The URL names the place and bears no secret. How it is reached (credentials, region,
//! endpoint) say settings that are called as the variables of the clouds' own tools; without
//! credentials among them, the machine's identity is asked for. Every request ends: see
//! [`REQUEST_TIMEOUT`] and [`RETRY_FOR`]. A read that breaks off is taken up again where it broke. Errors are told
//! plainly: where, and why, in a few words, without what was signed.

mod plain;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use plain::PlainErrors;

/// How long one request may take, its body included, unless `AWS_TIMEOUT`, `AZURE_TIMEOUT` or
/// `GOOGLE_TIMEOUT` says otherwise.
const REQUEST_TIMEOUT: &str = "60s";
/// How often a request is tried again after a failure that may pass.
const MAX_RETRIES: usize = 6;
/// No try begins later than this after the first.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// `s3://bucket/folder`, `s3a://bucket/folder`.
    S3,
    /// `az://container/folder`, `abfs[s]://container@account.dfs.core.windows.net/folder`.
    Azure,
    /// `gs://bucket/folder`.
    Gcs,
}

/// A URL that names no bucket. Does not repeat the URL: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BucketUrlError {
    /// The bucket or container is missing.
    #[error("the URL names no bucket")]
    Nowhere,
    /// A user, a password, a signature or the like.
    #[error("a bucket's URL bears no credentials and no parameters")]
    Credentials,
}

impl Cloud {
    /// Whose a URL of this scheme is; nothing when no cloud's.
    pub fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "s3a" => Some(Self::S3),
            "az" | "abfs" | "abfss" => Some(Self::Azure),
            "gs" => Some(Self::Gcs),
            _ => None,
        }
    }

    /// What its settings' names begin with.
    pub fn settings_prefix(self) -> &'static str {
        match self {
            Self::S3 => "AWS_",
            Self::Azure => "AZURE_",
            Self::Gcs => "GOOGLE_",
        }
    }

    /// Whether a setting of this name is known.
    pub fn knows(self, name: &str) -> bool {
        let key = name.to_ascii_lowercase();
        name.starts_with(self.settings_prefix())
            && match self {
                Self::S3 => key.parse::<AmazonS3ConfigKey>().is_ok(),
                Self::Azure => {
                    AZURE_OTHERWISE.iter().any(|(other, _)| *other == name) || key.parse::<AzureConfigKey>().is_ok()
                }
                Self::Gcs => key.parse::<GoogleConfigKey>().is_ok(),
            }
    }

    /// Holds a URL against what it may have.
    ///
    /// # Errors
    /// It names no bucket, or bears a credential.
    pub fn check(self, url: &Url) -> Result<(), BucketUrlError> {
        // What stands before the `@` is a container on Azure, and a user elsewhere.
        let user = !url.username().is_empty() && self != Self::Azure;
        if user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(BucketUrlError::Credentials);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(BucketUrlError::Nowhere);
        }
        Ok(())
    }

    /// The bucket with everything in it. Nothing is asked of it yet.
    ///
    /// `settings`: names and values as the environment has them; a later one of a name takes the place of an earlier
    /// one, those of other places are passed over, and so is what is empty.
    ///
    /// # Errors
    /// The settings contradict each other, or name a file that cannot be read.
    pub fn connect(
        self,
        url: &Url,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let given: Vec<_> = settings.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let errors = PlainErrors::of(url.as_str());
        let store: Result<Arc<dyn ObjectStore>, _> = match self {
            Self::S3 => s3(url, &given).build().map(|store| Arc::new(store) as _),
            Self::Azure => azure(url, &given).build().map(|store| Arc::new(store) as _),
            Self::Gcs => gcs(url, &given).build().map(|store| Arc::new(store) as _),
        };
        store.map_err(|error| errors.tell(error)).map(|store| errors.over(store))
    }
}

/// The environment's variables, as far as they are text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

/// The settings whose name begins with `prefix`, by the library's keys.
fn settings<'a, K: FromStr>(
    prefix: &'static str,
    given: &'a [(String, String)],
) -> impl Iterator<Item = (K, &'a String)> {
    given.iter().filter_map(move |(name, value)| {
        let own = name.starts_with(prefix).then(|| name.to_ascii_lowercase())?;
        Some((own.parse().ok()?, value))
    })
}

/// Whether somebody has asked for an endpoint without TLS: a server of his own, or an emulator.
fn is_plain_http(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// S3, by the variables of the AWS tools.
fn s3(url: &Url, given: &[(String, String)]) -> AmazonS3Builder {
    use AmazonS3ConfigKey::{Client, Endpoint, S3Endpoint};
    let patient = AmazonS3Builder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let builder = settings("AWS_", given).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let plain = [S3Endpoint, Endpoint].iter().any(|key| is_plain_http(builder.get_config_value(key)));
    let builder = if plain { builder.with_allow_http(true) } else { builder };
    builder.with_url(url.as_str()).with_retry(retry())
}

/// What the Azure command line and its machines call otherwise than the SDKs.
const AZURE_OTHERWISE: [(&str, AzureConfigKey); 3] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
];

/// Azure, by the variables of the Azure SDKs, and those that are called otherwise.
fn azure(url: &Url, given: &[(String, String)]) -> MicrosoftAzureBuilder {
    use AzureConfigKey::{Client, Endpoint};
    let patient = MicrosoftAzureBuilder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let others = given.iter().filter_map(|(name, value)| {
        AZURE_OTHERWISE.iter().find(|(other, _)| other == name).map(|(_, key)| (*key, value))
    });
    let builder =
        others.chain(settings("AZURE_", given)).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let builder = match is_plain_http(builder.get_config_value(&Endpoint)) {
        true => builder.with_allow_http(true),
        false => builder,
    };
    builder.with_url(url.as_str()).with_retry(retry())
}

/// Google Cloud Storage, by the variables of the Google tools.
fn gcs(url: &Url, given: &[(String, String)]) -> GoogleCloudStorageBuilder {
    use GoogleConfigKey::{BaseUrl, Client};
    let patient = GoogleCloudStorageBuilder::new().with_config(Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    let builder = settings("GOOGLE_", given).fold(patient, |builder, (key, value)| builder.with_config(key, value));
    let builder = match is_plain_http(builder.get_config_value(&BaseUrl)) {
        true => builder.with_config(Client(ClientConfigKey::AllowHttp), "true"),
        false => builder,
    };
    builder.with_url(url.as_str()).with_retry(retry())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(given: &[(&str, &str)]) -> Vec<(String, String)> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_variables_of_the_clouds_tools_are_taken() {
        let given = variables(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_BUCKET", "another"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ("AWS_PAGER", "less"),
            ("AZURE_STORAGE_ACCOUNT", "account"),
            ("AZURE_STORAGE_KEY", "a2V5"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/credentials.json"),
        ]);
        let s3 = s3(&Url::parse("s3://bucket/a").expect("a URL"), &given);
        for (key, value) in [
            (AmazonS3ConfigKey::Region, "eu-central-1"),
            (AmazonS3ConfigKey::Token, "token"),
            (AmazonS3ConfigKey::WebIdentityTokenFile, "/token"),
            (AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp), "true"),
        ] {
            assert_eq!(s3.get_config_value(&key).as_deref(), Some(value), "{key:?}");
        }
        assert_eq!(s3.build().expect("a store").to_string(), "AmazonS3(bucket)", "the URL names the bucket");
        let azure = azure(&Url::parse("az://container/a").expect("a URL"), &given);
        for (key, value) in [
            (AzureConfigKey::AccountName, "account"),
            (AzureConfigKey::AccessKey, "a2V5"),
            (AzureConfigKey::FederatedTokenFile, "/token"),
            (AzureConfigKey::Client(ClientConfigKey::AllowHttp), "false"),
        ] {
            assert_eq!(azure.get_config_value(&key).as_deref(), Some(value), "{key:?}");
        }
        let gcs = gcs(&Url::parse("gs://bucket/a").expect("a URL"), &given);
        let credentials = gcs.get_config_value(&GoogleConfigKey::ApplicationCredentials);
        assert_eq!(credentials.as_deref(), Some("/credentials.json"));
    }

    #[test]
    fn variables_that_contradict_each_other_are_an_error_without_their_values() {
        let url = Url::parse("s3://bucket/a").expect("a URL");
        let half = variables(&[("AWS_SECRET_ACCESS_KEY", "verysecret")]);
        let error = Cloud::S3.connect(&url, half).expect_err("half a key");
        let error = error.to_string();
        assert!(error.contains("s3://bucket/a") && error.contains("AccessKeyId"), "{error}");
        assert!(!error.contains("verysecret"), "{error}");
        let both = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "verysecret")];
        let store = Cloud::S3.connect(&url, variables(&both)).expect("a store");
        assert!(!format!("{store:?} {store}").contains("verysecret"));
    }
}
