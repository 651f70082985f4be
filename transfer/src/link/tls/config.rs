//! The two sides' settings: TLS 1.3 only, and certificates without trust.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, ServerConfig};

use crate::error::{Error, Kind, Result};

/// Makes the receiver's TLS side: a certificate of its own, TLS 1.3 only.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn server_config() -> Result<Arc<ServerConfig>> {
    let failed = |error: rcgen::Error| Error::new(Kind::Medium, "make a TLS certificate").because(error);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = rcgen::CertificateParams::new(vec!["go2cloud".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Makes the source's TLS side.
///
/// # Errors
/// Never with the built-in cryptography.
pub fn client_config() -> Result<Arc<ClientConfig>> {
    let mut provider = ring::default_provider();
    // The server follows the client's order. Without AES instructions ChaCha20 is several times faster.
    let fast_aes = std::arch::is_x86_feature_detected!("aes");
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => u8::from(!fast_aes),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => u8::from(fast_aes),
        _ => 2,
    });
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Accepts any certificate whose key really signed the handshake; who the peer is, the secret proves.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
