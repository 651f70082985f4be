//! Writes cpio archives in the format that the kernel unpacks (`newc`): sorted, without times, equal for equal input.

use std::collections::BTreeMap;

/// Archives, headers and contents begin at multiples of this, in bytes.
pub(super) const ALIGNMENT: usize = 4;

struct Entry {
    mode: u32,
    content: Vec<u8>,
    device: (u32, u32),
}

/// An archive in the making.
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }

    /// Adds a regular file, and the folders above it.
    pub(super) fn file(&mut self, path: &str, content: Vec<u8>, permissions: u32) {
        self.insert(
            path,
            Entry {
                mode: 0o100_000 | permissions,
                content,
                device: (0, 0),
            },
        );
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.insert(
            path,
            Entry {
                mode: 0o120_777,
                content: target.into(),
                device: (0, 0),
            },
        );
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(
            path,
            Entry {
                mode: 0o020_600,
                content: Vec::new(),
                device: (major, minor),
            },
        );
    }

    /// Adds folders.
    pub(super) fn folders(&mut self, paths: &[&str]) {
        for path in paths {
            self.insert(
                path,
                Entry {
                    mode: 0o040_755,
                    content: Vec::new(),
                    device: (0, 0),
                },
            );
        }
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        if let Some(folder) = folder.filter(|folder| !self.entries.contains_key(*folder)) {
            self.folders(&[folder]);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive's bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            write(&mut bytes, number + 1, path, entry);
        }
        let trailer = Entry {
            mode: 0,
            content: Vec::new(),
            device: (0, 0),
        };
        write(&mut bytes, 0, "TRAILER!!!", &trailer);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn write(bytes: &mut Vec<u8>, number: usize, path: &str, entry: &Entry) {
    let fields = [
        number,
        entry.mode as usize,
        0,
        0,
        1,
        0,
        entry.content.len(),
        0,
        0,
        entry.device.0 as usize,
        entry.device.1 as usize,
        path.len() + 1,
        0,
    ];
    bytes.extend(b"070701");
    for field in fields {
        bytes.extend(format!("{field:08X}").bytes());
    }
    bytes.extend(path.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(&entry.content);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let folder = std::env::temp_dir().join(format!("go2cloud-archive-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut archive = Archive::new();
        archive.file("a/b/file", b"content".to_vec(), 0o640);
        archive.link("link", "a/b/file");
        std::fs::write(folder.join("x.cpio"), archive.finish()).unwrap();
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg("cpio -idm --quiet < x.cpio")
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(folder.join("link")).unwrap(), b"content");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
