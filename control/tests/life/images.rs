//! Image targets: a transit instance that is never left behind, whatever fails.

use serde_json::{Value, json};

use crate::plane::{CSM, CVM, Plane, job_to_image};

fn begin(plane: &Plane) -> (String, String) {
    let source = plane.source('a');
    let job = plane.csm("CreateMigrationJob", job_to_image(&source, "web"))["JobId"]
        .as_str()
        .unwrap()
        .to_owned();
    (source, job)
}

fn transit(plane: &Plane, job: &str) -> String {
    let id = plane.csm("CreateTransitInstance", json!({"JobId": job}))["InstanceId"]
        .as_str()
        .unwrap()
        .to_owned();
    plane.until("the transit instance", || transit_state(plane, job) != "PENDING");
    id
}

fn transit_state(plane: &Plane, job: &str) -> String {
    let answer = plane.csm("DescribeTransitInstance", json!({"JobId": job}));
    answer["InstanceSet"][0]["InstanceState"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

fn images(plane: &Plane) -> Vec<Value> {
    plane.call(CVM, "DescribeImages", json!({})).unwrap()["ImageSet"]
        .as_array()
        .unwrap()
        .clone()
}

/// Nothing is left: no instance, no image, and every instance made was destroyed.
fn nothing_is_left(plane: &Plane) {
    plane.until("the cleaning up", || {
        plane.instances().is_empty() && images(plane).is_empty()
    });
    let did = plane.did();
    let ids = |hook: &str| {
        let mut ids: Vec<String> = did
            .iter()
            .filter(|(name, _)| name == hook)
            .map(|(_, input)| input["InstanceId"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    };
    assert_eq!(ids("create"), ids("destroy"), "what was made was destroyed");
}

#[test]
fn an_image_is_made_and_the_transit_instance_is_gone() {
    let plane = Plane::start(&[]);
    let (_, job) = begin(&plane);
    let dry = plane.refused("CreateTransitInstance", json!({"JobId": job, "DryRun": true}));
    assert_eq!(dry, "DryRunOperation");
    let id = transit(&plane, &job);
    assert_eq!(transit(&plane, &job), id, "asked again, the same");
    let shown = plane.csm("DescribeTransitInstance", json!({"JobId": job}))["InstanceSet"][0].clone();
    assert_eq!(
        (&shown["InstanceState"], &shown["SystemDisk"]["DiskSize"]),
        (&json!("RUNNING"), &json!(50))
    );
    assert_eq!(plane.job(&job)["TransitInstanceId"], *id);
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    let early = plane.refused("CreateImageForTransitInstance", json!({"JobId": job}));
    assert_eq!(early, "UnsupportedOperation.InstanceStateServiceLiveMigrate");
    plane
        .call(
            CVM,
            "ExitLiveMigrateInstance",
            json!({"InstanceId": id, "MigrateResult": "succ"}),
        )
        .unwrap();
    let image = plane.csm("CreateImageForTransitInstance", json!({"JobId": job}))["ImageId"].clone();
    let again = plane.csm("CreateImageForTransitInstance", json!({"JobId": job}))["ImageId"].clone();
    assert_eq!(image, again, "asked again, the same");
    plane.csm("TerminateTransitInstance", json!({"JobId": job}));
    plane.csm("TerminateTransitInstance", json!({"JobId": job}));
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "SUCCESS"}));
    assert!(plane.instances().is_empty());
    assert_eq!(plane.job(&job)["ImageId"], image);
    let images = images(&plane);
    assert_eq!(images.len(), 1);
    assert_eq!(
        (&images[0]["ImageName"], &images[0]["ImageState"]),
        (&json!("web"), &json!("NORMAL"))
    );
    let second = plane.csm("CreateMigrationJob", job_to_image(&plane.source('b'), "web"))["JobId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        plane.job(&second)["ImageName"],
        format!("web_{second}"),
        "the name is taken"
    );
    let unknown = json!({"JobId": second, "ImageId": "img-0a0a0a0a"});
    assert_eq!(
        plane.refused("CreateTransitInstance", unknown),
        "InvalidParameterValue"
    );
    let based = json!({"JobId": second, "ImageId": image});
    let based = plane.csm("CreateTransitInstance", based)["InstanceId"].clone();
    plane.until("the transit instance", || {
        transit_state(&plane, &second) != "PENDING"
    });
    let made = plane
        .did()
        .into_iter()
        .rev()
        .find(|(hook, _)| hook == "create")
        .unwrap()
        .1;
    assert_eq!((&made["InstanceId"], &made["Image"]["ImageId"]), (&based, &image));
}

#[test]
fn nothing_is_left_behind_when_the_instance_cannot_be_made() {
    let plane = Plane::start(&[]);
    plane.fail(&["create"]);
    let (_, job) = begin(&plane);
    transit(&plane, &job);
    assert_eq!(transit_state(&plane, &job), "LAUNCH_FAILED");
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "FAILED"}));
    nothing_is_left(&plane);
}

