//! Compression of frames, at a level that follows the bottleneck.
//!
//! Senders tell the governor how long they compressed and how long the link kept them waiting. When the link is the
//! bottleneck the level rises, when the processor is it falls, down to none at all. zstd gives up early on data that do
//! not compress, so no sample is taken; a frame that did not shrink by 3 % travels stored.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::link::frame::Codec;
use crate::source::Compression;

/// The ladder, from no compression to the level beyond which time grows faster than savings.
const LEVELS: [Option<i32>; 7] = [None, Some(-5), Some(-1), Some(1), Some(3), Some(6), Some(9)];
/// Where the ladder is entered: cheap enough for any link, and worth it on most.
const FIRST: usize = 3;
/// How often the level moves.
const PERIOD: Duration = Duration::from_millis(500);
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
    since: Instant,
    compressing: Duration,
    waiting: Duration,
}

impl Governor {
    /// A governor for `mode`.
    pub fn new(mode: Compression) -> Self {
        let state = State {
            rung: FIRST,
            since: Instant::now(),
            compressing: Duration::ZERO,
            waiting: Duration::ZERO,
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

    /// Learns where a sender's time went.
    pub fn learn(&self, compressing: Duration, waiting: Duration) {
        if self.mode != Compression::Auto {
            return;
        }
        let mut state = self.state.lock().expect("not poisoned");
        state.compressing += compressing;
        state.waiting += waiting;
        if state.since.elapsed() < PERIOD {
            return;
        }
        // A link that makes senders wait longer than they compress leaves time for a higher level.
        if state.waiting > state.compressing * 2 {
            state.rung = (state.rung + 1).min(LEVELS.len() - 1);
        } else if state.waiting < state.compressing / 4 {
            state.rung = state.rung.saturating_sub(1);
        }
        (state.compressing, state.waiting, state.since) = (Duration::ZERO, Duration::ZERO, Instant::now());
    }
}

/// One sender's compressor; keeps its context between frames.
pub struct Compressor {
    level: Option<i32>,
    context: zstd::bulk::Compressor<'static>,
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
        })
    }

    /// Compresses `raw` at the governor's level.
    ///
    /// # Errors
    /// Out of memory.
    pub fn compress(&mut self, raw: Vec<u8>, governor: &Governor) -> Result<(Codec, Vec<u8>)> {
        let Some(level) = governor.level() else {
            return Ok((Codec::Stored, raw));
        };
        if self.level != Some(level) {
            self.context.set_compression_level(level).map_err(failed)?;
            self.level = Some(level);
        }
        let coded = self.context.compress(&raw).map_err(failed)?;
        let worth = coded.len() <= raw.len() - raw.len() * SHRINK_MIN_PERCENT / 100;
        if worth && coded.len() < raw.len() {
            Ok((Codec::Zstd, coded))
        } else {
            Ok((Codec::Stored, raw))
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(Kind::Medium, "compress a frame").because(error)
}
