//! Migrations by job, through the three programs: waiting, with and without a console, in stages, deleted, incremental.

use std::fs;
use std::time::{Duration, Instant};

use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::dice::Dice;

#[test]
fn a_source_waits_for_a_job_carries_it_out_and_says_goodbye() {
    let cloud = Cloud::new();
    cloud.fill_source(1, 2);
    let instance = cloud.create_instance("");
    let agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = cloud.start_job(&source, &format!("--instance {instance} --checksum"));
    let shown = cloud.wait_for(&job, "SUCCESS");
    assert_eq!(cloud.progress(&job), 100.0);
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
    let job_2 = cloud.start_job(&source, &format!("--instance {other}"));
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
    let job = cloud.start_job(&source, &format!("--instance {instance}"));
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn an_incremental_phase_sends_what_changes_until_it_is_ended() {
    let cloud = Cloud::new();
    cloud.fill_source(11, 1);
    let under_way = cloud.under_way("", "--incremental-time 60 --checksum");
    let (instance, job) = (under_way.instance, under_way.job);
    cloud.wait_for_message(&job, "incremental round 1 finished");
    fs::write(cloud.path("source/while it goes on"), "changed").unwrap();
    fs::write(cloud.path("source/folder 2/file 2"), "changed").unwrap();
    cloud.wait_for_message(&job, "incremental round 2 finished");
    assert_eq!(member(&cloud.job(&job), "Status"), "RUNNING");
    fs::remove_file(cloud.path("source/large 0")).unwrap();
    let finish = cloud.tool("finish").output().unwrap();
    assert_eq!(finish.status.code(), Some(0), "{finish:?}");
    cloud.wait_for(&job, "SUCCESS");
    cloud.assert_arrived(&instance);
}

#[test]
fn the_limit_of_a_running_job_can_be_taken_away() {
    let cloud = Cloud::new();
    cloud.fill_source(12, 1);
    fs::write(cloud.path("source/noise"), noise(40 << 20)).unwrap();
    let under_way = cloud.under_way("", "--bandwidth-limit 256");
    cloud.wait_for_progress(&under_way.job, 1.0);
    // What is left would take two minutes.
    let since = Instant::now();
    let set = cloud.tool("bandwidth 0").output().unwrap();
    assert_eq!(set.status.code(), Some(0), "{set:?}");
    cloud.wait_for(&under_way.job, "SUCCESS");
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    cloud.assert_arrived(&under_way.instance);
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Dice::new(12).fill(&mut bytes);
    bytes
}
