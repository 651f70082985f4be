//! Instances as the compute API has them; receivers that run already; networks.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::plane::{CSM, CVM, OWN, Plane, job_to, job_to_image};

#[test]
fn instances_are_run_filtered_switched_and_terminated() {
    let plane = Plane::start(&[]);
    let cvm = |action: &str, request: Value| plane.call(CVM, action, request);
    let zone = cvm("DescribeZones", json!({})).unwrap()["ZoneSet"][0]["Zone"].clone();
    let regions = cvm("DescribeRegions", json!({})).unwrap();
    assert_eq!(regions["RegionSet"][0]["Region"], "local-1");
    let base = json!({"Placement": {"Zone": zone}, "ImageId": "img-00000000", "InstanceCount": 2,
        "InstanceName": "web.example", "ClientToken": "once"});
    let run = || {
        let mut ids = cvm("RunInstances", base.clone()).unwrap()["InstanceIdSet"]
            .as_array()
            .unwrap()
            .clone();
        ids.sort_by_key(Value::to_string);
        Value::Array(ids)
    };
    let made = run();
    assert_eq!(made.as_array().unwrap().len(), 2);
    assert_eq!(run(), made, "the token names the first call");
    let state = |wanted: &str| {
        let filters = json!([{"Name": "instance-state", "Values": [wanted]}]);
        cvm("DescribeInstances", json!({"Filters": filters})).unwrap()["TotalCount"]
            .as_u64()
            .unwrap()
    };
    plane.until("both to run", || state("RUNNING") == 2);
    let named = json!([{"Name": "instance-name", "Values": ["web"]}]);
    assert_eq!(
        cvm("DescribeInstances", json!({"Filters": named})).unwrap()["TotalCount"],
        2
    );
    let both = json!({"InstanceIds": [made[0]], "Filters": named});
    assert_eq!(cvm("DescribeInstances", both).unwrap_err(), "InvalidParameter");
    let unknown = json!({"Filters": [{"Name": "colour", "Values": ["red"]}]});
    assert_eq!(cvm("DescribeInstances", unknown).unwrap_err(), "InvalidFilter");
    plane.fail(&["stop"]);
    cvm("StopInstances", json!({"InstanceIds": [made[0]]})).unwrap();
    plane.until("the failed stop", || state("RUNNING") == 2);
    plane.fail(&[]);
    cvm("StopInstances", json!({"InstanceIds": [made[0]]})).unwrap();
    plane.until("the stop", || state("STOPPED") == 1);
    let again = cvm("StopInstances", json!({"InstanceIds": [made[0]]})).unwrap_err();
    assert_eq!(again, "UnsupportedOperation.InstanceStateStopped");
    assert_eq!(
        cvm("TerminateInstances", json!({"InstanceIds": made, "DryRun": true})).unwrap_err(),
        "DryRunOperation"
    );
    cvm("TerminateInstances", json!({"InstanceIds": made})).unwrap();
    assert!(plane.instances().is_empty());
    assert_eq!(
        cvm("StartInstances", json!({"InstanceIds": [made[0]]})).unwrap_err(),
        "InvalidInstanceId.NotFound"
    );
}

#[test]
fn what_forbids_an_instance_is_named() {
    let plane = Plane::start(&[]);
    let base = json!({"Placement": {"Zone": "local-1-1"}, "ImageId": "img-00000000"});
    let refused = |name: &str, value: Value| {
        let mut request = base.clone();
        request[name] = value;
        plane.call(CVM, "RunInstances", request).unwrap_err()
    };
    assert_eq!(
        refused("Placement", json!({"Zone": "mars-1"})),
        "InvalidZone.MismatchRegion"
    );
    assert_eq!(refused("ImageId", json!("img-zzzzzzzz")), "InvalidParameterValue");
    assert_eq!(
        refused("InstanceCount", json!(101)),
        "InvalidParameterValue.Range"
    );
    assert_eq!(
        refused("InstanceType", json!("huge")),
        "InvalidInstanceType.Malformed"
    );
    assert_eq!(
        refused("ClientToken", json!("x".repeat(65))),
        "InvalidClientToken.TooLong"
    );
}

