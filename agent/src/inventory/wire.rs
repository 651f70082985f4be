//! The inventory in the words of the API.

use csm::types::disk::{BlockMigrate, DataDiskInfo, Partition as WirePartition, SystemDiskInfo};
use csm::types::live_migrate::{ClientSysInfo, SourceSystemInfo};
use csm::types::source_server::{ServerInfo, SystemInfo};

use super::{Disk, Inventory, Partition};

/// Chooses block-level migration for a disk, and for its partitions.
pub fn enable_block(system: &mut SystemDiskInfo, data: &mut [DataDiskInfo]) {
    let on = |block: &mut Option<BlockMigrate>| block.get_or_insert_default().enabled = Some(true);
    on(&mut system.block);
    data.iter_mut().for_each(|disk| on(&mut disk.block));
}

/// The API's GB.
const GB: u64 = 1 << 30;

impl Inventory {
    /// Operating system.
    pub fn system_info(&self) -> SystemInfo {
        SystemInfo {
            kernel_version: Some(self.os.kernel.clone()),
            host_name: Some(self.os.host_name.clone()),
            os_name: Some(self.os.name.clone()),
        }
    }

    /// Hardware and network.
    pub fn server_info(&self) -> ServerInfo {
        ServerInfo {
            processor_num: Some(self.hardware.processors),
            ip: self.hardware.ip.map(|ip| ip.to_string()),
            mac: self.hardware.mac.clone(),
            memory: Some(self.hardware.memory_bytes.div_ceil(GB)),
            boot_mode: Some(self.hardware.boot_mode.name().to_owned()),
        }
    }

    /// The disk with the root file system; a machine without a visible disk has one that is as large as nothing.
    pub fn system_disk(&self) -> SystemDiskInfo {
        match self.disks.first() {
            Some(disk) => SystemDiskInfo {
                device: disk.device.clone(),
                mount_point: mount_point(&disk.mount_points),
                size: disk.bytes.div_ceil(GB),
                partitions: disk.partitions.iter().map(partition).collect(),
                partition_style: disk.style.map(|style| style.name().to_owned()),
                block: block(&disk.block_obstacles),
            },
            None => SystemDiskInfo {
                device: "none".to_owned(),
                mount_point: Some("/".to_owned()),
                size: 1,
                ..Default::default()
            },
        }
    }

    /// All other disks, counted from 1.
    pub fn data_disks(&self) -> Vec<DataDiskInfo> {
        (1..)
            .zip(self.disks.iter().skip(1))
            .map(|(index, disk)| data_disk(index, disk))
            .collect()
    }

    /// What entering migration mode tells about the source; `extra` is for the target's side of the conversion.
    pub fn client_info(&self, extra: String) -> ClientSysInfo {
        ClientSysInfo {
            os_type: Some("linux".to_owned()),
            os_version: Some(self.os.name.clone()),
            disk_size: self.disks.iter().map(|disk| disk.bytes.div_ceil(GB)).collect(),
            extra_info: Some(extra),
        }
    }

    /// What leaving migration mode tells about the source.
    pub fn source_info(&self) -> SourceSystemInfo {
        SourceSystemInfo {
            os_name: Some(self.os.name.clone()),
            kernel_version: Some(self.os.kernel.clone()),
            architecture: Some(self.os.architecture.clone()),
        }
    }
}

fn data_disk(index: u64, disk: &Disk) -> DataDiskInfo {
    DataDiskInfo {
        index,
        partition_style: disk.style.map(|style| style.name().to_owned()),
        device: disk.device.clone(),
        mount_point: mount_point(&disk.mount_points),
        partitions: disk.partitions.iter().map(partition).collect(),
        size: disk.bytes.div_ceil(GB),
        block: block(&disk.block_obstacles),
    }
}

fn partition(partition: &Partition) -> WirePartition {
    WirePartition {
        device: partition.device.clone(),
        mount_point: mount_point(&partition.mount_points),
        size: partition.bytes.div_ceil(GB),
        bootable: Some(partition.bootable),
        file_system: partition.file_system.clone(),
        block: block(&partition.block_obstacles),
    }
}

/// The API has room for one mount point: the shortest is the outermost.
fn mount_point(points: &[std::path::PathBuf]) -> Option<String> {
    let outermost = points.iter().min_by_key(|point| point.as_os_str().len())?;
    Some(outermost.display().to_string())
}

fn block(obstacles: &[String]) -> Option<BlockMigrate> {
    Some(BlockMigrate {
        supported: Some(obstacles.is_empty()),
        enabled: Some(false),
    })
}
