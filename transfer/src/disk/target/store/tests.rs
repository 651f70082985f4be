use std::path::Path;

use super::open::regions_of;
use super::*;
use crate::disk::message::{Batch, DiskFacts, DiskReport, Piece};
use crate::disk::target::{DiskTarget, journal};

const LEN: u64 = 4 * CHUNK_LEN;

/// A store over a new image.
fn store(folder: &Path) -> DiskStore {
    store_of(folder, LEN)
}

fn store_of(folder: &Path, len: u64) -> DiskStore {
    open(folder, len).unwrap()
}

fn open(folder: &Path, len: u64) -> Result<DiskStore> {
    let target = DiskTarget {
        path: folder.join("disk.img"),
        overwrite: false,
    };
    let source = DiskFacts {
        len,
        needed_len: len,
        sector_len: 512,
        identity: [0; 16],
        areas: vec![0],
    };
    DiskStore::open(&[target], &[source], &folder.join("journal"))
}

/// A chunk whose only block that is not zero is `block`.
fn content(block: usize) -> Vec<u8> {
    let mut content = vec![0; CHUNK_LEN as usize];
    content[block * 4096..(block + 1) * 4096].fill(7);
    content
}

/// The regions that are open in the journal on disk.
fn open_in_journal(folder: &Path) -> Vec<u64> {
    let record = journal::read(&folder.join("journal")).unwrap();
    regions_of(&record, 0).into_iter().collect()
}

/// Sends chunk 1 with such a content. Returns whether it was refused.
fn send(store: &DiskStore, number: u64, expected: Digest, block: usize) -> bool {
    send_chunk(store, number, 1, expected, block)
}

fn send_chunk(store: &DiskStore, number: u64, chunk: u64, expected: Digest, block: usize) -> bool {
    let piece = Piece {
        chunk,
        expected,
        digest: Digest::of(&content(block)),
        blocks: 1 << block,
    };
    let batch = Batch {
        disk: 0,
        pieces: vec![piece],
    };
    let payload = crate::payload::describe([7; 4096][..].into(), &batch).unwrap();
    let lens = store.disk_lens();
    let (batch, _) = VerifiedBatch::open(payload, &lens, AlignedBuffer::new()).unwrap();
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
fn the_next_regions_are_opened_before_they_are_written_to() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store_of(folder.path(), 64 * REGION_CHUNKS * CHUNK_LEN);
    let open = || open_in_journal(folder.path());
    let write = |number: u64, region: u64| {
        assert!(!send_chunk(
            &store,
            number,
            region * REGION_CHUNKS,
            Digest::UNKNOWN,
            0
        ));
        assert!(open().contains(&region), "open before it is written to");
    };
    write(0, 0);
    assert_eq!(open(), (0..=8).collect::<Vec<_>>());
    write(1, 3);
    store.checkpoint().unwrap();
    assert_eq!(open(), [0; 0], "nothing is being written");
    // A write during a checkpoint leaves its region open, and what will be written next.
    write(2, 5);
    store.close_regions(2).unwrap();
    assert_eq!(open(), [5, 6, 7]);
    write(3, 7);
    assert_eq!(open(), [5, 6, 7]);
    write(4, 40);
    store.checkpoint().unwrap();
    let sealed = store.seal().unwrap();
    assert_eq!(open(), [0; 0]);
    assert_eq!(store.position(), sealed);
    // The first write after a seal is known to nobody yet: the position moves on, whatever was open before.
    write(5, 5);
    assert_ne!(store.position(), sealed);
    store.close().unwrap();
    assert_eq!(open(), [0; 0]);
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

/// Whoever is killed before the first checkpoint goes on, and nobody else's disk is taken for what it had begun.
#[test]
fn a_copy_is_known_from_its_first_frame_on() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = folder.path().join("disk.img");
    let begun = store(folder.path());
    assert!(!send_chunk(&begun, 0, 0, Digest::UNKNOWN, 3));
    drop(begun); // killed
    let again = store(folder.path());
    assert_eq!(
        again.disks[0].digests.get(0, 1).unwrap(),
        [Digest::of(&content(3))]
    );
    drop(again);
    let mut foreign = vec![0; LEN as usize];
    foreign[..4096].fill(9);
    std::fs::write(&image, &foreign).unwrap();
    let refused = open(folder.path(), LEN).map(drop).unwrap_err().describe();
    assert!(refused.contains("not the copy that was begun here"), "{refused}");
    assert!(std::fs::read(&image).unwrap() == foreign);
}

