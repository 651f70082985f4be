//! Creating CVM instances.

use crate::schema::structure;
use crate::types::instance::{
    DataDisk, InternetAccessible, LoginSettings, Placement, SystemDisk, Tag, VirtualPrivateCloud,
};

structure! {
    /// Request: create instances; asynchronous, poll DescribeInstancesStatus until RUNNING.
    pub struct RunInstances {
        /// Charge type; one of `POSTPAID_BY_HOUR`, `CDHPAID`.
        optional instance_charge_type: String => "InstanceChargeType",
        /// Prepaid settings; required when the charge type is prepaid.
        optional instance_charge_prepaid: InstanceChargePrepaid => "InstanceChargePrepaid",
        /// Zone, project, host.
        required placement: Placement => "Placement",
        /// Instance type.
        optional instance_type: String => "InstanceType",
        /// Image id img-xxx: public, custom or shared.
        required image_id: String => "ImageId",
        /// Purchase source.
        optional purchase_source: String => "PurchaseSource",
        /// System disk.
        optional system_disk: SystemDisk => "SystemDisk",
        /// Data disks; none by default.
        list data_disks: Vec<DataDisk> => "DataDisks",
        /// VPC settings; default VPC network; with a fixed private IP InstanceCount may be 1 or 2.
        optional virtual_private_cloud: VirtualPrivateCloud => "VirtualPrivateCloud",
        /// Public bandwidth; default 0 Mbps.
        optional internet_accessible: InternetAccessible => "InternetAccessible",
        /// Number of instances.
        optional instance_count: i64 => "InstanceCount",
        /// Display name; text after a dot is dropped.
        optional instance_name: String => "InstanceName",
        /// Login settings; random password by default.
        optional login_settings: LoginSettings => "LoginSettings",
        /// Security groups; default group if absent.
        list security_group_ids: Vec<String> => "SecurityGroupIds",
        /// Monitor and security agents; off if absent (differs from the structure's default).
        optional enhanced_service: EnhancedService => "EnhancedService",
        /// Idempotency token.
        optional client_token: String => "ClientToken",
        /// Spot price.
        optional spot_price: String => "SpotPrice",
        /// Host name; no leading, trailing or doubled dot or hyphen; not all digits.
        optional host_name: String => "HostName",
        /// User data, base64.
        optional user_data: String => "UserData",
        /// Placement group.
        list disaster_recover_group_ids: Vec<String> => "DisasterRecoverGroupIds",
        /// Tags to bind.
        list tag_specification: Vec<TagSpecification> => "TagSpecification",
        /// Platform project.
        optional project_specification: ProjectSpecification => "ProjectSpecification",
    }
}

structure! {
    /// Answer of [`RunInstances`].
    pub struct RunInstancesResponse {
        /// Ids of the instances being created.
        required instance_id_set: Vec<String> => "InstanceIdSet",
    }
}

structure! {
    /// Prepaid settings.
    pub struct InstanceChargePrepaid {
        /// Months: 1-12, 24, 36.
        required period: i64 => "Period",
        /// NOTIFY_AND_AUTO_RENEW (default), NOTIFY_AND_MANUAL_RENEW, DISABLE_NOTIFY_AND_MANUAL_RENEW.
        optional renew_flag: String => "RenewFlag",
    }
}

structure! {
    /// Agents.
    pub struct EnhancedService {
        /// Security agent; on by default.
        optional security_service: RunSecurityServiceEnabled => "SecurityService",
        /// Monitor agent; on by default.
        optional monitor_service: RunMonitorServiceEnabled => "MonitorService",
    }
}

structure! {
    /// Security switch.
    pub struct RunSecurityServiceEnabled {
        /// On; default TRUE.
        optional enabled: bool => "Enabled",
    }
}

structure! {
    /// Monitor switch.
    pub struct RunMonitorServiceEnabled {
        /// On; default TRUE.
        optional enabled: bool => "Enabled",
    }
}

structure! {
    /// Tags for a resource.
    pub struct TagSpecification {
        /// Resource type.
        required resource_type: String => "ResourceType",
        /// Tags.
        required tags: Vec<Tag> => "Tags",
    }
}

structure! {
    /// Platform project.
    pub struct ProjectSpecification {
        /// Resource type, default instance.
        required resource_type: String => "ResourceType",
        /// Project id.
        required platform_project_id: String => "PlatformProjectId",
    }
}
