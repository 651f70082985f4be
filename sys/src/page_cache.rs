//! Which pages of a file are in the page cache, and dropping those that were not there before.
//!
//! A copy of a server reads everything once; what it brings into the page cache takes the place of what the server needs.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `cachestat(2)`, since Linux 6.5; the number is the same on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;
/// Bytes looked at in one mapping.
const WINDOW: u64 = 1 << 30;
/// Longest file of which single pages are told apart: 2 MiB of bits.
const LEN_MAX: u64 = 64 << 30;

/// Pages of a file that were in the page cache at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residency {
    /// None.
    Nothing,
    /// All, or it cannot be told.
    Everything,
    /// Those whose bit is set: page n in bit n % 64 of word n / 64.
    Pages(Vec<u64>),
}

#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

impl Residency {
    /// Looks at the first `len` bytes of a regular file.
    pub fn of(file: BorrowedFd<'_>, len: u64) -> Self {
        let pages = len.div_ceil(page_len());
        if pages == 0 {
            return Self::Everything;
        }
        match cached_pages(file, len) {
            Ok(0) => Self::Nothing,
            Ok(cached) if cached >= pages => Self::Everything,
            Ok(_) | Err(Errno::NOSYS) if len <= LEN_MAX => bits(file, len).unwrap_or(Self::Everything),
            Ok(_) | Err(_) => Self::Everything,
        }
    }

    /// Drops the clean pages of `range`, in bytes, that were not there. Pages that only partly lie in it stay.
    pub fn drop_others(&self, file: BorrowedFd<'_>, range: Range<u64>) {
        match self {
            Self::Everything => {}
            Self::Nothing => drop_pages(file, range),
            Self::Pages(bits) => {
                let page = page_len();
                let was_there = |at: u64| {
                    let word = bits.get((at / 64) as usize).copied().unwrap_or(0);
                    word >> (at % 64) & 1 == 1
                };
                let (mut at, end) = (range.start.div_ceil(page), range.end.div_ceil(page));
                while at < end {
                    let stretch = (at..end).take_while(|page| !was_there(*page)).count() as u64;
                    if stretch > 0 {
                        drop_pages(file, at * page..(at + stretch) * page);
                    }
                    at += stretch + 1;
                }
            }
        }
    }
}

fn page_len() -> u64 {
    rustix::param::page_size() as u64
}

/// A hint; whatever it cannot do is left.
fn drop_pages(file: BorrowedFd<'_>, range: Range<u64>) {
    // A length of 0 would mean everything behind it.
    if let Some(len) = std::num::NonZeroU64::new(range.end.saturating_sub(range.start)) {
        let _ = fadvise(file, range.start, Some(len), Advice::DontNeed);
    }
}

fn cached_pages(file: BorrowedFd<'_>, len: u64) -> Result<u64> {
    let range = [0u64, len];
    let mut found = CacheStat::default();
    // SAFETY: the kernel reads two 64-bit words, offset and length, and writes one `struct cachestat` of five.
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), &raw mut found, 0) };
    match answer {
        0 => Ok(found.cached),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

fn bits(file: BorrowedFd<'_>, len: u64) -> Result<Residency> {
    let pages = len.div_ceil(page_len());
    let mut bits = vec![0u64; pages.div_ceil(64) as usize];
    let mut any = false;
    let mut offset = 0;
    while offset < len {
        let window = WINDOW.min(len - offset);
        let first = offset / page_len();
        for (at, state) in (first..).zip(resident(file, offset, window)?) {
            if state & 1 == 1 {
                any = true;
                bits[(at / 64) as usize] |= 1 << (at % 64);
            }
        }
        offset += window;
    }
    Ok(if any {
        Residency::Pages(bits)
    } else {
        Residency::Nothing
    })
}

/// One byte for each page of the window, the lowest bit set when it is in memory.
fn resident(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut states = vec![0u8; len.div_ceil(page_len()) as usize];
    let len = len as usize;
    // SAFETY: a new mapping at an address of the kernel's choice overlays nothing; it is never read through.
    let mapped = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            offset,
        )
    }?;
    // SAFETY: the kernel writes one byte for each page of the mapping, as many as `states` has.
    let answer = unsafe { libc::mincore(mapped, len, states.as_mut_ptr()) };
    // SAFETY: this is the mapping made above, and nothing refers to it any more.
    unsafe { munmap(mapped, len) }?;
    if answer == 0 { Ok(states) } else { Err(Errno::IO) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pages_that_were_there_stay_and_the_others_go() {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let page = page_len() as usize;
        file.write_all(&vec![1; 64 * page]).unwrap();
        file.sync_all().unwrap();
        let len = 64 * page as u64;
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        if Residency::of(file.as_fd(), len) != Residency::Nothing {
            // A file system in memory keeps everything: nothing to prove here.
            assert_eq!(Residency::of(file.as_fd(), len), Residency::Everything);
            return;
        }
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let mut one = vec![0; page];
        for at in [3, 4, 40] {
            file.read_exact_at(&mut one, (at * page) as u64).unwrap();
        }
        let before = Residency::of(file.as_fd(), len);
        assert_eq!(before, Residency::Pages(vec![1 << 3 | 1 << 4 | 1 << 40]));
        let mut all = vec![0; 64 * page];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(Residency::of(file.as_fd(), len), Residency::Everything);
        before.drop_others(file.as_fd(), 0..len);
        assert_eq!(Residency::of(file.as_fd(), len), before);
        // What the older way tells is the same.
        assert_eq!(bits(file.as_fd(), len).unwrap(), before);
    }
}
