//! Disks and partitions, as a source describes them and as a transit instance has them.

use crate::schema::structure;

structure! {
    /// System disk of a source.
    pub struct SystemDiskInfo {
        /// Device name.
        required device: String => "Device",
        /// Mount point.
        optional mount_point: String => "MountPoint",
        /// Size; in GB.
        required size: u64 => "Size",
        /// Partitions.
        list partitions: Vec<Partition> => "Partitions",
        /// Partition table style; one of `MBR`, `GPT`.
        optional partition_style: String => "PartitionStyle",
        /// Block-migration support.
        optional block: BlockMigrate => "Block",
    }
}

structure! {
    /// Data disk of a source.
    pub struct DataDiskInfo {
        /// Order of the data disk, counted from 1.
        required index: u64 => "Index",
        /// Partition table style; one of `MBR`, `GPT`.
        optional partition_style: String => "PartitionStyle",
        /// Device name.
        required device: String => "Device",
        /// Mount point.
        optional mount_point: String => "MountPoint",
        /// Partitions.
        list partitions: Vec<Partition> => "Partitions",
        /// Size; in GB.
        required size: u64 => "Size",
        /// Block-migration support.
        optional block: BlockMigrate => "Block",
    }
}

structure! {
    /// Partition of a source disk.
    pub struct Partition {
        /// Partition device name.
        required device: String => "Device",
        /// Mount point.
        optional mount_point: String => "MountPoint",
        /// Size; in GB.
        required size: u64 => "Size",
        /// Boot partition.
        optional bootable: bool => "Bootable",
        /// File system type.
        optional file_system: String => "FileSystem",
        /// Block-migration support.
        optional block: BlockMigrate => "Block",
    }
}

structure! {
    /// Block-migration switches.
    pub struct BlockMigrate {
        /// Block migration is possible.
        optional supported: bool => "Supported",
        /// Block migration is switched on.
        optional enabled: bool => "Enabled",
    }
}

structure! {
    /// Disk of a transit instance.
    pub struct DiskForMigrate {
        /// Cloud disk size; in GB.
        optional disk_size: u64 => "DiskSize",
        /// CBS disk id; not given as input.
        optional disk_id: String => "DiskId",
    }
}
