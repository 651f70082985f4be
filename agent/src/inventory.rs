//! What this machine is: system, hardware, disks, and an identifier that stays the same.
//!
//! Everything is read from the kernel's own files below a root that tests replace; nothing is executed, nothing is
//! written except the identifier of a machine that has none.

use std::fs;
use std::path::{Path, PathBuf};

mod directory;
pub mod disks;
mod file_system;
mod hardware;
mod identifier;
pub mod mounts;
mod os;
mod table;
pub mod wire;

pub use directory::of_directory;
pub use disks::{Disk, Partition};
pub use hardware::{BootMode, Hardware};
pub use os::Os;
pub use table::Style;

/// Where the kernel's and the system's files are read from.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine on which the program runs.
    pub fn here() -> Self {
        Self::at("/")
    }

    /// A machine whose files lie below `root`: for tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of one of its files; `path` is absolute on that machine.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The trimmed text of one of its files, if it can be read and is not empty.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A number in one of its files.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The names in one of its directories, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// What a migration moves.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Everything.
    Machine,
    /// The contents of one directory.
    Directory(&'a Path),
    /// Some block devices.
    Disks(&'a [PathBuf]),
}

/// All of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inventory {
    /// 64 hexadecimal digits that survive new network cards and names.
    pub identifier: String,
    /// Operating system.
    pub os: Os,
    /// Processors, memory, network.
    pub hardware: Hardware,
    /// Whether this is all of the machine, not only a directory or some disks of it.
    pub whole: bool,
    /// Disks, the one with the root file system first.
    pub disks: Vec<Disk>,
    /// Names below the directory that is migrated, if they were counted.
    pub entries: Option<u64>,
}

/// Identifier and system of `machine`, for those who need nothing else of it.
///
/// # Errors
/// The machine has no identity and none can be stored.
pub fn identity(machine: &Machine) -> std::io::Result<(String, Os)> {
    Ok((identifier::identifier(machine)?, os::os(machine)))
}

impl Inventory {
    /// Looks at `machine`.
    ///
    /// # Errors
    /// The machine has no identity and none can be stored.
    pub fn take(machine: &Machine) -> std::io::Result<Self> {
        Ok(Self {
            identifier: identifier::identifier(machine)?,
            whole: true,
            os: os::os(machine),
            hardware: hardware::hardware(machine),
            disks: disks::disks(machine),
            entries: None,
        })
    }

    /// Looks at the part of `machine` that a migration moves. Anything but the whole machine is a source of its own.
    ///
    /// # Errors
    /// As for [`Inventory::take`]; or the directory or a disk cannot be looked at.
    pub fn of(machine: &Machine, scope: Scope<'_>) -> std::io::Result<Self> {
        let mut inventory = Self::take(machine)?;
        inventory.whole = matches!(scope, Scope::Machine);
        match scope {
            Scope::Machine => {}
            Scope::Directory(root) => directory::narrow(&mut inventory, root)?,
            Scope::Disks(disks) => disks::narrow(&mut inventory, disks)?,
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests;
