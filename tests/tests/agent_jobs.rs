//! Migrations by job, through the three programs: waiting, pausing, resuming, outages, failures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use go2cloud_tests::cloud::{Cloud, member};

/// Progress in percent of a job in JSON.
fn progress(job: &str) -> f64 {
    let after = job.split_once("\"Progress\":").unwrap().1;
    after.split([',', '}']).next().unwrap().trim().parse().unwrap()
}

/// Creates a job for the source and starts it.
fn start_job(cloud: &Cloud, source: &str, options: &str) -> String {
    let text = cloud.admin(&format!("job create --source {source} --json {options}"));
    let job = member(&text, "JobId");
    cloud.admin(&format!("job start {job}"));
    job
}

#[test]
fn a_source_waits_for_a_job_carries_it_out_and_says_goodbye() {
    let cloud = Cloud::new();
    cloud.fill_source(1, 2);
    let instance = cloud.create_instance("");
    let agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(&cloud, &source, &format!("--instance {instance} --checksum"));
    let shown = cloud.wait_for(&job, "SUCCESS");
    assert_eq!(progress(&shown), 100.0);
    assert_eq!(member(&shown, "Result"), "succ");
    cloud.assert_arrived(&instance);
    assert!(
        cloud
            .admin(&format!("instance show {instance} --json"))
            .contains("\"MigrationMode\":false")
    );
    // The next job of the same source, to another instance, with what has changed since.
    fs::write(cloud.path("source/new"), "new").unwrap();
    fs::remove_file(cloud.path("source/folder 1/file 1")).unwrap();
    let other = cloud.create_instance("");
    let job_2 = start_job(&cloud, &source, &format!("--instance {other}"));
    cloud.wait_for(&job_2, "SUCCESS");
    cloud.assert_arrived(&other);
    let receipt = cloud.path(&format!("tool/logs/receipt-{job}.json"));
    assert_eq!(agent.interrupt(), 130);
    assert_eq!(member(&cloud.admin("source list --json"), "Status"), "OFFLINE");
    let verified = cloud.tool("").args(["--version"]).output().unwrap();
    assert!(verified.status.success());
    let verify = std::process::Command::new(cloud.path("tool/go2cloud_x64"))
        .arg("verify")
        .arg(&receipt)
        .output();
    let verify = verify.unwrap();
    assert_eq!(verify.status.code(), Some(0), "{verify:?}");
    assert!(
        String::from_utf8_lossy(&verify.stdout).contains("Read back from the target's medium"),
        "{verify:?}"
    );
}

