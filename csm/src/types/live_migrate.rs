//! Entering and leaving the migration mode of a target, for lighthouse instances (CSM) and for CVM instances.

use crate::schema::structure;
use crate::secret::Secret;

structure! {
    /// Request: put a Lighthouse instance into migration mode.
    pub struct LiveMigrateLhInstance {
        /// Lighthouse instance id.
        required instance_id: String => "InstanceId",
        /// Tool version.
        optional client_version: String => "ClientVersion",
        /// Source system information.
        optional sys_info: ClientSysInfo => "SysInfo",
    }
}

structure! {
    /// Answer of [`LiveMigrateLhInstance`].
    pub struct LiveMigrateLhInstanceResponse {
        /// Public IP of the target; not returned, empty by default.
        required ip: String => "Ip",
        /// Private IP of the target; not returned, empty by default.
        required lan_ip: String => "LanIp",
        /// Password made for the migration.
        required password: Secret => "Password",
        /// TCP port of the target's receiver, when it is not 443. Not in the reference: an extension of this control plane.
        optional port: u64 => "Port",
    }
}

structure! {
    /// Request: take a Lighthouse instance out of migration mode.
    pub struct ExitLiveMigrateLhInstance {
        /// Lighthouse instance id.
        required instance_id: String => "InstanceId",
        /// Outcome of the migration; one of `succ`, `fail`.
        required migrate_result: String => "MigrateResult",
        /// Whether cloud-init is supported.
        optional support_cloud_init: bool => "SupportCloudInit",
        /// Source operating system.
        optional source_system_info: SourceSystemInfo => "SourceSystemInfo",
    }
}

structure! {
    /// Answer of [`ExitLiveMigrateLhInstance`].
    pub struct ExitLiveMigrateLhInstanceResponse {}
}

structure! {
    /// Request: put a running instance into online service migration mode.
    pub struct LiveMigrateInstance {
        /// Client version.
        optional client_version: String => "ClientVersion",
        /// Target instance.
        required instance_id: String => "InstanceId",
        /// Source system information.
        optional sys_info: ClientSysInfo => "SysInfo",
        /// Skip the network connectivity check.
        optional ignore_check_network_connectivity: bool => "IgnoreCheckNetworkConnectivity",
        /// Grey-release version.
        optional grayscale_version: bool => "GrayscaleVersion",
    }
}

structure! {
    /// Answer of [`LiveMigrateInstance`].
    pub struct LiveMigrateInstanceResponse {
        /// Public IP of the target.
        required ip: String => "Ip",
        /// Password of the target.
        required password: Secret => "Password",
        /// Private IP of the target.
        required lan_ip: String => "LanIp",
        /// TCP port of the target's receiver, when it is not 443. Not in the reference: an extension of this control plane.
        optional port: u64 => "Port",
    }
}

structure! {
    /// Request: take an instance out of online service migration mode, after success or failure.
    pub struct ExitLiveMigrateInstance {
        /// Instance.
        required instance_id: String => "InstanceId",
        /// Whether the migration succeeded; csm analogue: succ or fail.
        optional migrate_result: String => "MigrateResult",
        /// Source OS (in the reference's structure list, not in this SDK version).
        optional source_system_info: SourceSystemInfo => "SourceSystemInfo",
    }
}

structure! {
    /// Answer of [`ExitLiveMigrateInstance`].
    pub struct ExitLiveMigrateInstanceResponse {}
}

structure! {
    /// Client system information passed when entering migration mode.
    pub struct ClientSysInfo {
        /// Operating system.
        optional os_type: String => "OsType",
        /// Operating system version.
        optional os_version: String => "OsVersion",
        /// Sizes of the system and data disks to import.
        list disk_size: Vec<u64> => "DiskSize",
        /// Extra information.
        optional extra_info: String => "ExtraInfo",
    }
}

structure! {
    /// Source operating system, passed when leaving migration mode.
    pub struct SourceSystemInfo {
        /// Source OS name.
        optional os_name: String => "OsName",
        /// Source kernel version.
        optional kernel_version: String => "KernelVersion",
        /// Source architecture.
        optional architecture: String => "Architecture",
    }
}
