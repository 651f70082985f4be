//! Several threads that read disks: jobs in order, with courtesy towards others, with somebody who watches.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::courtesy::Courtesy;
use crate::error::Result;

/// Reading threads at most: each holds 6 MiB (content, payload, compressed payload), 48 MiB in all.
const READERS_MAX: usize = 8;
/// How often the thread that watches wakes up.
const WATCH_TICK: Duration = Duration::from_millis(50);

/// Chunks of one disk, ascending.
#[derive(Debug)]
pub struct Job {
    /// Number of the disk.
    pub disk: usize,
    /// Numbers of the chunks.
    pub chunks: Vec<u64>,
}

/// Hands out the jobs of several disks, one disk after the other.
#[derive(Debug, Default)]
pub struct Cursor(Mutex<(usize, u64)>);

impl Cursor {
    /// The next job of `disks` disks; `of_disk` gives the chunks of a disk from a number on.
    pub fn next(&self, disks: usize, of_disk: impl Fn(usize, u64) -> Vec<u64>) -> Option<Job> {
        let mut cursor = self.0.lock().expect("taking a job does not panic");
        while cursor.0 < disks {
            let (disk, from) = *cursor;
            let chunks = of_disk(disk, from);
            match chunks.last() {
                Some(last) => {
                    cursor.1 = last + 1;
                    return Some(Job { disk, chunks });
                }
                None => *cursor = (disk + 1, 0),
            }
        }
        None
    }
}

/// Does all jobs in several threads, each with a worker of its own; `watch` is called about every 50 ms meanwhile. Reading
/// pauses where `courtesy` says so; it is at its end afterwards.
///
/// # Errors
/// The first failure of a worker; the others end after the job they are at.
pub fn in_parallel<W: FnMut(Job) -> Result<()>>(
    courtesy: &Courtesy,
    watch: &dyn Fn(),
    next: &(impl Fn() -> Option<Job> + Sync),
    worker: impl Fn() -> Result<W> + Sync,
) -> Result<()> {
    let first_error = Mutex::new(None);
    let is_stopped = AtomicBool::new(false);
    let work = || {
        courtesy.enter();
        let mut worker = worker()?;
        while !is_stopped.load(Ordering::Acquire) {
            courtesy.wait();
            let Some(job) = next() else { break };
            worker(job)?;
        }
        Ok(())
    };
    let guarded = || {
        let result: Result<()> = work();
        if let Err(error) = result {
            is_stopped.store(true, Ordering::Release);
            first_error
                .lock()
                .expect("nothing panics here")
                .get_or_insert(error);
        }
    };
    courtesy.during(|| in_threads(&guarded, watch));
    match first_error.into_inner().expect("nothing panics here") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Does `work` in as many threads as read, and calls `watch` meanwhile.
fn in_threads(work: &(impl Fn() + Sync), watch: &dyn Fn()) {
    let readers = std::thread::available_parallelism()
        .map_or(2, |cores| cores.get() * 2)
        .clamp(2, READERS_MAX);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|_| scope.spawn(work)).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            watch();
            // Short rounds end without the delay of a tick.
            for _ in 0..WATCH_TICK.as_millis() {
                if threads.iter().all(|thread| thread.is_finished()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}
