//! The bandwidth limit: a token bucket over wire bytes, shared by all connections, changeable while running.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that may be sent ahead of the rate, as time: 20 ms smooth the pace without a visible burst.
const BURST: Duration = Duration::from_millis(20);
/// Longest single sleep: a new limit takes effect within this time.
const NAP_MAX: Duration = Duration::from_millis(50);

/// A shared limit in bytes per second; 0 means unlimited.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: AtomicU64,
    /// The instant until which the bytes already granted keep the line busy.
    busy_until: Mutex<Instant>,
}

impl Throttle {
    /// A limit of `bytes_per_second`, 0 for none.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: AtomicU64::new(bytes_per_second),
            busy_until: Mutex::new(Instant::now()),
        }
    }

    /// Changes the limit at once, for those who wait now, too.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The limit now in force, in bytes per second; 0 means unlimited.
    pub fn limit(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more may be sent. Sleeps without holding a lock.
    pub fn take(&self, bytes: usize) {
        let mut left = bytes as u64;
        while left > 0 {
            let rate = self.limit();
            if rate == 0 {
                return;
            }
            // At most one nap's worth at a time, so that a new limit governs the rest.
            let portion = left.min((rate * NAP_MAX.as_millis() as u64 / 1000).max(1));
            left -= portion;
            let wait = self.reserve(portion, rate, Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
        }
    }

    fn reserve(&self, bytes: u64, rate: u64, now: Instant) -> Duration {
        let mut busy_until = self
            .busy_until
            .lock()
            .expect("no thread panics while it holds the bucket");
        let start = (*busy_until).max(now.checked_sub(BURST).unwrap_or(now));
        let wait = start.saturating_duration_since(now);
        *busy_until = start + Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate)) as u64);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_kept_and_changes_while_running() {
        let throttle = Throttle::new(4_000_000);
        let begin = Instant::now();
        for _ in 0..20 {
            throttle.take(64_000);
        }
        let seconds = begin.elapsed().as_secs_f64();
        assert!(
            (0.25..0.45).contains(&seconds),
            "1.28 MB at 4 MB/s took {seconds} s"
        );
        throttle.set(0);
        let begin = Instant::now();
        throttle.take(1 << 30);
        assert!(begin.elapsed() < Duration::from_millis(50));
    }
}
