//! One attempt of a call: sign, send, read the answer, and judge a failure: may it be tried again, and was the request
//! perhaps carried out?

use std::error::Error as StdError;
use std::io;

use reqwest::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::client::Call;
use crate::client::clock::{Skew, now_seconds};
use crate::client::error::{Error, Kind};
use crate::credential::Credential;
use crate::signing::{SignMethod, tc3, v1};
use crate::{envelope, form};

/// An answer may be this long. The longest that the API gives, 100 instances, is far below 1 MiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
/// What the HTTP library says when a proxy answers `CONNECT` with neither success nor 407; it has no type for it.
const TUNNEL_REFUSED: &str = "tunnel error: unsuccessful";
const LANGUAGE: &str = "en-US";
const REQUEST_CLIENT: &str = concat!("go2cloud_", env!("CARGO_PKG_VERSION"));

/// A failed attempt.
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) done: Done,
}

/// Whether the server may have carried the request out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It has not: the request never reached it, or it was throttled.
    No,
    /// Nobody knows.
    Perhaps,
}

/// What is sent, besides its address.
pub(crate) struct Signed {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Who signs, how, and when.
pub(crate) struct Signer<'a> {
    pub(crate) credential: &'a Credential,
    pub(crate) method: SignMethod,
    pub(crate) region: &'a str,
    /// What the `Host` header will say.
    pub(crate) authority: &'a str,
    /// Seconds since 1970.
    pub(crate) timestamp: i64,
}

impl Signer<'_> {
    /// Signs a call as POST. The trace id makes this attempt another one than any before, for servers that accept no
    /// request twice.
    pub(crate) fn sign(&self, call: &Call<'_>, request: &Value) -> Result<Signed, Error> {
        let mut signed = match self.method {
            SignMethod::Tc3 => self.sign_tc3(call, request),
            SignMethod::HmacSha1 | SignMethod::HmacSha256 => self.sign_v1(call, request),
        }?;
        if !signed.headers.contains_key("x-tc-traceid") {
            let trace_id = format!("{:016x}", random());
            signed
                .headers
                .insert("x-tc-traceid", header(call, "trace id", &trace_id)?);
        }
        Ok(signed)
    }

    fn sign_tc3(&self, call: &Call<'_>, request: &Value) -> Result<Signed, Error> {
        let body = request.to_string();
        let to_sign = tc3::Request {
            method: "POST",
            query: "",
            payload: body.as_bytes(),
            timestamp: self.timestamp,
            service: call.service,
        };
        // Two equal calls within one second would have equal signatures, and the second would look like a replay; and
        // without its name, a call could be taken for another with the same parameters.
        let trace_id = format!("{:016x}", random());
        let signed_headers = [
            ("content-type", JSON),
            ("host", self.authority),
            ("x-tc-action", call.action),
            ("x-tc-traceid", &trace_id),
        ];
        let authorization = tc3::sign(
            &to_sign,
            &signed_headers,
            &self.credential.secret_id,
            &self.credential.secret_key,
        )
        .ok_or_else(|| {
            Error::new(
                Kind::Configuration,
                call.action,
                "this machine's clock shows no valid year",
            )
        })?;
        let mut headers = HeaderMap::new();
        let timestamp = self.timestamp.to_string();
        let pairs = [
            ("x-tc-action", call.action),
            ("x-tc-version", call.version),
            ("x-tc-region", self.region),
            ("x-tc-timestamp", &timestamp),
            ("x-tc-traceid", &trace_id),
            ("x-tc-language", LANGUAGE),
            ("x-tc-requestclient", REQUEST_CLIENT),
        ];
        for (name, value) in pairs {
            headers.insert(name, header(call, name, value)?);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers.insert(HOST, header(call, "host", self.authority)?);
        let mut authorization = header(call, "SecretId", &authorization)?;
        authorization.set_sensitive(true);
        headers.insert("authorization", authorization);
        if let Some(token) = &self.credential.token {
            let mut token = header(call, "token", token.reveal())?;
            token.set_sensitive(true);
            headers.insert("x-tc-token", token);
        }
        Ok(Signed { headers, body })
    }

    fn sign_v1(&self, call: &Call<'_>, request: &Value) -> Result<Signed, Error> {
        let mut parameters = form::flatten(request);
        let mut add = |name: &str, value: &str| parameters.push((name.to_owned(), value.to_owned()));
        add("Action", call.action);
        add("Version", call.version);
        add("Region", self.region);
        add("Timestamp", &self.timestamp.to_string());
        add("Nonce", &nonce().to_string());
        add("SecretId", &self.credential.secret_id);
        add("SignatureMethod", self.method.name());
        add("RequestClient", REQUEST_CLIENT);
        add("Language", LANGUAGE);
        if let Some(token) = &self.credential.token {
            add("Token", token.reveal());
        }
        let signature = v1::sign(
            self.method,
            "POST",
            self.authority,
            &parameters,
            &self.credential.secret_key,
        );
        parameters.push(("Signature".to_owned(), signature));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        headers.insert(HOST, header(call, "host", self.authority)?);
        Ok(Signed {
            headers,
            body: form::encode(&parameters),
        })
    }
}

