//! Conversions of a real Debian 12 on real (loop) disks with its own tools in the enclosure.
//!
//! They take root, loop devices, about half a minute each and, the first time, the Debian mirror that apt uses.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

#[path = "native_conversion/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use image::{Image, debian, file_system_uuid, run};
use transfer::boot_check::{Question, Reply, ask};
use transfer::progress::{Silent, StopFlag};
use transfer::secret::Secret;
use transfer::source::{Compression, DisksSource, Retry, Rounds, SourceVolume, SyncPlan, sync};
use transfer::throttle::Throttle;

const INTERFACE: &str = "ens192,00:50:56:aa:bb:cc,52:54:00:12:34:56";

fn convert(image: &Image) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_go2cloud-receiver"));
    command
        .args(["convert", "--interface", INTERFACE, "--disk"])
        .arg(&image.path);
    command
}

/// Runs a conversion that ends well and returns its report.
fn report(image: &Image, arguments: &[&str]) -> serde_json::Value {
    let output = convert(image).args(arguments).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{errors}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(image.loops(), "", "a loop device is left over");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(image.path.to_str().unwrap()),
        "something is left mounted"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_nothing_to_do(report: &serde_json::Value) -> bool {
    report["steps"].as_array().unwrap().is_empty() && report["ok"] == true
}

/// Content, mode, owner and modification time of every file, and every link.
fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        let name = entry.path().strip_prefix(root).unwrap().display().to_string();
        let metadata = entry.metadata().unwrap();
        let content = if entry.path_is_symlink() {
            fs::read_link(entry.path()).unwrap().display().to_string()
        } else if metadata.is_file() {
            blake3::hash(&fs::read(entry.path()).unwrap())
                .to_hex()
                .to_string()
        } else {
            continue;
        };
        found.insert(
            name,
            format!(
                "{content} {:o} {}:{}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid()
            ),
        );
    }
    found
}

/// What differs, tools' caches and the conversion's own folder aside.
fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let keys = before.keys().chain(after.keys());
    let mut names: Vec<String> = keys
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect();
    names.retain(|name| !name.starts_with("var/lib/go2cloud") && !name.starts_with("var/cache"));
    names.dedup();
    names
}

fn fill(root: &Path, fstab: &str) {
    run(
        "cp",
        &["-a", &format!("{}/.", debian().display()), root.to_str().unwrap()],
    );
    fs::create_dir_all(root.join("boot/grub")).unwrap();
    fs::write(root.join("etc/fstab"), fstab).unwrap();
    fs::write(root.join("etc/hostname"), "oldhost\n").unwrap();
    let defaults = "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"resume=UUID=gone\"\n";
    fs::write(root.join("etc/default/grub"), defaults).unwrap();
    fs::write(root.join("etc/initramfs-tools/conf.d/dep"), "MODULES=dep\n").unwrap();
    for entry in fs::read_dir(root.join("boot")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("initrd.img-") {
            fs::write(entry.path(), "without any driver").unwrap();
        }
    }
}

/// MBR, swap on the first partition, ext4 root on the second, both known by device name only, no boot loader.
fn bios_image() -> Image {
    let image = Image::new(
        1500,
        "label: dos\nstart=2048,size=64M,type=82\ntype=83,bootable\n",
    );
    let attached = image.attach();
    run("mkswap", &[&attached.partition(1)]);
    run(
        "mkfs.ext4",
        &[
            "-q",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            &attached.partition(2),
        ],
    );
    drop(attached);
    image.mounted(&[(2, "/", "rw")], |root| {
        fill(root, "/dev/sda2 / ext4 errors=remount-ro 0 1\n/dev/sda1 none swap sw 0 0\n/dev/sdb1 /data ext4 defaults 0 2\n");
        run("chattr", &["+i", root.join("etc/fstab").to_str().unwrap()]);
    });
    image
}

