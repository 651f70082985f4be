//! A typed client of the API.
//!
//! It signs, limits its own rate, and tries again when the server throttles or cannot be reached; never when a request
//! was refused, and never when a request that must not happen twice may have been carried out. It opens connections
//! only to the endpoint or through the configured proxy, follows no redirects, and logs no bodies.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::action::{Action, Service};
use crate::credential::Credential;
use crate::dns::Resolver;
use crate::envelope;
use crate::secret::Secret;

mod attempt;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod error;
pub mod rate;
pub mod trust;

pub use config::{ClockPolicy, Config, Proxy};
pub use endpoint::{Endpoint, Scheme};
pub use error::{Error, Kind};
pub use trust::{Fingerprint, Trust};

use attempt::{Done, Failure, Signer, Through};
use clock::{Skew, now_seconds};
use rate::RateLimit;

/// A call by its names, for services that have no types here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// The service, which is also in the signature.
    pub service: &'a str,
    /// The version of its API.
    pub version: &'a str,
    /// The action.
    pub action: &'a str,
}

impl Call<'_> {
    /// Whether a second request after a first that was carried out changes nothing and is not refused: reading, and
    /// setting members to given values.
    fn may_repeat(&self) -> bool {
        ["Describe", "Modify"]
            .iter()
            .any(|verb| self.action.starts_with(verb))
    }
}

/// What an enrolment code was exchanged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// A temporary key, good for registering one source and reporting on its jobs.
    pub credential: Credential,
    /// Until when, UTC, `YYYY-MM-DDThh:mm:ssZ`.
    pub expired_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EnrolAnswer {
    tmp_secret_id: String,
    tmp_secret_key: Secret,
    token: Secret,
    expired_time: String,
}

/// The path of the enrolment, and its name in errors.
const ENROL: &str = "enrol";

/// Calls a control plane. Clones share connections, rate limit and credential.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    config: Config,
    credential: RwLock<Arc<Credential>>,
    rate: RateLimit,
    /// Added to this machine's time when signing; zero unless [`ClockPolicy::Correct`] found a difference.
    clock_offset_seconds: AtomicI64,
}

