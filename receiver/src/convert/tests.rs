//! Whole systems of several distributions, as trees of text files below `tests/fixtures`: `in` is the system as it
//! arrives, `expected` holds the files that the conversion changes, `expected.json` the tools it runs and what it
//! reports. Kernels, modules and tools, which are not text, are made by the test from `case.json`.
//!
//! `UPDATE_EXPECTED=1` writes what is found as the new expectation, to be read before it is committed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Deserialize;
use serde_json::json;

use super::machine::{Firmware, Pin, Volume};
use super::*;

#[derive(Deserialize)]
struct Case {
    kernels: Vec<String>,
    tools: Vec<String>,
    firmware: String,
    volumes: Vec<CaseVolume>,
    pins: Vec<[String; 3]>,
    options: Vec<String>,
    links: BTreeMap<String, String>,
    /// Whether the target's disk is there, without a boot loader yet.
    #[serde(default)]
    blank_boot_disk: bool,
}

#[derive(Deserialize)]
struct CaseVolume {
    device: PathBuf,
    kind: String,
    uuid: String,
    position: Option<(usize, u32)>,
    mounted_at: Option<String>,
    label: Option<String>,
    partition_uuid: Option<String>,
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

impl Case {
    fn read(folder: &Path) -> Self {
        serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap()
    }

    fn machine(&self, folder: &Path) -> Machine {
        let boot_disk = folder.join("boot-disk");
        if self.blank_boot_disk {
            fs::write(&boot_disk, [0u8; 4096]).unwrap();
        }
        let volumes = self.volumes.iter().map(|volume| Volume {
            device: volume.device.clone(),
            kind: volume.kind.clone(),
            uuid: Some(volume.uuid.clone()),
            label: volume.label.clone(),
            partition_uuid: volume.partition_uuid.clone(),
            position: volume.position,
            mounted_at: volume.mounted_at.clone(),
            ..Volume::default()
        });
        let pins = self
            .pins
            .iter()
            .cloned()
            .map(|[name, source_mac, target_mac]| Pin {
                name,
                source_mac,
                target_mac,
            });
        Machine {
            volumes: Some(volumes.collect()),
            boot_disk: self.blank_boot_disk.then_some(boot_disk),
            firmware: if self.firmware == "uefi" {
                Firmware::Uefi
            } else {
                Firmware::Bios
            },
            pins: pins.collect(),
        }
    }

    fn options(&self) -> Options {
        let words = std::iter::once("test").chain(self.options.iter().map(String::as_str));
        Arguments::try_parse_from(words).unwrap().options
    }

