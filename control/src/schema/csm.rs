//! The actions of CSM 2021-09-15.

use super::form::{self, Check};
use super::{Action, Audience, Effect, Field, Kind, Text, opt, req, uint};
use crate::code::Code;

use super::TEXT;
use Audience::{Account, Agent};
use Effect::{Change, Read, Report};

/// Largest disk of a source, in GB: 64 TiB, what ext4 with 4 KiB blocks and 32-bit group counts is used for at most in practice.
pub(super) const DISK_GB_MAX: u64 = 64 * 1024;
/// Data disks of one source: an instance takes at most 20.
const DATA_DISKS_MAX: usize = 20;
/// Partitions of one disk: GPT's usual table holds 128.
const PARTITIONS_MAX: usize = 128;
/// Ids in one question.
const IDS_MAX: usize = 100;
const FILTERS_MAX: usize = 10;
const FILTER_VALUES_MAX: usize = 100;

const UNSUPPORTED: Code = Code::ParameterValueNotSupportValue;

const fn matches(check: fn(&str) -> bool, wanted: &'static str, code: Code) -> Kind {
    Text::any().form(Check::Matches(check, wanted, code)).kind()
}

const fn one_of(values: &'static [&'static str]) -> Kind {
    Text::any()
        .form(Check::OneOf(values, Code::InvalidParameterValue))
        .kind()
}

const fn name(long: Code, short: Code) -> Kind {
    Text::any().length((1, short), (128, long)).plain().kind()
}

const fn description(long: Code) -> Kind {
    Text::any().length((0, long), (256, long)).plain().kind()
}

const fn short_text() -> Kind {
    Text::any()
        .length((1, Code::TooShort), (64, Code::TooLong))
        .plain()
        .kind()
}

const fn free_text(max: usize) -> Kind {
    Text::any()
        .length(
            (0, Code::InvalidParameterValue),
            (max, Code::InvalidParameterValue),
        )
        .kind()
}

const JOB_ID: Kind = matches(
    form::is_job_id,
    "like migrate-1a2b3c4d",
    Code::InvalidMigrateJobIdMalformed,
);
const TRANSIT_JOB_ID: Kind = matches(form::is_job_id, "the id of a job", Code::JobIdNotExist);
const SOURCE_ID: Kind = matches(
    form::is_source_id,
    "like ss-1a2b3c4d",
    Code::InvalidSourceServerIdMalformed,
);
const INSTANCE_ID: Kind = matches(
    form::is_any_instance_id,
    "like ins-1a2b3c4d",
    Code::InvalidInstanceIdNotFound,
);
const LIGHTHOUSE_ID: Kind = matches(
    form::is_lighthouse_id,
    "like lhins-1a2b3c4d",
    Code::InvalidInstanceIdMalformed,
);
const INSTANCE_TYPE: Kind = matches(
    form::is_virtual_instance_type,
    "a type such as S5.MEDIUM4; bare-metal types cannot be used",
    Code::MigrateNotSupportInstanceType,
);
const START_TIME: Kind = matches(
    form::is_time_or_empty,
    "like 2026-01-31T08:00:00Z, or empty",
    Code::InvalidTimeFormat,
);
const TIME: Kind = matches(
    form::is_time,
    "like 2026-01-31T08:00:00Z",
    Code::InvalidTimeFormat,
);
const IMAGE_NAME: Kind = Text::any()
    .length(
        (1, Code::InvalidParameterValue),
        (60, Code::InvalidParameterValue),
    )
    .plain()
    .kind();
const PRODUCT: Kind = one_of(&["lh", "cvm"]);
const OFFSET: Kind = uint(0, u32::MAX as u64);
const LIMIT: Kind = Kind::Uint {
    min: 1,
    max: 50,
    below: UNSUPPORTED,
    above: UNSUPPORTED,
};

const BLOCK: Kind = Kind::Object(&[opt("Supported", Kind::Bool), opt("Enabled", Kind::Bool)]);

