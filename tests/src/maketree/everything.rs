//! A tree with an entry of every kind and all metadata.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags,
    fallocate, futimens, ioctl_getflags, ioctl_setflags, lsetxattr, makedev, mkdirat, mknodat, openat,
    utimensat,
};
use rustix::io::Errno;

use crate::dice::Dice;

/// Makes `count` random entries below `root`, and a fixed set of hard cases: names of odd bytes and of 255 bytes, a path
/// longer than PATH_MAX, devices, sockets, sparse and preallocated files, hard links of links and pipes, default ACLs,
/// capabilities, inode flags, project ids, times before 1970, read-only and set-gid directories. Returns what this file
/// system refused. Must run as root.
///
/// # Errors
/// Whatever the file system refuses that every file system should accept.
pub fn everything(root: &Path, seed: u64, count: u64) -> io::Result<Vec<String>> {
    let mut maker = Maker {
        dice: Dice::new(seed),
        directories: vec![root.to_owned()],
        linkable: Vec::new(),
        all: Vec::new(),
        refused: Vec::new(),
    };
    fs::create_dir_all(root)?;
    for index in 0..count {
        maker.random_entry(index)?;
    }
    maker.hard_cases(&root.join("hard"))?;
    maker.decorate()?;
    Ok(maker.refused)
}

struct Maker {
    dice: Dice,
    directories: Vec<PathBuf>,
    linkable: Vec<PathBuf>,
    all: Vec<PathBuf>,
    refused: Vec<String>,
}

impl Maker {
    fn random_entry(&mut self, index: u64) -> io::Result<()> {
        let name = self.name(index);
        let path = self.dice.pick(&self.directories).join(OsStr::from_bytes(&name));
        match self.dice.below(20) {
            0..=3 => {
                fs::create_dir(&path)?;
                if path.as_os_str().len() < 3000 {
                    self.directories.push(path.clone());
                }
            }
            4..=5 => symlink(OsStr::from_bytes(&self.name(index / 2)), &path)?,
            6 => make_node(&path, FileType::Fifo, 0)?,
            7 => make_node(&path, FileType::Socket, 0)?,
            8 => make_node(
                &path,
                FileType::CharacterDevice,
                makedev(1, self.dice.below(12) as u32),
            )?,
            9..=10 if !self.linkable.is_empty() => {
                fs::hard_link(self.dice.pick(&self.linkable), &path)?;
                return Ok(());
            }
            11 => self.sparse_file(&path)?,
            _ => self.file(&path)?,
        }
        if !path.is_dir() || path.is_symlink() {
            self.linkable.push(path.clone());
        }
        self.all.push(path);
        Ok(())
    }

    /// Unique by its number; otherwise any bytes.
    fn name(&mut self, index: u64) -> Vec<u8> {
        let mut name = format!("{index}").into_bytes();
        for _ in 0..self.dice.below(12) {
            let byte = match self.dice.below(4) {
                0 => self.dice.below(256) as u8,
                _ => b'a' + self.dice.below(26) as u8,
            };
            if byte != 0 && byte != b'/' {
                name.push(byte);
            }
        }
        name
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let len = match self.dice.below(40) {
            0 => 0,
            1 => 4096,
            2 => 3 << 20 | self.dice.below(5000),
            3 => (1 << 20) - 1 + self.dice.below(3),
            4..=20 => self.dice.below(3000),
            _ => self.dice.below(60_000),
        };
        let mut content = self.dice.text(len as usize);
        if self.dice.one_in(3) {
            self.dice.fill(&mut content);
        }
        fs::write(path, content)
    }

    fn sparse_file(&mut self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        for _ in 0..self.dice.below(5) {
            let mut piece = vec![0; 1 + self.dice.below(9000) as usize];
            self.dice.fill(&mut piece);
            file.write_all_at(&piece, self.dice.below(4 << 20))?;
        }
        file.set_len(file.metadata()?.len() + self.dice.below(300_000))
    }

