//! Whole systems from one virtual machine into another, by a job: the source runs the agent beside a service that never
//! stops writing, the target is blank and in migration mode, the control plane is the host. What arrived is compared
//! file by file, then the target starts by itself and says what it is like.
//!
//! They take root, loop devices, tap devices and QEMU, which emulates: minutes each, so they run one after the other.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

#[path = "machines/appliance.rs"]
mod appliance;
#[path = "../../receiver/tests/native_conversion/image.rs"]
#[cfg_attr(
    not(feature = "long"),
    expect(dead_code, reason = "some of it is for other tests")
)]
mod image;
#[cfg(feature = "long")]
#[path = "machines/rehearsal.rs"]
mod rehearsal;
#[path = "machines/source.rs"]
mod source;
#[path = "machines/system.rs"]
mod system;
#[path = "machines/uefi.rs"]
mod uefi;
#[path = "machines/vm.rs"]
mod vm;

use std::fs;
use std::path::{Path, PathBuf};

use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::control::program;
use go2cloud_tests::hooks::Place;
use image::Image;
use serde_json::{Value, json};
use source::{ADDRESS, Firmware, HOSTNAME, INTERFACE, MACHINE_ID, ROOT};
use system::System;
use vm::{Bridge, Hardware, Machine, migration_image};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SOURCE_MAC: &str = "52:54:00:00:00:05";
const TARGET_MAC: &str = "52:54:00:00:00:09";

/// A migration from beginning to end.
struct Case {
    system: System,
    firmware: Firmware,
    by: By,
    /// The volume group that the target gets for its root file system.
    volume_group: Option<&'static str>,
}

/// Who brings both sides together.
enum By {
    /// A job with these options.
    Job(&'static str),
    /// The administrator, who gives the source the target's address and secret: no control plane is asked.
    #[cfg(feature = "long")]
    Address,
    /// A job that makes an image, by way of a transit instance: a machine that starts when it is asked for.
    #[cfg(feature = "long")]
    Image,
}

impl By {
    /// What the agent is started with.
    fn flags(&self) -> &'static str {
        match self {
            #[cfg(feature = "long")]
            Self::Address => "-no-console -remote-ip 10.77.0.9 --secret-file /opt/go2cloud/secret",
            _ => "-region local-1 -endpoint http://10.77.0.1:8443",
        }
    }
}

/// What is left when the job has succeeded.
struct Migrated {
    source: Image,
    target: Image,
    bridge: Bridge,
    _cloud: Cloud,
    /// Records that were durable at the source before the job began, and when it was done.
    records: (u64, u64),
}

fn migrate(case: &Case) -> Migrated {
    let bridge = Bridge::new();
    let cloud = Cloud::in_network(
        (bridge.namespace(), "10.77.0.1:8443"),
        bridge.namespace(),
        &Place::default(),
    );
    let source = source::disk(case.system, case.firmware, &cloud.key, case.by.flags());
    let target = blank();
    let folder = target.folder.path();
    let start_receiving = |secret: &str| start_receiving(case, &bridge, &source, &target, secret);
    let start_running = || Machine::start(&source_hardware(case, &source), &bridge, folder, "source");
    let (first, running, mut receiving) = match &case.by {
        By::Job(options) => {
            let mut receiving = start_receiving(SECRET);
            let mut running = start_running();
            wait_for_migration_mode(&mut receiving);
            let first = run_job(&cloud, options, folder, &mut running, &receiving);
            (first, running, receiving)
        }
        #[cfg(feature = "long")]
        By::Address => {
            let mut receiving = start_receiving(SECRET);
            // The agent begins at once where nobody has to make a job.
            wait_for_migration_mode(&mut receiving);
            let mut running = start_running();
            let first = running.wait("the ledger", |machine| count(&machine.words()));
            (first, running, receiving)
        }
        #[cfg(feature = "long")]
        By::Image => {
            let mut running = start_running();
            let (first, receiving) = run_image_job(&cloud, start_receiving, &mut running);
            (first, running, receiving)
        }
    };
    receiving.wait_for_end();
    let last = count(&running.words()).unwrap();
    drop(running);
    Migrated {
        source,
        target,
        bridge,
        _cloud: cloud,
        records: (first, last),
    }
}

