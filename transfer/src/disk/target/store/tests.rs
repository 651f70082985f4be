use super::*;
use crate::disk::message::{Batch, Piece, encode_batch};

const LEN: u64 = 4 * CHUNK_LEN;

/// A store over a new image.
fn store(folder: &Path) -> DiskStore {
    let target = DiskTarget {
        path: folder.join("disk.img"),
        overwrite: false,
    };
    let source = DiskFacts {
        len: LEN,
        needed_len: LEN,
        sector_len: 512,
        identity: [0; 16],
    };
    DiskStore::open(&[target], &[source], &folder.join("journal")).unwrap()
}

/// A chunk whose only block that is not zero is `block`.
fn content(block: usize) -> Vec<u8> {
    let mut content = vec![0; CHUNK_LEN as usize];
    content[block * 4096..(block + 1) * 4096].fill(7);
    content
}

/// Sends chunk 1 with such a content. Returns whether it was refused.
fn send(store: &DiskStore, number: u64, expected: Digest, block: usize) -> bool {
    let piece = Piece {
        chunk: 1,
        expected,
        digest: Digest::of(&content(block)),
        blocks: 1 << block,
    };
    let batch = Batch {
        disk: 0,
        pieces: vec![piece],
    };
    let payload = encode_batch(&batch, &[7; 4096]).unwrap();
    let batch = VerifiedBatch::open(&payload, &[LEN], VerifiedBatch::buffer()).unwrap();
    !store.apply(number, &batch).unwrap().refused.is_empty()
}

#[test]
fn a_chunk_that_comes_twice_between_checkpoints_is_what_came_last() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = folder.path().join("disk.img");
    let on_medium = || std::fs::read(&image).unwrap()[CHUNK_LEN as usize..2 * CHUNK_LEN as usize].to_vec();
    let store = store(folder.path());
    assert!(!send(&store, 0, Digest::UNKNOWN, 3));
    // What was there is in no file yet, and the other block has to become zero again.
    assert!(!send(&store, 1, Digest::of(&content(3)), 5));
    assert!(on_medium() == content(5));
    assert!(send(&store, 2, Digest::of(&content(3)), 6), "that is long gone");
    assert!(on_medium() == content(5), "a refused chunk is not written");
    assert_eq!(store.checkpoint().unwrap(), 3);
    assert!(send(&store, 3, Digest::of(&content(3)), 6));
    assert!(!send(&store, 4, Digest::of(&content(5)), 6));
    assert!(on_medium() == content(6));
}

#[test]
fn a_frame_that_comes_again_is_no_surprise() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store(folder.path());
    assert!(!send(&store, 0, Digest::UNKNOWN, 2));
    assert!(
        !send(&store, 1, Digest::of(b"something else"), 2),
        "it holds that already"
    );
}
