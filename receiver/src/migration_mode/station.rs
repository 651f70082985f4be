//! The machine's work: its disks, what is served into them, and what the source or somebody at the console asks for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use transfer::secret::Secret;
use transfer::target::{DiskTarget, TargetVolume};
use transfer::{Error, Kind, Result};

use super::console::say;
use super::network;
use super::preparation::{Kinds, Preparation};
use super::settings::Settings;
use crate::convert::attach::{Access, Disks, Mounted, isolated};
use crate::convert::containers::Containers;
use crate::convert::guest::Guest;
use crate::convert::machine::{Firmware, Machine, Pin, Volume};
use crate::convert::{self, Report, Watcher, probe};
use crate::layout;
use crate::layout::inventory::{InterfaceRecord, Inventory};
use crate::layout::partitions::{Freedom, TargetDisk};
use crate::layout::{grow, survey};

/// Where the target's tree is mounted.
const TREE: &str = "/target";

/// The machine in migration mode.
pub(super) struct Station {
    /// What was set before it started.
    pub(super) settings: Settings,
    /// What both peers know.
    pub(super) secret: Secret,
    disks: Vec<PathBuf>,
    /// What the source said of itself, or the settings did for it; held while anything is done to the disks.
    prepared: Mutex<Option<Preparation>>,
    to_restart: AtomicBool,
}

impl Station {
    pub(super) fn new(settings: Settings, found: Vec<PathBuf>) -> Result<Self> {
        let disks = if settings.disks.is_empty() {
            found
        } else {
            settings.disks.clone()
        };
        let secret = match &settings.secret {
            Some(text) => Secret::parse(text.as_bytes())?,
            None => Secret::generate()?,
        };
        let preparation = settings.preparation();
        let station = Self {
            settings,
            secret,
            disks,
            prepared: Mutex::new(None),
            to_restart: AtomicBool::new(false),
        };
        station.prepare(preparation)?;
        Ok(station)
    }

    /// What is served: what was prepared, or the disks as they are.
    pub(super) fn volume(&self) -> TargetVolume {
        if self.is_tree() {
            return TargetVolume::Tree {
                root: PathBuf::from(TREE),
            };
        }
        let target = |path: &PathBuf| DiskTarget {
            path: path.clone(),
            overwrite: self.settings.overwrite,
        };
        TargetVolume::Disks(self.disks.iter().map(target).collect())
    }

    pub(super) fn is_tree(&self) -> bool {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared
            .as_ref()
            .is_some_and(|preparation| preparation.volume == Kinds::Tree)
    }

    /// Makes the disks ready for what comes. A source that comes again finds what it has made before.
    pub(super) fn prepare(&self, preparation: Preparation) -> Result<String> {
        let mut prepared = self.busy()?;
        let preparation = Preparation {
            grow: preparation.grow || self.settings.grow,
            ..preparation
        };
        let disks = list(&self.disks);
        let text = match (preparation.volume, prepared.as_ref()) {
            (Kinds::Disks, Some(before)) if before.volume == Kinds::Tree => {
                return Err(Error::new(Kind::Usage, "take disks where files are expected")
                    .remedy("start the target again in migration mode"));
            }
            (Kinds::Disks, _) => format!("takes disks: {disks}"),
            (Kinds::Tree, Some(before)) if before.volume == Kinds::Tree => {
                if !same_volumes(&before.inventory, &preparation.inventory) {
                    return Err(Error::new(Kind::Usage, "lay out the disks for another source")
                        .remedy("start the target again in migration mode"));
                }
                format!("goes on with what is laid out on {disks}")
            }
            (Kinds::Tree, _) => self.lay_out(&preparation)?,
        };
        *prepared = Some(preparation);
        Ok(text)
    }

