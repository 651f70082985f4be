//! Where the control plane is: how the endpoint that a user gives becomes the address of each service.
//!
//! - A domain gets the service as a prefix: `api3.example.cn` → `https://csm.api3.example.cn`. A prefix that is already
//!   there is exchanged, so that a copied `csm.api3.example.cn` serves both services.
//! - An IP address, `localhost`, a name without a dot, and anything with a port are taken as they are.
//! - HTTPS, unless the endpoint begins with `http://`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::action::Service;
use crate::dns::literal;

/// An endpoint, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    host: Host,
    port: Option<u16>,
}

/// How to speak to the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// With TLS.
    Https,
    /// In the clear: signatures hold, but everybody on the way can read, and `Password` is among it.
    Http,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// An endpoint that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the endpoint `{endpoint}` {problem}; give a domain, a host:port or an IP address, such as api3.example.cn or 10.0.0.2:8443"
)]
pub struct EndpointError {
    endpoint: String,
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refuse = |problem| EndpointError {
            endpoint: text.to_owned(),
            problem,
        };
        let trimmed = text.trim();
        let (scheme, rest) = match trimmed.split_once("://") {
            None => (Scheme::Https, trimmed),
            Some((name, rest)) if name.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((name, rest)) if name.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some(_) => return Err(refuse("has a scheme other than https and http")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(refuse("must not have a path, a query or a user"));
        }
        let (host, port) = split_port(rest).ok_or_else(|| refuse("has no valid port"))?;
        let host = parse_host(host).ok_or_else(|| refuse("has no valid host name"))?;
        Ok(Self { scheme, host, port })
    }
}

/// Host and port; a bare IPv6 address has no port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if literal(text).is_some() {
        return Some((text, None));
    }
    match text.rsplit_once(':') {
        None => Some((text, None)),
        Some((host, port)) => match port.parse() {
            Ok(port) if port > 0 => Some((host, Some(port))),
            _ => None,
        },
    }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(address) = literal(text) {
        return Some(Host::Address(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(Host::Name(name))
}

impl Endpoint {
    /// How to speak to it.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The address of a service, `scheme://host[:port]/`. Services other than the two of the API have their name as a
    /// prefix too.
    #[must_use]
    pub fn url(&self, service: &str) -> String {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
        };
        format!("{scheme}://{}/", self.authority(service))
    }

    /// What the `Host` header says, and what is signed: `host`, or `host:port` when the port is not the scheme's own.
    #[must_use]
    pub fn authority(&self, service: &str) -> String {
        let own_port = match self.scheme {
            Scheme::Https => 443,
            Scheme::Http => 80,
        };
        let host = self.host_for(service);
        match self.port {
            Some(port) if port != own_port => format!("{host}:{port}"),
            _ => host,
        }
    }

    fn host_for(&self, service: &str) -> String {
        match &self.host {
            Host::Address(IpAddr::V4(address)) => address.to_string(),
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Name(name) if self.port.is_some() || !name.contains('.') => name.clone(),
            Host::Name(name) => {
                let known = Service::ALL
                    .iter()
                    .find_map(|known| name.strip_prefix(known.name())?.strip_prefix('.'));
                let domain = known.filter(|domain| domain.contains('.')).unwrap_or(name);
                format!("{service}.{domain}")
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url(Service::Csm.name()).trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_get_the_service_and_the_rest_is_taken_as_it_is() {
        for (endpoint, csm, cvm) in [
            (
                "api3.example.cn",
                "https://csm.api3.example.cn/",
                "https://cvm.api3.example.cn/",
            ),
            (
                "https://api3.Example.cn./",
                "https://csm.api3.example.cn/",
                "https://cvm.api3.example.cn/",
            ),
            (
                "csm.api3.example.cn",
                "https://csm.api3.example.cn/",
                "https://cvm.api3.example.cn/",
            ),
            (
                "cvm.example",
                "https://csm.cvm.example/",
                "https://cvm.cvm.example/",
            ),
            (
                "http://api3.example.cn",
                "http://csm.api3.example.cn/",
                "http://cvm.api3.example.cn/",
            ),
            (
                "api3.example.cn:8443",
                "https://api3.example.cn:8443/",
                "https://api3.example.cn:8443/",
            ),
            (
                "api3.example.cn:443",
                "https://api3.example.cn/",
                "https://api3.example.cn/",
            ),
            ("http://10.0.0.2:80", "http://10.0.0.2/", "http://10.0.0.2/"),
            ("10.0.0.2", "https://10.0.0.2/", "https://10.0.0.2/"),
            ("localhost", "https://localhost/", "https://localhost/"),
            ("control:8443", "https://control:8443/", "https://control:8443/"),
            ("2001:db8::1", "https://[2001:db8::1]/", "https://[2001:db8::1]/"),
            ("http://[::1]:8443", "http://[::1]:8443/", "http://[::1]:8443/"),
        ] {
            let parsed: Endpoint = endpoint.parse().unwrap();
            assert_eq!(
                (parsed.url("csm").as_str(), parsed.url("cvm").as_str()),
                (csm, cvm),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused_with_its_text() {
        for endpoint in [
            "",
            "ftp://a.b",
            "a.b/c",
            "a.b:0",
            "a.b:port",
            "a b",
            "-a.b",
            "a..b",
            "user@a.b",
            "[::1",
            "a.b?c",
        ] {
            let error = endpoint.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(endpoint), "{error}");
        }
    }
}
