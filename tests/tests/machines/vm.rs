//! Virtual machines on a network of their own: a bridge in a namespace, on which the control plane listens, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use go2cloud_tests::control::program;
use go2cloud_tests::network::Network;
use go2cloud_tests::process::{Process, command_in};

use super::source::Firmware;

/// Longest wait for one step of a machine. Alone on two cores the longest, a conversion, takes a minute; a machine that
/// is busy with other things may be twenty times as slow.
const PATIENCE: Duration = Duration::from_secs(1500);

/// The network: the host's address is 10.77.0.1.
pub(crate) struct Bridge {
    network: Network,
}

impl Bridge {
    pub(crate) fn new() -> Self {
        let network = Network::new(&["vm"]);
        network.ip("vm", "link add br0 type bridge");
        network.ip("vm", "addr add 10.77.0.1/24 dev br0");
        network.ip("vm", "link set br0 up");
        for name in ["source", "target"] {
            network.ip("vm", &format!("tuntap add {name} mode tap"));
            network.ip("vm", &format!("link set {name} master br0 up"));
        }
        Self { network }
    }

    pub(crate) fn namespace(&self) -> String {
        self.network.namespace("vm")
    }
}

/// What a machine is made of.
pub(crate) struct Hardware<'a> {
    /// `source` or `target`: its tap device, and its files' names.
    pub(crate) name: &'a str,
    /// Its disk; a source's is not changed.
    pub(crate) disk: &'a Path,
    /// More disks.
    pub(crate) further_disks: Vec<PathBuf>,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Place of its network card on the bus.
    pub(crate) slot: u32,
    /// Hardware address.
    pub(crate) mac: &'a str,
    /// Name of its serial port for words.
    pub(crate) port: &'a str,
    pub(crate) firmware: Firmware,
    /// Kernel, initial RAM file system, command line; from its disk when there is none.
    pub(crate) kernel: Option<(PathBuf, PathBuf, String)>,
    /// Settings of the migration mode.
    pub(crate) settings: Option<PathBuf>,
}

/// A running machine, ended when dropped.
pub(crate) struct Machine {
    process: Process,
    console: PathBuf,
    words: PathBuf,
    began: Instant,
}

impl Machine {
    pub(crate) fn start(hardware: &Hardware<'_>, bridge: &Bridge, folder: &Path, run: &str) -> Self {
        let place = |what: &str| folder.join(format!("{run}-{what}"));
        let (console, words) = (place("console.log"), place("words.log"));
        let mut command = command_in(Some(&bridge.namespace()), Path::new("qemu-system-x86_64"));
        let memory = hardware.memory.to_string();
        command.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "1",
        ]);
        command.args(["-m", &memory, "-vga", "std", "-display", "none", "-no-reboot"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        let snapshot = if hardware.name == "source" { "on" } else { "off" };
        command.arg("-drive").arg(format!(
            "file={},if=virtio,format=raw,cache=unsafe,snapshot={snapshot}",
            hardware.disk.display()
        ));
        for disk in &hardware.further_disks {
            let drive = format!("file={},if=virtio,format=raw,cache=unsafe", disk.display());
            command.args(["-drive", &drive]);
        }
        command.args([
            "-netdev",
            &format!("tap,id=net,ifname={},script=no,downscript=no", hardware.name),
        ]);
        let card = format!(
            "virtio-net-pci,netdev=net,mac={},addr={:#x}",
            hardware.mac, hardware.slot
        );
        command.args(["-device", &card, "-device", "virtio-serial-pci"]);
        command
            .arg("-chardev")
            .arg(format!("file,id=words,path={}", words.display()));
        let port = format!("virtserialport,chardev=words,name={}", hardware.port);
        command.args(["-device", &port]);
        if let Some((kernel, initrd, line)) = &hardware.kernel {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
            command.args(["-append", line]);
        }
        if let Some(settings) = &hardware.settings {
            command.arg("-fw_cfg");
            command.arg(format!("name=opt/go2cloud/settings,file={}", settings.display()));
        }
        if hardware.firmware == Firmware::Uefi {
            // Fresh settings: the firmware knows nothing of this disk.
            let own = place("firmware.fd");
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &own).unwrap();
            let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
            let settings = format!("if=pflash,format=raw,file={}", own.display());
            command.args(["-drive", code, "-drive", &settings]);
        }
        command.env("TMPDIR", folder).stdin(Stdio::null());
        Self {
            process: Process::start(&mut command),
            console,
            words,
            began: Instant::now(),
        }
    }

    /// What it wrote to its console.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// What it wrote to its port.
    pub(crate) fn words(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.words).unwrap_or_default()).into_owned()
    }

    /// Waits until `happened` gives something.
    pub(crate) fn wait<T>(&mut self, what: &str, mut happened: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = happened(self) {
                return value;
            }
            assert!(
                self.process.is_running() && Instant::now() < end,
                "waited in vain for {what}, {} s after its start\n{}\n{}",
                self.began.elapsed().as_secs(),
                self.words(),
                self.console()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until it has switched itself off, or restarted, which is the same here.
    pub(crate) fn wait_for_end(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.process.is_running() {
            assert!(Instant::now() < end, "it does not end\n{}", self.console());
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// The migration image with the receiver of this build, made once for each.
pub(crate) fn migration_image() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = root.join("target/e2e-cache/migration-image");
    fs::create_dir_all(&output).unwrap();
    let lock = fs::File::create(output.join("lock")).unwrap();
    lock.lock().unwrap();
    let receiver = program("go2cloud-receiver");
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&output.join("disk.img")) < changed(&receiver) {
        let status = Command::new("cargo")
            .args(["xtask", "migration-image", "--level", "3", "--receiver"])
            .arg(&receiver)
            .arg("--output")
            .arg(&output)
            .current_dir(root)
            .status()
            .unwrap();
        assert!(status.success());
    }
    output
}
