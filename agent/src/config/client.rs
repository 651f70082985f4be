//! `client.json`: how the tool behaves.

use std::path::Path;

use super::document::Document;
use crate::refusal::Refusals;
use crate::secret_text::SecretText;

/// The content of `client.json`; everything in it is optional.
#[derive(Debug, Default)]
pub struct ClientFile {
    /// Skip the checks.
    pub ignore_check: Option<bool>,
    /// Run in the background.
    pub daemon: Option<bool>,
    /// Migrate without a job.
    pub no_console: Option<bool>,
    /// Network mode.
    pub mode: Option<String>,
    /// Proxy address.
    pub proxy_ip: Option<String>,
    /// Send data over IPv6.
    pub ipv6: Option<bool>,
    /// Proxy port.
    pub proxy_port: Option<String>,
    /// Proxy user.
    pub proxy_user: Option<String>,
    /// Proxy password.
    pub proxy_password: Option<SecretText>,
    /// Limit in KB/s.
    pub bandwidth_limit: Option<String>,
    /// Let the target read everything back and compare.
    pub checksum: Option<bool>,
}

/// The keys, with the ones that only older editions document last.
const KEYS: [&str; 12] = [
    "Client.Extra.IgnoreCheck",
    "Client.Extra.Daemon",
    "Client.Net.Proxy.Ip",
    "Client.Net.Proxy.IpV6",
    "Client.Net.Proxy.Port",
    "Client.Net.Proxy.User",
    "Client.Net.Proxy.Password",
    "Client.ToolMode",
    "Client.Net.Mode",
    "Client.Net.IpV6",
    "Client.Rsync.BandwidthLimit",
    "Client.Rsync.Checksum",
];

impl ClientFile {
    /// Reads the text of `path`.
    pub(super) fn parse(path: &Path, text: &str, refusals: &mut Refusals) -> Self {
        let Some(mut document) = Document::parse(path, text, refusals) else {
            return Self::default();
        };
        let file = Self {
            ignore_check: document.switch(&[KEYS[0]], refusals),
            daemon: document.switch(&[KEYS[1]], refusals),
            proxy_ip: document.text(&[KEYS[2]], refusals),
            ipv6: document.switch(&[KEYS[3], KEYS[9]], refusals),
            proxy_port: document.text(&[KEYS[4]], refusals),
            proxy_user: document.text(&[KEYS[5]], refusals),
            proxy_password: document.text(&[KEYS[6]], refusals).map(SecretText::new),
            no_console: document.switch(&[KEYS[7]], refusals),
            mode: document.text(&[KEYS[8]], refusals),
            bandwidth_limit: document.text(&[KEYS[10]], refusals),
            checksum: document.switch(&[KEYS[11]], refusals),
        };
        document.finish(&KEYS, refusals);
        file
    }
}
