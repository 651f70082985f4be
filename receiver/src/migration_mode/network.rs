//! Addresses of a machine in migration mode: static ones by hardware address, or DHCP; IPv6 by router advertisement is
//! the kernel's own affair. The work is done by busybox, which is in the image for this.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use transfer::{Error, Kind, Result};

use super::console::say;
use super::settings::Network;
use crate::convert::probe::tool;

/// How long an address is waited for.
const ADDRESS_TIME_MAX: Duration = Duration::from_secs(30);

/// Brings up all interfaces and returns the addresses under which the machine can be reached.
///
/// # Errors
/// Static addresses cannot be set.
pub(super) fn bring_up(network: &Network) -> Result<Vec<String>> {
    let interfaces = hardware_addresses();
    ip(&["link", "set", "lo", "up"])?;
    for (name, _) in &interfaces {
        ip(&["link", "set", name, "up"])?;
    }
    if network.addresses.is_empty() {
        for (name, _) in &interfaces {
            start_dhcp(name)?;
        }
    } else {
        set_addresses(network, &interfaces)?;
    }
    let deadline = Instant::now() + ADDRESS_TIME_MAX;
    loop {
        let found = addresses()?;
        if !found.is_empty() || interfaces.is_empty() || Instant::now() > deadline {
            if found.is_empty() {
                say("no address yet: check the network, or give static addresses in the settings");
            }
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(250));
    }
}

/// Names and hardware addresses of the machine's interfaces, in the order of the kernel.
pub(super) fn hardware_addresses() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let mac = fs::read_to_string(entry.path().join("address"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        if let (true, Ok(name)) = (
            entry.path().join("device").exists(),
            entry.file_name().into_string(),
        ) {
            found.push((name, mac));
        }
    }
    found.sort_by_key(|(name, _)| (name.len(), name.clone()));
    found
}

fn ip(arguments: &[&str]) -> Result<()> {
    tool("ip", arguments, None).map(|_| ())
}

fn start_dhcp(interface: &str) -> Result<()> {
    // It stays and renews its lease; its script only adds what it is told.
    Command::new("udhcpc")
        .args(["-f", "-S", "-i", interface, "-s", "/etc/udhcpc.script", "-A", "5"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(|_| ())
        .map_err(|error| Error::new(Kind::Medium, "start the DHCP client").because(error))
}

fn set_addresses(network: &Network, interfaces: &[(String, String)]) -> Result<()> {
    let wanted = |(_, mac): &&(String, String)| {
        network
            .mac
            .as_ref()
            .is_none_or(|asked| asked.eq_ignore_ascii_case(mac))
    };
    let Some((name, _)) = interfaces.iter().find(wanted) else {
        return Err(Error::new(Kind::Usage, "find the interface of the settings")
            .remedy("check its hardware address"));
    };
    for address in &network.addresses {
        ip(&["addr", "add", address, "dev", name])?;
    }
    for gateway in &network.gateways {
        // A gateway outside of the prefix, as some clouds have it, is reached on the link.
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        if ip(&[family, "route", "add", "default", "via", gateway, "dev", name]).is_err() {
            ip(&[family, "route", "add", gateway, "dev", name])?;
            ip(&[family, "route", "add", "default", "via", gateway, "dev", name])?;
        }
    }
    Ok(())
}

fn addresses() -> Result<Vec<String>> {
    let text = tool("ip", &["-o", "addr", "show"], None)?.unwrap_or_default();
    Ok(parse(&text))
}

/// Global addresses of `ip -o addr show`, ready for `HOST:PORT`.
fn parse(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains("scope global")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(index) = words.iter().position(|word| *word == "inet" || *word == "inet6") else {
            continue;
        };
        let Some(address) = words.get(index + 1).and_then(|word| word.split('/').next()) else {
            continue;
        };
        found.push(if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_addresses_are_found() {
        let text = "1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\n\
                    2: eth0    inet6 fd00::2/64 scope global dynamic\n2: eth0    inet6 fe80::1/64 scope link\n";
        assert_eq!(parse(text), ["10.0.2.15", "[fd00::2]"]);
    }
}
