//! Originals of everything the conversion changes, kept inside the guest, and the way back.
//!
//! `/var/lib/go2cloud/conversion` holds `journal.json` and one copy for each changed file. The journal is durable
//! before the change it speaks of is made: a conversion that is interrupted anywhere can be undone or gone on with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transfer::{Error, Kind, Result};

use super::boot_area::BootArea;
use super::draft::{Change, Content, Derived};
use super::guest::{Guest, copy_attributes};
use super::step::Findings;

/// Where it all lies inside the guest.
pub const FOLDER: &str = "/var/lib/go2cloud/conversion";
/// What lay outside of file systems, of the disk that a BIOS starts.
const BOOT_AREA: &str = "/var/lib/go2cloud/conversion/boot-area";
const JOURNAL: &str = "/var/lib/go2cloud/conversion/journal.json";
/// Version of the journal's format.
const VERSION: u32 = 1;

/// What was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Original {
    File { store: String },
    Link { target: PathBuf },
    Absent,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    original: Original,
    /// BLAKE3 of what the conversion wrote; none for what a tool wrote or for what is no file.
    after: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    entries: Vec<Entry>,
    stale: BTreeSet<Derived>,
}

/// The journal of a guest's conversion.
#[derive(Debug)]
pub struct Originals<'guest> {
    guest: &'guest Guest,
    state: State,
}

