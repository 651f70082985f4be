//! How many files this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Enough for every directory that a walk keeps open, and few enough for whoever inherits the limit and closes each number.
const WANTED: u64 = 16 * 1024;

/// The limit that counts now.
pub fn limit() -> u64 {
    // None is as good as one that is never reached.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit as far as the process may, up to 16,384: usual is 1024. Nothing happens where that is not allowed.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        // Who works with fewer files asks for the limit; a failure changes nothing.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_is_wanted_and_not_lowered() {
        let at_first = limit();
        raise_limit();
        let raised = limit();
        assert!(
            raised >= at_first && (raised >= WANTED || Some(raised) == getrlimit(Resource::Nofile).maximum)
        );
        raise_limit();
        assert_eq!(limit(), raised);
    }
}
