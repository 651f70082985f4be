//! Frames: what travels on a connection once it is authenticated. docs/PROTOCOL.md draws the bytes.

use std::cell::RefCell;

use sys::aligned::AlignedBuffer;
use zstd::bulk::Decompressor;

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::link::tls::{Strain, TlsReader, TlsWriter};

/// First bytes of every frame: detects a peer that lost its place.
const MAGIC: u32 = u32::from_le_bytes(*b"G2F1");
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 32;

/// How a payload is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// One frame with its payload as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is; the meaning belongs to the protocol above ([`crate::protocol`]).
    pub kind: u8,
    /// Number of this frame within the session, counted over all data connections; 0 on control and report.
    pub number: u64,
    /// The frame may be applied only after all frames with a number below this one have been applied.
    pub after: u64,
    /// Coding of `payload`.
    pub codec: Codec,
    /// Length of the payload after decoding, in bytes.
    pub raw_len: u32,
    /// The coded payload.
    pub payload: AlignedBuffer,
}

impl Frame {
    /// A stored frame outside the numbering: control and report messages.
    pub fn message(kind: u8, payload: &[u8]) -> Self {
        Self {
            kind,
            number: 0,
            after: 0,
            codec: Codec::Stored,
            raw_len: payload.len() as u32,
            payload: payload.into(),
        }
    }

    /// The decoded payload.
    ///
    /// # Errors
    /// The payload does not decode to exactly the announced length.
    pub fn decode(self) -> Result<AlignedBuffer> {
        let raw_len = self.raw_len as usize;
        let raw = match self.codec {
            Codec::Stored => self.payload,
            Codec::Zstd => decompress(&self.payload, raw_len)
                .map_err(|error| corrupt("decompress a frame").because(error))?,
        };
        if raw.len() == raw_len {
            Ok(raw)
        } else {
            Err(corrupt("decode a frame of the announced length"))
        }
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0u8; HEADER_LEN];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4] = self.kind;
        header[5] = self.codec as u8;
        header[8..12].copy_from_slice(&self.raw_len.to_le_bytes());
        header[12..16].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        header[16..24].copy_from_slice(&self.number.to_le_bytes());
        header[24..32].copy_from_slice(&self.after.to_le_bytes());
        header
    }

    /// Checks an untrusted header before anything is allocated; the payload is still empty. Returns its length, too.
    fn parse(header: &[u8; HEADER_LEN]) -> Result<(Self, usize)> {
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let codec = match header[5] {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            _ => return Err(corrupt("understand the coding of a frame")),
        };
        let (raw_len, wire_len) = (word(8), word(12) as usize);
        let lengths_fit = raw_len as usize <= limits::FRAME_RAW_LEN_MAX
            && match codec {
                Codec::Stored => wire_len == raw_len as usize,
                Codec::Zstd => wire_len <= raw_len as usize,
            };
        if word(0) != MAGIC || header[6..8] != [0, 0] || !lengths_fit {
            return Err(corrupt("understand the header of a frame"));
        }
        let frame = Self {
            kind: header[4],
            number: long(16),
            after: long(24),
            codec,
            raw_len,
            payload: AlignedBuffer::new(),
        };
        Ok((frame, wire_len))
    }
}

fn corrupt(operation: &str) -> Error {
    Error::new(Kind::Corrupt, operation).remedy("use the same release of go2cloud on both sides")
}

/// Decompresses with a context that the thread keeps.
fn decompress(coded: &[u8], raw_len: usize) -> std::io::Result<AlignedBuffer> {
    thread_local! {
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new()?),
        };
        let mut raw = AlignedBuffer::zeroed(raw_len);
        let len = context.decompress_to_buffer(coded, &mut raw[..])?;
        raw.truncate(len);
        Ok(raw)
    })
}

/// The sending end of a connection.
pub struct FrameWriter(TlsWriter);

impl FrameWriter {
    /// Frames over an authenticated connection.
    pub(super) fn new(writer: TlsWriter) -> Self {
        Self(writer)
    }

    /// Sends one frame and flushes it. Returns the bytes that went onto the wire.
    ///
    /// # Errors
    /// The connection is lost ([`Kind::Retry`]).
    pub fn send(&mut self, frame: &Frame) -> Result<u64> {
        debug_assert!(
            frame.raw_len as usize <= limits::FRAME_RAW_LEN_MAX,
            "senders close frames in time"
        );
        let before = self.0.wire_bytes();
        self.0.write(&frame.header())?;
        self.0.write(&frame.payload)?;
        self.0.flush()?;
        Ok(self.0.wire_bytes() - before)
    }

    /// What the link has cost since the last question.
    pub fn strain(&mut self) -> Strain {
        self.0.strain()
    }

    /// Says that nothing more comes, so that the peer can tell an end from a cut.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn finish(mut self) -> Result<()> {
        self.0.finish()
    }
}

/// The receiving end of a connection.
pub struct FrameReader {
    reader: TlsReader,
    /// Memory for the next payload.
    spare: AlignedBuffer,
}

impl FrameReader {
    /// Frames over an authenticated connection.
    pub(super) fn new(reader: TlsReader) -> Self {
        Self {
            reader,
            spare: AlignedBuffer::new(),
        }
    }

    /// Gives back the memory of a payload that is done with.
    pub fn reuse(&mut self, payload: AlignedBuffer) {
        self.spare = payload;
    }

    /// The next frame; `None` after the peer's orderly end.
    ///
    /// # Errors
    /// The connection was cut or timed out ([`Kind::Retry`]), or the peer broke the format ([`Kind::Corrupt`]).
    pub fn receive(&mut self) -> Result<Option<Frame>> {
        let mut header = [0u8; HEADER_LEN];
        if !self.reader.read_exact_or_end(&mut header)? {
            return Ok(None);
        }
        let (mut frame, wire_len) = Frame::parse(&header)?;
        frame.payload = std::mem::take(&mut self.spare);
        frame.payload.set_len(wire_len);
        if wire_len > 0 && !self.reader.read_exact_or_end(&mut frame.payload)? {
            return Err(Error::new(
                Kind::Retry,
                "receive a frame: the peer ended in the middle of it",
            ));
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_header() {
        let frame = Frame {
            kind: 3,
            number: 7,
            after: 5,
            codec: Codec::Zstd,
            raw_len: 1000,
            payload: AlignedBuffer::from(&[0xaa; 2][..]),
        };
        let hex: String = frame.header().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "4732463103010000e80300000200000007000000000000000500000000000000"
        );
        let (parsed, wire_len) = Frame::parse(&frame.header()).unwrap();
        assert_eq!(
            (parsed.number, parsed.after, parsed.raw_len, wire_len),
            (7, 5, 1000, 2)
        );
    }

    proptest! {
        #[test]
        fn hostile_headers_never_ask_for_more_than_the_limit(bytes: [u8; HEADER_LEN], fix_magic: bool) {
            let mut bytes = bytes;
            if fix_magic {
                bytes[0..4].copy_from_slice(b"G2F1");
                bytes[5] &= 1;
                bytes[6..8].fill(0);
            }
            if let Ok((frame, wire_len)) = Frame::parse(&bytes) {
                prop_assert!(wire_len <= frame.raw_len as usize);
                prop_assert!(frame.raw_len as usize <= limits::FRAME_RAW_LEN_MAX);
            }
        }
    }
}
