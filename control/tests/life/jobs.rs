//! A job from its creation to its end, and everything that is refused on the way.

use serde_json::{Value, json};

use crate::plane::{CSM, CVM, Plane, job_to};

fn with(mut base: Value, name: &str, value: Value) -> Value {
    base[name] = value;
    base
}

fn denied(plane: &Plane, job_id: &str) -> Vec<(String, String)> {
    let answer = plane.csm("DescribeMigrationJobDeniedActions", json!({"JobIds": [job_id]}));
    let denied = answer["JobDeniedActionSet"][0]["DeniedActions"]
        .as_array()
        .unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    denied
        .iter()
        .map(|one| (text(&one["Action"]), text(&one["Code"])))
        .collect()
}

/// What is announced as denied is what is refused, with the same code.
fn announced_is_refused(plane: &Plane, job_id: &str) -> Vec<String> {
    let denied = denied(plane, job_id);
    for (action, code) in &denied {
        let mut request = json!({"JobId": job_id});
        if action == "ModifyMigrationJob" {
            request["Name"] = "another name".into();
        }
        assert_eq!(&plane.refused(action, request), code, "{action}");
    }
    denied.into_iter().map(|(action, _)| action).collect()
}

/// A job to an instance, not started.
struct Life {
    plane: Plane,
    instance: String,
    job: String,
}

impl Life {
    fn begin() -> Self {
        let plane = Plane::start(&[]);
        let (source, instance) = (plane.source('a'), plane.instance());
        let made = plane.csm("CreateMigrationJob", job_to(&source, &instance));
        let job = made["JobId"].as_str().unwrap().to_owned();
        Self { plane, instance, job }
    }

    fn act(&self, action: &str) {
        self.plane.csm(action, json!({"JobId": self.job}));
    }

    fn report(&self, more: Value) -> Result<Value, String> {
        self.plane
            .call(CSM, "ModifyMigrationJob", with(more, "JobId", json!(self.job)))
    }

    fn enter(&self) -> Value {
        let request = json!({"InstanceId": self.instance});
        self.plane.call(CVM, "LiveMigrateInstance", request).unwrap()
    }

    fn announced(&self) -> Vec<String> {
        announced_is_refused(&self.plane, &self.job)
    }

    fn shown(&self) -> Value {
        self.plane.job(&self.job)
    }
}

#[test]
fn a_running_job_shows_what_its_agent_reports() {
    let life = Life::begin();
    assert_eq!(life.announced(), ["StopMigrationJob"]);
    let status_code = "FailedOperation.MigrateJobStatusNotSupport";
    assert_eq!(
        life.report(json!({"Progress": "1"})).unwrap_err(),
        status_code,
        "it does not run"
    );
    life.act("StartMigrationJob");
    assert_eq!(life.announced(), ["StartMigrationJob", "DeleteMigrationJob"]);
    let entered = life.enter();
    assert_eq!(entered["Ip"], "192.0.2.7");
    assert_eq!(
        (&entered["LanIp"], &entered["Port"]),
        (&json!("10.0.0.7"), &json!(4433))
    );
    assert_eq!(entered["Password"].as_str().unwrap().len(), 43);
    assert_eq!(
        life.enter()["Password"],
        entered["Password"],
        "the same migration has the same secret"
    );
    let progress = json!({"Progress": "42.5", "LastMessage": "copying", "LastSpeed": "1000",
        "RemainingTimeEstimate": "7"});
    life.report(progress).unwrap();
    life.report(json!({"LastMessage": "copying"})).unwrap();
    life.report(json!({"LastMessage": "verifying"})).unwrap();
    let shown = life.shown();
    assert_eq!(shown["Progress"], 42.5);
    assert_eq!(
        shown["LastReportMessage"]["Messages"],
        json!(["copying", "verifying"])
    );
    assert_eq!(
        (&shown["LastSpeed"], &shown["RemainingTimeEstimate"]),
        (&json!("1000"), &json!("7"))
    );
}

#[test]
fn a_job_is_paused_and_resumed_in_migration_mode() {
    let life = Life::begin();
    life.act("StartMigrationJob");
    let entered = life.enter();
    life.act("StopMigrationJob");
    assert_eq!(life.shown()["Status"], "STOPPING");
    life.report(json!({"Progress": "43"})).unwrap();
    let rest = json!({"Status": "STOPPED", "MigrateResult": {"State": "File Transmission Stopped"}});
    life.report(rest).unwrap();
    assert_eq!(
        life.shown()["MigrateResults"]["State"],
        "File Transmission Stopped"
    );
    assert_eq!(life.announced(), ["StopMigrationJob"]);
    life.act("StartMigrationJob");
    assert_eq!(
        life.enter()["Password"],
        entered["Password"],
        "the pause kept migration mode"
    );
    assert!(!life.plane.did().iter().any(|(hook, _)| hook == "exit"));
}

