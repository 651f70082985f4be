//! Sources: registered once, heard from, lost, deleted.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::plane::{CSM, Plane, job_to, registration};

fn status(plane: &Plane, source: &str) -> String {
    let filters = json!([{"Name": "source-server-id", "Values": [source]}]);
    let answer = plane.csm("DescribeSourceServers", json!({"Filters": filters}));
    answer["SourceServers"][0]["Status"]
        .as_str()
        .unwrap_or("not listed")
        .to_owned()
}

fn now() -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
        .unwrap()
        .to_string()
}

#[test]
fn a_machine_registers_once_and_is_found_again() {
    let plane = Plane::start(&["--client-version-min", "2.1.0"]);
    let source = plane.source('a');
    assert_eq!(
        plane.refused("CreateSourceServer", registration('a')),
        "InvalidParameterValue.SourceServerExist"
    );
    let filters = json!([{"Name": "identifier", "Values": ["a".repeat(64)]}]);
    let found = plane.csm("DescribeSourceServers", json!({"Filters": filters}));
    assert_eq!(found["SourceServers"][0]["SourceServerId"], *source);
    assert_eq!(
        found["SourceServers"][0]["Name"], "host-a",
        "it is called as its host"
    );
    let mut old = registration('b');
    old["ClientVersion"] = "2.0.9".into();
    assert_eq!(
        plane.refused("CreateSourceServer", old),
        "InvalidParameterValue.VersionLowerThanRequired"
    );
    plane.csm("DeleteSourceServer", json!({"SourceServerId": source}));
    assert_eq!(status(&plane, &source), "not listed");
    let gone = "ResourceNotFound.InvalidLiveMigrateSourceServerId";
    assert_eq!(
        plane.refused(
            "ModifySourceServer",
            json!({"SourceServerId": source, "UpdateTime": now()})
        ),
        gone
    );
    assert_ne!(plane.source('a'), source, "registered anew");
}

#[test]
fn silence_makes_a_source_offline_and_a_heartbeat_brings_it_back() {
    let plane = Plane::start(&["--offline-after", "2"]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let heartbeat = || {
        plane.csm(
            "ModifySourceServer",
            json!({"SourceServerId": source, "UpdateTime": now()}),
        )
    };
    plane.until("silence", || status(&plane, &source) == "OFFLINE");
    let code = "ResourceNotFound.InvalidLiveMigrateOnlineSourceServerId";
    assert_eq!(
        plane.refused("CreateMigrationJob", job_to(&source, &instance)),
        code
    );
    heartbeat();
    assert_eq!(status(&plane, &source), "ONLINE");
    let job = plane.csm("CreateMigrationJob", job_to(&source, &instance))["JobId"].clone();
    heartbeat();
    plane.csm("StartMigrationJob", json!({"JobId": job}));
    assert_eq!(status(&plane, &source), "MIGRATING");
    let denied = plane.csm(
        "DescribeSourceServerDeniedActions",
        json!({"SourceServerIds": [source]}),
    );
    let denied = denied["SourceServerDeniedActionSet"][0]["DeniedActions"]
        .as_array()
        .unwrap()
        .clone();
    let actions: Vec<&Value> = denied.iter().map(|one| &one["Action"]).collect();
    assert_eq!(actions, ["CreateMigrationJob", "DeleteSourceServer"]);
    let refusal = plane.refused("DeleteSourceServer", json!({"SourceServerId": source}));
    assert_eq!(refusal, "FailedOperation.SourceServerRelatedUnFinishedJob");

    plane.csm("StopMigrationJob", json!({"JobId": job}));
    let job_id = job.as_str().unwrap();
    plane.until("the pause of a job whose source went silent", || {
        plane.job_status(job_id) == "STOPPED"
    });
    assert_eq!(status(&plane, &source), "OFFLINE");
    let refusal = plane.refused("StartMigrationJob", json!({"JobId": job}));
    assert_eq!(refusal, "FailedOperation.SourceServerStatusNotSupport");
    heartbeat();
    plane.csm("StartMigrationJob", json!({"JobId": job}));
    plane.csm(
        "ModifySourceServer",
        json!({"SourceServerId": source, "Status": "OFFLINE"}),
    );
    assert_eq!(status(&plane, &source), "OFFLINE", "it said good-bye");
    heartbeat();
    assert_eq!(status(&plane, &source), "MIGRATING", "its job still runs");
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "SUCCESS"}));
    assert_eq!(status(&plane, &source), "ONLINE");
}

#[test]
fn a_source_is_not_offline_because_the_control_plane_was_away() {
    let mut plane = Plane::start(&["--offline-after", "6"]);
    let source = plane.source('a');
    let heard = Instant::now();
    std::thread::sleep(Duration::from_secs(5));
    plane.kill_and_start();
    // The latter of which it has been silent for more than the time that is allowed.
    while heard.elapsed() < Duration::from_secs(9) {
        assert_eq!(status(&plane, &source), "ONLINE");
        std::thread::sleep(Duration::from_millis(200));
    }
    plane.until("silence", || status(&plane, &source) == "OFFLINE");
}

#[test]
fn names_change_and_a_rename_is_no_heartbeat() {
    let plane = Plane::start(&["--offline-after", "3"]);
    let source = plane.source('a');
    plane.until("silence", || {
        plane
            .call(
                CSM,
                "ModifySourceServer",
                json!({"SourceServerId": source, "Name": "web"}),
            )
            .unwrap();
        status(&plane, &source) == "OFFLINE"
    });
    for (name, value) in [("Status", "DELETED"), ("Status", "DELETING")] {
        let refusal = plane.refused(
            "ModifySourceServer",
            json!({"SourceServerId": source, name: value}),
        );
        assert_eq!(refusal, "InvalidParameterValue");
    }
    let bad = plane.refused(
        "ModifySourceServer",
        json!({"SourceServerId": source, "UpdateTime": "today"}),
    );
    assert_eq!(bad, "InvalidParameterValue.InvalidTimeFormat");
}
