//! A request as it came: which scheme it is signed in, its common parameters, its own parameters.

use std::borrow::Cow;

use axum::http::{HeaderMap, Method, header};
use csm::form;
use csm::signing::v1::COMMON_PARAMETERS;
use serde_json::{Map, Value};

use super::{FORM_BYTES_MAX, POST_BYTES_MAX, QUERY_BYTES_MAX};
use crate::code::{ApiError, ApiResult, Code};
use crate::schema::Encoding;

/// Parameters of one form: a job with 20 disks of 128 partitions has about 16,000.
const PAIRS_MAX: usize = 20_000;
/// Steps of a dotted name; the deepest of the reference has six.
const STEPS_MAX: usize = 8;

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TC3-HMAC-SHA256, in headers.
    Version3,
    /// HmacSHA1 or HmacSHA256, among the parameters.
    Version1,
}

/// A request as it came.
#[derive(Debug)]
pub struct Incoming<'r> {
    /// `GET` or `POST`.
    pub method: &'r str,
    /// What follows `?`, as sent.
    pub query: &'r str,
    /// The headers.
    pub headers: &'r HeaderMap,
    /// The body, as sent.
    pub body: &'r [u8],
    /// How it is signed.
    pub scheme: Scheme,
    /// The action named.
    pub action: String,
    /// The version named.
    pub version: String,
    /// The region named; empty if none is.
    pub region: String,
    /// Seconds since 1970.
    pub timestamp: i64,
    /// Decoded parameters of a form, common ones too; none in JSON.
    pub pairs: Vec<(String, String)>,
}

fn missing(name: &str) -> ApiError {
    ApiError::new(Code::MissingParameter, format!("{name} is required"))
}

