//! `--disk` and the flags of the cutover, checked.

use std::path::PathBuf;
use std::time::Duration;

use sys::block_device::BlockDevice;
use transfer::source::{DisksSource, Freeze};

use crate::cli::SyncArgs;
use crate::refusal::Refusals;

/// Longest freeze unless told otherwise, in seconds: short enough for clients to wait through.
pub(crate) const FREEZE_MAX_DEFAULT: u64 = 30;
/// Longest freeze that can be asked for: databases give up on a disk that hangs for hours.
pub(crate) const FREEZE_MAX: u64 = 3600;

/// The disks that `args` name.
pub(super) fn check(args: &SyncArgs, refusals: &mut Refusals) -> Option<DisksSource> {
    let mut disks = Vec::new();
    for path in &args.disk {
        match std::fs::canonicalize(path).and_then(|real| Ok((BlockDevice::look(&real)?, real))) {
            Ok((Some(_), real)) if disks.contains(&real) => {
                refusals.add(format!("`--disk {}` is named twice", path.display()));
            }
            Ok((Some(_), real)) => disks.push(real),
            Ok((None, _)) => refusals.add(format!(
                "`--disk {}` is not a block device; lsblk lists the disks",
                path.display()
            )),
            Err(error) => refusals.add(format!("`--disk {}`: {error}", path.display())),
        }
    }
    refuse_overlaps(&disks, refusals);
    for (given, flag) in [
        (!args.exclude_from.is_empty(), "--exclude-from"),
        (!args.exclude.is_empty(), "--exclude"),
        (args.cross_mounts, "--cross-mounts"),
    ] {
        if given {
            refusals.add(format!(
                "`{flag}` has no meaning with `--disk`: a disk is copied whole"
            ));
        }
    }
    let freeze = check_freeze(args, refusals);
    refusals.is_empty().then_some(DisksSource { disks, freeze })
}

/// A disk and one of its partitions would be copied twice, at different moments.
fn refuse_overlaps(disks: &[PathBuf], refusals: &mut Refusals) {
    let devices: Vec<BlockDevice> = disks
        .iter()
        .filter_map(|path| BlockDevice::look(path).ok().flatten())
        .collect();
    for partition in devices.iter().filter(|device| device.is_partition()) {
        if devices.iter().any(|device| device.number == partition.disk) {
            refusals.add(format!(
                "`--disk {}` is a partition of another disk that is copied, too",
                partition.path.display()
            ));
        }
    }
}

/// The cutover; its flags without `--freeze` are refused.
pub(super) fn check_freeze(args: &SyncArgs, refusals: &mut Refusals) -> Option<Freeze> {
    let max = super::number(&args.freeze_max, "--freeze-max", 1..=FREEZE_MAX, refusals);
    if !args.freeze {
        for (given, flag) in [
            (args.freeze_max.is_some(), "--freeze-max"),
            (args.pre_freeze.is_some(), "--pre-freeze"),
            (args.post_freeze.is_some(), "--post-freeze"),
        ] {
            if given {
                refusals.add(format!("`{flag}` needs `--freeze`"));
            }
        }
        return None;
    }
    Some(Freeze {
        max: Duration::from_secs(max.unwrap_or(FREEZE_MAX_DEFAULT)),
        before: args.pre_freeze.clone(),
        after: args.post_freeze.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(args: &SyncArgs) -> String {
        let mut refusals = Refusals::default();
        assert_eq!(check(args, &mut refusals), None);
        refusals.as_slice().join("\n")
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let args = SyncArgs {
            disk: vec!["/dev/null".into(), "/nowhere".into()],
            cross_mounts: true,
            pre_freeze: Some("true".into()),
            ..SyncArgs::default()
        };
        let text = refusals(&args);
        for part in [
            "/dev/null",
            "lsblk",
            "/nowhere",
            "--cross-mounts",
            "needs `--freeze`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
