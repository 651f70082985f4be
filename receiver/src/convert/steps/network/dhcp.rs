//! DHCP on the first interface, written for the configuration system that is in use. The old files are removed (their
//! originals are kept): two descriptions of one interface would contradict each other.

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::facts::Family;
use crate::convert::step::{Context, Findings};

const WHY: &str = "addresses come by DHCP";

/// Configuration systems, in the order of precedence when several are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stack {
    Netplan,
    NetworkManager,
    RedHatScripts,
    Wicked,
    Interfaces,
    Networkd,
}

pub(super) fn plan(context: &Context<'_>, draft: &mut Draft<'_>, findings: &mut Findings) -> Result<()> {
    let Some(stack) = detect(context, draft) else {
        findings.warn(
            "no known network configuration is in use",
            "set up DHCP by hand on the console",
        );
        return Ok(());
    };
    let pin = context.machine.pins.first();
    let name = pin.map(|pin| pin.name.as_str());
    let Some(name) = name.or_else(|| any_name(stack)) else {
        findings.warn(
            "the name of the first interface is not known",
            "give it as --interface NAME,SOURCE-MAC,TARGET-MAC",
        );
        return Ok(());
    };
    let name = name.to_owned();
    let (path, text, mode) = profile(stack, &name);
    for old in old_files(draft, stack) {
        if old != path {
            draft.remove(&old, WHY)?;
        }
    }
    draft.write(&path, text.as_bytes(), mode, WHY)
}

fn detect(context: &Context<'_>, draft: &Draft<'_>) -> Option<Stack> {
    let enabled = |unit: &str| {
        let folders = draft.list("/etc/systemd/system");
        folders.iter().any(|folder| {
            folder.ends_with(".wants") && draft.exists(format!("/etc/systemd/system/{folder}/{unit}"))
        })
    };
    if !draft.files("/etc/netplan", ".yaml").is_empty() {
        return Some(Stack::Netplan);
    }
    let keyfiles = !draft
        .files("/etc/NetworkManager/system-connections", ".nmconnection")
        .is_empty();
    let scripts = draft
        .list("/etc/sysconfig/network-scripts")
        .iter()
        .any(|name| is_interface_script(name));
    if context.facts.family == Family::RedHat && scripts && !keyfiles {
        return Some(Stack::RedHatScripts);
    }
    if enabled("NetworkManager.service") || keyfiles {
        return Some(Stack::NetworkManager);
    }
    if context.facts.family == Family::Suse {
        return Some(Stack::Wicked);
    }
    if draft.exists("/etc/network/interfaces") {
        return Some(Stack::Interfaces);
    }
    enabled("systemd-networkd.service").then_some(Stack::Networkd)
}

fn is_interface_script(name: &str) -> bool {
    name.strip_prefix("ifcfg-")
        .is_some_and(|rest| rest != "lo" && !rest.contains('~') && !rest.ends_with(".bak"))
}

/// The name to use when nothing is known about the hardware: patterns where the system takes them.
fn any_name(stack: Stack) -> Option<&'static str> {
    match stack {
        Stack::Netplan | Stack::NetworkManager | Stack::Networkd => Some("e*"),
        Stack::Interfaces | Stack::RedHatScripts | Stack::Wicked => None,
    }
}

fn old_files(draft: &Draft<'_>, stack: Stack) -> Vec<String> {
    let scripts = |folder: &str| {
        let names = draft.list(folder);
        names
            .into_iter()
            .filter(|name| is_interface_script(name))
            .map(|name| format!("{folder}/{name}"))
            .collect()
    };
    match stack {
        Stack::Netplan => draft.files("/etc/netplan", ".yaml"),
        Stack::NetworkManager => draft.files("/etc/NetworkManager/system-connections", ".nmconnection"),
        Stack::RedHatScripts => scripts("/etc/sysconfig/network-scripts"),
        Stack::Wicked => scripts("/etc/sysconfig/network"),
        Stack::Interfaces => draft.files("/etc/network/interfaces.d", ""),
        Stack::Networkd => draft.files("/etc/systemd/network", ".network"),
    }
}

fn profile(stack: Stack, name: &str) -> (String, String, Option<u32>) {
    match stack {
        Stack::Netplan => (
            "/etc/netplan/90-go2cloud.yaml".to_owned(),
            format!(
                "network:\n  version: 2\n  ethernets:\n    primary:\n      match:\n        name: \"{name}\"\n      \
                 dhcp4: true\n      dhcp6: true\n      optional: true\n"
            ),
            Some(0o600),
        ),
        Stack::NetworkManager => {
            let bound = if name.contains('*') {
                String::new()
            } else {
                format!("interface-name={name}\n")
            };
            (
                "/etc/NetworkManager/system-connections/go2cloud.nmconnection".to_owned(),
                format!(
                    "[connection]\nid=go2cloud\ntype=ethernet\n{bound}autoconnect=true\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
                ),
                Some(0o600),
            )
        }
        Stack::RedHatScripts => (
            format!("/etc/sysconfig/network-scripts/ifcfg-{name}"),
            format!(
                "DEVICE={name}\nTYPE=Ethernet\nBOOTPROTO=dhcp\nONBOOT=yes\nDEFROUTE=yes\nIPV6INIT=yes\nIPV6_AUTOCONF=yes\n"
            ),
            None,
        ),
        Stack::Wicked => (
            format!("/etc/sysconfig/network/ifcfg-{name}"),
            "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n".to_owned(),
            None,
        ),
        Stack::Interfaces => (
            "/etc/network/interfaces".to_owned(),
            format!(
                "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\nauto {name}\niface {name} inet dhcp\n"
            ),
            None,
        ),
        Stack::Networkd => (
            "/etc/systemd/network/20-go2cloud.network".to_owned(),
            format!("[Match]\nName={name}\nType=ether\n\n[Network]\nDHCP=yes\n"),
            None,
        ),
    }
}