const PARTITION: Kind = Kind::Object(&[
    req("Device", TEXT),
    opt("MountPoint", free_text(4096)),
    req("Size", uint(0, DISK_GB_MAX)),
    opt("Bootable", Kind::Bool),
    opt("FileSystem", TEXT),
    opt("Block", BLOCK),
]);

const PARTITIONS: Kind = Kind::List {
    item: &PARTITION,
    max: PARTITIONS_MAX,
    above: Code::InvalidParameterValue,
};
const STYLE: Kind = one_of(&["MBR", "GPT", ""]);

const fn size(above: Code) -> Kind {
    Kind::Uint {
        min: 0,
        max: DISK_GB_MAX,
        below: Code::InvalidParameterValue,
        above,
    }
}

const SYSTEM_DISK: Kind = Kind::Object(&[
    req("Device", TEXT),
    opt("MountPoint", free_text(4096)),
    req("Size", size(Code::SystemDiskSizeTooLarge)),
    opt("Partitions", PARTITIONS),
    opt("PartitionStyle", STYLE),
    opt("Block", BLOCK),
]);

const DATA_DISK: Kind = Kind::Object(&[
    req("Index", uint(1, 1000)),
    opt("PartitionStyle", STYLE),
    req("Device", TEXT),
    opt("MountPoint", free_text(4096)),
    opt("Partitions", PARTITIONS),
    req("Size", size(Code::DataDiskSizeTooLarge)),
    opt("Block", BLOCK),
]);

const DATA_DISKS: Kind = Kind::List {
    item: &DATA_DISK,
    max: DATA_DISKS_MAX,
    above: Code::InvalidParameterValue,
};

pub(super) const FILTER: Kind = Kind::Object(&[
    req("Name", TEXT),
    req(
        "Values",
        Kind::List {
            item: &FILTER_VALUE,
            max: FILTER_VALUES_MAX,
            above: UNSUPPORTED,
        },
    ),
]);

const FILTER_VALUE: Kind = Text::any()
    .length((0, UNSUPPORTED), (256, UNSUPPORTED))
    .plain()
    .kind();
const FILTERS: Kind = Kind::List {
    item: &FILTER,
    max: FILTERS_MAX,
    above: UNSUPPORTED,
};

pub(super) const SYS_INFO: Kind = Kind::Object(&[
    opt("OsType", TEXT),
    opt("OsVersion", TEXT),
    opt(
        "DiskSize",
        Kind::List {
            item: &uint(0, DISK_GB_MAX),
            max: 1 + DATA_DISKS_MAX,
            above: Code::InvalidParameterValue,
        },
    ),
    opt("ExtraInfo", free_text(64 * 1024)),
]);

pub(super) const SOURCE_SYSTEM_INFO: Kind = Kind::Object(&[
    opt("OsName", TEXT),
    opt("KernelVersion", TEXT),
    opt("Architecture", TEXT),
]);

const MIGRATE_RESULT: Kind = Kind::Object(&[
    opt("State", free_text(128)),
    opt("Result", free_text(128)),
    opt("Desc", free_text(1024)),
]);

const JOB_STATUS: Kind = one_of(&[
    "PENDING", "RUNNING", "SUCCESS", "FAILED", "STOPPING", "STOPPED", "DELETING", "DELETED",
]);
const SOURCE_STATUS: Kind = one_of(&["OFFLINE", "ONLINE", "MIGRATING", "DELETING", "DELETED"]);

