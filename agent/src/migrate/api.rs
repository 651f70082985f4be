//! The control plane as the agent uses it: blocking calls from threads, and calls that sit outages out.

use std::io;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use csm::Action;
use csm::client::{
    Client, Config, Endpoint, Error, Fingerprint, Kind, Proxy as WireProxy, Trust as WireTrust,
};
use csm::credential::Credential;
use tokio::runtime::Runtime;
use transfer::progress::StopFlag;

use super::enrolment;
use super::plan::{Control, Credentials, Trust};

/// Pauses between attempts while the control plane cannot be reached.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// An outage of minutes is noticed to be over within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A control plane.
pub struct Api {
    client: Client,
    runtime: Runtime,
    /// Whether it has ever answered: until then a refusing proxy is a wrong setting, later it is an outage.
    answered: AtomicBool,
}

/// Why there is no control plane to speak to.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client does not start, or the temporary key cannot be kept.
    #[error("cannot start the HTTP client or keep its key: {0}")]
    Start(#[from] io::Error),
    /// Something about endpoint, proxy or certificate.
    #[error("cannot set up the connection to the API: {}", super::explained(.0))]
    Client(Error),
    /// The endpoint or the fingerprint is not one.
    #[error("{0}")]
    Setting(String),
}

impl Api {
    /// Sets up the connection; nothing is sent yet, except an enrolment code to be exchanged.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn new(control: &Control, state_root: &Path) -> Result<Self, SetupError> {
        let setting = |error: &dyn std::fmt::Display| SetupError::Setting(error.to_string());
        let endpoint = match control.trust {
            Trust::Plain if !control.endpoint.contains("://") => format!("http://{}", control.endpoint),
            _ => control.endpoint.clone(),
        };
        let endpoint = Endpoint::from_str(&endpoint).map_err(|error| setting(&error))?;
        let (credential, code) = match &control.credentials {
            Credentials::Key { id, key } => (Credential::new(id.reveal(), key.reveal()), None),
            Credentials::Enrolment(code) => match enrolment::kept(state_root, &control.endpoint) {
                Some(credential) => (credential, None),
                None => (Credential::default(), Some(csm::Secret::new(code.reveal()))),
            },
        };
        let mut config = Config::new(endpoint, control.region.clone(), credential);
        // Every caller here tries again by itself, and looks in between whether it is to stop.
        config.attempts_max = 1;
        config.trust = match &control.trust {
            Trust::System | Trust::Plain => WireTrust::System,
            Trust::Authority(path) => WireTrust::CaFile(path.clone()),
            Trust::Fingerprint(text) => {
                WireTrust::Fingerprint(Fingerprint::from_str(text).map_err(|error| setting(&error))?)
            }
        };
        config.proxy = control.proxy.as_ref().map(|proxy| WireProxy {
            host: proxy.ip.to_string(),
            port: proxy.port,
            user: proxy.login.as_ref().map(|(user, _)| user.clone()),
            password: proxy
                .login
                .as_ref()
                .map(|(_, password)| password.reveal().into())
                .unwrap_or_default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api")
            .enable_all()
            .build()?;
        let client = {
            let _inside = runtime.enter();
            Client::new(config).map_err(SetupError::Client)?
        };
        if let Some(code) = code {
            let enrolment = runtime
                .block_on(client.enrol(&code))
                .map_err(SetupError::Client)?;
            enrolment::keep(state_root, &control.endpoint, &enrolment)?;
        }
        Ok(Self {
            client,
            runtime,
            answered: AtomicBool::new(false),
        })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// What the server answered, or why there was no answer.
    pub fn call<A: Action>(&self, request: &A) -> Result<A::Response, Error> {
        let result = self.runtime.block_on(self.client.call(request));
        if result
            .as_ref()
            .map_or_else(|error| error.code().is_some(), |_| true)
        {
            self.answered.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Whether waiting may help: nobody refused anything.
    pub fn is_outage(&self, error: &Error) -> bool {
        error.is_transient() || error.kind() == Kind::Proxy && self.answered.load(Ordering::Relaxed)
    }

    /// Makes a call, as often as it takes while the control plane cannot be reached.
    ///
    /// # Errors
    /// The server refused; or somebody asked to stop.
    pub fn insist<A: Action>(&self, request: &A, stop: &StopFlag) -> Result<A::Response, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.call(request) {
                Err(error) if self.is_outage(&error) && !stop.is_stopped() => {
                    tracing::warn!("{}; going on by itself", chain(&error));
                    if stop.sleep(pause) {
                        return Err(error);
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                result => return result,
            }
        }
    }
}

/// The error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some libraries repeat the cause in their own message.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
