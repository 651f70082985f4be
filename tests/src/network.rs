//! Networks for a test: namespaces, links between them and routes. All gone when dropped.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::command_in;

/// Some hosts, each a network namespace.
#[derive(Debug)]
pub struct Network {
    mark: String,
    hosts: Vec<String>,
}

/// One end of a link: host, interface, address with prefix.
pub type End<'a> = (&'a str, &'a str, &'a str);

fn run(command: &mut Command) {
    let output = command.output().expect("ip runs (package iproute2, as root)");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

impl Network {
    /// Hosts that know nothing but themselves.
    ///
    /// # Panics
    /// When the kernel refuses namespaces.
    #[must_use]
    pub fn new(hosts: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut network = Self {
            mark: format!("go2cloud-{}-{count}", std::process::id()),
            hosts: Vec::new(),
        };
        for host in hosts {
            run(Command::new("ip").args(["netns", "add", &network.namespace(host)]));
            network.hosts.push((*host).to_owned());
            network.ip(host, "link set lo up");
            // Else a router says for the first second that nobody is there: its own link address is still in doubt.
            network.run(
                host,
                "for name in all default; do echo 0 > /proc/sys/net/ipv6/conf/$name/accept_dad; done",
            );
        }
        network
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.mark)
    }

    /// Runs `ip` on a host; `line` is split at blanks.
    ///
    /// # Panics
    /// When it refuses.
    pub fn ip(&self, host: &str, line: &str) {
        let namespace = self.namespace(host);
        run(Command::new("ip")
            .args(["-n", &namespace])
            .args(line.split_whitespace()));
    }

    /// Links two hosts.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn link(&self, one: End<'_>, other: End<'_>) {
        let (host, interface, _) = one;
        let peer = self.namespace(other.0);
        self.ip(
            host,
            &format!(
                "link add {interface} type veth peer name {} netns {peer}",
                other.1
            ),
        );
        for (host, interface, address) in [one, other] {
            self.ip(host, &format!("addr add {address} dev {interface}"));
            self.ip(host, &format!("link set {interface} up"));
        }
    }

    /// Links a host to the host `router`, which gets the address `gateway`; the host then reaches `to` by this link.
    ///
    /// # Panics
    /// When the kernel refuses, or a route is there already.
    pub fn attach(&self, end: End<'_>, gateway: &str, to: &[&str]) {
        let (host, interface, _) = end;
        self.link(end, ("router", &format!("{interface}-{host}"), gateway));
        let (via, _) = gateway.split_once('/').expect("an address with its prefix");
        for to in to {
            self.ip(host, &format!("route add {to} via {via} dev {interface}"));
        }
    }

    /// Lets a host pass on what is not for itself.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn forward(&self, host: &str) {
        let text = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        self.run(host, text);
    }

    /// Takes the last IPv4 address from every host: there is nothing but IPv6 then.
    ///
    /// # Panics
    /// When a host has others, or the kernel refuses.
    pub fn forget_ipv4(&self) {
        for host in &self.hosts {
            self.ip(host, "addr del 127.0.0.1/8 dev lo");
            self.run(host, "test -z \"$(ip -4 addr show)\"");
        }
    }

    /// Whether a TCP connection from one host to an address comes about.
    ///
    /// # Panics
    /// When the shell does not run.
    #[must_use]
    pub fn connects(&self, host: &str, address: &str, port: u16) -> bool {
        let text = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2> /dev/null");
        let mut command = self.shell(host, &text);
        command.status().expect("a shell").success()
    }

    fn shell(&self, host: &str, text: &str) -> Command {
        let mut command = command_in(Some(&self.namespace(host)), "sh".as_ref());
        command.args(["-c", text]);
        command
    }

    fn run(&self, host: &str, text: &str) {
        run(&mut self.shell(host, text));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.namespace(host)])
                .status();
        }
    }
}