#[test]
fn a_failed_job_is_retried_succeeds_and_is_deleted() {
    let life = Life::begin();
    life.act("StartMigrationJob");
    life.enter();
    let failure = json!({"Result": "normalFailed", "State": "connect",
        "Desc": "ERROR_HOST_TO_HOST_CONNECTION: no route"});
    life.report(json!({"Status": "FAILED", "MigrateResult": failure}))
        .unwrap();
    let shown = life.shown();
    let desc = json!({"ErrorId": "ERROR_HOST_TO_HOST_CONNECTION", "ErrorMessage": "no route"});
    assert_eq!(shown["MigrateResults"]["Desc"], desc);
    assert_eq!(shown["MigrateResult"]["Result"], "normalFailed");
    assert_ne!(shown["EndTime"], "");
    life.act("StartMigrationJob");
    assert_eq!(life.shown()["MigrateResult"]["Result"], "", "a retry begins anew");

    let exit = json!({"InstanceId": life.instance, "MigrateResult": "succ"});
    life.plane.call(CVM, "ExitLiveMigrateInstance", exit).unwrap();
    life.report(json!({"Status": "SUCCESS", "Progress": "100", "MigrateResult": {"Result": "succ"}}))
        .unwrap();
    assert_eq!(life.shown()["Progress"], 100.0);
    assert_eq!(life.announced(), ["StartMigrationJob", "StopMigrationJob"]);
    life.act("DeleteMigrationJob");
    assert_eq!(life.shown()["Status"], "DELETED");
    let listed = life.plane.csm("DescribeMigrationJobs", json!({}));
    assert_eq!(listed["TotalCount"], 0, "deleted jobs are shown when asked for");
    let gone = life
        .plane
        .refused("StartMigrationJob", json!({"JobId": life.job}));
    assert_eq!(gone, "FailedOperation.JobIdNotExist");
    let exits: Vec<_> = life
        .plane
        .did()
        .into_iter()
        .filter(|(hook, _)| hook == "exit")
        .collect();
    assert_eq!(exits.len(), 1);
    assert_eq!(exits[0].1["MigrateResult"], "succ");
}

