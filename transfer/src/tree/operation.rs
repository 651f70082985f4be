//! What the source asks the target to do to the tree, many at a time in one frame.
//!
//! A frame's payload ([`crate::payload`]) is the data that the operations refer to, one operation's after the other's, and
//! the operations. Zero runs and holes carry no data.

use serde::{Deserialize, Serialize};
use sys::aligned::AlignedBuffer;

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::payload;
use crate::tree::entry::{Digest, Entry, EntryPath, Node};
use crate::tree::replica::Record;

/// A run of data inside a file or chunk; what lies between extents is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset from the start of the file (whole files) or chunk, in bytes.
    pub offset: u32,
    /// Length in bytes; so many bytes follow in the frame's data.
    pub len: u32,
}

/// What becomes of an entry that is already at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// There should be none; whatever is there goes.
    Replace,
    /// It is the same inode at the source: other names of it must see the new content, too.
    Rewrite,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A directory must be there; its metadata come later with [`Operation::FinishDirectory`].
    Directory {
        /// Where.
        path: EntryPath,
    },
    /// A directory is complete: apply its metadata.
    FinishDirectory(Entry),
    /// A whole file.
    File {
        /// With its final metadata; the digest is that of all `len` bytes.
        entry: Entry,
        /// Its data; holes between.
        extents: Vec<Extent>,
        /// What becomes of the old one.
        existing: Existing,
        /// Whether the replica has an entry for this path, whose content is torn while this one is written.
        known: bool,
    },
    /// A symbolic link, device, pipe or socket.
    Special(Entry),
    /// Only the metadata changed; the content is what the replica says.
    Metadata(Entry),
    /// Another name for the inode of `leader`.
    Link {
        /// A name that is already there.
        leader: EntryPath,
        /// The new name.
        entry: Entry,
    },
    /// This entry and everything below it is gone.
    Remove {
        /// Where.
        path: EntryPath,
    },
    /// This entry and everything below it has moved.
    Rename {
        /// Old path.
        from: EntryPath,
        /// New path.
        to: EntryPath,
    },
    /// A long file begins: make it, give it its length.
    LongBegin {
        /// Number of the file within the session, for the operations that follow.
        file: u64,
        /// Its path and content as known now; metadata and stamp come with the end.
        entry: Entry,
        /// What becomes of the old one.
        existing: Existing,
        /// `None` when every chunk will follow; else only those will that differ from what the target holds now: the
        /// content with this digest, or, if that is unknown, the chunks that the replica knows.
        base: Option<Digest>,
        /// Chunks, first and count, that a change of length tears: both sides count them as unknown until they are sent.
        torn: Option<(u64, u64)>,
    },
    /// Neighbouring chunks of a long file.
    LongChunks {
        /// Number of the file.
        file: u64,
        /// Index of the first chunk.
        first: u64,
        /// The chunks.
        chunks: Vec<Chunk>,
    },
    /// A long file is complete.
    LongEnd {
        /// Number of the file.
        file: u64,
        /// Final metadata, stamp and digest.
        entry: Entry,
    },
    /// Equal ranges of two files shall share blocks where the file system can; no content changes.
    Share {
        /// The file that has the blocks.
        from: EntryPath,
        /// The file that gives its own up.
        to: EntryPath,
        /// Which ranges.
        ranges: Vec<SharedRange>,
    },
    /// Contents at these paths are about to change: they are other names of a file that follows and is rewritten.
    Unknown {
        /// Where.
        paths: Vec<EntryPath>,
    },
}

/// A range that two files share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRange {
    /// Offset in the one file, in bytes.
    pub from_offset: u64,
    /// Offset in the other, in bytes.
    pub to_offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One chunk of a long file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Length: the chunk length, less in the last one.
    pub len: u32,
    /// BLAKE3 of all `len` bytes.
    pub digest: Digest,
    /// Its data; what lies between is zero.
    pub extents: Vec<Extent>,
}

