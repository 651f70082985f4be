//! One suite for both databases.

mod cluster;

use super::*;
use crate::records::{Job, JobInternal, Record as _};
use crate::state::JobStatus;
use cluster::Cluster;

/// Opens the same database again, as after a restart.
type Reopen<'r> = &'r dyn Fn() -> Box<dyn Store>;

fn job(id: &str, status: JobStatus) -> Job {
    let blank = serde_json::json!({
        "JobId": id, "Name": id, "Description": "", "Status": status, "SourceServerId": "ss-00000000",
        "TargetType": "Instance", "TargetRegion": "local-1", "InstanceId": "", "ImageName": "", "ImageId": "",
        "TransitInstanceId": "", "SecurityGroup": "", "VpcId": "", "SubnetId": "", "InstanceType": "", "Mode": 0,
        "SystemDiskInfo": {"Device": "/dev/vda 'quoted' \"twice\" \u{540d}"}, "DataDisksInfo": [], "MigrationConfigInfo": {},
        "CreateTime": "", "StartTime": "", "UpdateTime": "", "EndTime": "", "Progress": 12.5, "LastSpeed": "",
        "RemainingTimeEstimate": "", "IncrementalMigration": 0, "IncrementalTime": "", "OneClickJobId": "",
        "RunMode": "Delayed", "ExcludePathList": "", "UserIntentList": "", "Product": "cvm",
        "Internal": JobInternal::default(),
    });
    serde_json::from_value(blank).unwrap()
}

fn put(job: &Job) -> Change {
    Change::Put {
        table: Table::Job,
        id: job.job_id.clone(),
        document: job.document(),
    }
}

fn key(id: &str, disabled: bool) -> (Key, Change) {
    let sealed_key = "sealed".to_owned();
    let key = Key {
        secret_id: id.to_owned(),
        sealed_key,
        disabled,
        description: String::new(),
        created: 1,
        temporary: None,
    };
    let change = Change::Put {
        table: Table::Key,
        id: id.to_owned(),
        document: key.document(),
    };
    (key, change)
}

fn audit(time: i64, action: &str, routine: bool) -> Change {
    Change::Audit(Audit {
        sequence: 0,
        time,
        who: "AKID".to_owned(),
        address: "::1".to_owned(),
        action: action.to_owned(),
        resource: "o'brien; DROP TABLE job".to_owned(),
        result: "OK".to_owned(),
        request_id: "id".to_owned(),
        routine,
    })
}

fn ids(world: &World) -> Vec<&str> {
    world.jobs.keys().map(String::as_str).collect()
}

fn records_survive_a_restart(reopen: Reopen<'_>) {
    let mut store = reopen();
    let (one, two) = (
        job("migrate-00000001", JobStatus::Pending),
        job("migrate-00000002", JobStatus::Pending),
    );
    store.commit(&[put(&one), put(&two)]).unwrap();
    let running = job("migrate-00000001", JobStatus::Running);
    // The last word on a record counts, also within one commit.
    let gone = Change::Remove {
        table: Table::Job,
        id: two.job_id.clone(),
    };
    store.commit(&[put(&one), put(&running), gone]).unwrap();
    drop(store);
    let world = reopen().load().unwrap();
    assert_eq!(ids(&world), ["migrate-00000001"]);
    assert_eq!(world.jobs["migrate-00000001"].status, JobStatus::Running);
    assert_eq!(
        world.jobs["migrate-00000001"].system_disk_info, one.system_disk_info,
        "text survives as it was"
    );
}

fn marks_and_audit_are_kept_and_pruned(reopen: Reopen<'_>) {
    let mut store = reopen();
    let seen = |mark: &str, expires| Change::Seen {
        mark: mark.to_owned(),
        expires,
    };
    store
        .commit(&[
            seen("old", 100),
            seen("new", 300),
            seen("new", 400),
            audit(50, "Old", false),
            audit(50, "OldReport", true),
            audit(150, "Report", true),
            audit(250, "New", false),
        ])
        .unwrap();
    let actions = |store: &mut dyn Store, before, limit| -> Vec<String> {
        store
            .audit(before, limit)
            .unwrap()
            .into_iter()
            .map(|audit| audit.action)
            .collect()
    };
    assert_eq!(
        actions(&mut *store, i64::MAX, 3),
        ["New", "Report", "OldReport"],
        "newest first"
    );
    let newest = store.audit(i64::MAX, 1).unwrap().remove(0);
    assert_eq!(newest.resource, "o'brien; DROP TABLE job");
    assert_eq!(
        actions(&mut *store, newest.sequence, 10),
        ["Report", "OldReport", "Old"],
        "and before a number"
    );
    store.prune(200, 100, 160).unwrap();
    assert_eq!(
        actions(&mut *store, i64::MAX, 10),
        ["New"],
        "routine records go earlier"
    );
    drop(store);
    let world = reopen().load().unwrap();
    assert_eq!(
        world.seen.into_iter().collect::<Vec<_>>(),
        [("new".to_owned(), 400)]
    );
}

