//! The actions of CVM 2017-03-12 that a migration needs.
//!
//! Parameters of placement and billing that mean nothing on machines of one's own are checked and then not used.

use super::csm::{SOURCE_SYSTEM_INFO, SYS_INFO};
use super::form::{self, Check};
use super::{Action, Audience, Effect, Field, Kind, TEXT, Text, opt, req, uint};
use crate::code::Code;

use Audience::{Account, Agent};
use Effect::{Change, Read};

const IDS_MAX: usize = 100;

const fn matches(check: fn(&str) -> bool, wanted: &'static str, code: Code) -> Kind {
    Text::any().form(Check::Matches(check, wanted, code)).kind()
}

const fn one_of(values: &'static [&'static str]) -> Kind {
    Text::any()
        .form(Check::OneOf(values, Code::InvalidParameterValue))
        .kind()
}

const fn list(item: &'static Kind, max: usize) -> Kind {
    Kind::List {
        item,
        max,
        above: Code::ValueLimitExceeded,
    }
}

const INSTANCE_ID: Kind = matches(is_target_id, "like ins-1a2b3c4d", Code::CvmInstanceIdMalformed);
const IDS: Kind = list(&INSTANCE_ID, IDS_MAX);
const TEXTS: Kind = list(&TEXT, IDS_MAX);
const INTS: Kind = list(&uint(0, u64::MAX), IDS_MAX);
const OFFSET: Kind = uint(0, u32::MAX as u64);
const LIMIT: Kind = Kind::Uint {
    min: 1,
    max: 100,
    below: Code::InvalidParameterValue,
    above: Code::ValueLimitExceeded,
};
const IMAGE_LIMIT: Kind = Kind::Uint {
    min: 1,
    max: 100,
    below: Code::InvalidParameterValueLimit,
    above: Code::InvalidParameterValueLimit,
};
const STOP_TYPE: Kind = one_of(&["SOFT_FIRST", "HARD", "SOFT"]);
/// Texts that stand for a flag, as the reference types them.
const FLAG_TEXT: Kind = one_of(&["TRUE", "FALSE", "true", "false", ""]);
const IMAGE_NAME: Kind = Text::any()
    .length(
        (1, Code::InvalidParameterValue),
        (60, Code::ParameterValueTooLarge),
    )
    .plain()
    .kind();

const FILTERS: Kind = Kind::List {
    item: &Kind::Object(&[
        req("Name", TEXT),
        req(
            "Values",
            Kind::List {
                item: &TEXT,
                max: 5,
                above: Code::FilterValueLimitExceeded,
            },
        ),
    ]),
    max: 10,
    above: Code::ValueLimitExceeded,
};

fn is_target_id(text: &str) -> bool {
    form::is_instance_id(text) || form::is_lighthouse_id(text)
}

const DISK_TYPE: Kind = one_of(&[
    "LOCAL_BASIC",
    "LOCAL_SSD",
    "CLOUD_BASIC",
    "CLOUD_SSD",
    "CLOUD_PREMIUM",
    "CLOUD_HSSD",
]);
const DISK_SIZE: Kind = Kind::Uint {
    min: 0,
    max: super::csm::DISK_GB_MAX,
    below: Code::ValueRange,
    above: Code::ValueRange,
};