/// Never shows the value: it may be a token.
fn header(call: &Call<'_>, name: &str, value: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(value).map_err(|_| {
        let message = format!("the {name} holds characters that a header cannot carry");
        Error::new(Kind::Configuration, call.action, message)
    })
}

/// A positive integer that no other request of this second has; 2⁵³ − 1 at most, because some servers read floats.
fn nonce() -> u64 {
    (random() >> 11).max(1)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random bytes");
    u64::from_le_bytes(bytes)
}

/// What the request passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    /// Nothing that the client knows of.
    Direct,
    /// The configured proxy.
    Proxy,
}

/// Sends a signed request and reads its answer.
pub(crate) async fn send(
    http: &reqwest::Client,
    url: &str,
    signed: Signed,
    call: &Call<'_>,
    through: Through,
) -> Result<Value, Failure> {
    let request = http.post(url).headers(signed.headers).body(signed.body);
    let response = request.send().await.map_err(|error| not_sent(call, error))?;
    let status = response.status();
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let skew = date.and_then(|date| Skew::from_date_header(date, now_seconds()));
    let body = match read_body(response, call).await {
        Ok(body) => body,
        // A proxy that refuses often resets the connection, because it has not read the request; its status came.
        Err(_) if status != StatusCode::OK => return Err(no_envelope(call, status, through)),
        Err(failure) => return Err(failure),
    };
    match envelope::open(&body) {
        Some(opened) => opened.result.map_err(|error| {
            let error = Error::answered(call.action, error, opened.request_id, skew);
            let done = if error.kind() == Kind::ServerFault {
                Done::Perhaps
            } else {
                Done::No
            };
            Failure { error, done }
        }),
        None => Err(no_envelope(call, status, through)),
    }
}

async fn read_body(mut response: Response, call: &Call<'_>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                let message = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                return Err(perhaps(Error::new(Kind::NotTheApi, call.action, message)));
            }
            Err(error) => {
                let message = "the connection broke before the answer was complete";
                return Err(perhaps(
                    Error::new(Kind::Unreachable, call.action, message).because(error.without_url()),
                ));
            }
        }
    }
}

fn perhaps(error: Error) -> Failure {
    Failure {
        error,
        done: Done::Perhaps,
    }
}

fn no_envelope(call: &Call<'_>, status: StatusCode, through: Through) -> Failure {
    let message = format!("HTTP status {status} without an answer of the API");
    let (kind, done) = match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => (Kind::Proxy, Done::No),
        StatusCode::TOO_MANY_REQUESTS => (Kind::Throttled, Done::No),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            (Kind::ServerFault, Done::Perhaps)
        }
        // The API itself never answers so: it reports refusals with status 200.
        StatusCode::UNAUTHORIZED if through == Through::Proxy => (Kind::Proxy, Done::No),
        _ => (Kind::NotTheApi, Done::Perhaps),
    };
    Failure {
        error: Error::new(kind, call.action, message),
        done,
    }
}

/// Judges a request that got no answer.
fn not_sent(call: &Call<'_>, error: reqwest::Error) -> Failure {
    let done = if error.is_connect() || error.is_builder() {
        Done::No
    } else {
        Done::Perhaps
    };
    let (kind, message) = if has_cause(&error, |cause| cause.is::<rustls::Error>()) {
        (Kind::Tls, "TLS could not be set up")
    } else if has_cause(&error, |cause| {
        cause.to_string().contains("proxy authorization required")
    }) {
        (
            Kind::Proxy,
            "the proxy asks for a user and password, or refuses these",
        )
    } else if has_cause(&error, |cause| cause.to_string() == TUNNEL_REFUSED) {
        (Kind::Proxy, "the proxy refuses to open a connection")
    } else if error.is_builder() {
        (Kind::Configuration, "the request cannot be built")
    } else if error.is_timeout() {
        (Kind::Unreachable, "no answer in time")
    } else if error.is_connect() {
        (Kind::Unreachable, "no connection")
    } else {
        (Kind::Unreachable, "the connection broke")
    };
    Failure {
        error: Error::new(kind, call.action, message).because(error.without_url()),
        done,
    }
}

/// Whether an error or one of its causes is what is looked for; looks into I/O errors, which hide theirs.
fn has_cause(error: &(dyn StdError + 'static), wanted: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if wanted(cause) {
            return true;
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}
