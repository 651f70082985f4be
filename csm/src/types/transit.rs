//! Transit instances: the helper machine that an image is made from.

use crate::schema::structure;
use crate::types::disk::{DataDiskInfo, DiskForMigrate, SystemDiskInfo};

structure! {
    /// Request: create the job's transit instance.
    pub struct CreateTransitInstance {
        /// Migration job id.
        required job_id: String => "JobId",
        /// System disk of the source.
        optional system_disk_info: SystemDiskInfo => "SystemDiskInfo",
        /// Data disks of the source.
        list data_disks_info: Vec<DataDiskInfo> => "DataDisksInfo",
        /// Only validate the parameters.
        optional dry_run: bool => "DryRun",
        /// Image that the instance is made from: an extension of `go2cloud-control`.
        optional image_id: String => "ImageId",
    }
}

structure! {
    /// Answer of [`CreateTransitInstance`].
    pub struct CreateTransitInstanceResponse {
        /// Transit instance id.
        required instance_id: String => "InstanceId",
    }
}

structure! {
    /// Request: show the job's transit instance.
    pub struct DescribeTransitInstance {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`DescribeTransitInstance`].
    pub struct DescribeTransitInstanceResponse {
        /// Transit instance details.
        required instance_set: Vec<TransitInstance> => "InstanceSet",
    }
}

structure! {
    /// Request: make an image of the job's transit instance.
    pub struct CreateImageForTransitInstance {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`CreateImageForTransitInstance`].
    pub struct CreateImageForTransitInstanceResponse {
        /// Image id.
        required image_id: String => "ImageId",
    }
}

structure! {
    /// Request: destroy the job's transit instance.
    pub struct TerminateTransitInstance {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`TerminateTransitInstance`].
    pub struct TerminateTransitInstanceResponse {}
}

structure! {
    /// Transit instance.
    pub struct TransitInstance {
        /// Instance id.
        optional instance_id: String => "InstanceId",
        /// System disk.
        optional system_disk: DiskForMigrate => "SystemDisk",
        /// CPU cores.
        optional cpu: u64 => "CPU",
        /// Memory; in GB.
        optional memory: u64 => "Memory",
        /// Globally unique id.
        optional uuid: String => "Uuid",
        /// Platform; known values `linux`, `windows`.
        optional os_type: String => "OsType",
        /// CVM instance type.
        optional instance_type: String => "InstanceType",
        /// Public IPs of the primary interface.
        required public_ip_addresses: Vec<String> => "PublicIpAddresses",
        /// Instance state.
        optional instance_state: String => "InstanceState",
        /// Latest operation, e.g. StopInstances; may be null.
        optional latest_operation: String => "LatestOperation",
        /// State of the latest operation; may be null; one of `SUCCESS`, `OPERATING`, `FAILED`.
        optional latest_operation_state: String => "LatestOperationState",
        /// Request id of the latest operation; may be null.
        optional latest_operation_request_id: String => "LatestOperationRequestId",
    }
}