fn keys_of_other_programs_are_seen(reopen: Reopen<'_>) {
    let mut store = reopen();
    let names = |keys: Option<Vec<Key>>| {
        keys.map(|keys| {
            keys.into_iter()
                .map(|key| (key.secret_id, key.disabled))
                .collect::<Vec<_>>()
        })
    };
    store.changed_keys().unwrap();
    assert_eq!(names(store.changed_keys().unwrap()), None, "nothing changed");
    let mut other = reopen();
    other.commit(&[key("AKIDother", false).1]).unwrap();
    assert_eq!(
        names(store.changed_keys().unwrap()),
        Some(vec![("AKIDother".to_owned(), false)])
    );
    assert_eq!(names(store.changed_keys().unwrap()), None, "seen already");
    other.commit(&[key("AKIDother", true).1]).unwrap();
    assert_eq!(
        names(store.changed_keys().unwrap()),
        Some(vec![("AKIDother".to_owned(), true)])
    );
}

fn only_one_control_plane_at_a_time(reopen: Reopen<'_>) {
    let mut one = reopen();
    one.lock().unwrap();
    let mut two = reopen();
    let refusal = two.lock().unwrap_err().to_string();
    assert!(refusal.contains("another control plane"), "{refusal}");
    drop(one);
    // A server notices a closed connection a moment later.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = two.lock() {
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn sqlite() {
    for test in [
        records_survive_a_restart,
        marks_and_audit_are_kept_and_pruned,
        keys_of_other_programs_are_seen,
        only_one_control_plane_at_a_time,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        test(&|| Box::new(SqliteStore::open(&path).unwrap()));
    }
}

#[test]
fn postgres() {
    let cluster = Cluster::start();
    let tests: [fn(Reopen<'_>); 4] = [
        records_survive_a_restart,
        marks_and_audit_are_kept_and_pruned,
        keys_of_other_programs_are_seen,
        only_one_control_plane_at_a_time,
    ];
    for (number, test) in tests.into_iter().enumerate() {
        let url = cluster.database(&format!("suite{number}"));
        test(&|| Box::new(PostgresStore::open(&url, None).unwrap()));
    }
}

#[test]
fn a_lost_connection_fails_the_commit_and_is_made_again() {
    let cluster = Cluster::start();
    let url = cluster.database("lost");
    let mut store = PostgresStore::open(&url, None).unwrap();
    store.lock().unwrap();
    store
        .commit(&[put(&job("migrate-00000001", JobStatus::Pending))])
        .unwrap();
    cluster.cut_connections("lost");
    let change = [put(&job("migrate-00000002", JobStatus::Pending))];
    assert!(store.commit(&change).is_err(), "the connection is gone");
    assert_eq!(ids(&store.load().unwrap()), ["migrate-00000001"]);
    store.commit(&change).unwrap();
    assert_eq!(store.load().unwrap().jobs.len(), 2);
    let mut other = PostgresStore::open(&url, None).unwrap();
    assert!(other.lock().is_err(), "the lock is held again");
    cluster.cut_connections("lost");
    let mut other = PostgresStore::open(&url, None).unwrap();
    other.lock().unwrap();
    for _ in 0..2 {
        assert!(
            store.load().is_err(),
            "another control plane has the database now"
        );
        assert!(store.commit(&change).is_err());
    }
}

#[test]
fn a_server_proves_itself_before_it_is_told_anything() {
    let cluster = Cluster::start_with_tls();
    let (url, certificate) = (cluster.encrypted_url("postgres"), cluster.certificate());
    let mut store = PostgresStore::open(&url, Some(&certificate)).unwrap();
    store
        .commit(&[put(&job("migrate-00000001", JobStatus::Pending))])
        .unwrap();
    let encrypted = "SELECT 'encrypted: ' || count(*) FROM pg_stat_ssl WHERE ssl AND version = 'TLSv1.3'";
    assert!(cluster.run("postgres", encrypted).contains("encrypted: 1"));
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.pem");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&other, made.cert.pem()).unwrap();
    assert!(
        PostgresStore::open(&url, Some(&other)).is_err(),
        "another authority"
    );
    let mut plain = PostgresStore::open(&url.replace("require", "disable"), None).unwrap();
    assert_eq!(ids(&plain.load().unwrap()), ["migrate-00000001"]);
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    drop(SqliteStore::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    let refusal = SqliteStore::open(&path).unwrap_err().to_string();
    assert!(refusal.contains("newer program"), "{refusal}");
    let cluster = Cluster::start();
    let url = cluster.database("later");
    drop(PostgresStore::open(&url, None).unwrap());
    cluster.run("later", "UPDATE schema_version SET version = version + 1");
    let Err(refusal) = PostgresStore::open(&url, None) else {
        panic!("a later version was opened")
    };
    assert!(refusal.to_string().contains("newer program"), "{refusal}");
}

#[test]
fn the_database_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    let mut store = SqliteStore::open(&path).unwrap();
    store
        .commit(&[put(&job("migrate-00000001", JobStatus::Pending))])
        .unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o077,
            0,
            "{:?}",
            entry.path()
        );
    }
}