fn wait_for_migration_mode(receiving: &mut Machine) {
    receiving.wait("migration mode", |machine| {
        machine.console().contains("READY").then_some(())
    });
}

/// Makes a job of what is running and waits for its success. Gives how many records were durable before.
fn run_job(cloud: &Cloud, options: &str, folder: &Path, running: &mut Machine, receiving: &Machine) -> u64 {
    fs::write(folder.join("secret"), SECRET).unwrap();
    let instance = cloud.create_instance(&format!(
        "--name target --system-disk 4 --address 10.77.0.9:443 --secret-file {}",
        folder.join("secret").display()
    ));
    let (source, first) = wait_for_source(cloud, running);
    let line = format!("job create --source {source} --instance {instance} --start now --json {options}");
    let job = member(&cloud.admin(&line), "JobId");
    wait_for_success(cloud, &job, running, receiving);
    first
}

/// Waits until the source is registered and its service writes. Gives its id, and how many records are durable.
fn wait_for_source(cloud: &Cloud, running: &mut Machine) -> (String, u64) {
    let id = running.wait("the source's registration", |_| {
        let list = cloud.admin("source list --json");
        list.contains("ONLINE").then(|| member(&list, "SourceServerId"))
    });
    (id, running.wait("the ledger", |machine| count(&machine.words())))
}

/// Makes a job for an image, starts the transit instance's machine with the secret that the control plane has for it, and
/// waits for the job's success.
#[cfg(feature = "long")]
fn run_image_job(
    cloud: &Cloud,
    start_receiving: impl FnOnce(&str) -> Machine,
    running: &mut Machine,
) -> (u64, Machine) {
    use go2cloud_tests::hooks::Hooks;

    let hooks = cloud.hooks();
    let (source, first) = wait_for_source(cloud, running);
    hooks.hold(Hooks::ALL, "enter");
    let line = format!("job create --source {source} --image-name golden --start now --json");
    let job = member(&cloud.admin(&line), "JobId");
    let request = running.wait("a transit instance", |_| hooks.asked("enter"));
    let mut receiving = start_receiving(&member(&request, "Secret"));
    wait_for_migration_mode(&mut receiving);
    let address = r#"{"Ip":"10.77.0.9","LanIp":"10.77.0.9","Port":443}"#;
    hooks.answer(&member(&request, "InstanceId"), address);
    hooks.release(Hooks::ALL, "enter");
    wait_for_success(cloud, &job, running, &receiving);
    let shown = cloud.job(&job);
    assert!(member(&shown, "ImageId").starts_with("img-"), "{shown}");
    (first, receiving)
}

/// A disk larger than the source's.
fn blank() -> Image {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.img");
    fs::File::create(&path).unwrap().set_len(1400 << 20).unwrap();
    Image { folder, path }
}

fn start_receiving(case: &Case, bridge: &Bridge, source: &Image, target: &Image, secret: &str) -> Machine {
    let (disk, folder) = (&target.path, target.folder.path());
    let image = migration_image();
    let mut settings = json!({ "secret": secret, "network": { "addresses": ["10.77.0.9/24"] } });
    if let Some(group) = case.volume_group {
        settings["inventory"] = on_a_logical_volume(source, group);
    }
    let file = folder.join("settings.json");
    fs::write(&file, settings.to_string()).unwrap();
    let hardware = Hardware {
        disk,
        memory: 640,
        kernel: Some((
            image.join("vmlinuz"),
            image.join("initrd.zst"),
            "console=ttyS0 quiet panic=30 no_timer_check".to_owned(),
        )),
        settings: Some(file),
        ..target_hardware(case, disk)
    };
    Machine::start(&hardware, bridge, folder, "receiving")
}

