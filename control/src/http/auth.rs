//! Who calls: signature, time, token.
//!
//! Every way to fail costs the same look-ups and gives a documented code. What is secret is compared in constant time: the
//! signature by `ring`, the token by comparing digests.

use csm::Secret;
use csm::signing::tc3::{self, Authorization};
use csm::signing::{SKEW_SECONDS_MAX, skew_seconds, v1};

use super::request::{Incoming, Scheme};
use crate::app::{App, Caller};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::records::Key;
use crate::schema::Service;

/// How long a request's mark is remembered, in seconds: twice the allowed difference of clocks.
const REMEMBER_SECONDS: i64 = 2 * SKEW_SECONDS_MAX as i64;
/// No key has a longer name.
const SECRET_ID_CHARS_MAX: usize = 128;

/// What a good signature says.
#[derive(Debug)]
pub struct Authenticated {
    /// Who calls.
    pub caller: Caller,
    /// Which API.
    pub service: Service,
    /// What must not be accepted twice, and until when it is remembered.
    pub mark: Option<(String, i64)>,
}

fn failure(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::SignatureFailure, message)
}

/// Says who calls.
///
/// # Errors
///
/// The `AuthFailure` code that fits, or that something required is absent.
pub fn authenticate(app: &App, incoming: &Incoming<'_>, now: i64) -> ApiResult<Authenticated> {
    if skew_seconds(incoming.timestamp, now) > SKEW_SECONDS_MAX {
        let message =
            format!("Timestamp differs by more than {SKEW_SECONDS_MAX} s from this clock, which shows {now}");
        return Err(ApiError::new(Code::SignatureExpire, message));
    }
    match incoming.scheme {
        Scheme::Version3 => version_3(app, incoming, now),
        Scheme::Version1 => version_1(app, incoming, now),
    }
}

fn version_3(app: &App, incoming: &Incoming<'_>, now: i64) -> ApiResult<Authenticated> {
    let header = incoming.header("authorization").unwrap_or_default();
    let authorization = Authorization::parse(header).map_err(|mismatch| failure(mismatch.to_string()))?;
    let unknown = || failure("the service in the Credential is not served here");
    let service = Service::ALL
        .into_iter()
        .find(|service| service.name() == authorization.service)
        .ok_or_else(unknown)?;
    check_host(incoming, service)?;
    let (key, secret) = find_key(app, &authorization.secret_id)?;
    let request = tc3::Request {
        method: incoming.method,
        query: if incoming.method == "GET" {
            incoming.query
        } else {
            ""
        },
        payload: if incoming.method == "GET" {
            b""
        } else {
            incoming.body
        },
        timestamp: incoming.timestamp,
        service: service.name(),
    };
    tc3::verify(&authorization, &request, |name| incoming.header(name), &secret)
        .map_err(|mismatch| failure(mismatch.to_string()))?;
    let caller = check_key(&key, incoming.header("x-tc-token"), now)?;
    let trace = incoming.header("x-tc-traceid").unwrap_or_default();
    let signature = identity::hex(&authorization.signature);
    let mark = identity::fingerprint(&format!(
        "3 {} {} {signature} {trace}",
        key.secret_id, incoming.action
    ));
    Ok(Authenticated {
        caller,
        service,
        mark: Some((mark, now + REMEMBER_SECONDS)),
    })
}

