use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::Described;
use crate::types::{CreateSourceServer, DescribeInstances, DescribeSourceServers, StopInstances};

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn decodes_both_cases_of_escapes_and_refuses_broken_ones() {
    assert_eq!(
        decode(b"a=%2f%2B+x&b&c=&&d=%E8%BF%81").unwrap(),
        pairs(&[("a", "/+ x"), ("b", ""), ("c", ""), ("d", "迁")])
    );
    assert_eq!(decode(b"a=%2"), Err(FormError::Escape));
    assert_eq!(decode(b"a=%zz"), Err(FormError::Escape));
    assert_eq!(decode(b"a=%ff"), Err(FormError::NotUtf8));
}

#[test]
fn lists_count_from_zero_or_one_and_sort_by_number() {
    let mut parameters = pairs(&[
        ("Filters.1.Name", "name"),
        ("Filters.1.Values.1", "a"),
        ("Limit", "5"),
    ]);
    for index in [12, 2, 10] {
        parameters.push((format!("Filters.1.Values.{index}"), index.to_string()));
    }
    let value = typed(&DescribeSourceServers::STRUCTURE, &parameters).unwrap();
    assert_eq!(
        value,
        json!({"Filters": [{"Name": "name", "Values": ["a", "2", "10", "12"]}], "Limit": 5})
    );
}

#[test]
fn types_come_from_the_description() {
    let parameters = pairs(&[("InstanceIds.0", "1"), ("ForceStop", "True"), ("StopType", "")]);
    let value = typed(&StopInstances::STRUCTURE, &parameters).unwrap();
    assert_eq!(
        value,
        json!({"InstanceIds": ["1"], "ForceStop": true, "StopType": ""})
    );
    let value = typed(
        &DescribeInstances::STRUCTURE,
        &pairs(&[("Limit", ""), ("Offset", "-1")]),
    )
    .unwrap();
    assert_eq!(value, json!({"Offset": -1}));
}

#[test]
fn violations_name_the_parameter() {
    let problem = |list: &[(&str, &str)]| {
        let violation = typed(&DescribeSourceServers::STRUCTURE, &pairs(list)).unwrap_err();
        (violation.path, violation.problem)
    };
    assert_eq!(problem(&[("Nope", "1")]), ("Nope".into(), Problem::Unknown));
    assert_eq!(
        problem(&[("Filters.x.Name", "1")]),
        ("Filters.x".into(), Problem::Unknown)
    );
    assert_eq!(
        problem(&[("Filters.0.Name.0", "1")]),
        ("Filters.0.Name".into(), Problem::WrongType("a string"))
    );
    assert_eq!(
        problem(&[("Limit", "ten")]),
        ("Limit".into(), Problem::WrongType("an integer of at least 0"))
    );
    assert_eq!(
        problem(&[("Limit", "1"), ("Limit", "2")]),
        ("Limit".into(), Problem::Repeated)
    );
    assert_eq!(
        problem(&[("Limit", "1"), ("Limit.0", "2")]),
        ("Limit.0".into(), Problem::Repeated)
    );
    assert_eq!(
        problem(&[("Filters.0.Name", "1"), ("Filters.00.Name", "2")]),
        ("Filters.00".into(), Problem::Repeated)
    );
    let deep = ["Filters"; 9].join(".");
    assert_eq!(problem(&[(&deep, "1")]), (deep.clone(), Problem::Unknown));
}

#[test]
fn a_request_survives_being_flattened() {
    let request = json!({
        "ClientVersion": "1", "Architecture": "x86_64", "OsType": "Debian", "Identifier": "a".repeat(64),
        "SystemInfo": {"HostName": "h"}, "ServerInfo": {"ProcessorNum": 2},
        "SystemDiskInfo": {"Device": "/dev/vda", "Size": 50, "Partitions": [
            {"Device": "/dev/vda1", "Size": 49, "Bootable": true, "Block": {"Supported": false}},
            {"Device": "/dev/vda2", "Size": 1},
        ]},
    });
    CreateSourceServer::STRUCTURE.check(&request).unwrap();
    assert_eq!(
        typed(&CreateSourceServer::STRUCTURE, &flatten(&request)).unwrap(),
        request
    );
}

proptest! {
    #[test]
    fn any_pairs_survive_the_encoding(list in proptest::collection::vec(("[A-Za-z0-9.]{1,12}", any::<String>()), 0..8)) {
        prop_assert_eq!(decode(encode(&list).as_bytes()).unwrap(), list);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(parameters) = decode(&bytes) {
            let _ = typed(&CreateSourceServer::STRUCTURE, &parameters);
        }
    }
}
