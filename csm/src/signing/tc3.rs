//! `TC3-HMAC-SHA256`, signature version 3: the request as sent is hashed, and the hash is signed with a key derived from
//! the secret key, the UTC date and the service.
//!
//! The query and the body are taken byte for byte, never re-encoded. The path is always `/`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::signing::{Mismatch, hex, unhex};

/// The scheme's name, with which its `Authorization` header begins.
pub const ALGORITHM: &str = "TC3-HMAC-SHA256";
/// What the payload hash is of when the client asked for it with `X-TC-Content-SHA256`. Not in the reference: the
/// body is then unprotected, so a server refuses it unless told otherwise.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Headers that a signature must cover.
pub const HEADERS_REQUIRED: [&str; 2] = ["content-type", "host"];
const TERMINATOR: &str = "tc3_request";
const SHA256_LEN: usize = 32;

/// A request to be signed or verified, without its headers.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// What follows `?`, as sent; empty for POST.
    pub query: &'a str,
    /// The body as sent; empty for GET; [`UNSIGNED_PAYLOAD`] when the client left the body out.
    pub payload: &'a [u8],
    /// `X-TC-Timestamp`: seconds since 1970.
    pub timestamp: i64,
    /// The service called.
    pub service: &'a str,
}

/// How header values enter the canonical request. The reference asks for lower case; some clients sign what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderCase {
    /// In lower case, as the reference says.
    Lower,
    /// As received.
    AsSent,
}

/// The parts of an `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Whose key signed.
    pub secret_id: String,
    /// UTC date of the timestamp, `YYYY-MM-DD`.
    pub date: String,
    /// The service signed for.
    pub service: String,
    /// Names of the signed headers, in lower case.
    pub signed_headers: Vec<String>,
    /// The signature.
    pub signature: [u8; SHA256_LEN],
}

impl Authorization {
    /// Reads the header's value.
    ///
    /// # Errors
    /// [`Mismatch::Malformed`] when it is not of the form
    /// `TC3-HMAC-SHA256 Credential=…/date/service/tc3_request, SignedHeaders=a;b, Signature=hex`.
    pub fn parse(header: &str) -> Result<Self, Mismatch> {
        Self::parse_parts(header).ok_or(Mismatch::Malformed)
    }

    fn parse_parts(header: &str) -> Option<Self> {
        let parts = header.trim().strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for part in parts.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let mut scope = credential?.rsplitn(4, '/');
        if scope.next()? != TERMINATOR {
            return None;
        }
        let service = scope.next()?.to_owned();
        let date = scope.next()?.to_owned();
        let secret_id = scope.next()?.to_owned();
        let signed_headers = signed_headers?.split(';').map(str::to_ascii_lowercase).collect();
        Some(Self {
            secret_id,
            date,
            service,
            signed_headers,
            signature: unhex(signature?)?,
        })
    }
}

/// Signs a request and returns the value of its `Authorization` header.
///
/// `headers` are those to sign, each with its value as it will be sent; they must hold [`HEADERS_REQUIRED`]. `None`
/// when the timestamp is not within the years 1 to 9999.
#[must_use]
pub fn sign(
    request: &Request<'_>,
    headers: &[(&str, &str)],
    secret_id: &str,
    secret_key: &Secret,
) -> Option<String> {
    let date = utc_date(request.timestamp)?;
    let mut headers: Vec<(String, &str)> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), *value))
        .collect();
    headers.sort();
    let canonical = canonical_request(request, &headers, HeaderCase::Lower);
    let to_sign = string_to_sign(request, &date, &canonical);
    let tag = hmac::sign(
        &signing_key(secret_key, &date, request.service),
        to_sign.as_bytes(),
    );
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    Some(format!(
        "{ALGORITHM} Credential={secret_id}/{date}/{service}/{TERMINATOR}, SignedHeaders={names}, Signature={signature}",
        service = request.service,
        names = names.join(";"),
        signature = hex(tag.as_ref()),
    ))
}

