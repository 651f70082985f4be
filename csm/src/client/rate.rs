//! No more than 20 requests of one action in any second: the limit that the API has by default.
//!
//! A window of send times, not a bucket: a full bucket of 20 that refills at 20 a second would let 40 through in one
//! second, and the server would refuse half of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Requests of one action that may start within [`WINDOW`].
pub const REQUESTS_MAX: usize = 20;
/// One second, and 5 % for requests that overtake each other on the way.
pub const WINDOW: Duration = Duration::from_millis(1050);

/// The send times of the last requests of each action.
#[derive(Debug, Default)]
pub struct RateLimit {
    sent: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl RateLimit {
    /// Waits until a request of `action` may be sent.
    pub async fn wait(&self, action: &str) {
        loop {
            let Some(free_at) = self.take(action).await else {
                return;
            };
            sleep_until(free_at).await;
        }
    }

    /// Takes a place in the window, or says when one becomes free.
    async fn take(&self, action: &str) -> Option<Instant> {
        let now = Instant::now();
        let mut sent = self.sent.lock().await;
        let times = sent.entry(action.to_owned()).or_default();
        while times.front().is_some_and(|time| *time + WINDOW <= now) {
            times.pop_front();
        }
        if times.len() < REQUESTS_MAX {
            times.push_back(now);
            return None;
        }
        times.front().map(|oldest| *oldest + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_21st_request_of_an_action_waits_and_other_actions_do_not() {
        let limit = RateLimit::default();
        let start = Instant::now();
        for _ in 0..REQUESTS_MAX {
            limit.wait("DescribeMigrationJobs").await;
            limit.wait("ModifyMigrationJob").await;
        }
        assert!(start.elapsed() < WINDOW / 2, "{:?}", start.elapsed());
        limit.wait("DescribeMigrationJobs").await;
        assert!(start.elapsed() >= WINDOW, "{:?}", start.elapsed());
    }
}