    /// What a text fixture cannot hold.
    fn complete(&self, root: &Path) {
        let write = |path: &str, bytes: &[u8]| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let mut elf = vec![0u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
        write("usr/bin/bash", &elf);
        write("usr/lib/systemd/systemd", &elf);
        for tool in &self.tools {
            write(tool, b"");
        }
        for folder in ["sbin", "bin", "lib"] {
            fs::create_dir_all(root.join("usr").join(folder)).unwrap();
            symlink(format!("usr/{folder}"), root.join(folder)).unwrap();
        }
        symlink("bash", root.join("usr/bin/sh")).unwrap();
        symlink("/usr/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        for (path, target) in &self.links {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }
        for kernel in &self.kernels {
            write(&format!("boot/vmlinuz-{kernel}"), b"kernel");
            for image in [
                format!("initrd.img-{kernel}"),
                format!("initramfs-{kernel}.img"),
                format!("initrd-{kernel}"),
            ] {
                if self
                    .volumes
                    .iter()
                    .any(|volume| volume.mounted_at.as_deref() == Some("/"))
                {
                    write(&format!("boot/{image}"), b"");
                }
            }
            let modules = "kernel/drivers/block/virtio_blk.ko.xz:\nkernel/drivers/virtio/virtio_pci.ko:\nkernel/fs/ext4/ext4.ko:\nkernel/fs/xfs/xfs.ko:\nkernel/fs/btrfs/btrfs.ko.zst:\nkernel/drivers/md/dm-mod.ko:\n";
            write(
                &format!("usr/lib/modules/{kernel}/modules.dep"),
                modules.as_bytes(),
            );
            write(&format!("usr/lib/modules/{kernel}/modules.builtin"), b"");
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file and link, as text.
fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        let name = format!("/{}", entry.path().strip_prefix(root).unwrap().display());
        if name.starts_with(originals::FOLDER) || entry.file_type().is_dir() {
            continue;
        }
        let text = if entry.path_is_symlink() {
            format!("-> {}\n", fs::read_link(entry.path()).unwrap().display())
        } else {
            draft::decode(&fs::read(entry.path()).unwrap()).0.into_owned()
        };
        found.insert(name, text);
    }
    found
}

fn check(name: &str) {
    let folder = fixtures().join(name);
    let case = Case::read(&folder);
    let root = tempfile::tempdir().unwrap();
    copy_tree(&folder.join("in"), root.path());
    case.complete(root.path());
    let before = snapshot(root.path());
    let guest = Guest::open(root.path()).unwrap();
    let disks = tempfile::tempdir().unwrap();
    let (machine, options) = (case.machine(disks.path()), case.options());
    let report = plan(&guest, &machine, &options).unwrap();
    assert_eq!(snapshot(root.path()), before, "a plan writes nothing");

    // Everything but the tools: the fixture has none that run.
    let mut originals = Originals::open(&guest).unwrap();
    let mut draft = Draft::new(&guest, Default::default());
    let context = Context {
        facts: &report.facts,
        machine: &machine,
        options: &options,
    };
    for step in STEPS {
        let commands = step.plan(&context, &mut draft, &mut Findings::default()).unwrap();
        let changes = draft.take_changes();
        originals.keep(&changes, draft.stale()).unwrap();
        changes.iter().for_each(|change| apply(&guest, change).unwrap());
        commands
            .iter()
            .for_each(|command| originals.keep_outputs(&command.outputs).unwrap());
    }
    let after = snapshot(root.path());
    let mut changed: BTreeMap<String, String> = after
        .iter()
        .filter(|(path, text)| before.get(*path) != Some(text))
        .map(|(p, t)| (p.clone(), t.clone()))
        .collect();
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        changed.insert(format!("{path}.removed"), String::new());
    }
    let commands: Vec<String> = report
        .steps
        .iter()
        .flat_map(|step| &step.commands)
        .map(|command| command.argv.join(" "))
        .map(|command| command.replace(&disks.path().display().to_string(), ""))
        .collect();
    let findings: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("{:?} {}: {}", finding.severity, finding.step, finding.message))
        .collect();
    compare(
        &folder,
        &changed,
        &json!({ "commands": commands, "findings": findings }),
    );

    let again = plan(&guest, &machine, &options).unwrap();
    let changes: Vec<&ChangeReport> = again.steps.iter().flat_map(|step| &step.changes).collect();
    assert!(
        changes.is_empty(),
        "{name}: a second run changes files: {changes:#?}"
    );

    let (_, findings) = undo(&guest, None).unwrap();
    assert!(findings.list().is_empty(), "{findings:?}");
    assert_eq!(
        snapshot(root.path()),
        before,
        "{name}: undo brings everything back"
    );
}

fn compare(folder: &Path, changed: &BTreeMap<String, String>, found: &serde_json::Value) {
    let expected = folder.join("expected");
    let report = folder.join("expected.json");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        let _ = fs::remove_dir_all(&expected);
        for (path, text) in changed {
            let path = expected.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(&report, serde_json::to_string_pretty(found).unwrap() + "\n").unwrap();
    }
    assert_eq!(changed, &snapshot(&expected));
    let wanted: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(found, &wanted);
}

#[test]
fn debian_12_bios() {
    check("debian-12-bios");
}

#[test]
fn ubuntu_22_uefi_dhcp() {
    check("ubuntu-22-uefi-dhcp");
}

#[test]
fn rocky_9_bls() {
    check("rocky-9-bls");
}

#[test]
fn rocky_9_uefi_md() {
    check("rocky-9-uefi-md");
}

#[test]
fn rhel_8_kernelopts() {
    check("rhel-8-kernelopts");
}

#[test]
fn centos_7_grub2() {
    check("centos-7-grub2");
}

#[test]
fn sles_15_btrfs() {
    check("sles-15-btrfs");
}

#[test]
fn sles_15_uefi_lvm() {
    check("sles-15-uefi-lvm");
}

/// What would be done to a fixture with other options: the diffs below `/etc/cloud`, by path, and all findings.
fn decided(options: &[&str]) -> (BTreeMap<String, String>, String) {
    let root = tempfile::tempdir().unwrap();
    let folder = fixtures().join("ubuntu-22-uefi-dhcp");
    copy_tree(&folder.join("in"), root.path());
    let mut case = Case::read(&folder);
    case.options = options.iter().map(|&word| word.to_owned()).collect();
    case.complete(root.path());
    let guest = Guest::open(root.path()).unwrap();
    let disks = tempfile::tempdir().unwrap();
    let report = plan(&guest, &case.machine(disks.path()), &case.options()).unwrap();
    let changes = report.steps.into_iter().flat_map(|step| step.changes);
    let cloud = changes
        .map(|change| (change.path.display().to_string(), change.diff))
        .filter(|(path, _)| path.starts_with("/etc/cloud/"));
    (cloud.collect(), format!("{:?}", report.findings))
}

#[test]
fn switches_decide_about_cloud_init_and_about_what_is_kept() {
    const PRESERVE: &str = "/etc/cloud/cloud.cfg.d/99-go2cloud.cfg";
    let (plain, findings) = decided(&["--network", "dhcp"]);
    assert!(plain[PRESERVE].contains("+preserve_hostname: true\n+manage_etc_hosts: false\n"));
    assert!(!plain[PRESERVE].contains("resolv") && !plain[PRESERVE].contains("network:"));
    for what in ["package mirrors", "time servers"] {
        assert!(findings.contains(&format!("uses {what} that exist at the old place only")));
    }

    let (kept, findings) = decided(&[
        "--network",
        "dhcp",
        "--disable-cloud-init-network",
        "--keep",
        "hostname,hosts,dns,mirrors,ntp",
    ]);
    for lines in [
        "+preserve_hostname: true\n+manage_etc_hosts: false\n",
        "+manage_resolv_conf: false\n",
        "+apt:\n+  preserve_sources_list: true\n",
        "+ntp:\n+  enabled: false\n",
        "+network:\n+  config: disabled\n",
    ] {
        assert!(kept[PRESERVE].contains(lines), "{lines}{}", kept[PRESERVE]);
    }
    assert!(!findings.contains("at the old place only"), "{findings}");
    for what in ["package mirrors", "time servers"] {
        assert!(findings.contains(&format!("keeps {what} of the old place, as asked")));
    }

    let (disabled, _) = decided(&["--cloud-init", "disable"]);
    assert_eq!(
        disabled.keys().collect::<Vec<_>>(),
        ["/etc/cloud/cloud-init.disabled"]
    );
    let (left, _) = decided(&["--cloud-init", "leave"]);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_boot_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    copy_tree(&fixtures().join("debian-12-bios/in"), root.path());
    let mut case = Case::read(&fixtures().join("debian-12-bios"));
    case.tools.clear();
    case.complete(root.path());
    let before = snapshot(root.path());
    let guest = Guest::open(root.path()).unwrap();
    let report = convert(
        &guest,
        &case.machine(root.path()),
        &Options::default(),
        &Unwatched,
    )
    .unwrap();
    assert!(!report.ok);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.message.contains("no tool to make")),
        "{:#?}",
        report.findings
    );
    assert_eq!(snapshot(root.path()), before);
}