fn version_1(app: &App, incoming: &Incoming<'_>, now: i64) -> ApiResult<Authenticated> {
    let required = |name: &str| {
        incoming
            .pair(name)
            .ok_or_else(|| ApiError::new(Code::MissingParameter, format!("{name} is required")))
    };
    if incoming.pair("Signature").is_none() {
        return Err(failure(
            "the request is not signed: it has neither Authorization nor Signature",
        ));
    }
    let secret_id = required("SecretId")?;
    let nonce = required("Nonce")?;
    if nonce.is_empty() || nonce.len() > 20 || !nonce.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::new(
            Code::InvalidParameterValue,
            "Nonce must be a positive integer",
        ));
    }
    let unknown = || {
        ApiError::new(
            Code::NoSuchVersion,
            format!("there is no API of version {:.32}", incoming.version),
        )
    };
    let service = Service::ALL
        .into_iter()
        .find(|service| service.version() == incoming.version)
        .ok_or_else(unknown)?;
    check_host(incoming, service)?;
    let (key, secret) = find_key(app, secret_id)?;
    let method = v1::method_from_parameter(incoming.pair("SignatureMethod"));
    let host = incoming.header("host").unwrap_or_default();
    let verified = v1::verify(method, incoming.method, host, &incoming.pairs, &secret);
    // One family of the vendor's clients signs names with dots for the underscores that it sends.
    let verified = verified.or_else(|mismatch| {
        let dotted: Vec<_> = incoming
            .pairs
            .iter()
            .map(|(name, value)| (name.replace('_', "."), value.clone()))
            .collect();
        v1::verify(method, incoming.method, host, &dotted, &secret).map_err(|_| mismatch)
    });
    verified.map_err(|mismatch| failure(mismatch.to_string()))?;
    let caller = check_key(&key, incoming.pair("Token"), now)?;
    let mark = identity::fingerprint(&format!("1 {} {nonce} {}", key.secret_id, incoming.timestamp));
    Ok(Authenticated {
        caller,
        service,
        mark: Some((mark, now + REMEMBER_SECONDS)),
    })
}

/// A host that names a service must name the one that is called.
fn check_host(incoming: &Incoming<'_>, service: Service) -> ApiResult<()> {
    let host = incoming.header("host").unwrap_or_default();
    let prefix = host
        .split_once('.')
        .map(|(prefix, _)| prefix.to_ascii_lowercase());
    let named = prefix.and_then(|prefix| Service::ALL.into_iter().find(|known| known.name() == prefix));
    match named {
        Some(named) if named != service => Err(failure(format!(
            "{} is not served at {host:.128}",
            service.name()
        ))),
        _ => Ok(()),
    }
}

fn find_key(app: &App, secret_id: &str) -> ApiResult<(Key, Secret)> {
    let is_name = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if secret_id.is_empty() || secret_id.len() > SECRET_ID_CHARS_MAX || !is_name(secret_id) {
        return Err(ApiError::new(
            Code::InvalidSecretId,
            "the SecretId is not the name of a key",
        ));
    }
    let key = app.engine.peek(|world| world.keys.get(secret_id).cloned());
    let key = key.filter(|key| !key.disabled);
    let key =
        key.ok_or_else(|| ApiError::new(Code::SecretIdNotFound, "there is no such key, or it is disabled"))?;
    let secret = app
        .vault
        .unseal(&key.secret_id, &key.sealed_key)
        .map_err(|error| {
            tracing::error!(key = %key.secret_id, %error, "a key cannot be used");
            ApiError::new(
                Code::InternalError,
                "the key cannot be opened; the control plane's log says more",
            )
        })?;
    Ok((Key::clone(&key), secret))
}

fn check_key(key: &Key, token: Option<&str>, now: i64) -> ApiResult<Caller> {
    let wrong = |message: &str| Err(ApiError::new(Code::TokenFailure, message));
    let token = token.filter(|token| !token.is_empty());
    let source = match (&key.temporary, token) {
        (None, None) => None,
        (None, Some(_)) => return wrong("this key has no token"),
        (Some(_), None) => return wrong("temporary credentials need their token"),
        (Some(temporary), Some(token)) => {
            if identity::fingerprint(token) != temporary.token_sha256 {
                return wrong("the token does not belong to this key");
            }
            if now >= temporary.expires {
                return wrong("the temporary credentials have expired; enrol again");
            }
            Some(temporary.source_server_id.clone())
        }
    };
    Ok(Caller {
        secret_id: key.secret_id.clone(),
        source,
    })
}
