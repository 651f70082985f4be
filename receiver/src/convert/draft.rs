//! The planned state of the guest: what is on its disk, with the changes that are planned but not yet written on top.
//!
//! Steps only ever see a draft. That makes `--plan` complete (a later step sees what an earlier one would write) and
//! every step a function that can be tested without being root.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use transfer::Result;

use super::guest::Guest;

/// What a name stands for after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file; `mode` counts when it is new.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Permission bits of a new file.
        mode: Option<u32>,
    },
    /// A symbolic link.
    Link(PathBuf),
    /// Nothing.
    Absent,
}

/// One planned change of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Place inside the guest, links followed.
    pub path: PathBuf,
    /// What is there now.
    pub before: Content,
    /// What will be there.
    pub after: Content,
    /// Why.
    pub why: String,
}

/// What has to be made again because files that go into it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Derived {
    /// The initial RAM file systems: they embed parts of `/etc`.
    Initramfs,
    /// The generated configuration of the boot loader.
    BootMenu,
}

/// A guest with planned changes on top.
pub struct Draft<'guest> {
    guest: &'guest Guest,
    overlay: BTreeMap<PathBuf, Content>,
    changes: Vec<Change>,
    stale: BTreeSet<Derived>,
}

impl<'guest> Draft<'guest> {
    /// A draft without changes. `stale` is what an earlier, interrupted conversion left to be made again.
    pub fn new(guest: &'guest Guest, stale: BTreeSet<Derived>) -> Self {
        Self {
            guest,
            overlay: BTreeMap::new(),
            changes: Vec::new(),
            stale,
        }
    }