#[test]
fn nothing_is_left_behind_when_migration_mode_or_the_copy_fails() {
    let plane = Plane::start(&[]);
    let (_, job) = begin(&plane);
    let id = transit(&plane, &job);
    plane.fail(&["enter"]);
    let code = plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap_err();
    assert_eq!(code, "FailedOperation");
    plane.fail(&[]);
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "FAILED"}));
    nothing_is_left(&plane);
    let exits = plane.did().into_iter().filter(|(hook, _)| hook == "exit").count();
    assert_eq!(
        exits, 2,
        "once after the failure to enter, once before it was destroyed"
    );
    plane.csm("StartMigrationJob", json!({"JobId": job}));
    assert_ne!(transit(&plane, &job), id, "a retry makes another");
}

#[test]
fn nothing_is_left_behind_when_the_image_cannot_be_made() {
    let plane = Plane::start(&[]);
    let (_, job) = begin(&plane);
    transit(&plane, &job);
    plane.fail(&["image", "discard-image"]);
    assert_eq!(
        plane.refused("CreateImageForTransitInstance", json!({"JobId": job})),
        "FailedOperation"
    );
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "FAILED"}));
    plane.fail(&["destroy"]);
    plane.until("an attempt to destroy", || {
        plane.did().iter().any(|(hook, _)| hook == "destroy")
    });
    plane.fail(&[]);
    nothing_is_left(&plane);
}

#[test]
fn nothing_is_left_behind_by_a_crash() {
    let mut plane = Plane::start(&[]);
    let (_, job) = begin(&plane);
    let id = transit(&plane, &job);
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    plane.fail(&["exit", "destroy"]);
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "FAILED"}));
    plane.csm("DeleteMigrationJob", json!({"JobId": job}));
    plane.kill_and_start();
    assert_eq!(plane.job_status(&job), "DELETING");
    plane.fail(&[]);
    plane.until("the deletion", || plane.job_status(&job) == "DELETED");
    nothing_is_left(&plane);
}

#[test]
fn a_job_to_an_instance_has_no_transit_instance() {
    let plane = Plane::start(&[]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let job = plane.csm("CreateMigrationJob", crate::plane::job_to(&source, &instance))["JobId"].clone();
    assert_eq!(
        plane.refused("DescribeTransitInstance", json!({"JobId": job})),
        "InvalidParameterValue.InvalidJobId"
    );
    for action in [
        "CreateTransitInstance",
        "DescribeTransitInstance",
        "CreateImageForTransitInstance",
        "TerminateTransitInstance",
    ] {
        let code = plane
            .call(CSM, action, json!({"JobId": "migrate-zzzzzzzz"}))
            .unwrap_err();
        assert_eq!(code, "FailedOperation.JobIdNotExist", "{action}");
    }
}
