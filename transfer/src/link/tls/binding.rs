//! The channel binding where rustls's unbuffered interface does not offer it.
//!
//! The handshake gives away the session's exporter secret in the way meant for that, a [`KeyLog`]; the derivation from
//! it (RFC 8446, section 7.5) uses rustls's own HKDF of the negotiated suite. The source, on the other face of rustls,
//! asks the library itself, so every single authentication compares the two.

use std::sync::OnceLock;

use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::{KeyLog, SupportedCipherSuite};

/// RFC 9266.
pub(super) const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// What a [`KeyLog`] calls the exporter secret.
const SECRET_NAME: &str = "EXPORTER_SECRET";

/// Keeps one session's exporter secret, and none of its other secrets; wiped with the session.
#[derive(Default)]
pub(super) struct ExporterSecret(OnceLock<OkmBlock>);

impl std::fmt::Debug for ExporterSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ExporterSecret")
    }
}

impl KeyLog for ExporterSecret {
    fn will_log(&self, name: &str) -> bool {
        name == SECRET_NAME
    }

    fn log(&self, name: &str, _client_random: &[u8], secret: &[u8]) {
        if name == SECRET_NAME {
            // There is one of them in a session.
            drop(self.0.set(OkmBlock::new(secret)));
        }
    }
}

impl ExporterSecret {
    /// The channel binding of the session; none before its handshake.
    pub(super) fn channel_binding(&self, suite: SupportedCipherSuite) -> Option<[u8; 32]> {
        let (SupportedCipherSuite::Tls13(suite), Some(secret)) = (suite, self.0.get()) else {
            return None;
        };
        // There is no context; it is hashed as an empty one.
        let context = suite.common.hash_provider.hash(&[]);
        let expander = suite.hkdf_provider.expander_for_okm(secret);
        let mut of_label = [0; OkmBlock::MAX_LEN];
        let of_label = &mut of_label[..expander.hash_len()];
        expand_label(expander.as_ref(), LABEL, context.as_ref(), of_label)?;
        let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(of_label));
        let mut binding = [0; 32];
        expand_label(expander.as_ref(), b"exporter", context.as_ref(), &mut binding)?;
        Some(binding)
    }
}

/// HKDF-Expand-Label of RFC 8446, section 7.1.
fn expand_label(expander: &dyn HkdfExpander, label: &[u8], context: &[u8], output: &mut [u8]) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let output_len = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).ok()?;
    let context_len = u8::try_from(context.len()).ok()?;
    let info = [
        &output_len[..],
        &[label_len],
        PREFIX,
        label,
        &[context_len],
        context,
    ];
    expander.expand_slice(&info, output).ok()
}
