//! Images of CVM instances.

use crate::schema::structure;
use crate::types::filter::Filter;

structure! {
    /// Request: list images; querying public image ids is not supported.
    pub struct DescribeImages {
        /// Image ids, e.g. img-gvbnzy6f; not together with Filters.
        list image_ids: Vec<String> => "ImageIds",
        /// Filters; not together with ImageIds.
        list filters: Vec<Filter> => "Filters",
        /// Offset.
        optional offset: u64 => "Offset",
        /// Page size.
        optional limit: u64 => "Limit",
        /// Filter by instance type.
        optional instance_type: String => "InstanceType",
        /// Filter by host, for CDH.
        optional host_ip: String => "HostIp",
    }
}

structure! {
    /// Answer of [`DescribeImages`].
    pub struct DescribeImagesResponse {
        /// Images.
        required image_set: Vec<Image> => "ImageSet",
        /// Number of matching items.
        required total_count: i64 => "TotalCount",
    }
}

structure! {
    /// Request: make an image of an instance's system disk (or of snapshots).
    pub struct CreateImage {
        /// Instance to image; not together with SnapshotIds.
        optional instance_id: String => "InstanceId",
        /// Image name.
        required image_name: String => "ImageName",
        /// Image description.
        optional image_description: String => "ImageDescription",
        /// Power off hard if a soft stop fails (String-typed).
        optional force_poweroff: String => "ForcePoweroff",
        /// Run Sysprep for Windows (String-typed).
        optional sysprep: String => "Sysprep",
        /// Internal: may stop a running instance.
        optional reboot: String => "Reboot",
        /// Data disks to include in a whole-machine image.
        list data_disk_ids: Vec<String> => "DataDiskIds",
        /// Snapshots to make the image from; must hold one system disk snapshot.
        list snapshot_ids: Vec<String> => "SnapshotIds",
        /// Only validate.
        optional dry_run: bool => "DryRun",
        /// Internal: soft power off.
        list soft_poweroff: Vec<String> => "SoftPoweroff",
    }
}

structure! {
    /// Answer of [`CreateImage`].
    pub struct CreateImageResponse {
        /// Image id.
        required image_id: String => "ImageId",
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Request: import a system disk image from object storage.
    pub struct ImportImage {
        /// Architecture; one of `x86_64`, `arm_64`.
        required architecture: String => "Architecture",
        /// OS type from DescribeImportImageOs.
        required os_type: String => "OsType",
        /// OS version from DescribeImportImageOs.
        required os_version: String => "OsVersion",
        /// COS address of the image file.
        required image_url: String => "ImageUrl",
        /// Image name, unique among custom images.
        required image_name: String => "ImageName",
        /// Image description.
        optional image_description: String => "ImageDescription",
        /// Only validate.
        optional dry_run: bool => "DryRun",
        /// Force import (no cloud-init check).
        optional force: bool => "Force",
        /// Import as public image.
        optional public_image: bool => "PublicImage",
    }
}

structure! {
    /// Answer of [`ImportImage`].
    pub struct ImportImageResponse {
        /// Image id.
        required image_id: String => "ImageId",
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Image.
    pub struct Image {
        /// Id.
        optional image_id: String => "ImageId",
        /// Operating system.
        optional os_name: String => "OsName",
        /// Type.
        optional image_type: String => "ImageType",
        /// Creation time.
        optional created_time: String => "CreatedTime",
        /// Name.
        required image_name: String => "ImageName",
        /// Description.
        required image_description: String => "ImageDescription",
        /// Size.
        required image_size: i64 => "ImageSize",
        /// Architecture.
        required architecture: String => "Architecture",
        /// State (NORMAL named elsewhere; full list not in the reference).
        required image_state: String => "ImageState",
        /// Platform.
        optional platform: String => "Platform",
        /// Creator.
        optional image_creator: String => "ImageCreator",
        /// Source.
        optional image_source: String => "ImageSource",
        /// Copy progress.
        optional sync_percent: i64 => "SyncPercent",
        /// Cloud-init supported.
        optional is_support_cloudinit: bool => "IsSupportCloudinit",
        /// Snapshots.
        required snapshot_set: Vec<Snapshot> => "SnapshotSet",
        /// GPU driver auto install.
        optional is_support_auto_install_gpu_driver: bool => "IsSupportAutoInstallGPUDriver",
        /// Name key.
        required os_key: String => "OsKey",
        /// Product code.
        optional product_code: String => "ProductCode",
        /// GPU drivers.
        required gpu_driver_list: Vec<String> => "GPUDriverList",
        /// Format.
        required image_format: String => "ImageFormat",
        /// Operation mask.
        required operation_mask: i64 => "OperationMask",
        /// Flags.
        required flags: Vec<String> => "Flags",
        /// Numeric image id.
        optional device_image_id: i64 => "DeviceImageId",
        /// TAT supported.
        optional is_support_tat: bool => "IsSupportTat",
    }
}

structure! {
    /// Snapshot of an image.
    pub struct Snapshot {
        /// Id.
        required snapshot_id: String => "SnapshotId",
        /// SYSTEM_DISK or DATA_DISK.
        required disk_usage: String => "DiskUsage",
        /// Disk size GB.
        required disk_size: u64 => "DiskSize",
    }
}