impl Client {
    /// Sets a client up; connects to nothing yet.
    ///
    /// # Errors
    /// [`Kind::Configuration`] when the trust or the proxy cannot be used.
    pub fn new(config: Config) -> Result<Self, Error> {
        let failed = |message: &str| Error::new(Kind::Configuration, "setting up the client", message);
        let tls = trust::tls_config(&config.trust).map_err(|error| failed("TLS").because(error))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(NameResolver(config.resolver.clone()))
            // One protocol for all: the signature covers `Host`, which HTTP/2 replaces.
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config::CONNECT_TIMEOUT)
            .timeout(config.timeout)
            .no_proxy();
        if let Some(proxy) = &config.proxy {
            let mut through =
                reqwest::Proxy::all(proxy.url()).map_err(|error| failed("the proxy").because(error))?;
            if let Some(user) = &proxy.user {
                through = through.basic_auth(user, proxy.password.reveal());
            }
            builder = builder.proxy(through);
        }
        let http = builder.build().map_err(|error| failed("HTTP").because(error))?;
        let credential = RwLock::new(Arc::new(config.credential.clone()));
        let shared = Shared {
            http,
            config,
            credential,
            rate: RateLimit::default(),
            clock_offset_seconds: AtomicI64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Signs with another key from now on: temporary ones are renewed before they expire.
    pub fn set_credential(&self, credential: Credential) {
        *self
            .shared
            .credential
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(credential);
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Makes a call.
    ///
    /// # Errors
    /// What the server answered, or why there was no answer.
    pub async fn call<A: Action>(&self, request: &A) -> Result<A::Response, Error> {
        let service = A::NAME.service();
        let call = Call {
            service: service.name(),
            version: service.version(),
            action: A::NAME.as_str(),
        };
        let wrong = |message: &str, error: serde_json::Error| {
            Error::new(Kind::NotTheApi, call.action, message).because(error)
        };
        let request =
            serde_json::to_value(request).map_err(|error| wrong("the request cannot be written", error))?;
        let answer = self.call_by_name(&call, &request).await?;
        serde_json::from_value(answer).map_err(|error| wrong("the answer has unexpected types", error))
    }

    /// Makes a call that has no type here. `request` is an object of its parameters.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_by_name(&self, call: &Call<'_>, request: &Value) -> Result<Value, Error> {
        self.repeat(call, || self.attempt(call, request)).await
    }

    /// Makes attempts until one succeeds or another would be useless or wrong.
    async fn repeat<F>(&self, call: &Call<'_>, mut attempt: impl FnMut() -> F) -> Result<Value, Error>
    where
        F: Future<Output = Result<Value, Failure>>,
    {
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(config::DELAY_MIN)
            .with_max_delay(config::DELAY_MAX)
            .with_max_times(self.shared.config.attempts_max.saturating_sub(1))
            .with_jitter()
            .build();
        let mut corrected = false;
        loop {
            self.shared.rate.wait(call.action).await;
            let failure = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !corrected && self.correct_clock(&failure.error) {
                corrected = true;
                continue;
            }
            if !worth_another(call, &failure) {
                return Err(failure.error);
            }
            let Some(delay) = delays.next() else {
                return Err(failure.error);
            };
            tracing::debug!(action = call.action, error = %failure.error, ?delay, "trying again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Exchanges an enrolment code for a temporary key, and signs with it from now on. An extension of the
    /// self-hosted control plane; the request is not signed, because the code is the proof.
    ///
    /// # Errors
    /// [`Kind::Authentication`] when the code is unknown, expired, revoked or used up; else as [`Self::call`]. After a
    /// connection that broke it is not tried again, because each success uses the code up a little.
    pub async fn enrol(&self, code: &Secret) -> Result<Enrolment, Error> {
        let call = Call {
            service: Service::Csm.name(),
            version: Service::Csm.version(),
            action: ENROL,
        };
        let url = format!("{}{ENROL}", self.shared.config.endpoint.url(call.service));
        let answer = self.repeat(&call, || {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(envelope::CONTENT_TYPE));
            let signed = attempt::Signed {
                headers,
                body: serde_json::json!({"Code": code.reveal()}).to_string(),
            };
            attempt::send(&self.shared.http, &url, signed, &call, self.through())
        });
        let answer: EnrolAnswer = serde_json::from_value(answer.await?).map_err(|error| {
            Error::new(Kind::NotTheApi, ENROL, "the answer has unexpected types").because(error)
        })?;
        let credential = Credential::temporary(answer.tmp_secret_id, answer.tmp_secret_key, answer.token);
        self.set_credential(credential.clone());
        Ok(Enrolment {
            credential,
            expired_time: answer.expired_time,
        })
    }

    fn through(&self) -> Through {
        if self.shared.config.proxy.is_some() {
            Through::Proxy
        } else {
            Through::Direct
        }
    }

    async fn attempt(&self, call: &Call<'_>, request: &Value) -> Result<Value, Failure> {
        let shared = &self.shared;
        let credential = Arc::clone(&shared.credential.read().unwrap_or_else(PoisonError::into_inner));
        let endpoint = &shared.config.endpoint;
        let signer = Signer {
            credential: &credential,
            method: shared.config.sign_method,
            region: &shared.config.region,
            authority: &endpoint.authority(call.service),
            timestamp: now_seconds().saturating_add(shared.clock_offset_seconds.load(Ordering::Relaxed)),
        };
        let signed = signer.sign(call, request).map_err(|error| Failure {
            error,
            done: Done::No,
        })?;
        attempt::send(
            &shared.http,
            &endpoint.url(call.service),
            signed,
            call,
            self.through(),
        )
        .await
    }

    /// Takes the server's time over, when that is wanted and safe; true when the call should be made again.
    fn correct_clock(&self, error: &Error) -> bool {
        let config = &self.shared.config;
        let (Some(Skew(seconds)), ClockPolicy::Correct, Scheme::Https) =
            (error.skew(), config.clock, config.endpoint.scheme())
        else {
            return false;
        };
        tracing::warn!(
            seconds,
            "signing with the control plane's time, because this machine's clock differs"
        );
        self.shared.clock_offset_seconds.store(seconds, Ordering::Relaxed);
        true
    }
}

fn worth_another(call: &Call<'_>, failure: &Failure) -> bool {
    failure.error.is_transient() && (failure.done == Done::No || call.may_repeat())
}

/// Lets the HTTP library look names up as the rest of the program does.
struct NameResolver(Resolver);

impl Resolve for NameResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let addresses = resolver.resolve_with_port(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
