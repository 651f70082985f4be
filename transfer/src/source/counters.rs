//! Counts what a round does, from many threads, and tells the observer.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::progress::Progress;

/// Time over which the shown rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// What has happened so far. All relaxed: they are shown and summed, nothing depends on their order.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries or chunks looked at.
    pub scanned: AtomicU64,
    /// Entries or chunks sent.
    pub sent: AtomicU64,
    /// Entries deleted.
    pub deleted: AtomicU64,
    /// Entries renamed, directories with everything below counted once.
    pub renamed: AtomicU64,
    /// Content bytes covered.
    pub bytes_done: AtomicU64,
    /// Bytes read from the medium.
    pub bytes_read: AtomicU64,
    /// File data sent, before compression.
    pub bytes_data: AtomicU64,
    /// Bytes written to the link.
    pub bytes_wire: AtomicU64,
    /// Content bytes of everything that was looked at.
    pub bytes_total: AtomicU64,
    /// How often an entry changed while it was read, so that it must be looked at again.
    pub changed: AtomicU64,
    /// The same for those that vanished.
    pub vanished: AtomicU64,
    /// The same for those in whose place something else was.
    pub replaced: AtomicU64,
}

impl Counters {
    /// What tells how much there is: another look at a part of it must not count twice.
    pub fn covered(&self) -> [u64; 3] {
        self.coverage().map(get)
    }

    /// Takes back what was counted since [`Counters::covered`].
    pub fn uncover(&self, covered: [u64; 3]) {
        for (counter, count) in self.coverage().into_iter().zip(covered) {
            counter.store(count, Ordering::Relaxed);
        }
    }

    fn coverage(&self) -> [&AtomicU64; 3] {
        [&self.scanned, &self.bytes_done, &self.bytes_total]
    }

    fn unsettled(&self) -> u64 {
        get(&self.changed) + get(&self.vanished) + get(&self.replaced)
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Turns counters into progress: rate and remaining time.
#[derive(Debug)]
pub struct Meter {
    begin: Instant,
    window: Mutex<VecDeque<(Instant, u64, u64)>>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            window: Mutex::new(VecDeque::new()),
        }
    }
}

impl Meter {
    /// The present state of `counters`. Totals are estimates, 0 while unknown.
    pub fn progress(
        &self,
        counters: &Counters,
        round: u32,
        totals: (u64, u64),
        bytes_durable: u64,
    ) -> Progress {
        let (entries_total, bytes_total) = totals;
        let (done, wire) = (get(&counters.bytes_done), get(&counters.bytes_wire));
        let (rate, done_rate) = self.rates(wire, done);
        let bytes_total = if bytes_total == 0 {
            0
        } else {
            bytes_total.max(done)
        };
        let left = bytes_total.saturating_sub(done);
        Progress {
            round,
            scanned: get(&counters.scanned),
            sent: get(&counters.sent),
            deleted: get(&counters.deleted),
            unsettled: counters.unsettled(),
            bytes_done: done,
            bytes_total,
            entries_total: if entries_total == 0 {
                0
            } else {
                entries_total.max(get(&counters.scanned))
            },
            bytes_read: get(&counters.bytes_read),
            bytes_wire: wire,
            bytes_durable,
            seconds: self.begin.elapsed().as_secs_f64(),
            rate,
            eta_seconds: (bytes_total > 0 && done_rate > 0).then(|| left / done_rate),
        }
    }

    /// Wire and content bytes per second over the window.
    fn rates(&self, wire: u64, done: u64) -> (u64, u64) {
        let now = Instant::now();
        let mut window = self.window.lock().expect("not poisoned");
        window.push_back((now, wire, done));
        while window.front().is_some_and(|(at, ..)| now - *at > RATE_WINDOW) && window.len() > 2 {
            window.pop_front();
        }
        let (at, first_wire, first_done) = *window.front().expect("one was just added");
        let millis = (now - at).as_millis() as u64;
        if millis == 0 {
            return (0, 0);
        }
        (
            wire.saturating_sub(first_wire) * 1000 / millis,
            done.saturating_sub(first_done) * 1000 / millis,
        )
    }
}