#[test]
fn bios_system_is_converted_once_and_can_be_put_back() {
    let image = bios_image();
    let root = [(2, "/", "ro")];
    let before = image.mounted(&root, snapshot);
    // A boot loader of another kind, which GRUB replaces: code, and what lies before the first partition.
    let other = [[0x5a_u8; 440].as_slice(), &[0; 72], &[0xa5; 4096]].concat();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&image.path)
        .unwrap();
    file.write_all_at(&other[..440], 0).unwrap();
    file.write_all_at(&other[512..], 512).unwrap();
    let sectors = || {
        let mut bytes = vec![0; 1 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let boot_area = sectors();
    let plan = report(&image, &["--plan"]);
    assert!(!is_nothing_to_do(&plan));
    assert_eq!(
        differences(&before, &image.mounted(&root, snapshot)),
        [""; 0],
        "a plan writes nothing"
    );

    let done = report(&image, &[]);
    assert_eq!(done["ok"], true, "{done:#}");
    assert!(
        is_nothing_to_do(&report(&image, &[])),
        "a second run has nothing to do"
    );
    assert!(is_nothing_to_do(&report(&image, &["--check"])));
    image.mounted(&root, |root| {
        let fstab = fs::read_to_string(root.join("etc/fstab")).unwrap();
        assert!(fstab.starts_with("UUID=") && fstab.contains("nofail"), "{fstab}");
        let menu = fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(
            menu.contains("root=UUID=") && menu.contains("console=ttyS0"),
            "{menu}"
        );
        assert!(!menu.contains("root=/dev/"), "{menu}");
        let flags = run("lsattr", &[root.join("etc/fstab").to_str().unwrap()]);
        assert!(flags.contains("i-"), "the immutable flag is set again: {flags}");
    });

    assert!(sectors()[..440] != boot_area[..440], "GRUB is installed");
    report(&image, &["--undo"]);
    assert!(sectors() == boot_area, "the other boot loader is back");
    let after = image.mounted(&root, snapshot);
    let left = differences(&before, &after);
    // What grub-install and update-initramfs made anew, where there was nothing before.
    let new: Vec<&String> = left
        .iter()
        .filter(|name| !name.starts_with("boot/grub/") && *name != "var/lib/initramfs-tools")
        .collect();
    assert!(
        new.iter()
            .all(|name| name.starts_with("var/lib/initramfs-tools/")),
        "{new:?}"
    );
}

#[test]
fn a_conversion_that_was_killed_goes_on() {
    let image = bios_image();
    let mut child = convert(&image)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = lines
        .map_while(Result::ok)
        .find(|line| line.contains("running update-initramfs"));
    assert!(started.is_some());
    std::thread::sleep(Duration::from_millis(1500));
    child.kill().unwrap();
    child.wait().unwrap();
    let left = Command::new("pgrep")
        .args(["-f", "mkinitramfs"])
        .output()
        .unwrap();
    let own = String::from_utf8_lossy(&left.stdout).into_owned();
    let alive = own.lines().filter(|pid| {
        let root = fs::read_link(format!("/proc/{pid}/root"));
        root.is_ok_and(|root| root.to_string_lossy().contains("go2cloud-convert"))
    });
    assert_eq!(alive.count(), 0, "the guest's tool outlives us");

    let done = report(&image, &[]);
    assert_eq!(done["ok"], true, "{done:#}");
    assert!(is_nothing_to_do(&report(&image, &[])));
}

#[test]
fn a_full_boot_partition_is_refused_before_anything_is_written() {
    let image = Image::new(
        1500,
        "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=64M,type=L\ntype=L\n",
    );
    let attached = image.attach();
    run("mkfs.ext4", &["-q", &attached.partition(2)]);
    run(
        "mkfs.ext4",
        &[
            "-q",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            &attached.partition(3),
        ],
    );
    drop(attached);
    image.mounted(&[(3, "/", "rw"), (2, "/boot", "rw")], |root| {
        fill(
            root,
            "/dev/sda3 / ext4 defaults 0 1\n/dev/sda2 /boot ext4 defaults 0 2\n",
        );
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "status=none"])
            .arg(format!("of={}", root.join("boot/fill").display()))
            .stderr(Stdio::null())
            .status();
    });
    let mounts = [(3, "/", "ro"), (2, "/boot", "ro")];
    let before = image.mounted(&mounts, snapshot);
    let output = convert(&image).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // The file system decides how much of its last MiB it lets a file have.
    let free = image.mounted(&mounts, |root| {
        let room = rustix::fs::statvfs(root.join("boot")).unwrap();
        (room.f_bavail * room.f_frsize) >> 20
    });
    assert!(free < 8, "the partition is not full: {free} MiB are free");
    assert!(
        said.contains(&format!("/boot has {free} MiB free, making ")),
        "{output:?}"
    );
    assert_eq!(differences(&before, &image.mounted(&mounts, snapshot)), [""; 0]);

    image.mounted(&[(3, "/", "rw"), (2, "/boot", "rw")], |root| {
        fs::remove_file(root.join("boot/fill")).unwrap();
    });
    assert_eq!(report(&image, &[])["ok"], true);
    image.mounted(&mounts, |root| {
        let menu = fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(
            menu.contains("linux\t/vmlinuz-"),
            "paths count from the boot partition: {menu}"
        );
    });
}

