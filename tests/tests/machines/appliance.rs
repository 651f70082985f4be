//! The migration image by itself, in a machine with blank disks: started by another Linux, and its disk tools put to
//! work on what takes modules that the kernel of a test machine may lack: arrays and volume groups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use go2cloud_tests::control::program;
use go2cloud_tests::process::{Process, command_in};

use super::image::run;
use super::source::Firmware;
use super::vm::{Bridge, Hardware, Machine, migration_image};
use super::{SECRET, TARGET_MAC};

const START_BY_KEXEC: &str = include_str!("kexec.sh");
const LAY_OUT: &str = include_str!("layout.sh");
const CUT_OVER: &str = include_str!("cutover.sh");
/// What the kernel is told. On a busy machine an emulated timer may be too late for the kernel's check of it.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=5 no_timer_check";

/// A folder for disks and for what the image gets beside what it has.
struct Bench {
    folder: tempfile::TempDir,
    bridge: Bridge,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            bridge: Bridge::new(),
        };
        fs::create_dir(bench.more()).unwrap();
        bench
    }

    /// What the image gets beside what it has.
    fn more(&self) -> PathBuf {
        self.folder.path().join("more")
    }

    fn blank(&self, name: &str, mebibytes: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
        path
    }

    /// Starts the image with `script` as its first program.
    fn start(&self, script: &str, disks: &[PathBuf]) -> Machine {
        let first = self.more().join("first");
        fs::write(&first, script).unwrap();
        fs::set_permissions(&first, fs::Permissions::from_mode(0o755)).unwrap();
        let image = migration_image();
        let initrd = self.folder.path().join("initrd");
        append(&image.join("initrd.zst"), &self.more(), &initrd);
        let hardware = Hardware {
            name: "target",
            disk: &disks[0],
            further_disks: disks[1..].to_vec(),
            memory: 768,
            slot: 7,
            mac: TARGET_MAC,
            port: "check",
            firmware: Firmware::Bios,
            kernel: Some((
                image.join("vmlinuz"),
                initrd,
                format!("{COMMAND_LINE} rdinit=/first"),
            )),
            settings: None,
        };
        Machine::start(&hardware, &self.bridge, self.folder.path(), "appliance")
    }
}

/// Adds a tree to an initial RAM file system, as docs/CONVERSION.md says.
fn append(initrd: &Path, tree: &Path, output: &Path) {
    let script = "set -e; cp \"$1\" \"$3\"; truncate -s %4 \"$3\"; cd \"$2\"; \
                  find . -mindepth 1 -printf '%P\\n' | cpio --quiet -o -H newc >>\"$3\"";
    let name = |path: &Path| path.display().to_string();
    run(
        "sh",
        &["-c", script, "sh", &name(initrd), &name(tree), &name(output)],
    );
}

/// A program of this machine with the libraries it is linked to.
fn copy_program(program: &str, tree: &Path) {
    let bin = tree.join("usr/bin");
    let libraries = tree.join("lib");
    for folder in [&bin, &libraries] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::copy(program, bin.join(Path::new(program).file_name().unwrap())).unwrap();
    for library in run("ldd", &[program])
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        fs::copy(library, libraries.join(Path::new(library).file_name().unwrap())).unwrap();
    }
}

#[test]
fn the_migration_image_is_started_by_a_linux_that_runs() {
    let bench = Bench::new();
    let (image, more) = (migration_image(), bench.more());
    copy_program("/usr/sbin/kexec", &more);
    // What the administrator has put there: the kernel, and the initial RAM file system with settings.
    fs::create_dir(more.join("boot")).unwrap();
    fs::copy(image.join("vmlinuz"), more.join("boot/vmlinuz")).unwrap();
    let settings = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"secret":"{SECRET}","network":{{"addresses":["10.77.0.9/24","fd77::9/64"]}}}}"#);
    fs::write(settings.path().join("go2cloud.json"), text).unwrap();
    append(
        &image.join("initrd.zst"),
        settings.path(),
        &more.join("boot/initrd"),
    );

    let disks = [bench.blank("disk", 64)];
    let mut machine = bench.start(START_BY_KEXEC, &disks);
    let console = machine.wait("migration mode", |machine| {
        let console = machine.console();
        console.contains("READY").then_some(console)
    });
    assert!(console.contains("starting another kernel"), "{console}");
    assert!(console.contains("disks: /dev/vda"), "{console}");
    assert!(
        console.contains("listening on port 443; addresses: 10.77.0.9"),
        "{console}"
    );
    assert!(console.contains("fd77::9"), "{console}");
    assert!(
        !console.contains("secret: "),
        "the settings' secret is taken and not shown: {console}"
    );
}

