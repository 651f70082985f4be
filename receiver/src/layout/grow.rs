//! A larger disk that was copied block by block: its last partition grows to the end, and the file system in it; with
//! LVM, the root volume gets what its group gained. Nothing is moved, and nothing shrinks; what a group had free before
//! stays free. Encrypted and RAID volumes are left as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sys::block_device::BlockDevice;
use transfer::{Error, Kind, Result};

use crate::convert::machine::Volume;
use crate::convert::probe::{self, lvm_report, tool, volume_group};

/// What is not worth a partition table's change, in bytes: disks end within a few MiB of their last partition.
const WORTHWHILE: u64 = 16 << 20;

/// What a volume group gained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gain {
    /// Name of the group.
    pub group: String,
    /// Extents.
    pub extents: u64,
}

/// Grows the last partition of each of `disks`; see [`grow_last_partition`].
///
/// # Errors
/// A tool fails; the partition tables are then still valid ones.
pub fn grow_disks(disks: &[PathBuf]) -> Result<Vec<Gain>> {
    let gains: Vec<Option<Gain>> = disks
        .iter()
        .map(|disk| grow_last_partition(disk))
        .collect::<Result<_>>()?;
    Ok(gains.into_iter().flatten().collect())
}

/// Grows the last partition of `disk` to its end, and what lies in it as far as that need not be mounted. Says what a
/// volume group gained by that.
///
/// # Errors
/// A tool fails; the partition table is then still a valid one.
pub fn grow_last_partition(disk: &Path) -> Result<Option<Gain>> {
    // The backup of a GPT belongs to the end of the disk; other tables have none, and sfdisk says so.
    let name = disk.display().to_string();
    let _ = tool("sfdisk", &["--quiet", "--relocate", "gpt-bak-std", &name], None);
    let table = tool("sfdisk", &["--json", &name], Some(1))?;
    let Some(last) = table.as_deref().and_then(last_partition) else {
        return Ok(None);
    };
    let look = BlockDevice::look(disk).map_err(|error| Error::io("look at the disk", disk, error))?;
    let (len, sector) = look.map_or((0, 512), |disk| (disk.len, u64::from(disk.logical_sector_len)));
    if (last.end * sector).saturating_add(WORTHWHILE) > len {
        return Ok(None);
    }
    resize(&name, last.number)?;
    let _ = tool("partx", &["--update", &name], None);
    let found = probe::volumes(&[disk.to_owned()])?;
    let volume = found
        .iter()
        .find(|volume| volume.position == Some((0, last.number)));
    let Some(volume) = volume else { return Ok(None) };
    let device = volume.device.display().to_string();
    match volume.kind.as_str() {
        "ext2" | "ext3" | "ext4" => {
            // 1: errors were corrected, as the replay of the journal is.
            tool("e2fsck", &["-f", "-p", &device], Some(1))?;
            tool("resize2fs", &[&device], None)?;
        }
        "LVM2_member" => {
            let (_, before) = group_of(&device)?;
            tool("lvm", &["pvresize", &device], None)?;
            let (group, after) = group_of(&device)?;
            let extents = after.saturating_sub(before);
            return Ok((extents > 0 && !group.is_empty()).then_some(Gain { group, extents }));
        }
        _ => {}
    }
    Ok(None)
}

/// Name and free extents of the group that a physical volume belongs to.
fn group_of(device: &str) -> Result<(String, u64)> {
    let report = lvm_report("pvs", "vg_name,vg_free_count", device)?;
    Ok(match report.first().map(Vec::as_slice) {
        Some([group, free]) => (group.clone(), free.parse().unwrap_or(0)),
        _ => (String::new(), 0),
    })
}

/// Grows those of `volumes` that can only be grown while they are mounted, below `root`, to what their partitions have,
/// after the root volume was given what its group gained.
///
/// # Errors
/// A tool fails.
pub fn grow_mounted(root: &Path, volumes: &[Volume], gains: &[Gain]) -> Result<()> {
    for volume in volumes {
        let Some(at) = &volume.mounted_at else { continue };
        let device = volume.device.display().to_string();
        if at == "/" && extend(&device, gains)? && volume.kind.starts_with("ext") {
            tool("resize2fs", &[&device], None)?;
        }
        let place = root.join(at.trim_start_matches('/')).display().to_string();
        match volume.kind.as_str() {
            "xfs" => {
                tool("xfs_growfs", &["-d", &place], None)?;
            }
            "btrfs" => {
                tool("btrfs", &["filesystem", "resize", "max", &place], None)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives a logical volume what its group gained. Whether there was anything to give.
fn extend(device: &str, gains: &[Gain]) -> Result<bool> {
    if !device.starts_with("/dev/mapper/") {
        return Ok(false);
    }
    let group = volume_group("lvs", device)?;
    let gained = gains.iter().filter(|gain| gain.group == group);
    let extents: u64 = gained.map(|gain| gain.extents).sum();
    if extents > 0 {
        tool(
            "lvm",
            &["lvextend", "--extents", &format!("+{extents}"), device],
            None,
        )?;
    }
    Ok(extents > 0)
}

struct Last {
    number: u32,
    /// First sector behind it.
    end: u64,
}

/// The partition that ends last, when it can grow: a logical one cannot without its extended one.
fn last_partition(json: &str) -> Option<Last> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let table = &value["partitiontable"];
    let partitions = table["partitions"].as_array()?;
    let read = |partition: &serde_json::Value| {
        let node = partition["node"].as_str()?;
        let digits = node.trim_end_matches(|last: char| last.is_ascii_digit()).len();
        let kind = partition["type"].as_str().unwrap_or_default();
        Some((
            node[digits..].parse().ok()?,
            partition["start"].as_u64()? + partition["size"].as_u64()?,
            matches!(kind, "5" | "f" | "85"),
        ))
    };
    let (number, end, is_extended) = partitions
        .iter()
        .filter_map(read)
        .max_by_key(|(_, end, _)| *end)?;
    let is_logical = table["label"] == "dos" && number > 4;
    (!is_logical && !is_extended).then_some(Last { number, end })
}

/// `, +`: from where it is, to the end.
fn resize(disk: &str, number: u32) -> Result<()> {
    let failed = |why: String| {
        Error::new(Kind::Medium, format!("grow partition {number}"))
            .on(disk)
            .because(why)
    };
    let mut child = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--partno", &number.to_string(), disk])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("sfdisk: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, b", +\n").map_err(|error| failed(error.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_partition_is_the_one_that_ends_last_unless_it_cannot_grow() {
        let table = |label: &str, partitions: &str| {
            format!(r#"{{"partitiontable":{{"label":"{label}","partitions":[{partitions}]}}}}"#)
        };
        let one = r#"{"node":"/dev/vda2","start":2048,"size":100,"type":"83"}"#;
        let two = r#"{"node":"/dev/vda1","start":4096,"size":100,"type":"83"}"#;
        let found = last_partition(&table("gpt", &format!("{one},{two}"))).unwrap();
        assert_eq!((found.number, found.end), (1, 4196));
        let logical = r#"{"node":"/dev/vda5","start":9000,"size":100,"type":"83"}"#;
        assert!(last_partition(&table("dos", &format!("{one},{logical}"))).is_none());
        assert!(last_partition(&table("gpt", "")).is_none());
    }
}
