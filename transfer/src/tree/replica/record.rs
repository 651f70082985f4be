//! Records: what is appended to the log, and the payloads of the items that sealing makes of them.
//!
//! The order of the enum's variants and fields is the format: append only.

use serde::{Deserialize, Serialize};

use super::super::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use super::limits::{CHUNK_NUMBER_MAX, GROUP_LEN, INTENT_RANGES_MAX};
use super::varint;
use crate::limits;

/// One fact about what the target durably holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The entry is durable at the target. What was known before of its path is replaced; what is below it stays.
    Entry(Entry),
    /// Digests of consecutive chunks of a file that travels in chunks. A record whose `ino` or `chunk_log2` differs from
    /// what is known of the path replaces all of it.
    Chunks {
        /// The file.
        path: EntryPath,
        /// Its inode number at the source.
        ino: u64,
        /// log2 of the chunk length in bytes.
        chunk_log2: u8,
        /// Number of the first chunk that `digests` speaks of.
        first: u64,
        /// One digest per chunk, 1 to [`GROUP_LEN`]; an unknown digest makes the chunk unknown.
        digests: Vec<Digest>,
    },
    /// The path and everything that was below it before this generation are gone.
    Remove {
        /// The path.
        path: EntryPath,
    },
    /// The path and everything below it have moved; what was at `to` is gone. The renames of a generation count, in their
    /// order, as before its records of other kinds, wherever they were appended: those speak of new paths.
    Rename {
        /// Old path.
        from: EntryPath,
        /// New path, not at or below the old one.
        to: EntryPath,
    },
    /// The content is about to be written in place and may be torn until a later record says otherwise: an `Entry` for
    /// the whole file, `Chunks` for the named chunks. Of a directory: its times move until an `Entry` says otherwise.
    Intent {
        /// The file.
        path: EntryPath,
        /// Chunk ranges as (first, count); empty for the whole file.
        chunks: Vec<(u64, u64)>,
    },
}

impl Record {
    /// What makes this record unfit to be kept, if anything.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        match self {
            Self::Entry(entry) if entry_is_too_long(entry) => Some("the entry is too long"),
            Self::Entry(Entry {
                node: Node::File(content),
                ..
            }) if content.chunk_log2 > 62 => Some("the chunk length is out of range"),
            Self::Chunks { path, .. } if path.is_root() => Some("the root has no content"),
            Self::Intent { path, chunks } if path.is_root() && !chunks.is_empty() => {
                Some("the root has no content")
            }
            Self::Entry(entry) if entry.path.is_root() && chunked(entry).is_some() => {
                Some("the root has no content")
            }
            Self::Chunks { chunk_log2, .. } if !(1..=62).contains(chunk_log2) => {
                Some("the chunk length is out of range")
            }
            Self::Chunks { digests, .. } if digests.is_empty() || digests.len() > GROUP_LEN => {
                Some("a record holds 1 to 1024 digests")
            }
            Self::Chunks { first, .. } if *first >= CHUNK_NUMBER_MAX => Some("the chunk number is too high"),
            Self::Rename { from, to } if from.is_root() || to.is_root() => Some("the root cannot be renamed"),
            Self::Rename { from, to } if from == to || to.is_below(from) => {
                Some("nothing can be renamed into itself")
            }
            Self::Intent { chunks, .. } if chunks.len() > INTENT_RANGES_MAX => Some("too many ranges"),
            Self::Intent { chunks, .. } if chunks.iter().any(|range| range_end(*range).is_none()) => {
                Some("the chunk number is too high")
            }
            _ => None,
        }
    }
}

fn entry_is_too_long(entry: &Entry) -> bool {
    let xattrs: usize = entry
        .meta
        .xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len() + 16)
        .sum();
    let target = match &entry.node {
        Node::Symlink { target } => target.len(),
        _ => 0,
    };
    xattrs + target + entry.path.as_bytes().len() + 256 > limits::ENTRY_LEN_MAX
}

/// End of a range of chunks; `None` when it is out of range.
pub(super) fn range_end((first, count): (u64, u64)) -> Option<u64> {
    first.checked_add(count).filter(|end| *end <= CHUNK_NUMBER_MAX)
}

/// Which content a set of chunk digests speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub ino: u64,
    pub chunk_log2: u8,
}

/// The identity and the number of chunks of an entry that travels in chunks.
pub(super) fn chunked(entry: &Entry) -> Option<(Identity, u64)> {
    match &entry.node {
        Node::File(content) if content.chunk_log2 != 0 => {
            let identity = Identity {
                ino: entry.stamp.ino,
                chunk_log2: content.chunk_log2,
            };
            Some((identity, chunk_count(content.len, content.chunk_log2)))
        }
        _ => None,
    }
}