const CREATE_JOB: &[Field] = &[
    req("SourceServerId", SOURCE_ID),
    req("SystemDiskInfo", SYSTEM_DISK),
    req(
        "Mode",
        Kind::Uint {
            min: 0,
            max: 3,
            below: Code::InvalidParameterValue,
            above: Code::TooLarge,
        },
    ),
    req(
        "TargetRegion",
        matches(
            crate::region::is_well_formed,
            "a region",
            Code::InvalidRegionNotFound,
        ),
    ),
    opt("Name", name(Code::TooLong, Code::TooShort)),
    opt(
        "TargetType",
        one_of(&["Image", "Instance", "Lh-Image", "Lh-Instance"]),
    ),
    opt("ImageName", IMAGE_NAME),
    opt("DataDisksInfo", DATA_DISKS),
    opt("Description", description(Code::TooLong)),
    opt("InstanceId", INSTANCE_ID),
    opt(
        "MigrationConfigInfo",
        Kind::Object(&[
            opt("Checksum", Kind::Bool),
            opt(
                "BandwidthLimit",
                matches(
                    form::is_digits_or_empty,
                    "a whole number of KB/s, or empty",
                    Code::InvalidParameterValue,
                ),
            ),
        ]),
    ),
    opt("SecurityGroup", TEXT),
    opt(
        "VpcId",
        matches(form::is_vpc_id, "like vpc-1a2b3c4d", Code::VpcIdMalformed),
    ),
    opt("StartTime", START_TIME),
    opt(
        "SubnetId",
        matches(
            form::is_subnet_id,
            "like subnet-1a2b3c4d",
            Code::SubnetIdMalformed,
        ),
    ),
    opt("InstanceType", INSTANCE_TYPE),
    opt("IncrementalMigration", uint(0, 1)),
    opt("IncrementalTime", TEXT),
    opt("OneClickJobId", TEXT),
    opt("RunMode", one_of(&["Delayed", "Immediate", "Timed"])),
    opt("ExcludePathList", free_text(64 * 1024)),
    opt("UserIntentList", free_text(64 * 1024)),
    opt("Product", PRODUCT),
];

const MODIFY_JOB: &[Field] = &[
    req("JobId", JOB_ID),
    opt("Status", JOB_STATUS),
    opt("TargetType", one_of(&["Image", "Instance"])),
    opt("Description", description(Code::TooLarge)),
    opt("InstanceId", INSTANCE_ID),
    opt("SecurityGroup", TEXT),
    opt("ImageName", IMAGE_NAME),
    opt("StartTime", START_TIME),
    opt(
        "Progress",
        matches(
            form::is_progress,
            "a number from 0 to 100",
            Code::InvalidProgressNumber,
        ),
    ),
    opt("MigrateResult", MIGRATE_RESULT),
    opt("ImageId", TEXT),
    opt("InstanceType", INSTANCE_TYPE),
    opt("Name", name(Code::TooLarge, Code::InvalidParameterValue)),
    opt("TransitInstanceId", TEXT),
    opt("IncrementalTime", TEXT),
    opt("LastMessage", free_text(4096)),
    opt("LastSpeed", free_text(32)),
    opt("RemainingTimeEstimate", free_text(32)),
];

