//! Keys, temporary credentials, replay, limits, the audit trail.

use csm::Credential;
use serde_json::{Value, json};

use crate::plane::{Agent, CSM, CVM, OWN, Plane, job_to, registration};

const UNAUTHORIZED: &str = "AuthFailure.UnauthorizedOperation";

/// An enrolment code: its id, and the code.
fn enrolment(plane: &Plane) -> (String, String) {
    let made = plane
        .call(OWN, "CreateEnrolmentCode", json!({"Uses": 1, "Hours": 1}))
        .unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("EnrolmentId"), text("Code"))
}

fn registered(agent: &Agent<'_>, mark: char) -> String {
    let made = agent.call(CSM, "CreateSourceServer", registration(mark)).unwrap();
    made["SourceServerId"].as_str().unwrap().to_owned()
}

#[test]
fn temporary_credentials_see_and_change_their_own_source_only() {
    let plane = Plane::start(&[]);
    let (_, code) = enrolment(&plane);
    let agent = plane.enrol(&code).unwrap();
    let stranger = plane.source('b');
    let count = || agent.call(CSM, "DescribeSourceServers", json!({})).unwrap()["TotalCount"].clone();
    assert_eq!(count(), 0, "it has none yet");
    let own = registered(&agent, 'a');
    let second = agent
        .call(CSM, "CreateSourceServer", registration('c'))
        .unwrap_err();
    assert_eq!(second, UNAUTHORIZED, "one machine each");
    assert_eq!(count(), 1, "only its own");
    for (service, action, request) in [
        (
            CSM,
            "ModifySourceServer",
            json!({"SourceServerId": stranger, "Name": "mine"}),
        ),
        (
            CSM,
            "DescribeSourceServerDeniedActions",
            json!({"SourceServerIds": [stranger]}),
        ),
        (CSM, "DeleteSourceServer", json!({"SourceServerId": own})),
        (CSM, "CreateMigrationJob", job_to(&own, "ins-zzzzzzzz")),
        (CVM, "RunInstances", json!({})),
        (OWN, "CreateEnrolmentCode", json!({})),
    ] {
        assert_eq!(
            agent.call(service, action, request).unwrap_err(),
            UNAUTHORIZED,
            "{action}"
        );
    }
}

