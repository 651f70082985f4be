//! The virtual machine: virtio disks, a network that leads nowhere, a serial console into a file, a port for the probe,
//! and QEMU's control socket for the picture of the screen.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use transfer::{Error, Kind, Result};

use super::probe::PORT;
use crate::convert::machine::Firmware;

/// Firmware for UEFI, as Debian and others install it.
const OVMF: &[(&str, &str)] = &[
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];

/// What the machine is made of.
pub(super) struct Hardware {
    pub(super) disks: Vec<PathBuf>,
    pub(super) firmware: Firmware,
    pub(super) memory: u32,
    pub(super) mac: Option<String>,
    pub(super) emulate: bool,
}

/// A running machine; it ends when this is dropped.
pub(super) struct VirtualMachine {
    child: Child,
    control: PathBuf,
    /// What it writes to its serial console.
    pub(super) serial: PathBuf,
    /// What the probe says.
    pub(super) words: PathBuf,
}

impl VirtualMachine {
    /// Starts it with its files in `folder`.
    pub(super) fn start(hardware: &Hardware, folder: &Path) -> Result<Self> {
        let control = folder.join("control.sock");
        let (serial, words) = (folder.join("serial.log"), folder.join("probe.log"));
        for path in [&control, &words, &serial] {
            let _ = fs::remove_file(path);
        }
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35",
            "-no-reboot",
            "-display",
            "none",
            "-vga",
            "std",
            "-smp",
            "2",
        ]);
        command
            .args(["-m", &hardware.memory.to_string()])
            .args(accelerator(hardware.emulate));
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", control.display()));
        let mac = hardware
            .mac
            .as_ref()
            .map(|mac| format!(",mac={mac}"))
            .unwrap_or_default();
        command.args(["-nic", &format!("user,model=virtio-net-pci,restrict=on{mac}")]);
        command.args([
            "-device",
            "virtio-serial-pci",
            "-device",
            &format!("virtserialport,chardev=probe,name={PORT}"),
        ]);
        command
            .arg("-chardev")
            .arg(format!("file,id=probe,path={}", words.display()));
        for disk in &hardware.disks {
            command.arg("-drive").arg(format!(
                "file={},if=virtio,format=qcow2,cache=unsafe",
                disk.display()
            ));
        }
        if hardware.firmware == Firmware::Uefi {
            command.args(firmware(folder)?);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        sys::child::end_with_parent(&mut command);
        let child = command.spawn().map_err(|error| {
            Error::new(Kind::Usage, "start QEMU")
                .because(error)
                .remedy("install qemu-system-x86")
        })?;
        Ok(Self {
            child,
            control,
            serial,
            words,
        })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        let status = self
            .child
            .try_wait()
            .map_err(|error| Error::new(Kind::Medium, "watch QEMU").because(error))?;
        match status {
            Some(status) if !status.success() => {
                let mut text = String::new();
                if let Some(mut pipe) = self.child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut pipe, &mut text);
                }
                Err(Error::new(Kind::Usage, format!("run QEMU: {status}")).because(text.trim().to_owned()))
            }
            other => Ok(other.is_some()),
        }
    }

    /// Takes a picture of its screen; `None` when it cannot any more.
    pub(super) fn screenshot(&self, path: &Path) -> Option<PathBuf> {
        let stream = UnixStream::connect(&self.control).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let mut answers = BufReader::new(stream.try_clone().ok()?).lines();
        let mut ask = |request: serde_json::Value| -> Option<()> {
            writeln!(&stream, "{request}").ok()?;
            // Events come between requests and answers.
            answers
                .by_ref()
                .map_while(std::result::Result::ok)
                .find(|line| line.contains("\"return\"") || line.contains("\"error\""))
                .filter(|line| line.contains("\"return\""))
                .map(|_| ())
        };
        ask(serde_json::json!({ "execute": "qmp_capabilities" }))?;
        ask(
            serde_json::json!({ "execute": "screendump", "arguments": { "filename": path, "format": "png" } }),
        )?;
        Some(path.to_owned())
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.control);
    }
}

/// The processor is used directly only where it can be: some hosts offer /dev/kvm without being able to run a
/// foreign kernel in it.
fn accelerator(emulate: bool) -> [&'static str; 4] {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_support = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    if !emulate && has_support && Path::new("/dev/kvm").exists() {
        ["-accel", "kvm", "-cpu", "host"]
    } else {
        ["-accel", "tcg,thread=multi", "-cpu", "max"]
    }
}

/// Arguments for UEFI with a fresh memory of its settings: nothing is known of this disk.
fn firmware(folder: &Path) -> Result<Vec<String>> {
    let found = OVMF.iter().find(|(code, _)| Path::new(code).exists());
    let (code, settings) = found.ok_or_else(|| {
        Error::new(Kind::Usage, "find firmware for UEFI").remedy("install the package ovmf")
    })?;
    let own = folder.join("firmware.fd");
    fs::copy(settings, &own).map_err(|error| Error::io("copy the firmware's settings", &own, error))?;
    Ok(vec![
        "-drive".to_owned(),
        format!("if=pflash,format=raw,readonly=on,file={code}"),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,file={}", own.display()),
    ])
}
