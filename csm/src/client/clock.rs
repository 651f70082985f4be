//! What the server's `Date` header says about the clock of this machine.
//!
//! Signatures carry the time, and a server refuses those that are more than five minutes off. Its code alone does not
//! say which clock is wrong or by how much; the header does.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// How far the control plane's clock is ahead of this machine's, in seconds; negative when it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skew(pub i64);

impl Skew {
    /// The difference between a `Date` header and `now`; `None` when the header is not a date.
    #[must_use]
    pub fn from_date_header(date: &str, now: i64) -> Option<Self> {
        let server: Timestamp = DateTimeParser::new().parse_timestamp(date).ok()?;
        Some(Self(server.as_second().saturating_sub(now)))
    }

    /// What a person should know and do.
    #[must_use]
    pub fn explained(self) -> String {
        let seconds = self.0.unsigned_abs();
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let span = match (hours, minutes) {
            (0, 0) => format!("{rest} s"),
            (0, _) => format!("{minutes} min {rest} s"),
            _ => format!("{hours} h {minutes} min {rest} s"),
        };
        let direction = if self.0 > 0 { "behind" } else { "ahead of" };
        format!(
            "this machine's clock is {span} {direction} the control plane's, and more than 5 minutes are refused: \
             set the right time (`timedatectl set-ntp true`, or chrony) on the one that is wrong"
        )
    }
}

/// Seconds since 1970 by this machine's clock.
#[must_use]
pub fn now_seconds() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_both_directions() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(Skew::from_date_header(date, 784_111_777), Some(Skew(0)));
        let behind = Skew::from_date_header(date, 784_111_777 - 7_384)
            .unwrap()
            .explained();
        assert!(
            behind.contains("is 2 h 3 min 4 s behind the control plane's"),
            "{behind}"
        );
        let ahead = Skew::from_date_header(date, 784_111_777 + 301)
            .unwrap()
            .explained();
        assert!(
            ahead.contains("is 5 min 1 s ahead of the control plane's"),
            "{ahead}"
        );
        assert_eq!(Skew::from_date_header("yesterday", 0), None);
    }
}
