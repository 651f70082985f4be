//! The local provider with the real receiver: processes that are there when they should be, and gone when not.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::plane::{CVM, OWN, Plane, job_to_image};

fn plane() -> Plane {
    let receiver = Path::new(env!("CARGO_BIN_EXE_go2cloud-control")).with_file_name("go2cloud-receiver");
    assert!(
        receiver.exists(),
        "{} is missing: build the workspace first (cargo build)",
        receiver.display()
    );
    Plane::start_as(&["--plain-http"])
}

/// Processes that have this folder among their arguments, apart from the control plane itself.
fn receivers(folder: &Path) -> Vec<i32> {
    let mark = folder.join("instances").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&mark) {
            found.push(pid);
        }
    }
    found
}

fn enter(plane: &Plane, id: &str) -> Value {
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap()
}

fn is_listening(entered: &Value) -> bool {
    let address = format!("{}:{}", entered["Ip"].as_str().unwrap(), entered["Port"]);
    std::net::TcpStream::connect_timeout(&address.parse().unwrap(), std::time::Duration::from_secs(5)).is_ok()
}

fn disk(plane: &Plane, id: &str) -> PathBuf {
    plane.data().join("instances").join(id).join("disk")
}

#[test]
fn a_receiver_listens_survives_and_ends() {
    let mut plane = plane();
    let id = plane.instance();
    let entered = enter(&plane, &id);
    assert!(is_listening(&entered));
    assert_eq!(receivers(&plane.data()).len(), 1);
    plane.kill_and_start();
    plane.until("the receiver's return", || is_listening(&entered));
    assert_eq!(enter(&plane, &id)["Port"], entered["Port"], "at the same port");
    assert_eq!(enter(&plane, &id)["Password"], entered["Password"]);
    plane.until("the end of the receiver left behind", || {
        receivers(&plane.data()).len() == 1
    });
    for pid in receivers(&plane.data()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    plane.until("its return after it was killed", || is_listening(&entered));
    plane
        .call(CVM, "ExitLiveMigrateInstance", json!({"InstanceId": id}))
        .unwrap();
    assert!(receivers(&plane.data()).is_empty());
    assert!(!is_listening(&entered));
    assert!(
        !plane.data().join("instances").join(&id).join("secret").exists(),
        "its secret is gone"
    );
    enter(&plane, &id);
    let data = plane.data();
    plane.end();
    assert!(receivers(&data).is_empty(), "no receiver outlives the service");
}

/// The image of a job that ran to its end, with a file `proof` in it.
fn migrated_image(plane: &Plane) -> String {
    let job = plane.csm("CreateMigrationJob", job_to_image(&plane.source('a'), "web"))["JobId"].clone();
    let id = plane.csm("CreateTransitInstance", json!({"JobId": job}))["InstanceId"]
        .as_str()
        .unwrap()
        .to_owned();
    plane.until("the transit instance", || {
        plane.csm("DescribeTransitInstance", json!({"JobId": job}))["InstanceSet"][0]["InstanceState"]
            == "RUNNING"
    });
    enter(plane, &id);
    std::fs::write(disk(plane, &id).join("proof"), "copied").unwrap();
    plane
        .call(
            CVM,
            "ExitLiveMigrateInstance",
            json!({"InstanceId": id, "MigrateResult": "succ"}),
        )
        .unwrap();
    let image = plane.csm("CreateImageForTransitInstance", json!({"JobId": job}))["ImageId"]
        .as_str()
        .unwrap()
        .to_owned();
    plane.csm("TerminateTransitInstance", json!({"JobId": job}));
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "SUCCESS"}));
    assert!(
        !plane.data().join("instances").join(&id).exists(),
        "the transit instance is gone"
    );
    let proof = plane
        .data()
        .join("images")
        .join(&image)
        .join("disk")
        .join("proof");
    assert_eq!(std::fs::read_to_string(proof).unwrap(), "copied");
    image
}

#[test]
fn a_transit_instance_becomes_an_image_that_instances_are_made_of() {
    let plane = plane();
    let image = migrated_image(&plane);
    let request = json!({"Placement": {"Zone": "local-1-1"}, "ImageId": image});
    let run = plane.call(CVM, "RunInstances", request).unwrap()["InstanceIdSet"][0]
        .as_str()
        .unwrap()
        .to_owned();
    plane.until("the instance", || disk(&plane, &run).join("proof").exists());
    plane.until("it to run", || {
        let answer = plane
            .call(CVM, "DescribeInstancesStatus", json!({"InstanceIds": [run]}))
            .unwrap();
        answer["InstanceStatusSet"][0]["InstanceState"] == "RUNNING"
    });
    let copy = plane
        .call(
            CVM,
            "CreateImage",
            json!({"InstanceId": run, "ImageName": "copy"}),
        )
        .unwrap();
    let copy = plane
        .data()
        .join("images")
        .join(copy["ImageId"].as_str().unwrap());
    assert_eq!(
        std::fs::read_to_string(copy.join("disk").join("proof")).unwrap(),
        "copied"
    );
    assert!(
        disk(&plane, &run).join("proof").exists(),
        "the instance still has its disk"
    );
    let twice = plane
        .call(
            CVM,
            "CreateImage",
            json!({"InstanceId": run, "ImageName": "copy"}),
        )
        .unwrap_err();
    assert_eq!(twice, "InvalidImageName.Duplicate");
}

#[test]
fn disks_are_files_of_their_size_and_images_are_imported() {
    let plane = plane();
    let request = json!({"Kind": "disk", "SystemDiskSize": 2, "DataDiskSizes": [1]});
    let id = plane.call(OWN, "CreateInstance", request).unwrap()["InstanceId"]
        .as_str()
        .unwrap()
        .to_owned();
    let folder = plane.data().join("instances").join(&id);
    assert_eq!(
        std::fs::metadata(folder.join("disk0.img")).unwrap().len(),
        2 << 30
    );
    assert_eq!(
        std::fs::metadata(folder.join("disk1.img")).unwrap().len(),
        1 << 30
    );
    assert!(is_listening(&enter(&plane, &id)));

    let inbox = plane.data().join("import");
    std::fs::create_dir(&inbox).unwrap();
    std::fs::write(inbox.join("debian.img"), "raw").unwrap();
    let import = |url: &str| {
        let request = json!({"Architecture": "x86_64", "OsType": "Debian", "OsVersion": "12", "ImageUrl": url,
            "ImageName": "debian"});
        plane.call(CVM, "ImportImage", request)
    };
    assert_eq!(
        import("ftp://x").unwrap_err(),
        "InvalidParameter.InvalidParameterUrlError"
    );
    let elsewhere = import("file:../secrets.key").unwrap_err();
    assert_eq!(elsewhere, "RegionAbilityLimit.UnsupportedToImportImage");
    assert_eq!(import("file:absent.img").unwrap_err(), "FailedOperation");
    let image = import("file:debian.img").unwrap()["ImageId"]
        .as_str()
        .unwrap()
        .to_owned();
    let imported = plane.data().join("images").join(image).join("disk0.img");
    assert_eq!(std::fs::read_to_string(imported).unwrap(), "raw");
}