const CREATE_SOURCE: &[Field] = &[
    req(
        "ClientVersion",
        Text::any()
            .length((1, Code::TooShort), (64, Code::TooLong))
            .plain()
            .form(Check::Matches(
                form::is_version,
                "a version such as 2.1.3",
                Code::VersionFormatError,
            ))
            .kind(),
    ),
    req(
        "SystemInfo",
        Kind::Object(&[
            opt("KernelVersion", TEXT),
            opt("HostName", TEXT),
            opt("OsName", TEXT),
        ]),
    ),
    req(
        "ServerInfo",
        Kind::Object(&[
            opt("ProcessorNum", uint(0, 1 << 20)),
            opt("Ip", TEXT),
            opt("Mac", TEXT),
            opt("Memory", uint(0, 1 << 30)),
            opt("BootMode", one_of(&["BIOS", "UEFI", ""])),
        ]),
    ),
    req("SystemDiskInfo", SYSTEM_DISK),
    req("Architecture", one_of(&["x86_64", "x86_32", "arm64", "arm_64"])),
    req("OsType", short_text()),
    req(
        "Identifier",
        matches(
            form::is_identifier,
            "64 letters or digits",
            Code::InvalidIdentifierFormat,
        ),
    ),
    opt("Status", SOURCE_STATUS),
    opt("DataDisksInfo", DATA_DISKS),
    opt("Name", name(Code::TooLong, Code::TooShort)),
    opt("Description", description(Code::TooLong)),
    opt("SessionToken", TEXT),
    opt("Platform", TEXT),
    opt("Product", PRODUCT),
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

const JOB: &[Field] = &[req("JobId", JOB_ID)];
const TRANSIT_JOB: &[Field] = &[req("JobId", TRANSIT_JOB_ID)];
const PAGE: &[Field] = &[
    opt("Limit", LIMIT),
    opt("Filters", FILTERS),
    opt("Offset", OFFSET),
];

const fn ids(item: &'static Kind) -> Kind {
    Kind::List {
        item,
        max: IDS_MAX,
        above: Code::InvalidParameterValue,
    }
}

pub(super) const ACTIONS: &[Action] = &[
    action("CreateMigrationJob", Change, Account, CREATE_JOB),
    action("DeleteMigrationJob", Change, Account, JOB),
    action(
        "DescribeMigrationJobDeniedActions",
        Read,
        Agent,
        &[req("JobIds", ids(&JOB_ID))],
    ),
    action("DescribeMigrationJobs", Read, Agent, PAGE),
    action("ModifyMigrationJob", Report, Agent, MODIFY_JOB),
    action("StartMigrationJob", Change, Account, JOB),
    action("StopMigrationJob", Change, Account, JOB),
    action("CreateImageForTransitInstance", Change, Agent, TRANSIT_JOB),
    action(
        "CreateTransitInstance",
        Change,
        Agent,
        &[
            req("JobId", TRANSIT_JOB_ID),
            opt("SystemDiskInfo", SYSTEM_DISK),
            opt("DataDisksInfo", DATA_DISKS),
            opt("DryRun", Kind::Bool),
            // An extension; docs/API.md.
            opt(
                "ImageId",
                matches(
                    form::is_image_id,
                    "like img-1a2b3c4d",
                    Code::InvalidParameterValue,
                ),
            ),
        ],
    ),
    action("DescribeTransitInstance", Read, Agent, TRANSIT_JOB),
    action(
        "ExitLiveMigrateLhInstance",
        Change,
        Agent,
        &[
            req("InstanceId", LIGHTHOUSE_ID),
            req("MigrateResult", one_of(&["succ", "fail"])),
            opt("SupportCloudInit", Kind::Bool),
            opt("SourceSystemInfo", SOURCE_SYSTEM_INFO),
        ],
    ),
    action(
        "LiveMigrateLhInstance",
        Change,
        Agent,
        &[
            req("InstanceId", LIGHTHOUSE_ID),
            opt("ClientVersion", TEXT),
            opt("SysInfo", SYS_INFO),
        ],
    ),
    action("TerminateTransitInstance", Change, Agent, TRANSIT_JOB),
    action("CreateSourceServer", Change, Agent, CREATE_SOURCE),
    action(
        "DeleteSourceServer",
        Change,
        Account,
        &[req("SourceServerId", SOURCE_ID)],
    ),
    action(
        "DescribeSourceServerDeniedActions",
        Read,
        Agent,
        &[req(
            "SourceServerIds",
            ids(&matches(
                form::is_source_id,
                "ids of sources",
                Code::InvalidLiveMigrateSourceServerId,
            )),
        )],
    ),
    action("DescribeSourceServers", Read, Agent, PAGE),
    action(
        "ModifySourceServer",
        Report,
        Agent,
        &[
            req("SourceServerId", SOURCE_ID),
            opt("Status", SOURCE_STATUS),
            opt("UpdateTime", TIME),
            opt("Name", name(Code::TooLong, Code::TooShort)),
            opt("Description", description(Code::TooLong)),
        ],
    ),
];