impl<'guest> Originals<'guest> {
    /// Reads the journal of an earlier conversion, or starts one in memory.
    ///
    /// # Errors
    /// The journal is damaged or of another version.
    pub fn open(guest: &'guest Guest) -> Result<Self> {
        let fresh = State {
            version: VERSION,
            entries: Vec::new(),
            stale: BTreeSet::new(),
        };
        let state = match guest.read(Path::new(JOURNAL))? {
            None => fresh,
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::new(Kind::Corrupt, "read the journal of the conversion")
                    .on(JOURNAL)
                    .because(error)
                    .remedy("restore it from a copy, or convert a fresh copy of the system")
            })?,
        };
        if state.version != VERSION {
            return Err(Error::new(
                Kind::Refused,
                format!("read a journal of version {}", state.version),
            )
            .on(JOURNAL)
            .remedy("use the version of this program that converted the system"));
        }
        Ok(Self { guest, state })
    }

    /// What has to be made again because an earlier run was interrupted.
    pub fn stale(&self) -> BTreeSet<Derived> {
        self.state.stale.clone()
    }

    /// Whether anything was changed.
    pub fn is_empty(&self) -> bool {
        self.state.entries.is_empty()
    }

    /// Keeps the originals of `changes` and notes what they make stale.
    ///
    /// # Errors
    /// The guest's disk is full or cannot be read.
    pub fn keep(&mut self, changes: &[Change], stale: &BTreeSet<Derived>) -> Result<()> {
        if changes.is_empty() && stale.is_subset(&self.state.stale) {
            return Ok(());
        }
        for change in changes {
            let after = match &change.after {
                Content::File { bytes, .. } => Some(blake3::hash(bytes).to_hex().to_string()),
                _ => None,
            };
            self.keep_one(&change.path, after)?;
        }
        self.state.stale.extend(stale);
        self.save()
    }

    /// Keeps the originals of files that a tool is about to write.
    ///
    /// # Errors
    /// The guest's disk is full or cannot be read.
    pub fn keep_outputs(&mut self, outputs: &[PathBuf]) -> Result<()> {
        for path in outputs {
            let place = self.guest.locate(path).unwrap_or_else(|_| path.clone());
            self.keep_one(&place, None)?;
        }
        if outputs.is_empty() { Ok(()) } else { self.save() }
    }

    /// Keeps the boot sector of `disk` and what belongs to it, before a boot loader is installed there for the first time.
    ///
    /// # Errors
    /// The disk cannot be read, or the guest's is full.
    pub fn keep_boot_area(&self, disk: &Path) -> Result<()> {
        if self.guest.exists(Path::new(BOOT_AREA)) {
            return Ok(());
        }
        let area = BootArea::read(disk)?;
        self.guest
            .write(Path::new(BOOT_AREA), &area.encode(), Some(0o600))
    }

    /// Notes that `derived` is up to date.
    ///
    /// # Errors
    /// The guest's disk cannot be written.
    pub fn made(&mut self, derived: Derived) -> Result<()> {
        if self.state.stale.remove(&derived) {
            self.save()
        } else {
            Ok(())
        }
    }

    fn keep_one(&mut self, place: &Path, after: Option<String>) -> Result<()> {
        if let Some(entry) = self.state.entries.iter_mut().find(|entry| entry.path == place) {
            entry.after = after;
            return Ok(());
        }
        let original = match self.guest.link(place) {
            Some(target) => Original::Link { target },
            None if self
                .guest
                .metadata(place)
                .is_some_and(|metadata| metadata.is_file()) =>
            {
                self.store(place)?
            }
            None => Original::Absent,
        };
        self.state.entries.push(Entry {
            path: place.to_owned(),
            original,
            after,
        });
        Ok(())
    }

    fn store(&self, place: &Path) -> Result<Original> {
        let store = format!("{:04}", self.state.entries.len());
        // Makes the folder, with the guest's own rules for owners and labels.
        let marker = Path::new(FOLDER).join("README");
        if !self.guest.exists(&marker) {
            let text = b"Originals of files that were changed when this system was migrated.\nUndo: go2cloud-receiver convert --undo. If the system runs well, this folder can be removed.\n";
            self.guest.write(&marker, text, Some(0o600))?;
        }
        let target = self.guest.ours(&Path::new(FOLDER).join(&store));
        copy(&self.guest.ours(place), &target)
            .map_err(|error| Error::io("keep the original of a file", place, error))?;
        Ok(Original::File { store })
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.state).map_err(|error| {
            Error::new(Kind::Corrupt, "write the journal of the conversion").because(error)
        })?;
        self.guest.write(Path::new(JOURNAL), &text, Some(0o600))
    }

    /// Puts every original back, the last change first, and forgets the conversion. Files that somebody has changed
    /// since are left alone and reported.
    ///
    /// # Errors
    /// The guest's disk refuses; run it again then.
    pub fn undo(self, boot_disk: Option<&Path>, findings: &mut Findings) -> Result<Vec<PathBuf>> {
        let mut restored = Vec::new();
        for entry in self.state.entries.iter().rev() {
            if self.was_changed_since(entry)? {
                findings.warn(
                    format!(
                        "{} was changed after the conversion and is left as it is",
                        entry.path.display()
                    ),
                    "compare it with what it should be",
                );
                continue;
            }
            self.restore(entry)
                .map_err(|error| Error::io("put back the original", &entry.path, error))?;
            restored.push(entry.path.clone());
        }
        if let Some(bytes) = self.guest.read(Path::new(BOOT_AREA))? {
            match boot_disk {
                Some(disk) => BootArea::decode(&bytes)?.write(disk)?,
                None => findings.warn(
                    "the boot sector was not put back: the disk is not known",
                    "name it with --boot-disk",
                ),
            }
        }
        let folder = self.guest.ours(Path::new(FOLDER));
        if folder.is_dir() {
            fs::remove_dir_all(&folder)
                .map_err(|error| Error::io("remove kept originals", &folder, error))?;
        }
        Ok(restored)
    }

    fn was_changed_since(&self, entry: &Entry) -> Result<bool> {
        let Some(after) = &entry.after else {
            return Ok(false);
        };
        let Some(bytes) = self.guest.read(&entry.path)? else {
            return Ok(false);
        };
        if blake3::hash(&bytes).to_hex().as_str() == after {
            return Ok(false);
        }
        let Original::File { store } = &entry.original else {
            return Ok(true);
        };
        // Not written yet when the conversion was interrupted, or already put back.
        Ok(self.guest.read(&Path::new(FOLDER).join(store))? != Some(bytes))
    }

    fn restore(&self, entry: &Entry) -> std::io::Result<()> {
        let ours = self.guest.ours(&entry.path);
        let other = |error: Error| std::io::Error::other(error.to_string());
        match &entry.original {
            Original::Absent => self.guest.remove(&entry.path).map_err(other),
            Original::Link { target } => self.guest.write_link(&entry.path, target).map_err(other),
            Original::File { store } => {
                self.guest.remove(&entry.path).map_err(other)?;
                let temporary = ours.with_file_name(".go2cloud-restoring");
                copy(&self.guest.ours(&Path::new(FOLDER).join(store)), &temporary)?;
                fs::rename(&temporary, &ours)
            }
        }
    }
}

/// Copies a file with owner, mode, times and extended attributes, durably.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let source = File::open(from)?;
    let metadata = source.metadata()?;
    let mut reader = &source;
    let mut target = File::create(to)?;
    std::io::copy(&mut reader, &mut target)?;
    fchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
    target.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(&source, &target)?;
    let times = fs::FileTimes::new()
        .set_accessed(metadata.accessed()?)
        .set_modified(metadata.modified()?);
    target.set_times(times)?;
    target.sync_all()
}