fn chunk_count(len: u64, chunk_log2: u8) -> u64 {
    len.div_ceil(1 << chunk_log2)
}

/// Serialises an entry without its path, after what merging needs of it: length, and the identity of a chunked file.
pub(super) fn encode_entry(entry: &Entry, payload: Vec<u8>) -> Vec<u8> {
    let mut payload = payload;
    let (len, chunk_log2) = match &entry.node {
        Node::File(content) => (content.len, content.chunk_log2),
        _ => (0, 0),
    };
    varint::put(&mut payload, len);
    payload.push(chunk_log2);
    varint::put(&mut payload, entry.stamp.ino);
    postcard::to_extend(&(&entry.stamp, &entry.meta, &entry.node), payload)
        .expect("entries have no part that cannot be serialised")
}

/// The head of an entry's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Content length in bytes, 0 for what is not a regular file.
    pub len: u64,
    /// Identity and number of chunks of a file that travels in chunks.
    pub chunked: Option<(Identity, u64)>,
}

/// Reads the head of an entry's payload; `None` when it is malformed.
pub(super) fn head(payload: &mut &[u8]) -> Option<Head> {
    let len = varint::take(payload)?;
    let (&chunk_log2, rest) = payload.split_first()?;
    *payload = rest;
    let ino = varint::take(payload)?;
    if chunk_log2 > 62 {
        return None;
    }
    let chunked = (chunk_log2 != 0).then(|| (Identity { ino, chunk_log2 }, chunk_count(len, chunk_log2)));
    Some(Head { len, chunked })
}

/// Reads an entry back; `None` when it is malformed.
pub(super) fn decode_entry(path: EntryPath, mut payload: &[u8]) -> Option<Entry> {
    let head = head(&mut payload)?;
    let ((stamp, meta, node), rest): ((Stamp, Meta, Node), _) = postcard::take_from_bytes(payload).ok()?;
    let entry = Entry {
        path,
        stamp,
        meta,
        node,
    };
    let len = match &entry.node {
        Node::File(Content { len, .. }) => *len,
        _ => 0,
    };
    (rest.is_empty() && head.len == len && head.chunked == chunked(&entry)).then_some(entry)
}

/// Known and unknown digests of one group; `None` where this layer says nothing.
pub(super) type Slots = [Option<Digest>];

/// Serialises a group: identity, then segments of consecutive chunks that are known or unknown.
pub(super) fn encode_group(identity: Identity, slots: &Slots, payload: &mut Vec<u8>) {
    varint::put(payload, identity.ino);
    payload.push(identity.chunk_log2);
    let kind = |slot: &Option<Digest>| slot.map(|digest| digest.is_unknown());
    let mut at = 0;
    while at < slots.len() {
        let this = kind(&slots[at]);
        let len = slots[at..].iter().take_while(|slot| kind(slot) == this).count();
        if let Some(unknown) = this {
            varint::put(payload, at as u64);
            varint::put(payload, len as u64);
            payload.push(u8::from(!unknown));
            if !unknown {
                slots[at..at + len]
                    .iter()
                    .flatten()
                    .for_each(|digest| payload.extend_from_slice(&digest.0));
            }
        }
        at += len;
    }
}

/// The identity of a serialised group; `None` when it is malformed.
pub(super) fn group_identity(payload: &mut &[u8]) -> Option<Identity> {
    let ino = varint::take(payload)?;
    let (&chunk_log2, rest) = payload.split_first()?;
    *payload = rest;
    (1..=62)
        .contains(&chunk_log2)
        .then_some(Identity { ino, chunk_log2 })
}

/// Lays the digests of a serialised group over `slots`; `None` when it is malformed.
pub(super) fn apply_group(mut payload: &[u8], slots: &mut Slots) -> Option<Identity> {
    let identity = group_identity(&mut payload)?;
    let mut floor = 0;
    while !payload.is_empty() {
        let start = usize::try_from(varint::take(&mut payload)?).ok()?;
        let len = usize::try_from(varint::take(&mut payload)?).ok()?;
        let end = start.checked_add(len).filter(|end| *end <= slots.len())?;
        let (&known, rest) = payload.split_first()?;
        payload = rest;
        if start < floor || len == 0 || known > 1 {
            return None;
        }
        for slot in &mut slots[start..end] {
            *slot = Some(if known == 1 {
                let (digest, rest) = payload.split_first_chunk::<32>()?;
                payload = rest;
                Digest(*digest)
            } else {
                Digest::default()
            });
        }
        floor = end;
    }
    Some(identity)
}
