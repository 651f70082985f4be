//! Compression of frames, at a level that follows the bottleneck.
//!
//! Senders tell the governor for how long the link held their connections up. While it nearly always does, the level rises;
//! when it seldom does, somebody's processor or medium is the bottleneck, and the level falls, down to none at all. zstd
//! gives up early on data that do not compress, so no sample is taken; a frame that did not shrink by 3 % travels stored.

use std::sync::Mutex;
use std::time::Duration;

use sys::aligned::AlignedBuffer;

use crate::error::{Error, Kind, Result};
use crate::link::Strain;
use crate::link::frame::Codec;
use crate::source::Compression;

/// The ladder, from no compression to the level beyond which time grows faster than savings.
const LEVELS: [Option<i32>; 7] = [None, Some(-5), Some(-1), Some(1), Some(3), Some(6), Some(9)];
/// Where the ladder is entered: cheap enough for any link, and worth it on most.
const FIRST: usize = 2;
/// Time of senders, all of them together, after which the level may move again: some frames of 2 MiB on any link that is
/// worth compressing for, and soon over where nothing is.
const PERIOD: Duration = Duration::from_millis(200);
/// Part of the time for which the link holds senders up, above which the level rises.
const RISE: f64 = 0.6;
/// And below which it falls.
const FALL: f64 = 0.25;
/// A frame that shrinks by less travels as it is: decompressing it would cost more than it saves.
const SHRINK_MIN_PERCENT: usize = 3;

/// Chooses the level for all senders of a session.
#[derive(Debug)]
pub struct Governor {
    mode: Compression,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rung: usize,
    /// Since the level may have moved last.
    strain: Strain,
}

impl Governor {
    /// A governor for `mode`.
    pub fn new(mode: Compression) -> Self {
        let state = State {
            rung: FIRST,
            strain: Strain::default(),
        };
        Self {
            mode,
            state: Mutex::new(state),
        }
    }

    fn level(&self) -> Option<i32> {
        match self.mode {
            Compression::Off => None,
            Compression::Level(level) => Some(level),
            Compression::Auto => LEVELS[self.state.lock().expect("not poisoned").rung],
        }
    }

    /// Learns what the link cost a sender lately.
    pub fn learn(&self, strain: Strain) {
        if self.mode != Compression::Auto {
            return;
        }
        let mut state = self.state.lock().expect("not poisoned");
        state.strain.held_up += strain.held_up;
        state.strain.elapsed += strain.elapsed;
        if state.strain.elapsed < PERIOD {
            return;
        }
        let held_up = state.strain.held_up.as_secs_f64() / state.strain.elapsed.as_secs_f64();
        if held_up > RISE {
            state.rung = (state.rung + 1).min(LEVELS.len() - 1);
        } else if held_up < FALL {
            state.rung = state.rung.saturating_sub(1);
        }
        state.strain = Strain::default();
    }
}

/// One sender's compressor; keeps its context between frames.
pub struct Compressor {
    level: Option<i32>,
    context: zstd::bulk::Compressor<'static>,
    /// Memory for the next coded frame.
    spare: AlignedBuffer,
}

impl Compressor {
    /// A compressor.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Compressor::new(1).map_err(failed)?;
        Ok(Self {
            level: Some(1),
            context,
            spare: AlignedBuffer::new(),
        })
    }

    /// Compresses `raw` at the governor's level.
    ///
    /// # Errors
    /// Out of memory.
    pub fn compress(&mut self, raw: AlignedBuffer, governor: &Governor) -> Result<(Codec, AlignedBuffer)> {
        let Some(level) = governor.level() else {
            return Ok((Codec::Stored, raw));
        };
        if self.level != Some(level) {
            self.context.set_compression_level(level).map_err(failed)?;
            self.level = Some(level);
        }
        self.spare.set_len(zstd::zstd_safe::compress_bound(raw.len()));
        let coded_len = self
            .context
            .compress_to_buffer(&raw, &mut self.spare[..])
            .map_err(failed)?;
        self.spare.truncate(coded_len);
        let worth = coded_len <= raw.len() - raw.len() * SHRINK_MIN_PERCENT / 100;
        if worth && coded_len < raw.len() {
            Ok((Codec::Zstd, std::mem::replace(&mut self.spare, raw)))
        } else {
            Ok((Codec::Stored, raw))
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(Kind::Medium, "compress a frame").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strain(held_up_ms: u64, elapsed_ms: u64) -> Strain {
        Strain {
            held_up: Duration::from_millis(held_up_ms),
            elapsed: Duration::from_millis(elapsed_ms),
        }
    }

    #[test]
    fn a_link_that_never_holds_up_costs_no_compression_after_two_periods() {
        let governor = Governor::new(Compression::Auto);
        assert_eq!(governor.level(), LEVELS[FIRST]);
        for _ in 0..2 * 4 {
            governor.learn(strain(0, 50));
        }
        assert_eq!(governor.level(), None);
        governor.learn(strain(0, 1000));
        assert_eq!(governor.level(), None);
    }

    #[test]
    fn a_slow_link_raises_the_level_to_the_top_and_one_in_between_keeps_it() {
        let governor = Governor::new(Compression::Auto);
        governor.learn(strain(40, 100));
        governor.learn(strain(40, 100));
        assert_eq!(governor.level(), LEVELS[FIRST]);
        for _ in 0..2 * LEVELS.len() {
            governor.learn(strain(190, 200));
        }
        assert_eq!(governor.level(), Some(9));
        governor.learn(strain(10, 199));
        assert_eq!(governor.level(), Some(9), "not before the period is over");
        governor.learn(strain(0, 1));
        assert_eq!(governor.level(), Some(6));
    }

    #[test]
    fn what_was_asked_for_stays() {
        for (mode, level) in [(Compression::Off, None), (Compression::Level(19), Some(19))] {
            let governor = Governor::new(mode);
            governor.learn(strain(1000, 1000));
            assert_eq!(governor.level(), level);
        }
    }

    #[test]
    fn frames_that_do_not_shrink_travel_as_they_are() {
        let mut compressor = Compressor::new().unwrap();
        let governor = Governor::new(Compression::Level(3));
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        for (raw, codec) in [(noise, Codec::Stored), (vec![7; 100_000], Codec::Zstd)] {
            let (found, coded) = compressor.compress(raw[..].into(), &governor).unwrap();
            assert_eq!(found, codec);
            match codec {
                Codec::Stored => assert_eq!(coded[..], raw[..]),
                Codec::Zstd => assert_eq!(zstd::bulk::decompress(&coded, raw.len()).unwrap(), raw),
            }
        }
    }
}
