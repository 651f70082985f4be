//! The actions that neither published API has: declaring instances, enrolment, the audit trail.

use super::form::{self, Check};
use super::{Action, Audience, Effect, Field, Kind, TEXT, Text, opt, req, uint};
use crate::code::Code;

use Effect::{Change, Read};

const DISK_GB: Kind = uint(1, super::csm::DISK_GB_MAX);
const NAME: Kind = Text::any()
    .length((1, Code::TooShort), (60, Code::TooLong))
    .plain()
    .kind();
const UUID: Kind = Text::any()
    .length((1, Code::TooShort), (64, Code::TooLong))
    .plain()
    .kind();
const ENROLMENT_ID: Kind = Text::any()
    .length((1, Code::TooShort), (64, Code::TooLong))
    .kind();

const fn one_of(values: &'static [&'static str]) -> Kind {
    Text::any()
        .form(Check::OneOf(values, Code::InvalidParameterValue))
        .kind()
}

fn is_target_id(text: &str) -> bool {
    form::is_instance_id(text) || form::is_lighthouse_id(text)
}

const CREATE_INSTANCE: &[Field] = &[
    opt("InstanceName", NAME),
    opt("Product", one_of(&["cvm", "lh"])),
    opt("Kind", one_of(&["directory", "disk"])),
    opt("OsType", one_of(&["linux", "windows"])),
    opt("InstanceType", NAME),
    opt("Uuid", UUID),
    opt("SystemDiskSize", DISK_GB),
    opt(
        "DataDiskSizes",
        Kind::List {
            item: &DISK_GB,
            max: 20,
            above: Code::InvalidParameterValue,
        },
    ),
    opt("Address", TEXT),
    opt("LanAddress", TEXT),
    opt("Secret", TEXT),
];

const fn action(name: &'static str, effect: Effect, fields: &'static [Field]) -> Action {
    Action {
        name,
        effect,
        audience: Audience::Account,
        regional: false,
        fields,
    }
}

pub(super) const ACTIONS: &[Action] = &[
    action("CreateInstance", Change, CREATE_INSTANCE),
    action(
        "DeleteInstance",
        Change,
        &[req(
            "InstanceId",
            Text::any()
                .form(Check::Matches(
                    is_target_id,
                    "like ins-1a2b3c4d",
                    Code::CvmInstanceIdMalformed,
                ))
                .kind(),
        )],
    ),
    action(
        "CreateEnrolmentCode",
        Change,
        &[
            opt("Uses", uint(1, 100_000)),
            opt("Hours", uint(1, 24 * 365)),
            opt("Description", TEXT),
        ],
    ),
    action("DescribeEnrolmentCodes", Read, &[]),
    action("RevokeEnrolmentCode", Change, &[req("EnrolmentId", ENROLMENT_ID)]),
    action(
        "DescribeAuditRecords",
        Read,
        &[
            opt("Limit", uint(1, 1000)),
            opt("Before", uint(1, i64::MAX as u64)),
        ],
    ),
];
