//! The control plane's own certificate: given, or self-signed and made at the first start.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::identity;

/// What is needed to accept TLS.
pub struct Identity {
    /// Accepts connections.
    pub acceptor: TlsAcceptor,
    /// `sha256:` and the digest of the certificate, for pinning.
    pub fingerprint: String,
}

/// Reads a certificate and its key.
///
/// # Errors
///
/// When they cannot be read, or do not belong together.
pub fn read(certificate: &Path, key: &Path) -> anyhow::Result<Identity> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate in {}", certificate.display()))?;
    let leaf = chain
        .first()
        .with_context(|| format!("{} holds no certificate", certificate.display()))?;
    let fingerprint = ring::digest::digest(&ring::digest::SHA256, leaf);
    let fingerprint = format!("sha256:{}", identity::hex(fingerprint.as_ref()));
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the private key in {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the private key do not belong together")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
    })
}

/// Reads the self-signed certificate of a data folder, or makes it.
///
/// # Errors
///
/// When it can be neither read nor made.
pub fn self_signed(data: &Path, listen: IpAddr, names: &[String]) -> anyhow::Result<Identity> {
    let folder = data.join("tls");
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    if !certificate.exists() {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut subjects = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !listen.is_unspecified() && !subjects.contains(&listen.to_string()) {
            subjects.push(listen.to_string());
        }
        subjects.extend(names.iter().cloned());
        let made = rcgen::generate_simple_self_signed(subjects).context("cannot make a certificate")?;
        // The key first: a certificate that is there always has its key.
        write(&key, &made.signing_key.serialize_pem())?;
        write(&certificate, &made.cert.pem())?;
    }
    read(&certificate, &key)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