const RUN: &[Field] = &[
    opt(
        "InstanceChargeType",
        one_of(&["POSTPAID_BY_HOUR", "CDHPAID", "PREPAID"]),
    ),
    opt(
        "InstanceChargePrepaid",
        Kind::Object(&[req("Period", uint(1, 36)), opt("RenewFlag", TEXT)]),
    ),
    req(
        "Placement",
        Kind::Object(&[
            req("Zone", TEXT),
            opt("ProjectId", uint(0, u64::MAX)),
            opt("HostIds", TEXTS),
            opt("ProjectName", TEXT),
        ]),
    ),
    opt(
        "InstanceType",
        matches(
            form::is_virtual_instance_type,
            "a type such as S5.MEDIUM4",
            Code::InstanceTypeMalformed,
        ),
    ),
    req(
        "ImageId",
        matches(
            form::is_image_id,
            "like img-1a2b3c4d",
            Code::InvalidParameterValue,
        ),
    ),
    opt("PurchaseSource", TEXT),
    opt(
        "SystemDisk",
        Kind::Object(&[
            opt("DiskType", DISK_TYPE),
            opt("DiskId", TEXT),
            opt("DiskSize", DISK_SIZE),
            opt("DiskStoragePoolGroup", TEXT),
            opt("AutoSnapshotPolicyId", TEXT),
        ]),
    ),
    opt(
        "DataDisks",
        Kind::List {
            item: &Kind::Object(&[
                opt("DiskType", DISK_TYPE),
                opt("DiskId", TEXT),
                req("DiskSize", DISK_SIZE),
                opt("DeleteWithInstance", Kind::Bool),
                opt("DiskStoragePoolGroup", TEXT),
                opt("AutoSnapshotPolicyId", TEXT),
                opt("SnapshotId", TEXT),
            ]),
            max: 20,
            above: Code::ValueLimitExceeded,
        },
    ),
    opt(
        "VirtualPrivateCloud",
        Kind::Object(&[
            req("VpcId", TEXT),
            req("SubnetId", TEXT),
            opt("AsVpcGateway", Kind::Bool),
            opt("PrivateIpAddresses", TEXTS),
            opt("Ipv6AddressCount", uint(0, 64)),
            opt("VpcName", TEXT),
            opt("SubnetName", TEXT),
        ]),
    ),
    opt(
        "InternetAccessible",
        Kind::Object(&[
            opt("InternetChargeType", TEXT),
            opt("InternetMaxBandwidthOut", uint(0, 1_000_000)),
            opt("PublicIpAssigned", Kind::Bool),
            opt("InternetServiceProvider", TEXT),
        ]),
    ),
    opt(
        "InstanceCount",
        Kind::Uint {
            min: 1,
            max: 100,
            below: Code::ValueRange,
            above: Code::ValueRange,
        },
    ),
    opt(
        "InstanceName",
        Text::any()
            .length((0, Code::InstanceNameTooLong), (60, Code::InstanceNameTooLong))
            .kind(),
    ),
    opt(
        "LoginSettings",
        Kind::Object(&[
            opt("Password", TEXT),
            opt("KeyIds", TEXTS),
            opt("KeepImageLogin", FLAG_TEXT),
        ]),
    ),
    opt("SecurityGroupIds", TEXTS),
    opt(
        "EnhancedService",
        Kind::Object(&[
            opt("SecurityService", Kind::Object(&[opt("Enabled", Kind::Bool)])),
            opt("MonitorService", Kind::Object(&[opt("Enabled", Kind::Bool)])),
        ]),
    ),
    opt(
        "ClientToken",
        Text::any()
            .length((0, Code::ClientTokenTooLong), (64, Code::ClientTokenTooLong))
            .kind(),
    ),
    opt("SpotPrice", TEXT),
    opt("HostName", TEXT),
    opt(
        "UserData",
        Text::any()
            .length(
                (0, Code::InvalidParameterValue),
                (22_000, Code::InvalidParameterValue),
            )
            .form(Check::Matches(
                form::is_base64,
                "base64 of at most 16 KiB",
                Code::InvalidParameterValue,
            ))
            .kind(),
    ),
    opt("DisasterRecoverGroupIds", list(&TEXT, 1)),
    opt(
        "TagSpecification",
        list(
            &Kind::Object(&[
                req("ResourceType", TEXT),
                req(
                    "Tags",
                    list(&Kind::Object(&[req("Key", TEXT), req("Value", TEXT)]), 50),
                ),
            ]),
            10,
        ),
    ),
    opt(
        "ProjectSpecification",
        Kind::Object(&[req("ResourceType", TEXT), req("PlatformProjectId", TEXT)]),
    ),
];

const DESCRIBE: &[Field] = &[
    opt("InstanceIds", IDS),
    opt("Filters", FILTERS),
    opt("Offset", OFFSET),
    opt("Limit", LIMIT),
    opt("InnerVpcIds", INTS),
    opt("InnerSubnetIds", INTS),
    opt("IpAddresses", TEXTS),
    opt("VagueIpAddress", TEXT),
    opt("VagueInstanceName", TEXT),
];

