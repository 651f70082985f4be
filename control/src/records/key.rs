//! Access keys and enrolment codes.

use serde::{Deserialize, Serialize};

use super::{Record, Table};

/// An access key. The secret key is sealed; a token is kept as its SHA-256.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Key {
    /// What requests name it by.
    pub secret_id: String,
    /// The secret key, sealed under the key file.
    pub sealed_key: String,
    /// Whether it is refused.
    pub disabled: bool,
    /// What it is for, in the words of its maker.
    pub description: String,
    /// Seconds since 1970.
    pub created: i64,
    /// What a temporary credential has besides.
    pub temporary: Option<Temporary>,
}

/// What makes a key a temporary credential: an end, a token, and one source that it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Temporary {
    /// Seconds since 1970.
    pub expires: i64,
    /// SHA-256 of the token.
    pub token_sha256: String,
    /// The code that it was exchanged for.
    pub enrolment_id: String,
    /// The source that it registered; empty until it did.
    pub source_server_id: String,
}

impl Record for Key {
    const TABLE: Table = Table::Key;

    fn id(&self) -> &str {
        &self.secret_id
    }
}

/// An enrolment code, kept as its SHA-256.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Enrolment {
    /// What administrators name it by.
    pub enrolment_id: String,
    /// SHA-256 of the code.
    pub code_sha256: String,
    /// How often it can still be exchanged.
    pub uses_left: u64,
    /// Seconds since 1970.
    pub expires: i64,
    /// Whether it was withdrawn.
    pub revoked: bool,
    /// What it is for, in the words of its maker.
    pub description: String,
    /// Seconds since 1970.
    pub created: i64,
}

impl Enrolment {
    /// Whether it can be exchanged now.
    #[must_use]
    pub fn is_usable(&self, now: i64) -> bool {
        !self.revoked && self.uses_left > 0 && now < self.expires
    }
}

impl Record for Enrolment {
    const TABLE: Table = Table::Enrolment;

    fn id(&self) -> &str {
        &self.enrolment_id
    }
}
