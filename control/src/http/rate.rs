//! So many calls of one action by one key in any second.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// Keys × actions after which those that rest are forgotten.
const ENTRIES_MAX: usize = 10_000;

type Recent = HashMap<(String, &'static str), VecDeque<Instant>>;

/// Remembers the calls of the last second.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u32,
    recent: Mutex<Recent>,
}

impl RateLimiter {
    /// Admits so many calls in any second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            recent: Mutex::default(),
        }
    }

    /// How many it admits.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Whether one more call is admitted.
    pub fn admit(&self, secret_id: &str, action: &'static str, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= SECOND;
        if recent.len() > ENTRIES_MAX {
            recent.retain(|_, calls| calls.back().is_some_and(|last| !is_old(last)));
        }
        let calls = recent.entry((secret_id.to_owned(), action)).or_default();
        while calls.front().is_some_and(is_old) {
            calls.pop_front();
        }
        let is_admitted = calls.len() < self.per_second as usize;
        if is_admitted {
            calls.push_back(now);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twenty_first_of_any_second_is_refused() {
        let limiter = RateLimiter::new(20);
        let begin = Instant::now();
        for call in 0..20 {
            assert!(limiter.admit("key", "Act", begin + Duration::from_millis(call * 40)));
        }
        assert!(!limiter.admit("key", "Act", begin + Duration::from_millis(999)));
        assert!(
            limiter.admit("other", "Act", begin + Duration::from_millis(999)),
            "another key"
        );
        assert!(
            limiter.admit("key", "Other", begin + Duration::from_millis(999)),
            "another action"
        );
        assert!(
            limiter.admit("key", "Act", begin + Duration::from_millis(1000)),
            "the first is a second ago"
        );
        assert!(
            !limiter.admit("key", "Act", begin + Duration::from_millis(1001)),
            "the second is not"
        );
    }
}
