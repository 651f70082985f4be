//! Source servers: registration, heartbeat and listing.

use crate::schema::structure;
use crate::types::disk::{DataDiskInfo, SystemDiskInfo};
use crate::types::filter::{DeniedAction, Filter};

structure! {
    /// Request: register a source server.
    pub struct CreateSourceServer {
        /// Tool version.
        required client_version: String => "ClientVersion",
        /// Operating system of the source.
        required system_info: SystemInfo => "SystemInfo",
        /// Hardware and network of the source.
        required server_info: ServerInfo => "ServerInfo",
        /// System disk of the source.
        required system_disk_info: SystemDiskInfo => "SystemDiskInfo",
        /// CPU architecture of the source; one of `x86_64`, `x86_32`.
        required architecture: String => "Architecture",
        /// Operating system type.
        required os_type: String => "OsType",
        /// Unique identifier of the source machine.
        required identifier: String => "Identifier",
        /// Status of the source server; one of `OFFLINE`, `ONLINE`, `MIGRATING`, `DELETING`, `DELETED`.
        optional status: String => "Status",
        /// Data disks of the source.
        list data_disks_info: Vec<DataDiskInfo> => "DataDisksInfo",
        /// Source server name.
        optional name: String => "Name",
        /// Source server description.
        optional description: String => "Description",
        /// Token of the user's migration session.
        optional session_token: String => "SessionToken",
        /// Platform the source comes from.
        optional platform: String => "Platform",
        /// Target product; one of `lh`, `cvm`.
        optional product: String => "Product",
    }
}

structure! {
    /// Answer of [`CreateSourceServer`].
    pub struct CreateSourceServerResponse {
        /// Source server id.
        required source_server_id: String => "SourceServerId",
    }
}

structure! {
    /// Request: delete a source server.
    pub struct DeleteSourceServer {
        /// Source server id.
        required source_server_id: String => "SourceServerId",
    }
}

structure! {
    /// Answer of [`DeleteSourceServer`].
    pub struct DeleteSourceServerResponse {}
}

structure! {
    /// Request: list the actions now denied for source servers.
    pub struct DescribeSourceServerDeniedActions {
        /// List of source server ids.
        required source_server_ids: Vec<String> => "SourceServerIds",
    }
}

structure! {
    /// Answer of [`DescribeSourceServerDeniedActions`].
    pub struct DescribeSourceServerDeniedActionsResponse {
        /// Denied actions per source server.
        required source_server_denied_action_set: Vec<SourceServerDeniedAction> => "SourceServerDeniedActionSet",
    }
}

structure! {
    /// Request: list the user's source servers.
    pub struct DescribeSourceServers {
        /// Page size.
        optional limit: u64 => "Limit",
        /// Filters.
        list filters: Vec<Filter> => "Filters",
        /// Start index for paging.
        optional offset: u64 => "Offset",
    }
}

structure! {
    /// Answer of [`DescribeSourceServers`].
    pub struct DescribeSourceServersResponse {
        /// Number of matching items.
        required total_count: u64 => "TotalCount",
        /// Source servers of this page.
        required source_servers: Vec<SourceServer> => "SourceServers",
    }
}

structure! {
    /// Request: change attributes of a source server; also the tool's heartbeat (UpdateTime).
    pub struct ModifySourceServer {
        /// Source server id.
        required source_server_id: String => "SourceServerId",
        /// Status of the source server; one of `OFFLINE`, `ONLINE`, `MIGRATING`, `DELETING`, `DELETED`.
        optional status: String => "Status",
        /// Update time of the source server (heartbeat); `YYYY-MM-DDThh:mm:ssZ`, UTC.
        optional update_time: String => "UpdateTime",
        /// Source server name.
        optional name: String => "Name",
        /// Source server description.
        optional description: String => "Description",
    }
}

structure! {
    /// Answer of [`ModifySourceServer`].
    pub struct ModifySourceServerResponse {}
}

structure! {
    /// A source server.
    pub struct SourceServer {
        /// Status; one of `OFFLINE`, `ONLINE`, `MIGRATING`, `DELETING`, `DELETED`.
        optional status: String => "Status",
        /// Update time.
        optional update_time: String => "UpdateTime",
        /// Data disks of the source.
        required data_disks_info: Vec<DataDiskInfo> => "DataDisksInfo",
        /// Name.
        optional name: String => "Name",
        /// Tool version, e.g. 2.1.3.
        optional client_version: String => "ClientVersion",
        /// Operating system.
        optional system_info: SystemInfo => "SystemInfo",
        /// Source server id.
        optional source_server_id: String => "SourceServerId",
        /// Hardware and network.
        optional server_info: ServerInfo => "ServerInfo",
        /// System disk of the source.
        optional system_disk_info: SystemDiskInfo => "SystemDiskInfo",
        /// Architecture, e.g. x86_64.
        optional architecture: String => "Architecture",
        /// End time.
        optional end_time: String => "EndTime",
        /// System type, e.g. CentOS.
        optional os_type: String => "OsType",
        /// Unique identifier of the source machine.
        optional identifier: String => "Identifier",
        /// Time of import.
        optional create_time: String => "CreateTime",
        /// Description.
        optional description: String => "Description",
        /// Target product; one of `lh`, `cvm`.
        optional product: String => "Product",
        /// Platform the source comes from.
        optional platform: String => "Platform",
        /// Token of the user's migration session.
        optional session_token: String => "SessionToken",
    }
}

structure! {
    /// Operating system of a source.
    pub struct SystemInfo {
        /// Kernel version, e.g. 3.10.107-1-tlinux2_kvm_guest-0050.
        optional kernel_version: String => "KernelVersion",
        /// Host name, e.g. VM_78_149_centos.
        optional host_name: String => "HostName",
        /// OS name, e.g. CentOS Linux release 7.2 (Final).
        optional os_name: String => "OsName",
    }
}

structure! {
    /// Hardware and network of a source.
    pub struct ServerInfo {
        /// CPU cores.
        optional processor_num: u64 => "ProcessorNum",
        /// Private IP.
        optional ip: String => "Ip",
        /// MAC address.
        optional mac: String => "Mac",
        /// Memory; in GB.
        optional memory: u64 => "Memory",
        /// Boot mode; one of `BIOS`, `UEFI`.
        optional boot_mode: String => "BootMode",
    }
}

structure! {
    /// Denied actions of one source server.
    pub struct SourceServerDeniedAction {
        /// Source server id.
        optional source_server_id: String => "SourceServerId",
        /// Denied actions.
        required denied_actions: Vec<DeniedAction> => "DeniedActions",
    }
}
