//! Software RAID arrays of a source: what the kernel says of them, and their names by `mdadm`. Containers of firmware
//! ("fake RAID") and arrays that lie on anything but disks and partitions are told with members that nothing can make.

use std::fs;
use std::path::{Path, PathBuf};

use sys::block_device::BlockDevice;

use super::volumes::{Volume, tool};
use super::{ArrayRecord, Place};
use crate::error::{Error, Result};

const SECTOR_LEN: u64 = 512;

/// Arrays with members among `volumes`, which are those of `disks`.
///
/// # Errors
/// A disk cannot be read, or `mdadm` is not there.
pub fn arrays(disks: &[PathBuf], volumes: &[Volume]) -> Result<Vec<ArrayRecord>> {
    let mut found: Vec<ArrayRecord> = Vec::new();
    for path in disks {
        let failed = |error| Error::io("list what is made of the disk", path, error);
        let Some(disk) = BlockDevice::look(path).map_err(failed)? else {
            continue;
        };
        for holder in disk.holders().map_err(failed)? {
            let is_known = found.iter().any(|array| array.device == holder);
            if holder.starts_with("md") && !is_known {
                found.push(record(&holder, volumes)?);
            }
        }
    }
    found.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(found)
}

fn record(device: &str, volumes: &[Volume]) -> Result<ArrayRecord> {
    let kernel = Path::new("/sys/class/block").join(device);
    let node = format!("/dev/{device}");
    let detail = tool("mdadm", &["--detail", "--export", &node], None)?.unwrap_or_default();
    let said = |key: &str| {
        detail
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    let level = text(&kernel, "md/level");
    let members = members(&kernel, volumes);
    let data_offset = (0..members.len())
        .find_map(|role| text(&kernel, &format!("md/rd{role}/offset")).parse::<u64>().ok())
        .map(|sectors| sectors * SECTOR_LEN);
    let chunk_len = text(&kernel, "md/chunk_size").parse().ok();
    Ok(ArrayRecord {
        device: device.to_owned(),
        metadata: text(&kernel, "md/metadata_version"),
        uuid: said("MD_UUID").unwrap_or_default(),
        name: said("MD_NAME"),
        chunk_len: chunk_len.filter(|len| *len > 0 && level != "raid1"),
        layout: layout(&level, text(&kernel, "md/layout").parse().ok()),
        bitmap: !["", "none"].contains(&text(&kernel, "md/bitmap/location").as_str()),
        data_offset: data_offset.filter(|offset| *offset > 0),
        len: text(&kernel, "size").parse::<u64>().unwrap_or(0) * SECTOR_LEN,
        level,
        members,
    })
}

/// An attribute; empty when there is none.
fn text(kernel: &Path, name: &str) -> String {
    let text = fs::read_to_string(kernel.join(name)).unwrap_or_default();
    text.trim().to_owned()
}

/// `md/rd0/block` is a link to the block device that has the first role.
fn members(kernel: &Path, volumes: &[Volume]) -> Vec<Option<Place>> {
    let count: usize = text(kernel, "md/raid_disks")
        .split_whitespace()
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    let member = |role: usize| {
        let link = fs::read_link(kernel.join(format!("md/rd{role}/block"))).ok()?;
        let node = Path::new("/dev").join(link.file_name()?);
        let volume = volumes.iter().find(|volume| volume.device == node);
        Some(match volume.and_then(|volume| volume.position) {
            Some((disk, number)) => Place::Partition { disk, number },
            None => Place::Unknown,
        })
    };
    (0..count).map(member).collect()
}

/// The kernel's number of an order of blocks as `mdadm` takes it.
fn layout(level: &str, number: Option<u32>) -> Option<String> {
    let number = number?;
    match level {
        "raid5" | "raid6" => {
            let names = [
                "left-asymmetric",
                "right-asymmetric",
                "left-symmetric",
                "right-symmetric",
            ];
            names.get(number as usize).map(|name| (*name).to_owned())
        }
        "raid10" => {
            // Copies near each other, copies far from each other, and whether far ones are in the next stripe.
            let (near, far, is_offset) = (number & 0xff, number >> 8 & 0xff, number >> 16 & 1 == 1);
            Some(match (far, is_offset) {
                (0 | 1, _) => format!("n{near}"),
                (_, true) => format!("o{far}"),
                (_, false) => format!("f{far}"),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_blocks_have_the_names_of_the_tool() {
        assert_eq!(layout("raid1", Some(0)), None);
        assert_eq!(layout("raid5", Some(2)).as_deref(), Some("left-symmetric"));
        assert_eq!(layout("raid5", Some(20)), None);
        assert_eq!(layout("raid10", Some(0x102)).as_deref(), Some("n2"));
        assert_eq!(layout("raid10", Some(0x201)).as_deref(), Some("f2"));
        assert_eq!(layout("raid10", Some(0x1_0201)).as_deref(), Some("o2"));
    }

    #[test]
    fn a_missing_member_keeps_its_role() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path();
        fs::create_dir_all(kernel.join("md/rd1")).unwrap();
        fs::write(kernel.join("md/raid_disks"), "2\n").unwrap();
        std::os::unix::fs::symlink("../../../../vdb/vdb2", kernel.join("md/rd1/block")).unwrap();
        let volume = Volume {
            device: "/dev/vdb2".into(),
            position: Some((1, 2)),
            ..Volume::default()
        };
        let place = Place::Partition { disk: 1, number: 2 };
        assert_eq!(members(kernel, &[volume]), [None, Some(place)]);
        assert_eq!(members(kernel, &[]), [None, Some(Place::Unknown)]);
    }
}
