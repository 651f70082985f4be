//! Applying metadata to an open entry, in the order that survives the kernel's side effects.
//!
//! Changing the owner clears set-id bits and capabilities, a default ACL of the directory shapes a new entry's mode, and
//! times that the file system cannot hold are cut off silently: so the order is fixed, an entry's present state is looked
//! at and not assumed, and times are read back.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::{Errno, Result};
use sys::file_attributes::{self, FileAttributes, Unopened};
use sys::file_system::keeps_dates_of_access;
use sys::inode_flags;
use sys::xattr::{ProcPath, Subject};

use super::fresh::{Known, Precision};
use super::refusal::{Refusal, Refused, is_medium, is_medium_for_xattr};
use super::{Tree, TreeWriter, seal};
use crate::error::Error;
use crate::tree::capture::meta::names_of;
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::{EntryPath, Meta, Time, Xattr};

const SET_ID: u32 = 0o6000;
/// What SELinux keeps of an entry.
pub const LABEL: &[u8] = b"security.selinux";
const NSEC_MAX: u32 = 999_999_999;

/// An open entry.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// A file or directory.
    Open(BorrowedFd<'a>),
    /// Any other kind, opened with `O_PATH`.
    Pinned(BorrowedFd<'a>),
}

/// Whether this writer has just made the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Fresh,
    Existing,
}

impl<'a> Handle<'a> {
    fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Open(fd) | Self::Pinned(fd) => fd,
        }
    }

    fn subject(self) -> Subject<'a> {
        match self {
            Self::Open(fd) => Subject::Open(fd),
            Self::Pinned(fd) => Subject::Pinned(fd),
        }
    }
}

impl TreeWriter {
    pub(super) fn apply(
        &self,
        path: &EntryPath,
        handle: Handle<'_>,
        kind: FileKind,
        meta: &Meta,
        origin: Origin,
    ) -> crate::error::Result<Vec<Refusal>> {
        self.tree.apply(path, handle, kind, meta, origin)
    }
}

impl Tree {
    /// Applies all of `meta` and returns what was refused.
    pub(super) fn apply(
        &self,
        path: &EntryPath,
        handle: Handle<'_>,
        kind: FileKind,
        meta: &Meta,
        origin: Origin,
    ) -> crate::error::Result<Vec<Refusal>> {
        let mut application = Application {
            handle,
            kind,
            meta,
            refusals: Vec::new(),
        };
        let ran = application.run(origin);
        self.outcome(path, ran, application.refusals)
    }

    /// Applies `meta`, which is plain, to a new file of which all is known.
    pub(super) fn apply_to_known(
        &self,
        path: &EntryPath,
        file: BorrowedFd<'_>,
        meta: &Meta,
        known: &Known,
    ) -> crate::error::Result<Vec<Refusal>> {
        let mut application = Application {
            handle: Handle::Open(file),
            kind: FileKind::File,
            meta,
            refusals: Vec::new(),
        };
        let present = (known.fresh.uid, known.fresh.gid, known.mode);
        let ran = application
            .owner_and_mode(present)
            .and_then(|()| application.times(Some(&known.held.precision)));
        self.outcome(path, ran, application.refusals)
    }

    fn outcome(
        &self,
        path: &EntryPath,
        ran: Result<()>,
        refusals: Vec<Refusal>,
    ) -> crate::error::Result<Vec<Refusal>> {
        let failed = |errno: Errno| {
            Error::io(
                "apply the metadata of an entry",
                self.full_path(path),
                errno.into(),
            )
        };
        ran.map_err(failed)?;
        Ok(refusals)
    }
}

struct Application<'a> {
    handle: Handle<'a>,
    kind: FileKind,
    meta: &'a Meta,
    refusals: Vec<Refusal>,
}

