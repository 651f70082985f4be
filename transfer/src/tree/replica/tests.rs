//! Tests of the replica as a whole: against a model, across crashes, against damage.

mod crash;
mod damage;
mod exchange;
mod golden;
mod large;
mod model;

use super::super::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use super::*;

pub(super) fn path(text: &str) -> EntryPath {
    EntryPath::parse(text).unwrap()
}

pub(super) fn digest(seed: u64) -> Digest {
    Digest::of(&seed.to_le_bytes())
}

pub(super) fn entry(at: &str, ino: u64, node: Node) -> Entry {
    Entry {
        path: path(at),
        stamp: Stamp {
            ino,
            clean: true,
            ..Stamp::default()
        },
        meta: Meta::default(),
        node,
    }
}

pub(super) fn file(at: &str, ino: u64, len: u64, chunk_log2: u8) -> Entry {
    let content = Content {
        len,
        digest: digest(len ^ ino),
        chunk_log2,
    };
    entry(at, ino, Node::File(content))
}

/// What a replica tells of itself, entry by entry.
pub(super) type Contents = Vec<(Entry, Option<ChunkDigests>)>;

pub(super) fn contents(replica: &Replica) -> Contents {
    replica.snapshot().iter_chunked().collect::<Result<_>>().unwrap()
}

/// A folder for one test, in memory where there is room for that: these tests make files durable thousands of times.
pub(super) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("replica-test-")
        .tempdir_in(parent)
        .unwrap()
}

/// Snapshots are shared among threads, replicas and cursors move between them.
const _: () = {
    const fn shared<T: Send + Sync + Clone>() {}
    const fn moved<T: Send>() {}
    shared::<Snapshot>();
    moved::<Replica>();
    moved::<Cursor>();
    moved::<Export>();
};