#[test]
fn what_forbids_a_job_is_named() {
    let plane = Plane::start(&[]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let base = job_to(&source, &instance);
    let refused =
        |name: &str, value: Value| plane.refused("CreateMigrationJob", with(base.clone(), name, value));
    assert_eq!(
        refused("TargetRegion", json!("mars-1")),
        "InvalidParameterValue.InvalidRegionNotFound"
    );
    assert_eq!(refused("Mode", json!(1)), "InvalidParameterValue");
    assert_eq!(
        refused("SourceServerId", json!("ss-zzzzzzzz")),
        "ResourceNotFound.InvalidLiveMigrateOnlineSourceServerId"
    );
    assert_eq!(
        refused("InstanceId", json!("ins-zzzzzzzz")),
        "ResourceNotFound.InvalidInstanceIdNotFound"
    );
    assert_eq!(refused("InstanceId", json!("")), "MissingParameter");
    let data = |index: u64| json!([{"Index": index, "Device": "/dev/vdb", "Size": 10}]);
    assert_eq!(
        refused("DataDisksInfo", data(2)),
        "InvalidParameterValue.InvalidDataDiskIndex"
    );
    assert_eq!(
        refused("StartTime", json!("2020-01-01T00:00:00Z")),
        "InvalidParameterValue.InvalidTimeFormat"
    );
    assert_eq!(refused("RunMode", json!("Timed")), "MissingParameter");
    assert_eq!(
        refused("IncrementalTime", json!("59")),
        "InvalidParameterValue.IncrementalTimeLessThanOneHour"
    );
    assert_eq!(
        refused("IncrementalTime", json!("10081")),
        "InvalidParameterValue.IncrementalTimeGreaterThanSevenDays"
    );
    let limit = json!({"BandwidthLimit": "25601"});
    assert_eq!(
        refused("MigrationConfigInfo", limit),
        "InvalidParameterValue.TooLarge"
    );
    let image = with(
        with(base.clone(), "TargetType", json!("Image")),
        "ImageName",
        json!("web"),
    );
    let whole = with(image.clone(), "DataDisksInfo", data(1));
    assert_eq!(
        plane.refused("CreateMigrationJob", whole),
        "UnsupportedOperation.MigrateJobCreateFullCvmImage"
    );
    let large = with(
        image,
        "SystemDiskInfo",
        json!({"Device": "/dev/vda", "Size": 451}),
    );
    assert_eq!(
        plane.refused("CreateMigrationJob", large),
        "InvalidParameterValue.SystemDiskSizeTooLarge"
    );
}

#[test]
fn other_jobs_forbid_a_job() {
    let plane = Plane::start(&["--job-limit", "2"]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let base = job_to(&source, &instance);
    let data = |index: u64| json!([{"Index": index, "Device": "/dev/vdb", "Size": 10}]);
    let named = with(
        with(base.clone(), "Name", json!("first")),
        "DataDisksInfo",
        data(1),
    );
    plane.csm("CreateMigrationJob", named);
    assert_eq!(
        plane.refused("CreateMigrationJob", base.clone()),
        "FailedOperation.SourceServerRelatedUnFinishedJob"
    );
    let other = plane.source('b');
    let to_same = job_to(&other, &instance);
    assert_eq!(
        plane.refused("CreateMigrationJob", to_same.clone()),
        "FailedOperation.TargetInstanceRelatedUnFinishedJob"
    );
    let same_name = with(job_to(&other, &plane.instance()), "Name", json!("first"));
    assert_eq!(
        plane.refused("CreateMigrationJob", same_name),
        "InvalidParameterValue.MigrateJobNameExist"
    );
    plane.csm("CreateMigrationJob", job_to(&other, &plane.instance()));
    let third = job_to(&plane.source('c'), &plane.instance());
    assert_eq!(
        plane.refused("CreateMigrationJob", third),
        "LimitExceeded.MigrateJobLimitExceeded"
    );
}

#[test]
fn targets_of_another_system_or_in_migration_mode_are_refused() {
    let plane = Plane::start(&[]);
    let source = plane.source('a');
    let windows = plane
        .call(crate::plane::OWN, "CreateInstance", json!({"OsType": "windows"}))
        .unwrap();
    let windows = windows["InstanceId"].as_str().unwrap();
    assert_eq!(
        plane.refused("CreateMigrationJob", job_to(&source, windows)),
        "FailedOperation.OsTypeMismatch"
    );
    let instance = plane.instance();
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": instance}))
        .unwrap();
    let code = "UnsupportedOperation.InstanceStateServiceLiveMigrate";
    assert_eq!(
        plane.refused("CreateMigrationJob", job_to(&source, &instance)),
        code
    );
    for action in ["StopInstances", "RebootInstances", "TerminateInstances"] {
        assert_eq!(
            plane
                .call(CVM, action, json!({"InstanceIds": [instance]}))
                .unwrap_err(),
            code,
            "{action}"
        );
    }
    plane
        .call(CVM, "ExitLiveMigrateInstance", json!({"InstanceId": instance}))
        .unwrap();
    let code = plane
        .call(CVM, "StartInstances", json!({"InstanceIds": [instance]}))
        .unwrap_err();
    assert_eq!(code, "UnsupportedOperation.InstanceStateRunning");
    plane
        .call(CVM, "StopInstances", json!({"InstanceIds": [instance]}))
        .unwrap();
    plane.until("the stop", || {
        let answer = plane
            .call(CVM, "DescribeInstancesStatus", json!({"InstanceIds": [instance]}))
            .unwrap();
        answer["InstanceStatusSet"][0]["InstanceState"] == "STOPPED"
    });
    plane.csm("CreateMigrationJob", job_to(&source, &instance));
}

#[test]
fn deleting_a_failed_job_takes_its_target_out_of_migration_mode() {
    let plane = Plane::start(&[]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let request = with(job_to(&source, &instance), "RunMode", json!("Immediate"));
    let job = plane.csm("CreateMigrationJob", request)["JobId"]
        .as_str()
        .unwrap()
        .to_owned();
    plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": instance}))
        .unwrap();
    plane.csm("ModifyMigrationJob", json!({"JobId": job, "Status": "FAILED"}));
    plane.fail(&["exit"]);
    plane.csm("DeleteMigrationJob", json!({"JobId": job}));
    assert_eq!(
        plane.job_status(&job),
        "DELETING",
        "the target cannot leave migration mode yet"
    );
    plane.until("the first attempt", || plane.log().contains("is not removed yet"));
    plane.fail(&[]);
    plane.until("the deletion", || plane.job_status(&job) == "DELETED");
    let exits = plane.did().into_iter().filter(|(hook, _)| hook == "exit");
    assert!(exits.count() >= 2, "it was tried again");
    plane.csm("CreateMigrationJob", job_to(&source, &instance));
}

#[test]
fn a_scheduled_job_starts_by_itself() {
    let plane = Plane::start(&[]);
    let (source, instance) = (plane.source('a'), plane.instance());
    let start = jiff::Timestamp::now().as_second() + 2;
    let start = jiff::Timestamp::from_second(start).unwrap().to_string();
    let job = plane.csm(
        "CreateMigrationJob",
        with(job_to(&source, &instance), "StartTime", json!(start)),
    );
    let job = job["JobId"].as_str().unwrap();
    assert_eq!(plane.job_status(job), "PENDING");
    assert_eq!(plane.job(job)["RunMode"], "Timed");
    plane.until("the start", || plane.job_status(job) == "RUNNING");
    let shown = plane.job(job)["StartTime"].as_str().unwrap().to_owned();
    assert!(shown >= start, "{shown} is not before {start}");
}

/// Three jobs of three sources to three instances, not started.
fn three_jobs() -> (Plane, Vec<String>) {
    let plane = Plane::start(&[]);
    let mut jobs = Vec::new();
    for mark in ['a', 'b', 'c'] {
        let request = with(
            job_to(&plane.source(mark), &plane.instance()),
            "Name",
            json!(format!("job {mark}")),
        );
        jobs.push(
            plane.csm("CreateMigrationJob", request)["JobId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    (plane, jobs)
}

#[test]
fn jobs_are_filtered_and_paged() {
    let (plane, jobs) = three_jobs();
    plane.csm("StartMigrationJob", json!({"JobId": jobs[1]}));
    let count = |filters: Value| {
        plane.csm("DescribeMigrationJobs", json!({"Filters": filters}))["TotalCount"].clone()
    };
    let filter = |name: &str, values: Value| json!({"Name": name, "Values": values});
    assert_eq!(count(json!([filter("status", json!(["PENDING"]))])), 2);
    assert_eq!(
        count(json!([filter("status", json!(["PENDING", "RUNNING"]))])),
        3,
        "values are alternatives"
    );
    assert_eq!(
        count(json!([
            filter("status", json!(["PENDING"])),
            filter("job-name", json!(["job a"]))
        ])),
        1
    );
    let refused = |filters: Value| plane.refused("DescribeMigrationJobs", json!({"Filters": filters}));
    assert_eq!(
        refused(json!([filter("colour", json!(["red"]))])),
        "InvalidParameterValue.ParameterValueNotSupportValue"
    );
    assert_eq!(
        refused(json!([filter("status", json!(["DONE"]))])),
        "InvalidParameterValue.ParameterValueNotSupportValue"
    );
    assert_eq!(
        refused(json!([filter("job-id", json!(["1"]))])),
        "InvalidParameterValue.InvalidMigrateJobIdMalformed"
    );
    let page = |offset: u64| {
        let answer = plane.csm("DescribeMigrationJobs", json!({"Limit": 2, "Offset": offset}));
        assert_eq!(answer["TotalCount"], 3);
        answer["MigrationJobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["JobId"].clone())
            .collect::<Vec<_>>()
    };
    let mut seen = [page(0), page(2)].concat();
    assert_eq!(seen.len(), 3);
    seen.dedup();
    assert_eq!(seen.len(), 3, "each once");
    assert!(page(3).is_empty());
}

#[test]
fn jobs_are_changed_as_their_status_allows() {
    let (plane, jobs) = three_jobs();
    plane.csm("StartMigrationJob", json!({"JobId": jobs[1]}));
    let modify = |index: usize, name: &str, value: Value| {
        plane.call(
            CSM,
            "ModifyMigrationJob",
            json!({"JobId": jobs[index], name: value}),
        )
    };
    modify(0, "Name", json!("renamed")).unwrap();
    assert_eq!(
        modify(2, "Name", json!("renamed")).unwrap_err(),
        "InvalidParameterValue.MigrateJobNameExist"
    );
    assert_eq!(
        modify(0, "TargetType", json!("Image")).unwrap_err(),
        "MissingParameter"
    );
    assert_eq!(
        modify(1, "InstanceType", json!("S5.SMALL1")).unwrap_err(),
        "FailedOperation.MigrateJobStatusNotSupport"
    );
    modify(1, "IncrementalTime", json!("120")).unwrap();
    let other = plane.job(&jobs[1])["InstanceId"].clone();
    assert_eq!(
        modify(0, "InstanceId", other).unwrap_err(),
        "FailedOperation.TargetInstanceRelatedUnFinishedJob"
    );
    assert_eq!(plane.job(&jobs[0])["Name"], "renamed");
    let both = json!({"JobId": jobs[0], "Description": "kept?", "Progress": "5"});
    assert_eq!(
        plane.refused("ModifyMigrationJob", both),
        "FailedOperation.MigrateJobStatusNotSupport"
    );
    assert_eq!(
        plane.job(&jobs[0])["Description"],
        "",
        "a call that is refused changes nothing"
    );
}
