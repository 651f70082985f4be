//! What a tree consists of: paths, entries and their metadata, as they travel and as the replica keeps them.
//!
//! Names are bytes. An [`EntryPath`] is relative to the volume's root, its components are joined by `/`, and it never
//! holds an empty component, `.`, `..` or NUL: whoever deserialises one from the wire must go through
//! [`EntryPath::parse`], which `serde` does here.

use std::cmp::Ordering;
use std::ffi::CString;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A path below the volume's root; empty for the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "serde_bytes::ByteBuf", into = "serde_bytes::ByteBuf")]
pub struct EntryPath(Vec<u8>);

/// A path that breaks the rules of [`EntryPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is not a plain relative path within the length limits")]
pub struct BadPath;

impl EntryPath {
    /// The root of the volume.
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks untrusted bytes.
    ///
    /// # Errors
    /// An absolute path, an empty, `.` or `..` component, a NUL byte, or more than [`limits::PATH_LEN_MAX`] bytes.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > limits::PATH_LEN_MAX {
            return Err(BadPath);
        }
        let plain = |name: &[u8]| {
            !name.is_empty()
                && name.len() <= limits::NAME_LEN_MAX
                && name != b"."
                && name != b".."
                && !name.contains(&0)
        };
        if bytes.split(|byte| *byte == b'/').all(plain) {
            Ok(Self(bytes))
        } else {
            Err(BadPath)
        }
    }

    /// The path of the child `name` of this directory.
    ///
    /// # Errors
    /// `name` is not one plain component.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        if name.is_empty() || name.contains(&b'/') {
            return Err(BadPath);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::parse(bytes)
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the volume's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Directory and last component; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// The directory that holds this entry, and its name there as system calls take it; `None` for the root.
    pub fn place(&self) -> Option<(Self, CString)> {
        let (parent, name) = self.split()?;
        let name = CString::new(name).expect("names hold no NUL");
        Some((Self(parent.to_vec()), name))
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| Self(parent.to_vec()))
    }

    /// Whether this entry lies below `directory` (an entry does not lie below itself).
    pub fn is_below(&self, directory: &Self) -> bool {
        directory.is_root() && !self.is_root()
            || self.0.len() > directory.0.len()
                && self.0.starts_with(&directory.0)
                && self.0[directory.0.len()] == b'/'
    }

    /// For messages; lossy.
    pub fn display(&self) -> String {
        if self.0.is_empty() {
            ".".into()
        } else {
            String::from_utf8_lossy(&self.0).into_owned()
        }
    }

    /// The order of the replica: by parent directory, component by component, then by name. All children of one
    /// directory are neighbours, and so are all directories of one subtree.
    pub fn replica_cmp(&self, other: &Self) -> Ordering {
        match (self.split(), other.split()) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some((a_parent, a_name)), Some((b_parent, b_name))) => {
                directory_cmp(a_parent, b_parent).then_with(|| a_name.cmp(b_name))
            }
        }
    }
}

/// Orders directories component by component (`a/b` < `a/b/c` < `a/b-x`), so that a subtree is contiguous.
pub fn directory_cmp(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

impl std::fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.display())
    }
}

impl TryFrom<serde_bytes::ByteBuf> for EntryPath {
    type Error = BadPath;

    fn try_from(bytes: serde_bytes::ByteBuf) -> Result<Self, BadPath> {
        Self::parse(bytes.into_vec())
    }
}

impl From<EntryPath> for serde_bytes::ByteBuf {
    fn from(path: EntryPath) -> Self {
        Self::from(path.0)
    }
}

/// BLAKE3 digest, 32 bytes. All zero means "not known".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }

    /// Whether this is the mark of an unknown content.
    pub fn is_unknown(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A point in time as the file system keeps it. Negative seconds are before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// The source's identity and version of an entry. Compared for equality to tell whether the entry changed since it was
/// sent; opaque to the target, which keeps it in the journal so that a source which lost its state gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Stamp {
    /// Number of the file system inside the volume: 0 for the root's, else a digest of the mount point's path. Stable
    /// across reboots, unlike `st_dev`.
    pub file_system: u64,
    /// Inode number.
    pub ino: u64,
    /// Birth time in ns since 1970 where the file system tells it, else 0: tells a reused inode number from the old one.
    pub birth_ns: i64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Whether the content was proven unchanged while it was read and old enough (docs/ARCHITECTURE.md, invariant 4).
    /// A stamp with `clean == false` never equals the present: the entry is read again in the next round.
    pub clean: bool,
}

/// Everything a Linux file system keeps of an entry besides its name and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Meta {
    /// Permission bits with set-id and sticky bits: `st_mode & 0o7777`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes of every namespace, sorted by name; POSIX ACLs, capabilities and labels are among them.
    pub xattrs: Vec<Xattr>,
    /// Inode flags as FS_IOC_GETFLAGS tells them, reduced to those that can be set (sys::inode_flags::COPIED).
    pub flags: u32,
    /// Project id (FS_IOC_FSGETXATTR), 0 when none.
    pub project: u32,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name with its namespace, for instance `security.capability`.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is.
    pub path: EntryPath,
    /// Which version of it this is, at the source.
    pub stamp: Stamp,
    /// Its metadata.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

/// The kind of an entry with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link.
    Symlink {
        /// Its target, verbatim.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
}

/// Content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of the content for a whole file; for a chunked one BLAKE3 of its chunk digests, one after the other.
    pub digest: Digest,
    /// log2 of the chunk length for a file that travels in chunks, 0 for one that travels whole.
    pub chunk_log2: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        for bad in [
            &b"/etc"[..],
            b"a//b",
            b"a/",
            b".",
            b"..",
            b"a/../b",
            b"./a",
            b"a\0b",
        ] {
            assert_eq!(EntryPath::parse(bad), Err(BadPath), "{bad:?}");
        }
        assert!(EntryPath::parse(vec![b'x'; 256]).is_err());
        assert!(EntryPath::parse(vec![b'x'; 255]).is_ok());
        assert!(postcard::from_bytes::<EntryPath>(b"\x02..").is_err());
    }

    #[test]
    fn subtrees_are_contiguous_in_replica_order() {
        let mut paths: Vec<_> = ["", "a", "a/b", "a/b/c", "a/b-x", "a/b/c/d", "a/b-x/y", "b"]
            .map(|path| EntryPath::parse(path).unwrap())
            .to_vec();
        paths.sort_by(EntryPath::replica_cmp);
        let names: Vec<_> = paths.iter().map(EntryPath::display).collect();
        assert_eq!(
            names,
            [".", "a", "b", "a/b", "a/b-x", "a/b/c", "a/b/c/d", "a/b-x/y"]
        );
    }
}