impl Operation {
    /// Names the directories whose time the operation moves at the target: until they are finished, their metadata are not
    /// what the journal says. `last` is the directory that the frame named last.
    pub fn note_touched(&self, last: &mut Option<EntryPath>, records: &mut Vec<Record>) {
        let (one, other) = match self {
            Self::File { entry, .. }
            | Self::Special(entry)
            | Self::Link { entry, .. }
            | Self::LongBegin { entry, .. } => (Some(&entry.path), None),
            Self::Directory { path } | Self::Remove { path } => (Some(path), None),
            Self::Rename { from, to } => (Some(from), Some(to)),
            _ => (None, None),
        };
        for directory in [one, other].into_iter().flatten().filter_map(EntryPath::parent) {
            if last.as_ref() != Some(&directory) {
                records.push(Record::Intent {
                    path: directory.clone(),
                    chunks: Vec::new(),
                });
                *last = Some(directory);
            }
        }
    }

    /// Old and new path of a rename.
    pub fn as_rename(&self) -> Option<(EntryPath, EntryPath)> {
        match self {
            Self::Rename { from, to } => Some((from.clone(), to.clone())),
            _ => None,
        }
    }

    /// Bytes of the frame's data that belong to this operation.
    ///
    /// # Errors
    /// Extents overlap, run backwards or leave their file or chunk.
    fn data_len(&self) -> Result<usize> {
        match self {
            Self::File {
                entry:
                    Entry {
                        node: Node::File(content),
                        ..
                    },
                extents,
                ..
            } => extents_len(extents, content.len),
            Self::File { .. } => Err(broken("a file that is none")),
            Self::LongChunks { chunks, .. } => chunks.iter().try_fold(0, |sum, chunk| {
                Ok(sum + extents_len(&chunk.extents, u64::from(chunk.len))?)
            }),
            _ => Ok(0),
        }
    }
}

fn extents_len(extents: &[Extent], len: u64) -> Result<usize> {
    let (mut sum, mut end) = (0, 0);
    for extent in extents {
        let begin = u64::from(extent.offset);
        if begin < end || extent.len == 0 {
            return Err(broken("extents that overlap"));
        }
        end = begin + u64::from(extent.len);
        sum += extent.len as usize;
    }
    if end > len {
        Err(broken("an extent behind its end"))
    } else {
        Ok(sum)
    }
}

fn broken(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("apply a frame with {what}"))
        .remedy("use the same release of go2cloud on both sides")
}

/// Gathers operations and their data into the payload of one frame.
#[derive(Debug, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    data: AlignedBuffer,
    operations_len: usize,
}

impl Batch {
    /// Adds an operation whose data have been appended to [`Batch::data`] before.
    pub fn push(&mut self, operation: Operation) {
        self.operations_len += operation_len(&operation);
        self.operations.push(operation);
    }

    /// Where an operation's data go.
    pub fn data(&mut self) -> &mut AlignedBuffer {
        &mut self.data
    }

    /// The operations so far.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Whether it is time to send it.
    pub fn is_full(&self) -> bool {
        self.data.len() + self.operations_len >= limits::FRAME_RAW_LEN_TARGET
    }

    /// The payload; the batch is empty afterwards. [`Batch::reuse`] gives it memory for the next one.
    ///
    /// # Errors
    /// More than fits into a frame.
    pub fn take_payload(&mut self) -> Result<AlignedBuffer> {
        let payload = payload::describe(std::mem::take(&mut self.data), &self.operations)?;
        self.operations.clear();
        self.operations_len = 0;
        if payload.len() > limits::FRAME_RAW_LEN_MAX {
            return Err(Error::new(Kind::Corrupt, "fit an entry into a frame"));
        }
        Ok(payload)
    }

    /// Gives back the memory of a payload that has been sent.
    pub fn reuse(&mut self, mut payload: AlignedBuffer) {
        if self.data.capacity() == 0 {
            payload.clear();
            self.data = payload;
        }
    }
}

