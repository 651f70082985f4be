//! With which key requests are signed.

use crate::secret::Secret;

/// A key pair, and the token of a temporary one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// Names the key; not secret.
    pub secret_id: String,
    /// Signs; never sent.
    pub secret_key: Secret,
    /// Sent with each request when the key is temporary.
    pub token: Option<Secret>,
}

impl Credential {
    /// A permanent key.
    pub fn new(secret_id: impl Into<String>, secret_key: impl Into<Secret>) -> Self {
        Self {
            secret_id: secret_id.into(),
            secret_key: secret_key.into(),
            token: None,
        }
    }

    /// A temporary key.
    pub fn temporary(
        secret_id: impl Into<String>,
        secret_key: impl Into<Secret>,
        token: impl Into<Secret>,
    ) -> Self {
        Self {
            token: Some(token.into()),
            ..Self::new(secret_id, secret_key)
        }
    }
}
