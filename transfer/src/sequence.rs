//! Keeps frames of several connections in the order that they need, and no more.
//!
//! A frame may be applied when all frames below its `after` have been applied. Numbers grow along each connection and
//! `after` never exceeds a frame's own number, so a waiting connection never waits for itself.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};

/// Frames that may be applied ahead of the lowest missing one. Bounded by what the connections hold in flight:
/// 16 connections times some frames each; more is a broken peer.
const AHEAD_MAX: usize = 1 << 20;

/// Which frames have been applied.
#[derive(Debug, Default)]
pub struct Sequence {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// All frames below this number have been applied.
    complete: u64,
    /// Frames above `complete` that have been applied, too.
    ahead: BTreeSet<u64>,
    broken: bool,
}

impl Sequence {
    /// Waits until all frames below `number` have been applied.
    ///
    /// # Errors
    /// The session broke meanwhile.
    pub fn wait_below(&self, number: u64) -> Result<()> {
        let mut state = self.lock();
        while state.complete < number && !state.broken {
            state = self
                .changed
                .wait(state)
                .expect("no thread panics while it holds the sequence");
        }
        if state.broken {
            Err(Error::new(
                Kind::Retry,
                "go on: another connection of the session broke",
            ))
        } else {
            Ok(())
        }
    }

    /// Waits until frame `number`, which follows all below `after`, may be applied.
    ///
    /// # Errors
    /// The frame demands to follow itself, or the session broke meanwhile.
    pub fn wait_for(&self, number: u64, after: u64) -> Result<()> {
        if after > number {
            return Err(Error::new(
                Kind::Corrupt,
                "order frames: one demands to follow itself",
            ));
        }
        self.wait_below(after)
    }

    /// Notes that frame `number` has been applied.
    ///
    /// # Errors
    /// It had been applied before, or too many are ahead.
    pub fn applied(&self, number: u64) -> Result<()> {
        let mut state = self.lock();
        if number < state.complete || state.ahead.len() >= AHEAD_MAX || !state.ahead.insert(number) {
            return Err(Error::new(
                Kind::Corrupt,
                "order frames: a number came twice or far ahead",
            ));
        }
        while let Some(&lowest) = state.ahead.first() {
            if lowest != state.complete {
                break;
            }
            state.ahead.pop_first();
            state.complete += 1;
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Wakes everybody with an error.
    pub fn break_off(&self) {
        self.lock().broken = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the sequence")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_for_those_they_follow() {
        let sequence = Sequence::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| sequence.wait_below(3));
            for number in [2, 0] {
                sequence.applied(number).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiter.is_finished());
            sequence.applied(1).unwrap();
            waiter.join().unwrap().unwrap();
        });
        assert!(sequence.applied(1).is_err());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| sequence.wait_below(9));
            sequence.break_off();
            assert!(waiter.join().unwrap().is_err());
        });
    }
}