    /// The guest below.
    pub fn guest(&self) -> &'guest Guest {
        self.guest
    }

    /// Takes the changes planned since the last call; what was read so far goes on to show them.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// What has to be made again.
    pub fn stale(&self) -> &BTreeSet<Derived> {
        &self.stale
    }

    /// Says that `derived` has to be made again, for a reason that its files do not show.
    pub fn outdate(&mut self, derived: Derived) {
        self.stale.insert(derived);
    }

    /// Says that `derived` has been made, or will have been by a planned command.
    pub fn made(&mut self, derived: Derived) {
        self.stale.remove(&derived);
    }

    /// Content of a file; `None` when there is none.
    ///
    /// # Errors
    /// The guest's file cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        match self.overlay.get(&self.locate(path)) {
            Some(Content::File { bytes, .. }) => Ok(Some(bytes.clone())),
            Some(Content::Link(target)) => self.read(target),
            Some(Content::Absent) => Ok(None),
            None => self.guest.read(path),
        }
    }

    /// Text of a file; `None` when there is none. Bytes that are no UTF-8 survive [`Draft::edit`] unchanged.
    ///
    /// # Errors
    /// The guest's file cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| decode(&bytes).0.into_owned()))
    }

    /// Whether something has this name.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match self.overlay.get(&self.place(path)) {
            Some(content) => *content != Content::Absent,
            None => self.guest.exists(path),
        }
    }

    /// Target of a symbolic link.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        match self.overlay.get(&self.place(path)) {
            Some(Content::Link(target)) => Some(target.clone()),
            Some(_) => None,
            None => self.guest.link(path),
        }
    }

    /// Names in a directory that are valid UTF-8, sorted; others are never configuration.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let path = path.as_ref();
        let mut names: BTreeSet<String> = self
            .guest
            .list(path)
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        let folder = self.locate(path);
        for (place, content) in &self.overlay {
            if place.parent() != Some(&folder) {
                continue;
            }
            let Some(name) = place.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if *content == Content::Absent {
                names.remove(name);
            } else {
                names.insert(name.to_owned());
            }
        }
        names.into_iter().collect()
    }

    /// Files of a directory whose name ends in `suffix`, as paths.
    pub fn files(&self, folder: &str, suffix: &str) -> Vec<String> {
        let named = self
            .list(folder)
            .into_iter()
            .filter(|name| name.ends_with(suffix));
        named.map(|name| format!("{folder}/{name}")).collect()
    }

    /// Plans that `path` is a file with `bytes`; nothing when it already is.
    ///
    /// # Errors
    /// The present content cannot be read.
    pub fn write(
        &mut self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        mode: Option<u32>,
        why: &str,
    ) -> Result<()> {
        let place = self.locate(path.as_ref());
        let before = self.content(&place)?;
        if matches!(&before, Content::File { bytes: present, .. } if present == bytes) {
            return Ok(());
        }
        self.plan(
            place,
            before,
            Content::File {
                bytes: bytes.to_vec(),
                mode,
            },
            why,
        );
        Ok(())
    }

    /// Plans a change of a text file that exists; nothing when `change` gives the same text.
    ///
    /// # Errors
    /// The present content cannot be read.
    pub fn edit(
        &mut self,
        path: impl AsRef<Path>,
        why: &str,
        change: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        let Some(bytes) = self.read(&path)? else {
            return Ok(());
        };
        let (text, is_utf8) = decode(&bytes);
        let changed = encode(&change(&text), is_utf8);
        self.write(path, &changed, None, why)
    }

    /// Plans that `path` is a symbolic link to `target`.
    ///
    /// # Errors
    /// The present content cannot be read.
    pub fn write_link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>, why: &str) -> Result<()> {
        let place = self.place(path.as_ref());
        let before = self.content(&place)?;
        let after = Content::Link(target.as_ref().to_owned());
        if before != after {
            self.plan(place, before, after, why);
        }
        Ok(())
    }

    /// Plans that nothing has this name.
    ///
    /// # Errors
    /// The present content cannot be read.
    pub fn remove(&mut self, path: impl AsRef<Path>, why: &str) -> Result<()> {
        let place = self.place(path.as_ref());
        let before = self.content(&place)?;
        if before != Content::Absent {
            self.plan(place, before, Content::Absent, why);
        }
        Ok(())
    }

    fn plan(&mut self, path: PathBuf, before: Content, after: Content, why: &str) {
        self.stale.extend(derived_from(&path));
        self.overlay.insert(path.clone(), after.clone());
        self.changes.push(Change {
            path,
            before,
            after,
            why: why.to_owned(),
        });
    }

    fn content(&self, place: &Path) -> Result<Content> {
        if let Some(content) = self.overlay.get(place) {
            return Ok(content.clone());
        }
        if let Some(target) = self.guest.link(place) {
            return Ok(Content::Link(target));
        }
        Ok(self
            .guest
            .read(place)?
            .map_or(Content::Absent, |bytes| Content::File { bytes, mode: None }))
    }

    fn locate(&self, path: &Path) -> PathBuf {
        self.guest.locate(path).unwrap_or_else(|_| path.to_owned())
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.guest.place(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// What is generated from the file at `path`.
fn derived_from(path: &Path) -> Option<Derived> {
    const INITRAMFS: &[&str] = &[
        "/etc/fstab",
        "/etc/crypttab",
        "/etc/lvm",
        "/etc/mdadm",
        "/etc/mdadm.conf",
        "/etc/multipath",
        "/etc/initramfs-tools",
        "/etc/dracut.conf",
        "/etc/dracut.conf.d",
        "/etc/mkinitcpio.conf",
        "/etc/udev/rules.d",
        "/etc/modprobe.d",
        "/etc/sysconfig/kernel",
    ];
    let below = |roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
    if below(&["/etc/default/grub", "/etc/default/grub.d", "/etc/kernel/cmdline"]) {
        return Some(Derived::BootMenu);
    }
    below(INITRAMFS).then_some(Derived::Initramfs)
}

/// Text of `bytes` and whether they were UTF-8; otherwise every byte stands for the character of the same number.
pub(crate) fn decode(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), true),
        Err(_) => (
            Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
            false,
        ),
    }
}

fn encode(text: &str, is_utf8: bool) -> Vec<u8> {
    if is_utf8 {
        return text.as_bytes().to_vec();
    }
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_reads_see_planned_changes_and_the_disk_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/fstab"), "old\n").unwrap();
        let guest = Guest::open(folder.path()).unwrap();
        let mut draft = Draft::new(&guest, BTreeSet::new());
        draft
            .edit("/etc/fstab", "test", |text| text.replace("old", "new"))
            .unwrap();
        draft.write("/etc/new", b"x", None, "test").unwrap();
        draft.remove("/etc/absent", "test").unwrap();
        assert_eq!(draft.text("/etc/fstab").unwrap().unwrap(), "new\n");
        assert_eq!(draft.list("/etc"), ["fstab", "new"]);
        assert!(draft.stale().contains(&Derived::Initramfs));
        assert_eq!(draft.take_changes().len(), 2);
        assert_eq!(
            std::fs::read_to_string(folder.path().join("etc/fstab")).unwrap(),
            "old\n"
        );
        draft.write("/etc/new", b"x", None, "again").unwrap();
        assert!(draft.take_changes().is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_survive_an_edit() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/fstab"), b"# caf\xe9\nold\n").unwrap();
        let guest = Guest::open(folder.path()).unwrap();
        let mut draft = Draft::new(&guest, BTreeSet::new());
        draft
            .edit("/etc/fstab", "test", |text| text.replace("old", "new"))
            .unwrap();
        assert_eq!(draft.read("/etc/fstab").unwrap().unwrap(), b"# caf\xe9\nnew\n");
    }
}
