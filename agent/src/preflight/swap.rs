//! Devices that the start waits for: where hibernation is resumed from.

use super::Finding;
use crate::inventory::Machine;

/// Where a resume device is named, and how the line begins.
const PLACES: [(&str, &str); 4] = [
    ("/proc/cmdline", "resume="),
    ("/etc/initramfs-tools/conf.d/resume", "RESUME="),
    ("/etc/default/grub", "resume="),
    ("/etc/kernel/cmdline", "resume="),
];

pub(super) fn check(machine: &Machine) -> Finding {
    let name = "resume device";
    let mut named = 0;
    let mut stale = Vec::new();
    for (path, key) in PLACES {
        let text = machine.text(path).unwrap_or_default();
        for device in devices(&text, key) {
            named += 1;
            if !exists(machine, &device) {
                stale.push(format!("{path} names {device}, which is not there"));
            }
        }
    }
    if !stale.is_empty() {
        let remedy = "take resume= out of /etc/default/grub and run update-grub; for initramfs-tools: echo RESUME=none > /etc/initramfs-tools/conf.d/resume && update-initramfs -u";
        Finding::warn("P51", name, stale.join("; "), remedy).auto_fixed()
    } else if named > 0 {
        Finding::pass("P51", name, "is there")
    } else {
        Finding::pass("P51", name, "none is named")
    }
}

fn devices(text: &str, key: &str) -> Vec<String> {
    let words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace);
    words
        .filter_map(|word| {
            let at = word.find(key)?;
            // `noresume=` is another word.
            let begins = at == 0 || !word[..at].ends_with(|letter: char| letter.is_ascii_alphanumeric());
            begins.then(|| word[at + key.len()..].trim_matches(['"', '\'']).to_owned())
        })
        .filter(|device| !["", "none", "auto"].contains(&device.as_str()))
        .collect()
}

fn exists(machine: &Machine, device: &str) -> bool {
    let by = |folder: &str, value: &str| {
        let path = format!("/dev/disk/{folder}/{value}");
        machine.path(&path).symlink_metadata().is_ok()
    };
    match device.split_once('=') {
        Some(("UUID", uuid)) => by("by-uuid", uuid),
        Some(("LABEL", label)) => by("by-label", label),
        Some(("PARTUUID", uuid)) => by("by-partuuid", uuid),
        _ => machine.path(device).symlink_metadata().is_ok(),
    }
}
