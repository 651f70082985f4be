//! How much there is to copy, roughly: for forecasts, progress and remaining time only.
//!
//! Nothing depends on it: a tree that changes under it gives another number, and that is all. For the same reason the count of a round begins only when that takes longer, and gives way to
//! everything else. Whoever wants to know beforehand counts by the same function, [`amount`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::progress::StopFlag;
use crate::tree::capture::{Directory, FileKind, Stat};
use crate::tree::entry::EntryPath;
use crate::tree::mounts::TreeMounts;

/// A round that is done by then needs no estimate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries looked at between two looks at whether anybody still wants to know.
const LOOK: usize = 256;

/// What lies below a directory, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Names.
    pub entries: u64,
    /// Lengths of all regular files, by each of their names.
    pub bytes: u64,
    /// Bytes that are allocated, of every file once: holes do not count, and each name has its share.
    pub allocated: f64,
}

impl Amount {
    fn add(&mut self, stat: &Stat) {
        self.entries += 1;
        if stat.kind == FileKind::File {
            self.bytes += stat.size;
        }
        let names = match stat.kind {
            FileKind::Directory => 1,
            _ => stat.nlink.max(1),
        };
        // Blocks of 512 bytes, whatever the file system's are.
        self.allocated += (stat.blocks * 512) as f64 / names as f64;
    }
}

/// Counts what lies below `root` and on the file systems inside that are copied with it. `None` when `go_on`, which is asked from
/// time to time, says no. What cannot be looked at does not count.
pub fn amount(root: &Path, mounts: &TreeMounts, mut go_on: impl FnMut() -> bool) -> Option<Amount> {
    let mut amount = Amount::default();
    let Ok(root) = Directory::open_root(root) else {
        return Some(amount);
    };
    let mut waiting = vec![EntryPath::root()];
    while let Some(path) = waiting.pop() {
        if !go_on() {
            return None;
        }
        let Ok((directory, own)) = root.enter(&path) else {
            continue;
        };
        amount.add(&own);
        let Ok(names) = directory.names() else {
            continue;
        };
        for (number, name) in names.iter().enumerate() {
            if number % LOOK == LOOK - 1 && !go_on() {
                return None;
            }
            let Ok(path) = path.join(name.bytes()) else {
                continue;
            };
            if mounts.elsewhere().contains(&path) {
                continue;
            }
            let Ok(stat) = directory.stat_entry(name.c_str) else {
                continue;
            };
            let is_mounted = stat.is_mount_root.unwrap_or(stat.dev != own.dev);
            if stat.kind != FileKind::Directory {
                amount.add(&stat);
            } else if !is_mounted || mounts.inside().contains(&path) {
                waiting.push(path);
            }
        }
    }
    Some(amount)
}

/// A count in the background; ends when it is dropped.
#[derive(Debug, Default)]
pub struct Estimate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: AtomicU64,
    bytes: AtomicU64,
    complete: AtomicBool,
    unwanted: StopFlag,
}

impl Estimate {
    /// Begins to count what lies below `root` and on the file systems inside that are copied with it. What the exclude rules leave
    /// out is counted, too.
    pub fn start(root: PathBuf, mounts: &TreeMounts) -> Self {
        Self::start_after(PATIENCE, root, mounts)
    }

    fn start_after(patience: Duration, root: PathBuf, mounts: &TreeMounts) -> Self {
        let estimate = Self::default();
        let (shared, mounts) = (Arc::clone(&estimate.0), mounts.clone());
        // Without the thread there is no estimate, which is allowed.
        drop(
            std::thread::Builder::new()
                .name("estimate".to_owned())
                .spawn(move || count(&shared, patience, &root, &mounts)),
        );
        estimate
    }

    /// Entries and bytes, once both are known; zeros before.
    pub fn totals(&self) -> (u64, u64) {
        if !self.0.complete.load(Ordering::Acquire) {
            return (0, 0);
        }
        (
            self.0.entries.load(Ordering::Relaxed),
            self.0.bytes.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Estimate {
    fn drop(&mut self) {
        self.0.unwanted.stop();
    }
}

fn count(shared: &Shared, patience: Duration, root: &Path, mounts: &TreeMounts) {
    if shared.unwanted.sleep(patience) {
        return;
    }
    // Without the lower priority it would still be right.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    sys::io_priority::lower();
    let is_wanted = || !shared.unwanted.is_stopped();
    if let Some(amount) = amount(root, mounts, is_wanted) {
        shared.entries.store(amount.entries, Ordering::Relaxed);
        shared.bytes.store(amount.bytes, Ordering::Relaxed);
        shared.complete.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/a"), [0; 1000]).unwrap();
        std::fs::write(folder.path().join("b"), [0; 24]).unwrap();
        let mounts = TreeMounts::look(folder.path(), false).unwrap();
        let estimate = Estimate::start_after(Duration::ZERO, folder.path().to_owned(), &mounts);
        let since = std::time::Instant::now();
        while estimate.totals() == (0, 0) && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(estimate.totals(), (4, 1024));
    }

    #[test]
    fn a_directory_is_as_large_as_what_is_allocated_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = TreeMounts::look(folder.path(), false).unwrap();
        let count = || amount(folder.path(), &mounts, || true).unwrap();
        let before = count();
        std::fs::write(folder.path().join("a"), vec![7; 1 << 20]).unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        std::fs::File::create(folder.path().join("hole"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        // Delayed allocation counts late on some file systems.
        rustix::fs::sync();
        let after = count();
        let allocated = after.allocated - before.allocated;
        let (least, most) = (f64::from(1 << 20), f64::from((1 << 20) + 65536));
        assert!((least..most).contains(&allocated), "{allocated}");
        assert_eq!(after.entries - before.entries, 3);
        assert_eq!(after.bytes, (2 << 20) + (1 << 40));
        assert_eq!(amount(folder.path(), &mounts, || false), None);
    }
}