/// A cheap upper estimate of the encoded length.
fn operation_len(operation: &Operation) -> usize {
    const FIXED: usize = 160;
    let entry_len = |entry: &Entry| {
        let attributes: usize = entry
            .meta
            .xattrs
            .iter()
            .map(|x| x.name.len() + x.value.len() + 8)
            .sum();
        let target = if let Node::Symlink { target } = &entry.node {
            target.len()
        } else {
            0
        };
        entry.path.as_bytes().len() + attributes + target
    };
    FIXED
        + match operation {
            Operation::Directory { path } | Operation::Remove { path } => path.as_bytes().len(),
            Operation::FinishDirectory(entry) | Operation::Special(entry) | Operation::Metadata(entry) => {
                entry_len(entry)
            }
            Operation::File { entry, extents, .. } => entry_len(entry) + extents.len() * 10,
            Operation::Link { leader, entry } => leader.as_bytes().len() + entry_len(entry),
            Operation::Rename { from, to } => from.as_bytes().len() + to.as_bytes().len(),
            Operation::LongBegin { entry, .. } | Operation::LongEnd { entry, .. } => entry_len(entry),
            Operation::Share { from, to, ranges } => {
                from.as_bytes().len() + to.as_bytes().len() + ranges.len() * 20
            }
            Operation::Unknown { paths } => paths.iter().map(|path| path.as_bytes().len() + 4).sum(),
            Operation::LongChunks { chunks, .. } => {
                chunks.iter().map(|chunk| 48 + chunk.extents.len() * 10).sum()
            }
        }
}

/// An operation together with its data, checked: the extents fit the data and their file.
#[derive(Debug)]
pub struct Loaded<'a> {
    /// What to do.
    pub operation: Operation,
    /// The data of its extents, one after the other.
    pub data: &'a [u8],
}

/// Takes a payload apart.
///
/// # Errors
/// [`Kind::Corrupt`] for anything that is not exactly a payload.
pub fn load(payload: &[u8]) -> Result<Vec<Loaded<'_>>> {
    let (operations, mut data): (Vec<Operation>, _) = payload::open(payload)?;
    let mut loaded = Vec::with_capacity(operations.len());
    for operation in operations {
        let len = operation.data_len()?;
        if len > data.len() {
            return Err(broken("too few data"));
        }
        let (own, others) = data.split_at(len);
        loaded.push(Loaded { operation, data: own });
        data = others;
    }
    if data.is_empty() {
        Ok(loaded)
    } else {
        Err(broken("data left over"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{Content, Meta, Stamp};
    use proptest::prelude::*;

    fn file(len: u64, extents: Vec<Extent>) -> Operation {
        let entry = Entry {
            path: EntryPath::parse(*b"f").unwrap(),
            stamp: Stamp::default(),
            meta: Meta::default(),
            node: Node::File(Content {
                len,
                digest: Digest::default(),
                chunk_log2: 0,
            }),
        };
        Operation::File {
            entry,
            extents,
            existing: Existing::Replace,
            known: false,
        }
    }

    #[test]
    fn a_batch_round_trips_with_its_data() {
        let mut batch = Batch::default();
        batch.data().extend_from_slice(b"hello");
        batch.push(file(
            100,
            vec![Extent { offset: 1, len: 2 }, Extent { offset: 50, len: 3 }],
        ));
        batch.push(Operation::Remove {
            path: EntryPath::parse(*b"gone").unwrap(),
        });
        let payload = batch.take_payload().unwrap();
        assert!(batch.is_empty());
        let loaded = load(&payload).unwrap();
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded[0].data, b"hello");
        assert!(load(&payload[..payload.len() - 1]).is_err());
        assert!(load(&[&payload[..], b"x"].concat()).is_err());
    }

    #[test]
    fn extents_outside_their_file_are_refused() {
        for (len, extents) in [
            (4, vec![Extent { offset: 0, len: 5 }]),
            (
                9,
                vec![Extent { offset: 0, len: 5 }, Extent { offset: 4, len: 1 }],
            ),
            (9, vec![Extent { offset: 0, len: 0 }]),
        ] {
            assert!(file(len, extents).data_len().is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes: Vec<u8>, len in 0u32..64) {
            let mut payload = bytes;
            payload.extend_from_slice(&len.to_le_bytes());
            drop(load(&payload));
        }
    }
}
