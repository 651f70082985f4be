//! A whole system into a virtual machine in migration mode, converted there and booted by itself: once as a tree, once
//! as a disk. Through the programs only.
//!
//! They take root, loop devices, QEMU, GRUB's and mtools' packages, and minutes under emulation; they run on request:
//! `cargo test -p go2cloud-tests --test migration_vm -- --ignored --test-threads 1`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

#[path = "../../receiver/tests/native_conversion/image.rs"]
#[expect(dead_code, reason = "some of it is for tests of the receiver only")]
mod image;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use go2cloud_tests::control::program;
use image::{Image, debian, run};
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const MAC: &str = "52:54:00:12:34:56";

/// The machine in migration mode.
struct Machine {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    fn start(folder: &Path, disk: &Path, settings: &Value) -> Self {
        let image = migration_image();
        fs::write(folder.join("settings.json"), settings.to_string()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let place = |name: &str| folder.join(name).display().to_string();
        let child = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-m",
                "1024",
                "-smp",
                "2",
            ])
            .args([
                "-vga",
                "std",
                "-display",
                "none",
                "-no-reboot",
                "-append",
                "console=ttyS0 quiet panic=30",
            ])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.zst"))
            .args([
                "-fw_cfg",
                &format!("name=opt/go2cloud/settings,file={}", place("settings.json")),
            ])
            .args([
                "-chardev",
                &format!(
                    "socket,id=s,path={},server=on,wait=off,logfile={}",
                    place("console"),
                    place("console.log")
                ),
            ])
            .args(["-serial", "chardev:s"])
            .args([
                "-drive",
                &format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()),
            ])
            .args([
                "-nic",
                &format!("user,model=virtio-net-pci,mac={MAC},hostfwd=tcp:127.0.0.1:{port}-:443"),
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut machine = Self {
            child,
            folder: folder.to_owned(),
            port,
        };
        machine.wait_for("READY", Duration::from_secs(300));
        machine
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("console.log")).unwrap_or_default()).into_owned()
    }

    fn wait_for(&mut self, word: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.said().contains(word) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no {word}:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Asks for conversion and reboot, and waits for the machine to go.
    fn finish(mut self) {
        let mut console = UnixStream::connect(self.folder.join("console")).unwrap();
        console.write_all(b"finish\n").unwrap();
        // A reader that does not read would stop the machine's console: only the log listens from here on.
        std::thread::sleep(Duration::from_secs(2));
        drop(console);
        let deadline = Instant::now() + Duration::from_secs(2400);
        while self.child.try_wait().unwrap().is_none() {
            let said = self.said();
            assert!(
                !said.contains("NOT CONVERTED") && Instant::now() < deadline,
                "{said}"
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(self.said().contains("verified: CONVERTED"), "{}", self.said());
    }

    fn sync(&self, what: &[&str]) -> Value {
        let key = self.folder.join("key");
        fs::write(&key, SECRET).unwrap();
        let output = Command::new(program("go2cloud"))
            .args([
                "sync",
                "--to",
                &format!("127.0.0.1:{}", self.port),
                "--json",
                "--secret-file",
            ])
            .arg(&key)
            .arg("--state")
            .arg(self.folder.join("state"))
            .args(what)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.said()
        );
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }
}

/// Built once for each receiver.
fn migration_image() -> PathBuf {
    let output = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e-cache/migration-image");
    let arguments = ["xtask", "migration-image", "--level", "3", "--receiver"];
    let mut command = Command::new("cargo");
    command
        .args(arguments)
        .arg(program("go2cloud-receiver"))
        .arg("--output")
        .arg(&output);
    let status = command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .unwrap();
    assert!(status.success());
    output
}

/// A Debian as its old machine had it: device names, no boot loader for this one, no usable initial RAM file system.
fn source() -> Image {
    let image = Image::new(
        1500,
        "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=64M,type=S\ntype=L\n",
    );
    let disk = image.attach();
    run("mkswap", &[&disk.partition(2)]);
    run(
        "mkfs.ext4",
        &[
            "-q",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            &disk.partition(3),
        ],
    );
    drop(disk);
    image.mounted(&[(3, "/", "rw")], |root| {
        run("cp", &["-a", &format!("{}/.", debian().display()), root.to_str().unwrap()]);
        fs::create_dir_all(root.join("boot/grub")).unwrap();
        let write = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        write("etc/fstab", "/dev/sda3 / ext4 errors=remount-ro 0 1\n/dev/sda2 none swap sw 0 0\n");
        write("etc/hostname", "old-server\n");
        write("etc/default/grub", "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"\"\n");
        write("etc/network/interfaces", "auto lo\niface lo inet loopback\nauto ens192\niface ens192 inet static\n  address 10.77.0.5/24\n");
        for entry in fs::read_dir(root.join("boot")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("initrd.img-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    });
    image
}

/// Starts the disk by itself, on an overlay, and checks what the system says of itself.
fn assert_boots(disk: &Path, folder: &Path) {
    let output = Command::new(program("go2cloud-receiver"))
        .args([
            "boot-check",
            "--no-convert",
            "--json",
            "--timeout",
            "1200",
            "--interface",
            &format!("ens192,,{MAC}"),
        ])
        .arg("--disk")
        .arg(disk)
        .arg("--output")
        .arg(folder.join("boot-check"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let verdict: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(verdict["inside"]["hostname"], "old-server");
    assert_eq!(verdict["inside"]["failed_units"], json!([]));
    assert_eq!(
        verdict["inside"]["addresses"],
        json!(["ens192 10.77.0.5/24"]),
        "{verdict}"
    );
}

/// Every file of the source is at the target, byte for byte, but for those that the conversion says it changed.
fn assert_same_files(source: &Path, target: &Path) {
    let report = fs::read(target.join("var/lib/go2cloud/conversion/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let changed: Vec<&str> = steps
        .iter()
        .flat_map(|step| step["changes"].as_array().unwrap())
        .filter_map(|change| change["path"].as_str())
        .collect();
    let mut compared = 0;
    for entry in walkdir::WalkDir::new(source) {
        let entry = entry.unwrap();
        let name = entry.path().strip_prefix(source).unwrap();
        let path = format!("/{}", name.display());
        if !entry.file_type().is_file() || changed.contains(&path.as_str()) || path.starts_with("/var/cache/")
        {
            continue;
        }
        let other = fs::read(target.join(name)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(fs::read(entry.path()).unwrap() == other, "{path} differs");
        compared += 1;
    }
    assert!(compared > 5000, "{compared}");
}

fn blank(folder: &Path) -> PathBuf {
    let disk = folder.join("target.img");
    fs::File::create(&disk).unwrap().set_len(2200 << 20).unwrap();
    disk
}

#[test]
#[ignore = "takes root, loop devices, QEMU and minutes"]
fn a_tree_is_laid_out_copied_converted_and_boots() {
    let image = source();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = blank(folder.path());
    image.mounted(&[(3, "/", "ro")], |root| {
        let device = run("findmnt", &["-n", "-o", "SOURCE", root.to_str().unwrap()]);
        let output = Command::new(program("go2cloud-receiver"))
            .args(["inventory", "--disk", device.trim_end_matches("p3")])
            .output()
            .unwrap();
        let mut inventory: Value = serde_json::from_slice(&output.stdout).unwrap();
        // As the system itself would have said: the tree is not mounted at its place here.
        for volume in inventory["volumes"].as_array_mut().unwrap() {
            if volume["kind"] == "ext4" {
                volume["mounted_at"] = "/".into();
            }
        }
        inventory["interfaces"] = json!([{ "name": "ens192", "mac": "00:50:56:aa:bb:cc" }]);
        let machine = Machine::start(
            folder.path(),
            &disk,
            &json!({ "secret": SECRET, "inventory": inventory }),
        );
        let summary = machine.sync(&[root.to_str().unwrap()]);
        assert_eq!(summary["ok"], true, "{summary}");
        machine.finish();
    });
    assert_boots(&disk, folder.path());
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let target = Image {
        folder: place,
        path: disk,
    };
    image.mounted(&[(3, "/", "ro")], |source| {
        target.mounted(&[(3, "/", "ro")], |target| assert_same_files(source, target));
    });
}

#[test]
#[ignore = "takes root, loop devices, QEMU and minutes"]
fn a_disk_is_copied_converted_and_boots() {
    let image = source();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = blank(folder.path());
    let pins = json!([{ "name": "ens192", "source_mac": "00:50:56:aa:bb:cc", "target_mac": MAC }]);
    let machine = Machine::start(
        folder.path(),
        &disk,
        &json!({ "secret": SECRET, "interfaces": pins }),
    );
    let attached = image.attach();
    let summary = machine.sync(&["--disk", &attached.device]);
    assert_eq!(summary["ok"], true, "{summary}");
    drop(attached);
    machine.finish();
    assert_boots(&disk, folder.path());
}
