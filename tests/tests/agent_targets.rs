//! Targets other than a folder by job: disks, images; and targets that do not fit, each with its code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use go2cloud_tests::bed::Receiver;
use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::dice::Dice;
use go2cloud_tests::disk::{Disk, run};
use go2cloud_tests::maketree;
use go2cloud_tests::medium::{Format, Medium};
use go2cloud_tests::writer::Writer;

/// An image mounted read-only; unmounted when dropped.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &Path) -> Self {
        Self::with(image, "loop,ro")
    }

    fn with(image: &Path, options: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go2cloud-mounted-")
            .tempdir()
            .unwrap();
        let output = Command::new("mount")
            .args(["-o", options])
            .arg(image)
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { folder }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}

/// The only file below `folder` that is larger than a configuration file.
fn image_in(folder: &Path) -> PathBuf {
    if folder.is_file() {
        return folder.to_owned();
    }
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .find(|entry| entry.file_type().is_file() && entry.metadata().unwrap().len() > 1 << 20)
        .unwrap()
        .into_path()
}

#[test]
fn a_mounted_disk_is_migrated_block_by_block() {
    let cloud = Cloud::new();
    let medium = Medium::new(Format::Ext4, 96).unwrap();
    for number in 0..50 {
        fs::write(medium.path().join(format!("file {number}")), vec![number; 50_000]).unwrap();
    }
    let device = medium.device().unwrap();
    let instance = cloud.create_instance("--kind disk --system-disk 1");
    let line = format!(
        "-region local-1 -endpoint http://{} -ignore-check -console -instance-id {instance} --source-disk {}",
        cloud.control.address,
        device.display()
    );
    let output = cloud.tool(&line).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    let job = cloud.admin("job list --json");
    assert!(
        job.contains("\"Enabled\":true") || job.contains("\"Enabled\": true"),
        "{job}"
    );
    let target = Mounted::new(&image_in(&cloud.instance_folder(&instance)));
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(&medium.path(), target.folder.path(), options).assert_equal();
}

/// The figure of each round in the log of an agent.
fn of_each_round(log: &str, figure: &str) -> Vec<u64> {
    let figure = format!(" {figure}=");
    let value = |line: &str| line.split_once(&figure)?.1.split(' ').next()?.parse().ok();
    log.lines()
        .filter(|line| line.contains("round finished round="))
        .filter_map(value)
        .collect()
}

#[test]
fn the_rounds_of_an_incremental_phase_read_only_what_changed() {
    let cloud = Cloud::new();
    let medium = Medium::new(Format::Ext4, 96).unwrap();
    let mut bytes = vec![0; 40 << 20];
    Dice::new(1).fill(&mut bytes);
    fs::write(medium.path().join("large"), &bytes).unwrap();
    // Written back now, and not while the full round reads.
    run(&mut Command::new("sync"));
    let instance = cloud.create_instance("--kind disk --system-disk 1");
    let line = format!(
        "-region local-1 -endpoint http://{} -ignore-check --source-disk {}",
        cloud.control.address,
        medium.device().unwrap().display()
    );
    let _agent = cloud.spawn(&mut cloud.tool(&line));
    let source = cloud.wait_for_source();
    let job = cloud.start_job(
        &source,
        &format!("--block --instance {instance} --incremental-time 60"),
    );
    cloud.wait_for_message(&job, "incremental round 1 finished");
    fs::write(medium.path().join("while it waits"), &bytes[..1 << 20]).unwrap();
    cloud.wait_for_message(&job, "incremental round 2 finished");
    assert_eq!(cloud.tool("finish").output().unwrap().status.code(), Some(0));
    cloud.wait_for(&job, "SUCCESS");
    let read = of_each_round(&cloud.log(), "bytes_read");
    assert!(read.len() >= 4 && read[0] >= 40 << 20, "{read:?}");
    assert!(read[read.len() - 1] < read[0] + (16 << 20), "{read:?}");
    let target = Mounted::new(&image_in(&cloud.instance_folder(&instance)));
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(&medium.path(), target.folder.path(), options).assert_equal();
}

#[test]
fn a_block_level_job_goes_on_after_a_pause_and_a_kill() {
    let cloud = Cloud::new();
    let medium = Medium::new(Format::Ext4, 96).unwrap();
    let mut bytes = vec![0; 1 << 20];
    for number in 0..32 {
        Dice::new(number).fill(&mut bytes);
        fs::write(medium.path().join(format!("file {number}")), &bytes).unwrap();
    }
    let instance = cloud.create_instance("--kind disk --system-disk 1");
    let start = |flags: &str| {
        let (control, device) = (&cloud.control.address, medium.device().unwrap());
        let line = format!(
            "-region local-1 -endpoint http://{control} -ignore-check --source-disk {} {flags}",
            device.display()
        );
        cloud.spawn(&mut cloud.tool(&line))
    };
    let agent = start("");
    let source = cloud.wait_for_source();
    let options = format!("--block --instance {instance} --bandwidth-limit 2400");
    let job = cloud.start_job(&source, &options);
    cloud.wait_for_progress(&job, 20.0);
    cloud.admin(&format!("job stop {job}"));
    let shown = cloud.wait_for(&job, "STOPPED");
    assert_eq!(member(&shown, "State"), "File Transmission Stopped");
    fs::write(medium.path().join("file 0"), "while it rests").unwrap();
    cloud.admin(&format!("job start {job}"));
    cloud.wait_for_progress(&job, 50.0);
    agent.kill();
    fs::write(medium.path().join("file 1"), "while nobody looks").unwrap();
    let _agent = start("-bandwidth-limit 0");
    cloud.wait_for(&job, "SUCCESS");
    let target = Mounted::new(&image_in(&cloud.instance_folder(&instance)));
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(&medium.path(), target.folder.path(), options).assert_equal();
}