#[test]
fn a_uefi_system_gets_the_path_that_firmware_tries() {
    let image = Image::new(1500, "label: gpt\nsize=64M,type=U\ntype=L\n");
    let attached = image.attach();
    run("mkfs.xfs", &["-q", &attached.partition(2)]);
    let root = file_system_uuid(&attached.partition(2));
    image::make_system_partition(&attached.partition(1), &root, "xfs", "debian");
    let system = file_system_uuid(&attached.partition(1));
    drop(attached);
    image.mounted(&[(2, "/", "rw")], |place| {
        fill(
            place,
            &format!("UUID={root} / xfs defaults 0 1\nUUID={system} /boot/efi vfat umask=0077 0 1\n"),
        );
        fs::create_dir_all(place.join("boot/efi")).unwrap();
    });
    assert_boots_beforehand(&image);
    let done = report(&image, &[]);
    assert_eq!(
        (done["machine"]["firmware"].as_str(), &done["ok"]),
        (Some("uefi"), &true.into()),
        "{done:#}"
    );
    let attached = image.attach();
    let names = run("mdir", &["-b", "-i", &attached.partition(1), "::EFI/BOOT"]);
    assert!(names.to_uppercase().contains("BOOTX64.EFI"), "{names}");
    drop(attached);
    assert!(is_nothing_to_do(&report(&image, &[])));
}

/// A receiver of a disk; it ends when this is dropped.
struct Receiving {
    program: Child,
    address: SocketAddr,
    secret: Secret,
}

