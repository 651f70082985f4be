//! When an entry counts as unchanged: the identity and version that its status shows, and how long a time proves nothing.

use std::time::Duration;

use crate::tree::capture::Stat;
use crate::tree::entry::{Stamp, Time};

/// Timestamps are as coarse as a jiffy before Linux 6.13, at most 10 ms; twice that is the margin within which a
/// timestamp proves nothing.
const RACY_NS: i64 = 20_000_000;
/// The same for a time of whole seconds: inodes of 128 bytes (ext3, ext4 made small or long ago) keep no more of it, FAT only
/// every other second. Elsewhere a time is one by chance or because somebody set it, and only one just passed counts.
const RACY_SECONDS_NS: i64 = 2_000_000_000 + RACY_NS;
/// A modification time so far ahead of the round's begin was not made by a store during the round.
const AHEAD_NS: i64 = 3_600_000_000_000;

/// The identity and version that `stat` shows. Clean when its times are old enough to prove that nothing happened since.
pub fn stamp(file_system: u64, stat: &Stat, t0: Time) -> Stamp {
    let t0 = nanoseconds(t0);
    let is_old = |time| nanoseconds(time) < t0.saturating_sub(margin(time));
    // A time far ahead was set by somebody; a store would have set it to now, and the change time with it.
    let is_ahead = |time| nanoseconds(time) > t0.saturating_add(AHEAD_NS);
    Stamp {
        file_system,
        ino: stat.ino,
        birth_ns: stat.btime.map_or(0, nanoseconds),
        size: stat.size,
        mtime: stat.mtime,
        ctime: stat.ctime,
        clean: is_old(stat.ctime) && (is_old(stat.mtime) || is_ahead(stat.mtime)),
    }
}

/// For how long yet a further change of an entry could leave its times as they are; `None` when it would move them.
pub fn ages_in(stat: &Stat, now: Time) -> Option<Duration> {
    let (changed, margin) = (nanoseconds(stat.ctime), margin(stat.ctime));
    let age = nanoseconds(now).saturating_sub(changed);
    // One further ahead was not made by a store just now.
    (-margin..=margin)
        .contains(&age)
        .then(|| Duration::from_nanos(margin.saturating_sub(age).unsigned_abs()))
}

/// How long a time proves nothing.
fn margin(time: Time) -> i64 {
    if time.nsec == 0 { RACY_SECONDS_NS } else { RACY_NS }
}

/// Whether the entry is still the version that the baseline knows, and provably so.
pub fn is_unchanged(known: &Stamp, present: &Stamp) -> bool {
    known.clean
        && *known
            == Stamp {
                clean: true,
                ..*present
            }
}

fn nanoseconds(time: Time) -> i64 {
    time.sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.nsec))
}