    /// Makes the disks what the source's are and mounts the tree.
    fn lay_out(&self, preparation: &Preparation) -> Result<String> {
        let inventory = &preparation.inventory;
        let freedom = Freedom {
            minify: preparation.minify,
            grow: preparation.grow,
        };
        let targets = self
            .disks
            .iter()
            .map(|disk| layout::command::target(disk))
            .collect::<Result<Vec<(PathBuf, TargetDisk)>>>()?;
        let planned = layout::plan::plan(inventory, &targets, freedom).map_err(|refusals| {
            Error::new(Kind::Usage, "lay out the disks")
                .because(refusals.join("\n  and "))
                .remedy("see what follows")
        })?;
        let used = &self.disks[..inventory.disks.len().min(self.disks.len())];
        // A machine that was started again carries what it laid out before, and what has arrived since.
        let mut containers = Containers::open(used);
        let is_there = survey::survey(used).is_ok_and(|found| same_volumes(inventory, &found));
        if !is_there {
            if let Ok(containers) = &mut containers {
                containers.close();
            }
            layout::command::refuse(used, self.settings.overwrite)?;
            layout::command::apply(&planned)?;
        }
        std::fs::create_dir_all(TREE).map_err(|error| Error::io("make a mount point", TREE, error))?;
        layout::command::mount(&planned, Path::new(TREE))?;
        let what = if is_there { "found" } else { "laid out" };
        Ok(format!(
            "{} file systems {what} on {}",
            planned.mounts.len(),
            list(used)
        ))
    }

    /// Converts what arrived. Nothing must be served meanwhile. `tell` shows people what goes on.
    pub(super) fn convert(&self, tell: &(dyn Fn(&str) + Sync)) -> Result<Report> {
        let prepared = self.busy()?;
        let preparation = prepared.clone().unwrap_or_default();
        let narrator = Narrator { tell };
        if preparation.volume == Kinds::Tree {
            let guest = Guest::open(Path::new(TREE))?;
            let found = probe::volumes_below(guest.root())?;
            let machine = self.machine(
                &preparation,
                found.map(|(_, volumes)| volumes),
                self.disks.first(),
            );
            return convert::convert(&guest, &machine, &preparation.convert, &narrator);
        }
        let disks = Disks::attach(&self.disks)?;
        let gains = if preparation.grow {
            grow::grow_disks(&disks.devices)?
        } else {
            Vec::new()
        };
        isolated(|| {
            let mounted = Mounted::new(&disks, Access::Write)?;
            if preparation.grow {
                grow::grow_mounted(&mounted.root, &mounted.volumes, &gains)?;
            }
            let guest = Guest::open(&mounted.root)?;
            let machine = self.machine(&preparation, Some(mounted.volumes.clone()), disks.devices.first());
            let result = convert::convert(&guest, &machine, &preparation.convert, &narrator);
            drop(guest);
            mounted.finish()?;
            result
        })
    }

    fn machine(
        &self,
        preparation: &Preparation,
        volumes: Option<Vec<Volume>>,
        boot_disk: Option<&PathBuf>,
    ) -> Machine {
        let firmware = if Path::new("/sys/firmware/efi").exists() {
            Firmware::Uefi
        } else {
            Firmware::Bios
        };
        let pins = if preparation.inventory.interfaces.is_empty() {
            self.settings.interfaces.clone()
        } else {
            pins(
                &preparation.inventory.interfaces,
                &network::hardware_addresses(),
                &self.settings.interfaces,
            )
        };
        Machine {
            volumes,
            boot_disk: boot_disk.cloned(),
            firmware,
            pins,
        }
    }

    /// The disks are one's own while this is held.
    fn busy(&self) -> Result<MutexGuard<'_, Option<Preparation>>> {
        match self.prepared.try_lock() {
            Ok(guard) => Ok(guard),
            Err(std::sync::TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => Err(Error::new(
                Kind::Usage,
                "do two things to the disks at once: somebody at the console or the source is at it",
            )
            .remedy("wait for its end")),
        }
    }

    /// Starts the migrated system as soon as the source has heard that this was understood.
    pub(super) fn restart_soon(&self) {
        self.to_restart.store(true, Ordering::Release);
    }

    pub(super) fn is_to_restart(&self) -> bool {
        self.to_restart.load(Ordering::Acquire)
    }

