//! Opening a path so that it cannot leave the directory it starts from.
//!
//! No symbolic link is followed in any component, the last one included, and `..` is not expected: callers pass plain
//! relative paths. Paths longer than PATH_MAX work, because long ones are resolved piece by piece. Mount points below the
//! root are entered: a target tree may consist of several file systems.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Bytes of a path handed to one system call: PATH_MAX (4096) counts the final NUL, and a margin costs nothing.
const PIECE_LEN_MAX: usize = 4000;

/// Attempts at a resolution that the kernel interrupted because the tree was renamed meanwhile.
const RACE_ATTEMPTS_MAX: u32 = 16;

/// Set once the kernel (before 5.6) or its seccomp filter turned out not to offer `openat2`.
static OPENAT2_MISSING: AtomicBool = AtomicBool::new(false);

/// Opens `path` beneath `root`; the empty path is `root` itself. `mode` counts only when `flags` create.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` where a component is a symbolic link, `EXDEV` where it would leave `root`, and what `openat` gives.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    if path.is_empty() {
        return rustix::fs::openat(root, c".", flags | OFlags::CLOEXEC, mode);
    }
    if OPENAT2_MISSING.load(Ordering::Relaxed) {
        return open_by_walk(root, path, flags, mode);
    }
    match open_by_pieces(root, path, flags, mode) {
        Err(Errno::NOSYS) => {
            OPENAT2_MISSING.store(true, Ordering::Relaxed);
            open_by_walk(root, path, flags, mode)
        }
        // A seccomp filter that does not know openat2 answers EPERM; the walk tells a true refusal from that.
        Err(Errno::PERM) => open_by_walk(root, path, flags, mode),
        result => result,
    }
}

/// The same without `openat2`: component by component, as kernels before 5.6 need it.
///
/// # Errors
/// As [`open`].
pub fn open_by_walk(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        let at = directory.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
        let next = rustix::fs::openat(at, plain(&rest[..slash])?, STEP, Mode::empty())?;
        directory = Some(next);
        rest = &rest[slash + 1..];
    }
    let at = directory.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
    rustix::fs::openat(at, plain(rest)?, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
}

/// How a directory on the way is opened.
const STEP: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn plain(name: &[u8]) -> Result<&[u8]> {
    if name.is_empty() || name == b"." || name == b".." {
        Err(Errno::XDEV)
    } else {
        Ok(name)
    }
}

fn open_by_pieces(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > PIECE_LEN_MAX {
        let slash = rest[..PIECE_LEN_MAX]
            .iter()
            .rposition(|byte| *byte == b'/')
            .ok_or(Errno::NAMETOOLONG)?;
        let at = directory.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
        let next = resolve(at, &rest[..slash], STEP, Mode::empty())?;
        directory = Some(next);
        rest = &rest[slash + 1..];
    }
    let at = directory.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
    resolve(at, rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
}

fn resolve(at: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACE_ATTEMPTS_MAX {
        match rustix::fs::openat2(at, path, flags, mode, how) {
            Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests;