/// Zeros are in every disk: they prove nothing, and a disk that comes into the place of a blank one is not blank.
#[test]
fn zeros_and_a_few_like_chunks_make_no_disk_ours() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = folder.path().join("disk.img");
    let len = 64 * CHUNK_LEN;
    let copied = store_of(folder.path(), len);
    for chunk in 0..12 {
        assert!(!send_chunk(
            &copied,
            chunk,
            chunk,
            Digest::UNKNOWN,
            chunk as usize
        ));
    }
    copied.checkpoint().unwrap();
    let zeros = vec![Digest::of_zeros(); 52];
    copied.disks[0].digests.set(12, &zeros).unwrap();
    copied.close().unwrap();
    drop(copied);
    let ours = std::fs::read(&image).unwrap();
    let replace = |like: u64| {
        let mut other = ours.clone();
        other[..((12 - like) * CHUNK_LEN) as usize].fill(5);
        std::fs::remove_file(&image).unwrap();
        std::fs::write(&image, other).unwrap();
    };
    for like in [0, 5] {
        replace(like);
        assert!(open(folder.path(), len).is_err(), "{like} of 12 chunks are ours");
    }
    replace(9);
    let damaged = open(folder.path(), len).unwrap();
    assert_eq!(
        damaged.changed, 3,
        "ours, and nothing is believed that is not there"
    );
    assert!(!damaged.disks[0].blank.load(Ordering::Acquire));
}

/// The last chunk of a disk may be shorter, and zeros of that length are zeros.
#[test]
fn zeros_at_an_odd_end_make_no_disk_ours() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = folder.path().join("disk.img");
    let len = LEN + 4096;
    let copied = store_of(folder.path(), len);
    let mut zeros = vec![Digest::of_zeros(); 4];
    zeros.push(Digest::of(&[0; 4096]));
    copied.disks[0].digests.set(0, &zeros).unwrap();
    copied.close().unwrap();
    drop(copied);
    let mut foreign = vec![0; len as usize];
    foreign[..4096].fill(9);
    std::fs::write(&image, &foreign).unwrap();
    let refused = open(folder.path(), len).map(drop).unwrap_err().describe();
    assert!(refused.contains("not the copy that was begun here"), "{refused}");
}

/// A target that holds something else everywhere would take a journal write and a synchronisation for every chunk.
#[test]
fn what_differs_is_forgotten_by_ranges_and_journalled_once() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store_of(folder.path(), 64 * CHUNK_LEN);
    for chunk in 0..12 {
        assert!(!send_chunk(&store, chunk, chunk, Digest::UNKNOWN, chunk as usize));
    }
    store.checkpoint().unwrap();
    let sealed = store.seal().unwrap();
    let image = std::fs::File::options()
        .write(true)
        .open(folder.path().join("disk.img"))
        .unwrap();
    for chunk in [0, 1, 2, 3, 5, 8, 9] {
        std::os::unix::fs::FileExt::write_all_at(&image, b"!", chunk * CHUNK_LEN + 100).unwrap();
    }
    let (mut ranges, mut positions) = (Vec::new(), Vec::new());
    crate::disk::target::verify::verify(&store, |report| {
        if let DiskReport::Differs { first, count, .. } = report {
            ranges.push((*first, *count));
            positions.push(store.position());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(ranges, [(0, 4), (5, 1), (8, 2)]);
    assert!(positions[0] != sealed && positions.iter().all(|position| *position == positions[0]));
    let digests = store.disks[0].digests.get(0, 12).unwrap();
    let known = (0..12).filter(|chunk| digests[*chunk].is_known());
    assert_eq!(known.collect::<Vec<_>>(), [4, 6, 7, 10, 11]);
    // And the write that repairs is journalled as any other.
    assert!(!send_chunk(&store, 12, 0, Digest::UNKNOWN, 0));
    assert_eq!(open_in_journal(folder.path()), [0]);
}
