//! Where partitions go on the target's disk. On a disk that is as large, or larger, they stay where they are; on a
//! smaller one they are packed anew, those with data shrunk in proportion to what they do not need.

use std::fmt::Write as _;

use super::inventory::{DiskRecord, Inventory, PartitionRecord, Place};

/// Partitions begin and end at multiples of this, in bytes.
pub const ALIGNMENT: u64 = 1 << 20;
/// Largest length that an MBR with 512-byte sectors can describe.
const MBR_LEN_MAX: u64 = 2 << 40;

/// A disk of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetDisk {
    /// Length in bytes.
    pub len: u64,
    /// Logical sector in bytes.
    pub sector_len: u64,
}

/// What may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freedom {
    /// Smaller disks are allowed when the data fit.
    pub minify: bool,
    /// The last partition is grown into what a larger disk has more.
    pub grow: bool,
}

/// Finds the partitions of one disk.
///
/// # Errors
/// Why it is impossible, for people.
pub fn place(
    inventory: &Inventory,
    index: usize,
    target: TargetDisk,
    freedom: Freedom,
) -> Result<Vec<PartitionRecord>, String> {
    let disk = &inventory.disks[index];
    let Some(table) = &disk.table else {
        return Ok(Vec::new());
    };
    if target.len >= disk.len && target.sector_len == disk.sector_len {
        let mut partitions = table.partitions.clone();
        if freedom.grow {
            grow_last(&table.label, &mut partitions, target);
        }
        return Ok(partitions);
    }
    if target.len < disk.len && !freedom.minify {
        return Err(format!(
            "{} has {} MiB, its target {} MiB: use a larger disk, or --minify",
            disk.name,
            disk.len >> 20,
            target.len >> 20
        ));
    }
    if table.label == "dos"
        && table
            .partitions
            .iter()
            .any(|partition| is_extended(&partition.kind))
    {
        return Err(format!(
            "{} has an extended partition, which cannot be packed anew: use a disk of {} MiB",
            disk.name,
            disk.len >> 20
        ));
    }
    pack(inventory, index, disk, target)
}

fn is_extended(kind: &str) -> bool {
    matches!(kind.trim_start_matches("0x"), "5" | "f" | "85" | "05" | "0f")
}

fn usable_end(label: &str, target: TargetDisk) -> u64 {
    // The copy of a GPT takes 33 sectors at the end.
    let end = if label == "gpt" {
        target.len - 33 * target.sector_len
    } else {
        target.len.min(MBR_LEN_MAX)
    };
    end / ALIGNMENT * ALIGNMENT
}

fn grow_last(label: &str, partitions: &mut [PartitionRecord], target: TargetDisk) {
    let end = usable_end(label, target) / target.sector_len;
    let Some(last) = partitions.iter_mut().max_by_key(|partition| partition.start) else {
        return;
    };
    let is_inside_extended = label == "dos" && last.number > 4;
    if !is_inside_extended && last.start + last.size < end {
        last.size = end - last.start;
    }
}

fn pack(
    inventory: &Inventory,
    index: usize,
    disk: &DiskRecord,
    target: TargetDisk,
) -> Result<Vec<PartitionRecord>, String> {
    let table = disk.table.as_ref().map(|table| (&table.label, &table.partitions));
    let Some((label, partitions)) = table else {
        return Ok(Vec::new());
    };
    let mut partitions = partitions.clone();
    partitions.sort_by_key(|partition| partition.start);
    let lens: Vec<u64> = partitions
        .iter()
        .map(|partition| aligned(partition.size * disk.sector_len))
        .collect();
    let minima: Vec<u64> = partitions
        .iter()
        .zip(&lens)
        .map(|(partition, len)| aligned(len_min(inventory, index, partition.number, *len)).min(*len))
        .collect();
    let room = usable_end(label, target).saturating_sub(ALIGNMENT);
    let lens = shares(&lens, &minima, room).ok_or_else(|| {
        format!(
            "the data of {} need {} MiB, its target has room for {} MiB",
            disk.name,
            minima.iter().sum::<u64>() >> 20,
            room >> 20
        )
    })?;
    let mut start = ALIGNMENT;
    for (partition, len) in partitions.iter_mut().zip(lens) {
        partition.start = start / target.sector_len;
        partition.size = len / target.sector_len;
        start += len;
    }
    Ok(partitions)
}

