//! Around a job: in the background, scheduled, deleted, cleaned up after.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime};

use go2cloud_tests::cloud::{Cloud, UnderWay, member};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

/// A moment as the API writes it.
fn moment(from_now: Duration) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"])
        .arg(format!("@{}", seconds_now() + from_now.as_secs()))
        .output()
        .expect("date runs");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

/// The process that runs in the background, as its file names it.
fn background(cloud: &Cloud) -> Pid {
    let text = fs::read_to_string(cloud.path("state/go2cloud.pid")).expect("a process id");
    Pid::from_raw(text.trim().parse().expect("a number")).expect("a process")
}

/// Ends what runs in the background when the test is done.
struct Background(Pid);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn in_the_background_it_speaks_by_its_log_and_says_goodbye() {
    let cloud = Cloud::new();
    cloud.fill_source(80, 1);
    let instance = cloud.create_instance("");
    let said = cloud.run_well("-daemon -instance-id ins-12345678");
    let agent = Background(background(&cloud));
    assert!(
        said.contains(&format!("process {}", agent.0.as_raw_nonzero())),
        "{said}"
    );
    let source = cloud.wait_for_source();
    // It has left the terminal's session.
    let leader = rustix::process::getsid(Some(agent.0)).expect("it runs");
    assert_eq!(leader, agent.0);
    let again = cloud.run("-daemon");
    assert_ne!(
        again.status.code(),
        Some(0),
        "two agents with one state: {again:?}"
    );
    let status = cloud.tool("status --json").output().expect("the agent runs");
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    let job = cloud.start_job(&source, &format!("--instance {instance}"));
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
    for part in ["Import source server successfully", "counts only with -console"] {
        assert!(cloud.log().contains(part), "{part}");
    }
    kill_process(agent.0, Signal::TERM).expect("it runs");
    cloud.wait("its end", || test_kill_process(agent.0).is_err().then_some(()));
    assert_eq!(member(&cloud.admin("source list --json"), "Status"), "OFFLINE");
    let status = cloud.tool("status").output().expect("the agent runs");
    assert_eq!(status.status.code(), Some(1), "{status:?}");
}

#[test]
fn a_service_manager_is_told_when_the_source_is_registered() {
    let cloud = Cloud::new();
    cloud.fill_source(84, 0);
    let path = cloud.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a socket with a timeout");
    let mut command = cloud.tool(&format!("{} -daemon", cloud.flags()));
    // It stays the process that the service manager has started, and sees.
    let mut agent = cloud.spawn(command.env("NOTIFY_SOCKET", &path));
    let mut bytes = [0; 100];
    let count = socket.recv(&mut bytes).expect("a message");
    assert!(bytes[..count].starts_with(b"READY=1"));
    assert!(cloud.log().contains("Import source server successfully"));
    assert!(agent.is_running());
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(), 130);
}

#[test]
fn a_scheduled_job_starts_by_itself() {
    let cloud = Cloud::new();
    cloud.fill_source(81, 1);
    let instance = cloud.create_instance("");
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    // Administrators get ten minutes to think again; the API takes any moment to come.
    let line = format!(
        "job create --source {source} --instance {instance} --start-time {}",
        moment(Duration::from_secs(300))
    );
    let refused = cloud.try_admin(&line).expect_err("five minutes are too few");
    assert!(refused.contains("at least ten minutes from now"), "{refused}");
    let known = cloud.call("DescribeSourceServers", &json!({}));
    let begin = seconds_now() + 8;
    let request = json!({
        "SourceServerId": source,
        "SystemDiskInfo": known["SourceServers"][0]["SystemDiskInfo"],
        "Mode": 0,
        "TargetRegion": "local-1",
        "TargetType": "Instance",
        "InstanceId": instance,
        "RunMode": "Timed",
        "StartTime": moment(Duration::from_secs(8)),
    });
    let job = cloud.call("CreateMigrationJob", &request)["JobId"].clone();
    let job = job.as_str().expect("an id");
    assert_eq!(member(&cloud.job(job), "Status"), "PENDING");
    cloud.wait("the job to start", || {
        (member(&cloud.job(job), "Status") != "PENDING").then_some(())
    });
    assert!(seconds_now() >= begin, "it started before its time");
    cloud.wait_for(job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn a_deleted_job_lets_source_and_target_go() {
    let cloud = Cloud::new();
    cloud.fill_source(82, 24);
    let UnderWay {
        agent: _agent,
        instance,
        job,
    } = cloud.under_way("", "--bandwidth-limit 2400");
    cloud.wait_for_progress(&job, 5.0);
    let refused = cloud.try_admin(&format!("job delete {job}"));
    let refused = refused.expect_err("a running job must be paused first");
    assert!(refused.contains("MigrateJobStatusNotSupport"), "{refused}");
    cloud.admin(&format!("job stop {job}"));
    cloud.wait_for(&job, "STOPPED");
    cloud.admin(&format!("job delete {job}"));
    cloud.wait("the target to leave migration mode", || {
        let shown = cloud.admin(&format!("instance show {instance} --json"));
        shown.contains("\"MigrationMode\":false").then_some(())
    });
    let (source, other) = (cloud.wait_for_source(), cloud.create_instance(""));
    let create = format!("job create --source {source} --json --instance {other}");
    let next = cloud.wait("the source to be free", || cloud.try_admin(&create).ok());
    let next = member(&next, "JobId");
    cloud.admin(&format!("job start {next}"));
    cloud.wait_for(&next, "SUCCESS");
    cloud.assert_arrived(&other);
    // What was known about the targets is worth nothing any more.
    cloud.wait("the baselines to be forgotten", || {
        let mut left = fs::read_dir(cloud.path("state/state")).expect("a folder");
        left.next().is_none().then_some(())
    });
}

#[test]
fn cleaning_up_takes_the_target_out_of_migration_mode() {
    let cloud = Cloud::new();
    cloud.fill_source(83, 24);
    cloud.configure("user.json", &format!(r#"{{"SecretId": "{}"}}"#, cloud.key.0));
    let UnderWay { agent, instance, job } = cloud.under_way("", "--bandwidth-limit 2400");
    cloud.wait_for_progress(&job, 5.0);
    let mode = || {
        let shown = cloud.admin(&format!("instance show {instance} --json"));
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["MigrationMode"].as_bool().expect("a boolean")
    };
    let refused = cloud.run("--clean");
    assert_eq!(refused.status.code(), Some(2), "an agent runs: {refused:?}");
    assert!(mode());
    agent.kill();
    let said = cloud.run_well("--clean");
    assert!(
        said.contains(&format!("{instance} has left migration mode")),
        "{said}"
    );
    assert!(!mode());
    let user = fs::read_to_string(cloud.path("tool/user.json")).expect("user.json");
    assert!(!user.contains(&cloud.key.0), "{user}");
    assert!(!cloud.path("state/state").exists());
    // The job has not ended. The agent takes it up from the beginning, and what lies at the target already stays there.
    let _agent = cloud.start("-bandwidth-limit 0");
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
    let said = cloud.run("--clean");
    assert_eq!(said.status.code(), Some(2), "{said:?}");
}
