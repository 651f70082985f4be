//! The boot check as a source asks for it, between two of its rounds: of the disks that this receiver writes.
//!
//! The receiver is no machine in migration mode: whatever else a source asks for is its operator's affair.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;
use transfer::machine::{Answer, Desk, Request};
use transfer::target::TargetVolume;
use transfer::{Error, Kind, Result};

use super::{BootCheckArgs, check};
use crate::convert::command::FirmwareChoice;
use crate::convert::machine::Pin;
use crate::convert::options::Options;
use crate::layout::inventory::InterfaceRecord;

/// Programs that a check takes.
const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"];
/// Memory of the machine, in MiB.
pub(super) const MEMORY: u32 = 1024;
/// Time for the system to come up, in seconds: emulated on a busy host it takes its time.
pub(super) const TIMEOUT: u64 = 600;

/// Hardware address of the machine, from the range of QEMU.
const MAC: &str = "52:54:00:12:34:56";

/// What a source says of a check.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wish {
    /// Decisions about the conversion.
    convert: Options,
    /// Seconds for the system to come up.
    timeout: Option<u64>,
    /// Network interfaces of the source: the machine has one that takes the name of the first.
    interfaces: Vec<InterfaceRecord>,
}

/// Who answers.
pub struct BootDesk {
    /// `None` where a tree is received.
    disks: Option<Vec<PathBuf>>,
    /// Folder for overlays, serial log and screenshot.
    output: PathBuf,
    /// One check at a time.
    busy: Mutex<()>,
}

impl BootDesk {
    /// For what is received into `volume`; what a check leaves lies in a folder of `journal`.
    pub fn new(volume: &TargetVolume, journal: &Path) -> Self {
        let disks = match volume {
            TargetVolume::Disks(disks) => Some(disks.iter().map(|disk| disk.copy_path()).collect()),
            TargetVolume::Tree { .. } | TargetVolume::Nothing => None,
        };
        Self {
            disks,
            output: journal.join("boot-check"),
            busy: Mutex::new(()),
        }
    }

    /// The disks to check, where that is possible.
    fn disks(&self) -> Result<&[PathBuf]> {
        let refuse = |remedy: String| Error::new(Kind::Usage, "check that the copy boots").remedy(remedy);
        let disks = self.disks.as_deref().ok_or_else(|| {
            refuse("it takes whole disks: receive with --into-disk, or leave out --boot-check".to_owned())
        })?;
        if rustix::process::geteuid().as_raw() != 0 {
            return Err(refuse("run the receiver as root".to_owned()));
        }
        let folders: Vec<PathBuf> = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        let missing = |program: &&&str| !folders.iter().any(|folder| folder.join(program).is_file());
        match PROGRAMS.iter().find(missing) {
            None => Ok(disks),
            Some(program) => Err(refuse(format!(
                "{program} is not installed where the receiver runs: install QEMU there (Debian: qemu-system-x86 and \
                 qemu-utils), or leave out --boot-check"
            ))),
        }
    }

    fn check(&self, wish: &str) -> Result<String> {
        let _alone = self
            .busy
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let disks = self.disks()?;
        let unclear = |error: serde_json::Error| {
            Error::new(Kind::Corrupt, "understand what the source wants to be checked").because(error)
        };
        let wish: Wish = serde_json::from_str(wish).map_err(unclear)?;
        let verdict = check(&BootCheckArgs {
            disk: disks.to_vec(),
            output: self.output.clone(),
            no_convert: false,
            firmware: FirmwareChoice::Auto,
            timeout: wish.timeout.unwrap_or(TIMEOUT),
            memory: MEMORY,
            emulate: false,
            interface: wish.interfaces.into_iter().take(1).map(pin).collect(),
            options: wish.convert,
            json: true,
        })?;
        serde_json::to_string(&verdict)
            .map_err(|error| Error::new(Kind::Corrupt, "write the verdict").because(error))
    }
}

/// The machine's interface under the name of the source's.
fn pin(interface: InterfaceRecord) -> Pin {
    Pin {
        name: interface.name,
        source_mac: interface.mac,
        target_mac: MAC.to_owned(),
    }
}

impl Desk for BootDesk {
    fn ask(&self, request: &Request, tell: &(dyn Fn(&str) + Sync)) -> Answer {
        let done = match request {
            Request::Prepare { .. } | Request::Convert | Request::Restart => return Answer::NotAMachine,
            Request::CanBootCheck => self
                .disks()
                .map(|disks| format!("{} disks can be checked", disks.len())),
            Request::BootCheck { wish } => {
                tell("the copy is started in a virtual machine, on an overlay");
                self.check(wish)
            }
        };
        match done {
            Ok(text) => Answer::Done { text },
            Err(error) => Answer::Refused {
                text: crate::chain(&error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_cannot_be_checked_and_nothing_else_is_done_here() {
        let volume = TargetVolume::Tree {
            root: "/nowhere".into(),
        };
        let desk = BootDesk::new(&volume, Path::new("/nowhere"));
        let answer = desk.ask(&Request::CanBootCheck, &|_| {});
        assert!(matches!(answer, Answer::Refused { text } if text.contains("--into-disk")));
        assert_eq!(desk.ask(&Request::Convert, &|_| {}), Answer::NotAMachine);
    }
}
