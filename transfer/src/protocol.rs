//! Messages: what the peers say in frames. docs/PROTOCOL.md tells the conversation.
//!
//! Messages are postcard; variants are only ever appended. Everything that comes out of [`decode`] is untrusted in its
//! meaning, but its form has been checked: paths are plain and relative, lengths fit the frame.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::link::Frame;
use crate::machine::{Answer, Request};
use crate::progress::Sealed;
use crate::signature::hex;
use crate::tree::entry::EntryPath;
use crate::tree::replica::Version;

/// Frame kind of an [`Order`] on the control connection.
pub const KIND_ORDER: u8 = 1;
/// Frame kind of a [`Report`] on the report connection.
pub const KIND_REPORT: u8 = 2;
/// Frame kind of tree operations on a data connection.
pub const KIND_TREE: u8 = 3;
/// Frame kind of a piece of the target's replica on the report connection.
pub const KIND_REPLICA: u8 = 4;
/// Frame kind of disk chunks on a data connection.
pub const KIND_DISK: u8 = 5;

/// Which sealed contents a disk's journal has; the tree's replica has a [`Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Position {
    /// Number of sealed generations.
    pub generation: u64,
    /// Random mark of this generation, drawn by the target when it sealed it.
    pub mark: crate::link::auth::Id,
}

impl From<Position> for Sealed {
    fn from(position: Position) -> Self {
        Self {
            generation: position.generation,
            state: hex(&position.mark),
        }
    }
}

/// Source to target, on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Nothing; proves that the source is alive.
    KeepAlive,
    /// Send the replica: the source has lost its baseline, or has another one.
    Fetch {
        /// What the source has.
        have: Version,
    },
    /// All frames of the round have been sent; make them durable and seal the generation.
    EndRound {
        /// Frames sent in this session so far: numbers 0 to `frames - 1`.
        frames: u64,
    },
    /// Re-read the medium and compare it with the replica.
    Verify,
    /// The source has finished.
    Goodbye,
    /// In a session with the machine: do this, and answer.
    Ask {
        /// What.
        request: Request,
    },
    /// See to it that the replica lists what is in the tree; the first order of a session for a tree.
    Survey {
        /// Lines of an exclude file, as [`crate::tree::filter::Filter::parse`] reads them: what they exclude is not removed, and
        /// not looked at, now and in verifications.
        excludes: Vec<Vec<u8>>,
    },
}

/// Target to source, on the report connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Nothing; proves that the target is alive.
    KeepAlive,
    /// The session is open.
    Opened {
        /// What the target durably holds.
        version: Version,
    },
    /// The replica has been sent.
    ReplicaEnd {
        /// The version it has.
        version: Version,
    },
    /// Frames became durable.
    Durable {
        /// How many frames of this session are durable.
        frames: u64,
        /// Their content bytes.
        bytes: u64,
    },
    /// The target's file system could not take something; the rest of the entry is there.
    Skipped {
        /// The entry.
        path: EntryPath,
        /// Owner, attribute, device node …
        what: String,
        /// As the system said it.
        why: String,
    },
    /// The round is durable and sealed.
    RoundDone {
        /// The new version.
        version: Version,
    },
    /// Verification under way.
    VerifyProgress {
        /// Bytes re-read so far.
        bytes: u64,
        /// Bytes to re-read.
        bytes_total: u64,
    },
    /// An entry whose medium differs from the replica; both sides now count that part of it as unknown.
    Differs {
        /// The entry.
        path: EntryPath,
        /// Which part of it.
        part: Part,
        /// What differs.
        what: String,
    },
    /// Verification is through.
    Verified {
        /// Root digest of what was re-read.
        root: [u8; 32],
        /// Entries compared.
        compared: u64,
        /// Bytes re-read.
        bytes: u64,
        /// Entries that differ.
        differences: u64,
        /// The replica's version: differences make a new one.
        version: Version,
    },
    /// The target gives up on this session.
    Failed {
        /// Why.
        why: Failure,
        /// For people: what failed and what to do.
        message: String,
    },
    /// In a session with the machine: what it does just now.
    Doing {
        /// For people.
        text: String,
    },
    /// In a session with the machine: it has done what it was asked for, or not.
    Answered {
        /// How it went.
        answer: Answer,
    },
    /// How much of what should share blocks does since the last such report; before [`Report::RoundDone`].
    Shared {
        /// Bytes that share blocks with another file.
        together: u64,
        /// Bytes that could not.
        apart: u64,
    },
    /// The replica lists what is in the tree.
    Surveyed {
        /// What the target durably holds.
        version: Version,
    },
}

