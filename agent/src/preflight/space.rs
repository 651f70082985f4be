//! Free space for the agent, and how much there is to migrate.

use std::path::Path;

use rustix::fs::statvfs;

use super::health::on_disks;
use super::{Finding, Subject};
use crate::inventory::{Scope, mounts};
use crate::units;

/// Free bytes that the baseline and the logs need at least.
const FREE_MIN: u64 = 100 << 20;
/// Files above which block-level migration is faster.
const FILES_MANY: u64 = 5_000_000;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![state_space(subject), boot_space(subject), files(subject)]
}

fn state_space(subject: &Subject<'_>) -> Finding {
    let name = "space for the agent";
    let root = &subject.plan.state_root;
    let existing = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Err(error) => Finding::fail(
            "P40",
            name,
            format!("{}: {error}", existing.display()),
            "name another folder by --state",
        ),
        Ok(space) => {
            let free = space.f_bavail * space.f_frsize;
            let observed = format!("{} free in {}", units::bytes(free), existing.display());
            if free < FREE_MIN {
                Finding::fail(
                    "P40",
                    name,
                    observed,
                    "free 100 MiB there, or name another folder by --state",
                )
            } else {
                Finding::pass("P40", name, observed)
            }
        }
    }
}

/// The target's conversion makes a new initramfs: /boot must have room for it.
fn boot_space(subject: &Subject<'_>) -> Finding {
    let name = "space in /boot";
    let boot = subject.machine.path("/boot");
    match statvfs(&boot) {
        Ok(space) if subject.is_whole() => {
            let free = space.f_bavail * space.f_frsize;
            if free < 50 << 20 {
                let remedy = "remove kernels that are no longer used";
                Finding::warn("P44", name, format!("{} free", units::bytes(free)), remedy)
            } else {
                Finding::pass("P44", name, format!("{} free", units::bytes(free)))
            }
        }
        _ => Finding::info("P44", name, "does not matter here"),
    }
}

/// Bytes to migrate, as far as they are known without reading everything, and their files: those of a directory counted, else
/// all on the file systems they lie on.
pub(super) fn amount(subject: &Subject<'_>) -> std::io::Result<(u64, u64)> {
    match subject.plan.scope() {
        Scope::Directory(root) => {
            let space = statvfs(root)?;
            let used = subject.inventory.disks.iter().map(|disk| disk.bytes).sum();
            let files = subject.inventory.entries;
            Ok((used, files.unwrap_or(space.f_files.saturating_sub(space.f_ffree))))
        }
        Scope::Disks(_) => Ok((subject.inventory.disks.iter().map(|disk| disk.bytes).sum(), 0)),
        Scope::Machine => {
            let mounts = mounts::mounts(subject.machine);
            let mut total = (0, 0);
            for mount in on_disks(&mounts) {
                let space = statvfs(&mount.point)?;
                total.0 += (space.f_blocks - space.f_bfree) * space.f_frsize;
                total.1 += space.f_files.saturating_sub(space.f_ffree);
            }
            if total.0 == 0 {
                let space = statvfs(&subject.plan.source_root)?;
                total = (
                    (space.f_blocks - space.f_bfree) * space.f_frsize,
                    space.f_files.saturating_sub(space.f_ffree),
                );
            }
            Ok(total)
        }
    }
}

fn files(subject: &Subject<'_>) -> Finding {
    let name = "amount";
    match amount(subject) {
        Err(error) => Finding::fail("P42", name, error.to_string(), "check the directory"),
        Ok((used, files)) => {
            let observed = format!("up to {} in {} files", units::bytes(used), units::count(files));
            if files > FILES_MANY {
                Finding::warn(
                    "P42",
                    name,
                    observed,
                    "block-level migration is faster for so many files",
                )
            } else {
                Finding::info("P42", name, observed)
            }
        }
    }
}