impl<'r> Incoming<'r> {
    /// Reads what every request has.
    ///
    /// # Errors
    ///
    /// When the body is of another kind, too long, or a common parameter is absent.
    pub fn read(
        method: &'r Method,
        query: &'r str,
        headers: &'r HeaderMap,
        body: &'r [u8],
    ) -> ApiResult<Self> {
        let is_get = *method == Method::GET;
        let scheme = if headers.contains_key(header::AUTHORIZATION) {
            Scheme::Version3
        } else {
            Scheme::Version1
        };
        check_kind(is_get, scheme, headers, query, body)?;
        let form = if is_get { query.as_bytes() } else { body };
        let pairs = if is_get || scheme == Scheme::Version1 {
            decode(form)?
        } else {
            Vec::new()
        };
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(Cow::Borrowed)
        };
        let pair = |name: &str| {
            pairs
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| Cow::Owned(value.clone()))
        };
        let common = |in_header: &str, in_form: &str| -> Option<Cow<'r, str>> {
            if scheme == Scheme::Version3 {
                header(in_header)
            } else {
                pair(in_form)
            }
        };
        let action = common("x-tc-action", "Action")
            .ok_or_else(|| missing("Action"))?
            .into_owned();
        let version = common("x-tc-version", "Version")
            .ok_or_else(|| missing("Version"))?
            .into_owned();
        let region = common("x-tc-region", "Region").unwrap_or_default().into_owned();
        let timestamp = common("x-tc-timestamp", "Timestamp").ok_or_else(|| missing("Timestamp"))?;
        let timestamp = timestamp.trim().parse().map_err(|_| {
            ApiError::new(
                Code::InvalidParameterValue,
                "Timestamp must be whole seconds since 1970",
            )
        })?;
        let method = if is_get { "GET" } else { "POST" };
        Ok(Self {
            method,
            query,
            headers,
            body,
            scheme,
            action,
            version,
            region,
            timestamp,
            pairs,
        })
    }

    /// Whether it is signed in version 1.
    #[must_use]
    pub fn is_version_1(&self) -> bool {
        self.scheme == Scheme::Version1
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'r str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A common parameter of version 1.
    #[must_use]
    pub fn pair(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The action's own parameters, as a tree.
    ///
    /// # Errors
    ///
    /// When the body is not a JSON object, or a form names something twice.
    pub fn parameters(&self) -> ApiResult<(Map<String, Value>, Encoding)> {
        if self.method == "POST" && self.scheme == Scheme::Version3 {
            return Ok((read_json(self.body)?, Encoding::Json));
        }
        let own = self
            .pairs
            .iter()
            .filter(|(name, _)| !COMMON_PARAMETERS.contains(&name.as_str()));
        let mut tree = Map::new();
        for (name, value) in own {
            insert(&mut tree, name, value)?;
        }
        Ok((tree, Encoding::Form))
    }
}

fn check_kind(is_get: bool, scheme: Scheme, headers: &HeaderMap, query: &str, body: &[u8]) -> ApiResult<()> {
    let too_long = |limit: usize| {
        Err(ApiError::new(
            Code::LimitExceeded,
            format!("this request may have {limit} bytes"),
        ))
    };
    if is_get {
        return if query.len() > QUERY_BYTES_MAX {
            too_long(QUERY_BYTES_MAX)
        } else {
            Ok(())
        };
    }
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match (kind.as_str(), scheme) {
        ("multipart/form-data", _) => Err(ApiError::new(
            Code::UnsupportedOperation,
            "no action takes multipart/form-data; send application/json",
        )),
        ("application/json", Scheme::Version3) if body.len() > POST_BYTES_MAX => too_long(POST_BYTES_MAX),
        ("application/x-www-form-urlencoded", Scheme::Version1) if body.len() > FORM_BYTES_MAX => {
            too_long(FORM_BYTES_MAX)
        }
        ("application/json", Scheme::Version3) | ("application/x-www-form-urlencoded", Scheme::Version1) => {
            Ok(())
        }
        ("application/json", Scheme::Version1) => Err(ApiError::new(
            Code::SignatureFailure,
            "a JSON request is signed with TC3-HMAC-SHA256 in Authorization",
        )),
        _ => {
            let message = "POST takes application/json with TC3-HMAC-SHA256, or application/x-www-form-urlencoded with HmacSHA1 or HmacSHA256";
            Err(ApiError::new(Code::UnsupportedProtocol, message))
        }
    }
}

fn decode(form: &[u8]) -> ApiResult<Vec<(String, String)>> {
    let pairs =
        form::decode(form).map_err(|error| ApiError::new(Code::InvalidParameter, error.to_string()))?;
    if pairs.len() > PAIRS_MAX {
        return Err(ApiError::new(
            Code::LimitExceeded,
            format!("a form has at most {PAIRS_MAX} parameters"),
        ));
    }
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ApiError::new(
            Code::InvalidParameter,
            format!("{:.64} is given twice", pair[0]),
        ));
    }
    Ok(pairs)
}

fn read_json(body: &[u8]) -> ApiResult<Map<String, Value>> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(tree)) => Ok(tree),
        Ok(_) => Err(ApiError::new(
            Code::InvalidParameter,
            "the body must be a JSON object",
        )),
        Err(error) => Err(ApiError::new(
            Code::InvalidParameter,
            format!("the body is not JSON: {error}"),
        )),
    }
}

/// Puts a dotted parameter into the tree. Lists stay objects with numbers for names until their table is known.
fn insert(tree: &mut Map<String, Value>, name: &str, value: &str) -> ApiResult<()> {
    let clash = || {
        ApiError::new(
            Code::InvalidParameter,
            format!("{name:.64} contradicts another parameter"),
        )
    };
    let steps: Vec<&str> = name.split('.').collect();
    if steps.len() > STEPS_MAX {
        return Err(ApiError::new(
            Code::UnknownParameter,
            format!("there is no parameter {name:.64}"),
        ));
    }
    let (last, path) = steps.split_last().ok_or_else(clash)?;
    let mut branch = tree;
    for step in path {
        let next = branch
            .entry((*step).to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        branch = next.as_object_mut().ok_or_else(clash)?;
    }
    match branch.insert((*last).to_owned(), Value::String(value.to_owned())) {
        None => Ok(()),
        Some(_) => Err(clash()),
    }
}