/// What of an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// What is in it, or that it is there at all: it is sent again.
    Content,
    /// Only its metadata: they are applied again.
    Metadata,
}

/// Why a target gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Another session is open, which may be an earlier one of this source.
    Busy,
    /// This target belongs to another migration, or to another kind of volume.
    OtherMigration,
    /// Its medium refuses: full, read-only, broken.
    Medium,
    /// The source broke the protocol.
    Protocol,
    /// The receiver was told to stop.
    Stopped,
    /// It does not hold what its journal said; the next session sends that.
    Outdated,
}

impl Failure {
    /// What a source makes of it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Busy | Self::Stopped | Self::Outdated => Kind::Retry,
            Self::OtherMigration => Kind::Refused,
            Self::Medium => Kind::Medium,
            Self::Protocol => Kind::Corrupt,
        }
    }
}

/// Encodes a message as a frame of `kind`.
///
/// # Errors
/// Never for messages within the limits.
pub fn encode<M: Serialize>(kind: u8, message: &M) -> Result<Frame> {
    let payload = postcard::to_stdvec(message)
        .map_err(|error| Error::new(Kind::Corrupt, "encode a message").because(error))?;
    Ok(Frame::message(kind, &payload))
}

/// Decodes the payload of a frame of the expected kind.
///
/// # Errors
/// [`Kind::Corrupt`]: another kind, trailing bytes, or anything malformed.
pub fn decode<M: DeserializeOwned>(kind: u8, frame: Frame) -> Result<M> {
    if frame.kind != kind {
        return Err(Error::new(
            Kind::Corrupt,
            format!("accept a frame of kind {} here", frame.kind),
        ));
    }
    parse(&frame.decode()?)
}

/// Reads a message that takes all of `bytes`.
///
/// # Errors
/// [`Kind::Corrupt`]: trailing bytes, or anything malformed.
pub(crate) fn parse<M: DeserializeOwned>(bytes: &[u8]) -> Result<M> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(Error::new(Kind::Corrupt, "decode a message: bytes are left over")),
        Err(error) => Err(Error::new(Kind::Corrupt, "decode a message").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_messages() {
        let bytes = |frame: Frame| {
            frame
                .payload
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            bytes(encode(KIND_ORDER, &Order::EndRound { frames: 300 }).unwrap()),
            "02ac02"
        );
        assert_eq!(bytes(encode(KIND_ORDER, &Order::Goodbye).unwrap()), "04");
        let request = Request::Restart;
        assert_eq!(
            bytes(encode(KIND_ORDER, &Order::Ask { request }).unwrap()),
            "0502"
        );
        let excludes = vec!["/a".into()];
        assert_eq!(
            bytes(encode(KIND_ORDER, &Order::Survey { excludes }).unwrap()),
            "0601022f61"
        );
        let answer = Answer::Done { text: "ok".into() };
        assert_eq!(
            bytes(encode(KIND_REPORT, &Report::Answered { answer }).unwrap()),
            "0b00026f6b"
        );
        let version = Version {
            generation: 2,
            digest: crate::tree::entry::Digest([0xab; 32]),
        };
        let done = encode(KIND_REPORT, &Report::RoundDone { version }).unwrap();
        assert_eq!(bytes(done), format!("0502{}", "ab".repeat(32)));
        let skipped = Report::Skipped {
            path: EntryPath::parse(*b"a/b").unwrap(),
            what: "owner".into(),
            why: "no".into(),
        };
        assert_eq!(
            bytes(encode(KIND_REPORT, &skipped).unwrap()),
            "0403612f62056f776e6572026e6f"
        );
        let differs = Report::Differs {
            path: EntryPath::parse(*b"a/b").unwrap(),
            part: Part::Metadata,
            what: "mode".into(),
        };
        assert_eq!(
            bytes(encode(KIND_REPORT, &differs).unwrap()),
            "0703612f6201046d6f6465"
        );
    }

    proptest! {
        #[test]
        fn hostile_messages_are_refused_or_understood_but_never_panic(bytes: Vec<u8>) {
            drop(decode::<Order>(KIND_ORDER, Frame::message(KIND_ORDER, &bytes)));
            drop(decode::<Report>(KIND_REPORT, Frame::message(KIND_REPORT, &bytes)));
        }
    }
}