#[test]
fn an_agent_killed_while_its_job_has_frozen_the_disk_leaves_nothing_frozen_and_goes_on() {
    let cloud = Cloud::new();
    let mut disk = Disk::new(96);
    disk.format(0, "ext4");
    let point = disk.mount(0, "noatime");
    fs::create_dir(point.join("still")).unwrap();
    maketree::source_code(&point.join("still"), 28, 50).unwrap();
    let instance = cloud.create_instance("--kind disk --system-disk 1");
    let start = |flags: &str| {
        let line = format!(
            "-region local-1 -endpoint http://{} -ignore-check --source-disk {} {flags}",
            cloud.control.address,
            disk.device.display()
        );
        cloud.spawn(&mut cloud.tool(&line))
    };
    let writer = Writer::default();
    let job = writer.during(&point.join("rewritten"), 32 << 20, || {
        let agent = start("");
        let source = cloud.wait_for_source();
        // What is written just before the freeze takes a second or two on this link.
        let options = format!("--block --instance {instance} --bandwidth-limit 12000");
        let job = cloud.start_job(&source, &options);
        writer.wait_for_freeze(agent.id());
        agent.kill();
        let thawed = writer.wait_for_thaw();
        assert!(
            thawed < Duration::from_secs(4),
            "thawed {thawed:?} after its death"
        );
        job
    });
    assert_eq!(member(&cloud.job(&job), "Status"), "RUNNING");
    let _agent = start("-bandwidth-limit 0");
    cloud.wait_for(&job, "SUCCESS");
    let receipt = fs::read_to_string(cloud.path(&format!("tool/logs/receipt-{job}.json"))).unwrap();
    let frozen = receipt.split_once("\"frozen_ms\":").unwrap().1;
    assert!(!frozen.starts_with("null"), "no cutover: {receipt}");
    let image = image_in(&cloud.instance_folder(&instance));
    let target = Mounted::with(&image, "loop,ro,noload");
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(&point, target.folder.path(), options).assert_equal();
    drop(target);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&image));
}

#[test]
fn without_an_api_the_receivers_address_and_secret_are_enough() {
    let cloud = Cloud::new();
    cloud.fill_source(26, 1);
    let (_receiver, port) = receiver(&cloud);
    let run = |secret: &str| {
        let line = format!(
            "-no-console -remote-ip 127.0.0.1 --remote-port {port} -ignore-check --source-root {} --secret-file {}",
            cloud.path("source").display(),
            cloud.path(secret).display()
        );
        // There is no control plane in this: no key, no endpoint.
        let mut command = cloud.tool(&line);
        command
            .env_remove("GO2CLOUD_SECRET_ID")
            .env_remove("GO2CLOUD_SECRET_KEY");
        command.output().unwrap()
    };
    assert_eq!(run("wrong").status.code(), Some(1));
    let output = run("right");
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    assert!(String::from_utf8_lossy(&output.stdout).contains("Migrate successfully."));
    cloud.assert_equal(&cloud.path("target"));
}

#[test]
fn a_directory_is_frozen_for_the_last_round_when_that_is_asked_for() {
    let cloud = Cloud::new();
    let medium = Medium::new(Format::Ext4, 96).unwrap();
    for number in 0..50 {
        fs::write(medium.path().join(format!("file {number}")), vec![number; 5000]).unwrap();
    }
    let instance = cloud.create_instance("");
    let (before, after) = (cloud.path("before"), cloud.path("after"));
    let mut command = cloud.tool(&format!(
        "-region local-1 -endpoint http://{} -ignore-check -console -instance-id {instance} --freeze --source-root {}",
        cloud.control.address,
        medium.path().display()
    ));
    command
        .arg("--pre-freeze")
        .arg(format!("touch {}", before.display()));
    command
        .arg("--post-freeze")
        .arg(format!("touch {}", after.display()));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    assert!(before.exists() && after.exists());
    let job = member(&cloud.admin("job list --json"), "JobId");
    let receipt = fs::read(cloud.path(&format!("tool/logs/receipt-{job}.json"))).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    let frozen = receipt["receipt"]["summary"]["frozen_ms"].as_u64();
    assert!(frozen.is_some_and(|frozen| frozen < 30_000), "{receipt}");
}