const IMAGES: &[Field] = &[
    opt("ImageIds", TEXTS),
    opt("Filters", FILTERS),
    opt("Offset", OFFSET),
    opt("Limit", IMAGE_LIMIT),
    opt("InstanceType", TEXT),
    opt("HostIp", TEXT),
];

const CREATE_IMAGE: &[Field] = &[
    opt("InstanceId", INSTANCE_ID),
    req("ImageName", IMAGE_NAME),
    opt("ImageDescription", TEXT),
    opt("ForcePoweroff", FLAG_TEXT),
    opt("Sysprep", FLAG_TEXT),
    opt("Reboot", FLAG_TEXT),
    opt("DataDiskIds", TEXTS),
    opt("SnapshotIds", TEXTS),
    opt("DryRun", Kind::Bool),
    opt("SoftPoweroff", TEXTS),
];

const IMPORT_IMAGE: &[Field] = &[
    req("Architecture", one_of(&["x86_64", "arm_64"])),
    req("OsType", TEXT),
    req("OsVersion", TEXT),
    req("ImageUrl", TEXT),
    req("ImageName", IMAGE_NAME),
    opt("ImageDescription", TEXT),
    opt("DryRun", Kind::Bool),
    opt("Force", Kind::Bool),
    opt("PublicImage", Kind::Bool),
];

const fn action(name: &'static str, effect: Effect, audience: Audience, fields: &'static [Field]) -> Action {
    Action {
        name,
        effect,
        audience,
        regional: true,
        fields,
    }
}

const fn regionless(name: &'static str) -> Action {
    Action {
        name,
        effect: Read,
        audience: Agent,
        regional: false,
        fields: &[],
    }
}

pub(super) const ACTIONS: &[Action] = &[
    regionless("DescribeRegions"),
    action("DescribeZones", Read, Agent, &[]),
    action("DescribeInstances", Read, Agent, DESCRIBE),
    action(
        "DescribeInstancesStatus",
        Read,
        Agent,
        &[
            opt("InstanceIds", IDS),
            opt("Offset", OFFSET),
            opt("Limit", LIMIT),
        ],
    ),
    action("RunInstances", Change, Account, RUN),
    action("StartInstances", Change, Account, &[req("InstanceIds", IDS)]),
    action(
        "StopInstances",
        Change,
        Account,
        &[
            req("InstanceIds", IDS),
            opt("ForceStop", Kind::Bool),
            opt("StoppedMode", STOP_TYPE),
            opt("StopType", STOP_TYPE),
        ],
    ),
    action(
        "RebootInstances",
        Change,
        Account,
        &[
            req("InstanceIds", IDS),
            opt("ForceReboot", Kind::Bool),
            opt("StopType", STOP_TYPE),
        ],
    ),
    action(
        "TerminateInstances",
        Change,
        Account,
        &[
            req("InstanceIds", IDS),
            opt("ReleaseAddress", Kind::Bool),
            opt("DryRun", Kind::Bool),
            opt("RemainTime", uint(0, u64::MAX)),
        ],
    ),
    action("DescribeImages", Read, Account, IMAGES),
    action("CreateImage", Change, Account, CREATE_IMAGE),
    action("ImportImage", Change, Account, IMPORT_IMAGE),
    action(
        "LiveMigrateInstance",
        Change,
        Agent,
        &[
            req("InstanceId", INSTANCE_ID),
            opt("ClientVersion", TEXT),
            opt("SysInfo", SYS_INFO),
            opt("IgnoreCheckNetworkConnectivity", Kind::Bool),
            opt("GrayscaleVersion", Kind::Bool),
        ],
    ),
    action(
        "ExitLiveMigrateInstance",
        Change,
        Agent,
        &[
            req("InstanceId", INSTANCE_ID),
            opt("MigrateResult", one_of(&["succ", "fail"])),
            opt("SourceSystemInfo", SOURCE_SYSTEM_INFO),
        ],
    ),
];
