//! Why a call failed: a kind that programs go by, the server's code and RequestId, and what to do about it.

use std::error::Error as StdError;
use std::fmt;

use crate::client::clock::Skew;
use crate::envelope::ErrorBody;

/// What went wrong, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client's own settings cannot be used.
    Configuration,
    /// No connection, or it broke before the answer was complete.
    Unreachable,
    /// The proxy refused.
    Proxy,
    /// The control plane could not prove itself, or does not speak TLS.
    Tls,
    /// What answered is not the API.
    NotTheApi,
    /// The clocks differ too much.
    Clock,
    /// The key, its token, its signature or its permissions.
    Authentication,
    /// Too many requests, even after waiting.
    Throttled,
    /// The server failed.
    ServerFault,
    /// The server understood the request and refuses it.
    Refused,
}

/// A failed call.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    skew: Option<Skew>,
    detail: Box<Detail>,
}

/// Boxed, so that a `Result` of a call stays small.
#[derive(Debug)]
struct Detail {
    action: String,
    body: ErrorBody,
    request_id: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, action: &str, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            code: String::new(),
            message: message.into(),
        };
        let detail = Detail {
            action: action.to_owned(),
            body,
            request_id: String::new(),
            source: None,
        };
        Self {
            kind,
            skew: None,
            detail: Box::new(detail),
        }
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.detail.source = Some(source.into());
        self
    }

    pub(crate) fn answered(action: &str, body: ErrorBody, request_id: String, skew: Option<Skew>) -> Self {
        let kind = kind_of_code(&body.code);
        Self {
            kind,
            skew,
            detail: Box::new(Detail {
                action: action.to_owned(),
                body,
                request_id,
                source: None,
            }),
        }
    }

    /// What went wrong, roughly.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The code that the server answered with, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        (!self.detail.body.code.is_empty()).then_some(self.detail.body.code.as_str())
    }

    /// The id under which the server's log has the request, if it answered.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        (!self.detail.request_id.is_empty()).then_some(self.detail.request_id.as_str())
    }

    /// The call that failed.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.detail.action
    }

    /// How far the server's clock is from this machine's, when that is why.
    #[must_use]
    pub fn skew(&self) -> Option<Skew> {
        self.skew.filter(|_| self.kind == Kind::Clock)
    }

    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Throttled | Kind::ServerFault)
    }

    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> String {
        match (self.kind, self.code().unwrap_or_default()) {
            (Kind::Clock, _) => match self.skew {
                Some(skew) => skew.explained(),
                None => "compare the clocks of this machine and of the control plane; they may differ by 5 minutes".into(),
            },
            (_, "AuthFailure.SecretIdNotFound" | "AuthFailure.InvalidSecretId") => {
                "check the SecretId; the key may have been deleted or disabled, or belong to another control plane".into()
            }
            (_, "AuthFailure.SignatureFailure") => "check the SecretKey: it does not belong to this SecretId".into(),
            (_, "AuthFailure.TokenFailure") => "the temporary key has expired or lacks its token: enrol again".into(),
            (Kind::Authentication, _) => "use a key that is allowed to make this call".into(),
            (Kind::Configuration, _) => "correct the setting".into(),
            (Kind::Unreachable, _) => {
                "check the endpoint, the network, and firewalls on the way to the control plane".into()
            }
            (Kind::Proxy, _) => "check the proxy's address, user and password".into(),
            (Kind::Tls, _) => "check that the endpoint is right and speaks HTTPS; a self-signed control plane needs its \
                fingerprint or its certificate as CA file"
                .into(),
            (Kind::NotTheApi, _) => "check the endpoint: something else answers there".into(),
            (Kind::Throttled, _) => "make fewer requests; the limit is 20 a second for each action and key".into(),
            (Kind::ServerFault, _) => "try again later; the control plane's log has the RequestId".into(),
            (Kind::Refused, _) => "correct the request, or bring the job or server into a state that allows it".into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.detail.action)?;
        if let Some(code) = self.code() {
            write!(f, " with {code}")?;
        }
        if !self.detail.body.message.is_empty() {
            write!(f, ": {}", self.detail.body.message.trim_end_matches('.'))?;
        }
        if let Some(id) = self.request_id() {
            write!(f, " (RequestId {id})")?;
        }
        write!(f, "; {}", self.remedy())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.detail.source.as_deref().map(|source| source as _)
    }
}

fn kind_of_code(code: &str) -> Kind {
    let category = code.split('.').next().unwrap_or_default();
    match category {
        _ if code == "AuthFailure.SignatureExpire" => Kind::Clock,
        "AuthFailure" | "UnauthorizedOperation" => Kind::Authentication,
        "RequestLimitExceeded" => Kind::Throttled,
        "InternalError" | "InternalServerError" => Kind::ServerFault,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds() {
        for (code, kind) in [
            ("AuthFailure.SignatureExpire", Kind::Clock),
            ("AuthFailure.TokenFailure", Kind::Authentication),
            ("UnauthorizedOperation", Kind::Authentication),
            ("RequestLimitExceeded", Kind::Throttled),
            ("RequestLimitExceeded.UinLimitExceeded", Kind::Throttled),
            ("InternalError", Kind::ServerFault),
            ("LimitExceeded.MigrateJobLimitExceeded", Kind::Refused),
            ("Novelty", Kind::Refused),
        ] {
            assert_eq!(kind_of_code(code), kind, "{code}");
        }
    }

    #[test]
    fn the_message_holds_code_request_id_and_remedy() {
        let body = ErrorBody {
            code: "AuthFailure.SignatureExpire".into(),
            message: "Expired.".into(),
        };
        let text = Error::answered("StartMigrationJob", body, "id-7".into(), Some(Skew(-400))).to_string();
        assert!(
            text.starts_with(
                "StartMigrationJob failed with AuthFailure.SignatureExpire: Expired (RequestId id-7); "
            ) && text.contains("6 min 40 s ahead of"),
            "{text}"
        );
    }
}