/// The source's inventory with its root file system on a logical volume.
fn on_a_logical_volume(source: &Image, group: &str) -> Value {
    let disk = source.attach();
    let output = std::process::Command::new(program("go2cloud-receiver"))
        .args(["inventory", "--disk", &disk.device])
        .output()
        .unwrap();
    let mut inventory: Value = serde_json::from_slice(&output.stdout).unwrap();
    let place = json!({ "logical": { "group": group, "name": "root" } });
    let mut len = 0;
    for volume in inventory["volumes"].as_array_mut().unwrap() {
        if volume["kind"] == "ext4" {
            // What the labels of LVM take, and extents.
            len = (volume["len"].as_u64().unwrap() - (16 << 20)) >> 22 << 22;
            volume["place"] = place.clone();
            volume["len"] = len.into();
            volume["mounted_at"] = "/".into();
        }
    }
    inventory["groups"] = json!([{
        "name": group,
        "extent_len": 4 << 20,
        "members": [{ "partition": { "disk": 0, "number": ROOT } }],
        "logical": [{ "name": "root", "len": len, "layout": "linear" }],
    }]);
    inventory["interfaces"] = json!([]);
    inventory
}

fn target_hardware<'a>(case: &Case, disk: &'a Path) -> Hardware<'a> {
    Hardware {
        name: "target",
        disk,
        further_disks: Vec::new(),
        memory: 512,
        slot: 7,
        mac: TARGET_MAC,
        port: "check",
        firmware: case.firmware,
        kernel: None,
        settings: None,
    }
}

fn source_hardware<'a>(case: &Case, source: &'a Image) -> Hardware<'a> {
    let kernel = (case.firmware == Firmware::Uefi).then(|| uefi::kernel_of(source));
    Hardware {
        name: "source",
        disk: &source.path,
        further_disks: Vec::new(),
        memory: 640,
        slot: 5,
        mac: SOURCE_MAC,
        port: "source",
        firmware: case.firmware,
        kernel,
        settings: None,
    }
}

/// The last number that the ledger's count showed.
fn count(words: &str) -> Option<u64> {
    words
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("ledger ")?.trim().parse().ok())
}

/// Waits for the job's success; the source runs until then and after.
fn wait_for_success(cloud: &Cloud, job: &str, source: &mut Machine, target: &Machine) {
    source.wait("the job's success", |source| {
        let shown = cloud.job(job);
        match member(&shown, "Status").as_str() {
            "SUCCESS" => Some(()),
            "FAILED" => panic!("{shown}\n{}\n{}", source.words(), target.console()),
            _ => None,
        }
    });
}

/// Every file of the source's disk is at the target, byte for byte, but for those that the conversion says it changed
/// and those that a running system writes.
fn assert_same_files(migrated: &Migrated, target_root: u32) {
    const RUNNING: &[&str] = &[
        "/var/cache/",
        "/var/log/",
        "/var/lib/systemd/",
        "/var/lib/ledger/",
        "/etc/resolv.conf",
        "/opt/go2cloud/",
        "/run/",
        // Below what a running system mounts there.
        "/dev/",
        // GRUB's own files, which are put there with its core image.
        "/boot/grub/",
    ];
    let compared = migrated.source.mounted(&[(ROOT, "/", "ro")], |source| {
        migrated.target.mounted(&[(target_root, "/", "ro")], |target| {
            let report = fs::read(target.join("var/lib/go2cloud/conversion/report.json")).unwrap();
            let report: Value = serde_json::from_slice(&report).unwrap();
            let changed = changed_paths(&report);
            let mut compared = 0;
            for entry in walkdir::WalkDir::new(source) {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(source).unwrap();
                let path = format!("/{}", name.display());
                if RUNNING.iter().any(|prefix| path.starts_with(prefix)) || changed.contains(&path) {
                    continue;
                }
                if entry.file_type().is_file() {
                    let other = fs::read(target.join(name)).unwrap_or_else(|error| panic!("{path}: {error}"));
                    assert!(fs::read(entry.path()).unwrap() == other, "{path} differs");
                    compared += 1;
                } else if entry.file_type().is_symlink() {
                    assert_eq!(
                        fs::read_link(entry.path()).unwrap(),
                        fs::read_link(target.join(name)).unwrap_or_else(|error| panic!("{path}: {error}")),
                        "{path}"
                    );
                }
            }
            compared
        })
    });
    assert!(compared > 4000, "{compared}");
}

fn changed_paths(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap();
    let changes = steps
        .iter()
        .flat_map(|step| step["changes"].as_array().unwrap())
        .filter_map(|change| change["path"].as_str());
    let outputs = steps
        .iter()
        .flat_map(|step| step["commands"].as_array().unwrap())
        .flat_map(|command| command["outputs"].as_array().unwrap())
        .filter_map(Value::as_str);
    changes.chain(outputs).map(str::to_owned).collect()
}