/// Its disk, without settings: the address comes by DHCP, and the console shows the secret that it made.
fn assert_disk_boots(firmware: Firmware) {
    let bench = Bench::new();
    let leases = format!(
        "interface br0\nstart 10.77.0.50\nend 10.77.0.50\nlease_file {0}/leases\npidfile {0}/pid\noption subnet 255.255.255.0\n",
        bench.folder.path().display()
    );
    let settings = bench.folder.path().join("udhcpd.conf");
    fs::write(&settings, leases).unwrap();
    fs::write(bench.folder.path().join("leases"), "").unwrap();
    let mut server = command_in(Some(&bench.bridge.namespace()), Path::new("busybox"));
    let _server = Process::start(server.args(["udhcpd", "-f"]).arg(&settings));
    let disk = bench.folder.path().join("image");
    fs::copy(migration_image().join("disk.img"), &disk).unwrap();
    let hardware = Hardware {
        name: "target",
        disk: &disk,
        further_disks: vec![bench.blank("blank", 64)],
        memory: 640,
        slot: 7,
        mac: TARGET_MAC,
        port: "check",
        firmware,
        kernel: None,
        settings: None,
    };
    let mut machine = Machine::start(&hardware, &bench.bridge, bench.folder.path(), "image");
    let console = machine.wait("migration mode with an address", |machine| {
        let console = machine.console();
        (console.contains("READY") && console.contains("10.77.0.50")).then_some(console)
    });
    assert!(console.contains("listening on port 443"), "{console}");
    assert!(console.contains("secret: "), "{console}");
}

#[test]
fn the_image_boots_by_bios_and_asks_for_its_address() {
    assert_disk_boots(Firmware::Bios);
}

#[test]
fn the_image_boots_by_uefi_and_asks_for_its_address() {
    assert_disk_boots(Firmware::Uefi);
}

/// What a machine said, by the word or words that lines begin with.
struct Said(String);

impl Said {
    fn values(&self, key: &str) -> Vec<&str> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::trim).collect()
    }

    fn numbers(&self, key: &str) -> Vec<Vec<u64>> {
        let numbers = |line: &str| {
            line.split_whitespace()
                .map(|word| word.parse().unwrap())
                .collect()
        };
        self.values(key).into_iter().map(numbers).collect()
    }
}

/// Lets the image work on disks of so many MiB by a script, with the agent beside it, and gives what it said.
fn work(script: &str, disks: &[u64]) -> Said {
    let bench = Bench::new();
    let disk = |(index, mebibytes): (usize, &u64)| bench.blank(&format!("disk-{index}"), *mebibytes);
    let disks: Vec<PathBuf> = disks.iter().enumerate().map(disk).collect();
    fs::create_dir_all(bench.more().join("usr/bin")).unwrap();
    fs::copy(program("go2cloud"), bench.more().join("usr/bin/go2cloud")).unwrap();
    let mut machine = bench.start(script, &disks);
    Said(machine.wait("the end of its work", |machine| {
        let console = machine.console();
        console.contains("\nEND").then_some(console)
    }))
}

/// Block by block from the disks below arrays and volume groups, with what is made of them in use until the freeze.
#[test]
fn arrays_and_volume_groups_in_use_are_copied_block_by_block() {
    let said = work(CUT_OVER, &[400, 400, 400, 410]);
    let text = &said.0;
    let summary: serde_json::Value = serde_json::from_str(said.values("summary ")[0]).unwrap();
    assert_eq!(summary["ok"], true, "{text}");
    assert!(summary["frozen_ms"].as_u64().unwrap() > 0, "{text}");
    let tracking = said.values("\"tracking\"");
    assert_eq!(tracking.len(), 2, "{text}");
    assert!(tracking.iter().all(|line| line.contains("BPF")), "{text}");
    assert_eq!(
        said.values("members md"),
        ["0 0 missing", "1 0 missing"],
        "{text}"
    );
    assert_eq!(
        said.values("different halves "),
        ["1 1"],
        "both members are of one moment: {text}"
    );
    assert_eq!(said.values("clean "), ["boot", "root", "data", "home"], "{text}");
    assert_eq!(said.values("same "), ["16 files"], "{text}");
    // One counts from one file system to the next: at one moment each is as far as its successor, or one ahead.
    let records = said.numbers("records ");
    let counts: Vec<u64> = records.iter().map(|record| record[0]).collect();
    assert!(records.iter().all(|record| record[0] == record[1]), "{text}");
    assert!(
        counts.is_sorted_by(|one, next| one >= next) && counts[0] - counts[3] <= 1,
        "{text}"
    );
    let (first, last) = (said.numbers("first ")[0][0], said.numbers("last ")[0][0]);
    assert!(counts[0] > first && counts[3] <= last, "{text}");
}

#[test]
fn arrays_and_volume_groups_are_laid_out_again_and_grow() {
    let said = work(LAY_OUT, &[340, 340, 350]);
    let text = &said.0;
    let value = |key: &str| said.values(key);
    assert_eq!(value("wiped "), ["yes"], "{text}");
    assert_eq!(value("identity "), ["same"], "{text}");
    assert_eq!(
        value("mounted "),
        [
            "/dev/mapper/vg0-root /target/srv",
            "/dev/md0 /target/srv/boot",
            "/dev/vda1 /target/srv/boot/efi"
        ],
        "{text}"
    );
    assert_eq!(value("system partition "), ["same, 6 entries"], "{text}");
    assert_eq!(value("found again "), ["/dev/mapper/vg0-root at /"], "{text}");
    assert_eq!(
        value("active arrays "),
        ["0"],
        "what was put together is released: {text}"
    );
    // Before and after: extents of the root volume, extents that are free, blocks of 1 KiB of its file system.
    let counts = said.numbers("root volume ");
    let [before, after] = &counts[..] else {
        panic!("{text}")
    };
    assert_eq!((before[0], before[2]), (15, 60 << 10), "{text}");
    assert!(after[0] > 55, "all that the disk has more: {text}");
    assert_eq!(
        after[2],
        after[0] << 12,
        "the file system fills its volume: {text}"
    );
    assert_eq!(before[1], after[1], "what was kept free stays free: {text}");
}
