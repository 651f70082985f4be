//! Whom to believe that it is the control plane: the system's certificate authorities, those of a file, or one
//! certificate known by its fingerprint.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How the control plane proves itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// By an authority that this machine trusts; by Mozilla's list when it has none.
    #[default]
    System,
    /// By an authority in this PEM file, and no other.
    CaFile(PathBuf),
    /// By being exactly this certificate, whatever its names and dates: self-signed control planes print it.
    Fingerprint(Fingerprint),
}

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; digest::SHA256_OUTPUT_LEN]);

/// A fingerprint or a file of authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not 64 hexadecimal digits.
    #[error(
        "`{0}` is not a fingerprint: it must be sha256: and 64 hexadecimal digits, as the control plane prints it"
    )]
    Fingerprint(String),
    /// The file cannot be read, or holds no certificate.
    #[error("cannot take certificate authorities from {}: {problem}; it must hold PEM certificates", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, certificate);
        Self(hash.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl FromStr for Fingerprint {
    type Err = TrustError;

    /// Reads `sha256:` and 64 digits; the prefix, colons between the digits and their case do not matter.
    fn from_str(text: &str) -> Result<Self, TrustError> {
        let lower = text.trim().to_ascii_lowercase();
        let digits: String = lower
            .strip_prefix("sha256:")
            .unwrap_or(&lower)
            .chars()
            .filter(|c| *c != ':')
            .collect();
        crate::signing::unhex(&digits)
            .map(Self)
            .ok_or_else(|| TrustError::Fingerprint(text.to_owned()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", crate::signing::hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The TLS settings of a client with this trust, for other protocols too.
///
/// # Errors
/// When the authorities cannot be read, or the TLS library refuses them.
pub fn tls_config(trust: &Trust) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()),
        Trust::CaFile(path) => builder.with_root_certificates(roots_of_file(path)?),
        Trust::Fingerprint(fingerprint) => {
            let verifier = Pinned {
                fingerprint: *fingerprint,
                provider,
            };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(builder.with_no_client_auth())
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::debug!(problems = ?found.errors, "no certificate authorities on this machine; using the built-in list");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn roots_of_file(path: &PathBuf) -> Result<RootCertStore, TrustError> {
    let failed = |problem: String| TrustError::CaFile {
        path: path.clone(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(failed("it holds no certificate".to_owned()))
    } else {
        Ok(roots)
    }
}

/// Takes one certificate and no other. The handshake's signatures are still verified, so the server must hold its key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Fingerprint::of(end_entity);
        if presented == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        tracing::warn!(%presented, expected = %self.fingerprint, "the control plane presents another certificate");
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_print_them() {
        let plain = Fingerprint::of(b"certificate");
        let text = plain.to_string();
        assert_eq!(text.parse::<Fingerprint>().unwrap(), plain);
        let digits = text.strip_prefix("sha256:").unwrap().to_ascii_uppercase();
        let pairs: Vec<&str> = (0..64).step_by(2).map(|at| &digits[at..at + 2]).collect();
        assert_eq!(pairs.join(":").parse::<Fingerprint>().unwrap(), plain);
        for wrong in ["", "sha256:", "sha256:00", &"g".repeat(64)] {
            assert!(wrong.parse::<Fingerprint>().is_err());
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing\n").unwrap();
        for path in [path, folder.path().join("absent.pem")] {
            let error = tls_config(&Trust::CaFile(path.clone())).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        assert!(tls_config(&Trust::System).is_ok());
    }
}
