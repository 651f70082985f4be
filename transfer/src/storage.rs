//! What has to be known about a source's disks to make equal ones at the target, as JSON: the source takes it
//! ([`survey`]), the target lays out its disks by it. Part of what a source says when it prepares the target
//! ([`crate::machine`]).

pub mod arrays;
pub mod survey;
pub mod volumes;

use serde::{Deserialize, Serialize};

/// A source's storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Version of this format.
    pub version: u32,
    /// Disks, in the order of the target's.
    pub disks: Vec<DiskRecord>,
    /// File systems, swap spaces and members of volume groups.
    pub volumes: Vec<VolumeRecord>,
    /// Software RAID arrays.
    #[serde(default)]
    pub arrays: Vec<ArrayRecord>,
    /// LVM volume groups.
    #[serde(default)]
    pub groups: Vec<GroupRecord>,
    /// Network interfaces: name and hardware address, for the conversion.
    #[serde(default)]
    pub interfaces: Vec<InterfaceRecord>,
}

/// Version written by this program.
pub const VERSION: u32 = 1;

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Name at the source.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// Logical sector in bytes.
    pub sector_len: u64,
    /// Partition table; `None` when the disk is used whole.
    pub table: Option<TableRecord>,
}

/// A partition table, as `sfdisk` knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// `gpt` or `dos`.
    pub label: String,
    /// GUID of the disk, or the MBR's signature.
    pub id: String,
    /// Partitions.
    pub partitions: Vec<PartitionRecord>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Number, from 1.
    pub number: u32,
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub size: u64,
    /// Type: a GUID, or hexadecimal digits.
    #[serde(rename = "type")]
    pub kind: String,
    /// GUID.
    pub uuid: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// GPT attributes.
    pub attrs: Option<String>,
    /// Whether a BIOS takes it for the active one.
    #[serde(default)]
    pub bootable: bool,
}

/// Something with a format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Where it lies.
    pub place: Place,
    /// Type as `blkid` names it.
    pub kind: String,
    /// UUID; of vfat the serial number.
    pub uuid: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// Where it is mounted at the source.
    pub mounted_at: Option<String>,
    /// Options of that mount, comma-separated, which say what the file system itself does not hold: the owner and mode of
    /// everything on vfat.
    #[serde(default)]
    pub mount_options: String,
    /// Length in bytes.
    pub len: u64,
    /// Bytes used; `None` when that is not known.
    pub used: Option<u64>,
    /// Inodes used.
    pub inodes_used: Option<u64>,
    /// Features and sizes that a new file system must have too.
    #[serde(default)]
    pub format: Format,
}

/// Where a volume lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Disk (0 is the first) and partition (from 1; 0 is the whole disk).
    Partition {
        /// Index into `disks`.
        disk: usize,
        /// Number.
        number: u32,
    },
    /// A logical volume.
    Logical {
        /// Volume group.
        group: String,
        /// Name.
        name: String,
    },
    /// A software RAID array.
    Array {
        /// Its device, such as `md0`.
        device: String,
    },
    /// Somewhere that a layout cannot make.
    #[default]
    Unknown,
}

/// What `mkfs` has to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Features by their tool's names; `name` alone or `name=value`.
    #[serde(default)]
    pub features: Vec<String>,
    /// Block size in bytes.
    pub block_len: Option<u64>,
    /// Inode size in bytes.
    pub inode_len: Option<u64>,
    /// Subvolumes of btrfs, parents first.
    #[serde(default)]
    pub subvolumes: Vec<String>,
    /// The subvolume that is mounted when none is named.
    pub default_subvolume: Option<String>,
}

/// A software RAID array (md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayRecord {
    /// Its device, such as `md0`.
    pub device: String,
    /// Level as the kernel names it: `raid1`.
    pub level: String,
    /// Version of what is written on its members: `0.90`, `1.0`, `1.1` or `1.2`.
    pub metadata: String,
    /// UUID as `mdadm` writes it.
    pub uuid: String,
    /// Name, mostly `HOST:NAME`; version 0.90 has none.
    pub name: Option<String>,
    /// Chunk in bytes, where the level has chunks.
    pub chunk_len: Option<u64>,
    /// Order of blocks, where the level has a choice.
    pub layout: Option<String>,
    /// Whether it keeps a bitmap of what is being written.
    #[serde(default)]
    pub bitmap: bool,
    /// Where data begin on its members, in bytes.
    pub data_offset: Option<u64>,
    /// Length in bytes.
    pub len: u64,
    /// Members in the order of their roles; `None` where one is missing.
    pub members: Vec<Option<Place>>,
}

/// A volume group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Name.
    pub name: String,
    /// Extent in bytes.
    pub extent_len: u64,
    /// Members.
    pub members: Vec<Place>,
    /// UUIDs of the members, in their order.
    #[serde(default)]
    pub member_uuids: Vec<String>,
    /// Logical volumes.
    pub logical: Vec<LogicalRecord>,
}

/// A logical volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalRecord {
    /// Name.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// How it is laid out; only `linear` can be made again.
    pub layout: String,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRecord {
    /// Name.
    pub name: String,
    /// Hardware address, lower case with colons.
    pub mac: String,
}

/// Those of a mount's options without which its files would look different.
pub fn look_of_files(kind: &str, options: &str) -> String {
    const OPTIONS: &[&str] = &["uid", "gid", "fmask", "dmask", "shortname", "iocharset", "utf8"];
    if kind != "vfat" {
        return String::new();
    }
    let mut options: Vec<&str> = options.split(',').collect();
    options.retain(|option| OPTIONS.contains(&option.split('=').next().unwrap_or_default()));
    options.join(",")
}

impl Inventory {
    /// The volume at a place.
    pub fn volume(&self, place: &Place) -> Option<&VolumeRecord> {
        self.volumes.iter().find(|volume| volume.place == *place)
    }
}

impl VolumeRecord {
    /// Smallest length in bytes for which its data fit with margin: 15 % more than what is used, and another 5 % but at
    /// least 512 MiB for what the system writes when it runs.
    pub fn len_min(&self) -> u64 {
        const MARGIN_MIN: u64 = 512 << 20;
        match self.used {
            Some(used) => (used + used / 100 * 15 + (used / 20).max(MARGIN_MIN)).min(self.len),
            None => self.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_modes_of_a_system_partition_are_those_of_its_mount() {
        let options = "rw,relatime,fmask=0077,dmask=0077,codepage=437,iocharset=ascii,shortname=mixed,utf8,errors=remount-ro";
        let expected = "fmask=0077,dmask=0077,iocharset=ascii,shortname=mixed,utf8";
        assert_eq!(look_of_files("vfat", options), expected);
        assert_eq!(look_of_files("ext4", options), "");
    }
}
