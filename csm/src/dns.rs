//! Names to addresses without glibc: literal addresses, `localhost`, `/etc/hosts`, then the name servers of
//! `/etc/resolv.conf`.
//!
//! A statically linked program must not enter glibc's name service, which would load shared modules of the host. Both
//! files are read at each call, so that a long-lived agent follows changes; connections are kept open, so calls are
//! rare. Other sources of `nsswitch.conf` (mDNS, LDAP) are not asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

/// A name that gave no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers could not be read from the file.
    #[error(
        "cannot look up {host}: {} names no usable name server ({problem}). Add one, or give an IP address, or put the name into /etc/hosts",
        path.display()
    )]
    Configuration {
        /// The name.
        host: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The name servers do not know the name, or do not answer.
    #[error("cannot look up {host}: {problem}. Check the name and the name servers in /etc/resolv.conf")]
    Lookup {
        /// The name.
        host: String,
        /// What the name servers said.
        problem: String,
    },
}

impl ResolveError {
    /// The name that was looked up.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Configuration { host, .. } | Self::Lookup { host, .. } => host,
        }
    }
}

/// Looks names up. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts_file: PathBuf,
    resolv_conf: PathBuf,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts_file: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

impl Resolver {
    /// Looks names up in these files instead of those in `/etc`.
    #[must_use]
    pub fn with_files(hosts_file: impl Into<PathBuf>, resolv_conf: impl Into<PathBuf>) -> Self {
        Self {
            hosts_file: hosts_file.into(),
            resolv_conf: resolv_conf.into(),
        }
    }

    /// The addresses of `host`, IPv4 before IPv6, at least one. IPv6 literals may stand in brackets.
    ///
    /// # Errors
    /// When nothing knows the name, or there is no name server to ask.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(address) = literal(host) {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let listed = in_hosts_file(&self.hosts_file, &name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let failed = |problem: String| ResolveError::Lookup {
            host: host.to_owned(),
            problem,
        };
        let answer = self
            .name_servers(host)?
            .lookup_ip(host)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            Err(failed("it has no address".to_owned()))
        } else {
            Ok(addresses)
        }
    }

    /// As [`Self::resolve`], with a port.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_with_port(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        Ok(self
            .resolve(host)
            .await?
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    fn name_servers(&self, host: &str) -> Result<TokioResolver, ResolveError> {
        let failed = |problem: String| ResolveError::Configuration {
            host: host.to_owned(),
            path: self.resolv_conf.clone(),
            problem,
        };
        let text = fs::read(&self.resolv_conf).map_err(|error| failed(error.to_string()))?;
        let (config, options) = parse_resolv_conf(text).map_err(|error| failed(error.to_string()))?;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.build().map_err(|error| failed(error.to_string()))
    }
}

/// The address that `host` itself is, with or without the brackets of an URL.
#[must_use]
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok()
}

fn in_hosts_file(path: &Path, name: &str) -> Vec<IpAddr> {
    let text = match fs::read(path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "cannot read the hosts file");
            }
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(literal) else {
            continue;
        };
        if words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

#[cfg(test)]
mod tests;