/// Starts the target by itself and checks what it says.
fn assert_boots(case: &Case, migrated: &Migrated, root: &str) {
    let disk: &PathBuf = &migrated.target.path;
    let folder = migrated.target.folder.path();
    let mut machine = Machine::start(&target_hardware(case, disk), &migrated.bridge, folder, "migrated");
    let said = machine.wait("the migrated system's words", |machine| {
        let words = machine.words();
        words.contains("\nEND").then_some(words)
    });
    let value = |key: &str| -> Vec<&str> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::trim).collect()
    };
    assert_eq!(value("hostname "), [HOSTNAME], "{said}");
    assert_eq!(value("machine-id "), [MACHINE_ID], "{said}");
    assert_eq!(value("root "), [root], "{said}");
    assert_eq!(value("failed "), [""; 0], "{said}");
    assert_eq!(
        value("unit "),
        [
            "ledger active",
            "ssh active",
            &format!("{} active", case.system.network_unit())
        ],
        "{said}"
    );
    assert_eq!(value("address "), [format!("{INTERFACE} {ADDRESS}")], "{said}");
    assert_eq!(value("reached "), ["yes"], "{said}");
    assert_eq!(
        value("alice "),
        ["uid=1005(alice) gid=1005(alice) groups=1005(alice) alice"],
        "{said}"
    );
    let ledger: Vec<&str> = value("ledger ")[0].split_whitespace().collect();
    let number = |at: usize| ledger[at].parse::<u64>().unwrap();
    let (records, rest, index) = (number(1), number(3), number(5));
    let (first, last) = migrated.records;
    assert!(records > first && records <= last, "{first} {last}\n{said}");
    // The state of one moment: whole records, and the index names the last one or the one before it.
    assert!(rest == 0 && (index == records || index + 1 == records), "{said}");
    let writes: u64 = value("writes ")[0].parse().unwrap();
    assert!(writes > records, "the service goes on writing: {said}");
}

/// Migrates a system and starts what arrived: every file, the service's data of one moment, everything in its place.
fn assert_migrates(system: System, firmware: Firmware, by: By) {
    let case = Case {
        system,
        firmware,
        by,
        volume_group: None,
    };
    let migrated = migrate(&case);
    assert_same_files(&migrated, ROOT);
    assert_boots(&case, &migrated, "/dev/vda3 ext4");
}

#[test]
fn a_system_is_migrated_file_by_file() {
    assert_migrates(System::Debian, Firmware::Bios, By::Job(""));
}

#[test]
fn a_system_is_migrated_block_by_block() {
    assert_migrates(System::Debian, Firmware::Bios, By::Job("--block"));
}

#[cfg(feature = "long")]
#[test]
fn a_uefi_system_is_migrated_file_by_file() {
    assert_migrates(System::Debian, Firmware::Uefi, By::Job(""));
}

/// The target's disks were laid out by its settings, with the root file system on a logical volume.
#[cfg(feature = "long")]
#[test]
fn a_system_is_migrated_to_a_logical_volume() {
    let case = Case {
        system: System::Debian,
        firmware: Firmware::Bios,
        by: By::Job(""),
        volume_group: Some("vg0"),
    };
    let migrated = migrate(&case);
    assert_boots(&case, &migrated, "/dev/mapper/vg0-root ext4");
}

/// No control plane: the agent prepares the target, has it converted and restarts it by itself.
#[cfg(feature = "long")]
#[test]
fn a_system_is_migrated_without_a_job() {
    assert_migrates(System::Debian, Firmware::Bios, By::Address);
}

#[cfg(feature = "long")]
#[test]
fn an_ubuntu_is_migrated_block_by_block() {
    assert_migrates(System::Ubuntu, Firmware::Bios, By::Job("--block"));
}

#[cfg(feature = "long")]
#[test]
fn a_uefi_ubuntu_is_migrated_file_by_file() {
    assert_migrates(System::Ubuntu, Firmware::Uefi, By::Job(""));
}

/// The transit instance is prepared and converted as any target, and its disks become the image.
#[cfg(feature = "long")]
#[test]
fn a_system_becomes_an_image() {
    assert_migrates(System::Debian, Firmware::Bios, By::Image);
}
