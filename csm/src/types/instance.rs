//! CVM instances: listing, power and destruction.

use crate::schema::structure;
use crate::secret::Secret;
use crate::types::filter::Filter;

structure! {
    /// Request: details of instances; with no parameters returns up to Limit (20) instances.
    pub struct DescribeInstances {
        /// Instance ids, e.g. ins-11112222; not together with Filters.
        list instance_ids: Vec<String> => "InstanceIds",
        /// Filters; not together with InstanceIds.
        list filters: Vec<Filter> => "Filters",
        /// Offset.
        optional offset: i64 => "Offset",
        /// Page size.
        optional limit: i64 => "Limit",
        /// Internal: numeric VPC ids.
        list inner_vpc_ids: Vec<i64> => "InnerVpcIds",
        /// Internal: numeric subnet ids.
        list inner_subnet_ids: Vec<i64> => "InnerSubnetIds",
        /// Internal: exact IPs.
        list ip_addresses: Vec<String> => "IpAddresses",
        /// Internal: part of an IP.
        optional vague_ip_address: String => "VagueIpAddress",
        /// Internal: part of an instance name.
        optional vague_instance_name: String => "VagueInstanceName",
    }
}

structure! {
    /// Answer of [`DescribeInstances`].
    pub struct DescribeInstancesResponse {
        /// Number of matching items.
        required total_count: i64 => "TotalCount",
        /// Instances.
        required instance_set: Vec<Instance> => "InstanceSet",
    }
}

structure! {
    /// Request: status of instances.
    pub struct DescribeInstancesStatus {
        /// Instance ids.
        list instance_ids: Vec<String> => "InstanceIds",
        /// Offset.
        optional offset: i64 => "Offset",
        /// Page size.
        optional limit: i64 => "Limit",
    }
}

structure! {
    /// Answer of [`DescribeInstancesStatus`].
    pub struct DescribeInstancesStatusResponse {
        /// Number of matching items.
        required total_count: i64 => "TotalCount",
        /// Instance states.
        required instance_status_set: Vec<InstanceStatus> => "InstanceStatusSet",
    }
}

structure! {
    /// Request: start instances in state STOPPED; STARTING then RUNNING.
    pub struct StartInstances {
        /// Instance ids.
        required instance_ids: Vec<String> => "InstanceIds",
    }
}

