//! Network interfaces on other hardware. By default every interface keeps its old name, pinned to its new hardware
//! address, so that whatever configures the network at the source goes on unchanged: udev, systemd-networkd, ifcfg
//! files, netplan, NetworkManager, `interfaces`. On request the first interface gets its address by DHCP instead.

mod dhcp;

use transfer::Result;

use crate::convert::draft::{Derived, Draft};
use crate::convert::machine::Pin;
use crate::convert::options::NetworkMode;
use crate::convert::step::{Command, Context, Findings, Step};

/// Keeps interface names, or sets up DHCP.
pub struct Network;

/// Files that may name a hardware address: folder and suffix.
const ADDRESS_FILES: &[(&str, &str)] = &[
    ("/etc/udev/rules.d", "net.rules"),
    ("/etc/sysconfig/network-scripts", ""),
    ("/etc/sysconfig/network", ""),
    ("/etc/NetworkManager/system-connections", ""),
    ("/etc/netplan", ".yaml"),
    ("/etc/netplan", ".yml"),
    ("/etc/systemd/network", ".network"),
    ("/etc/systemd/network", ".netdev"),
    ("/etc/network/interfaces.d", ""),
    ("/etc/network", "interfaces"),
    ("/etc/cloud/cloud.cfg.d", ".cfg"),
];
/// Rule files of older udev.
const OLD_RULES: &str = "/etc/udev/rules.d/70-persistent-net.rules";

impl Step for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        let pins = &context.machine.pins;
        if pins.is_empty() {
            findings.warn(
                "the interfaces of source and target are not known: names may change with the hardware",
                "give each as --interface NAME,SOURCE-MAC,TARGET-MAC",
            );
        }
        replace_addresses(draft, pins)?;
        for pin in pins {
            pin_name(draft, context, pin)?;
        }
        let kernel_names = pins.iter().filter(|pin| pin.name.starts_with("eth")).count();
        if kernel_names > 1 {
            findings.warn(
                format!(
                    "{kernel_names} interfaces keep names of the form ethN, which the kernel gives out too"
                ),
                "check after the first boot that each has its own address",
            );
        }
        if context.options.network == NetworkMode::Dhcp {
            dhcp::plan(context, draft, findings)?;
        }
        Ok(Vec::new())
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        for pin in &context.machine.pins {
            if pinned_address(draft, context, &pin.name)?.as_deref() != Some(&pin.target_mac) {
                findings.fatal(
                    format!(
                        "nothing gives the name {} to the interface {}",
                        pin.name, pin.target_mac
                    ),
                    "run the conversion again",
                );
            }
            for file in address_files(draft) {
                let text = draft.text(&file)?.unwrap_or_default().to_lowercase();
                if !pin.source_mac.is_empty()
                    && pin.source_mac != pin.target_mac
                    && text.contains(&pin.source_mac)
                {
                    findings.warn(
                        format!("{file} still names the old address {}", pin.source_mac),
                        "replace it",
                    );
                }
            }
        }
        Ok(())
    }
}

fn address_files(draft: &Draft<'_>) -> Vec<String> {
    ADDRESS_FILES
        .iter()
        .flat_map(|(folder, suffix)| draft.files(folder, suffix))
        .collect()
}

/// Old hardware addresses become new ones, all at once: two interfaces may have swapped theirs.
fn replace_addresses(draft: &mut Draft<'_>, pins: &[Pin]) -> Result<()> {
    let changed: Vec<&Pin> = pins
        .iter()
        .filter(|pin| !pin.source_mac.is_empty() && pin.source_mac != pin.target_mac)
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    for file in address_files(draft) {
        draft.edit(&file, "the interface has another hardware address", |text| {
            replace_in(text, &changed)
        })?;
    }
    Ok(())
}

fn replace_in(text: &str, pins: &[&Pin]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    'text: while !rest.is_empty() {
        for pin in pins {
            let Some(found) = rest.get(..pin.source_mac.len()) else {
                continue;
            };
            if found.eq_ignore_ascii_case(&pin.source_mac) {
                let is_upper = found.bytes().any(|byte| byte.is_ascii_uppercase());
                let target = if is_upper {
                    pin.target_mac.to_uppercase()
                } else {
                    pin.target_mac.clone()
                };
                result.push_str(&target);
                rest = &rest[found.len()..];
                continue 'text;
            }
        }
        let next = rest.chars().next().map_or(1, char::len_utf8);
        result.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    result
}

fn link_path(name: &str) -> String {
    format!("/etc/systemd/network/10-go2cloud-{name}.link")
}

fn link_text(pin: &Pin) -> String {
    format!(
        "# The interface keeps the name it had before the migration.\n[Match]\nMACAddress={}\n\n[Link]\nName={}\n",
        pin.target_mac, pin.name
    )
}

fn rule_text(pin: &Pin) -> String {
    format!(
        "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{}\", ATTR{{type}}==\"1\", NAME=\"{}\"",
        pin.target_mac, pin.name
    )
}

/// Gives the old name to the new address: a `.link` file for systemd's udev, a rule for older ones.
fn pin_name(draft: &mut Draft<'_>, context: &Context<'_>, pin: &Pin) -> Result<()> {
    let why = "the interface keeps its name";
    if context.facts.systemd {
        let (path, text) = (link_path(&pin.name), link_text(pin));
        // The system's own udev renames an interface that the initial RAM file system has named already, unless it is up.
        if draft.text(&path)?.as_deref() != Some(&text) && has_early_network(draft)? {
            draft.outdate(Derived::Initramfs);
        }
        return draft.write(path, text.as_bytes(), None, why);
    }
    let text = draft.text(OLD_RULES)?.unwrap_or_default();
    let wanted = rule_text(pin);
    let is_ours = |line: &str| line.contains(&format!("NAME=\"{}\"", pin.name));
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !is_ours(line) || *line == wanted)
        .collect();
    if !lines.contains(&wanted.as_str()) {
        lines.push(&wanted);
    }
    draft.write(OLD_RULES, (lines.join("\n") + "\n").as_bytes(), None, why)
}

/// Whether the initial RAM file system sets up the network: for a login before the disks are unlocked, or by `ip=`.
fn has_early_network(draft: &Draft<'_>) -> Result<bool> {
    if draft.exists("/etc/dropbear/initramfs") || draft.exists("/etc/dropbear-initramfs") {
        return Ok(true);
    }
    for file in [
        "/etc/default/grub",
        "/etc/kernel/cmdline",
        "/etc/initramfs-tools/initramfs.conf",
    ] {
        let text = draft.text(file)?.unwrap_or_default();
        let mut words = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split([' ', '"', '\'']));
        if words.any(|word| word.to_lowercase().starts_with("ip=") || word.starts_with("rd.neednet")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The address that carries `name` by configuration.
fn pinned_address(draft: &Draft<'_>, context: &Context<'_>, name: &str) -> Result<Option<String>> {
    if context.facts.systemd {
        let text = draft.text(link_path(name))?.unwrap_or_default();
        return Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("MACAddress="))
            .map(str::to_owned));
    }
    let text = draft.text(OLD_RULES)?.unwrap_or_default();
    let mut rules = text
        .lines()
        .filter(|line| line.contains(&format!("NAME=\"{name}\"")));
    let rule = rules.next().filter(|_| rules.next().is_none());
    let address = rule.and_then(|rule| {
        rule.split("ATTR{address}==\"")
            .nth(1)?
            .split('"')
            .next()
            .map(str::to_owned)
    });
    Ok(address)
}

#[cfg(test)]
mod tests;