    /// Unmounts the tree. Volume groups and arrays that are in use stay; nothing is lost by that.
    pub(super) fn release(&self) {
        if self.is_tree() {
            for _ in 0..20 {
                let umount = Command::new("umount").args(["--recursive", TREE]).output();
                if umount.is_ok_and(|output| output.status.success()) {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        let _ = Command::new("lvm").args(["vgchange", "--activate", "n"]).output();
        let _ = Command::new("mdadm").args(["--stop", "--scan"]).output();
    }
}

/// What a conversion found, a line each.
pub(super) fn findings(report: &Report) -> Vec<String> {
    let line = |finding: &convert::step::Finding| {
        format!(
            "{:?} [{}]: {}; {}",
            finding.severity, finding.step, finding.message, finding.remedy
        )
    };
    report.findings.iter().map(line).collect()
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// Whether both have the same file systems: every UUID of one is in the other, with the same type.
fn same_volumes(one: &Inventory, other: &Inventory) -> bool {
    let names = |inventory: &Inventory| {
        let mut names: Vec<(String, String)> = inventory
            .volumes
            .iter()
            .filter_map(|volume| Some((volume.kind.clone(), volume.uuid.clone()?.to_lowercase())))
            .collect();
        names.sort();
        names
    };
    let (one, other) = (names(one), names(other));
    !one.is_empty() && one == other
}

/// Interfaces of the source keep their names on this machine's: where the settings say which, on that one; the others
/// in their order.
fn pins(sources: &[InterfaceRecord], ours: &[(String, String)], settled: &[Pin]) -> Vec<Pin> {
    let mut free: Vec<&String> = ours
        .iter()
        .map(|(_, mac)| mac)
        .filter(|mac| {
            settled
                .iter()
                .all(|pin| !pin.target_mac.eq_ignore_ascii_case(mac))
        })
        .collect();
    free.reverse();
    let pair = |source: &InterfaceRecord| {
        let known = settled.iter().find(|pin| pin.name == source.name);
        let target_mac = known.map_or_else(|| free.pop().cloned(), |pin| Some(pin.target_mac.clone()));
        Some(Pin {
            name: source.name.clone(),
            source_mac: source.mac.clone(),
            target_mac: target_mac?,
        })
    };
    sources.iter().filter_map(pair).collect()
}

/// Tells console and source what the conversion does.
struct Narrator<'a> {
    tell: &'a (dyn Fn(&str) + Sync),
}

impl Narrator<'_> {
    fn say(&self, text: &str) {
        say(text);
        (self.tell)(text);
    }
}

impl Watcher for Narrator<'_> {
    fn step(&self, name: &str) {
        self.say(&format!("converting: {name}"));
    }

    fn tool(&self, argv: &[String], why: &str) {
        self.say(&format!("running {} ({why})", argv.join(" ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::inventory::VolumeRecord;

    #[test]
    fn interfaces_keep_their_order_unless_the_settings_say_which() {
        let source = |name: &str, mac: &str| InterfaceRecord {
            name: name.to_owned(),
            mac: mac.to_owned(),
        };
        let sources = [
            source("ens192", "a0"),
            source("ens224", "a1"),
            source("ens256", "a2"),
        ];
        let ours = [
            ("eth0".to_owned(), "b0".to_owned()),
            ("eth1".to_owned(), "b1".to_owned()),
        ];
        let settled = [Pin {
            name: "ens224".to_owned(),
            source_mac: String::new(),
            target_mac: "b0".to_owned(),
        }];
        let found: Vec<(String, String)> = pins(&sources, &ours, &settled)
            .into_iter()
            .map(|pin| (pin.name, pin.target_mac))
            .collect();
        let pair = |name: &str, mac: &str| (name.to_owned(), mac.to_owned());
        assert_eq!(found, [pair("ens192", "b1"), pair("ens224", "b0")]);
    }

    #[test]
    fn what_is_laid_out_already_is_known_again() {
        let inventory = |uuids: &[&str]| Inventory {
            volumes: uuids
                .iter()
                .map(|uuid| VolumeRecord {
                    kind: "ext4".to_owned(),
                    uuid: Some((*uuid).to_owned()),
                    ..VolumeRecord::default()
                })
                .collect(),
            ..Inventory::default()
        };
        assert!(same_volumes(&inventory(&["A", "b"]), &inventory(&["B", "a"])));
        assert!(!same_volumes(&inventory(&["a", "b"]), &inventory(&["a"])));
        assert!(!same_volumes(&inventory(&[]), &inventory(&[])));
    }
}