fn aligned(len: u64) -> u64 {
    len.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// What a partition needs: its file system's data, the sum of its logical volumes' data, or, for anything else, all of
/// what it has.
fn len_min(inventory: &Inventory, disk: usize, number: u32, len: u64) -> u64 {
    let place = Place::Partition { disk, number };
    let group = inventory
        .groups
        .iter()
        .find(|group| group.members.contains(&place));
    if let Some(group) = group.filter(|group| group.members.len() == 1) {
        let needed: u64 = group
            .logical
            .iter()
            .map(|logical| logical_len_min(inventory, &group.name, &logical.name, logical.len))
            .sum();
        // Labels and metadata of LVM, and one extent of rounding for each volume.
        return needed + ALIGNMENT + (group.logical.len() as u64 + 1) * group.extent_len;
    }
    match inventory.volume(&place) {
        Some(volume) if ["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&volume.kind.as_str()) => {
            volume.len_min()
        }
        _ => len,
    }
}

/// Length in bytes of what a volume group's member lies on at the source; 0 when that is not known.
pub fn source_len(inventory: &Inventory, place: &Place) -> u64 {
    match place {
        Place::Partition { disk, number } => {
            let Some(disk) = inventory.disks.get(*disk) else {
                return 0;
            };
            let partitions = disk.table.iter().flat_map(|table| &table.partitions);
            let found = partitions
                .into_iter()
                .find(|partition| partition.number == *number);
            found.map_or(disk.len, |partition| partition.size * disk.sector_len)
        }
        Place::Array { device } => {
            let found = inventory.arrays.iter().find(|array| array.device == *device);
            found.map_or(0, |array| array.len)
        }
        Place::Logical { .. } | Place::Unknown => 0,
    }
}

/// What a logical volume needs.
pub fn logical_len_min(inventory: &Inventory, group: &str, name: &str, len: u64) -> u64 {
    let place = Place::Logical {
        group: group.to_owned(),
        name: name.to_owned(),
    };
    match inventory.volume(&place) {
        Some(volume) if volume.kind != "swap" => volume.len_min(),
        _ => len,
    }
}

/// Lengths between minimum and present length that fit into `room`, in multiples of the alignment.
pub fn shares(lens: &[u64], minima: &[u64], room: u64) -> Option<Vec<u64>> {
    let (wanted, needed): (u64, u64) = (lens.iter().sum(), minima.iter().sum());
    if needed > room {
        return None;
    }
    if wanted <= room {
        return Some(lens.to_vec());
    }
    let spare = u128::from(room - needed);
    let excess = u128::from(wanted - needed);
    let share = |(len, minimum): (&u64, &u64)| {
        let more = u128::from(len - minimum) * spare / excess;
        // Not more than what is left of the present length, which fits 64 bits.
        minimum + u64::try_from(more).unwrap_or(0) / ALIGNMENT * ALIGNMENT
    };
    Some(lens.iter().zip(minima).map(share).collect())
}

/// The script that makes `sfdisk` write the table.
pub fn script(disk: &DiskRecord, partitions: &[PartitionRecord], target: TargetDisk) -> String {
    let Some(table) = &disk.table else {
        return String::new();
    };
    let mut text = format!("label: {}\n", table.label);
    if !table.id.is_empty() {
        let _ = writeln!(text, "label-id: {}", table.id);
    }
    text.push_str("unit: sectors\n");
    if table.label == "gpt" {
        let first = partitions
            .iter()
            .map(|partition| partition.start)
            .min()
            .unwrap_or(2048)
            .min(2048);
        let _ = writeln!(text, "first-lba: {}", first.max(34));
    }
    let _ = writeln!(text, "sector-size: {}", target.sector_len);
    for partition in partitions {
        let _ = write!(
            text,
            "{} : start={}, size={}, type={}",
            partition.number, partition.start, partition.size, partition.kind
        );
        for (key, value) in [
            ("uuid", &partition.uuid),
            ("name", &partition.name),
            ("attrs", &partition.attrs),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                let _ = write!(text, ", {key}=\"{}\"", value.replace(['"', '\n'], ""));
            }
        }
        if partition.bootable {
            text.push_str(", bootable");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inventory::{TableRecord, VolumeRecord};
    use super::*;

    const GIB: u64 = 1 << 30;

    fn inventory(used: u64) -> Inventory {
        let partition = |number, start: u64, size: u64, kind: &str| PartitionRecord {
            number,
            start,
            size,
            kind: kind.to_owned(),
            uuid: Some(format!("uuid-{number}")),
            ..PartitionRecord::default()
        };
        let table = TableRecord {
            label: "gpt".to_owned(),
            id: "DISK".to_owned(),
            partitions: vec![
                partition(1, 2048, 2048, "21686148-6449-6E6F-744E-656564454649"),
                partition(2, 4096, 20 * GIB / 512 - 8192, "L"),
            ],
        };
        let disk = DiskRecord {
            name: "/dev/sda".to_owned(),
            len: 20 * GIB,
            sector_len: 512,
            table: Some(table),
        };
        let volume = VolumeRecord {
            place: Place::Partition { disk: 0, number: 2 },
            kind: "ext4".to_owned(),
            len: 20 * GIB - (4 << 20),
            used: Some(used),
            ..VolumeRecord::default()
        };
        Inventory {
            version: 1,
            disks: vec![disk],
            volumes: vec![volume],
            ..Inventory::default()
        }
    }

    const KEEP: Freedom = Freedom {
        minify: false,
        grow: false,
    };
    const MINIFY: Freedom = Freedom {
        minify: true,
        grow: false,
    };

    fn target(gibibytes: u64) -> TargetDisk {
        TargetDisk {
            len: gibibytes * GIB,
            sector_len: 512,
        }
    }

    #[test]
    fn a_disk_that_is_large_enough_gets_the_same_table() {
        let inventory = inventory(GIB);
        let placed = place(&inventory, 0, target(30), KEEP).unwrap();
        assert_eq!(placed, inventory.disks[0].table.as_ref().unwrap().partitions);
        let script = script(&inventory.disks[0], &placed, target(30));
        let expected = "label: gpt\nlabel-id: DISK\nunit: sectors\nfirst-lba: 2048\nsector-size: 512\n\
                        1 : start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, uuid=\"uuid-1\"\n\
                        2 : start=4096, size=41934848, type=L, uuid=\"uuid-2\"\n";
        assert_eq!(script, expected);
    }

    #[test]
    fn growth_goes_to_the_last_partition() {
        let placed = place(
            &inventory(GIB),
            0,
            target(30),
            Freedom {
                minify: false,
                grow: true,
            },
        )
        .unwrap();
        assert_eq!(placed[0].size, 2048);
        assert_eq!((placed[1].start + placed[1].size) * 512, 30 * GIB - ALIGNMENT);
    }

    #[test]
    fn a_smaller_disk_is_taken_only_when_asked_and_only_when_the_data_fit() {
        assert!(
            place(&inventory(GIB), 0, target(10), KEEP)
                .unwrap_err()
                .contains("--minify")
        );
        let placed = place(&inventory(GIB), 0, target(10), MINIFY).unwrap();
        assert_eq!((placed[0].start, placed[0].size), (2048, 2048));
        assert!((placed[1].start + placed[1].size) * 512 <= 10 * GIB - ALIGNMENT);
        assert!(placed[1].size * 512 > 9 * GIB);
        let refusal = place(&inventory(9 * GIB), 0, target(10), MINIFY).unwrap_err();
        assert!(refusal.contains("need"), "{refusal}");
    }

    #[test]
    fn names_cannot_break_out_of_the_script() {
        let inventory = inventory(GIB);
        let mut placed = place(&inventory, 0, target(20), KEEP).unwrap();
        placed[0].name = Some("a\"\nb, size=1".to_owned());
        assert!(script(&inventory.disks[0], &placed, target(20)).contains("name=\"ab, size=1\"\n"));
    }

    proptest! {
        #[test]
        fn shares_fit_and_keep_the_minimum(parts in proptest::collection::vec((0u64..1000, 0u64..1000), 1..6), room in 0u64..4000) {
            let minima: Vec<u64> = parts.iter().map(|(minimum, _)| minimum * ALIGNMENT).collect();
            let lens: Vec<u64> = parts.iter().map(|(minimum, more)| (minimum + more) * ALIGNMENT).collect();
            let room = room * ALIGNMENT;
            match shares(&lens, &minima, room) {
                None => prop_assert!(minima.iter().sum::<u64>() > room),
                Some(found) => {
                    prop_assert!(found.iter().sum::<u64>() <= room);
                    prop_assert!(found.iter().zip(&minima).all(|(found, minimum)| found >= minimum));
                    prop_assert!(found.iter().zip(&lens).all(|(found, len)| found <= len));
                }
            }
        }
    }
}
