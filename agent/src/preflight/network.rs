//! What will decide whether the target can be reached after the move.

use super::Finding;
use crate::inventory::Machine;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![stacks(machine), resolvers(machine), ssh(machine)]
}

fn stacks(machine: &Machine) -> Finding {
    let name = "network configuration";
    let full = |folder: &str, end: &str| machine.names(folder).iter().any(|file| file.ends_with(end));
    let mut found = Vec::new();
    if full("/etc/netplan", ".yaml") {
        found.push("netplan");
    }
    if full("/etc/systemd/network", ".network") {
        found.push("systemd-networkd");
    }
    if full("/etc/NetworkManager/system-connections", ".nmconnection") {
        found.push("NetworkManager");
    }
    let scripts = machine.names("/etc/sysconfig/network-scripts");
    if scripts
        .iter()
        .any(|file| file.starts_with("ifcfg-") && file != "ifcfg-lo")
    {
        found.push("ifcfg");
    }
    let interfaces = machine.text("/etc/network/interfaces").unwrap_or_default();
    if interfaces
        .lines()
        .any(|line| line.starts_with("iface ") && !line.starts_with("iface lo "))
    {
        found.push("ifupdown");
    }
    match found.len() {
        0 => Finding::info("P60", name, "none that is known"),
        1 => Finding::pass("P60", name, found[0]),
        _ => Finding::warn(
            "P60",
            name,
            format!("several at once: {}", found.join(", ")),
            "leave the one that is used: after the move it is not certain which one wins",
        ),
    }
}

fn resolvers(machine: &Machine) -> Finding {
    let name = "name servers";
    let text = machine.text("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .map(str::trim)
        .collect();
    // 100.64.0.0/10 and 169.254.0.0/16: addresses that exist within one cloud only.
    let inner = |server: &&&str| {
        let bytes: Vec<u8> = server.split('.').filter_map(|part| part.parse().ok()).collect();
        matches!(bytes.as_slice(), [100, 64..=127, ..] | [169, 254, ..])
    };
    match servers.iter().find(inner) {
        Some(server) => Finding::warn(
            "P61",
            name,
            format!("{server} exists in this cloud only"),
            "do not set -preserve-dns; the target takes its own",
        ),
        None if servers.is_empty() => Finding::info("P61", name, "none in /etc/resolv.conf"),
        None => Finding::pass("P61", name, servers.join(", ")),
    }
}

fn ssh(machine: &Machine) -> Finding {
    let name = "SSH after the move";
    let text = machine.text("/etc/ssh/sshd_config").unwrap_or_default();
    let bound = text.lines().map(str::trim).find_map(|line| {
        let address = line.strip_prefix("ListenAddress")?.trim();
        (!["0.0.0.0", "::", "*"].contains(&address)).then(|| address.to_owned())
    });
    match bound {
        _ if text.is_empty() => Finding::info("P62", name, "sshd is not configured here"),
        Some(address) => Finding::warn(
            "P62",
            name,
            format!("sshd listens on {address} only"),
            "take ListenAddress out of /etc/ssh/sshd_config: the target has another address",
        ),
        None => Finding::pass("P62", name, "sshd listens everywhere"),
    }
}
