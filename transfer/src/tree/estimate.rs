//! How much there is to copy, roughly: for progress and remaining time only.
//!
//! Nothing depends on it, so it may use paths and a plain directory walker: a tree that changes under it gives another
//! number, and that is all. For the same reason it begins only when a round takes longer, and gives way to everything else.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::source::TreeSource;

/// A round that is done by then needs no estimate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries looked at between two looks at whether anybody still wants to know.
const LOOK: u64 = 256;

/// A count that grows in the background; ends when it is dropped.
#[derive(Debug, Default)]
pub struct Estimate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: AtomicU64,
    bytes: AtomicU64,
    complete: AtomicBool,
    unwanted: AtomicBool,
}

impl Estimate {
    /// Begins to count. What the exclude rules leave out is counted, too.
    pub fn start(source: &TreeSource) -> Self {
        let estimate = Self::default();
        let (shared, root, stay) = (Arc::clone(&estimate.0), source.root.clone(), !source.cross_mounts);
        // Without the thread there is no estimate, which is allowed.
        drop(
            std::thread::Builder::new()
                .name("estimate".to_owned())
                .spawn(move || count(&shared, root, stay)),
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
        self.0.unwanted.store(true, Ordering::Release);
    }
}

fn count(shared: &Shared, root: PathBuf, same_file_system: bool) {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if shared.unwanted.load(Ordering::Acquire) {
            return;
        }
        std::thread::sleep(PATIENCE / 20);
    }
    // Without the lower priority it would still be right.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    sys::io_priority::lower();
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(root).same_file_system(same_file_system) {
        seen += 1;
        if seen % LOOK == 0 && shared.unwanted.load(Ordering::Acquire) {
            return;
        }
        let Ok(metadata) = entry.and_then(|entry| entry.metadata()) else {
            continue;
        };
        shared.entries.fetch_add(1, Ordering::Relaxed);
        if metadata.is_file() {
            shared.bytes.fetch_add(metadata.len(), Ordering::Relaxed);
        }
    }
    shared.complete.store(true, Ordering::Release);
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
        let source = TreeSource {
            root: folder.path().to_owned(),
            cross_mounts: false,
            excludes: Vec::new(),
            never: Vec::new(),
            estimate: true,
        };
        let estimate = Estimate::start(&source);
        while estimate.totals() == (0, 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(estimate.totals(), (4, 1024));
    }
}