#[test]
fn console_mode_creates_the_job_itself_and_ends_with_it() {
    let cloud = Cloud::new();
    cloud.fill_source(2, 1);
    let instance = cloud.create_instance("");
    let output = cloud.run(&format!("-console -instance-id {instance}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["Import source server successfully", "Migrate successfully."] {
        assert!(text.contains(part), "{part} in {text}");
    }
    cloud.assert_arrived(&instance);
}

#[test]
fn a_paused_job_resumes_from_its_break_point() {
    let cloud = Cloud::new();
    cloud.fill_source(3, 24);
    let instance = cloud.create_instance("");
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(
        &cloud,
        &source,
        &format!("--instance {instance} --bandwidth-limit 2400"),
    );
    cloud.wait("some progress", || {
        (progress(&cloud.job(&job)) > 10.0).then_some(())
    });
    cloud.admin(&format!("job stop {job}"));
    let shown = cloud.wait_for(&job, "STOPPED");
    assert_eq!(member(&shown, "State"), "File Transmission Stopped");
    assert!(
        cloud
            .admin(&format!("instance show {instance} --json"))
            .contains("\"MigrationMode\":true")
    );
    cloud.admin(&format!("job start {job}"));
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn an_interrupted_or_killed_agent_goes_on_when_it_is_started_again() {
    let cloud = Cloud::new();
    cloud.fill_source(4, 24);
    let instance = cloud.create_instance("");
    let agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(
        &cloud,
        &source,
        &format!("--instance {instance} --bandwidth-limit 2400"),
    );
    cloud.wait("some progress", || {
        (progress(&cloud.job(&job)) > 10.0).then_some(())
    });
    agent.kill();
    let _agent = cloud.start("");
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
    let sources = cloud.admin("source list --json");
    assert_eq!(
        sources.matches("\"SourceServerId\"").count(),
        1,
        "the same machine is the same source: {sources}"
    );
}

#[test]
fn an_outage_of_the_control_plane_does_not_end_a_migration() {
    let mut cloud = Cloud::new();
    cloud.fill_source(5, 24);
    let instance = cloud.create_instance("");
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(
        &cloud,
        &source,
        &format!("--instance {instance} --bandwidth-limit 2400"),
    );
    cloud.wait("some progress", || {
        (progress(&cloud.job(&job)) > 10.0).then_some(())
    });
    cloud.control.kill_and_restart();
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn a_deleted_job_lets_the_source_go() {
    let cloud = Cloud::new();
    cloud.fill_source(6, 24);
    let instance = cloud.create_instance("");
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(
        &cloud,
        &source,
        &format!("--instance {instance} --bandwidth-limit 2400"),
    );
    cloud.wait("some progress", || {
        (progress(&cloud.job(&job)) > 5.0).then_some(())
    });
    cloud.admin(&format!("job stop {job}"));
    cloud.wait_for(&job, "STOPPED");
    cloud.admin(&format!("job delete {job}"));
    let other = cloud.create_instance("");
    let next = cloud.wait("the source to be free", || {
        let options = format!("job create --source {source} --json --instance {other}");
        Some(member(&cloud.admin(&options), "JobId"))
    });
    cloud.admin(&format!("job start {next}"));
    cloud.wait_for(&next, "SUCCESS");
    cloud.assert_arrived(&other);
}

#[test]
fn failures_carry_their_code_and_a_retry_succeeds() {
    let cloud = Cloud::new();
    cloud.fill_source(7, 1);
    // Allocated, but never written: it needs room and costs nothing to copy.
    let large = fs::File::create(cloud.path("source/reserved")).unwrap();
    rustix::fs::fallocate(&large, rustix::fs::FallocateFlags::empty(), 0, 3 << 29).unwrap();
    let small = cloud.create_instance("--system-disk 1");
    let agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(&cloud, &source, &format!("--instance {small}"));
    let shown = cloud.wait_for(&job, "FAILED");
    assert_eq!(
        member(&shown, "ErrorId"),
        "ERROR_SYSTEM_DISK_SIZE_NOT_ENOUGH",
        "{shown}"
    );
    assert_eq!(member(&shown, "Result"), "normalFailed");
    drop(agent);
    // The same job, with the remedy that the message names.
    let _agent = cloud.start("-minify");
    cloud.admin(&format!("job start {job}"));
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&small);
}

#[test]
fn an_unreachable_target_is_named_as_such() {
    let cloud = Cloud::new();
    cloud.fill_source(8, 1);
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    fs::write(cloud.path("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let key = cloud.path("key");
    let options = format!(
        "--address {closed} --lan-address {closed} --secret-file {}",
        key.display()
    );
    let far = cloud.create_instance(&options);
    let near = cloud.create_instance("");
    for (instance, more, code) in [
        (far, String::new(), "ERROR_SEC_GROUP_PORT_NOT_OPEN3"),
        (
            near,
            format!("--remote-ip 127.0.0.1 --remote-port {}", closed.port()),
            "ERROR_HOST_TO_HOST_CONNECTION",
        ),
    ] {
        let output = cloud.run(&format!("-console -instance-id {instance} {more}"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(code),
            "{output:?}"
        );
        let jobs = cloud.admin("job list --json");
        assert_eq!(member(&jobs, "ErrorId"), code);
        cloud.admin(&format!("job delete {}", member(&jobs, "JobId")));
    }
}

#[test]
fn without_a_job_and_in_three_stages() {
    let cloud = Cloud::new();
    cloud.fill_source(9, 1);
    let instance = cloud.create_instance("");
    let output = cloud.run(&format!("-no-console -instance-id {instance}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cloud.assert_arrived(&instance);
    assert!(!cloud.admin("job list --json").contains("JobId"));
    let other = cloud.create_instance("");
    let line = format!("-mode 1 -instance-id {other} --remote-ip 127.0.0.1");
    for (stage, says) in [
        (
            1,
            "Stage 1 is finished and please run next stage at source machine.",
        ),
        (
            2,
            "Stage 2 is finished and please run next stage at gateway machine.",
        ),
        (3, "Migrate successfully."),
    ] {
        let output = cloud.run(&line);
        assert_eq!(output.status.code(), Some(0), "stage {stage}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(says),
            "stage {stage}: {output:?}"
        );
    }
    cloud.assert_arrived(&other);
}

#[test]
fn an_enrolment_code_is_enough_to_register_and_report() {
    let cloud = Cloud::new();
    cloud.fill_source(10, 1);
    let instance = cloud.create_instance("");
    let code = member(&cloud.admin("enrol create --json"), "Code");
    let agent = cloud.start(&format!("--enrol {code}"));
    let source = cloud.wait_for_source();
    // Used up, but the agent has kept its temporary key.
    agent.kill();
    let _agent = cloud.start(&format!("--enrol {code}"));
    let job = start_job(&cloud, &source, &format!("--instance {instance}"));
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn an_incremental_phase_sends_what_changes_until_it_is_ended() {
    let cloud = Cloud::new();
    cloud.fill_source(11, 1);
    let instance = cloud.create_instance("");
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = start_job(
        &cloud,
        &source,
        &format!("--instance {instance} --incremental-time 60 --checksum"),
    );
    let has = |text: &str| cloud.job(&job).contains(text).then_some(());
    cloud.wait("the first incremental round", || {
        has("incremental round 1 finished")
    });
    fs::write(cloud.path("source/while it goes on"), "changed").unwrap();
    fs::write(cloud.path("source/folder 2/file 2"), "changed").unwrap();
    cloud.wait("the next round", || has("incremental round 2 finished"));
    assert_eq!(member(&cloud.job(&job), "Status"), "RUNNING");
    fs::remove_file(cloud.path("source/large 0")).unwrap();
    let finish = std::process::Command::new(cloud.path("tool/go2cloud_x64"))
        .arg("finish")
        .arg("--state")
        .arg(cloud.path("state"))
        .output()
        .unwrap();
    assert_eq!(finish.status.code(), Some(0), "{finish:?}");
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

/// The documented steps as a user types them, with a terminal that asks for the key.
#[test]
fn the_documented_steps_work_word_for_word() {
    let cloud = Cloud::new();
    cloud.fill_source(12, 1);
    let instance = cloud.create_instance("");
    let flags = format!(
        "--once --source-root {} --state {}",
        cloud.path("source").display(),
        cloud.path("state").display()
    );
    let steps = format!(
        "cd {}; chmod +x go2cloud_x64; ./go2cloud_x64 -region local-1 -endpoint http://{} {flags}",
        cloud.path("tool").display(),
        cloud.control.address
    );
    // `script` gives the program a terminal; what is typed there comes from our end of the pipe.
    let mut terminal = std::process::Command::new("script")
        .args(["-q", "-e", "-c", &steps, "/dev/null"])
        .env_remove("GO2CLOUD_SECRET_ID")
        .env_remove("GO2CLOUD_SECRET_KEY")
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(cloud.path("tool/said")).unwrap())
        .spawn()
        .unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    for (asked, typed) in [("SecretId", &cloud.key.0), ("SecretKey", &cloud.key.1)] {
        let prompt = format!("Please input the {asked}");
        cloud.wait(&prompt, || cloud.said().contains(&prompt).then_some(()));
        std::io::Write::write_all(&mut keyboard, format!("{typed}\n").as_bytes()).unwrap();
    }
    let source = cloud.wait_for_source();
    let job = start_job(&cloud, &source, &format!("--instance {instance}"));
    cloud.wait_for(&job, "SUCCESS");
    assert!(terminal.wait().unwrap().success());
    let said = cloud.said();
    assert!(
        said.contains("Migrate successfully.") && !said.contains(&cloud.key.1),
        "{said}"
    );
    cloud.assert_arrived(&instance);
}