#[test]
fn an_image_target_is_made_by_way_of_a_transit_instance() {
    let cloud = Cloud::new();
    cloud.fill_source(20, 1);
    let output = cloud.run("-console -out-image-name golden");
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    let job = cloud.admin("job list --json");
    assert_eq!(member(&job, "Status"), "SUCCESS");
    let image = member(&job, "ImageId");
    assert!(image.starts_with("img-"), "{job}");
    let receipt = cloud.path(&format!("tool/logs/receipt-{}.json", member(&job, "JobId")));
    let mut verify = Command::new(cloud.path("tool/go2cloud_x64"));
    let verified = verify.arg("verify").arg(receipt).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(said.contains(&format!("Image: {image}\n")), "{said}");
    let instances = cloud.admin("instance list --json");
    assert!(
        !instances.contains("do_not_delete_csm_instance"),
        "the transit instance is gone: {instances}"
    );
}

/// Runs a job against `instance` and gives the code with which it fails.
fn failure(cloud: &Cloud, instance: &str, more: &str) -> String {
    let output = cloud.run(&format!("-console -instance-id {instance} {more}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", cloud.said());
    let jobs = cloud.admin("job list --json");
    let code = member(&jobs, "ErrorId");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&code),
        "{output:?}"
    );
    cloud.admin(&format!("job delete {}", member(&jobs, "JobId")));
    code
}

/// Starts a receiver by hand, on all addresses of this machine. Gives its port, too.
fn receiver(cloud: &Cloud) -> (Receiver, String) {
    fs::write(cloud.path("right"), "0123456789abcdef0123456789abcdef").unwrap();
    fs::write(cloud.path("wrong"), "fedcba9876543210fedcba9876543210").unwrap();
    fs::create_dir(cloud.path("target")).unwrap();
    let [secret, target, journal] = ["right", "target", "journal"].map(|name| cloud.path(name));
    let receiver = Receiver::start(
        "0.0.0.0:0",
        &secret,
        &["--into".as_ref(), target.as_os_str()],
        &journal,
    );
    let (_, port) = receiver.address.rsplit_once(':').unwrap();
    let port = port.to_owned();
    (receiver, port)
}

/// An address of this machine that is not the loopback one.
fn own_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses the address that it would send from.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn a_receiver_with_another_secret_fails_to_initialise() {
    let cloud = Cloud::new();
    cloud.fill_source(21, 1);
    let (_receiver, port) = receiver(&cloud);
    let declare = |key: &str| {
        let key = cloud.path(key);
        let address = format!("127.0.0.1:{}", port);
        cloud.create_instance(&format!(
            "--address {address} --lan-address {address} --secret-file {}",
            key.display()
        ))
    };
    let code = failure(&cloud, &declare("wrong"), "");
    assert_eq!(code, "ERROR_INIT_SERVER");
    assert_eq!(fs::read_dir(cloud.path("target")).unwrap().count(), 0);
    let output = cloud.run(&format!("-console -instance-id {}", declare("right")));
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    cloud.assert_equal(&cloud.path("target"));
}

#[test]
fn a_target_of_another_system_family_is_refused_before_there_is_a_job() {
    let cloud = Cloud::with_hooks();
    cloud.fill_source(27, 1);
    let windows = cloud.create_instance("--os windows");
    let output = cloud.run(&format!("-console -instance-id {windows}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{}", cloud.said());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["ERROR_OS_NOT_MATCH", "a target of the same system family"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!cloud.admin("job list --json").contains("JobId"));
    // The remedy helps.
    let linux = cloud.create_instance("");
    cloud.run_well(&format!("-console -instance-id {linux}"));
    cloud.assert_arrived(&linux);
}

#[test]
fn a_private_mode_with_one_address_on_both_sides_is_refused_unless_it_is_wanted() {
    let cloud = Cloud::new();
    cloud.fill_source(25, 1);
    let (_receiver, port) = receiver(&cloud);
    let lan = format!("{}:{}", own_address(), port);
    let key = cloud.path("right");
    let instance = cloud.create_instance(&format!(
        "--address {lan} --lan-address {lan} --secret-file {}",
        key.display()
    ));
    assert_eq!(failure(&cloud, &instance, "-mode 2"), "ERROR_SAME_IP");
    let output = cloud.run(&format!(
        "-console -instance-id {instance} -mode 2 -skip-inet-ip-checker"
    ));
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", cloud.said());
    cloud.assert_equal(&cloud.path("target"));
}

#[test]
fn a_broken_target_fails_the_transmission_and_what_is_skipped_is_named() {
    let cloud = Cloud::new();
    cloud.fill_source(22, 1);
    let instance = cloud.create_instance("");
    // The receiver cannot make a directory where somebody mounted something read-only.
    let folder = cloud.instance_folder(&instance);
    fs::create_dir_all(folder.join("folder 1")).unwrap();
    let mount = |arguments: &[&str], path: &Path| {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    mount(
        &["mount", "-t", "tmpfs", "-o", "ro", "none"],
        &folder.join("folder 1"),
    );
    let code = std::panic::catch_unwind(|| failure(&cloud, &instance, ""));
    mount(&["umount", "-l"], &folder.join("folder 1"));
    assert_eq!(code.unwrap(), "ERROR_DATA_TRANSMISSION");
}
