//! From `host:port` as the user wrote it to socket addresses.

use std::net::{IpAddr, SocketAddr};

/// Port of the receiver when none is given: one of the three that migrations have always needed open.
pub const PORT_DEFAULT: u16 = 443;

/// A target as the user named it: an address or a host name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Target {
    /// Parses `host`, `host:port`, `[v6]:port` or a bare address.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::new(address.ip().to_string(), address.port()));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::new(address.to_string(), PORT_DEFAULT));
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, PORT_DEFAULT),
            Some((host, port)) => match port.parse() {
                Ok(port) if port > 0 => (host, port),
                _ => return Err(format!("`{text}`: the port must be 1 to 65535")),
            },
        };
        let named = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !named {
            return Err(format!(
                "`{text}` is not a target; write 10.0.0.2:443, [2001:db8::2]:443 or host.example:443"
            ));
        }
        Ok(Self::new(host.to_owned(), port))
    }

    fn new(host: String, port: u16) -> Self {
        Self { host, port }
    }

    /// All addresses of the target.
    ///
    /// # Errors
    /// A sentence: the name does not resolve.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot look up {}: {error}", self.host))?;
        runtime
            .block_on(csm::dns::Resolver::default().resolve_with_port(&self.host, self.port))
            .map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_in_every_spelling() {
        for (text, host, port) in [
            ("10.0.0.2:8443", "10.0.0.2", 8443),
            ("10.0.0.2", "10.0.0.2", 443),
            ("::1", "::1", 443),
            ("[::1]", "::1", 443),
            ("[2001:db8::2]:8443", "2001:db8::2", 8443),
            ("target.example:80", "target.example", 80),
            ("localhost", "localhost", 443),
        ] {
            assert_eq!(Target::parse(text), Ok(Target::new(host.into(), port)), "{text}");
        }
        for text in [
            "",
            ":443",
            "host:0",
            "host:x",
            "host:70000",
            "a b:443",
            "https://host",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_looked_up() {
        let addresses = Target::parse("localhost:8443").unwrap().addresses().unwrap();
        assert!(
            addresses
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 8443)
        );
        assert!(!addresses.is_empty());
    }

    #[test]
    fn displayed_targets_parse_again() {
        for text in ["[::1]:443", "10.0.0.2:1", "host.example:443"] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
    }
}
