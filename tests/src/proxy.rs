//! A real HTTP proxy that asks for a password: tinyproxy.

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, command_in, wait_until};

/// The proxy's user.
pub const USER: &str = "mover";
/// The proxy's password.
pub const PASSWORD: &str = "s3cret";

/// A running proxy; ended when dropped.
#[derive(Debug)]
pub struct Proxy {
    _process: Process,
    /// Where it listens.
    pub port: u16,
    log: PathBuf,
}

impl Proxy {
    /// Starts one on an address of this machine, or of a network namespace.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(folder: &Path, namespace: Option<&str>, address: IpAddr) -> Self {
        // In a namespace of its own every port is free.
        let port = namespace.map_or_else(free_port, |_| 8888);
        let (log, configuration) = (folder.join("proxy.log"), folder.join("proxy.conf"));
        let text = format!(
            "Port {port}\nListen {address}\nBasicAuth {USER} {PASSWORD}\nLogFile \"{}\"\nLogLevel Info\n",
            log.display()
        );
        fs::write(&configuration, text).expect("a configuration");
        let mut command: Command = command_in(namespace, "tinyproxy".as_ref());
        let process = Process::start(command.arg("-d").arg("-c").arg(&configuration));
        let ready = || {
            fs::read_to_string(&log)
                .is_ok_and(|text| text.contains("Accepting connections"))
                .then_some(())
        };
        wait_until("the proxy", Duration::from_millis(20), ready, String::new);
        Self {
            _process: process,
            port,
            log,
        }
    }

    /// What it logged so far.
    ///
    /// # Panics
    /// When there is no log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.local_addr().expect("its address").port()
}