structure! {
    /// Answer of [`StartInstances`].
    pub struct StartInstancesResponse {
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Request: stop instances in state RUNNING; STOPPING then STOPPED.
    pub struct StopInstances {
        /// Instance ids.
        required instance_ids: Vec<String> => "InstanceIds",
        /// Force if a normal stop fails.
        optional force_stop: bool => "ForceStop",
        /// Stop mode; one of `SOFT_FIRST`, `HARD`, `SOFT`.
        optional stopped_mode: String => "StoppedMode",
        /// Stop type; one of `SOFT_FIRST`, `HARD`, `SOFT`.
        optional stop_type: String => "StopType",
    }
}

structure! {
    /// Answer of [`StopInstances`].
    pub struct StopInstancesResponse {
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Request: reboot instances in state RUNNING; REBOOTING then RUNNING.
    pub struct RebootInstances {
        /// Instance ids.
        required instance_ids: Vec<String> => "InstanceIds",
        /// Force if a normal reboot fails; not together with StopType.
        optional force_reboot: bool => "ForceReboot",
        /// Stop type; one of `SOFT`, `HARD`, `SOFT_FIRST`.
        optional stop_type: String => "StopType",
    }
}

structure! {
    /// Answer of [`RebootInstances`].
    pub struct RebootInstancesResponse {
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Request: return (destroy) instances.
    pub struct TerminateInstances {
        /// Instance ids.
        required instance_ids: Vec<String> => "InstanceIds",
        /// Internal: release the elastic IP.
        optional release_address: bool => "ReleaseAddress",
        /// Only validate.
        optional dry_run: bool => "DryRun",
        /// Time left (unit not given).
        optional remain_time: i64 => "RemainTime",
    }
}

structure! {
    /// Answer of [`TerminateInstances`].
    pub struct TerminateInstancesResponse {
        /// Task id.
        required task_id: String => "TaskId",
        /// Task flow id.
        required flow_id: i64 => "FlowId",
    }
}

structure! {
    /// Instance.
    pub struct Instance {
        /// Placement.
        optional placement: Placement => "Placement",
        /// Id.
        optional instance_id: String => "InstanceId",
        /// Type.
        optional instance_type: String => "InstanceType",
        /// Cores.
        optional cpu: i64 => "CPU",
        /// Memory GB.
        optional memory: i64 => "Memory",
        /// Business state; one of `NORMAL`, `EXPIRED`, `PROTECTIVELY_ISOLATED`.
        optional restrict_state: String => "RestrictState",
        /// Name.
        optional instance_name: String => "InstanceName",
        /// Charge type; one of `PREPAID`, `POSTPAID_BY_HOUR`, `CDHPAID`.
        optional instance_charge_type: String => "InstanceChargeType",
        /// System disk.
        optional system_disk: SystemDisk => "SystemDisk",
        /// Data disks bought with the instance only.
        required data_disks: Vec<DataDisk> => "DataDisks",
        /// Private IPs of the primary interface.
        required private_ip_addresses: Vec<String> => "PrivateIpAddresses",
        /// Public IPs of the primary interface.
        required public_ip_addresses: Vec<String> => "PublicIpAddresses",
        /// Bandwidth.
        optional internet_accessible: InternetAccessible => "InternetAccessible",
        /// VPC.
        optional virtual_private_cloud: VirtualPrivateCloud => "VirtualPrivateCloud",
        /// Image it was made from.
        optional image_id: String => "ImageId",
        /// Renewal flag.
        optional renew_flag: String => "RenewFlag",
        /// Creation time UTC.
        optional created_time: String => "CreatedTime",
        /// Expiry UTC.
        optional expired_time: String => "ExpiredTime",
        /// State; one of `PENDING`, `LAUNCH_FAILED`, `RUNNING`, `STOPPED`, `STARTING`, `STOPPING`,
        /// `REBOOTING`, `SHUTDOWN`, `TERMINATING`.
        optional instance_state: String => "InstanceState",
        /// Latest operation.
        optional latest_operation: String => "LatestOperation",
        /// State of the latest operation; one of `SUCCESS`, `OPERATING`, `FAILED`.
        optional latest_operation_state: String => "LatestOperationState",
        /// Request id of it.
        optional latest_operation_request_id: String => "LatestOperationRequestId",
        /// Security groups.
        required security_group_ids: Vec<String> => "SecurityGroupIds",
        /// Login settings (keys only).
        optional login_settings: LoginSettings => "LoginSettings",
        /// Placement group.
        optional disaster_recover_group_id: String => "DisasterRecoverGroupId",
        /// Tags.
        required tags: Vec<Tag> => "Tags",
        /// Uuid.
        required uuid: String => "Uuid",
        /// OS name.
        optional os_name: String => "OsName",
        /// IPv6 addresses.
        required ipv6_addresses: Vec<String> => "IPv6Addresses",
        /// Charging when stopped; one of `KEEP_CHARGING`, `STOP_CHARGING`, `NOT_APPLICABLE`.
        optional stop_charging_mode: String => "StopChargingMode",
        /// CAM role.
        optional cam_role_name: String => "CamRoleName",
        /// Isolation source.
        optional isolated_source: String => "IsolatedSource",
        /// Project.
        optional platform_project_id: String => "PlatformProjectId",
        /// Time left.
        optional remain_time: String => "RemainTime",
        /// HPC cluster.
        optional hpc_cluster_id: String => "HpcClusterId",
        /// Login user.
        optional default_login_user: String => "DefaultLoginUser",
        /// Login port.
        optional default_login_port: u64 => "DefaultLoginPort",
        /// Dedicated cluster.
        optional dedicated_cluster_id: String => "DedicatedClusterId",
        /// Operator.
        optional operator_uin: String => "OperatorUin",
        /// RDMA IPs.
        required rdma_ip_addresses: Vec<String> => "RdmaIpAddresses",
        /// Numeric id.
        optional device_id: u64 => "DeviceId",
        /// Class.
        optional instance_class: String => "InstanceClass",
        /// Isolation time.
        optional isolated_time: String => "IsolatedTime",
        /// Error key.
        optional error_key: String => "ErrorKey",
        /// GPUs.
        optional gpu: i64 => "GPU",
        /// Newly created.
        optional new_creation_identify: bool => "NewCreationIdentify",
        /// Operation mask.
        optional operation_mask: u64 => "OperationMask",
        /// Image type.
        optional image_type: String => "ImageType",
        /// Key pair ids.
        required key_pair_ids: Vec<u64> => "KeyPairIds",
        /// Run flag.
        optional run_flag: i64 => "RunFlag",
        /// Numeric VPC id.
        optional inner_vpc_id: u64 => "InnerVpcId",
        /// Family.
        optional instance_family: String => "InstanceFamily",
        /// Architecture.
        optional architecture: String => "Architecture",
        /// Error code.
        optional error_code: i64 => "ErrorCode",
        /// Security isolation information.
        optional safe_isolated_info: String => "SafeIsolatedInfo",
        /// Security isolated.
        optional is_safe_isolated: bool => "IsSafeIsolated",
        /// Virtualisation type.
        optional hypervisor: i64 => "Hypervisor",
    }
}

structure! {
    /// Instance status.
    pub struct InstanceStatus {
        /// Instance.
        optional instance_id: String => "InstanceId",
        /// State.
        optional instance_state: String => "InstanceState",
    }
}

structure! {
    /// Placement.
    pub struct Placement {
        /// Zone id.
        required zone: String => "Zone",
        /// Project id.
        optional project_id: i64 => "ProjectId",
        /// Dedicated hosts; not supported now.
        list host_ids: Vec<String> => "HostIds",
        /// Project name.
        optional project_name: String => "ProjectName",
    }
}

structure! {
    /// System disk.
    pub struct SystemDisk {
        /// Disk type; one of `LOCAL_BASIC`, `LOCAL_SSD`, `CLOUD_BASIC`, `CLOUD_SSD`, `CLOUD_PREMIUM`.
        optional disk_type: String => "DiskType",
        /// Disk id; none for local disks.
        optional disk_id: String => "DiskId",
        /// Size GB, default 50.
        optional disk_size: i64 => "DiskSize",
        /// Storage pool.
        optional disk_storage_pool_group: String => "DiskStoragePoolGroup",
        /// Backup policy.
        optional auto_snapshot_policy_id: String => "AutoSnapshotPolicyId",
    }
}

structure! {
    /// Data disk.
    pub struct DataDisk {
        /// Disk type; one of `LOCAL_BASIC`, `LOCAL_SSD`, `CLOUD_BASIC`, `CLOUD_SSD`, `CLOUD_PREMIUM`,
        /// `CLOUD_HSSD`.
        optional disk_type: String => "DiskType",
        /// Disk id; none for local disks.
        optional disk_id: String => "DiskId",
        /// Size in GB, step 10, default 0 means none.
        required disk_size: i64 => "DiskSize",
        /// Destroy with the instance; default true; RunInstances only.
        optional delete_with_instance: bool => "DeleteWithInstance",
        /// Storage pool.
        optional disk_storage_pool_group: String => "DiskStoragePoolGroup",
        /// Backup policy.
        optional auto_snapshot_policy_id: String => "AutoSnapshotPolicyId",
        /// Snapshot id.
        optional snapshot_id: String => "SnapshotId",
    }
}

structure! {
    /// Public network.
    pub struct InternetAccessible {
        /// BANDWIDTH_PREPAID, TRAFFIC_POSTPAID_BY_HOUR (default), BANDWIDTH_POSTPAID_BY_HOUR,
        /// BANDWIDTH_PACKAGE.
        optional internet_charge_type: String => "InternetChargeType",
        /// Outbound cap Mbps, default 0.
        optional internet_max_bandwidth_out: i64 => "InternetMaxBandwidthOut",
        /// Assign a public IP; must be true when the cap is above 0.
        optional public_ip_assigned: bool => "PublicIpAssigned",
        /// CMCC, CTCC, CUCC or BGP.
        optional internet_service_provider: String => "InternetServiceProvider",
    }
}

structure! {
    /// VPC.
    pub struct VirtualPrivateCloud {
        /// VPC id vpc-xxx.
        required vpc_id: String => "VpcId",
        /// Subnet id subnet-xxx.
        required subnet_id: String => "SubnetId",
        /// Use as public gateway; default FALSE.
        optional as_vpc_gateway: bool => "AsVpcGateway",
        /// Private IPs.
        list private_ip_addresses: Vec<String> => "PrivateIpAddresses",
        /// Number of random IPv6 addresses.
        optional ipv6_address_count: i64 => "Ipv6AddressCount",
        /// VPC name.
        optional vpc_name: String => "VpcName",
        /// Subnet name.
        optional subnet_name: String => "SubnetName",
    }
}

structure! {
    /// Login.
    pub struct LoginSettings {
        /// Password; Linux 10-30 chars with 3 kinds (differs from ResetInstancesPassword).
        optional password: Secret => "Password",
        /// One key id; not with Password; not for Windows.
        list key_ids: Vec<String> => "KeyIds",
        /// TRUE keeps the image's login; not with the others; default FALSE.
        optional keep_image_login: String => "KeepImageLogin",
    }
}

structure! {
    /// Tag.
    pub struct Tag {
        /// Key.
        required key: String => "Key",
        /// Value.
        required value: String => "Value",
    }
}
