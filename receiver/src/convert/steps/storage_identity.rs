//! Files that name the source's disks by serial number, path or order. With new disks they hide the volumes: an LVM
//! devices file that does not list a disk keeps its volume group from coming up.

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::step::{Command, Context, Findings, Step};

/// Removes lists of the source's disks; programs make new ones.
pub struct StorageIdentity;

const LISTS: &[(&str, &str)] = &[
    (
        "/etc/lvm/devices/system.devices",
        "lists the source's disks; volume groups on others are ignored",
    ),
    ("/etc/lvm/cache/.cache", "cache of the source's disks"),
    ("/etc/blkid.tab", "cache of the source's disks"),
    ("/etc/blkid.tab.old", "cache of the source's disks"),
    ("/etc/blkid/blkid.tab", "cache of the source's disks"),
    ("/etc/multipath/bindings", "names the source's disks"),
    (
        "/etc/multipath/wwids",
        "lists the source's disks; a listed root disk would be claimed by multipath",
    ),
    ("/boot/grub/device.map", "orders the source's disks"),
    ("/boot/grub2/device.map", "orders the source's disks"),
    ("/etc/zfs/zpool.cache", "cache of the source's disks"),
];

impl Step for StorageIdentity {
    fn name(&self) -> &'static str {
        "storage-identity"
    }

    fn plan(&self, _: &Context<'_>, draft: &mut Draft<'_>, findings: &mut Findings) -> Result<Vec<Command>> {
        for (path, why) in LISTS {
            draft.remove(path, why)?;
        }
        for name in ["/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"] {
            let text = draft.text(name)?.unwrap_or_default();
            if let Some(line) = text.lines().find(|line| names_disks(line)) {
                findings.warn(
                    format!("{name} filters disks by name: {}", line.trim()),
                    "check after the first boot that no volume group is hidden; filter by a pattern that also \
                     matches /dev/vd*",
                );
            }
        }
        let multipath = draft.text("/etc/multipath.conf")?.unwrap_or_default();
        let claims_all = multipath.lines().map(str::trim).any(|line| {
            !line.starts_with('#')
                && line.contains("find_multipaths")
                && (line.contains("no") || line.contains("greedy"))
        });
        if claims_all {
            findings.warn(
                "/etc/multipath.conf makes multipath claim every disk, the virtual root disk too",
                "set find_multipaths to yes, or remove multipath: the target has one path to each disk",
            );
        }
        Ok(Vec::new())
    }

    fn verify(&self, _: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        for (path, why) in LISTS.iter().filter(|(path, _)| draft.exists(path)) {
            findings.warn(format!("{path} is still there: it {why}"), "remove it");
        }
        Ok(())
    }
}

/// Whether a line of lvm.conf accepts or rejects disks by names that differ at the target.
fn names_disks(line: &str) -> bool {
    let line = line.trim();
    let is_filter = ["filter", "global_filter"].iter().any(|key| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    });
    is_filter
        && [
            "/dev/sd",
            "/dev/xvd",
            "/dev/hd",
            "/dev/nvme",
            "/dev/disk/",
            "/dev/cciss",
            "|sd",
            "|xvd",
        ]
        .iter()
        .any(|name| line.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_that_name_disks_are_reported() {
        assert!(names_disks("\tglobal_filter = [ \"a|/dev/sda.*|\", \"r|.*|\" ]"));
        assert!(names_disks("filter=[\"a|/dev/disk/by-id/x|\"]"));
        assert!(!names_disks("# filter = [ \"a|/dev/sda|\" ]"));
        assert!(!names_disks("filter = [ \"a|.*|\" ]"));
    }
}