/// Verifies a request's signature. `header` looks up a received header by its lower-case name.
///
/// The header values are tried in lower case first, as the reference says, then as received.
///
/// # Errors
/// What does not agree, as a [`Mismatch`].
pub fn verify<'h>(
    authorization: &Authorization,
    request: &Request<'_>,
    header: impl Fn(&str) -> Option<&'h str>,
    secret_key: &Secret,
) -> Result<(), Mismatch> {
    if utc_date(request.timestamp).is_none_or(|date| date != authorization.date) {
        return Err(Mismatch::Date);
    }
    if authorization.service != request.service {
        return Err(Mismatch::Service);
    }
    if !HEADERS_REQUIRED
        .iter()
        .all(|name| authorization.signed_headers.iter().any(|signed| signed == name))
    {
        return Err(Mismatch::SignedHeaders);
    }
    let mut headers = Vec::with_capacity(authorization.signed_headers.len());
    for name in &authorization.signed_headers {
        headers.push((name.clone(), header(name).ok_or(Mismatch::SignedHeaders)?));
    }
    let key = signing_key(secret_key, &authorization.date, request.service);
    for case in [HeaderCase::Lower, HeaderCase::AsSent] {
        let to_sign = string_to_sign(
            request,
            &authorization.date,
            &canonical_request(request, &headers, case),
        );
        if hmac::verify(&key, to_sign.as_bytes(), &authorization.signature).is_ok() {
            return Ok(());
        }
    }
    Err(Mismatch::Signature)
}

/// The canonical form of a request. `headers` have lower-case names, in the order signed.
#[must_use]
pub fn canonical_request(request: &Request<'_>, headers: &[(String, &str)], case: HeaderCase) -> String {
    let mut lines = String::new();
    let mut names = String::new();
    for (name, value) in headers {
        let value = match case {
            HeaderCase::Lower => value.trim().to_lowercase(),
            HeaderCase::AsSent => value.trim().to_owned(),
        };
        lines.push_str(&format!("{name}:{value}\n"));
        if !names.is_empty() {
            names.push(';');
        }
        names.push_str(name);
    }
    let hash = hex(digest::digest(&digest::SHA256, request.payload).as_ref());
    format!(
        "{method}\n/\n{query}\n{lines}\n{names}\n{hash}",
        method = request.method,
        query = request.query
    )
}

/// What the derived key signs.
#[must_use]
pub fn string_to_sign(request: &Request<'_>, date: &str, canonical_request: &str) -> String {
    let hash = hex(digest::digest(&digest::SHA256, canonical_request.as_bytes()).as_ref());
    format!(
        "{ALGORITHM}\n{timestamp}\n{date}/{service}/{TERMINATOR}\n{hash}",
        timestamp = request.timestamp,
        service = request.service,
    )
}

/// The UTC date of a timestamp, `YYYY-MM-DD`; `None` when it is not within the years 1 to 9999.
#[must_use]
pub fn utc_date(timestamp: i64) -> Option<String> {
    let zoned = Timestamp::from_second(timestamp).ok()?.to_zoned(TimeZone::UTC);
    (zoned.year() >= 1).then(|| zoned.strftime("%Y-%m-%d").to_string())
}

/// The three derivation steps; the last is the key that signs.
pub(crate) fn derived_keys(
    secret_key: &Secret,
    date: &str,
    service: &str,
) -> [Zeroizing<[u8; SHA256_LEN]>; 3] {
    let root = Zeroizing::new(format!("TC3{}", secret_key.reveal()));
    let date_key = hmac_sha256(root.as_bytes(), date);
    let service_key = hmac_sha256(&*date_key, service);
    let signing_key = hmac_sha256(&*service_key, TERMINATOR);
    [date_key, service_key, signing_key]
}

fn signing_key(secret_key: &Secret, date: &str, service: &str) -> hmac::Key {
    let [_, _, key] = derived_keys(secret_key, date, service);
    hmac::Key::new(hmac::HMAC_SHA256, &*key)
}

fn hmac_sha256(key: &[u8], text: &str) -> Zeroizing<[u8; SHA256_LEN]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes"))
}
