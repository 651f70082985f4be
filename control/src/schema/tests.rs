//! The tables against the API's types, and against what each violation must be answered with.

use ::csm::action::ActionName;
use ::csm::schema as types;
use serde_json::{Value, json};

use super::*;

fn same_type(path: &str, ours: &Kind, theirs: &types::Kind) {
    match (ours, theirs) {
        (Kind::Text(_), types::Kind::String)
        | (Kind::Uint { .. }, types::Kind::Unsigned | types::Kind::Signed)
        | (Kind::Bool, types::Kind::Bool) => {}
        (Kind::List { item, .. }, types::Kind::List(theirs)) => same_type(path, item, theirs),
        (Kind::Object(fields), types::Kind::Structure(structure)) => same_fields(path, fields, structure),
        _ => panic!("{path}: {ours:?} here, {theirs:?} there"),
    }
}

fn same_fields(path: &str, ours: &[Field], theirs: &types::Structure) {
    for field in theirs.fields {
        let path = format!("{path}.{}", field.name);
        let own = ours
            .iter()
            .find(|own| own.name == field.name)
            .unwrap_or_else(|| panic!("{path} is not in the table"));
        same_type(&path, &own.kind, &field.kind);
    }
    for own in ours {
        assert!(
            theirs.field(own.name).is_some(),
            "{path}.{} is not in the API",
            own.name
        );
    }
}

#[test]
fn the_tables_have_the_members_and_types_of_the_api() {
    for name in ActionName::ALL {
        let service = Service::ALL
            .into_iter()
            .find(|service| service.name() == name.service().name())
            .unwrap();
        let action =
            find(service, name.as_str()).unwrap_or_else(|| panic!("{} is not served", name.as_str()));
        same_fields(action.name, action.fields, name.request());
        for field in name.request().fields {
            let own = action.fields.iter().find(|own| own.name == field.name).unwrap();
            assert_eq!(own.required, field.required, "{}.{}", action.name, field.name);
        }
        assert_eq!(
            action.effect == Effect::Read,
            name.is_read_only(),
            "{}",
            action.name
        );
    }
}

fn violate(action: &str, parameters: Value) -> Option<Code> {
    let action = Service::ALL
        .into_iter()
        .find_map(|service| find(service, action))
        .unwrap();
    let Value::Object(tree) = parameters else {
        panic!("not an object")
    };
    check(action, tree, Encoding::Json).err().map(|error| error.code)
}

fn with(base: &Value, name: &str, value: Value) -> Value {
    let mut base = base.clone();
    base[name] = value;
    base
}

#[test]
fn each_violation_of_a_job_has_its_code() {
    let base = json!({"SourceServerId": "ss-1a2b3c4d", "SystemDiskInfo": {"Device": "/dev/vda", "Size": 50}, "Mode": 0,
        "TargetRegion": "local-1", "InstanceId": "ins-1a2b3c4d"});
    let job = |name: &str, value: Value| violate("CreateMigrationJob", with(&base, name, value));
    assert_eq!(violate("CreateMigrationJob", base.clone()), None);
    assert_eq!(job("Colour", json!("red")), Some(Code::UnknownParameter));
    assert_eq!(job("SourceServerId", json!(null)), Some(Code::MissingParameter));
    assert_eq!(
        job("SourceServerId", json!("ss-UPPER123")),
        Some(Code::InvalidSourceServerIdMalformed)
    );
    assert_eq!(job("SourceServerId", json!(5)), Some(Code::InvalidParameter));
    assert_eq!(job("Name", json!("")), Some(Code::TooShort));
    assert_eq!(job("Name", json!("名".repeat(128))), None);
    assert_eq!(job("Name", json!("名".repeat(129))), Some(Code::TooLong));
    for bad in ["it's", "a;b", "a\\b", "say \"x\"", "line\nbreak"] {
        assert_eq!(
            job("Name", json!(bad)),
            Some(Code::ParameterValueContainsIllegalCharacter),
            "{bad}"
        );
    }
    assert_eq!(job("Description", json!("x".repeat(257))), Some(Code::TooLong));
    assert_eq!(job("Mode", json!(4)), Some(Code::TooLarge));
    assert_eq!(job("Mode", json!(-1)), Some(Code::InvalidParameterValue));
    assert_eq!(
        job("TargetType", json!("Cloud")),
        Some(Code::InvalidParameterValue)
    );
    assert_eq!(job("VpcId", json!("vpc_1")), Some(Code::VpcIdMalformed));
    assert_eq!(job("SubnetId", json!("subnet-")), Some(Code::SubnetIdMalformed));
    assert_eq!(
        job("StartTime", json!("2026-01-31 08:00:00")),
        Some(Code::InvalidTimeFormat)
    );
    assert_eq!(
        job("StartTime", json!("2026-02-30T08:00:00Z")),
        Some(Code::InvalidTimeFormat)
    );
    assert_eq!(job("StartTime", json!("")), None);
    assert_eq!(
        job("InstanceType", json!("BMG5t.LARGE")),
        Some(Code::MigrateNotSupportInstanceType)
    );
    assert_eq!(
        job("InstanceType", json!("BMG5.LARGE")),
        Some(Code::MigrateNotSupportInstanceType)
    );
    assert_eq!(job("InstanceType", json!("SA5.MEDIUM4")), None);
    assert_eq!(
        job("InstanceId", json!("i-123")),
        Some(Code::InvalidInstanceIdNotFound)
    );
    let disk = |size: u64| json!({"Device": "/dev/vda", "Size": size});
    assert_eq!(
        job("SystemDiskInfo", disk(65_537)),
        Some(Code::SystemDiskSizeTooLarge)
    );
    let data = |disk: Value| job("DataDisksInfo", json!([disk]));
    assert_eq!(
        data(json!({"Index": 1, "Device": "/dev/vdb", "Size": 65_537})),
        Some(Code::DataDiskSizeTooLarge)
    );
    assert_eq!(
        data(json!({"Index": 0, "Device": "/dev/vdb", "Size": 1})),
        Some(Code::InvalidParameterValue)
    );
    assert_eq!(data(json!({"Index": 1, "Size": 1})), Some(Code::MissingParameter));
    assert_eq!(data(json!("disk")), Some(Code::InvalidParameter));
}

