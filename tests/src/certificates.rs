//! Certificates of a test's own authority, which nobody else trusts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConfig};

/// Who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority with a key and a name of its own.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::default();
        let name = format!("authority {} of a test", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("make a key")?;
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key).context("sign the authority")? })
    }

    /// What those who trust it are given, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.as_ref().pem()
    }

    /// A certificate for host names or IP addresses.
    ///
    /// # Errors
    /// A name is none.
    pub fn issue(&self, names: &[&str]) -> Result<Identity> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().context("make a key")?;
        let params = CertificateParams::new(names).context("name the certificate")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Identity {
    /// How a server shows it.
    ///
    /// # Errors
    /// It is no certificate with its key.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let (chain, key) = self.read()?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .context("choose the versions")?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("take the certificate")?;
        Ok(Arc::new(config))
    }

    /// How a server shows it to those alone who show one of the authority's.
    ///
    /// # Errors
    /// As [`Identity::server_config`].
    pub fn server_config_for(&self, authority: &Authority) -> Result<Arc<ServerConfig>> {
        let (chain, key) = self.read()?;
        let mut roots = RootCertStore::empty();
        let trusted =
            CertificateDer::from_pem_slice(authority.certificate().as_bytes()).context("read the authority")?;
        roots.add(trusted).context("trust the authority")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(DEFAULT_VERSIONS)
            .context("choose the versions")?
            .with_client_cert_verifier(verifier.context("ask for certificates")?)
            .with_single_cert(chain, key)
            .context("take the certificate")?;
        Ok(Arc::new(config))
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).context("read the certificate")?];
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("read the key")?))
    }
}
