//! Request signatures: made by a client, verified by a server.
//!
//! Two schemes share the secret key: [`tc3`] signs the request as sent, headers and body; [`v1`] signs its parameters.
//! Signatures are compared in constant time. Time and replay are the caller's to judge, with [`skew_seconds`].

use std::fmt;

pub mod tc3;
pub mod v1;

/// A timestamp may differ from the server's clock by this many seconds.
pub const SKEW_SECONDS_MAX: u64 = 300;

/// How far `timestamp` lies from `now`, both in seconds since 1970; more than [`SKEW_SECONDS_MAX`] is refused.
#[must_use]
pub fn skew_seconds(timestamp: i64, now: i64) -> u64 {
    timestamp.abs_diff(now)
}

/// The three ways to sign that the API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignMethod {
    /// `TC3-HMAC-SHA256`, signature version 3.
    #[default]
    Tc3,
    /// `HmacSHA1`, signature version 1.
    HmacSha1,
    /// `HmacSHA256`, signature version 1.
    HmacSha256,
}

impl SignMethod {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc3 => tc3::ALGORITHM,
            Self::HmacSha1 => "HmacSHA1",
            Self::HmacSha256 => "HmacSHA256",
        }
    }
}

/// Why a signature does not hold. All of these are `AuthFailure.SignatureFailure` to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The `Authorization` header does not have the form of the scheme.
    Malformed,
    /// The credential's date is not the UTC date of the timestamp.
    Date,
    /// The credential names another service.
    Service,
    /// `content-type` or `host` is not signed, or a signed header is absent.
    SignedHeaders,
    /// The signature is not the one that the secret key gives.
    Signature,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "The Authorization header is malformed.",
            Self::Date => "The date in the Credential is not the UTC date of the timestamp.",
            Self::Service => "The service in the Credential is not the service that was called.",
            Self::SignedHeaders => {
                "SignedHeaders must name headers that were sent, content-type and host among them."
            }
            Self::Signature => "The signature does not match. Check the secret key and what was signed.",
        })
    }
}

impl std::error::Error for Mismatch {}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
}

/// Reads lower-case hexadecimal digits of exactly `N` bytes.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