#[test]
fn each_violation_of_reports_and_sources_has_its_code() {
    let job = |name: &str, value: Value| {
        violate(
            "ModifyMigrationJob",
            with(&json!({"JobId": "migrate-1a2b3c4d"}), name, value),
        )
    };
    assert_eq!(
        violate("ModifyMigrationJob", json!({"JobId": "job-1"})),
        Some(Code::InvalidMigrateJobIdMalformed)
    );
    for good in ["0", "100", "55.5", "100.0"] {
        assert_eq!(job("Progress", json!(good)), None, "{good}");
    }
    for bad in ["", "-1", "100.1", "half", "1e1", "NaN", "+5", "0x10"] {
        assert_eq!(
            job("Progress", json!(bad)),
            Some(Code::InvalidProgressNumber),
            "{bad}"
        );
    }
    assert_eq!(job("Description", json!("x".repeat(257))), Some(Code::TooLarge));
    let source = json!({"ClientVersion": "2.1.3", "SystemInfo": {}, "ServerInfo": {}, "Architecture": "x86_64",
        "SystemDiskInfo": {"Device": "/dev/vda", "Size": 50}, "OsType": "Debian", "Identifier": "a".repeat(64)});
    let register = |name: &str, value: Value| violate("CreateSourceServer", with(&source, name, value));
    assert_eq!(violate("CreateSourceServer", source.clone()), None);
    assert_eq!(register("ClientVersion", json!("")), Some(Code::TooShort));
    assert_eq!(
        register("ClientVersion", json!("1".repeat(65))),
        Some(Code::TooLong)
    );
    assert_eq!(
        register("ClientVersion", json!("latest")),
        Some(Code::VersionFormatError)
    );
    assert_eq!(
        register("Identifier", json!("a".repeat(63))),
        Some(Code::InvalidIdentifierFormat)
    );
    assert_eq!(
        register("Identifier", json!("-".repeat(64))),
        Some(Code::InvalidIdentifierFormat)
    );
    assert_eq!(register("OsType", json!("")), Some(Code::TooShort));
    assert_eq!(
        register("Architecture", json!("mips")),
        Some(Code::InvalidParameterValue)
    );
    assert_eq!(register("Architecture", json!("arm64")), None);
}

#[test]
fn each_violation_of_lists_and_ids_has_its_code() {
    for limit in [json!(0), json!(51)] {
        let code = violate("DescribeMigrationJobs", json!({"Limit": limit}));
        assert_eq!(code, Some(Code::ParameterValueNotSupportValue));
    }
    assert_eq!(
        violate("DescribeMigrationJobDeniedActions", json!({"JobIds": []})),
        Some(Code::MissingParameter)
    );
    let code = violate("DescribeMigrationJobDeniedActions", json!({"JobIds": ["x"]}));
    assert_eq!(code, Some(Code::InvalidMigrateJobIdMalformed));
    assert_eq!(
        violate("LiveMigrateLhInstance", json!({"InstanceId": "ins-1a2b3c4d"})),
        Some(Code::InvalidInstanceIdMalformed)
    );
    assert_eq!(
        violate("LiveMigrateInstance", json!({"InstanceId": "x"})),
        Some(Code::CvmInstanceIdMalformed)
    );
    assert_eq!(
        violate("DescribeInstances", json!({"Limit": 101})),
        Some(Code::ValueLimitExceeded)
    );
    assert_eq!(
        violate("DescribeImages", json!({"Limit": 101})),
        Some(Code::InvalidParameterValueLimit)
    );
}

#[test]
fn forms_become_typed_and_lists_count_from_any_number() {
    let action = find(Service::Csm, "DescribeMigrationJobs").unwrap();
    let tree = json!({"Limit": "10", "Offset": "", "Filters": {"2": {"Name": "status", "Values": {"10": "FAILED", "9": "RUNNING"}}}});
    let Value::Object(tree) = tree else {
        panic!("not an object")
    };
    let params = check(action, tree.clone(), Encoding::Form).unwrap();
    assert_eq!(params.uint("Limit"), Some(10));
    assert_eq!(params.uint("Offset"), None);
    assert_eq!(
        params.value("Filters"),
        Some(&json!([{"Name": "status", "Values": ["RUNNING", "FAILED"]}]))
    );
    let strict = check(action, tree, Encoding::Json).unwrap_err();
    assert_eq!(strict.code, Code::InvalidParameter, "JSON is typed already");
}

#[test]
fn every_code_is_documented() {
    for code in Code::ALL {
        assert!(::csm::code::is_documented(code.as_str()), "{code}");
    }
}