    fn hard_cases(&mut self, root: &Path) -> io::Result<()> {
        fs::create_dir(root)?;
        let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
        for (name, content) in [
            (&[b'n'; 255][..], &b"long name"[..]),
            (b"\xff\xfe\n\t\\ \x01", b"odd name"),
            (b"-rf", b"dash"),
            (b"  ", b"blank"),
            (b"empty", b""),
        ] {
            fs::write(at(name), content)?;
        }
        fs::create_dir(at(b"empty-directory"))?;
        make_node(&at(b"block-device"), FileType::BlockDevice, makedev(7, 255))?;
        make_node(&at(b"pipe"), FileType::Fifo, 0)?;
        fs::hard_link(at(b"pipe"), at(b"pipe-again"))?;
        symlink("nowhere", at(b"link"))?;
        fs::hard_link(at(b"link"), at(b"link-again"))?;
        symlink(OsStr::from_bytes(&[b'x'; 1000]), at(b"long-link"))?;
        File::create(at(b"hole-only"))?.set_len(3 << 20)?;
        self.preallocated(&at(b"preallocated"))?;
        for (name, seconds) in [(&b"before-1970"[..], -86_401), (b"year-2300", 10_413_792_000)] {
            fs::write(at(name), name)?;
            set_times(&at(name), seconds, 123_456_789)?;
        }
        deep_path(root)?;
        for (name, mode) in [
            (&b"read-only-directory"[..], 0o555),
            (b"setgid-directory", 0o2775),
            (b"sticky", 0o1777),
        ] {
            fs::create_dir(at(name))?;
            fs::write(at(name).join("inside"), name)?;
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode))?;
        }
        self.attributes(root)
    }

    fn preallocated(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(b"written")?;
        match fallocate(&file, FallocateFlags::empty(), 0, 1 << 20) {
            Err(Errno::OPNOTSUPP) => self.refused.push("fallocate".into()),
            result => result?,
        }
        Ok(())
    }

    /// Extended attributes, ACLs, capabilities, flags and project ids on files of their own.
    fn attributes(&mut self, root: &Path) -> io::Result<()> {
        // Version 2, then tag, permissions and id of each: user 1234 rwx; all else as the mode has it.
        let acl: Vec<u8> = [
            (0x01, 6, u32::MAX),
            (0x02, 7, 1234),
            (0x04, 4, u32::MAX),
            (0x10, 7, u32::MAX),
            (0x20, 0, u32::MAX),
        ]
        .iter()
        .fold(2u32.to_le_bytes().to_vec(), |mut acl, (tag, permissions, id)| {
            acl.extend_from_slice(&u16::to_le_bytes(*tag));
            acl.extend_from_slice(&u16::to_le_bytes(*permissions));
            acl.extend_from_slice(&u32::to_le_bytes(*id));
            acl
        });
        // VFS_CAP_REVISION_2 with the effective bit, then CAP_NET_BIND_SERVICE (bit 10) permitted.
        let capability: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let file = root.join("attributes");
        fs::write(&file, b"attributes")?;
        let directory = root.join("attributes-of-directory");
        fs::create_dir(&directory)?;
        let link = root.join("attributes-of-link");
        symlink("attributes", &link)?;
        for (path, name, value) in [
            (&file, "user.empty", &b""[..]),
            (&file, "user.text", b"some\0bytes\xff"),
            (&file, "trusted.secret", b"root only"),
            (&file, "security.capability", &capability),
            (&file, "system.posix_acl_access", &acl),
            (&directory, "system.posix_acl_default", &acl),
            (&directory, "user.large", &[b'v'; 2000]),
            (&link, "trusted.on-link", b"a link has its own"),
            (&link, "security.selinux", b"system_u:object_r:etc_t:s0\0"),
        ] {
            self.tolerate(name, lsetxattr(path, name, value, XattrFlags::empty()))?;
        }
        for (name, flags) in [
            ("immutable", IFlags::IMMUTABLE),
            ("append-only", IFlags::APPEND),
            ("nodump-noatime", IFlags::NODUMP | IFlags::NOATIME),
            ("nocow", IFlags::NOCOW),
        ] {
            let path = root.join(name);
            let file = File::create(&path)?;
            if !flags.contains(IFlags::NOCOW) {
                (&file).write_all(name.as_bytes())?;
            }
            set_times(&path, 1_000_000_000, 1)?;
            let set = ioctl_getflags(&file).and_then(|old| ioctl_setflags(&file, old | flags));
            self.tolerate(name, set)?;
        }
        let project = root.join("project");
        fs::write(&project, b"project 77")?;
        let chattr = Command::new("chattr").args(["-p", "77"]).arg(&project).output()?;
        if !chattr.status.success() {
            self.refused.push("project id".into());
        }
        Ok(())
    }

    /// Notes what this file system cannot keep.
    fn tolerate(&mut self, what: &str, result: rustix::io::Result<()>) -> io::Result<()> {
        match result {
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => self.refused.push(what.into()),
            result => result?,
        }
        Ok(())
    }

    /// Random owner, mode, attributes and times for the random entries; children before their directories.
    fn decorate(&mut self) -> io::Result<()> {
        for path in std::mem::take(&mut self.all).iter().rev() {
            let metadata = fs::symlink_metadata(path)?;
            if self.dice.one_in(2) {
                lchown(
                    path,
                    Some(self.dice.below(70_000) as u32),
                    Some(self.dice.below(70_000) as u32),
                )?;
            }
            if !metadata.is_symlink() && self.dice.one_in(2) {
                fs::set_permissions(path, fs::Permissions::from_mode(self.dice.below(0o10000) as u32))?;
            }
            if (metadata.is_file() || metadata.is_dir()) && self.dice.one_in(4) {
                let mut value = vec![0; self.dice.below(200) as usize];
                self.dice.fill(&mut value);
                lsetxattr(path, "user.random", &value, XattrFlags::empty())?;
            }
            let seconds = self.dice.below(2_000_000_000) as i64 - 100_000_000;
            set_times(path, seconds, self.dice.below(1_000_000_000) as i64)?;
        }
        Ok(())
    }
}

