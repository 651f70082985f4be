//! How a client reaches its control plane.

use std::time::Duration;

use crate::client::endpoint::Endpoint;
use crate::client::trust::Trust;
use crate::credential::Credential;
use crate::dns::{Resolver, literal};
use crate::secret::Secret;
use crate::signing::SignMethod;

/// A request may take this long altogether, from connecting to the last byte of the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Connecting, TLS included, may take this long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request is sent at most this often. With the delays of [`DELAY_MIN`] and [`DELAY_MAX`], doubled each time, five
/// attempts span 0.5 + 1 + 2 + 4 = 7.5 s, and as much again of jitter.
pub const ATTEMPTS_MAX: usize = 5;
/// The delay before the second attempt.
pub const DELAY_MIN: Duration = Duration::from_millis(500);
/// No delay is longer.
pub const DELAY_MAX: Duration = Duration::from_secs(8);

/// Settings of a client. [`Config::new`] gives those that most need.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the control plane is.
    pub endpoint: Endpoint,
    /// The region that requests are for.
    pub region: String,
    /// The key to sign with.
    pub credential: Credential,
    /// How to sign.
    pub sign_method: SignMethod,
    /// How the control plane proves itself.
    pub trust: Trust,
    /// The HTTP proxy to go through. Only this one: proxies named in the environment are not used.
    pub proxy: Option<Proxy>,
    /// What to do when the clocks differ.
    pub clock: ClockPolicy,
    /// How often a request is sent, the first time included.
    pub attempts_max: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Turns names into addresses.
    pub resolver: Resolver,
}

impl Config {
    /// The usual settings for an endpoint, a region and a key.
    #[must_use]
    pub fn new(endpoint: Endpoint, region: impl Into<String>, credential: Credential) -> Self {
        Self {
            endpoint,
            region: region.into(),
            credential,
            sign_method: SignMethod::default(),
            trust: Trust::default(),
            proxy: None,
            clock: ClockPolicy::default(),
            attempts_max: ATTEMPTS_MAX,
            timeout: REQUEST_TIMEOUT,
            resolver: Resolver::default(),
        }
    }
}

/// An HTTP proxy. HTTPS requests pass through it by `CONNECT`, so it sees neither requests nor answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user to sign in as, when it asks for one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Secret,
}

impl Proxy {
    /// `http://host:port`, without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        match literal(&self.host) {
            Some(address) if address.is_ipv6() => format!("http://[{address}]:{}", self.port),
            _ => format!("http://{}:{}", self.host, self.port),
        }
    }
}

/// What to do when the server refuses a request because of its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClockPolicy {
    /// Say which clock is wrong and by how much.
    #[default]
    Explain,
    /// Sign with the server's time from then on. Only over HTTPS: in the clear, anybody on the way could have requests
    /// signed for a time of their choice.
    Correct,
}