impl Receiving {
    fn start(disk: &Path, folder: &Path) -> Self {
        let key = folder.join("key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_go2cloud-receiver"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--json",
                "--overwrite",
                "--secret-file",
            ])
            .arg(&key)
            .arg("--journal")
            .arg(folder.join("journal"))
            .arg("--into-disk")
            .arg(disk)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = program.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self {
            program,
            address: ready["address"].as_str().unwrap().parse().unwrap(),
            secret: Secret::from_file(&key).unwrap(),
        }
    }

    fn ask(&self, question: &Question) -> Reply {
        ask(&[self.address], &self.secret, question).unwrap()
    }

    fn verdict(&self, question: &Question) -> serde_json::Value {
        loop {
            match self.ask(question) {
                Reply::UnderWay => std::thread::sleep(Duration::from_millis(500)),
                Reply::Done { text } => return serde_json::from_str(&text).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A round of a disk, read back and compared.
    fn take(&self, disk: &str, state: PathBuf) {
        let plan = SyncPlan {
            target: vec![self.address],
            secret: self.secret.clone(),
            connections: 2,
            volume: SourceVolume::Disks(DisksSource {
                disks: vec![disk.into()],
                freeze: None,
            }),
            state,
            throttle: Arc::new(Throttle::new(0)),
            compression: Compression::Off,
            verify: true,
            rounds: Rounds::Count(1),
            retry: Retry::Never,
            gives_way: false,
        };
        let summary = sync(&plan, &Silent, &StopFlag::default()).unwrap();
        assert!(summary.ok && summary.bytes_data > 200 << 20, "{summary:?}");
        assert_eq!(summary.verified.unwrap().repaired, 0);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A disk with something else than a system.
fn other_disk() -> Image {
    let other = Image::new(1500, "label: gpt\ntype=L\n");
    let attached = other.attach();
    run("mkfs.ext4", &["-q", &attached.partition(1)]);
    drop(attached);
    other.mounted(&[(1, "/", "rw")], |root| {
        let mut noise = fs::File::open("/dev/urandom").unwrap().take(200 << 20);
        std::io::copy(&mut noise, &mut fs::File::create(root.join("noise")).unwrap()).unwrap();
    });
    other
}

/// Before the cutover: the system is converted on an overlay and started by firmware that does not know it, while a round
/// writes another disk's content over it; and nothing of the check is left on that disk.
fn assert_boots_beforehand(image: &Image) {
    let other = other_disk();
    let folder = image.folder.path();
    let target = folder.join("target.img");
    run(
        "cp",
        &[
            "--sparse=always",
            image.path.to_str().unwrap(),
            target.to_str().unwrap(),
        ],
    );
    let receiving = Receiving::start(&target, folder);
    assert!(matches!(receiving.ask(&Question::Can), Reply::Done { .. }));
    let [name, mac] = [0, 1].map(|at| INTERFACE.split(',').nth(at).unwrap());
    let wish = serde_json::json!({ "timeout": 1100, "interfaces": [{ "name": name, "mac": mac }] });
    let begin = |first| Question::Begin {
        id: [first; 16],
        wish: wish.to_string(),
    };
    assert_eq!(receiving.ask(&begin(1)), Reply::UnderWay);
    assert_eq!(receiving.ask(&begin(2)), Reply::Busy, "one at a time");
    assert_eq!(receiving.ask(&Question::Verdict { id: [2; 16] }), Reply::Unknown);
    let question = Question::Verdict { id: [1; 16] };

    let attached = other.attach();
    receiving.take(&attached.device, folder.join("state"));
    drop(attached);
    let digest = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(&target).unwrap()).unwrap();
        hasher.finalize()
    };
    let before = digest();
    assert_eq!(
        receiving.ask(&question),
        Reply::UnderWay,
        "all was replaced before the check had its verdict"
    );
    let verdict = receiving.verdict(&question);
    assert_eq!(verdict["ok"], true, "{verdict:#}");
    assert_eq!(verdict["converted"], true);
    assert_eq!(verdict["inside"]["hostname"], "oldhost");
    assert_eq!(verdict["inside"]["failed_units"], serde_json::json!([]));
    for file in ["serial_log", "screenshot"] {
        let path = Path::new(verdict[file].as_str().unwrap());
        assert!(fs::metadata(path).unwrap().len() > 0, "{file}");
    }
    let left: Vec<String> = fs::read_dir(folder.join("journal/boot-check"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            ["overlay", "replaced", "disk"]
                .iter()
                .any(|file| name.contains(file))
        })
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(digest(), before, "the disk is only read");
    let target = target.to_str().unwrap();
    assert_eq!(
        run("losetup", &["--associated", target]),
        "",
        "a loop device is left over"
    );
}

#[test]
fn a_btrfs_subvolume_is_found_and_used() {
    let image = Image::new(
        1500,
        "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\ntype=L\n",
    );
    let attached = image.attach();
    run("mkfs.btrfs", &["-q", &attached.partition(2)]);
    drop(attached);
    image.mounted(&[(2, "/", "rw")], |root| {
        run(
            "btrfs",
            &["subvolume", "create", root.join("@").to_str().unwrap()],
        );
        fill(&root.join("@"), "/dev/sda2 / btrfs subvol=@,subvolid=256 0 0\n");
        let tools = root.join("@/usr/share/initramfs-tools/hooks/btrfs");
        assert!(
            !tools.exists(),
            "the guest has no tools of its own for btrfs: its kernel must do"
        );
    });
    let done = report(&image, &[]);
    assert_eq!(done["ok"], true, "{done:#}");
    image.mounted(&[(2, "/", "ro,subvol=@")], |root| {
        let menu = fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(
            menu.contains("rootflags=subvol=@") && menu.contains("/@/boot/vmlinuz-"),
            "{menu}"
        );
        let fstab = fs::read_to_string(root.join("etc/fstab")).unwrap();
        assert!(
            fstab.contains("subvol=@ ") && !fstab.contains("subvolid"),
            "{fstab}"
        );
    });
}

/// What breaks converters: a separate /var, links that lead out of the system, quotes in the command line, files that
/// cannot be changed, a dead swap device for hibernation.
#[test]
fn a_hostile_system_is_converted_and_nothing_outside_of_it_is_touched() {
    let image = Image::new(
        1500,
        "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=300M,type=L\ntype=L\n",
    );
    let attached = image.attach();
    let options = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    for number in [2, 3] {
        run(
            "mkfs.ext4",
            &[&options[..], &[&attached.partition(number)]].concat(),
        );
    }
    drop(attached);
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, "GRUB_CMDLINE_LINUX=\"mine\"\n").unwrap();
    let mounts = [(3, "/", "rw"), (2, "/var", "rw")];
    image.mounted(&mounts, |root| {
        fill(
            root,
            "/dev/sda3 / ext4 defaults 0 1\n/dev/sda2 /var ext4 defaults 0 2\n",
        );
        make_hostile(root, &canary);
    });
    let done = report(&image, &[]);
    assert_eq!(done["ok"], true, "{done:#}");
    assert!(is_nothing_to_do(&report(&image, &[])));
    assert_eq!(
        fs::read_to_string(&canary).unwrap(),
        "GRUB_CMDLINE_LINUX=\"mine\"\n",
        "a file of the host"
    );
    image.mounted(&[(3, "/", "ro"), (2, "/var", "ro")], |root| {
        let fstab = fs::read_to_string(root.join("etc/fstab")).unwrap();
        assert_eq!(fstab.matches("UUID=").count(), 2, "{fstab}");
        let defaults = fs::read_to_string(root.join("opt/settings/grub")).unwrap();
        assert!(
            defaults.contains("console=ttyS0"),
            "the link's target inside: {defaults}"
        );
        assert!(root.join("etc/default/grub").is_symlink());
        let menu = fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(
            menu.contains("dyndbg=\"file a.c +p\"") && !menu.contains("resume="),
            "{menu}"
        );
        assert!(root.join("var/lib/go2cloud/conversion/report.json").exists());
        let hosts = root.join("etc/resolv.conf");
        assert!(run("lsattr", &[hosts.to_str().unwrap()]).contains("i-"));
    });
}

fn make_hostile(root: &Path, canary: &Path) {
    let link = |target: &Path, path: &str| {
        let _ = fs::remove_file(root.join(path));
        std::os::unix::fs::symlink(target, root.join(path)).unwrap();
    };
    fs::create_dir_all(root.join("opt/settings")).unwrap();
    let defaults = "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\n\
                    GRUB_CMDLINE_LINUX='dyndbg=\"file a.c +p\" resume=UUID=gone'\n";
    fs::write(root.join("opt/settings/grub"), defaults).unwrap();
    // Absolute, as administrators write them: inside the system they lead to the system's own files.
    link(Path::new("/opt/settings/grub"), "etc/default/grub");
    // And one whose target exists on the converting machine only.
    fs::create_dir_all(root.join("etc/default/grub.d")).unwrap();
    link(canary, "etc/default/grub.d/90-outside.cfg");
    link(Path::new("../../../../../../../../etc/hostname"), "etc/mailname");
    let resolver = root.join("etc/resolv.conf");
    let _ = fs::remove_file(&resolver);
    fs::write(&resolver, "nameserver 192.0.2.1\n").unwrap();
    run("chattr", &["+i", resolver.to_str().unwrap()]);
}
