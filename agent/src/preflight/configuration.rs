//! fstab: what the target would wait for in vain.

use std::collections::BTreeSet;

use super::Finding;
use crate::inventory::Machine;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let text = machine.text("/etc/fstab").unwrap_or_default();
    vec![fstab(machine, &text)]
}

struct Entry<'a> {
    device: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn entries(text: &str) -> impl Iterator<Item = Result<Entry<'_>, &str>> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = line.split_whitespace();
            match (fields.next(), fields.next(), fields.next()) {
                (Some(device), Some(point), Some(kind)) => Ok(Entry {
                    device,
                    point,
                    kind,
                    options: fields.next().unwrap_or("defaults"),
                }),
                _ => Err(line),
            }
        })
}

fn fstab(machine: &Machine, text: &str) -> Finding {
    let name = "/etc/fstab";
    let mut points = BTreeSet::new();
    let mut broken = Vec::new();
    let mut odd = Vec::new();
    for entry in entries(text) {
        match entry {
            Err(line) => broken.push(format!("cannot be read: `{line}`")),
            Ok(entry) => {
                if entry.kind != "swap" && entry.point != "none" && !points.insert(entry.point.to_owned()) {
                    broken.push(format!("{} twice", entry.point));
                }
                odd.extend(doubtful(machine, &entry));
            }
        }
    }
    if !broken.is_empty() {
        Finding::fail(
            "P50",
            name,
            broken.join("; "),
            "correct /etc/fstab; findmnt --verify checks it",
        )
    } else if !odd.is_empty() {
        let remedy = "name devices by UUID= (blkid tells it), and add nofail to what may be missing";
        Finding::warn("P50", name, odd.join("; "), remedy).auto_fixed()
    } else {
        Finding::pass("P50", name, format!("{} mount points", points.len()))
    }
}

fn doubtful(machine: &Machine, entry: &Entry<'_>) -> Option<String> {
    let unstable = [
        "/dev/sd",
        "/dev/hd",
        "/dev/xvd",
        "/dev/vd",
        "/dev/nvme",
        "/dev/disk/by-path",
        "/dev/disk/by-id",
    ];
    if unstable.iter().any(|start| entry.device.starts_with(start)) {
        return Some(format!("{} named by {}", entry.point, entry.device));
    }
    if entry
        .options
        .split(',')
        .any(|option| option == "nofail" || option == "noauto")
    {
        return None;
    }
    let uuid = entry.device.strip_prefix("UUID=")?.trim_matches('"');
    let known = machine
        .path(&format!("/dev/disk/by-uuid/{uuid}"))
        .symlink_metadata()
        .is_ok();
    let folder = machine.path("/dev/disk/by-uuid").is_dir();
    (folder && !known).then(|| format!("{} on {}, which is not there", entry.point, entry.device))
}