#[test]
fn temporary_credentials_report_on_their_own_jobs_only() {
    let plane = Plane::start(&[]);
    let (_, code) = enrolment(&plane);
    let agent = plane.enrol(&code).unwrap();
    let (own, stranger) = (registered(&agent, 'a'), plane.source('b'));
    let (mine, other) = (plane.instance(), plane.instance());
    let start = |source: &str, instance: &str| {
        let mut request = job_to(source, instance);
        request["RunMode"] = "Immediate".into();
        plane.csm("CreateMigrationJob", request)["JobId"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (job, foreign) = (start(&own, &mine), start(&stranger, &other));
    assert_eq!(
        agent.call(CSM, "DescribeMigrationJobs", json!({})).unwrap()["TotalCount"],
        1
    );
    let enter = |instance: &str| agent.call(CVM, "LiveMigrateInstance", json!({"InstanceId": instance}));
    assert_eq!(enter(&other).unwrap_err(), UNAUTHORIZED);
    enter(&mine).unwrap();
    let modify = |request: Value| agent.call(CSM, "ModifyMigrationJob", request);
    modify(json!({"JobId": job, "Progress": "5"})).unwrap();
    assert_eq!(
        modify(json!({"JobId": job, "Name": "x"})).unwrap_err(),
        UNAUTHORIZED,
        "reporting only"
    );
    assert_eq!(
        modify(json!({"JobId": job, "Status": "DELETING"})).unwrap_err(),
        UNAUTHORIZED
    );
    assert_eq!(
        modify(json!({"JobId": foreign, "Progress": "5"})).unwrap_err(),
        UNAUTHORIZED
    );
}

#[test]
fn temporary_credentials_need_their_token_and_end_with_their_code() {
    let plane = Plane::start(&[]);
    let (id, code) = enrolment(&plane);
    let agent = plane.enrol(&code).unwrap();
    let failure = Some("AuthFailure.TokenFailure");
    assert_eq!(
        plane.enrol(&code).err().as_deref(),
        failure,
        "the code was for one"
    );
    assert_eq!(plane.enrol("g2c-nonsense").err().as_deref(), failure);
    let Credential {
        secret_id,
        secret_key,
        ..
    } = agent.credential.clone();
    let without = Credential::new(secret_id.clone(), secret_key.clone());
    let wrong = Credential::temporary(secret_id, secret_key, "x".repeat(43));
    for credential in [without, wrong] {
        let refused = plane
            .call_with(credential, CSM, "DescribeMigrationJobs", json!({}))
            .unwrap_err();
        assert_eq!(refused, "AuthFailure.TokenFailure");
    }
    plane
        .call(OWN, "RevokeEnrolmentCode", json!({"EnrolmentId": id}))
        .unwrap();
    let revoked = agent.call(CSM, "DescribeMigrationJobs", json!({})).unwrap_err();
    assert_eq!(revoked, "AuthFailure.SecretIdNotFound");
    let (id, code) = enrolment(&plane);
    plane
        .call(OWN, "RevokeEnrolmentCode", json!({"EnrolmentId": id}))
        .unwrap();
    assert_eq!(
        plane.enrol(&code).err().as_deref(),
        failure,
        "a revoked code is none"
    );
}

#[test]
fn a_reinstalled_agent_finds_its_source_again() {
    let plane = Plane::start(&[]);
    let source = plane.source('a');
    let code = plane.call(OWN, "CreateEnrolmentCode", json!({})).unwrap();
    let agent = plane.enrol(code["Code"].as_str().unwrap()).unwrap();
    let known = agent
        .call(CSM, "CreateSourceServer", registration('a'))
        .unwrap_err();
    assert_eq!(known, "InvalidParameterValue.SourceServerExist");
    let filters = json!([{"Name": "identifier", "Values": ["a".repeat(64)]}]);
    let found = agent
        .call(CSM, "DescribeSourceServers", json!({"Filters": filters}))
        .unwrap();
    assert_eq!(found["SourceServers"][0]["SourceServerId"], *source);
}

#[test]
fn keys_are_made_listed_disabled_and_not_in_the_database() {
    let plane = Plane::start(&[]);
    let made: Value =
        serde_json::from_str(&plane.key_command(&["create", "--description", "second", "--json"])).unwrap();
    let (id, secret) = (
        made["SecretId"].as_str().unwrap(),
        made["SecretKey"].as_str().unwrap(),
    );
    let call = || {
        plane.call_with(
            Credential::new(id, secret),
            CSM,
            "DescribeMigrationJobs",
            json!({}),
        )
    };
    call().unwrap();
    let list: Value = serde_json::from_str(&plane.key_command(&["list", "--json"])).unwrap();
    let listed = list
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["SecretId"] == id)
        .unwrap();
    assert_eq!(
        (&listed["Status"], &listed["Description"]),
        (&json!("enabled"), &json!("second"))
    );
    plane.key_command(&["disable", id]);
    plane.until("the refusal of a disabled key", || {
        call().is_err_and(|code| code == "AuthFailure.SecretIdNotFound")
    });
    for entry in std::fs::read_dir(plane.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(
                !has(secret) && !has(&plane.key.1),
                "a secret key lies in {}",
                path.display()
            );
        }
    }
    assert!(!plane.log().contains(secret), "a secret key is in the log");
    let unknown = plane.call_with(
        Credential::new("AKIDunknown", secret),
        CSM,
        "DescribeMigrationJobs",
        json!({}),
    );
    assert_eq!(unknown.unwrap_err(), "AuthFailure.SecretIdNotFound");
    let malformed = plane.call_with(
        Credential::new("no key!", secret),
        CSM,
        "DescribeMigrationJobs",
        json!({}),
    );
    assert_eq!(malformed.unwrap_err(), "AuthFailure.InvalidSecretId");
    let wrong = plane.call_with(
        Credential::new(&*plane.key.0, secret),
        CSM,
        "DescribeMigrationJobs",
        json!({}),
    );
    assert_eq!(wrong.unwrap_err(), "AuthFailure.SignatureFailure");
}

