//! What other platforms have left in the system.

use super::Finding;
use crate::inventory::Machine;

/// Guest tools: a file that shows them, and the package to remove.
const TOOLS: [(&str, &str); 9] = [
    ("/usr/bin/vmtoolsd", "open-vm-tools"),
    ("/usr/sbin/VBoxService", "virtualbox-guest-utils"),
    ("/usr/sbin/xe-daemon", "xe-guest-utilities"),
    ("/usr/sbin/waagent", "walinuxagent"),
    ("/usr/bin/google_guest_agent", "google-guest-agent"),
    ("/usr/bin/amazon-ssm-agent", "amazon-ssm-agent"),
    ("/usr/local/cloudmonitor/bin/argusagent", "Alibaba CloudMonitor"),
    ("/usr/local/aegis/aegis_client", "Alibaba Security Center"),
    ("/usr/sbin/hv_kvp_daemon", "hyperv-daemons"),
];

/// Security software that hooks into file access.
const GUARDS: [(&str, &str); 4] = [
    ("/opt/CrowdStrike/falconctl", "CrowdStrike Falcon"),
    ("/opt/ds_agent/ds_agent", "Trend Micro Deep Security"),
    ("/opt/McAfee/ens", "McAfee Endpoint Security"),
    ("/opt/sophos-spl", "Sophos"),
];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![
        cloud_init(machine),
        tools(machine),
        labels(machine),
        guards(machine),
    ]
}

fn present<'a>(machine: &Machine, known: &'a [(&str, &str)]) -> Vec<&'a str> {
    known
        .iter()
        .filter(|(path, _)| machine.path(path).exists())
        .map(|(_, name)| *name)
        .collect()
}

fn cloud_init(machine: &Machine) -> Finding {
    let name = "cloud-init";
    let installed = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"]
        .iter()
        .any(|path| machine.path(path).exists());
    if !installed {
        return Finding::info("P70", name, "not installed");
    }
    if machine.path("/etc/cloud/cloud-init.disabled").exists() {
        return Finding::info("P70", name, "installed and disabled");
    }
    let pinned = machine.names("/etc/cloud/cloud.cfg.d").into_iter().find(|file| {
        let text = machine
            .text(&format!("/etc/cloud/cloud.cfg.d/{file}"))
            .unwrap_or_default();
        text.lines().any(|line| line.starts_with("datasource_list:"))
    });
    match pinned {
        Some(file) => Finding::warn(
            "P70",
            name,
            format!("its data source is fixed in /etc/cloud/cloud.cfg.d/{file}"),
            "the target's cloud may be another one: remove that line, or use -disable-cloud-init",
        )
        .auto_fixed(),
        None => Finding::pass("P70", name, "installed"),
    }
}

fn tools(machine: &Machine) -> Finding {
    let name = "guest tools";
    let found = present(machine, &TOOLS);
    if found.is_empty() {
        Finding::pass("P71", name, "none of another platform")
    } else {
        let remedy = "remove these packages after the move: they wait for a platform that is no longer there";
        Finding::warn("P71", name, found.join(", "), remedy).auto_fixed()
    }
}

fn labels(machine: &Machine) -> Finding {
    let name = "SELinux";
    match machine.number("/sys/fs/selinux/enforce") {
        Some(1) => Finding::pass("P72", name, "enforcing; it stays so, labels are migrated"),
        Some(_) => Finding::pass("P72", name, "permissive"),
        None => Finding::pass("P72", name, "off"),
    }
}

fn guards(machine: &Machine) -> Finding {
    let name = "security software";
    let found = present(machine, &GUARDS);
    if found.is_empty() {
        Finding::pass("P73", name, "none that is known")
    } else {
        let remedy = "pause it for the time of the migration: it slows reading down and may block the agent";
        Finding::warn("P73", name, found.join(", "), remedy)
    }
}
