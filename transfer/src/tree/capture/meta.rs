//! Reading an entry's metadata: owner, mode, times, extended attributes, inode flags, project id.
//!
//! An entry without attributes costs one listing. Symbolic links and special files have no inode flags; before Linux
//! 6.17, their project ids cannot be asked for and count as 0.

use std::cell::RefCell;
use std::ffi::CStr;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use sys::file_attributes::Unopened;
use sys::xattr::Subject;
use sys::{file_attributes, inode_flags};

use super::directory::Directory;
use super::stat::{FileKind, Stat};
use crate::limits;
use crate::tree::entry::{Meta, Xattr};

/// XFS shows its own form of an ACL beside the portable one, to root only; the kernel keeps both in step.
const XFS_ACLS: [(&[u8], &[u8]); 2] = [
    (b"trusted.SGI_ACL_FILE", b"system.posix_acl_access"),
    (b"trusted.SGI_ACL_DEFAULT", b"system.posix_acl_default"),
];

/// Largest sum of an entry's attributes, in bytes: what is left of the largest entry beside its path and a link's target.
const XATTRS_LEN_MAX: usize = limits::ENTRY_LEN_MAX - 2 * limits::PATH_LEN_MAX - 4096;

/// The metadata of the entry `name` of `directory`, whose status is `stat`.
///
/// Files and directories are opened for it; where one is open already, [`capture_meta_fd`] saves that.
///
/// # Errors
/// `ENOENT` when it vanished, [`ErrorKind::InvalidInput`] when its kind changed, [`ErrorKind::InvalidData`] when its
/// attributes exceed what an entry can carry.
pub fn capture_meta(directory: &Directory, name: &CStr, stat: &Stat) -> Result<Meta> {
    use std::os::fd::AsFd;
    match stat.kind {
        FileKind::Directory => capture_meta_fd(directory.open_child(name)?.as_fd(), stat),
        FileKind::File => capture_meta_fd(directory.open_file(name)?.0.as_fd(), stat),
        _ => {
            let subject = Subject::Named {
                directory: directory.as_fd(),
                name,
            };
            let entry = Unopened::Named {
                directory: directory.as_fd(),
                name,
            };
            Ok(Meta {
                xattrs: xattrs(subject)?,
                project: file_attributes::project_of(entry)?.unwrap_or(0),
                ..plain(stat)
            })
        }
    }
}

/// The metadata of an open file or directory, whose status is `stat`.
///
/// # Errors
/// [`ErrorKind::InvalidData`] when its attributes exceed what an entry can carry; system errors.
pub fn capture_meta_fd(fd: BorrowedFd<'_>, stat: &Stat) -> Result<Meta> {
    let flags = inode_flags::get(fd)?.unwrap_or(0);
    let project = file_attributes::get(fd)?.map_or(0, |attributes| attributes.project);
    Ok(Meta {
        xattrs: xattrs(Subject::Open(fd))?,
        flags: flags & inode_flags::COPIED,
        project,
        ..plain(stat)
    })
}

fn plain(stat: &Stat) -> Meta {
    Meta {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        atime: stat.atime,
        mtime: stat.mtime,
        ..Meta::default()
    }
}

/// Names of a listing, sorted, without those that stand for another one.
pub(crate) fn names_of(list: &[u8]) -> Vec<&CStr> {
    let mut names: Vec<&CStr> = list
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .collect();
    names.sort_unstable();
    let portable: Vec<&[u8]> = XFS_ACLS
        .iter()
        .filter(|(_, acl)| names.iter().any(|name| name.to_bytes() == *acl))
        .map(|(own, _)| *own)
        .collect();
    names.retain(|name| !portable.contains(&name.to_bytes()));
    names
}

fn xattrs(subject: Subject<'_>) -> Result<Vec<Xattr>> {
    thread_local! {
        static LIST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LIST.with_borrow_mut(|list| {
        sys::xattr::list(subject, list)?;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        values(subject, list)
    })
}

fn values(subject: Subject<'_>, list: &[u8]) -> Result<Vec<Xattr>> {
    let names = names_of(list);
    if names.len() > limits::XATTR_COUNT_MAX {
        return Err(too_many());
    }
    let mut xattrs = Vec::with_capacity(names.len());
    let mut sum = 0;
    for name in names {
        let mut value = Vec::new();
        match sys::xattr::get(subject, name, &mut value) {
            Ok(()) => {}
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        value.shrink_to_fit();
        let name = name.to_bytes().to_vec();
        sum += name.len() + value.len() + 8;
        if sum > XATTRS_LEN_MAX {
            return Err(too_many());
        }
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

fn too_many() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "its extended attributes are larger than one entry can carry",
    )
}