#[test]
fn mutating_calls_are_in_the_audit_trail() {
    let plane = Plane::start(&[]);
    let source = plane.source('a');
    plane.refused("DeleteMigrationJob", json!({"JobId": "migrate-zzzzzzzz"}));
    plane.csm("DescribeMigrationJobs", json!({}));
    plane.csm(
        "ModifySourceServer",
        json!({"SourceServerId": source, "Name": "web"}),
    );
    let trail = plane.call(OWN, "DescribeAuditRecords", json!({})).unwrap();
    let rows: Vec<_> = trail["AuditSet"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            assert_eq!(text("Who"), plane.key.0);
            assert_eq!(text("Address"), "127.0.0.1");
            assert_eq!(text("RequestId").len(), 36);
            (text("Action"), text("Resource"), text("Result"))
        })
        .collect();
    let row = |action: &str, resource: &str, result: &str| {
        (action.to_owned(), resource.to_owned(), result.to_owned())
    };
    assert_eq!(
        rows,
        [
            row("ModifySourceServer", &source, "OK"),
            row(
                "DeleteMigrationJob",
                "migrate-zzzzzzzz",
                "FailedOperation.JobIdNotExist"
            ),
            row("CreateSourceServer", &"a".repeat(64), "OK"),
        ]
    );
}

#[test]
fn the_administrators_commands_show_tables_and_json() {
    let plane = Plane::start(&[]);
    let source = plane.source('a');
    let json_of = |arguments: &[&str]| -> Value {
        let output = plane.command(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let instance = json_of(&["instance", "create", "--name", "target"])["InstanceId"]
        .as_str()
        .unwrap()
        .to_owned();
    let soon = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 60)
        .unwrap()
        .to_string();
    let base = ["job", "create", "--source", &source, "--instance", &instance];
    let early = plane.command(&[&base[..], &["--start-time", &soon]].concat());
    assert_eq!(early.status.code(), Some(1), "{early:?}");
    let fast = plane.command(&[&base[..], &["--bandwidth-limit", "25601"]].concat());
    assert_eq!(fast.status.code(), Some(2), "{fast:?}");
    let create = [
        "job",
        "create",
        "--source",
        &source,
        "--instance",
        &instance,
        "--name",
        "move it",
    ];
    let job = json_of(&create)["JobId"].as_str().unwrap().to_owned();
    for command in ["start", "stop"] {
        json_of(&["job", command, &job]);
    }
    assert_eq!(json_of(&["job", "show", &job])["Status"], "STOPPING");
    assert_eq!(json_of(&["source", "show", &source])["Status"], "MIGRATING");
    let table = plane.command(&["job", "list"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("move it") && table.contains("STOPPING") && table.lines().count() == 2,
        "{table}"
    );
    let refused = plane.command(&["job", "delete", &job]);
    assert_eq!(refused.status.code(), Some(1));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("MigrateJobStatusNotSupport"), "{complaint}");
    assert_eq!(plane.command(&["job", "explode"]).status.code(), Some(2));
    assert_eq!(json_of(&["instance", "list"]).as_array().unwrap().len(), 1);
    let code = json_of(&["enrol", "create", "--uses", "3"]);
    json_of(&["enrol", "revoke", code["EnrolmentId"].as_str().unwrap()]);
    assert_eq!(json_of(&["enrol", "list"])[0]["Status"], "REVOKED");
    assert_eq!(json_of(&["audit"])[0]["Action"], "RevokeEnrolmentCode");
}