#[test]
fn a_lighthouse_instance_has_its_own_actions() {
    let plane = Plane::start(&[]);
    let made = plane
        .call(OWN, "CreateInstance", json!({"Product": "lh"}))
        .unwrap();
    let id = made["InstanceId"].as_str().unwrap();
    assert!(id.starts_with("lhins-"));
    let entered = plane.csm("LiveMigrateLhInstance", json!({"InstanceId": id}));
    assert_eq!(entered["Port"], 4433);
    let wrong = plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap_err();
    assert_eq!(wrong, "InvalidInstance.NotSupported");
    assert_eq!(
        plane.refused("ExitLiveMigrateLhInstance", json!({"InstanceId": id})),
        "MissingParameter"
    );
    plane.csm(
        "ExitLiveMigrateLhInstance",
        json!({"InstanceId": id, "MigrateResult": "succ"}),
    );
    let unknown = plane.refused("LiveMigrateLhInstance", json!({"InstanceId": "lhins-zzzzzzzz"}));
    assert_eq!(unknown, "ResourceNotFound.InvalidInstanceIdNotFound");
    let mut job = job_to(&plane.source('a'), id);
    job["TargetType"] = "Lh-Instance".into();
    plane.csm("CreateMigrationJob", job);
}

#[test]
fn receivers_that_run_already_are_declared_by_file_and_by_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let secret = "s".repeat(40);
    std::fs::write(folder.path().join("web.key"), format!("{secret}\n")).unwrap();
    let file = folder.path().join("instances.json");
    let declared = json!([{"InstanceName": "web", "Address": address, "SecretFile": "web.key"}]);
    std::fs::write(&file, declared.to_string()).unwrap();
    let mut plane = Plane::start(&["--static-instances", file.to_str().unwrap()]);
    let id = plane.instances()[0].clone();
    let entered = plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    assert_eq!(entered["Ip"], "127.0.0.1");
    assert_eq!(entered["Port"], listener.local_addr().unwrap().port());
    assert_eq!(entered["Password"], *secret, "its own secret");
    plane
        .call(CVM, "ExitLiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    plane.kill_and_start();
    assert_eq!(plane.instances(), [id], "declared again, the same");

    let declare = |address: &str, secret: &str| {
        plane.call(
            OWN,
            "CreateInstance",
            json!({"Address": address, "Secret": secret}),
        )
    };
    assert_eq!(
        declare("127.0.0.1", &secret).unwrap_err(),
        "InvalidParameterValue"
    );
    assert_eq!(declare(&address, "short").unwrap_err(), "InvalidParameterValue");
    let made = declare(&address, &secret).unwrap()["InstanceId"].clone();
    drop(listener);
    let request = json!({"InstanceId": made});
    let refused = plane.call(CVM, "LiveMigrateInstance", request).unwrap_err();
    assert_eq!(refused, "FailedOperation.PortUnreachable");
    let ignore = json!({"InstanceId": made, "IgnoreCheckNetworkConnectivity": true});
    plane.call(CVM, "LiveMigrateInstance", ignore).unwrap();
}

#[test]
fn declared_networks_bound_transit_instances() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("networks.json");
    let networks = json!([{"VpcId": "vpc-one", "Subnets": [{"SubnetId": "subnet-small", "Addresses": 1}]}]);
    std::fs::write(&file, networks.to_string()).unwrap();
    let plane = Plane::start(&["--networks", file.to_str().unwrap()]);
    let request = |mark: char, vpc: &str, subnet: &str| {
        let mut request = job_to_image(&plane.source(mark), &format!("image-{mark}"));
        request["VpcId"] = vpc.into();
        request["SubnetId"] = subnet.into();
        request
    };
    let refused = |mark, vpc, subnet| plane.refused("CreateMigrationJob", request(mark, vpc, subnet));
    assert_eq!(
        refused('a', "vpc-one", "subnet-none"),
        "InvalidParameterValue.SubnetNotExist"
    );
    assert_eq!(
        refused('b', "vpc-two", "subnet-small"),
        "InvalidParameterValue.VpcIdSubnetIdNotMatch"
    );
    plane
        .call(CSM, "CreateMigrationJob", request('c', "vpc-one", "subnet-small"))
        .unwrap();
    assert_eq!(
        refused('d', "vpc-one", "subnet-small"),
        "FailedOperation.NoAvailableIpAddressCountInSubnet"
    );
}