fn make_node(path: &Path, file_type: FileType, device: u64) -> io::Result<()> {
    Ok(mknodat(CWD, path, file_type, Mode::from_raw_mode(0o644), device)?)
}

/// Sets both times of an entry itself, not of what it points to; the access time one second later.
///
/// # Errors
/// Whatever the file system refuses.
pub fn set_times(path: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    Ok(utimensat(
        CWD,
        path,
        &both_times(seconds, nanoseconds),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn both_times(seconds: i64, nanoseconds: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: seconds + 1,
            tv_nsec: nanoseconds,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
    }
}

/// Thirty directories of 200-byte names: 6000 bytes, more than one system call takes.
fn deep_path(root: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut way: Vec<OwnedFd> = vec![openat(CWD, root, flags, Mode::empty())?];
    for level in 0..30u8 {
        let name = [b'a' + level % 26; 200];
        let here = &way[way.len() - 1];
        mkdirat(here, &name[..], Mode::from_raw_mode(0o755))?;
        way.push(openat(here, &name[..], flags, Mode::empty())?);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let bottom = openat(&way[way.len() - 1], "bottom", flags, Mode::from_raw_mode(0o600))?;
    let mut bottom = File::from(bottom);
    bottom.write_all(b"below PATH_MAX")?;
    futimens(&bottom, &both_times(1_000_000_000, 987_654_321))?;
    for directory in way[1..].iter().rev() {
        futimens(directory, &both_times(1_000_000_000, 123_456_789))?;
    }
    Ok(())
}

/// Opens for writing without cutting it off.
pub(super) fn open_for_change(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