impl Application<'_> {
    /// Only the medium's errors come out of here and of all the steps.
    fn run(&mut self, origin: Origin) -> Result<()> {
        if let (Handle::Open(fd), Origin::Existing) = (self.handle, origin) {
            seal::clear(fd)?;
        }
        let stat = Stat::of_fd(self.handle.fd())?;
        self.owner_and_mode((stat.uid, stat.gid, stat.mode))?;
        if let Handle::Open(fd) = self.handle {
            self.flags(fd)?;
        }
        self.xattrs()?;
        let attributes = match self.handle {
            Handle::Open(fd) => self.project(fd)?,
            Handle::Pinned(fd) => {
                self.project_of_unopened(Unopened::Pinned(fd))?;
                None
            }
        };
        self.times(None)?;
        match self.handle {
            Handle::Open(fd) => self.seal(fd, attributes),
            Handle::Pinned(_) => Ok(()),
        }
    }

    fn refuse(&mut self, what: Refused, answer: Result<()>) -> Result<()> {
        match answer {
            Ok(()) => Ok(()),
            Err(errno) if is_medium(errno) => Err(errno),
            Err(errno) => {
                self.refusals.push(Refusal::new(what, errno));
                Ok(())
            }
        }
    }

    /// `present`: owner, group and permission bits as they are.
    fn owner_and_mode(&mut self, present: (u32, u32, u32)) -> Result<()> {
        let mut mode = self.meta.mode & 0o7777;
        let (uid, gid, present_mode) = present;
        let mut changed = false;
        if (uid, gid) != (self.meta.uid, self.meta.gid) {
            let before = self.refusals.len();
            let answer = self.change_owner();
            self.refuse(Refused::Owner, answer)?;
            // Takes set-id bits away, and nothing else of the mode.
            changed = present_mode & SET_ID != 0;
            if self.refusals.len() > before {
                mode &= !SET_ID;
            }
        }
        if self.kind == FileKind::Symlink || (!changed && present_mode == mode) {
            return Ok(());
        }
        let bits = Mode::from_raw_mode(mode);
        let answer = match self.handle {
            Handle::Open(fd) => rustix::fs::fchmod(fd, bits),
            Handle::Pinned(fd) => rustix::fs::chmod(ProcPath::of(fd, c"").as_c_str(), bits),
        };
        self.refuse(Refused::Mode, answer)
    }

    fn change_owner(&self) -> Result<()> {
        // The largest number means "leave as it is" to the kernel and cannot own anything.
        if self.meta.uid == u32::MAX || self.meta.gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (
            Some(Uid::from_raw(self.meta.uid)),
            Some(Gid::from_raw(self.meta.gid)),
        );
        match self.handle {
            Handle::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Handle::Pinned(fd) => rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    /// All flags but the sealing ones.
    fn flags(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let wanted = self.meta.flags & inode_flags::COPIED & !inode_flags::SEALING;
        let Some(present) = inode_flags::get(fd)? else {
            return self.refuse_flags(wanted, Errno::OPNOTSUPP);
        };
        let settable = inode_flags::COPIED & !inode_flags::SEALING;
        let goal = present & !settable | wanted;
        if goal == present {
            return Ok(());
        }
        let mut reason = match inode_flags::set(fd, goal) {
            Err(errno) if is_medium(errno) => return Err(errno),
            Err(errno) => {
                self.flags_one_by_one(fd, present, goal)?;
                errno
            }
            Ok(()) => Errno::OPNOTSUPP,
        };
        // Some refuse silently: btrfs keeps its copy-on-write of a file that has data.
        let reached = inode_flags::get(fd)?.unwrap_or(present);
        let missing = (reached ^ goal) & settable;
        if missing & inode_flags::NO_COW != 0 {
            reason = Errno::OPNOTSUPP;
        }
        self.refuse_flags(missing, reason)
    }

    fn flags_one_by_one(&self, fd: BorrowedFd<'_>, present: u32, goal: u32) -> Result<()> {
        let mut reached = present;
        for bit in (0..u32::BITS).map(|shift| 1_u32 << shift) {
            if (reached ^ goal) & bit == 0 {
                continue;
            }
            match inode_flags::set(fd, reached ^ bit) {
                Ok(()) => reached ^= bit,
                Err(errno) if is_medium(errno) => return Err(errno),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn refuse_flags(&mut self, missing: u32, reason: Errno) -> Result<()> {
        if missing != 0 {
            self.refusals.push(Refusal::new(Refused::Flags(missing), reason));
        }
        Ok(())
    }

    fn xattrs(&mut self) -> Result<()> {
        thread_local! {
            static LIST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LIST.with_borrow_mut(|list| {
            if let Err(errno) = sys::xattr::list(self.handle.subject(), list) {
                return self.refuse(Refused::Xattrs, Err(errno));
            }
            if list.is_empty() && self.meta.xattrs.is_empty() {
                return Ok(());
            }
            self.replace_xattrs(&names_of(list))
        })
    }

    fn replace_xattrs(&mut self, present: &[&CStr]) -> Result<()> {
        let meta = self.meta;
        let wanted = |name: &CStr| meta.xattrs.iter().any(|xattr| xattr.name == name.to_bytes());
        for name in present.iter().filter(|name| !wanted(name)) {
            self.remove_xattr(name)?;
        }
        // ACLs first: they touch the mode, and nothing that touches the mode may come after capabilities.
        let is_acl = |xattr: &&Xattr| xattr.name.starts_with(b"system.posix_acl_");
        for xattr in meta.xattrs.iter().filter(is_acl) {
            self.set_xattr(xattr, present)?;
        }
        for xattr in meta.xattrs.iter().filter(|xattr| !is_acl(xattr)) {
            self.set_xattr(xattr, present)?;
        }
        Ok(())
    }

    fn remove_xattr(&mut self, name: &CStr) -> Result<()> {
        let answer = match sys::xattr::remove(self.handle.subject(), name) {
            Err(Errno::NODATA) => Ok(()),
            // A kernel that labels everything by itself keeps its own label where the source has none.
            Err(Errno::ACCESS | Errno::PERM) if name.to_bytes() == LABEL => Ok(()),
            answer => answer,
        };
        self.refuse(Refused::Xattr(name.to_bytes().to_vec()), answer)
    }

    fn set_xattr(&mut self, xattr: &Xattr, present: &[&CStr]) -> Result<()> {
        let subject = self.handle.subject();
        let Ok(name) = CString::new(&xattr.name[..]) else {
            return self.refuse(Refused::Xattr(xattr.name.clone()), Err(Errno::INVAL));
        };
        if present.contains(&&*name) {
            let mut value = Vec::new();
            if sys::xattr::get(subject, &name, &mut value).is_ok() && value == xattr.value {
                return Ok(());
            }
        }
        match sys::xattr::set(subject, &name, &xattr.value) {
            Ok(()) => Ok(()),
            Err(errno) if is_medium_for_xattr(errno, self.handle.fd()) => Err(errno),
            Err(errno) => {
                let what = Refused::Xattr(xattr.name.clone());
                self.refusals.push(Refusal::new(what, errno));
                Ok(())
            }
        }
    }

    fn project(&mut self, fd: BorrowedFd<'_>) -> Result<Option<FileAttributes>> {
        let Some(mut attributes) = file_attributes::get(fd)? else {
            let answer = if self.meta.project == 0 {
                Ok(())
            } else {
                Err(Errno::OPNOTSUPP)
            };
            self.refuse(Refused::Project, answer)?;
            return Ok(None);
        };
        if attributes.project == self.meta.project {
            return Ok(Some(attributes));
        }
        let before = attributes;
        attributes.project = self.meta.project;
        let answer = file_attributes::set(fd, &attributes);
        let refused = answer.is_err();
        self.refuse(Refused::Project, answer)?;
        Ok(Some(if refused { before } else { attributes }))
    }

    fn project_of_unopened(&mut self, entry: Unopened<'_>) -> Result<()> {
        let answer = match file_attributes::project_of(entry)? {
            Some(present) if present != self.meta.project => {
                file_attributes::set_project_of(entry, self.meta.project)
            }
            None if self.meta.project != 0 => Err(Errno::OPNOTSUPP),
            _ => Ok(()),
        };
        self.refuse(Refused::Project, answer)
    }

    /// `precision`: what is known of the file system's times.
    fn times(&mut self, precision: Option<&Precision>) -> Result<()> {
        let timespec = |time: Time| Timespec {
            tv_sec: time.sec,
            tv_nsec: time.nsec.into(),
        };
        if self.meta.atime.nsec > NSEC_MAX || self.meta.mtime.nsec > NSEC_MAX {
            return self.refuse(Refused::Times, Err(Errno::INVAL));
        }
        let times = Timestamps {
            last_access: timespec(self.meta.atime),
            last_modification: timespec(self.meta.mtime),
        };
        let answer = match self.handle {
            Handle::Open(fd) => rustix::fs::futimens(fd, &times),
            Handle::Pinned(fd) => match rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
                // Before Linux 5.8.
                Err(Errno::INVAL | Errno::NOENT) => {
                    rustix::fs::utimensat(CWD, ProcPath::of(fd, c"").as_c_str(), &times, AtFlags::empty())
                }
                answer => answer,
            },
        };
        if answer.is_err() {
            return self.refuse(Refused::Times, answer);
        }
        let wanted = [self.meta.atime, self.meta.mtime];
        if precision.is_some_and(|precision| precision.is_proven_for(wanted)) {
            return Ok(());
        }
        let stat = Stat::of_fd(self.handle.fd())?;
        let kept = stat.mtime == self.meta.mtime
            && (stat.atime == self.meta.atime || keeps_dates_of_access(self.handle.fd())?);
        if let Some(precision) = precision.filter(|_| kept) {
            precision.learn(wanted);
        }
        self.refuse(Refused::Times, if kept { Ok(()) } else { Err(Errno::RANGE) })
    }

    /// Immutable and append-only, through the call that leaves all other flags alone where there is one: on btrfs, setting
    /// all flags would also reset the kind of compression.
    fn seal(&mut self, fd: BorrowedFd<'_>, attributes: Option<FileAttributes>) -> Result<()> {
        let wanted = self.meta.flags & inode_flags::SEALING;
        if wanted == 0 {
            return Ok(());
        }
        let answer = match attributes {
            Some(mut attributes) => {
                attributes.set_seal(wanted);
                file_attributes::set(fd, &attributes)
            }
            None => match inode_flags::get(fd)? {
                Some(flags) => inode_flags::set(fd, flags | wanted),
                None => Err(Errno::OPNOTSUPP),
            },
        };
        self.refuse(Refused::Flags(wanted), answer)
    }
}
