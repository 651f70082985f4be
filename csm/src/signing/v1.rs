//! Signature version 1 (`HmacSHA1`, `HmacSHA256`): the parameters, sorted by name and not url-encoded, are signed with
//! the secret key itself.
//!
//! It protects neither headers nor the encoding of the request; replay is the server's to prevent, with nonce and time.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::secret::Secret;
use crate::signing::{Mismatch, SignMethod};

/// Parameters of every version 1 request, and those that the vendor's clients add: not the action's own.
pub const COMMON_PARAMETERS: [&str; 11] = [
    "Action",
    "Version",
    "Region",
    "Timestamp",
    "Nonce",
    "SecretId",
    "Signature",
    "SignatureMethod",
    "Token",
    "RequestClient",
    "Language",
];

/// The method that a `SignatureMethod` parameter asks for: anything but exactly `HmacSHA256` means `HmacSHA1`.
#[must_use]
pub fn method_from_parameter(signature_method: Option<&str>) -> SignMethod {
    if signature_method == Some(SignMethod::HmacSha256.name()) {
        SignMethod::HmacSha256
    } else {
        SignMethod::HmacSha1
    }
}

/// What is signed: `METHOD` + host + `/?` + the sorted `name=value` pairs. `Signature` itself is left out.
#[must_use]
pub fn string_to_sign(http_method: &str, host: &str, parameters: &[(String, String)]) -> String {
    joined(http_method, host, parameters.iter())
}

/// Signs parameters. The result is base64 and still has to be url-encoded where it is sent.
#[must_use]
pub fn sign(
    method: SignMethod,
    http_method: &str,
    host: &str,
    parameters: &[(String, String)],
    secret_key: &Secret,
) -> String {
    let tag = hmac::sign(
        &key(method, secret_key),
        string_to_sign(http_method, host, parameters).as_bytes(),
    );
    STANDARD.encode(tag.as_ref())
}

/// Verifies the `Signature` among `parameters`, which are as received, url-decoded.
///
/// All parameters are tried first, then those that are not empty, because one family of the vendor's clients leaves
/// empty ones out of what it signs.
///
/// # Errors
/// [`Mismatch::Malformed`] without a base64 signature, else [`Mismatch::Signature`].
pub fn verify(
    method: SignMethod,
    http_method: &str,
    host: &str,
    parameters: &[(String, String)],
    secret_key: &Secret,
) -> Result<(), Mismatch> {
    let signature = parameters
        .iter()
        .find(|(name, _)| name == "Signature")
        .ok_or(Mismatch::Malformed)?;
    let signature = STANDARD.decode(&signature.1).map_err(|_| Mismatch::Malformed)?;
    let key = key(method, secret_key);
    let all = string_to_sign(http_method, host, parameters);
    let set = joined(
        http_method,
        host,
        parameters.iter().filter(|(_, value)| !value.is_empty()),
    );
    let holds = |text: &str| hmac::verify(&key, text.as_bytes(), &signature).is_ok();
    if holds(&all) || holds(&set) {
        Ok(())
    } else {
        Err(Mismatch::Signature)
    }
}

fn joined<'p>(
    http_method: &str,
    host: &str,
    parameters: impl Iterator<Item = &'p (String, String)>,
) -> String {
    let mut sorted: Vec<&(String, String)> = parameters.filter(|(name, _)| name != "Signature").collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    let pairs: Vec<String> = sorted
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{http_method}{host}/?{}", pairs.join("&"))
}

fn key(method: SignMethod, secret_key: &Secret) -> hmac::Key {
    let algorithm = match method {
        SignMethod::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        SignMethod::HmacSha256 | SignMethod::Tc3 => hmac::HMAC_SHA256,
    };
    hmac::Key::new(algorithm, secret_key.reveal().as_bytes())
}
